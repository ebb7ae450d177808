//! Multi-vector scores of many pairs: a bounded number of token vectors in memory, each text encoded once in a block.

use std::ops::Range;

use rayon::prelude::*;

use super::m3::{M3Embedder, M3Outputs, colbert_score};
use super::vectors::Vectors;
use crate::error::{Result, bail};
use crate::tokenize::TokenBatch;

/// Tokens whose vectors are in memory at once, of queries and again of texts: 256 MiB where they have 1,024 numbers.
const TOKENS: usize = 1 << 16;
/// Texts that are read at once.
const READ: usize = 256;

/// A pair that waits for its score.
#[derive(Clone, Copy)]
struct Job {
    text: u32,
    query: u32,
    slot: u32,
}

impl M3Embedder {
    /// The multi-vector scores of each query with the texts that `wanted` lists for it, in their order.
    ///
    /// `read` gives the tokens of texts by their numbers. `alive` is asked between batches; its error ends the work. No score
    /// depends on the queries and texts around it.
    pub(crate) fn late_scores(
        &self,
        queries: &TokenBatch,
        wanted: &[Vec<u32>],
        read: impl Fn(&[u32]) -> Result<TokenBatch>,
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Vec<f32>>> {
        let mut scores: Vec<Vec<f32>> = wanted.iter().map(|texts| vec![0.0; texts.len()]).collect();
        for block in blocks(queries) {
            let vectors = self.token_vectors(&queries.slice(block.clone()), alive)?;
            let mut jobs = Vec::new();
            for query in block.clone() {
                for (slot, text) in wanted.get(query).into_iter().flatten().enumerate() {
                    let (query, slot) = ((query - block.start) as u32, slot as u32);
                    jobs.push(Job {
                        text: *text,
                        query,
                        slot,
                    });
                }
            }
            jobs.sort_by_key(|job| job.text);
            let mut texts: Vec<u32> = jobs.iter().map(|job| job.text).collect();
            texts.dedup();
            for texts in texts.chunks(READ) {
                let tokens = read(texts)?;
                for part in blocks(&tokens) {
                    let passages = self.token_vectors(&tokens.slice(part.clone()), alive)?;
                    let texts = texts.get(part).unwrap_or_default();
                    let (Some(first), Some(last)) = (texts.first(), texts.last()) else {
                        continue;
                    };
                    let from = jobs.partition_point(|job| job.text < *first);
                    let to = jobs.partition_point(|job| job.text <= *last);
                    let jobs = jobs.get(from..to).unwrap_or_default();
                    let score = |job: &Job| {
                        let query = vectors.get(job.query as usize);
                        let place = texts.binary_search(&job.text).ok();
                        let passage = place.and_then(|place| passages.get(place));
                        query.zip(passage).map_or(0.0, |(q, p)| colbert_score(q, p))
                    };
                    let found: Vec<f32> = jobs.par_iter().map(score).collect();
                    for (job, score) in jobs.iter().zip(found) {
                        if !score.is_finite() {
                            bail!(
                                NotFinite,
                                "the multi-vector head gives the score {score}; the model is damaged or its training diverged"
                            );
                        }
                        let query = scores.get_mut(block.start + job.query as usize);
                        if let Some(slot) = query.and_then(|scores| scores.get_mut(job.slot as usize)) {
                            *slot = score;
                        }
                    }
                }
            }
        }
        Ok(scores)
    }

    fn token_vectors(
        &self,
        tokens: &TokenBatch,
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Vectors>> {
        let outputs = M3Outputs {
            dense: false,
            sparse: false,
            colbert: true,
        };
        let mut state = Ok(());
        let vectors = self.encode_tokens(tokens, outputs, |_| {
            if state.is_ok() {
                state = alive();
            }
        })?;
        state?;
        Ok(vectors.colbert_vecs.unwrap_or_default())
    }
}

/// Ranges of texts with at most [`TOKENS`] tokens, unless a single text has more.
fn blocks(tokens: &TokenBatch) -> Vec<Range<usize>> {
    let (mut found, mut start, mut sum) = (Vec::new(), 0, 0);
    for (text, length) in tokens.lengths().enumerate() {
        if sum + length > TOKENS && text > start {
            found.push(start..text);
            (start, sum) = (text, 0);
        }
        sum += length;
    }
    if start < tokens.len() {
        found.push(start..tokens.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_all_texts_and_hold_few_tokens() {
        let lengths = [TOKENS / 2, TOKENS / 2, 1, TOKENS + 5, 2, 3];
        let rows: Vec<Vec<u32>> = lengths.iter().map(|length| vec![7; *length]).collect();
        let found = blocks(&TokenBatch::from_rows(&rows).unwrap());
        assert_eq!(found, [0..2, 2..3, 3..4, 4..6]);
        assert!(blocks(&TokenBatch::from_rows::<Vec<u32>>(&[]).unwrap()).is_empty());
    }
}
