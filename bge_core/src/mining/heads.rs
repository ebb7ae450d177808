//! Candidates by BGE-M3's heads: dense search, an inverted index of token weights, both fused, and multi-vector scores of the
//! window.
//!
//! Every list has the order of the dense search: the greatest score first, equal ones by the number of the text. Token weights
//! are computed anew in each run and lie in memory; of token vectors there is a block of texts at a time.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::corpus::Corpus;
use super::event::{Reporter, Stage};
use crate::config::{Fusion, MineArguments, RetrievalMode, TextRole};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::{M3Embedder, M3Outputs, ModeWeights};
use crate::search::{Hit, SparseIndex, SparseTexts};
use crate::tokenize::TokenBatch;

/// Texts whose weights are computed at once.
const BLOCK: usize = 1024;

/// What each head says about a candidate, and whether it found it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct HeadScores {
    dense: f64,
    sparse: Option<f64>,
    colbert: Option<f64>,
    /// Its places, counted from 0, in the lists that found it.
    dense_rank: Option<u32>,
    sparse_rank: Option<u32>,
}

impl HeadScores {
    /// Adds what a line of the ledger says about it.
    pub(super) fn describe(&self, line: &mut Map<String, Value>) {
        let found = [("dense", self.dense_rank), ("sparse", self.sparse_rank)];
        let found: Vec<&str> = found
            .iter()
            .filter(|(_, rank)| rank.is_some())
            .map(|(name, _)| *name)
            .collect();
        line.insert("found_by".to_owned(), json!(found));
        line.insert("dense_score".to_owned(), json!(self.dense));
        for (key, score) in [("sparse_score", self.sparse), ("colbert_score", self.colbert)] {
            if score.is_some() {
                line.insert(key.to_owned(), json!(score));
            }
        }
    }
}

/// What was found for a query.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The window in its order, with the scores that decide.
    pub(super) hits: Vec<Hit>,
    /// Of each hit; empty where dense search works alone.
    pub(super) heads: Vec<HeadScores>,
    /// The lowest score of a positive, where it was computed here.
    pub(super) positive: Option<f64>,
}

/// A query to find candidates for.
pub(super) struct Question {
    /// Its number among the different queries.
    pub(super) number: usize,
    /// What dense search found; empty where it was not asked.
    pub(super) dense: Vec<Hit>,
    /// The positives to compare with.
    pub(super) positives: Vec<u32>,
}

/// Finds and orders candidates by several heads.
pub(super) struct Finder<'a> {
    embedder: &'a M3Embedder,
    corpus: &'a Corpus,
    mode: RetrievalMode,
    fusion: Fusion,
    rrf_k: f64,
    colbert: bool,
    weights: ModeWeights,
    sparse: Option<Sparse>,
}

struct Sparse {
    index: SparseIndex,
    /// Positives that are no candidates.
    outside: SparseTexts,
    queries: SparseTexts,
}

impl<'a> Finder<'a> {
    /// Reads the corpus with the heads that the settings name.
    pub(super) fn open(
        embedder: &'a M3Embedder,
        corpus: &'a Corpus,
        arguments: &MineArguments,
        weights: ModeWeights,
        report: &mut Reporter<'_>,
    ) -> Result<Self> {
        let has = embedder.heads();
        let sparse = arguments.retrieval_mode != RetrievalMode::Dense;
        for (wanted, has, head, field) in [
            (sparse, has.sparse, "sparse_linear", "retrieval_mode"),
            (
                arguments.colbert_rescoring,
                has.colbert,
                "colbert_linear",
                "colbert_rescoring",
            ),
        ] {
            if wanted && !has {
                let message = format!(
                    "the model folder has neither {head}.pt nor {head}.safetensors; name a BGE-M3 model, or mine without the flag"
                );
                return Err(Error::new(ErrorKind::InvalidConfig, message).with_field(field));
            }
        }
        let mut finder = Self {
            embedder,
            corpus,
            mode: arguments.retrieval_mode,
            fusion: arguments.fusion,
            rrf_k: arguments.rrf_k as f64,
            colbert: arguments.colbert_rescoring,
            weights,
            sparse: None,
        };
        if sparse {
            let candidates = corpus.candidates();
            let texts = finder.weights_of(Stage::Corpus, candidates, report, |from, to| {
                finder.passages((from as u32..to as u32).collect::<Vec<_>>().as_slice())
            })?;
            let outside =
                finder.weights_of(Stage::Positives, corpus.len() - candidates, report, |from, to| {
                    let numbers: Vec<u32> = (from + candidates..to + candidates)
                        .map(|text| text as u32)
                        .collect();
                    finder.passages(&numbers)
                })?;
            let queries = finder.weights_of(Stage::Queries, corpus.asked().len(), report, |from, to| {
                finder.queries(&(from..to).collect::<Vec<_>>())
            })?;
            finder.sparse = Some(Sparse {
                index: SparseIndex::new(&texts)?,
                outside,
                queries,
            });
        }
        Ok(finder)
    }

