//! Ranking metrics: nDCG, MAP, recall, precision, MRR and capped recall at k.
//!
//! The definitions are FlagEmbedding's (`abc/evaluation/utils.py`), which takes the first four from `trec_eval`:
//! linear gain and `log2(rank + 1)` discount for nDCG, all relevant documents as the denominator of MAP and recall.
//! Two things differ, on purpose:
//!
//! * every metric is averaged over the same queries, those with at least one relevant judgment; a query without
//!   results counts as 0. FlagEmbedding averages the four over the queries present in results and judgments, and
//!   MRR and capped recall over all judged queries.
//! * every metric sees the same order of equal scores, `trec_eval`'s: the greater document id first (by bytes).
//!   FlagEmbedding computes MRR and capped recall on the order of insertion.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// FlagEmbedding's cut-offs.
pub const DEFAULT_K_VALUES: [usize; 6] = [1, 3, 5, 10, 100, 1000];

/// A ranking metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// Discounted cumulative gain over the ideal one (Järvelin and Kekäläinen 2002), linear gain.
    Ndcg,
    /// Mean average precision: the precision at each relevant rank up to k, over the number of relevant documents.
    Map,
    /// Share of the relevant documents that are among the first k.
    Recall,
    /// Share of the first k that is relevant; k counts even where fewer documents were found.
    Precision,
    /// One over the rank of the first relevant document, 0 beyond k.
    Mrr,
    /// Recall over the smaller of k and the number of relevant documents, so that 1 can be reached.
    RecallCap,
}

impl Metric {
    /// All metrics, in the order of tables.
    pub const ALL: [Self; 6] = [
        Self::Ndcg,
        Self::Map,
        Self::Recall,
        Self::Precision,
        Self::Mrr,
        Self::RecallCap,
    ];

    /// The name in keys: `ndcg` in `ndcg_at_10`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ndcg => "ndcg",
            Self::Map => "map",
            Self::Recall => "recall",
            Self::Precision => "precision",
            Self::Mrr => "mrr",
            Self::RecallCap => "recall_cap",
        }
    }

    /// The name for people: `nDCG` in `nDCG@10`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ndcg => "nDCG",
            Self::Map => "MAP",
            Self::Recall => "Recall",
            Self::Precision => "Precision",
            Self::Mrr => "MRR",
            Self::RecallCap => "Capped recall",
        }
    }
}

/// A metric at a cut-off, written `ndcg_at_10` as FlagEmbedding does.
///
/// Reads `ndcg_at_10`, `ndcg@10`, and both behind Hugging Face's `eval_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetricKey {
    /// What is measured.
    pub metric: Metric,
    /// Over how many of the first results.
    pub k: usize,
}

impl MetricKey {
    /// `metric` at `k`.
    pub const fn new(metric: Metric, k: usize) -> Self {
        Self { metric, k }
    }

    /// The form for people: `nDCG@10`.
    pub fn title(self) -> String {
        format!("{}@{}", self.metric.title(), self.k)
    }
}

impl fmt::Display for MetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}_at_{}", self.metric.name(), self.k))
    }
}

impl FromStr for MetricKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let key = text.strip_prefix("eval_").unwrap_or(text);
        let parsed = key
            .rsplit_once("_at_")
            .or_else(|| key.rsplit_once('@'))
            .and_then(|(name, k)| {
                let metric = Metric::ALL
                    .into_iter()
                    .find(|metric| metric.name().eq_ignore_ascii_case(name))?;
                let k = k.parse().ok().filter(|k| *k > 0)?;
                Some(Self { metric, k })
            });
        parsed.ok_or_else(|| {
            let names: Vec<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
            Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "`{text}` is not a metric; write NAME_at_K with one of {}",
                    names.join(", ")
                ),
            )
        })
    }
}

impl Serialize for MetricKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MetricKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// All metrics at all cut-offs for one query.
///
/// `gains` are the scores of the ranked documents, best first (0 where a document was not judged); `judged` are all
/// scores of the query. Scores up to 0 are not relevant. Without a relevant judgment every value is 0.
pub fn query_metrics(gains: &[f64], judged: &[f64], k_values: &[usize]) -> Vec<(MetricKey, f64)> {
    let mut ideal: Vec<f64> = judged.iter().copied().filter(|score| *score > 0.0).collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let relevant = ideal.len();
    let mut values = Vec::with_capacity(k_values.len() * Metric::ALL.len());
    for &k in k_values {
        let (mut hits, mut average, mut first) = (0_usize, 0.0, 0.0);
        for (index, gain) in gains.iter().take(k).enumerate() {
            if *gain > 0.0 {
                let rank = (index + 1) as f64;
                hits += 1;
                average += hits as f64 / rank;
                if hits == 1 {
                    first = 1.0 / rank;
                }
            }
        }
        let over = |denominator: usize| {
            if denominator == 0 {
                0.0
            } else {
                hits as f64 / denominator as f64
            }
        };
        let best = discounted(&ideal, k);
        for metric in Metric::ALL {
            let value = match metric {
                Metric::Ndcg if best > 0.0 => discounted(gains, k) / best,
                Metric::Map if relevant > 0 => average / relevant as f64,
                Metric::Ndcg | Metric::Map => 0.0,
                Metric::Recall => over(relevant),
                Metric::Precision => over(k),
                Metric::Mrr => first,
                Metric::RecallCap => over(relevant.min(k)),
            };
            values.push((MetricKey { metric, k }, value));
        }
    }
    values
}

