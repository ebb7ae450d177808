//! The parts of a report page, each written once: verdict, tiles, charts, tables, lists.

use std::fmt::Write as _;

use super::charts::{BarRow, Frame, changes, measured, metric_bars, similarity_histogram};
use super::compare::{Comparison, MetricChange, QueryChange};
use super::curves::{evaluation_curve, loss_curve};
use super::heads::HeadsReport;
use super::markup::{escape, grouped, minus};
use super::metrics::{Metric, MetricKey};
use super::report::{ReportContext, TrainingCurve};
use super::similarity::SimilarityReport;
use super::style::STYLE;
use super::table::{heads_caption, heads_rows};
use super::verdict::{Outcome, is_real, signed};

/// Queries of each list that are shown without a click.
const SHOWN_QUERIES: usize = 5;

/// A page under construction.
pub(super) struct Page {
    html: String,
}

impl Page {
    pub(super) fn new(title: &str, over: &str) -> Self {
        let mut html = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
        let _ = write!(
            html,
            "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
             <title>{0}</title><style>{STYLE}</style></head>\n<body><main><header><p class=\"over\"><bdi>{1}</bdi></p>\
             <h1><bdi>{0}</bdi></h1></header>",
            escape(title),
            escape(over)
        );
        Self { html }
    }

    pub(super) fn put(&mut self, html: &str) {
        self.html.push_str(html);
    }

    pub(super) fn section(&mut self, title: &str, lead: &str) {
        let _ = write!(
            self.html,
            "\n<h2>{}</h2><p class=\"lead\">{}</p>",
            escape(title),
            escape(lead)
        );
    }

    pub(super) fn verdict(&mut self, comparison: &Comparison) {
        let (class, sign) = match comparison.verdict.outcome {
            Outcome::Better => ("better", "▲"),
            Outcome::Worse => ("worse", "▼"),
            Outcome::NoClearChange => ("unclear", "≈"),
            Outcome::Same => ("unclear", "="),
        };
        let (head, rest) = comparison
            .verdict
            .headline
            .split_once(": ")
            .unwrap_or(("", &comparison.verdict.headline));
        let _ = write!(
            self.html,
            "<section class=\"card verdict {class}\" aria-label=\"Verdict\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span>\
             <div><strong>{}</strong><p>{}</p>",
            escape(head),
            escape(&minus_signs(rest))
        );
        if !comparison.verdict.notes.is_empty() {
            self.put("<ul>");
            for note in &comparison.verdict.notes {
                let _ = write!(self.html, "<li>{}</li>", escape(&minus_signs(note)));
            }
            self.put("</ul>");
        }
        self.put("</div></section>");
    }

    pub(super) fn tiles(&mut self, comparison: &Comparison) {
        self.put("<div class=\"tiles\">");
        for (change, estimate) in measured(comparison).into_iter().take(4) {
            let class = match (is_real(estimate), change.change > 0.0) {
                (true, true) => "up-text",
                (true, false) => "down-text",
                _ => "",
            };
            let _ = write!(
                self.html,
                "<div class=\"card tile\"><div class=\"name\">{}</div><div class=\"number\">{:.4}</div>\
                 <div class=\"detail\"><span class=\"{class}\">{}</span> from {:.4}</div></div>",
                change.metric.title(),
                change.after,
                minus(&signed(change.change)),
                change.before
            );
        }
        let counts = comparison.counts;
        let _ = write!(
            self.html,
            "<div class=\"card tile\"><div class=\"name\">Queries</div><div class=\"number\">{} better</div>\
             <div class=\"detail\">{} worse, {} equal</div></div></div>",
            grouped(counts.improved),
            grouped(counts.hurt),
            grouped(counts.unchanged)
        );
    }