    /// Whether dense search brings candidates.
    pub(super) fn searches_dense(&self) -> bool {
        self.mode != RetrievalMode::Sparse
    }

    fn weights_of(
        &self,
        stage: Stage,
        count: usize,
        report: &mut Reporter<'_>,
        tokens: impl Fn(usize, usize) -> Result<TokenBatch>,
    ) -> Result<SparseTexts> {
        let outputs = M3Outputs {
            dense: false,
            sparse: true,
            colbert: false,
        };
        let mut texts = SparseTexts::default();
        // They are never there from an earlier run.
        if count > 0 {
            report.progress(stage, 0, count)?;
        }
        for from in (0..count).step_by(BLOCK) {
            let tokens = tokens(from, count.min(from + BLOCK))?;
            let mut state = Ok(());
            let found = self.embedder.encode_tokens(&tokens, outputs, |done| {
                if state.is_ok() {
                    state = report.progress(stage, from + done, count);
                }
            })?;
            state?;
            for weights in found.lexical_weights.unwrap_or_default() {
                texts.push(weights)?;
            }
        }
        Ok(texts)
    }

    fn passages(&self, numbers: &[u32]) -> Result<TokenBatch> {
        let texts = numbers
            .iter()
            .map(|number| self.corpus.text(*number))
            .collect::<Result<Vec<_>>>()?;
        self.embedder.embedder().tokenize(TextRole::Passage, &texts)
    }

    fn queries(&self, numbers: &[usize]) -> Result<TokenBatch> {
        let queries = numbers
            .iter()
            .filter_map(|number| self.corpus.asked().get(*number))
            .map(|row| self.corpus.row(*row as usize).map(|row| (row.prompt, row.query)))
            .collect::<Result<Vec<(Option<String>, String)>>>()?;
        self.embedder.embedder().tokenize_prompted(&queries)
    }

