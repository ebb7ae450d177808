// What a person reads of a report: verdict, numbers, charts, findings, repairs.

import { defaultLengths } from "./pkg/bge_wasm_tools.js";
import { columns, lanes, lengths } from "./charts.js";
import { count, el, percent, plural, size } from "./dom.js";
import { byLength, sides } from "./splits.js";

/** Findings that a repair takes away: it mends the row, drops it, or sets it aside. */
const MENDABLE = new Set(["broken_json", "not_object", "broken_array", "invalid_utf8", "byte_order_mark", "crlf", "line_too_long", "wrong_type",
  "key_repeated", "query_missing", "query_blank", "pos_missing", "pos_blank", "neg_blank", "neg_empty", "pos_is_neg", "pos_repeated",
  "neg_repeated", "query_is_neg", "scores_miscounted", "score_not_finite", "batch_size", "group_size"].map((code) => `data.${code}`));

const VERDICTS = {
  ready: ["good", "Ready to train", "Nothing to complain about."],
  warnings: ["warning", "Can be trained", "Nothing stops a run, but the warnings are worth a look."],
  errors: ["error", "Not yet", "Training would refuse to start. Below is what is wrong, with lines, and a repair."],
};

const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

function summary(report, errors, warnings) {
  const [kind, title, text] = VERDICTS[report.verdict];
  const outlook = report.training;
  return [
    el("div", { class: `note ${kind}` }, el("h3", {}, title), el("p", {}, text)),
    el("dl", { class: "card facts" },
      fact("Rows", count(report.rows)), fact("Files", count(report.files.length)), fact("Size", size(report.bytes)),
      fact("Errors", count(errors)), fact("Warnings", count(warnings)),
      fact("Different queries", count(report.distinct_queries)), fact("Different passages", count(report.distinct_passages)),
      fact("Steps of the run", count(outlook.total_steps))),
  ];
}

function charts(report, scripts) {
  const unit = report.queries.tokens ? "tokens" : "characters";
  const pick = (texts) => lengths(texts[unit]);
  const sum = (key) => {
    const bars = new Map();
    for (const file of report.files) for (const [label, many] of lengths(file[key])) bars.set(label, (bars.get(label) ?? 0) + many);
    return [...bars].sort((one, two) => parseInt(one[0].replace("≤", ""), 10) - parseInt(two[0].replace("≤", ""), 10));
  };
  const repeated = [
    ["queries seen before", Math.max(0, report.rows - report.distinct_queries)],
    ["different queries", report.distinct_queries],
  ];
  const each = [
    columns(`Length of queries, in ${unit}`, pick(report.queries), unit),
    columns(`Length of positives, in ${unit}`, pick(report.positives), unit),
    report.negatives.characters.count > 0 && columns(`Length of negatives, in ${unit}`, pick(report.negatives), unit),
    columns("Positives in a row", sum("positives"), "positives"),
    columns("Negatives in a row", sum("negatives"), "negatives"),
    lanes("Repeated queries", repeated, "queries"),
    scripts.length > 0 && lanes("Scripts, from the first 128 kB of each file", scripts, "letters"),
    report.files.length > 1 && lanes("Rows by file", report.files.slice(0, 12).map((file) => [file.name, file.rows]), "file"),
  ];
  return el("div", { class: "grid" }, each);
}

/** What the token counts say about the two length settings. */
function advice(report, config, use) {
  if (!report.queries.tokens) {
    return el("p", { class: "note info" }, "Drop your model's tokenizer.json onto the page, too, to see lengths in tokens and what would be cut.");
  }
  const rows = [["query_max_len", "queries", [report.queries]], ["passage_max_len", "passages", [report.positives, report.negatives]]];
  const better = {};
  const lines = rows.map(([name, what, texts]) => {
    const full = texts.filter((text) => text.tokens?.count);
    const many = full.reduce((sum, text) => sum + text.tokens.count, 0) || 1;
    const cut = full.reduce((sum, text) => sum + (text.cut_share ?? 0) * text.tokens.count, 0) / many;
    const wanted = Math.max(8, ...full.map((text) => Math.ceil(text.tokens.p99 / 8) * 8));
    const value = Math.min(512, wanted);
    const now = full[0]?.max_tokens ?? config[name];
    if (value !== now) better[name] = value;
    return el("li", {}, el("code", {}, `${name} ${now}`), ` cuts ${percent(cut)} of the ${what}. `,
      value === now ? "That fits." : `${count(value)} would keep 99 in 100 whole${wanted > value ? " as far as 512 tokens reach" : ""}.`);
  });
  const names = Object.keys(better);
  return el("div", { class: "note info" }, el("h3", {}, "Lengths in tokens"), el("ul", {}, lines),
    names.length > 0 && el("button", { type: "button", onclick: () => use(better) }, "Use these lengths in the settings"));
}

