//! From the hidden states of a flat batch to one vector per text.

use candle_core::Tensor;

use crate::config::PoolingMethod;
use crate::error::Result;
use crate::nn::{read, tensor};

/// `hidden [T, D]` → `[n, D]`; not normalised.
///
/// `cls` takes the first token, `last_token` the last, `mean` the average of all, as section B.2 of
/// FlagEmbedding's `AbsModeling` defines them for texts without padding.
pub fn pool(method: PoolingMethod, hidden: &Tensor, offsets: &[u32]) -> Result<Tensor> {
    let (_, width) = hidden.dims2()?;
    let hidden = read(hidden)?;
    let mut pooled = Vec::with_capacity((offsets.len() - 1) * width);
    for pair in offsets.windows(2) {
        let (first, end) = (pair[0] as usize, pair[1] as usize);
        match method {
            PoolingMethod::Cls => pooled.extend_from_slice(&hidden[first * width..][..width]),
            PoolingMethod::LastToken => pooled.extend_from_slice(&hidden[(end - 1) * width..][..width]),
            PoolingMethod::Mean => {
                let start = pooled.len();
                pooled.resize(start + width, 0.0);
                let sum = &mut pooled[start..];
                for row in hidden[first * width..end * width].chunks_exact(width) {
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                let inverse = 1.0 / (end - first) as f32;
                for x in sum {
                    *x *= inverse;
                }
            }
        }
    }
    tensor(pooled, (offsets.len() - 1, width))
}

/// The gradient of the hidden states `[T, D]` from that of the pooled vectors `[n, D]`.
pub fn pool_backward(method: PoolingMethod, d_pooled: &Tensor, offsets: &[u32]) -> Result<Tensor> {
    let (_, width) = d_pooled.dims2()?;
    let d_pooled = read(d_pooled)?;
    let tokens = offsets.last().copied().unwrap_or(0) as usize;
    let mut hidden = vec![0.0_f32; tokens * width];
    for (pair, gradient) in offsets.windows(2).zip(d_pooled.chunks_exact(width)) {
        let (first, end) = (pair[0] as usize, pair[1] as usize);
        match method {
            PoolingMethod::Cls => hidden[first * width..][..width].copy_from_slice(gradient),
            PoolingMethod::LastToken => hidden[(end - 1) * width..][..width].copy_from_slice(gradient),
            PoolingMethod::Mean => {
                let inverse = 1.0 / (end - first) as f32;
                for row in hidden[first * width..end * width].chunks_exact_mut(width) {
                    row.iter_mut().zip(gradient).for_each(|(x, g)| *x = g * inverse);
                }
            }
        }
    }
    tensor(hidden, (tokens, width))
}
