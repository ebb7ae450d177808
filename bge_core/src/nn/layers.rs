//! The building blocks of an encoder layer: linear map, self-attention, activation, residual and norm.

use candle_core::Tensor;

use super::gradients::Gradients;
use super::ops::activation::Activation;
use super::ops::{attention, buffer, linear, norm};
use super::params::{Param, ParamStore};
use super::{DropoutPlan, read, tensor, update};
use crate::error::Result;

/// `y = x Wᵀ + b` with `W [N, K]`, as `torch.nn.Linear`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Param,
    bias: Param,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Finds `NAME.weight [outputs, inputs]` and `NAME.bias [outputs]`.
    pub fn load(params: &ParamStore, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: params.get(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: params.get(&format!("{name}.bias"), &[outputs])?,
            inputs,
            outputs,
        })
    }

    /// N.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `x [T, K]` → `[T, N]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (w, b) = (read(&self.weight.value)?, read(&self.bias.value)?);
        let y = linear::forward(&read(x)?, &w, self.inputs, self.outputs, |tile| {
            linear::add_bias(tile, &b);
        });
        tensor(y, (x.dim(0)?, self.outputs))
    }

    /// Adds the gradients of weight and bias.
    pub fn backward_params(&self, x: &Tensor, dy: &Tensor, grads: &mut Gradients) -> Result<()> {
        let (x, dy) = (read(x)?, read(dy)?);
        grads.contribute(&self.weight, |dw, add| {
            linear::weight_gradient(dw, add, &dy, &x, self.inputs, self.outputs);
        })?;
        grads.contribute(&self.bias, |db, add| linear::column_sums(db, add, &dy))
    }

    /// The gradient of the input.
    pub fn backward_input(&self, dy: &Tensor) -> Result<Tensor> {
        let dx = linear::input_gradient(&read(dy)?, &read(&self.weight.value)?, self.inputs, self.outputs);
        tensor(dx, (dy.dim(0)?, self.inputs))
    }

    /// Adds the gradient of the input to `dx`, in place.
    pub fn add_backward_input(&self, dx: &Tensor, dy: &Tensor) -> Result<()> {
        let (w, dy) = (read(&self.weight.value)?, read(dy)?);
        update(dx, |dx| {
            linear::add_input_gradient(dx, &dy, &w, self.inputs, self.outputs);
        })
    }
}

/// Scale and shift of a layer normalisation, as `torch.nn.LayerNorm`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    pub(super) weight: Param,
    pub(super) bias: Param,
    pub(super) eps: f32,
}

impl LayerNorm {
    /// Finds `NAME.weight` and `NAME.bias`, both `[width]`.
    pub fn load(params: &ParamStore, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: params.get(&format!("{name}.weight"), &[width])?,
            bias: params.get(&format!("{name}.bias"), &[width])?,
            eps: eps as f32,
        })
    }

    /// Gradient of the normalised input; adds those of scale and shift.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        unit: &Tensor,
        inverse_std: &[f32],
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let (dx, d_gamma, d_beta) =
            norm::backward(&read(dy)?, &read(unit)?, inverse_std, &read(&self.weight.value)?);
        grads.add(&self.weight, &d_gamma)?;
        grads.add(&self.bias, &d_beta)?;
        tensor(dx, dy.shape().clone())
    }
}

/// `layer_norm(residual + dropout(linear(x)))`: `BertSelfOutput` and `BertOutput`.
#[derive(Clone, Debug)]
pub struct ResidualNorm {
    dense: Linear,
    norm: LayerNorm,
    dropout: f32,
}

/// What [`ResidualNorm::backward`] needs besides its input.
#[derive(Debug)]
pub struct ResidualNormRecord {
    unit: Tensor,
    inverse_std: Vec<f32>,
}

impl ResidualNorm {
    /// Finds `NAME.dense` and `NAME.LayerNorm`.
    pub fn load(
        params: &ParamStore,
        name: &str,
        inputs: usize,
        width: usize,
        eps: f64,
        dropout: f32,
    ) -> Result<Self> {
        Ok(Self {
            dense: Linear::load(params, &format!("{name}.dense"), inputs, width)?,
            norm: LayerNorm::load(params, &format!("{name}.LayerNorm"), width, eps)?,
            dropout,
        })
    }

