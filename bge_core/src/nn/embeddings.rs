//! Word, position and token-type embeddings, normalised: `BertEmbeddings`.

use candle_core::Tensor;

use super::gradients::Gradients;
use super::layers::LayerNorm;
use super::ops::embedding::{self, Lookup};
use super::ops::norm;
use super::params::{Param, ParamStore};
use super::{DropoutPlan, read, tensor};
use crate::error::Result;

/// The three tables and their norm.
#[derive(Clone, Debug)]
pub struct Embeddings {
    words: Param,
    positions: Param,
    types: Param,
    norm: LayerNorm,
    dropout: f32,
    width: usize,
}

/// What [`Embeddings::backward`] needs.
#[derive(Debug)]
pub struct EmbeddingsRecord {
    unit: Tensor,
    inverse_std: Vec<f32>,
}

/// Sizes of the three tables.
#[derive(Clone, Copy, Debug)]
pub struct TableSizes {
    /// Rows of the word table.
    pub words: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the token-type table.
    pub types: usize,
}

/// The row of each table that each token takes, all of length `T`.
#[derive(Clone, Copy, Debug)]
pub struct TokenRows<'a> {
    /// Token ids.
    pub words: &'a [u32],
    /// Position ids.
    pub positions: &'a [u32],
    /// Token-type ids.
    pub types: &'a [u32],
}

impl Embeddings {
    /// Finds `embeddings.*`.
    pub fn load(
        params: &ParamStore,
        sizes: TableSizes,
        width: usize,
        eps: f64,
        dropout: f32,
    ) -> Result<Self> {
        let table =
            |name: &str, rows| params.get(&format!("embeddings.{name}_embeddings.weight"), &[rows, width]);
        Ok(Self {
            words: table("word", sizes.words)?,
            positions: table("position", sizes.positions)?,
            types: table("token_type", sizes.types)?,
            norm: LayerNorm::load(params, "embeddings.LayerNorm", width, eps)?,
            dropout,
            width,
        })
    }

    /// The embeddings of a flat batch, `[T, D]`.
    pub fn forward(
        &self,
        rows: TokenRows,
        dropout: Option<DropoutPlan>,
        site: u64,
    ) -> Result<(Tensor, EmbeddingsRecord)> {
        let (words, positions, types) = (
            read(&self.words.value)?,
            read(&self.positions.value)?,
            read(&self.types.value)?,
        );
        let lookups = [
            Lookup {
                table: &words,
                rows: rows.words,
            },
            Lookup {
                table: &types,
                rows: rows.types,
            },
            Lookup {
                table: &positions,
                rows: rows.positions,
            },
        ];
        let (gamma, beta) = (read(&self.norm.weight.value)?, read(&self.norm.bias.value)?);
        let affine = norm::Affine {
            gamma: &gamma,
            beta: &beta,
            eps: self.norm.eps,
        };
        let plan = dropout.as_ref().and_then(|plan| plan.at(site, self.dropout));
        let out = embedding::forward(&lookups, plan, affine);
        let shape = (rows.words.len(), self.width);
        let record = EmbeddingsRecord {
            unit: tensor(out.unit, shape)?,
            inverse_std: out.inverse_std,
        };
        Ok((tensor(out.output, shape)?, record))
    }

    /// Adds the gradients of the tables and the norm.
    pub fn backward(
        &self,
        rows: TokenRows,
        dy: &Tensor,
        record: &EmbeddingsRecord,
        dropout: Option<DropoutPlan>,
        site: u64,
        grads: &mut Gradients,
    ) -> Result<()> {
        let plan = dropout.as_ref().and_then(|plan| plan.at(site, self.dropout));
        let masked;
        let dy = match plan {
            None => dy,
            Some((mask, keys)) => {
                let gradient = norm::dropout_backward(&read(dy)?, self.width, mask, keys);
                masked = tensor(gradient, dy.shape().clone())?;
                &masked
            }
        };
        let d_sum = self.norm.backward(dy, &record.unit, &record.inverse_std, grads)?;
        let d_sum = read(&d_sum)?;
        for (table, rows) in [
            (&self.words, rows.words),
            (&self.positions, rows.positions),
            (&self.types, rows.types),
        ] {
            grads.contribute(table, |gradient, add| {
                if !add {
                    gradient.fill(0.0);
                }
                embedding::scatter_add(gradient, rows, &d_sum, self.width);
            })?;
        }
        Ok(())
    }
}
