//! The gradient of one micro-batch, at once or by GradCache.
//!
//! The encoder's backward is explicit, so both ways are one: vectors become leaves of the loss, the loss gives
//! their gradients, and the encoder takes these back. With `sub_batch_size` the encoder runs twice over one
//! sub-batch at a time (Gao et al. 2021): first for the vectors alone, then, when their gradients are known, keeping
//! what the backward needs. Dropout masks are keyed, so both passes see the same network.
//!
//! With `negatives_cross_device` the ranks give each other their passages' vectors. Each computes the loss of its own queries
//! against all passages and gives back the gradients of those that are not its own, so that the sum over the ranks is the gradient
//! of one rank with the joined batch.
//!
//! Ranks that share out gradients or weights (`zero_stage`) meet in every pass; one with fewer chunks makes idle passes.

use candle_core::{Tensor, Var};

use super::batch::TrainBatch;
use super::share::Share;
use crate::config::{NumberType, PoolingMethod};
use crate::distributed::Communicator;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::{LossConfig, LossInputs, LossOutput, contrastive_at, place};
use crate::models::{Batch, Bert, BertRecord, Keep};
use crate::nn::{Gradients, read, tensor};

/// How a micro-batch becomes gradients.
#[derive(Clone, Debug)]
pub(crate) struct Embedding {
    pub(crate) pooling: PoolingMethod,
    pub(crate) loss: LossConfig,
    /// Texts per sub-batch; `None` runs all at once.
    pub(crate) sub_batch_size: Option<usize>,
    /// What a forward with gradients keeps: everything, or the inputs of the layers (`gradient_checkpointing`).
    pub(crate) keep: Keep,
    /// Whether the passages of all ranks are negatives.
    pub(crate) cross_device: bool,
}

/// What a micro-batch is within the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// What its gradient is multiplied by.
    pub(crate) weight: f64,
    /// The key of its dropout masks; none without dropout.
    pub(crate) dropout: Option<u64>,
    /// The micro-batches of the run before it.
    pub(crate) forwards: u64,
}

/// What a micro-batch measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) loss: f64,
    pub(crate) accuracy: f64,
}

