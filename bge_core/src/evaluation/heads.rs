//! BGE-M3's heads measured one by one and together, and the weights of their common score chosen.
//!
//! Dense and sparse search look at all documents. The multi-vector score and the weighted means put the candidates of a query
//! in order: the first `head_window` of the dense and of the sparse list. So their metrics beyond that many results say what
//! the candidates hold, no more.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::beir::BeirFolder;
use super::metrics::{Metric, MetricKey, query_metrics};
use super::models::{Listener, MeasureEvent};
use super::retrieval::{Evaluation, EvaluationOptions, Role, evaluate, identical_ids, score_queries};
use super::search::{Hit, places, top_k};
use crate::config::TextRole;
use crate::error::Result;
use crate::inference::{LexicalWeights, M3Embedder, M3Outputs, ModeWeights, Vectors, WeightsSource};
use crate::search::{SparseIndex, SparseTexts, TokenWeights};

/// The metric that weights are chosen by.
const METRIC: MetricKey = MetricKey::new(Metric::Ndcg, 10);
/// Steps of a weight from 0 to 1 when weights are chosen.
const STEPS: u8 = 10;

/// A score of BGE-M3, under the names of upstream's `compute_score`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// One vector a text.
    #[serde(rename = "dense")]
    Dense,
    /// The weights of shared tokens.
    #[serde(rename = "sparse")]
    Sparse,
    /// One vector a token.
    #[serde(rename = "colbert")]
    Colbert,
    /// The weighted mean of the first two.
    #[serde(rename = "sparse+dense")]
    SparseDense,
    /// The weighted mean of all three.
    #[serde(rename = "colbert+sparse+dense")]
    ColbertSparseDense,
}

impl Mode {
    /// Every mode, in the order of tables.
    pub const ALL: [Self; 5] = [
        Self::Dense,
        Self::Sparse,
        Self::Colbert,
        Self::SparseDense,
        Self::ColbertSparseDense,
    ];

    /// The name in tables and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
            Self::Colbert => "colbert",
            Self::SparseDense => "sparse+dense",
            Self::ColbertSparseDense => "colbert+sparse+dense",
        }
    }
}

/// What each head and their weighted means reach on a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadsReport {
    /// How much each score counts in the means.
    pub weights: ModeWeights,
    /// Who says so.
    pub weights_from: WeightsSource,
    /// Candidates that dense and sparse search each bring for a query.
    pub head_window: usize,
    /// Means over the queries.
    pub modes: BTreeMap<Mode, BTreeMap<MetricKey, f64>>,
}

/// The weights that a development set asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedWeights {
    /// Name of the folder.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Queries averaged over.
    pub queries: usize,
    /// The best weights.
    pub weights: ModeWeights,
    /// What the mean of all three reaches with them.
    pub ndcg_at_10: f64,
    /// What it reaches where all count the same.
    pub ndcg_at_10_before: f64,
}

/// The candidates of one query with the scores of all heads.
#[derive(Clone, Debug, Default)]
struct Candidates {
    documents: Vec<u32>,
    /// Of each document: dense, sparse, multi-vector.
    scores: Vec<[f64; 3]>,
}

/// Everything that the heads say about a folder.
#[derive(Clone, Debug)]
pub(super) struct HeadScores {
    sparse: Vec<Vec<Hit>>,
    candidates: Vec<Candidates>,
    /// Place of each document among equal scores.
    places: Vec<u32>,
    window: usize,
}

