//! One micro-batch as the training step takes it.

use super::share::Share;
use crate::distributed::Communicator;
use crate::error::{Result, bail};
use crate::models::{Batch, EncoderConfig};
use crate::tokenize::TokenBatch;

/// Tokenized queries and their groups of passages (`Q` queries, `Q * G` passages).
#[derive(Clone, Debug, PartialEq)]
pub struct TrainBatch {
    /// The queries.
    pub queries: TokenBatch,
    /// The passages; `i * G + j` belongs to query `i`, and `j = 0` is its positive.
    pub passages: TokenBatch,
    /// Whether a query sees only its own group.
    pub no_in_batch_neg: bool,
    /// Raw teacher scores `[Q * G]` in the order of the passages.
    pub teacher_scores: Option<Vec<f32>>,
}

impl TrainBatch {
    /// Passages per query. Refuses a batch whose counts do not fit.
    pub fn group_size(&self) -> Result<usize> {
        let (queries, passages) = (self.queries.len(), self.passages.len());
        if queries == 0 || passages == 0 || passages % queries != 0 {
            bail!(
                InvalidArgument,
                "{passages} passages cannot be shared among {queries} queries"
            );
        }
        if let Some(scores) = &self.teacher_scores
            && scores.len() != passages
        {
            bail!(
                InvalidArgument,
                "{} teacher scores do not fit {passages} passages",
                scores.len()
            );
        }
        Ok(passages / queries)
    }

    /// Tokens of all texts: the real tokens, as there is no padding.
    pub fn tokens(&self) -> usize {
        self.queries.total_tokens() + self.passages.total_tokens()
    }

    /// What of the joined batch this is; a rank among several may have nothing.
    pub(crate) fn share(&self, ranks: &dyn Communicator) -> Result<Share> {
        let nothing = self.queries.is_empty() && self.passages.is_empty();
        let group_size = if nothing && ranks.world_size() > 1 {
            0
        } else {
            self.group_size()?
        };
        Share::of(
            ranks,
            self.queries.len(),
            group_size,
            self.teacher_scores.is_some(),
        )
    }

    /// All texts, queries first, in chunks of at most `texts` texts.
    pub(crate) fn chunks(
        &self,
        config: &EncoderConfig,
        texts: Option<usize>,
        share: &Share,
    ) -> Result<Vec<Batch>> {
        let all = self.queries.len() + self.passages.len();
        let find = |text: usize| match text.checked_sub(self.queries.len()) {
            None => (&self.queries, text),
            Some(index) => (&self.passages, index),
        };
        chunks(config, all, texts.unwrap_or(all), find, |text| share.text(text))
    }
}

/// Tokenized pairs of a query and a passage, in groups of one query.
#[derive(Clone, Debug, PartialEq)]
pub struct PairBatch {
    /// The pairs; `i * group_size + j` belongs to query `i`, and `j = 0` is its positive.
    pub pairs: TokenBatch,
    /// Passages per query.
    pub group_size: usize,
    /// Raw teacher scores in the order of the pairs.
    pub teacher_scores: Option<Vec<f32>>,
}

impl PairBatch {
    /// The number of queries. Refuses a batch whose counts do not fit.
    pub fn queries(&self) -> Result<usize> {
        let (pairs, group) = (self.pairs.len(), self.group_size);
        if pairs == 0 || group == 0 || !pairs.is_multiple_of(group) {
            bail!(
                InvalidArgument,
                "{pairs} pairs cannot be cut into groups of {group}"
            );
        }
        if let Some(scores) = &self.teacher_scores
            && scores.len() != pairs
        {
            bail!(
                InvalidArgument,
                "{} teacher scores do not fit {pairs} pairs",
                scores.len()
            );
        }
        Ok(pairs / group)
    }

    /// What of the joined batch this is; a rank among several may have nothing.
    pub(crate) fn share(&self, ranks: &dyn Communicator) -> Result<Share> {
        let queries = if self.pairs.is_empty() && ranks.world_size() > 1 {
            0
        } else {
            self.queries()?
        };
        Share::of(ranks, queries, self.group_size, self.teacher_scores.is_some())
    }

    /// The pairs in chunks of whole groups: as many as `pairs` holds, and at least one.
    pub(crate) fn chunks(
        &self,
        config: &EncoderConfig,
        pairs: Option<usize>,
        share: &Share,
    ) -> Result<Vec<Batch>> {
        let all = self.pairs.len();
        let groups = pairs.map_or(all, |pairs| {
            (pairs / self.group_size.max(1)).max(1) * self.group_size
        });
        let find = |pair: usize| (&self.pairs, pair);
        chunks(config, all, groups, find, |pair| share.pair(pair))
    }
}

/// One micro-batch: of texts for an embedder, of pairs for a reranker.
#[derive(Clone, Copy, Debug)]
pub enum MicroBatch<'a> {
    /// Queries and passages apart.
    Texts(&'a TrainBatch),
    /// Queries and passages together.
    Pairs(&'a PairBatch),
}

impl MicroBatch<'_> {
    /// Real tokens, as there is no padding.
    pub fn tokens(&self) -> usize {
        match self {
            Self::Texts(batch) => batch.tokens(),
            Self::Pairs(batch) => batch.pairs.total_tokens(),
        }
    }
}

impl<'a> From<&'a TrainBatch> for MicroBatch<'a> {
    fn from(batch: &'a TrainBatch) -> Self {
        Self::Texts(batch)
    }
}

impl<'a> From<&'a PairBatch> for MicroBatch<'a> {
    fn from(batch: &'a PairBatch) -> Self {
        Self::Pairs(batch)
    }
}

/// The micro-batches of one step.
#[derive(Clone, Debug)]
pub(crate) enum Batches {
    Texts(Vec<TrainBatch>),
    Pairs(Vec<PairBatch>),
}

/// `all` texts in chunks of at most `size`; `find` says where a text is, and `number` which one of the joined batch it is, so
/// that its dropout masks depend neither on the chunks nor on the ranks.
fn chunks<'a>(
    config: &EncoderConfig,
    all: usize,
    size: usize,
    find: impl Fn(usize) -> (&'a TokenBatch, usize),
    number: impl Fn(usize) -> u64,
) -> Result<Vec<Batch>> {
    let size = size.max(1);
    (0..all)
        .step_by(size)
        .map(|start| {
            let end = all.min(start + size);
            let (mut ids, mut types, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
            for text in start..end {
                let (side, index) = find(text);
                let range = side.range(index);
                ids.extend_from_slice(&side.ids[range.clone()]);
                match &side.type_ids {
                    Some(all) => types.extend_from_slice(&all[range]),
                    None => types.resize(ids.len(), 0),
                }
                offsets.push(ids.len() as u32);
            }
            Batch::new(config, &ids, &types, &offsets, (start..end).map(&number))
        })
        .collect()
}