    pub(super) fn quality(&mut self, comparison: &Comparison) {
        self.section(
            "Retrieval quality",
            "Each metric before and after with its 95 % interval, and the difference on the same queries. A difference whose \
             interval reaches zero can be chance.",
        );
        let rows: Vec<BarRow> = measured(comparison)
            .into_iter()
            .map(|(change, estimate)| BarRow {
                metric: change.metric,
                bars: vec![
                    ("bar-before", change.before, estimate.before.interval),
                    ("bar-after", change.after, estimate.after.interval),
                ],
            })
            .collect();
        let _ = write!(
            self.html,
            "<div class=\"grid two\"><div class=\"card\"><h3>Before and after</h3><ul class=\"key\">\
             <li><i class=\"k-before\"></i><bdi>{}</bdi></li><li><i class=\"k-after\"></i><bdi>{}</bdi></li></ul>{}</div>\
             <div class=\"card\"><h3>Change</h3><ul class=\"key\"><li><i class=\"k-dot\"></i>more than chance</li>\
             <li><i class=\"k-open\"></i>can be chance</li></ul>{}</div></div>",
            escape(&comparison.options.before),
            escape(&comparison.options.after),
            metric_bars(&rows),
            changes(comparison)
        );
        let headings = ["Metric", "Before", "After", "Change", "95 % interval", "p"];
        let row = |change: &MetricChange| {
            let mut cells = vec![
                format!("{:.4}", change.before),
                format!("{:.4}", change.after),
                minus(&signed(change.change)),
            ];
            if let Some(estimate) = &change.estimate {
                let interval = estimate.change.interval;
                cells.push(minus(&format!(
                    "{} to {}",
                    signed(interval.low),
                    signed(interval.high)
                )));
                cells.push(if estimate.p_value < 0.001 {
                    "< 0.001".to_owned()
                } else {
                    format!("{:.3}", estimate.p_value)
                });
            }
            (change.metric.title(), cells)
        };
        let main: Vec<_> = measured(comparison)
            .into_iter()
            .map(|(change, _)| row(change))
            .collect();
        let all: Vec<_> = comparison
            .metrics
            .iter()
            .map(|change| {
                let (name, mut cells) = row(change);
                cells.truncate(3);
                (name, cells)
            })
            .collect();
        self.put("<div class=\"card\" style=\"margin-top:1rem\">");
        let caption = format!(
            "Paired bootstrap and randomization test over the queries, {} resamples",
            grouped(comparison.options.resamples)
        );
        self.table(
            &caption,
            &headings,
            &main,
            Some(&comparison.options.metric.title()),
        );
        let _ = write!(self.html, "<details><summary>All {} metrics</summary>", all.len());
        self.table(
            "Means over the queries",
            &["Metric", "Before", "After", "Change"],
            &all,
            None,
        );
        self.put("</details></div>");
    }

    /// What each head of BGE-M3 and their means reach (after, and before).
    pub(super) fn heads(&mut self, heads: Option<(&HeadsReport, Option<&HeadsReport>)>) {
        let Some((heads, before)) = heads else {
            return;
        };
        self.section(
            "Heads",
            "Each score of BGE-M3 by itself, and their weighted means.",
        );
        let (headings, rows) = heads_rows(heads, before);
        let headings: Vec<&str> = std::iter::once("Score")
            .chain(headings.iter().map(String::as_str))
            .collect();
        self.put("<div class=\"card\">");
        self.table(&heads_caption(heads), &headings, &rows, None);
        self.put("</div>");
    }

    /// What the models do on data that fine-tuning was not about.
    pub(super) fn general(&mut self, general: &[Comparison]) {
        if general.is_empty() {
            return;
        }
        self.section(
            "General data",
            "The same two models on data that fine-tuning was not about. A loss here is what the gain above cost; a merge of \
             both models (bge merge) keeps more of it.",
        );
        for comparison in general {
            let rows: Vec<_> = measured(comparison)
                .into_iter()
                .map(|(change, estimate)| {
                    let interval = estimate.change.interval;
                    let cells = vec![
                        format!("{:.4}", change.before),
                        format!("{:.4}", change.after),
                        minus(&signed(change.change)),
                        minus(&format!("{} to {}", signed(interval.low), signed(interval.high))),
                    ];
                    (change.metric.title(), cells)
                })
                .collect();
            let _ = write!(
                self.html,
                "<div class=\"card\"><h3><bdi>{}</bdi>, {} queries</h3><p>{}</p>",
                escape(&comparison.dataset),
                grouped(comparison.queries),
                escape(&minus_signs(&comparison.verdict.headline))
            );
            let headings = ["Metric", "Before", "After", "Change", "95 % interval"];
            let primary = comparison.options.metric.title();
            self.table("Means over the queries", &headings, &rows, Some(&primary));
            self.put("</div>");
        }
    }

    pub(super) fn table(
        &mut self,
        caption: &str,
        headings: &[&str],
        rows: &[(String, Vec<String>)],
        primary: Option<&str>,
    ) {
        let _ = write!(
            self.html,
            "<p class=\"caption\">{0}</p><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><thead><tr>",
            escape(caption)
        );
        for heading in headings {
            let _ = write!(self.html, "<th scope=\"col\">{}</th>", escape(heading));
        }
        self.put("</tr></thead><tbody>");
        for (name, cells) in rows {
            let class = if Some(name.as_str()) == primary {
                " class=\"primary\""
            } else {
                ""
            };
            let _ = write!(self.html, "<tr{class}><th scope=\"row\">{}</th>", escape(name));
            for cell in cells {
                let _ = write!(self.html, "<td>{}</td>", escape(cell));
            }
            self.put("</tr>");
        }
        self.put("</tbody></table></div>");
    }