/// Evaluates the dense head as [`evaluate`] does, and scores the candidates with all heads.
pub(super) fn measure_heads(
    embedder: &M3Embedder,
    folder: &BeirFolder,
    options: &EvaluationOptions,
    window: usize,
    listener: &mut Listener<'_>,
) -> Result<(Evaluation, HeadScores)> {
    let role_of = |role: Role| match role {
        Role::Query => TextRole::Query,
        Role::Passage => TextRole::Passage,
    };
    let mut weights: Vec<SparseTexts> = Vec::new();
    let mut questions = None;
    let evaluation = evaluate(folder, options, |role, texts| {
        let outputs = M3Outputs {
            colbert: false,
            ..M3Outputs::ALL
        };
        let tokens = embedder.embedder().tokenize(role_of(role), texts)?;
        let total = texts.len();
        let listen = |done| listener(MeasureEvent::Encoded { done, total });
        let found = embedder.encode_tokens(&tokens, outputs, listen)?;
        let mut gathered = SparseTexts::default();
        for text in found.lexical_weights.unwrap_or_default() {
            gathered.push(terms(text))?;
        }
        weights.push(gathered);
        if role == Role::Query {
            questions = Some(tokens);
        }
        Ok(found.dense_vecs.unwrap_or_default())
    })?;
    let (documents, queries) = (
        weights.pop().unwrap_or_default(),
        weights.pop().unwrap_or_default(),
    );
    let places = places(&folder.document_ids);
    let index = SparseIndex::new(&documents)?.with_places(places.clone());
    drop(documents);
    let skip = identical_ids(folder, options.ignore_identical_ids);
    let asked: Vec<&TokenWeights> = (0..queries.len()).map(|query| queries.text(query)).collect();
    let depth = evaluation.report.depth;
    let deeper;
    let dense = if depth < window {
        let (queries, documents) = (&evaluation.query_vectors, &evaluation.document_vectors);
        let ids = &folder.document_ids;
        deeper = top_k(&queries.data, &documents.data, queries.dim, ids, &skip, window)?;
        &deeper
    } else {
        &evaluation.rankings
    };
    let dense: Vec<Vec<u32>> = dense
        .iter()
        .map(|hits| hits.iter().take(window).map(|hit| hit.document).collect())
        .collect();
    // One more, where one may have to go.
    let found = index.search(&asked, depth.max(window).saturating_add(1), &dense);
    let mut sparse = Vec::new();
    let mut candidates = Vec::new();
    for ((query, found), (dense, skip)) in found.iter().enumerate().zip(dense.iter().zip(&skip)) {
        let kept = found.hits.iter().filter(|hit| Some(hit.id) != *skip);
        let hits: Vec<&crate::search::Hit> = kept.take(depth.max(window)).collect();
        let mut all: BTreeMap<u32, f64> = dense.iter().copied().zip(found.scores.iter().copied()).collect();
        all.extend(hits.iter().take(window).map(|hit| (hit.id, hit.score)));
        let vector = evaluation.query_vectors.row(query);
        candidates.push(Candidates {
            documents: all.keys().copied().collect(),
            scores: all
                .iter()
                .map(|(document, sparse)| {
                    [
                        product(vector, &evaluation.document_vectors, *document),
                        *sparse,
                        0.0,
                    ]
                })
                .collect(),
        });
        let hits = hits.iter().take(depth).map(|hit| Hit {
            document: hit.id,
            score: hit.score as f32,
        });
        sparse.push(hits.collect());
    }
    if let Some(questions) = questions {
        let wanted: Vec<Vec<u32>> = candidates.iter().map(|query| query.documents.clone()).collect();
        let read = |documents: &[u32]| {
            let text = |document: &u32| {
                folder
                    .document_texts
                    .get(*document as usize)
                    .map_or("", String::as_str)
            };
            let texts: Vec<&str> = documents.iter().map(text).collect();
            embedder.embedder().tokenize(TextRole::Passage, &texts)
        };
        let late = embedder.late_scores(&questions, &wanted, read, &mut || Ok(()))?;
        for (query, late) in candidates.iter_mut().zip(late) {
            for (scores, late) in query.scores.iter_mut().zip(late) {
                scores[2] = f64::from(late);
            }
        }
    }
    Ok((
        evaluation,
        HeadScores {
            sparse,
            candidates,
            places,
            window,
        },
    ))
}

/// The terms of a text in the order of their ids.
fn terms(weights: LexicalWeights) -> impl Iterator<Item = (u32, f32)> {
    weights.into_iter()
}

