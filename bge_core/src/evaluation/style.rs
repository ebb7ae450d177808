//! The report's style sheet: system fonts, light and dark, from a phone to a wide screen, and for paper.

/// Blue and orange differ for every common kind of colour blindness; shape and words say the same as colour.
pub(super) const STYLE: &str = r#"
:root{color-scheme:light dark;--page:#f6f7f8;--card:#fff;--ink:#191d23;--muted:#57606c;--line:#dfe2e6;--grid:#e8eaed;
--before:#7d8896;--after:#0a5fbe;--right:#0a5fbe;--wrong:#b84a00;--good:#00694a;--bad:#ad1f17;--tint:#eef4fb}
@media (prefers-color-scheme:dark){:root{--page:#111418;--card:#1a1e24;--ink:#e9ebee;--muted:#a4adb9;--line:#30363f;
--grid:#282e36;--before:#8a95a5;--after:#62aef5;--right:#62aef5;--wrong:#f3985a;--good:#4fc993;--bad:#ff8b80;--tint:#1d2733}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:clamp(1rem,3vw,2.5rem) clamp(.75rem,3vw,2rem) 3rem}
h1,h2,h3{line-height:1.25;margin:0;font-weight:650;letter-spacing:-.01em}
h1{font-size:clamp(1.4rem,1.1rem + 1.4vw,2.1rem);overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.75rem 0 .25rem}
h3{font-size:1rem;margin-bottom:.6rem}
p{margin:.35rem 0}
.lead{color:var(--muted);max-width:46rem;margin-bottom:1rem}
.over{color:var(--muted);font-size:.85rem;margin:0 0 .35rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:clamp(.9rem,2vw,1.35rem);min-width:0}
.grid{display:grid;gap:1rem;grid-template-columns:minmax(0,1fr)}
.verdict{margin:1.35rem 0 1rem;border-left:6px solid var(--muted);display:grid;grid-template-columns:auto minmax(0,1fr);gap:0 1rem}
.verdict .sign{font-size:1.7rem;line-height:1.2;color:var(--muted)}
.verdict strong{font-size:1.2rem}
.verdict p{max-width:56rem}
.verdict ul{margin:.5rem 0 0;padding-left:1.1rem;max-width:56rem}
.verdict.better{border-left-color:var(--good)}.verdict.better .sign,.up-text{color:var(--good)}
.verdict.worse{border-left-color:var(--bad)}.verdict.worse .sign,.down-text{color:var(--bad)}
.tiles{display:grid;gap:1rem;grid-template-columns:repeat(2,minmax(0,1fr))}.tile:last-child{grid-column:1/-1}
.tile .name{color:var(--muted);font-size:.85rem}
.tile .number{font-size:1.65rem;font-weight:650;letter-spacing:-.02em;line-height:1.3}
.tile .detail{color:var(--muted);font-size:.85rem}
.key{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;color:var(--muted);font-size:.85rem;margin:0 0 .6rem;padding:0;list-style:none}
.key i{display:inline-block;width:.85rem;height:.85rem;border-radius:2px;margin-right:.4rem;vertical-align:-.1rem}
.key .k-before{background:var(--before)}.key .k-after{background:var(--after)}
.key .k-right{background:color-mix(in srgb,var(--right) 30%,transparent);border:2px solid var(--right)}
.key .k-wrong{border:2px dashed var(--wrong)}
.key .k-dot{border-radius:50%;background:var(--after)}.key .k-open{border-radius:50%;border:2px solid var(--muted)}
svg{display:block;width:100%;height:auto;max-width:640px;margin:0 auto;font-family:inherit;overflow:visible}
svg.wide{display:none}
svg text{fill:var(--ink);font-size:12px;font-variant-numeric:tabular-nums}
svg .tick{fill:var(--muted);font-size:11.5px}
svg .label{font-weight:600}
svg .haloed{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
svg .grid,svg .axis{stroke:var(--grid);stroke-width:1}svg .axis{stroke:var(--muted)}
svg .bar-before{fill:var(--before)}svg .bar-after{fill:var(--after)}
svg .whisker{stroke:var(--ink);stroke-width:1.5}svg .halo{stroke:var(--card);stroke-width:4.5}
svg .dot{stroke:var(--card);stroke-width:2}svg .up{fill:var(--after)}svg .down{fill:var(--wrong)}
svg .open{fill:var(--card);stroke:var(--muted);stroke-width:2}
svg path{fill:none}
svg .right-area{fill:var(--right);fill-opacity:.22}svg .right-line{stroke:var(--right);stroke-width:1.8}
svg .wrong-area{fill:var(--wrong);fill-opacity:.08}svg .wrong-line{stroke:var(--wrong);stroke-width:1.8;stroke-dasharray:5 3}
svg .right-mean{stroke:var(--right);stroke-width:1.2}svg .wrong-mean{stroke:var(--wrong);stroke-width:1.2;stroke-dasharray:5 3}
svg .right-text{fill:var(--right);font-weight:600}svg .wrong-text{fill:var(--wrong);font-weight:600}
svg .raw{stroke:var(--before);stroke-width:1;stroke-opacity:.6}svg .curve{stroke:var(--after);stroke-width:2.2;stroke-linejoin:round}
svg .curve-end{fill:var(--after);stroke:var(--card);stroke-width:1.5}svg .baseline{stroke:var(--muted);stroke-width:1.3;stroke-dasharray:5 4}
svg .rate{stroke:var(--muted);stroke-width:1.3}svg .rate-area{fill:var(--muted);fill-opacity:.14}
svg .value{font-weight:600}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
.caption{color:var(--muted);font-size:.85rem;margin:0 0 .4rem}
th,td{text-align:right;padding:.42rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{color:var(--muted);font-weight:500;font-size:.85rem}
tbody th{font-weight:600}
tbody tr:last-child>*{border-bottom:0}
tr.primary{background:var(--tint)}
table.pairs th,table.pairs td{text-align:left;white-space:normal;overflow-wrap:anywhere;vertical-align:top}
table.pairs th{width:36%;font-weight:500;color:var(--muted)}
.stats{width:100%;margin-top:.9rem}
details{margin-top:1rem}
summary{cursor:pointer;color:var(--after);font-weight:600;padding:.3rem 0}
:focus-visible{outline:3px solid var(--after);outline-offset:2px;border-radius:4px}
ol.queries{list-style:none;margin:0;padding:0}
ol.queries>li{padding:.85rem 0;border-top:1px solid var(--line)}
ol.queries>li:first-child{border-top:0;padding-top:.2rem}
.query{font-weight:600;overflow-wrap:anywhere;display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:4;overflow:hidden}
.score{color:var(--muted);font-size:.85rem;font-variant-numeric:tabular-nums}
.found{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.15rem .7rem;margin:.4rem 0 0;font-size:.9rem}
.found .rank{font-variant-numeric:tabular-nums;white-space:nowrap;font-weight:600}
.found .text{color:var(--muted);overflow-wrap:anywhere;display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2;overflow:hidden}
code{font:.85em/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,"Noto Sans Mono",monospace;overflow-wrap:anywhere}
footer{color:var(--muted);font-size:.88rem;max-width:52rem;margin-top:2.75rem}
@media (min-width:480px){svg.wide{display:block}svg.narrow{display:none}}
@media (min-width:960px){.tiles{grid-template-columns:none;grid-auto-flow:column;grid-auto-columns:minmax(0,1fr)}.tile:last-child{grid-column:auto}}
@media (max-width:479px){table{font-size:.84rem}th,td{padding:.4rem .4rem}}
@media (min-width:880px){.grid.start{align-items:start}.grid.two{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media print{body{background:#fff}.card{break-inside:avoid}details:not([open])>:not(summary){display:none}}
"#;