/** One kind of finding with its first places and their text. */
export function finding(group, excerpts) {
  const mended = MENDABLE.has(group.code);
  const places = group.first.map((issue) => {
    const where = [issue.path, issue.line].filter((part) => part != null).join(":");
    const element = issue.element && `element ${issue.element}`;
    const text = excerpts[issue.path]?.[element ?? issue.line];
    return el("li", {}, where && el("span", { class: "where" }, `${where} `), element && `${element}: `, issue.field && el("b", {}, `${issue.field}: `), issue.message,
      text && el("code", {}, text));
  });
  const more = group.total - group.first.length;
  return el("div", { class: "finding", "data-severity": group.severity },
    el("div", { class: "row" }, el("span", { class: `tag ${group.severity}` }, group.severity), el("b", {}, group.code.replace("data.", "").replaceAll("_", " ")),
      el("span", { class: "muted" }, plural(group.total, "place")), mended && el("span", { class: "tag good" }, "a repair fixes this")),
    el("ol", {}, places), more > 0 && el("p", { class: "muted" }, `… and ${plural(more, "more place")}`));
}

function findings(report, excerpts) {
  const list = el("div", { id: "findings" });
  const shown = { error: true, warning: true, info: true };
  const search = el("input", { type: "search", id: "search", placeholder: "file, code or word" });
  const left = el("p", { class: "muted", role: "status" });
  const show = () => {
    const words = search.value.trim().toLowerCase();
    const groups = report.issues.filter((group) => shown[group.severity])
      .filter((group) => !words || JSON.stringify(group).toLowerCase().includes(words));
    list.replaceChildren(...groups.map((group) => finding(group, excerpts)));
    left.textContent = `${groups.length} of ${plural(report.issues.length, "kind")} of findings shown`;
  };
  search.addEventListener("input", show);
  const boxes = Object.keys(shown).map((severity) => el("label", { class: "check" },
    el("input", { type: "checkbox", checked: true, "data-filter": severity, onchange: (event) => { shown[severity] = event.target.checked; show(); } }), `${severity}s`.replace("infos", "notes")));
  show();
  return el("div", { class: "card" }, el("h3", {}, "Findings"),
    el("div", { class: "row" }, boxes, el("label", { class: "check" }, "containing", search)), left, list);
}

function repairs(report, start) {
  const has = (code) => report.issues.some((group) => group.code === code && group.severity === "error");
  const repeated = el("input", { type: "checkbox", checked: true });
  const negatives = el("input", { type: "checkbox", checked: has("data.neg_empty") });
  return el("div", { class: "card", id: "repair" }, el("h3", {}, "Repair"),
    el("p", {}, "Takes out empty and repeated texts, positives among the negatives and scores that fit no text; writes plain JSON lines. Rows that cannot be mended go to a quarantine file with the reason. Sound rows keep every byte."),
    el("p", { class: "row" }, el("label", { class: "check" }, repeated, "drop rows that repeat an earlier one"),
      el("label", { class: "check" }, negatives, "set rows without negatives aside")),
    el("button", { type: "button", class: "primary", id: "start-repair", onclick: () => start(repeated.checked, negatives.checked) }, "Repair and check again"));
}

/** The whole result. `actions` are `repair`, `split`, `byLength`, `use` (settings) and `save` (the report). */
export function show({ report, excerpts, scripts, config }, actions) {
  const sum = (severity) => report.issues.filter((group) => group.severity === severity).reduce((total, group) => total + group.total, 0);
  return [
    ...summary(report, sum("error"), sum("warning")),
    advice(report, config, actions.use),
    report.issues.length > 0 && repairs(report, actions.repair),
    report.issues.length > 0 && findings(report, excerpts),
    report.rows > 1 && sides(actions.split),
    report.rows > 1 && byLength(report.queries.tokens ? "tokens" : "characters", defaultLengths(), actions.byLength),
    charts(report, scripts),
    el("p", {}, el("button", { type: "button", id: "save-report", onclick: actions.save }, "Download the report (JSON)")),
  ].filter(Boolean);
}

/** What a repair did, with its two files. */
export function repaired({ report }, save) {
  const fixes = Object.entries(report.fixes).map(([code, many]) => el("tr", {}, el("td", {}, code.replace("data.", "").replaceAll("_", " ")), el("td", { class: "n" }, count(many))));
  return el("div", { class: "note good", id: "repaired" }, el("h3", {}, `${plural(report.kept, "row")} kept, ${count(report.quarantined)} set aside`),
    el("p", {}, `${count(report.mended)} mended, ${count(report.repeated)} repeated ones dropped. The report below is on the cleaned file.`),
    fixes.length > 0 && el("details", {}, el("summary", {}, "What was mended"), el("table", {}, el("tbody", {}, fixes))),
    el("p", { class: "row" }, el("button", { type: "button", class: "primary", id: "save-cleaned", onclick: () => save("cleaned") }, "Download cleaned.jsonl"),
      report.quarantined > 0 && el("button", { type: "button", id: "save-quarantine", onclick: () => save("quarantine") }, "Download quarantine.jsonl")));
}
