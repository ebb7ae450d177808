//! Before against after on the same queries: metrics with intervals, the queries that moved, the similarities.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::beir::BeirFolder;
use super::metrics::{Metric, MetricKey};
use super::retrieval::Evaluation;
use super::similarity::{Shift, SimilarityReport, embedding_shift, similarities};
use super::statistics::{PairedEstimate, mean, paired_bootstrap};
use super::verdict::{Evidence, Verdict};
use crate::data::beir::shorten;
use crate::error::{Result, bail};

/// Characters of a text kept for lists.
const GLIMPSE: usize = 280;
/// Relevant documents listed for a query.
const POSITIVES: usize = 3;

/// How to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareOptions {
    /// The metric that decides; nDCG@10 where it was measured.
    pub metric: MetricKey,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Queries in each of the two lists of those that changed most.
    pub listed_queries: usize,
    /// Name of the first model.
    pub before: String,
    /// Name of the second model.
    pub after: String,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            metric: MetricKey::new(Metric::Ndcg, 10),
            resamples: 10_000,
            seed: 42,
            listed_queries: 10,
            before: "before".to_owned(),
            after: "after".to_owned(),
        }
    }
}

/// One metric before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricChange {
    /// Which one.
    pub metric: MetricKey,
    /// Mean before.
    pub before: f64,
    /// Mean after.
    pub after: f64,
    /// After minus before.
    pub change: f64,
    /// Intervals and p-value, for the deciding metric and nDCG, MRR and recall at the usual cut-offs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub estimate: Option<PairedEstimate>,
}

/// Queries by how the deciding metric changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryCounts {
    /// It rose.
    pub improved: usize,
    /// It fell.
    pub hurt: usize,
    /// It stayed.
    pub unchanged: usize,
}

/// A document's id and the beginning of its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentGlimpse {
    /// The id.
    pub id: String,
    /// The beginning of the text; empty when the corpus lacks it.
    pub text: String,
}

/// Where a relevant document was found before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositiveRank {
    /// The document.
    pub document: DocumentGlimpse,
    /// Rank before, counted from 1; `None` beyond the search depth.
    pub before: Option<usize>,
    /// Rank after.
    pub after: Option<usize>,
}

/// A query that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryChange {
    /// Its id.
    pub id: String,
    /// The beginning of its text.
    pub text: String,
    /// The deciding metric before.
    pub before: f64,
    /// The deciding metric after.
    pub after: f64,
    /// Its relevant documents, at most three, those that moved most first.
    pub positives: Vec<PositiveRank>,
    /// The highest ranked wrong document after.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rival: Option<DocumentGlimpse>,
}

/// Two evaluations of the same queries side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the folder.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Documents searched.
    pub documents: usize,
    /// Queries averaged over.
    pub queries: usize,
    /// Results kept for a query.
    pub depth: usize,
    /// Names, the deciding metric, resamples and seed.
    pub options: CompareOptions,
    /// The verdict in plain words.
    pub verdict: Verdict,
    /// All metrics, by name and cut-off.
    pub metrics: Vec<MetricChange>,
    /// How many queries rose, fell and stayed.
    pub counts: QueryCounts,
    /// The queries that rose most.
    pub improved: Vec<QueryChange>,
    /// The queries that fell most.
    pub hurt: Vec<QueryChange>,
    /// Similarities before.
    pub similarities_before: SimilarityReport,
    /// Similarities after.
    pub similarities_after: SimilarityReport,
    /// How far the vectors moved; `None` when their dimensions differ.
    pub shift: Option<Shift>,
    /// Warnings about the data.
    pub warnings: Vec<String>,
}

impl Comparison {
    /// The deciding metric.
    pub fn primary(&self) -> Option<&MetricChange> {
        self.metrics
            .iter()
            .find(|change| change.metric == self.options.metric)
    }
}

/// Compares two evaluations of `folder`; both must have scored the same queries with the same metrics.
pub fn compare(
    folder: &BeirFolder,
    before: &Evaluation,
    after: &Evaluation,
    options: &CompareOptions,
) -> Result<Comparison> {
    if before.scores.queries != after.scores.queries || before.scores.queries != folder.query_ids {
        bail!(
            InvalidArgument,
            "the two evaluations are not of the same queries; evaluate both on one folder and split"
        );
    }
    let mut options = options.clone();
    let Some(metric) = deciding_metric(options.metric, &before.scores.values) else {
        bail!(InvalidArgument, "the evaluations have no metrics");
    };
    options.metric = metric;
    let metrics = compare_metrics(before, after, &options)?;
    let changes = match (
        before.scores.values.get(&metric),
        after.scores.values.get(&metric),
    ) {
        (Some(before), Some(after)) => before.iter().zip(after).map(|(b, a)| a - b).collect::<Vec<f64>>(),
        _ => bail!(InvalidArgument, "`{metric}` was not measured on both sides"),
    };
    let counts = QueryCounts {
        improved: changes.iter().filter(|change| **change > 0.0).count(),
        hurt: changes.iter().filter(|change| **change < 0.0).count(),
        unchanged: changes.iter().filter(|change| **change == 0.0).count(),
    };
    let squares: Vec<f64> = changes
        .iter()
        .map(|change| (change - mean(&changes)).powi(2))
        .collect();
    let old = similarities(folder, before);
    let new = similarities(folder, after);
    let shift = embedding_shift(before, after);
    let Some(primary) = metrics.iter().find(|change| change.metric == metric) else {
        bail!(Internal, "the deciding metric was lost");
    };
    let verdict = Evidence {
        primary,
        metrics: &metrics,
        counts: &counts,
        deviation: mean(&squares).sqrt(),
        similarities: [&old, &new],
        shift: shift.as_ref(),
    }
    .verdict();
    let sides = Sides {
        folder,
        before,
        after,
        metric,
    };
    Ok(Comparison {
        dataset: after.report.dataset.clone(),
        split: after.report.split.clone(),
        documents: after.report.documents,
        queries: after.report.queries,
        depth: after.report.depth,
        verdict,
        counts,
        improved: sides.most_changed(&changes, options.listed_queries, true),
        hurt: sides.most_changed(&changes, options.listed_queries, false),
        similarities_before: old,
        similarities_after: new,
        shift,
        warnings: after.report.warnings.clone(),
        metrics,
        options,
    })
}