    /// `x [T, K]`, `residual [T, D]` → `[T, D]`; `site` names this place in the network for its dropout.
    pub fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<DropoutPlan>,
        site: u64,
    ) -> Result<(Tensor, ResidualNormRecord)> {
        let (w, b) = (read(&self.dense.weight.value)?, read(&self.dense.bias.value)?);
        let (gamma, beta) = (read(&self.norm.weight.value)?, read(&self.norm.bias.value)?);
        let plan = dropout.as_ref().and_then(|plan| plan.at(site, self.dropout));
        let affine = norm::Affine {
            gamma: &gamma,
            beta: &beta,
            eps: self.norm.eps,
        };
        let out = norm::linear_residual_norm(&read(x)?, (&w, &b), &read(residual)?, plan, affine);
        let shape = residual.shape().clone();
        let record = ResidualNormRecord {
            unit: tensor(out.unit, shape.clone())?,
            inverse_std: out.inverse_std,
        };
        Ok((tensor(out.output, shape)?, record))
    }

    /// (gradient of `x`, gradient of the residual); adds those of the weights.
    pub fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        record: ResidualNormRecord,
        dropout: Option<DropoutPlan>,
        site: u64,
        grads: &mut Gradients,
    ) -> Result<(Tensor, Tensor)> {
        let d_sum = self.norm.backward(dy, &record.unit, &record.inverse_std, grads)?;
        drop(record);
        let plan = dropout.as_ref().and_then(|plan| plan.at(site, self.dropout));
        let d_dense = match plan {
            None => d_sum.clone(),
            Some((mask, keys)) => {
                let masked = norm::dropout_backward(&read(&d_sum)?, self.dense.outputs, mask, keys);
                tensor(masked, d_sum.shape().clone())?
            }
        };
        self.dense.backward_params(x, &d_dense, grads)?;
        Ok((self.dense.backward_input(&d_dense)?, d_sum))
    }
}

/// `activation(linear(x))`: `BertIntermediate`.
#[derive(Clone, Debug)]
pub struct Intermediate {
    dense: Linear,
    activation: Activation,
}

impl Intermediate {
    /// Finds `NAME.dense`.
    pub fn load(
        params: &ParamStore,
        name: &str,
        width: usize,
        hidden: usize,
        activation: Activation,
    ) -> Result<Self> {
        Ok(Self {
            dense: Linear::load(params, &format!("{name}.dense"), width, hidden)?,
            activation,
        })
    }

    /// `x [T, D]` → `[T, N]` when nothing is kept for a backward.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (w, b) = (read(&self.dense.weight.value)?, read(&self.dense.bias.value)?);
        let (inputs, outputs) = (self.dense.inputs, self.dense.outputs);
        let y = linear::forward(&read(x)?, &w, inputs, outputs, |tile| {
            self.activation.bias_and_apply(tile, &b);
        });
        tensor(y, (x.dim(0)?, outputs))
    }

    /// (linear(x), activation(linear(x))), both `[T, N]`: the first is what the backward needs.
    pub fn forward_keeping(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (w, b) = (read(&self.dense.weight.value)?, read(&self.dense.bias.value)?);
        let (inputs, outputs) = (self.dense.inputs, self.dense.outputs);
        let (before, after) = linear::forward_keeping(&read(x)?, &w, inputs, outputs, |kept, finished| {
            linear::add_bias(kept, &b);
            self.activation.apply(finished, kept)
        });
        let shape = (x.dim(0)?, outputs);
        Ok((tensor(before, shape)?, tensor(after, shape)?))
    }

    /// The activation again, from what [`Intermediate::forward_keeping`] kept.
    pub fn reapply(&self, before: &Tensor) -> Result<Tensor> {
        let x = read(before)?;
        let (rows, width) = before.dims2()?;
        let y = buffer::build_rows(rows, width, buffer::tile_rows(rows), |range, memory| {
            self.activation
                .apply(memory, &x[range.start * width..range.end * width])
        });
        tensor(y, (rows, width))
    }

    /// Adds the gradient of `x` to `dx`, and those of the weights.
    ///
    /// `dy` is used up: its numbers become the gradient of the linear map.
    pub fn backward_into(
        &self,
        x: &Tensor,
        before: &Tensor,
        dy: &Tensor,
        dx: &Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        use rayon::prelude::*;
        {
            let before = read(before)?;
            let chunk = buffer::tile_rows(dy.dim(0)?) * self.dense.outputs;
            update(dy, |dy| {
                dy.par_chunks_mut(chunk)
                    .zip(before.par_chunks(chunk))
                    .for_each(|(dy, before)| self.activation.backward(dy, before));
            })?;
        }
        self.dense.backward_params(x, dy, grads)?;
        self.dense.add_backward_input(dx, dy)
    }
}