    /// The windows of queries, of `end` texts at most. `product` gives the dense score of a query with a text.
    pub(super) fn find(
        &self,
        questions: &[Question],
        end: usize,
        product: &(dyn Fn(usize, u32) -> Result<f64> + Sync),
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Found>> {
        let mut pools: Vec<(BTreeMap<u32, HeadScores>, Vec<u32>)> = Vec::new();
        let asked: Vec<Vec<u32>> = questions
            .iter()
            .map(|question| {
                question
                    .dense
                    .iter()
                    .map(|hit| hit.id)
                    .chain(question.positives.iter().copied())
                    .collect()
            })
            .collect();
        let found = self.sparse.as_ref().map(|sparse| {
            let queries: Vec<_> = questions
                .iter()
                .map(|question| sparse.queries.text(question.number))
                .collect();
            sparse.index.search(&queries, end, &asked)
        });
        for (at, question) in questions.iter().enumerate() {
            let mut pool: BTreeMap<u32, HeadScores> = BTreeMap::new();
            for (rank, hit) in question.dense.iter().enumerate() {
                pool.entry(hit.id).or_default().dense_rank = Some(rank as u32);
            }
            let sparse = found.as_ref().and_then(|found| found.get(at));
            if let Some(sparse) = sparse {
                for (rank, hit) in sparse.hits.iter().enumerate() {
                    let scores = pool.entry(hit.id).or_default();
                    (scores.sparse, scores.sparse_rank) = (Some(hit.score), Some(rank as u32));
                }
            }
            for text in &question.positives {
                pool.entry(*text).or_default();
            }
            if let (Some(sparse), Some(asked)) = (sparse, asked.get(at)) {
                for (text, score) in asked.iter().zip(&sparse.scores) {
                    if let Some(scores) = pool.get_mut(text) {
                        scores.sparse = Some(self.outside(question.number, *text).unwrap_or(*score));
                    }
                }
            }
            for (text, scores) in &mut pool {
                scores.dense = product(question.number, *text)?;
            }
            let window = self.order(&pool, end);
            pools.push((pool, window));
        }
        if self.colbert {
            let numbers: Vec<usize> = questions.iter().map(|question| question.number).collect();
            let wanted: Vec<Vec<u32>> = pools
                .iter()
                .zip(questions)
                .map(|((_, window), question)| window.iter().chain(&question.positives).copied().collect())
                .collect();
            let tokens = self.queries(&numbers)?;
            let late = self
                .embedder
                .late_scores(&tokens, &wanted, |texts| self.passages(texts), alive)?;
            for (((pool, window), wanted), late) in pools.iter_mut().zip(&wanted).zip(late) {
                pool.retain(|text, _| wanted.contains(text));
                for (text, score) in wanted.iter().zip(late) {
                    if let Some(scores) = pool.get_mut(text) {
                        scores.colbert = Some(f64::from(score));
                    }
                }
                *window = self.order(pool, end);
            }
        }
        Ok(pools
            .iter()
            .zip(questions)
            .map(|((pool, window), question)| self.finish(pool, window, question))
            .collect())
    }

    /// The sparse score of a positive that is no candidate.
    fn outside(&self, query: usize, text: u32) -> Option<f64> {
        let sparse = self.sparse.as_ref()?;
        let text = sparse
            .outside
            .text((text as usize).checked_sub(self.corpus.candidates())?);
        let products = sparse.queries.text(query).iter().filter_map(|(id, weight)| {
            let place = text.binary_search_by_key(id, |term| term.0).ok()?;
            Some(f64::from(*weight) * f64::from(text.get(place)?.1))
        });
        Some(products.sum())
    }

    fn finish(&self, pool: &BTreeMap<u32, HeadScores>, window: &[u32], question: &Question) -> Found {
        let scores = self.scores(pool);
        let score = |text: &u32| scores.get(text).copied().unwrap_or(0.0);
        let hit = |text: &u32| Hit {
            id: *text,
            score: score(text),
        };
        let lowest = question.positives.iter().map(score).reduce(f64::min);
        Found {
            hits: window.iter().map(hit).collect(),
            heads: window.iter().filter_map(|text| pool.get(text).copied()).collect(),
            // Ranks say nothing about a positive that no list holds.
            positive: lowest.filter(|_| !self.by_ranks()),
        }
    }

    fn by_ranks(&self) -> bool {
        self.fusion == Fusion::Rrf && (self.mode == RetrievalMode::Fused || self.colbert)
    }

    /// The candidates that a list found, the best first, `end` at most.
    fn order(&self, pool: &BTreeMap<u32, HeadScores>, end: usize) -> Vec<u32> {
        let scores = self.scores(pool);
        let found = |text: &u32| {
            pool.get(text)
                .is_some_and(|s| s.dense_rank.or(s.sparse_rank).is_some())
        };
        let mut all: Vec<(u32, f64)> = scores.into_iter().filter(|(text, _)| found(text)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.truncate(end);
        all.into_iter().map(|(text, _)| text).collect()
    }

    /// The deciding score of each text.
    fn scores(&self, pool: &BTreeMap<u32, HeadScores>) -> BTreeMap<u32, f64> {
        let mut late: Vec<(u32, f64)> = pool
            .iter()
            .filter(|(_, s)| s.dense_rank.or(s.sparse_rank).is_some())
            .filter_map(|(text, s)| Some((*text, s.colbert?)))
            .collect();
        late.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let late: BTreeMap<u32, u32> = (0..).zip(late).map(|(rank, (text, _))| (text, rank)).collect();
        let share = |rank: Option<u32>| rank.map_or(0.0, |rank| 1.0 / (self.rrf_k + f64::from(rank) + 1.0));
        pool.iter()
            .map(|(text, s)| {
                let score = if self.by_ranks() {
                    share(s.dense_rank) + share(s.sparse_rank) + share(late.get(text).copied())
                } else {
                    match (self.mode, self.colbert) {
                        (RetrievalMode::Dense, false) => s.dense,
                        (RetrievalMode::Sparse, false) => s.sparse.unwrap_or(0.0),
                        _ => {
                            let dense = self.searches_dense().then_some(s.dense);
                            let sparse = self.sparse.as_ref().map(|_| s.sparse.unwrap_or(0.0));
                            self.weights.mean([dense, sparse, s.colbert])
                        }
                    }
                };
                (*text, score)
            })
            .collect()
    }
}