/// The product of a query's vector with a document's, summed as the search does it.
fn product(query: &[f32], documents: &Vectors, document: u32) -> f64 {
    let products = query.iter().zip(documents.row(document as usize));
    products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

impl HeadScores {
    /// The metrics of every mode with these weights.
    pub(super) fn report(
        &self,
        folder: &BeirFolder,
        evaluation: &Evaluation,
        k_values: &[usize],
        (weights, weights_from): (ModeWeights, WeightsSource),
    ) -> HeadsReport {
        let mean = |rankings: &[Vec<Hit>]| -> BTreeMap<MetricKey, f64> {
            let scores = score_queries(folder, rankings, k_values);
            let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
            scores
                .values
                .iter()
                .map(|(key, values)| (*key, mean(values)))
                .collect()
        };
        let modes = Mode::ALL.map(|mode| {
            let found = match mode {
                Mode::Dense => mean(&evaluation.rankings),
                Mode::Sparse => mean(&self.sparse),
                Mode::Colbert => mean(&self.rank(|scores| scores[2])),
                Mode::SparseDense => {
                    mean(&self.rank(|[dense, sparse, _]| weights.mean([Some(dense), Some(sparse), None])))
                }
                Mode::ColbertSparseDense => mean(&self.rank(|scores| weights.mean(scores.map(Some)))),
            };
            (mode, found)
        });
        HeadsReport {
            weights,
            weights_from,
            head_window: self.window,
            modes: modes.into(),
        }
    }

    /// The candidates of each query by a score, the best first; equal ones as in every list of results.
    fn rank(&self, score: impl Fn([f64; 3]) -> f64 + Sync) -> Vec<Vec<Hit>> {
        let one = |query: &Candidates| {
            let mut hits: Vec<(u32, f64)> = query
                .documents
                .iter()
                .zip(&query.scores)
                .map(|(document, scores)| (*document, score(*scores)))
                .collect();
            let place = |document: u32| self.places.get(document as usize).copied();
            hits.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| place(a.0).cmp(&place(b.0))));
            hits.into_iter()
                .map(|(document, score)| Hit {
                    document,
                    score: score as f32,
                })
                .collect()
        };
        self.candidates.par_iter().map(one).collect()
    }

    /// The weights whose mean of all three has the greatest nDCG@10 on a development set.
    ///
    /// Tried are all tenths that sum to 1, the most equal ones first; of equal results the first one counts.
    pub(super) fn tune(&self, folder: &BeirFolder) -> TunedWeights {
        let quality = |weights: ModeWeights| {
            let rankings = self.rank(|scores| weights.mean(scores.map(Some)));
            let values = rankings
                .par_iter()
                .zip(&folder.judgments)
                .map(|(hits, judgments)| {
                    let relevance = |hit: &Hit| folder.relevance(judgments, hit.document);
                    let gains: Vec<f64> = hits.iter().take(METRIC.k).map(relevance).collect();
                    let judged: Vec<f64> = judgments.values().copied().collect();
                    let all = query_metrics(&gains, &judged, &[METRIC.k]);
                    all.into_iter()
                        .find(|(key, _)| *key == METRIC)
                        .map_or(0.0, |(_, value)| value)
                });
            let values: Vec<f64> = values.collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let before = quality(ModeWeights::default());
        let mut best = (ModeWeights::default(), f64::NEG_INFINITY);
        for weights in grid() {
            let found = quality(weights);
            if found > best.1 {
                best = (weights, found);
            }
        }
        TunedWeights {
            dataset: folder.name(),
            split: folder.split.clone(),
            queries: folder.query_ids.len(),
            weights: best.0,
            ndcg_at_10: best.1,
            ndcg_at_10_before: before,
        }
    }
}

/// All weights in tenths that sum to 1, the most equal ones first, then the greater dense and sparse weight.
fn grid() -> Vec<ModeWeights> {
    let mut points: Vec<[u8; 3]> = (0..=STEPS)
        .flat_map(|dense| (0..=STEPS - dense).map(move |sparse| [dense, sparse, STEPS - dense - sparse]))
        .collect();
    let spread = |point: &[u8; 3]| point.iter().map(|x| u32::from(*x).pow(2)).sum::<u32>();
    points.sort_by(|a, b| spread(a).cmp(&spread(b)).then_with(|| b.cmp(a)));
    let share = |tenths: u8| f32::from(tenths) / f32::from(STEPS);
    points
        .into_iter()
        .map(|[dense, sparse, colbert]| ModeWeights {
            dense: share(dense),
            sparse: share(sparse),
            colbert: share(colbert),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_begins_with_equal_weights_and_has_every_corner() {
        let grid = grid();
        assert_eq!(grid.len(), 66);
        assert_eq!(grid[0].all(), [0.4, 0.3, 0.3]);
        for corner in [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] {
            assert!(grid[63..].iter().any(|weights| weights.all() == corner));
        }
    }
}