/// Multi-head self-attention without its output map: `BertSelfAttention`.
#[derive(Clone, Debug)]
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
    dropout: f32,
}

/// What [`Attention::backward`] needs besides its input and output.
#[derive(Debug)]
pub struct AttentionRecord {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_sums: Vec<f32>,
}

impl Attention {
    /// Finds `NAME.query`, `NAME.key` and `NAME.value`, all `[width, width]`.
    pub fn load(params: &ParamStore, name: &str, width: usize, heads: usize, dropout: f32) -> Result<Self> {
        let linear = |part| Linear::load(params, &format!("{name}.{part}"), width, width);
        Ok(Self {
            query: linear("query")?,
            key: linear("key")?,
            value: linear("value")?,
            heads,
            dropout,
        })
    }

    /// `x [T, D]` and the row offsets of its sequences → context `[T, D]`.
    pub fn forward(
        &self,
        x: &Tensor,
        offsets: &[u32],
        dropout: Option<DropoutPlan>,
        site: u64,
    ) -> Result<(Tensor, AttentionRecord)> {
        let (q, k, v) = (
            self.query.forward(x)?,
            self.key.forward(x)?,
            self.value.forward(x)?,
        );
        let plan = dropout.as_ref().and_then(|plan| plan.at(site, self.dropout));
        let shape = attention::Shape {
            heads: self.heads,
            width: self.query.outputs,
            offsets,
            dropout: plan,
        };
        let (context, log_sums) = attention::forward(&read(&q)?, &read(&k)?, &read(&v)?, shape);
        Ok((
            tensor(context, x.shape().clone())?,
            AttentionRecord { q, k, v, log_sums },
        ))
    }

    /// Adds the gradient of `x` to `dx`, and those of the weights.
    #[expect(
        clippy::too_many_arguments,
        reason = "input, output, both gradients and the record of one layer"
    )]
    pub fn backward(
        &self,
        x: &Tensor,
        context: &Tensor,
        d_context: &Tensor,
        dx: &Tensor,
        record: AttentionRecord,
        offsets: &[u32],
        dropout: Option<DropoutPlan>,
        site: u64,
        grads: &mut Gradients,
    ) -> Result<()> {
        let plan = dropout.as_ref().and_then(|plan| plan.at(site, self.dropout));
        let shape = attention::Shape {
            heads: self.heads,
            width: self.query.outputs,
            offsets,
            dropout: plan,
        };
        let parts = {
            let (q, k, v) = (read(&record.q)?, read(&record.k)?, read(&record.v)?);
            let kept = attention::Kept {
                q: &q,
                k: &k,
                v: &v,
                context: &read(context)?,
                log_sums: &record.log_sums,
            };
            attention::backward(&read(d_context)?, kept, shape)
        };
        drop(record);
        for (linear, gradient) in [&self.query, &self.key, &self.value].into_iter().zip(parts) {
            let gradient = tensor(gradient, x.shape().clone())?;
            linear.backward_params(x, &gradient, grads)?;
            linear.add_backward_input(dx, &gradient)?;
        }
        Ok(())
    }
}