/// The wished metric, or else nDCG at the cut-off nearest to the wished one, or else any.
pub(super) fn deciding_metric(
    wished: MetricKey,
    values: &BTreeMap<MetricKey, Vec<f64>>,
) -> Option<MetricKey> {
    if values.contains_key(&wished) {
        return Some(wished);
    }
    let nearest = |metric: Metric| {
        values
            .keys()
            .filter(|key| key.metric == metric)
            .min_by_key(|key| key.k.abs_diff(wished.k))
            .copied()
    };
    nearest(wished.metric)
        .or_else(|| nearest(Metric::Ndcg))
        .or_else(|| values.keys().next().copied())
}

/// Whether a metric gets an interval: the deciding one, and nDCG, MRR and recall at the usual cut-offs.
pub(super) fn has_interval(key: MetricKey, deciding: MetricKey) -> bool {
    key == deciding
        || matches!(
            (key.metric, key.k),
            (Metric::Ndcg | Metric::Mrr, 10) | (Metric::Recall, 1 | 10 | 100)
        )
}

fn compare_metrics(
    before: &Evaluation,
    after: &Evaluation,
    options: &CompareOptions,
) -> Result<Vec<MetricChange>> {
    let mut keys = Vec::new();
    let mut pairs: Vec<(&[f64], &[f64])> = Vec::new();
    let mut metrics = Vec::new();
    for (key, old) in &before.scores.values {
        let Some(new) = after.scores.values.get(key).filter(|new| new.len() == old.len()) else {
            bail!(
                InvalidArgument,
                "`{key}` was measured on one side only; use the same k_values"
            );
        };
        if has_interval(*key, options.metric) {
            keys.push(*key);
            pairs.push((old, new));
        }
        metrics.push(MetricChange {
            metric: *key,
            before: mean(old),
            after: mean(new),
            change: mean(new) - mean(old),
            estimate: None,
        });
    }
    let estimates = paired_bootstrap(&pairs, options.resamples, options.seed);
    let estimates: BTreeMap<MetricKey, PairedEstimate> = keys.into_iter().zip(estimates).collect();
    for change in &mut metrics {
        change.estimate = estimates.get(&change.metric).copied();
    }
    Ok(metrics)
}

/// Both evaluations, for looking up single queries.
struct Sides<'a> {
    folder: &'a BeirFolder,
    before: &'a Evaluation,
    after: &'a Evaluation,
    metric: MetricKey,
}

impl Sides<'_> {
    /// The queries that rose (or fell) most; equal changes in the order of the file.
    fn most_changed(&self, changes: &[f64], count: usize, rose: bool) -> Vec<QueryChange> {
        let sign = if rose { 1.0 } else { -1.0 };
        let mut order: Vec<(usize, f64)> = changes
            .iter()
            .map(|change| change * sign)
            .enumerate()
            .filter(|(_, change)| *change > 0.0)
            .collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order
            .iter()
            .take(count)
            .filter_map(|(query, _)| self.query(*query))
            .collect()
    }

    fn query(&self, query: usize) -> Option<QueryChange> {
        let value = |side: &Evaluation| side.scores.values.get(&self.metric)?.get(query).copied();
        let rank = |side: &Evaluation, document: &str| {
            let place = |index: u32| self.folder.document_ids.get(index as usize).map(String::as_str);
            side.rankings
                .get(query)?
                .iter()
                .position(|hit| place(hit.document) == Some(document))
                .map(|at| at + 1)
        };
        let judgments = self.folder.judgments.get(query)?;
        let mut positives: Vec<PositiveRank> = judgments
            .iter()
            .filter(|(_, score)| **score > 0.0)
            .map(|(document, _)| PositiveRank {
                document: self.glimpse(document),
                before: rank(self.before, document),
                after: rank(self.after, document),
            })
            .collect();
        let reciprocal = |rank: Option<usize>| rank.map_or(0.0, |rank| 1.0 / rank as f64);
        let moved =
            |positive: &PositiveRank| (reciprocal(positive.after) - reciprocal(positive.before)).abs();
        positives.sort_by(|a, b| moved(b).total_cmp(&moved(a)));
        positives.truncate(POSITIVES);
        let rival = self
            .after
            .rankings
            .get(query)?
            .iter()
            .find(|hit| self.folder.relevance(judgments, hit.document) <= 0.0)
            .and_then(|hit| self.folder.document_ids.get(hit.document as usize));
        Some(QueryChange {
            id: self.folder.query_ids.get(query)?.clone(),
            text: shorten(self.folder.query_texts.get(query)?, GLIMPSE),
            before: value(self.before)?,
            after: value(self.after)?,
            positives,
            rival: rival.map(|id| self.glimpse(id)),
        })
    }

    fn glimpse(&self, id: &str) -> DocumentGlimpse {
        let place = self
            .folder
            .document_ids
            .iter()
            .position(|document| document == id);
        let text = place.and_then(|place| self.folder.document_texts.get(place));
        DocumentGlimpse {
            id: id.to_owned(),
            text: text.map_or_else(String::new, |text| shorten(text, GLIMPSE)),
        }
    }
}