impl Embedding {
    /// Adds `weight` times the gradient of this rank's share of the joined batch's loss, and returns the share itself.
    pub(crate) fn accumulate(
        &self,
        ranks: &dyn Communicator,
        model: &Bert,
        batch: &TrainBatch,
        weight: f64,
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<Measured> {
        let share = batch.share(ranks)?;
        let chunks = batch.chunks(model.config(), self.sub_batch_size, &share)?;
        let passes = model.passes(chunks.len())?;
        let alone = passes == 1;
        let mut vectors = Vec::with_capacity(chunks.len());
        let mut kept: Option<BertRecord> = None;
        for chunk in &chunks {
            let keep = if alone { self.keep } else { Keep::Nothing };
            let (part, record) = model.vectors(chunk, self.pooling, keep, dropout)?;
            kept = record;
            vectors.push(part);
        }
        for _ in chunks.len()..passes {
            model.idle_forward()?;
        }
        let joined = if vectors.is_empty() {
            None
        } else {
            Some(Tensor::cat(&vectors, 0)?)
        };
        let crossing = self.cross_device && !batch.no_in_batch_neg && ranks.world_size() > 1;
        let found = match (crossing, &joined) {
            (true, vectors) => self.loss_across(ranks, model, &share, batch, vectors.as_ref(), weight)?,
            (false, Some(vectors)) => Some(self.loss(model, &share, batch, vectors, weight)?),
            (false, None) => None, // this rank has no part in the batch
        };
        drop(vectors);
        let measured = found
            .as_ref()
            .map_or_else(Measured::default, |(measured, _)| *measured);
        let mut idle = passes;
        // Where the loss is not finite the caller stops; there is no gradient worth computing.
        if let Some((_, gradients)) = found.filter(|(measured, _)| measured.loss.is_finite()) {
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
            idle -= chunks.len();
        }
        for _ in 0..idle {
            if !alone {
                model.idle_forward()?;
            }
            model.idle_backward(grads)?;
        }
        Ok(measured)
    }

    fn record(&self, model: &Bert, chunk: &Batch, dropout: Option<u64>) -> Result<BertRecord> {
        let (_, record) = model.vectors(chunk, self.pooling, self.keep, dropout)?;
        record.ok_or_else(|| Error::new(ErrorKind::Internal, "a forward kept no record"))
    }

    /// The share of the loss of the vectors `[Q + Q * G, D]`, and its gradient times `weight`.
    fn loss(
        &self,
        model: &Bert,
        share: &Share,
        batch: &TrainBatch,
        vectors: &Tensor,
        weight: f64,
    ) -> Result<(Measured, Tensor)> {
        let (queries, group_size) = (share.own, share.group_size);
        let leaf = Var::from_tensor(vectors)?;
        let teacher = teacher(share, batch)?;
        let inputs = LossInputs {
            queries: &leaf.narrow(0, 0, queries)?,
            passages: &leaf.narrow(0, queries, queries * group_size)?,
            group_size,
            no_in_batch_neg: batch.no_in_batch_neg,
            teacher_scores: teacher.as_ref(),
        };
        let output = contrastive_at(&place(model), &self.loss, &inputs, 0)?;
        let measured = measure(share, &output)?;
        let store = (output.total * (weight * share.weight()))?.backward()?;
        let gradient = match store.get(leaf.as_tensor()) {
            Some(gradient) => gradient.contiguous()?,
            None => vectors.zeros_like()?, // a loss of one candidate is constant
        };
        Ok((measured, gradient))
    }

    /// The same where the passages of all ranks are negatives: every rank takes part, also one without vectors.
    pub(super) fn loss_across(
        &self,
        ranks: &dyn Communicator,
        model: &Bert,
        share: &Share,
        batch: &TrainBatch,
        vectors: Option<&Tensor>,
        weight: f64,
    ) -> Result<Option<(Measured, Tensor)>> {
        let (own, group_size, width) = (share.own, share.group_size, model.config().hidden_size);
        let lengths = share.passage_floats(width);
        let all = {
            let own_floats = vectors.map(read).transpose()?;
            let passages = own_floats.as_deref().map_or(&[][..], |rows| &rows[own * width..]);
            ranks.all_gather(passages, &lengths, NumberType::Fp32)?
        };
        let Some(vectors) = vectors else {
            let nothing = vec![0.0; all.len()];
            ranks.reduce_scatter(&nothing, &lengths, NumberType::Fp32)?;
            return Ok(None);
        };
        let queries = Var::from_tensor(&vectors.narrow(0, 0, own)?.contiguous()?)?;
        let passages = Var::from_tensor(&tensor(all, (share.all * group_size, width))?)?;
        let teacher = teacher(share, batch)?;
        let inputs = LossInputs {
            queries: queries.as_tensor(),
            passages: passages.as_tensor(),
            group_size,
            no_in_batch_neg: false,
            teacher_scores: teacher.as_ref(),
        };
        let output = contrastive_at(&place(model), &self.loss, &inputs, share.first)?;
        let measured = measure(share, &output)?;
        let store = (output.total * (weight * share.weight()))?.backward()?;
        let gradient = |of: &Var| -> Result<Tensor> {
            Ok(match store.get(of.as_tensor()) {
                Some(gradient) => gradient.contiguous()?,
                None => of.as_tensor().zeros_like()?, // a loss of one candidate is constant
            })
        };
        let to_passages = ranks.reduce_scatter(&read(&gradient(&passages)?)?, &lengths, NumberType::Fp32)?;
        let to_passages = tensor(to_passages, (own * group_size, width))?;
        let gradient = Tensor::cat(&[&gradient(&queries)?, &to_passages], 0)?;
        Ok(Some((measured, gradient)))
    }
}

/// The teacher's scores of the own queries `[Q, G]`.
fn teacher(share: &Share, batch: &TrainBatch) -> Result<Option<Tensor>> {
    let scores = batch.teacher_scores.as_ref().filter(|_| share.scored);
    let to_tensor = |scores: &Vec<f32>| tensor(scores.clone(), (share.own, share.group_size));
    scores.map(to_tensor).transpose()
}

/// What the own queries add to the means over all.
fn measure(share: &Share, output: &LossOutput) -> Result<Measured> {
    Ok(Measured {
        loss: f64::from(output.total.to_scalar::<f32>()?) * share.weight(),
        accuracy: f64::from(output.accuracy.to_scalar::<f32>()?) * share.weight(),
    })
}