    pub(super) fn training(&mut self, curve: Option<&TrainingCurve>, before: Option<(MetricKey, f64)>) {
        let Some(curve) = curve else {
            return;
        };
        let measured = curve.metric.unwrap_or(MetricKey::new(Metric::Ndcg, 10));
        let before = before
            .filter(|(metric, _)| *metric == measured)
            .map(|(_, value)| value);
        let loss = loss_curve(curve);
        let evaluations = evaluation_curve(curve, before);
        if loss.is_none() && evaluations.is_none() {
            return;
        }
        self.section(
            "Training",
            "The loss is the thin line, its running average the thick one.",
        );
        self.put("<div class=\"grid two\">");
        if let Some(loss) = loss {
            let _ = write!(self.html, "<div class=\"card\"><h3>Loss</h3>{loss}</div>");
        }
        if let Some(evaluations) = evaluations {
            let _ = write!(
                self.html,
                "<div class=\"card\"><h3>{} during training</h3>{evaluations}</div>",
                curve.evaluation_title()
            );
        }
        self.put("</div>");
    }

    pub(super) fn similarities(&mut self, reports: &[(&str, &SimilarityReport)]) {
        self.section(
            "Similarities",
            "Cosines of each query with its relevant documents and with the five highest ranked wrong ones. The less the \
             two overlap, the better the model tells them apart; where they lie matters little.",
        );
        let frame = Frame::around(&reports.iter().map(|(_, report)| *report).collect::<Vec<_>>());
        self.put("<div class=\"grid two\">");
        for (index, (name, report)) in reports.iter().enumerate() {
            let chart = similarity_histogram(&format!("similarity-{index}"), name, report, &frame);
            let _ = write!(
                self.html,
                "<div class=\"card\"><h3>{}</h3><ul class=\"key\"><li><i class=\"k-right\"></i>relevant</li>\
                 <li><i class=\"k-wrong\"></i>highest ranked wrong</li></ul>{chart}<table class=\"stats\"><tbody>",
                escape(name)
            );
            let rows = [
                ("Overlap of the two", format!("{:.0} %", report.overlap * 100.0)),
                (
                    "Distance in standard deviations",
                    format!("{:.2}", report.separation),
                ),
                (
                    "Mean cosine of two documents",
                    format!("{:.3}", report.document_cosine),
                ),
                (
                    "Mean cosine of two queries",
                    format!("{:.3}", report.query_cosine),
                ),
                ("Dimensions in use", format!("{:.0}", report.dimensions_in_use)),
            ];
            for (name, value) in rows {
                let _ = write!(
                    self.html,
                    "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>",
                    minus(&value)
                );
            }
            self.put("</tbody></table></div>");
        }
        self.put("</div>");
    }

    pub(super) fn shift(&mut self, comparison: &Comparison) {
        let text = match &comparison.shift {
            Some(shift) => format!(
                "How far the vectors moved: the mean cosine of a text's old and new vector is {:.4} for queries and {:.4} \
                 for documents (1 means not at all).",
                shift.queries, shift.documents
            ),
            None => {
                "The two models have vectors of different dimensions, so how far they moved is not defined."
                    .to_owned()
            }
        };
        let _ = write!(
            self.html,
            "<p class=\"lead\" style=\"margin-top:1rem\">{}</p>",
            escape(&minus_signs(&text))
        );
    }

    pub(super) fn queries(&mut self, comparison: &Comparison) {
        if comparison.improved.is_empty() && comparison.hurt.is_empty() {
            return;
        }
        let metric = comparison.options.metric.title();
        self.section(
            "Queries that changed most",
            &format!("By {metric}, with the rank of each relevant document before and after."),
        );
        self.put("<div class=\"grid two start\">");
        for (title, queries, rival) in [
            ("Most improved", &comparison.improved, false),
            ("Most hurt", &comparison.hurt, true),
        ] {
            let _ = write!(self.html, "<section class=\"card\"><h3>{title}</h3>");
            if queries.is_empty() {
                self.put("<p class=\"score\">none</p>");
            }
            let (first, more) = queries.split_at(queries.len().min(SHOWN_QUERIES));
            self.put("<ol class=\"queries\">");
            for query in first {
                self.query(query, &metric, comparison.depth, rival);
            }
            self.put("</ol>");
            if !more.is_empty() {
                let _ = write!(
                    self.html,
                    "<details><summary>{} more</summary><ol class=\"queries\">",
                    more.len()
                );
                for query in more {
                    self.query(query, &metric, comparison.depth, rival);
                }
                self.put("</ol></details>");
            }
            self.put("</section>");
        }
        self.put("</div>");
    }

