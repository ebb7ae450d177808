//! One micro-batch as the training step takes it.

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

    /// All texts, queries first, in chunks of at most `texts` texts; a text keeps its number in the batch, so that
    /// its dropout masks do not depend on the chunks.
    pub(crate) fn chunks(&self, config: &EncoderConfig, texts: Option<usize>) -> Result<Vec<Batch>> {
        let all = self.queries.len() + self.passages.len();
        let size = texts.unwrap_or(all).max(1);
        (0..all)
            .step_by(size)
            .map(|start| {
                let end = all.min(start + size);
                let (mut ids, mut types, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
                for text in start..end {
                    let (side, index) = match text.checked_sub(self.queries.len()) {
                        None => (&self.queries, text),
                        Some(index) => (&self.passages, index),
                    };
                    let range = side.range(index);
                    ids.extend_from_slice(&side.ids[range.clone()]);
                    match &side.type_ids {
                        Some(all) => types.extend_from_slice(&all[range]),
                        None => types.resize(ids.len(), 0),
                    }
                    offsets.push(ids.len() as u32);
                }
                Batch::new(config, &ids, &types, &offsets, start as u64..end as u64)
            })
            .collect()
    }
}
