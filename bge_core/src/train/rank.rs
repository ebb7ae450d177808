//! The gradient of one micro-batch of pairs, at once or by sub-batches of whole groups.
//!
//! The loss of a group depends on its own scores alone, so that sub-batches need no second forward: each one is scored,
//! measured and taken back before the next.

use super::batch::PairBatch;
use super::embed::Measured;
use crate::distributed::Communicator;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::ranking_loss;
use crate::models::{CrossEncoder, Keep};
use crate::nn::Gradients;

/// How a micro-batch of pairs becomes gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranking {
    /// Pairs per sub-batch; `None` runs all at once.
    pub(crate) sub_batch_size: Option<usize>,
    /// What a forward keeps: everything, or the inputs of the layers (`gradient_checkpointing`).
    pub(crate) keep: Keep,
}

impl Ranking {
    /// Adds `weight` times the gradient of this rank's share of the joined batch's loss, and returns the share itself.
    pub(crate) fn accumulate(
        self,
        ranks: &dyn Communicator,
        model: &CrossEncoder,
        batch: &PairBatch,
        weight: f64,
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<Measured> {
        let share = batch.share(ranks)?;
        let queries = share.all as f64;
        let mut measured = Measured::default();
        let mut first = 0;
        let chunks = batch.chunks(model.config(), self.sub_batch_size, &share)?;
        let (encoder, passes) = (model.encoder(), model.encoder().passes(chunks.len())?);
        let mut chunks = chunks.into_iter();
        for _ in 0..passes {
            // Where the loss is not finite the caller stops; there is no gradient worth computing.
            let Some(chunk) = chunks.next().filter(|_| measured.loss.is_finite()) else {
                encoder.idle_forward()?;
                encoder.idle_backward(grads)?;
                continue;
            };
            let (scores, record) = model.forward(&chunk, self.keep, dropout)?;
            let record = record.ok_or_else(|| Error::new(ErrorKind::Internal, "a forward kept no record"))?;
            let teacher = batch
                .teacher_scores
                .as_ref()
                .filter(|_| share.scored)
                .and_then(|scores| scores.get(first..first + chunk.texts()));
            first += chunk.texts();
            let loss = ranking_loss(&scores, batch.group_size, teacher)?;
            measured.loss += loss.sum / queries;
            measured.accuracy += loss.correct as f64 / queries;
            if !measured.loss.is_finite() {
                encoder.idle_backward(grads)?;
                continue;
            }
            let scale = weight / queries;
            let d_scores: Vec<f32> = loss.d_scores.iter().map(|d| (d * scale) as f32).collect();
            model.backward(&chunk, record, &d_scores, dropout, grads)?;
        }
        Ok(measured)
    }
}
