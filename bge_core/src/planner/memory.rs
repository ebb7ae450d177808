//! How much memory a device needs for its fullest batch.
//!
//! Counted from what the layers keep (`nn`, `models::bert`), not fitted: weights, their gradients and AdamW's two
//! moments; what each layer keeps for the backward, or only its input with `gradient_checkpointing`; the largest set of
//! gradients alive at once. `ZeRO` divides by the devices what a stage shares out, but for the part of the network that runs (`train`
//! brings gradients together layer by layer, and the tables of the embeddings at once), and half precision is counted as
//! in Rajbhandari et al. 2020: 2 bytes for weights and gradients, 12 for the optimizer with its master weights.

use serde::Serialize;

use super::shape::{ModelShape, Parameters};
use super::{PlanOptions, Precision};
use crate::config::{FinetuneConfig, Module};

/// Rows of queries that attention handles at once, see `nn::ops::attention`.
const ATTENTION_BLOCK: u64 = 128;

/// A program with its tokenizer before a model is loaded, measured with a vocabulary of 30,522 and one of 250,002: 32 MiB; and
/// what its allocator keeps between the steps of a run, about 48 MiB (`benches/RESULTS.md`).
const PROGRAM: u64 = 80 << 20;
const PROGRAM_PER_WORD: u64 = 600;

/// Bytes of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// AdamW's moments, and master weights with half precision.
    pub optimizer: u64,
    /// What the forward keeps of the fullest batch.
    pub activations: u64,
    /// The largest set of temporary arrays.
    pub temporary: u64,
    /// The program and the tokenizer; of a GPU, what its driver and libraries take.
    pub program: u64,
    /// All of it.
    pub total: u64,
}

impl Memory {
    /// The same with the total of its parts.
    pub(super) fn summed(self) -> Self {
        let parts = [
            self.weights,
            self.gradients,
            self.optimizer,
            self.activations,
            self.temporary,
            self.program,
        ];
        Self {
            total: parts.iter().sum(),
            ..self
        }
    }
}

/// The fullest batch of one device, as far as memory goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FullestBatch {
    /// Texts, or pairs of a reranker.
    pub texts: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Tokens of the longest text.
    pub longest: u64,
}

/// The texts that go through the encoder at once, and their tokens.
pub(super) fn at_once(config: &FinetuneConfig, batch: FullestBatch) -> (u64, u64) {
    match config.training.sub_batch_size {
        Some(size) if size > 0 && (size as u64) < batch.texts => {
            let texts = size as u64;
            (texts, (texts * batch.longest).min(batch.tokens))
        }
        _ => (batch.texts, batch.tokens),
    }
}

/// The memory of one device: a GPU where the settings name some, and otherwise this machine's processor, or another device in the
/// precision that the options say.
pub(super) fn memory(
    shape: &ModelShape,
    parameters: Parameters,
    module: Module,
    config: &FinetuneConfig,
    batch: FullestBatch,
    options: &PlanOptions,
) -> Memory {
    if config.training.on_gpus() {
        return super::gpu::memory(shape, parameters, module, config, batch, options);
    }
    let world = options.world_size.max(1) as u64;
    let shared = |bytes: u64, from_stage: u8| {
        if options.zero_stage >= from_stage {
            bytes.div_ceil(world)
        } else {
            bytes
        }
    };
    let (number, per_weight) = match options.precision {
        Precision::F32 => (4, 8),
        Precision::Half => (2, 12),
    };
    // The part that runs is whole.
    let part = shape.parts().into_iter().max().unwrap_or(0) * number;
    let by_parts = |bytes: u64, from_stage: u8| match shared(bytes, from_stage) {
        block if block < bytes => (block + part).min(bytes),
        whole => whole,
    };
    let (width, hidden) = (shape.hidden_size, shape.intermediate_size);
    let training = &config.training;
    let tokens = at_once(config, batch).1;
    // Input, q, k, v, context, the normed sum, what it became, and the second normed sum; then one row of the
    // feed-forward block; then a float per head and per norm.
    let layer = tokens * (number * (8 * width + hidden) + 4 * (shape.num_attention_heads + 2));
    let input = tokens * number * width;
    let layers = if training.gradient_checkpointing {
        shape.num_hidden_layers * input + layer
    } else {
        shape.num_hidden_layers * layer
    };
    let heads = if module == Module::EncoderOnlyM3 && training.unified_finetuning {
        // The vectors of all tokens before and after scaling, and their gradients; with sub-batches those of all texts stay.
        batch.tokens * number * 3 * shape.colbert_dim(config)
    } else {
        0
    };
    let vectors = batch.texts * number * width * 4;
    // Two rows of the feed-forward block, and the gradients of q, k, v, context, residual and output.
    let backward = tokens * number * (2 * hidden + 6 * width);
    let attention = options.threads.max(1) as u64 * 2 * ATTENTION_BLOCK * batch.longest * 4;
    let memory = Memory {
        weights: by_parts(parameters.all * number, 3),
        gradients: by_parts(parameters.trained * number, 2),
        optimizer: shared(parameters.trained * per_weight, 1),
        activations: input + layers + heads + vectors,
        temporary: backward + attention,
        program: PROGRAM + PROGRAM_PER_WORD * shape.vocab_size,
        total: 0,
    };
    memory.summed()
}
