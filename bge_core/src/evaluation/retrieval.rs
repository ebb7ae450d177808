//! One evaluation: encode a folder's queries and documents, search exactly, score every query.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::beir::BeirFolder;
use super::metrics::{DEFAULT_K_VALUES, MetricKey, query_metrics};
use super::search::{Hit, top_k};
use crate::error::{Result, bail};
use crate::inference::Vectors;

/// Which side of a search a text is on; instructions and lengths differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What is searched with.
    Query,
    /// What is searched.
    Passage,
}

/// How to evaluate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationOptions {
    /// Cut-offs of the metrics; FlagEmbedding's are 1, 3, 5, 10, 100 and 1000.
    pub k_values: Vec<usize>,
    /// Results kept for a query; metrics beyond it see only these. FlagEmbedding's `search_top_k`.
    pub search_top_k: usize,
    /// Whether a document with the id of the query is left out of its results.
    pub ignore_identical_ids: bool,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self {
            k_values: DEFAULT_K_VALUES.to_vec(),
            search_top_k: 1000,
            ignore_identical_ids: false,
        }
    }
}

/// The metrics of one model on one folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationReport {
    /// Name of the folder.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Documents searched.
    pub documents: usize,
    /// Queries averaged over: those with a relevant document.
    pub queries: usize,
    /// Numbers in a vector.
    pub dim: usize,
    /// Results kept for a query.
    pub depth: usize,
    /// Means over the queries, at full precision.
    pub metrics: BTreeMap<MetricKey, f64>,
    /// Warnings about the data.
    pub warnings: Vec<String>,
}

impl EvaluationReport {
    /// One metric by its name: `ndcg_at_10`, or `eval_ndcg_at_10`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.metrics.get(&name.parse().ok()?).copied()
    }
}

/// The metrics of every single query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryScores {
    /// Ids of the queries.
    pub queries: Vec<String>,
    /// For each metric one value for each query.
    pub values: BTreeMap<MetricKey, Vec<f64>>,
}

/// Everything one evaluation found; [`compare`](super::compare) takes two.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The means.
    pub report: EvaluationReport,
    /// The values they are the means of.
    pub scores: QueryScores,
    /// The found documents of each query, best first.
    pub rankings: Vec<Vec<Hit>>,
    /// Vectors of the queries.
    pub query_vectors: Vectors,
    /// Vectors of the documents.
    pub document_vectors: Vectors,
}

/// Encodes the queries, then the documents, of a folder, searches exactly by inner product and scores.
///
/// `encode` returns one row for each text, in order; it is called twice.
pub fn evaluate(
    folder: &BeirFolder,
    options: &EvaluationOptions,
    mut encode: impl FnMut(Role, &[String]) -> Result<Vectors>,
) -> Result<Evaluation> {
    if options.k_values.is_empty() || options.k_values.contains(&0) || options.search_top_k == 0 {
        bail!(InvalidArgument, "k_values and search_top_k must be at least 1");
    }
    let query_vectors = encode(Role::Query, &folder.query_texts)?;
    let document_vectors = encode(Role::Passage, &folder.document_texts)?;
    for (vectors, texts) in [
        (&query_vectors, &folder.query_texts),
        (&document_vectors, &folder.document_texts),
    ] {
        if vectors.len() != texts.len() || vectors.dim != query_vectors.dim {
            bail!(
                Internal,
                "the encoder returned {} vectors of {} numbers for {} texts",
                vectors.len(),
                vectors.dim,
                texts.len()
            );
        }
    }
    let deepest = options.k_values.iter().copied().max().unwrap_or(1);
    let depth = options.search_top_k.min(deepest).min(folder.document_ids.len());
    let rankings = top_k(
        &query_vectors.data,
        &document_vectors.data,
        query_vectors.dim,
        &folder.document_ids,
        &identical_ids(folder, options.ignore_identical_ids),
        depth,
    )?;
    let scores = score_queries(folder, &rankings, &options.k_values);
    let metrics = scores
        .values
        .iter()
        .map(|(key, values)| (*key, values.iter().sum::<f64>() / values.len().max(1) as f64))
        .collect();
    let report = EvaluationReport {
        dataset: folder.name(),
        split: folder.split.clone(),
        documents: folder.document_ids.len(),
        queries: folder.query_ids.len(),
        dim: query_vectors.dim,
        depth,
        metrics,
        warnings: folder.issues.iter().map(ToString::to_string).collect(),
    };
    Ok(Evaluation {
        report,
        scores,
        rankings,
        query_vectors,
        document_vectors,
    })
}

/// For each query the document of the same id, where that is to be left out.
pub(super) fn identical_ids(folder: &BeirFolder, ignore: bool) -> Vec<Option<u32>> {
    if !ignore {
        return vec![None; folder.query_ids.len()];
    }
    let places = folder.document_places();
    folder
        .query_ids
        .iter()
        .map(|id| places.get(id.as_str()).copied())
        .collect()
}

pub(super) fn score_queries(folder: &BeirFolder, rankings: &[Vec<Hit>], k_values: &[usize]) -> QueryScores {
    let mut values: BTreeMap<MetricKey, Vec<f64>> = BTreeMap::new();
    for (hits, judgments) in rankings.iter().zip(&folder.judgments) {
        let gains: Vec<f64> = hits
            .iter()
            .map(|hit| folder.relevance(judgments, hit.document))
            .collect();
        let judged: Vec<f64> = judgments.values().copied().collect();
        for (key, value) in query_metrics(&gains, &judged, k_values) {
            values.entry(key).or_default().push(value);
        }
    }
    QueryScores {
        queries: folder.query_ids.clone(),
        values,
    }
}
