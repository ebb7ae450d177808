//! The report as one HTML file: no scripts, no requests, readable on a phone, in the dark and by a screen reader.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::beir::BeirFolder;
use super::charts::{BarRow, metric_bars};
use super::compare::{Comparison, deciding_metric, has_interval};
use super::heads::HeadsReport;
use super::markup::grouped;
use super::metrics::{Metric, MetricKey};
use super::page::Page;
use super::retrieval::Evaluation;
use super::similarity::similarities;
use super::statistics::bootstrap;
use super::table::by_cutoff;

/// What training looked like, for the report's curves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingCurve {
    /// Step and training loss; losses that are not finite are gaps.
    pub loss: Vec<(u64, f64)>,
    /// Step and learning rate.
    pub learning_rate: Vec<(u64, f64)>,
    /// Step and the metric of the evaluations during training.
    pub evaluations: Vec<(u64, f64)>,
    /// Which metric that is; nDCG@10 where it is not said.
    pub metric: Option<MetricKey>,
}

impl TrainingCurve {
    pub(super) fn last_step(&self) -> u64 {
        let last = |points: &[(u64, f64)]| points.iter().map(|(step, _)| *step).max();
        [&self.loss, &self.learning_rate, &self.evaluations]
            .into_iter()
            .filter_map(|p| last(p))
            .max()
            .unwrap_or(1)
    }

    pub(super) fn evaluation_title(&self) -> String {
        self.metric.unwrap_or(MetricKey::new(Metric::Ndcg, 10)).title()
    }
}

/// What a report says beside the numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportContext {
    /// The heading; names of models and data where it is empty.
    pub title: String,
    /// Curves of the training between before and after.
    pub training: Option<TrainingCurve>,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
    /// Where the result comes from: versions, paths, hashes, seeds.
    pub provenance: BTreeMap<String, String>,
}

/// The report of a comparison as a complete HTML document.
pub fn comparison_html(comparison: &Comparison, context: &ReportContext) -> String {
    comparison_html_with(comparison, &[], None, context)
}

/// The same, with what the models do on general data, and what the heads of BGE-M3 do (after, and before).
pub(super) fn comparison_html_with(
    comparison: &Comparison,
    general: &[Comparison],
    heads: Option<(&HeadsReport, Option<&HeadsReport>)>,
    context: &ReportContext,
) -> String {
    let options = &comparison.options;
    let title = if context.title.is_empty() {
        format!("{} → {} on {}", options.before, options.after, comparison.dataset)
    } else {
        context.title.clone()
    };
    let mut page = Page::new(
        &title,
        &counted(
            &comparison.dataset,
            &comparison.split,
            comparison.queries,
            comparison.documents,
        ),
    );
    page.verdict(comparison);
    page.tiles(comparison);
    page.quality(comparison);
    page.heads(heads);
    page.general(general);
    page.training(
        context.training.as_ref(),
        comparison.primary().map(|change| (change.metric, change.before)),
    );
    page.similarities(&[
        ("Before", &comparison.similarities_before),
        ("After", &comparison.similarities_after),
    ]);
    page.shift(comparison);
    page.queries(comparison);
    page.warnings(&comparison.warnings);
    page.context(context);
    page.footer(Some(comparison));
    page.finish()
}

/// The report of a single evaluation, with intervals by 10,000 bootstrap resamples of the queries.
pub fn evaluation_html(folder: &BeirFolder, evaluation: &Evaluation, context: &ReportContext) -> String {
    evaluation_html_with(folder, evaluation, None, context)
}

/// The same, with what the heads of BGE-M3 do (after, and before).
pub(super) fn evaluation_html_with(
    folder: &BeirFolder,
    evaluation: &Evaluation,
    heads: Option<(&HeadsReport, Option<&HeadsReport>)>,
    context: &ReportContext,
) -> String {
    let report = &evaluation.report;
    let title = if context.title.is_empty() {
        format!("Retrieval on {}", report.dataset)
    } else {
        context.title.clone()
    };
    let mut page = Page::new(
        &title,
        &counted(&report.dataset, &report.split, report.queries, report.documents),
    );
    let values = &evaluation.scores.values;
    let deciding = deciding_metric(MetricKey::new(Metric::Ndcg, 10), values);
    let chosen: Vec<(MetricKey, &[f64])> = values
        .iter()
        .filter(|(key, _)| deciding.is_some_and(|deciding| has_interval(**key, deciding)))
        .map(|(key, values)| (*key, values.as_slice()))
        .collect();
    let columns: Vec<&[f64]> = chosen.iter().map(|(_, values)| *values).collect();
    let rows: Vec<BarRow> = chosen
        .iter()
        .zip(bootstrap(&columns, 10_000, 42))
        .map(|((metric, _), estimate)| BarRow {
            metric: *metric,
            bars: vec![("bar-after", estimate.mean, estimate.interval)],
        })
        .collect();
    page.section(
        "Retrieval quality",
        "Means over the queries with their 95 % intervals. Higher is better.",
    );
    let (cuts, metrics) = by_cutoff(report, 4);
    let headings: Vec<String> = std::iter::once("Metric".to_owned()).chain(cuts).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    page.put("<div class=\"grid two start\"><div class=\"card\">");
    page.put(&metric_bars(&rows));
    page.put("</div><div class=\"card\">");
    page.table("All metrics at all cut-offs", &headings, &metrics, None);
    page.put("</div></div>");
    page.heads(heads);
    page.training(context.training.as_ref(), None);
    page.similarities(&[(
        "Pairs of queries and documents",
        &similarities(folder, evaluation),
    )]);
    page.warnings(&report.warnings);
    page.context(context);
    page.footer(None);
    page.finish()
}

fn counted(dataset: &str, split: &str, queries: usize, documents: usize) -> String {
    format!(
        "{dataset}, split {split} · {} queries · {} documents",
        grouped(queries),
        grouped(documents)
    )
}
