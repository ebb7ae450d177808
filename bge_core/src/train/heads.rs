//! The gradient of one micro-batch of BGE-M3, over its three heads.
//!
//! As in [`super::embed`], what the encoder and the heads give become the leaves of the loss, and their gradients go back chunk
//! by chunk; with `sub_batch_size` each chunk runs a second time, so that the memory is that of one sub-batch and the
//! gradient that of the whole batch, for all heads.

use candle_core::Tensor;

use super::batch::TrainBatch;
use super::embed::{Embedding, Measured, Turn};
use super::share::Share;
use crate::config::TrainingArguments;
use crate::distributed::Communicator;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::{UnifiedInputs, unified};
use crate::models::{
    Batch, BertRecord, Heads, Keep, M3, normalize_rows, normalize_rows_backward, pool, pool_backward,
};
use crate::nn::{Gradients, Part, read, tensor};

/// How a micro-batch becomes gradients of encoder and heads.
#[derive(Clone, Debug)]
pub(crate) struct HeadsLearning {
    pub(crate) embedding: Embedding,
    /// Whether the sparse and the multi-vector head learn too (`unified_finetuning`).
    unified: bool,
    /// Whether the encoder stays as it is (`fix_encoder`).
    fix_encoder: bool,
    /// The last forward without self-distillation, counted from 0; `None` without it.
    self_distill_after: Option<i64>,
    /// Ids that are no words.
    special: Vec<u32>,
}

/// What one chunk gave in the first pass, and what of it is kept for the backward.
struct Pass {
    dense: Tensor,
    weights: Vec<f32>,
    /// Token vectors, normalised where the loss wants it.
    vectors: Tensor,
    /// Their lengths before that; empty where they were not normalised.
    lengths: Vec<f32>,
    kept: Option<(Tensor, BertRecord)>,
}

/// What the loss of a micro-batch has and has not.
#[derive(Clone, Copy)]
struct Kind {
    self_distill: bool,
    without_dense: bool,
}

const BOTH: Heads = Heads {
    sparse: true,
    colbert: true,
};

impl HeadsLearning {
    pub(crate) fn new(embedding: Embedding, arguments: &TrainingArguments, special: Vec<u32>) -> Self {
        Self {
            embedding,
            unified: arguments.unified_finetuning,
            fix_encoder: arguments.fix_encoder,
            self_distill_after: arguments
                .use_self_distill
                .then_some(arguments.self_distill_start_step),
            special,
        }
    }

    /// Adds the gradient of this rank's share of the joined batch's loss, and returns the share itself.
    ///
    /// With `negatives_cross_device` and all heads, the passages of all ranks are negatives for the dense head alone, as upstream
    /// has it: the others would have to send every token.
    pub(crate) fn accumulate(
        &self,
        ranks: &dyn Communicator,
        model: &M3,
        batch: &TrainBatch,
        turn: Turn,
        grads: &mut Gradients,
    ) -> Result<Measured> {
        let Turn {
            weight,
            dropout,
            forwards,
        } = turn;
        if !self.unified {
            return self
                .embedding
                .accumulate(ranks, model.encoder(), batch, weight, dropout, grads);
        }
        let share = batch.share(ranks)?;
        let chunks = batch.chunks(model.config(), self.embedding.sub_batch_size, &share)?;
        let encoder = model.encoder();
        let most = encoder.passes(chunks.len())?;
        let alone = most == 1;
        let keep = if alone { self.embedding.keep } else { Keep::Nothing };
        let mut passes = chunks
            .iter()
            .map(|chunk| self.forward(model, chunk, keep, dropout))
            .collect::<Result<Vec<_>>>()?;
        for _ in chunks.len()..most {
            encoder.idle_forward()?;
        }
        let idle = |count: usize, grads: &mut Gradients| -> Result<()> {
            for _ in 0..count {
                if !alone {
                    encoder.idle_forward()?;
                }
                if self.fix_encoder {
                    encoder.collect(Part::Rest, grads)?;
                } else {
                    encoder.idle_backward(grads)?;
                }
            }
            Ok(())
        };
        let crossing = self.embedding.cross_device && !batch.no_in_batch_neg && ranks.world_size() > 1;
        let self_distill = self
            .self_distill_after
            .is_some_and(|start| forwards as i64 > start);
        let across = if crossing {
            let dense = match &*passes {
                [] => None,
                passes => Some(joined(passes, |pass| &pass.dense)?),
            };
            let part = UnifiedInputs::dense_weight(self_distill);
            let found =
                self.embedding
                    .loss_across(ranks, encoder, &share, batch, dense.as_ref(), weight * part)?;
            found.map(|(measured, gradient)| (measured.loss * part, gradient))
        } else {
            None
        };
        if chunks.is_empty() {
            idle(most, grads)?;
            return Ok(Measured::default()); // this rank has no part in the batch
        }
        let kind = Kind {
            self_distill,
            without_dense: crossing,
        };
        let mut loss = self.loss(&share, batch, &passes, weight * share.weight(), kind)?;
        let mut measured = Measured {
            loss: loss.total * share.weight(),
            accuracy: loss.accuracy * share.weight(),
        };
        if let Some((dense, gradient)) = across {
            measured.loss += dense;
            loss.d_dense = (loss.d_dense + gradient)?;
        }
        if !measured.loss.is_finite() {
            idle(most, grads)?;
            return Ok(measured); // the caller stops; there is no gradient worth computing
        }
        let (mut first_text, mut first_token) = (0, 0);
        for (chunk, pass) in chunks.iter().zip(&mut passes) {
            let (texts, tokens) = (chunk.texts(), chunk.tokens());
            let (hidden, record) = match pass.kept.take() {
                Some(kept) => kept,
                None => self.record(model, chunk, dropout)?,
            };
            let d_dense = loss.d_dense.narrow(0, first_text, texts)?.contiguous()?;
            let d_weights = &loss.d_weights[first_token..first_token + tokens];
            let width = pass.vectors.dim(1)?;
            let mut d_vectors = loss.d_vectors[first_token * width..(first_token + tokens) * width].to_vec();
            if !pass.lengths.is_empty() {
                normalize_rows_backward(&mut d_vectors, &read(&pass.vectors)?, &pass.lengths);
            }
            let d_hidden = pool_backward(self.embedding.pooling, &d_dense, chunk.offsets())?;
            let d_vectors = tensor(d_vectors, (tokens, width))?;
            model.heads_backward(&hidden, &pass.weights, d_weights, &d_vectors, &d_hidden, grads)?;
            drop(hidden);
            if self.fix_encoder {
                encoder.collect(Part::Rest, grads)?;
            } else {
                encoder.backward(chunk, record, d_hidden, dropout, grads)?;
            }
            first_text += texts;
            first_token += tokens;
        }
        idle(most - chunks.len(), grads)?;
        Ok(measured)
    }