/// Discounted cumulative gain of the first `k`; scores below 0 gain nothing.
fn discounted(gains: &[f64], k: usize) -> f64 {
    gains
        .iter()
        .take(k)
        .enumerate()
        .map(|(index, gain)| gain.max(0.0) / ((index + 2) as f64).log2())
        .sum()
}

/// Sorts (document id, score) as `trec_eval` does: higher score first, then the greater id by bytes.
pub fn rank<T: AsRef<str>>(results: &mut [(T, f32)]) {
    results.sort_by(|(a_id, a), (b_id, b)| {
        b.partial_cmp(a)
            .unwrap_or(Ordering::Equal)
            .then_with(|| b_id.as_ref().cmp(a_id.as_ref()))
    });
}

/// Scores a finished run, as `pytrec_eval` would: query id to document id to score, with judgments of the same shape.
///
/// Returns each judged query's values; queries without a relevant judgment are left out, queries without results
/// score 0. Results of queries that were never judged are ignored.
pub fn score_run(
    run: &BTreeMap<String, BTreeMap<String, f32>>,
    judgments: &BTreeMap<String, BTreeMap<String, f64>>,
    k_values: &[usize],
) -> BTreeMap<String, Vec<(MetricKey, f64)>> {
    let mut scores = BTreeMap::new();
    for (query, judged) in judgments {
        if judged.values().all(|score| *score <= 0.0) {
            continue;
        }
        let mut results: Vec<(&str, f32)> = run
            .get(query)
            .into_iter()
            .flatten()
            .map(|(document, score)| (document.as_str(), *score))
            .collect();
        rank(&mut results);
        let gains: Vec<f64> = results
            .iter()
            .map(|(document, _)| judged.get(*document).copied().unwrap_or(0.0))
            .collect();
        let judged: Vec<f64> = judged.values().copied().collect();
        scores.insert(query.clone(), query_metrics(&gains, &judged, k_values));
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(gains: &[f64], judged: &[f64], key: &str) -> f64 {
        let key: MetricKey = key.parse().unwrap();
        query_metrics(gains, judged, &[key.k])
            .into_iter()
            .find(|(found, _)| *found == key)
            .unwrap()
            .1
    }

    #[test]
    fn one_relevant_document_at_rank_three_scores_by_hand() {
        let (gains, judged) = ([0.0, 0.0, 1.0], [1.0, 1.0]);
        let ideal = 1.0 + 1.0 / 3_f64.log2();
        assert_eq!(value(&gains, &judged, "ndcg_at_10"), 0.5 / ideal);
        assert_eq!(value(&gains, &judged, "mrr_at_10"), 1.0 / 3.0);
        assert_eq!(value(&gains, &judged, "mrr_at_1"), 0.0);
        assert_eq!(value(&gains, &judged, "map_at_10"), 1.0 / 6.0);
        assert_eq!(value(&gains, &judged, "recall_at_3"), 0.5);
        assert_eq!(value(&gains, &judged, "precision_at_5"), 0.2);
        assert_eq!(value(&[1.0, 0.0], &judged, "recall_cap_at_1"), 1.0);
    }

    #[test]
    fn a_query_without_relevant_documents_or_results_scores_zero() {
        for key in [
            "ndcg_at_3",
            "map_at_3",
            "recall_at_3",
            "precision_at_3",
            "mrr_at_3",
            "recall_cap_at_3",
        ] {
            assert_eq!(value(&[0.0], &[0.0, -1.0], key), 0.0, "{key}");
            assert_eq!(value(&[], &[1.0], key), 0.0, "{key}");
        }
    }

    #[test]
    fn equal_scores_rank_the_greater_id_first() {
        let mut results = [("9", 0.5), ("10", 0.5), ("é", 0.5), ("a", 0.7)];
        rank(&mut results);
        assert_eq!(results.map(|(id, _)| id), ["a", "é", "9", "10"]);
    }

    #[test]
    fn keys_read_all_their_spellings_and_refuse_others() {
        let key = MetricKey::new(Metric::RecallCap, 10);
        for text in ["recall_cap_at_10", "recall_cap@10", "eval_recall_cap_at_10"] {
            assert_eq!(text.parse::<MetricKey>().unwrap(), key);
        }
        assert_eq!("nDCG@5".parse::<MetricKey>().unwrap().to_string(), "ndcg_at_5");
        for text in ["loss", "ndcg", "ndcg_at_0", "ndcg_at_-1", "hits_at_3", ""] {
            assert!(text.parse::<MetricKey>().is_err(), "{text}");
        }
    }
}
