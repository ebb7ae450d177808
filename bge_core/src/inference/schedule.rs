//! Encoding many texts: longest first, in batches of bounded tokens, results in the order of the input.

use super::vectors::Vectors;
use crate::config::PoolingMethod;
use crate::error::Result;
use crate::models::{Batch, Bert, EncoderConfig, Keep};
use crate::nn::read;
use crate::tokenize::TokenBatch;

/// How hidden states become the vector of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorShape {
    /// Which hidden states.
    pub pooling: PoolingMethod,
    /// Keep only the first components, cut before scaling.
    pub truncate_dim: Option<usize>,
    /// Scale to length 1.
    pub normalize: bool,
}

/// Bounds of one forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Texts at most.
    pub texts: usize,
    /// Tokens at most, except for a single longer text.
    pub tokens: usize,
}

/// Tokens at most on a GPU, which has other caches and more to keep busy.
#[cfg(feature = "cuda")]
const GPU_TOKENS: usize = 1 << 16;

impl Default for BatchLimits {
    /// Upstream's 256 texts; 4,096 tokens keep activations near the caches and buffers of a size that is used again.
    fn default() -> Self {
        Self {
            texts: 256,
            tokens: 4096,
        }
    }
}

/// The vectors of tokenized texts; a text's vector does not depend on the texts around it.
///
/// `progress` hears how many texts are done.
pub fn encode_tokens(
    model: &Bert,
    tokens: &TokenBatch,
    shape: VectorShape,
    limits: BatchLimits,
    progress: impl FnMut(usize),
) -> Result<Vectors> {
    #[cfg(feature = "cuda")]
    let limits = match model.gpu() {
        Some(_) => BatchLimits {
            tokens: limits.tokens.max(GPU_TOKENS),
            ..limits
        },
        None => limits,
    };
    let width = model.config().hidden_size;
    let dim = shape.truncate_dim.map_or(width, |dim| dim.min(width));
    let mut data = vec![0.0_f32; tokens.len() * dim];
    in_batches(model.config(), tokens, limits, progress, |batch, texts| {
        let (vectors, _) = model.vectors(batch, shape.pooling, Keep::Nothing, None)?;
        let pooled = read(&vectors)?;
        for (row, &text) in pooled.chunks_exact(width).zip(texts) {
            let target = &mut data[text * dim..(text + 1) * dim];
            target.copy_from_slice(&row[..dim]);
            if shape.normalize {
                scale_to_one(target);
            }
        }
        Ok(())
    })?;
    Ok(Vectors { data, dim })
}

/// Hands all texts to `run`, longest first, as batches within `limits` with the indices of their texts.
///
/// `progress` hears how many texts are done.
pub(super) fn in_batches(
    config: &EncoderConfig,
    tokens: &TokenBatch,
    limits: BatchLimits,
    mut progress: impl FnMut(usize),
    mut run: impl FnMut(&Batch, &[usize]) -> Result<()>,
) -> Result<()> {
    let lengths: Vec<usize> = tokens.lengths().collect();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(lengths[text]));
    let mut done = 0;
    while done < order.len() {
        let mut sum = 0;
        let fits = order[done..]
            .iter()
            .take(limits.texts.max(1))
            .take_while(|&&text| {
                sum += lengths[text];
                sum <= limits.tokens
            });
        let count = fits.count().max(1);
        let picked = &order[done..done + count];
        let part = tokens.select(picked);
        let types = part.type_ids.as_deref().unwrap_or_default();
        let names = picked.iter().map(|&i| i as u64);
        let batch = Batch::new(config, &part.ids, types, &part.offsets, names)?;
        run(&batch, picked)?;
        done += count;
        progress(done);
    }
    Ok(())
}

/// As [`encode_tokens`] for a network that takes one text at a time: `pool` gives the vector `[1, width]` of a text.
#[cfg(feature = "zoo")]
pub(super) fn one_by_one(
    tokens: &TokenBatch,
    width: usize,
    shape: VectorShape,
    mut progress: impl FnMut(usize),
    pool: impl Fn(&[u32], &[u32]) -> Result<candle_core::Tensor>,
) -> Result<Vectors> {
    let dim = shape.truncate_dim.map_or(width, |dim| dim.min(width));
    let mut data = Vec::with_capacity(tokens.len() * dim);
    for text in 0..tokens.len() {
        let types = tokens.type_ids.as_ref().map(|types| &types[tokens.range(text)]);
        let pooled = pool(tokens.row(text), types.unwrap_or_default())?;
        let start = data.len();
        data.extend_from_slice(&read(&pooled)?[..dim]);
        if shape.normalize {
            scale_to_one(&mut data[start..]);
        }
        progress(text + 1);
    }
    Ok(Vectors { data, dim })
}

/// Divides by the length, or by 1e-12 where that is larger, as torch's `normalize`.
pub(super) fn scale_to_one(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    for x in vector {
        *x /= norm;
    }
}
