//! Trainable layers with an explicit, hand-written backward.
//!
//! A layer's `forward` returns what its `backward` needs; nothing is recorded behind the caller's back, so a
//! gradient can neither be cut silently nor kept alive by accident. Training keeps the records, gradient
//! checkpointing drops and recomputes them, inference never makes them.
//!
//! Shape legend: `T` tokens of the flat batch, `D` width, `H` heads, `N` outputs, `K` inputs.

mod embeddings;
mod gradients;
mod head;
mod layers;
pub(crate) mod ops;
mod params;
mod parts;
mod tensors;

pub use embeddings::{Embeddings, EmbeddingsRecord, TableSizes, TokenRows};
pub use gradients::Gradients;
pub use head::{ScoreHead, ScoreHeadRecord};
pub use layers::{
    Attention, AttentionRecord, Intermediate, LayerNorm, Linear, ResidualNorm, ResidualNormRecord,
};
pub use ops::activation::Activation;
pub use params::{Param, ParamStore};
pub(crate) use parts::{Part, Watcher};
pub(crate) use tensors::{held, put_back, read, take_out, tensor, update};

use ops::dropout::Dropout;

/// What a forward pass keeps for the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: inference, and the first pass of GradCache.
    Nothing,
    /// Each layer's input; the rest is computed again in the backward (`gradient_checkpointing`).
    Inputs,
    /// Everything.
    All,
}

/// What a forward pass should do besides computing: which dropout, and for which tokens.
#[derive(Clone, Copy, Debug)]
pub struct DropoutPlan<'a> {
    /// Key of this forward: a pure function of (seed, step, micro-batch).
    pub key: u64,
    /// Identity of every token in the batch: the same token draws the same mask in any grouping.
    pub tokens: &'a [u64],
}

impl DropoutPlan<'_> {
    /// The dropout of one place in the network.
    pub(crate) fn at(&self, site: u64, p: f32) -> Option<(Dropout, &[u64])> {
        Dropout::new(p, crate::random::mix(self.key.wrapping_add(site))).map(|d| (d, self.tokens))
    }
}
