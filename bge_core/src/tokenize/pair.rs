//! Pairs of query and passage as a cross-encoder reads them: one row of ids through the tokenizer's own template.

use rayon::prelude::*;

use super::batch::TokenBatch;
use super::tokenizer::Tokenizer;
use crate::error::{Result, bail};

/// How long a pair and its parts may be, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairLimits {
    /// Longest query, without special tokens.
    pub query: usize,
    /// Longest passage, without special tokens, before the pair is cut.
    pub passage: usize,
    /// Longest pair with its special tokens; only the passage is cut to reach it.
    pub total: usize,
    /// Positions that the model has; no pair is longer.
    pub positions: usize,
}

impl PairLimits {
    /// The limits of FlagEmbedding's rerankers: `query_max_length`, or three quarters of `max_length` without one.
    ///
    /// `max_length` is cut to the model's `positions`, where upstream fails.
    pub fn new(query_max_length: Option<usize>, max_length: usize, positions: usize) -> Self {
        let total = max_length.min(positions);
        let query = query_max_length.unwrap_or(total.saturating_mul(3) / 4);
        Self {
            query,
            passage: total,
            total,
            positions,
        }
    }

    /// The limits that FlagEmbedding trains rerankers with (`AbsRerankerTrainDataset.create_one_example`): together
    /// `query_max_len + passage_max_len` tokens, and each text may use some of the other's share.
    pub fn training(query_max_len: usize, passage_max_len: usize, positions: usize) -> Self {
        Self {
            query: query_max_len.saturating_add(passage_max_len / 4),
            passage: passage_max_len.saturating_add(query_max_len / 2),
            total: query_max_len.saturating_add(passage_max_len).min(positions),
            positions,
        }
    }
}

/// What stands around and between the tokens of the two texts, and the segment of each part.
struct PairFrame {
    before: Vec<u32>,
    between: Vec<u32>,
    after: Vec<u32>,
    /// Segments of `before`, the query, `between`, the passage and `after`.
    segments: (Vec<u32>, u32, Vec<u32>, u32, Vec<u32>),
}

impl PairFrame {
    fn of(tokenizer: &Tokenizer) -> Result<Self> {
        for probe in ["a", "1", ".", "中"] {
            let encoding = tokenizer.probe(probe, probe)?;
            let (ids, types) = (encoding.get_ids(), encoding.get_type_ids());
            let owners = encoding.get_sequence_ids();
            let special = encoding.get_special_tokens_mask();
            let span = |part: usize| {
                let own = |i: &usize| owners[*i] == Some(part) && special[*i] == 0;
                let first = (0..ids.len()).find(own)?;
                let last = (0..ids.len()).rfind(own)?;
                (first..=last).all(|i| own(&i)).then_some((first, last))
            };
            let (Some(query), Some(passage)) = (span(0), span(1)) else {
                continue;
            };
            if passage.0 <= query.1 {
                bail!(Unsupported, "it puts the second text of a pair before the first");
            }
            let cut = |all: &[u32]| {
                (
                    all[..query.0].to_vec(),
                    all[query.0],
                    all[query.1 + 1..passage.0].to_vec(),
                    all[passage.0],
                    all[passage.1 + 1..].to_vec(),
                )
            };
            let (before, _, between, _, after) = cut(ids);
            return Ok(Self {
                before,
                between,
                after,
                segments: cut(types),
            });
        }
        bail!(
            Tokenizer,
            "it makes no tokens of any pair of texts; the file is damaged or has no template for pairs"
        )
    }

    fn len(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// The ids of a pair, and their segments.
    fn around(&self, query: &[u32], passage: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let (before, own, between, other, after) = &self.segments;
        let (own, other) = (vec![*own; query.len()], vec![*other; passage.len()]);
        (
            [&self.before, query, &self.between, passage, &self.after].concat(),
            [before, &own[..], between, &other, after].concat(),
        )
    }
}

impl Tokenizer {
    /// The ids of (query, passage) pairs with the special tokens and segments of the tokenizer's pair template, encoded in parallel.
    ///
    /// The query is cut to `limits.query` tokens of its own and the passage to `limits.passage`, both on the side that the
    /// tokenizer truncates. What was cut, or holds an unknown character, is spelled out and tokenized again, as FlagEmbedding 1.4.2 does
    /// with current transformers (`prepare_for_model_compat`): the tokens of a word that the cut went through may change by that.
    /// Then the passage loses what makes the pair longer than `limits.total`. A pair whose passage would lose all
    /// its tokens stays whole, as `truncation="only_second"` of older transformers leaves it (newer ones fail); only where the
    /// model has no positions for it is the passage cut to the room that is left, and then the query. A passage without any
    /// tokens leaves the query as a single text, again as with current transformers.
    pub fn encode_pairs<Q, P>(&self, pairs: &[(Q, P)], limits: PairLimits) -> Result<TokenBatch>
    where
        Q: AsRef<str> + Sync,
        P: AsRef<str> + Sync,
    {
        let frame = PairFrame::of(self).map_err(|error| error.with_path(self.path()))?;
        let special = frame.len();
        if limits.positions <= special {
            bail!(
                InvalidArgument,
                "{} positions leave no room for a pair beside its {special} special tokens",
                limits.positions
            );
        }
        let rows: Vec<(Vec<u32>, Vec<u32>)> = pairs
            .par_iter()
            .map(|(query, passage)| {
                let query = self.part(query.as_ref(), limits.query)?;
                let passage = self.part(passage.as_ref(), limits.passage)?;
                let (query, passage) = self.fit(&query, &passage, special, limits);
                Ok(if passage.is_empty() {
                    self.single(query)
                } else {
                    frame.around(query, passage)
                })
            })
            .collect::<Result<_>>()?;
        let ids: Vec<&[u32]> = rows.iter().map(|(row, _)| row.as_slice()).collect();
        let mut batch = TokenBatch::from_rows(&ids)?;
        let types: Vec<u32> = rows.iter().flat_map(|(_, types)| types).copied().collect();
        batch.type_ids = types.iter().any(|&segment| segment != 0).then_some(types);
        Ok(batch)
    }

    /// The number of special tokens around and between the texts of a pair.
    pub fn pair_special_count(&self) -> Result<usize> {
        PairFrame::of(self).map(|frame| frame.len())
    }

    /// The ids of one text of a pair, cut to `room` and then tokenized again where that may change them.
    fn part(&self, text: &str, room: usize) -> Result<Vec<u32>> {
        let ids = self.bare(text, room)?;
        let special = self.special_tokens().all();
        if ids.len() < room && !ids.iter().any(|&id| special.contains(&Some(id))) {
            return Ok(ids);
        }
        self.respelled(&ids)
    }

    /// Query and passage of a pair cut to its limits.
    fn fit<'a>(
        &self,
        query: &'a [u32],
        passage: &'a [u32],
        special: usize,
        limits: PairLimits,
    ) -> (&'a [u32], &'a [u32]) {
        let whole = query.len() + passage.len() + special;
        let excess = whole.saturating_sub(limits.total);
        if passage.len() > excess {
            let passage = self.cut(passage, passage.len() - excess);
            return (query, passage);
        }
        if whole <= limits.positions {
            return (query, passage);
        }
        let room = limits.positions - special;
        let query = self.cut(query, room);
        (query, self.cut(passage, room - query.len()))
    }
}
