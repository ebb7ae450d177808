//! Results as plain text for a terminal or a log.

use std::fmt::Write as _;

use super::compare::Comparison;
use super::heads::{HeadsReport, Mode, TunedWeights};
use super::metrics::{Metric, MetricKey};
use super::retrieval::EvaluationReport;
use super::verdict::{is_real, signed};

/// Before, after, change and interval of every metric that has one, under the verdict.
///
/// A star marks a change that chance alone does not explain.
pub fn comparison_table(comparison: &Comparison) -> String {
    let mut rows = vec![["", "before", "after", "change", "95 % interval", ""].map(str::to_owned)];
    for (change, estimate) in super::charts::measured(comparison) {
        let interval = estimate.change.interval;
        rows.push([
            change.metric.title(),
            format!("{:.4}", change.before),
            format!("{:.4}", change.after),
            signed(change.change),
            format!("{} to {}", signed(interval.low), signed(interval.high)),
            if is_real(estimate) { "*" } else { "" }.to_owned(),
        ]);
    }
    let counts = comparison.counts;
    let mut text = format!(
        "{} ({}): {} queries, {} documents\n\n{}\n* more than chance; {} queries better, {} worse, {} equal\n\n{}\n",
        comparison.dataset,
        comparison.split,
        comparison.queries,
        comparison.documents,
        align(&rows),
        counts.improved,
        counts.hurt,
        counts.unchanged,
        comparison.verdict.headline
    );
    for note in &comparison.verdict.notes {
        text.push_str("- ");
        text.push_str(note);
        text.push('\n');
    }
    text
}

/// Metrics of one evaluation, a row for each metric and a column for each cut-off, five decimals as FlagEmbedding.
pub fn evaluation_table(report: &EvaluationReport) -> String {
    let (cuts, metrics) = by_cutoff(report, 5);
    let mut rows: Vec<Vec<String>> = vec![std::iter::once(String::new()).chain(cuts).collect()];
    rows.extend(
        metrics
            .into_iter()
            .map(|(name, cells)| std::iter::once(name).chain(cells).collect()),
    );
    format!(
        "{} ({}): {} queries, {} documents\n\n{}",
        report.dataset,
        report.split,
        report.queries,
        report.documents,
        align(&rows)
    )
}

/// What each head of BGE-M3 and their means reach, with the baseline's beside it where there is one.
pub(super) fn heads_table(
    heads: &HeadsReport,
    before: Option<&HeadsReport>,
    tuned: Option<&TunedWeights>,
) -> String {
    let (headings, rows) = heads_rows(heads, before);
    let mut all: Vec<Vec<String>> = vec![std::iter::once(String::new()).chain(headings).collect()];
    all.extend(
        rows.into_iter()
            .map(|(name, cells)| std::iter::once(name).chain(cells).collect()),
    );
    let mut text = format!("{}\n{}", heads_caption(heads), align(&all));
    if let Some(tuned) = tuned {
        let _ = writeln!(
            text,
            "weights chosen on {} ({}), {} queries: nDCG@10 {:.4}, {:.4} where all count the same; written to the model's folder",
            tuned.dataset, tuned.split, tuned.queries, tuned.ndcg_at_10, tuned.ndcg_at_10_before
        );
    }
    text
}

/// How the scores of the heads were put together.
pub(super) fn heads_caption(heads: &HeadsReport) -> String {
    let [dense, sparse, colbert] = heads.weights.all();
    format!(
        "BGE-M3's heads; weights of dense, sparse, colbert: {dense} {sparse} {colbert}; colbert and the means order the first \
         {} of the dense and of the sparse list",
        heads.head_window
    )
}

/// Headings and, for each mode, its values: nDCG, recall and MRR at the cut-offs up to 100, "before" ahead of "after".
pub(super) fn heads_rows(
    heads: &HeadsReport,
    before: Option<&HeadsReport>,
) -> (Vec<String>, Vec<(String, Vec<String>)>) {
    let mut keys: Vec<MetricKey> = heads
        .modes
        .values()
        .flat_map(|metrics| metrics.keys().copied())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let deepest = keys
        .iter()
        .map(|key| key.k)
        .filter(|k| *k <= 100)
        .max()
        .unwrap_or(100);
    keys.retain(|key| match key.metric {
        Metric::Ndcg | Metric::Mrr => key.k == 10 || deepest < 10 && key.k == deepest,
        Metric::Recall => key.k == 10 || key.k == deepest,
        _ => false,
    });
    let mut headings = Vec::new();
    for key in &keys {
        if before.is_some() {
            headings.push(format!("{} before", key.title()));
        }
        headings.push(key.title());
    }
    let rows = Mode::ALL.map(|mode| {
        let mut cells = Vec::new();
        for key in &keys {
            for report in before.into_iter().chain([heads]) {
                let value = report.modes.get(&mode).and_then(|metrics| metrics.get(key));
                cells.push(value.map_or_else(String::new, |value| format!("{value:.4}")));
            }
        }
        (mode.as_str().to_owned(), cells)
    });
    (headings, rows.into())
}

/// Headings of the cut-offs, and for each metric its name and a value for each cut-off.
pub(super) fn by_cutoff(
    report: &EvaluationReport,
    decimals: usize,
) -> (Vec<String>, Vec<(String, Vec<String>)>) {
    let mut cuts: Vec<usize> = report.metrics.keys().map(|key| key.k).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut rows = Vec::new();
    for metric in Metric::ALL {
        let cell = |k: &usize| {
            let value = report.metrics.get(&MetricKey::new(metric, *k));
            value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
        };
        let cells: Vec<String> = cuts.iter().map(cell).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            rows.push((metric.title().to_owned(), cells));
        }
    }
    (cuts.iter().map(|k| format!("@{k}")).collect(), rows)
}

/// Columns of equal width: the first to the left, the others to the right.
fn align<R: AsRef<[String]>>(rows: &[R]) -> String {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.as_ref().get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.as_ref().iter().zip(&widths).enumerate() {
            if index == 0 {
                let _ = write!(line, "{cell:<width$}");
            } else {
                let _ = write!(line, "  {cell:>width$}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