    fn query(&mut self, query: &QueryChange, metric: &str, depth: usize, rival: bool) {
        let _ = write!(
            self.html,
            "<li><div class=\"query\" dir=\"auto\">{}</div><div class=\"score\">{metric} {:.3} → {:.3} · \
             <code><bdi>{}</bdi></code></div><div class=\"found\">",
            escape(&query.text),
            query.before,
            query.after,
            escape(&query.id)
        );
        let rank = |rank: Option<usize>| rank.map_or_else(|| format!("&gt;{depth}"), |rank| rank.to_string());
        for positive in &query.positives {
            let text = if positive.document.text.is_empty() {
                &positive.document.id
            } else {
                &positive.document.text
            };
            let _ = write!(
                self.html,
                "<span class=\"rank\"><span class=\"score\">rank</span> {} → {}</span>\
                 <span class=\"text\" dir=\"auto\">{}</span>",
                rank(positive.before),
                rank(positive.after),
                escape(text)
            );
        }
        if let Some(document) = query.rival.as_ref().filter(|_| rival) {
            let _ = write!(
                self.html,
                "<span class=\"rank score\">top wrong</span><span class=\"text\" dir=\"auto\">{}</span>",
                escape(if document.text.is_empty() {
                    &document.id
                } else {
                    &document.text
                })
            );
        }
        self.put("</div></li>");
    }

    pub(super) fn warnings(&mut self, warnings: &[String]) {
        if warnings.is_empty() {
            return;
        }
        self.section(
            "Warnings about the data",
            "The evaluation went on; these may explain a surprise.",
        );
        self.put("<div class=\"card\"><ul>");
        for warning in warnings {
            let _ = write!(self.html, "<li><code>{}</code></li>", escape(warning));
        }
        self.put("</ul></div>");
    }

    pub(super) fn context(&mut self, context: &ReportContext) {
        if context.settings.is_empty() && context.provenance.is_empty() {
            return;
        }
        self.section("Settings and provenance", "What to repeat for the same result.");
        self.put("<div class=\"grid two start\">");
        for (title, pairs) in [
            ("Settings", &context.settings),
            ("Provenance", &context.provenance),
        ] {
            if pairs.is_empty() {
                continue;
            }
            let _ = write!(
                self.html,
                "<div class=\"card\"><h3>{title}</h3><table class=\"pairs\"><tbody>"
            );
            for (name, value) in pairs {
                let _ = write!(
                    self.html,
                    "<tr><th scope=\"row\">{}</th><td><code><bdi>{}</bdi></code></td></tr>",
                    escape(name).replace('_', "_<wbr>"),
                    escape(value)
                );
            }
            self.put("</tbody></table></div>");
        }
        self.put("</div>");
    }

    pub(super) fn footer(&mut self, comparison: Option<&Comparison>) {
        self.put("\n<footer><h2>How to read this</h2>");
        self.put(
            "<p>nDCG@10 rewards relevant documents among the first ten results, the more the higher they stand; 1 is \
             perfect. MRR@10 is one over the rank of the first relevant document. Recall@k is the share of the relevant \
             documents among the first k. All are means over the same queries, found by exact search.</p>",
        );
        if let Some(comparison) = comparison {
            let _ = write!(
                self.html,
                "<p>Intervals come from a paired bootstrap: {0} times, as many queries as there are were drawn with \
                 replacement (seed {1}) and both models scored on them. The p-value is the share of {0} random exchanges of \
                 before and after, query by query, that give as large a difference. A gain is called one when the interval \
                 of the difference excludes zero and p is below 0.05.</p>",
                grouped(comparison.options.resamples),
                comparison.options.seed
            );
        }
        self.put("</footer>");
    }

    pub(super) fn finish(mut self) -> String {
        self.put("</main></body></html>\n");
        self.html
    }
}

/// Turns the hyphen before a digit into a minus sign where it starts a number.
fn minus_signs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut before = ' ';
    while let Some(character) = characters.next() {
        let starts_number =
            matches!(before, ' ' | '(') && characters.peek().is_some_and(char::is_ascii_digit);
        out.push(if character == '-' && starts_number {
            '\u{2212}'
        } else {
            character
        });
        before = character;
    }
    out
}