    fn forward(&self, model: &M3, chunk: &Batch, keep: Keep, dropout: Option<u64>) -> Result<Pass> {
        let (hidden, record) = model.encoder().forward(chunk, keep, dropout)?;
        let out = model.run_heads(&hidden, BOTH)?;
        let (Some(weights), Some(vectors)) = (out.weights, out.vectors) else {
            return Err(Error::new(
                ErrorKind::Internal,
                "a model in training lacks a head",
            ));
        };
        let lengths = if self.embedding.loss.normalize_embeddings {
            normalize_rows(&vectors)?
        } else {
            Vec::new()
        };
        Ok(Pass {
            dense: pool(self.embedding.pooling, &hidden, chunk.offsets())?,
            weights,
            vectors,
            lengths,
            kept: record.map(|record| (hidden, record)),
        })
    }

    fn record(&self, model: &M3, chunk: &Batch, dropout: Option<u64>) -> Result<(Tensor, BertRecord)> {
        let (hidden, record) = model.encoder().forward(chunk, self.embedding.keep, dropout)?;
        let record = record.ok_or_else(|| Error::new(ErrorKind::Internal, "a forward kept no record"))?;
        Ok((hidden, record))
    }

    fn loss(
        &self,
        share: &Share,
        batch: &TrainBatch,
        passes: &[Pass],
        weight: f64,
        kind: Kind,
    ) -> Result<crate::loss::UnifiedLoss> {
        let (queries, group_size) = (share.own, share.group_size);
        let dense = joined(passes, |pass| &pass.dense)?;
        let ids = [batch.queries.ids.as_slice(), &batch.passages.ids].concat();
        let first = batch.queries.total_tokens() as u32;
        let mut offsets = batch.queries.offsets.clone();
        offsets.extend(batch.passages.offsets.iter().skip(1).map(|at| first + at));
        let weights: Vec<f32> = passes
            .iter()
            .flat_map(|pass| pass.weights.iter().copied())
            .collect();
        let teacher = batch
            .teacher_scores
            .as_ref()
            .filter(|_| share.scored)
            .map(|scores| Tensor::from_slice(scores, (queries, group_size), dense.device()))
            .transpose()?;
        let inputs = UnifiedInputs {
            dense: &dense,
            ids: &ids,
            offsets: &offsets,
            weights: &weights,
            vectors: &joined(passes, |pass| &pass.vectors)?,
            special: &self.special,
            queries,
            group_size,
            no_in_batch_neg: batch.no_in_batch_neg,
            teacher_scores: teacher.as_ref(),
            self_distill: kind.self_distill,
            without_dense: kind.without_dense,
        };
        unified(&self.embedding.loss, &inputs, weight)
    }
}

fn joined(passes: &[Pass], pick: fn(&Pass) -> &Tensor) -> Result<Tensor> {
    let parts: Vec<&Tensor> = passes.iter().map(pick).collect();
    Ok(Tensor::cat(&parts, 0)?)
}
