//! The gradient of one micro-batch, at once or by GradCache.
//!
//! The encoder's backward is explicit, so both ways are one: vectors become leaves of the loss, the loss gives
//! their gradients, and the encoder takes these back. With `sub_batch_size` the encoder runs twice over one
//! sub-batch at a time (Gao et al. 2021): first for the vectors alone, then, when their gradients are known, keeping
//! what the backward needs. Dropout masks are keyed, so both passes see the same network.

use candle_core::{Tensor, Var};

use super::batch::TrainBatch;
use crate::config::PoolingMethod;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::{LossConfig, LossInputs, contrastive};
use crate::models::{Batch, Bert, BertRecord, Keep};
use crate::nn::Gradients;

/// How a micro-batch becomes gradients.
#[derive(Clone, Debug)]
pub(crate) struct Embedding {
    pub(crate) pooling: PoolingMethod,
    pub(crate) loss: LossConfig,
    /// Texts per sub-batch; `None` runs all at once.
    pub(crate) sub_batch_size: Option<usize>,
    /// What a forward with gradients keeps: everything, or the inputs of the layers (`gradient_checkpointing`).
    pub(crate) keep: Keep,
}

/// What a micro-batch measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) loss: f64,
    pub(crate) accuracy: f64,
}

impl Embedding {
    /// Adds `weight` times the gradient of the batch's loss, and returns the loss itself.
    pub(crate) fn accumulate(
        &self,
        model: &Bert,
        batch: &TrainBatch,
        weight: f64,
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<Measured> {
        let chunks = batch.chunks(model.config(), self.sub_batch_size)?;
        let alone = chunks.len() == 1;
        let mut vectors = Vec::with_capacity(chunks.len());
        let mut kept: Option<BertRecord> = None;
        for chunk in &chunks {
            let keep = if alone { self.keep } else { Keep::Nothing };
            let (part, record) = model.vectors(chunk, self.pooling, keep, dropout)?;
            kept = record;
            vectors.push(part);
        }
        let (measured, gradients) = self.loss(batch, &Tensor::cat(&vectors, 0)?, weight)?;
        drop(vectors);
        if !measured.loss.is_finite() {
            return Ok(measured); // the caller stops; there is no gradient worth computing
        }
        let mut first = 0;
        for chunk in &chunks {
            let record = match kept.take() {
                Some(record) => record,
                None => self.record(model, chunk, dropout)?,
            };
            let gradient = gradients.narrow(0, first, chunk.texts())?.contiguous()?;
            first += chunk.texts();
            model.vectors_backward(chunk, self.pooling, record, &gradient, dropout, grads)?;
        }
        Ok(measured)
    }

    fn record(&self, model: &Bert, chunk: &Batch, dropout: Option<u64>) -> Result<BertRecord> {
        let (_, record) = model.vectors(chunk, self.pooling, self.keep, dropout)?;
        record.ok_or_else(|| Error::new(ErrorKind::Internal, "a forward kept no record"))
    }

    /// The loss of the vectors `[Q + Q * G, D]`, and its gradient times `weight`.
    fn loss(&self, batch: &TrainBatch, vectors: &Tensor, weight: f64) -> Result<(Measured, Tensor)> {
        let (queries, group_size) = (batch.queries.len(), batch.group_size()?);
        let leaf = Var::from_tensor(vectors)?;
        let teacher = batch
            .teacher_scores
            .as_ref()
            .map(|scores| Tensor::from_slice(scores, (queries, group_size), vectors.device()))
            .transpose()?;
        let inputs = LossInputs {
            queries: &leaf.narrow(0, 0, queries)?,
            passages: &leaf.narrow(0, queries, queries * group_size)?,
            group_size,
            no_in_batch_neg: batch.no_in_batch_neg,
            teacher_scores: teacher.as_ref(),
        };
        let output = contrastive(&self.loss, &inputs)?;
        let measured = Measured {
            loss: f64::from(output.total.to_scalar::<f32>()?),
            accuracy: f64::from(output.accuracy.to_scalar::<f32>()?),
        };
        let store = (output.total * weight)?.backward()?;
        let gradient = match store.get(leaf.as_tensor()) {
            Some(gradient) => gradient.contiguous()?,
            None => vectors.zeros_like()?, // a loss of one candidate is constant
        };
        Ok((measured, gradient))
    }
}
