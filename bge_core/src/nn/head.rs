//! The head of a cross-encoder: one score from the hidden state of the first token.

use candle_core::Tensor;

use super::gradients::Gradients;
use super::layers::Linear;
use super::ops::norm;
use super::params::ParamStore;
use super::{DropoutPlan, read, tensor};
use crate::error::Result;

/// `out(dropout(tanh(dense(x))))`: `BertPooler` with a classifier of one label; with dropout also on `x`,
/// `RobertaClassificationHead`.
#[derive(Clone, Debug)]
pub struct ScoreHead {
    dense: Linear,
    out: Linear,
    width: usize,
    dropout: f32,
    input_dropout: bool,
}

/// What [`ScoreHead::backward`] needs.
#[derive(Debug)]
pub struct ScoreHeadRecord {
    /// Input of the dense map `[n, D]`, after dropout.
    x: Tensor,
    /// Its output after tanh `[n, D]`, before dropout.
    hidden: Tensor,
}

impl ScoreHead {
    /// Finds `DENSE.weight [width, width]`, `OUT.weight [1, width]` and their biases.
    pub fn load(
        params: &ParamStore,
        [dense, out]: [&str; 2],
        width: usize,
        dropout: f32,
        input_dropout: bool,
    ) -> Result<Self> {
        Ok(Self {
            dense: Linear::load(params, dense, width, width)?,
            out: Linear::load(params, out, width, 1)?,
            width,
            dropout,
            input_dropout,
        })
    }

    /// `x [n, D]` → one score per row; uses the dropout sites `site` and `site + 1`.
    pub fn forward(
        &self,
        x: &Tensor,
        dropout: Option<DropoutPlan>,
        site: u64,
    ) -> Result<(Vec<f32>, ScoreHeadRecord)> {
        let x = if self.input_dropout {
            self.masked(x, dropout, site)?
        } else {
            x.clone()
        };
        let before = self.dense.forward(&x)?;
        let hidden: Vec<f32> = read(&before)?.iter().map(|x| x.tanh()).collect();
        let hidden = tensor(hidden, before.shape().clone())?;
        let scores = self.out.forward(&self.masked(&hidden, dropout, site + 1)?)?;
        let scores = read(&scores)?.to_vec();
        Ok((scores, ScoreHeadRecord { x, hidden }))
    }

    /// The gradient of `x` from that of the scores; adds those of the weights.
    pub fn backward(
        &self,
        d_scores: &[f32],
        record: &ScoreHeadRecord,
        dropout: Option<DropoutPlan>,
        site: u64,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let d_scores = tensor(d_scores.to_vec(), (d_scores.len(), 1))?;
        let dropped = self.masked(&record.hidden, dropout, site + 1)?;
        self.out.backward_params(&dropped, &d_scores, grads)?;
        drop(dropped);
        let d_dropped = self.out.backward_input(&d_scores)?;
        let d_hidden = self.masked(&d_dropped, dropout, site + 1)?;
        let d_before: Vec<f32> = read(&d_hidden)?
            .iter()
            .zip(read(&record.hidden)?.iter())
            .map(|(gradient, y)| gradient * (1.0 - y * y))
            .collect();
        let d_before = tensor(d_before, record.hidden.shape().clone())?;
        self.dense.backward_params(&record.x, &d_before, grads)?;
        let dx = self.dense.backward_input(&d_before)?;
        if self.input_dropout {
            self.masked(&dx, dropout, site)
        } else {
            Ok(dx)
        }
    }

    /// Dropout of a site; its gradient is the same product with the mask.
    fn masked(&self, x: &Tensor, dropout: Option<DropoutPlan>, site: u64) -> Result<Tensor> {
        match dropout.as_ref().and_then(|plan| plan.at(site, self.dropout)) {
            None => Ok(x.clone()),
            Some((mask, keys)) => {
                let masked = norm::dropout_backward(&read(x)?, self.width, mask, keys);
                tensor(masked, x.shape().clone())
            }
        }
    }
}
