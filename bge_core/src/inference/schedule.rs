//! Encoding many texts: longest first, in batches of bounded tokens, results in the order of the input.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::lanes::Lanes;
use super::vectors::Vectors;
use crate::config::PoolingMethod;
use crate::error::Result;
use crate::models::{Batch, Bert, Keep};
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
    /// Groups of threads that work on a batch each; 0 lets every thread have its own batch where there are enough.
    pub groups: usize,
}

/// Tokens at most on a GPU, which has other caches and more to keep busy.
const GPU_TOKENS: usize = 1 << 16;

impl Default for BatchLimits {
    /// Upstream's 256 texts; 4,096 tokens keep activations near the caches and buffers of a size that is used again.
    fn default() -> Self {
        Self {
            texts: 256,
            tokens: 4096,
            groups: 0,
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
    let limits = match model.gpu_count() {
        0 => limits,
        _ => BatchLimits {
            tokens: limits.tokens.max(GPU_TOKENS),
            ..limits
        },
    };
    let width = model.config().hidden_size;
    let dim = shape.truncate_dim.map_or(width, |dim| dim.min(width));
    let mut data = vec![0.0_f32; tokens.len() * dim];
    let run = |batch: &Batch, _: &[usize]| {
        let (vectors, _) = model.vectors(batch, shape.pooling, Keep::Nothing, None)?;
        Ok(read(&vectors)?.to_vec())
    };
    in_batches(model, tokens, limits, progress, run, |pooled, texts| {
        for (row, &text) in pooled.chunks_exact(width).zip(texts) {
            let target = &mut data[text * dim..(text + 1) * dim];
            target.copy_from_slice(&row[..dim]);
            if shape.normalize {
                scale_to_one(target);
            }
        }
    })?;
    Ok(Vectors { data, dim })
}

/// Hands all texts to `run`, longest first, as batches within `limits` with the indices of their texts, and what it made of them
/// to `take`.
///
/// Several batches run at once, each on a thread or a group of them, or one for each GPU of the model. `progress` hears how many
/// texts are done.
pub(super) fn in_batches<T: Send>(
    model: &Bert,
    tokens: &TokenBatch,
    limits: BatchLimits,
    mut progress: impl FnMut(usize),
    run: impl Fn(&Batch, &[usize]) -> Result<T> + Sync,
    mut take: impl FnMut(T, &[usize]),
) -> Result<()> {
    let lengths: Vec<usize> = tokens.lengths().collect();
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(lengths[text]));
    let gpus = model.gpu_count();
    let lanes = match (gpus, limits.groups) {
        (0, 0) => rayon::current_num_threads(),
        (0, groups) => groups,
        _ => gpus,
    };
    // Several GPUs have the batches that one would have: how a product rounds may depend on its size.
    let batches = cut(&order, &lengths, limits, if gpus > 0 { 1 } else { lanes });
    let one = |texts: &[usize]| {
        let part = tokens.select(texts);
        let types = part.type_ids.as_deref().unwrap_or_default();
        let names = texts.iter().map(|&i| i as u64);
        run(
            &Batch::new(model.config(), &part.ids, types, &part.offsets, names)?,
            texts,
        )
    };
    let mut done = 0;
    let mut finished = |made: T, texts: &[usize]| {
        take(made, texts);
        done += texts.len();
        progress(done);
    };
    let lanes = match (lanes.min(batches.len()), limits.groups + gpus) {
        (0 | 1, _) => Lanes::default(),
        (lanes, 0) => Lanes::shared(lanes)?,
        (lanes, _) => Lanes::own(lanes)?,
    };
    if lanes.pools().is_empty() {
        return batches
            .into_iter()
            .try_for_each(|texts| one(texts).map(|made| finished(made, texts)));
    }
    let (next, (to_us, results)) = (AtomicUsize::new(0), std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        for pool in lanes.pools() {
            let (to_us, next, batches, one) = (to_us.clone(), &next, &batches, &one);
            scope.spawn(move || {
                // Whoever is done takes the next batch, and stops when nobody listens any more.
                while let Some(texts) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let made = pool.install(|| one(texts));
                    if to_us.send((made, *texts)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(to_us);
        // Ends with the first error, or when every group is done.
        results
            .into_iter()
            .try_for_each(|(made, texts)| made.map(|made| finished(made, texts)))
    })
}

impl BatchLimits {
    /// The groups of threads that settings name by their devices; one device leaves it to the threads.
    pub(super) fn groups(devices: &[String]) -> usize {
        let groups = match crate::config::cuda_numbers(devices).len() {
            0 => devices.len(),
            gpus => gpus,
        };
        if groups > 1 { groups } else { 0 }
    }

    /// The tokens of the next batch where so many run at once and `left` tokens are to go.
    ///
    /// Together they keep about as many tokens in memory as one would, but each has enough for the products of its matrices to be worth
    /// while. Towards the end batches get smaller, so that nobody waits long for the last one.
    fn next(self, lanes: usize, left: usize) -> usize {
        /// With as few, a token of all-MiniLM-L6-v2 takes hardly longer than in a batch of 4,096.
        const LEAST: usize = 512;
        if lanes < 2 {
            return self.tokens;
        }
        let least = LEAST.min(self.tokens);
        let most = (self.tokens / lanes).max(least);
        left.div_ceil(2 * lanes).clamp(least, most)
    }
}

/// The texts of each batch, in the given order.
fn cut<'a>(order: &'a [usize], lengths: &[usize], limits: BatchLimits, lanes: usize) -> Vec<&'a [usize]> {
    let (mut batches, mut rest) = (Vec::new(), order);
    let mut left: usize = lengths.iter().sum();
    while !rest.is_empty() {
        let most = limits.next(lanes, left);
        let (mut count, mut tokens) = (0, 0);
        for &text in rest.iter().take(limits.texts.max(1)) {
            if count > 0 && tokens + lengths[text] > most {
                break;
            }
            count += 1;
            tokens += lengths[text];
        }
        let (batch, after) = rest.split_at(count);
        batches.push(batch);
        left -= tokens;
        rest = after;
    }
    batches
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(lengths: &[usize], tokens: usize, lanes: usize) -> Vec<usize> {
        let order: Vec<usize> = (0..lengths.len()).collect();
        let limits = BatchLimits {
            tokens,
            ..BatchLimits::default()
        };
        let batches = cut(&order, lengths, limits, lanes);
        assert_eq!(batches.concat(), order);
        let tokens = |batch: &&[usize]| batch.iter().map(|&text| lengths[text]).sum();
        batches.iter().map(tokens).collect()
    }

    #[test]
    fn a_gpu_is_one_group_however_often_it_is_named() {
        let groups = |devices: &[&str]| {
            let named: Vec<String> = devices.iter().map(|&name| name.to_owned()).collect();
            BatchLimits::groups(&named)
        };
        assert_eq!([groups(&[]), groups(&["cpu"]), groups(&["cuda"])], [0; 3]);
        assert_eq!(
            [groups(&["cuda:1", "cuda:1"]), groups(&["cuda", "cuda:0"])],
            [0; 2]
        );
        assert_eq!(
            [
                groups(&["cpu", "cpu", "cpu"]),
                groups(&["cuda:0", "cuda:1", "cuda:0"])
            ],
            [3, 2]
        );
    }

    #[test]
    fn one_lane_fills_its_batches_and_several_share_out_the_end() {
        assert_eq!(sizes(&[100; 25], 1000, 1), [1000, 1000, 500]);
        assert_eq!(sizes(&[5000, 10], 1000, 1), [5000, 10]);
        assert_eq!(sizes(&[], 1000, 4), [0; 0]);
        let two = sizes(&[256; 200], 4096, 2);
        assert_eq!((two[0], two.last()), (2048, Some(&256)));
        let four = sizes(&vec![8; 100_000], 4096, 4);
        assert!(
            four.iter().all(|&tokens| tokens <= 1024),
            "as much memory as one batch of 4,096"
        );
        // Whoever takes the last batch ends at most one of 512 tokens after the others.
        for lanes in [2, 3, 4] {
            let mut ends = vec![0; lanes];
            for tokens in sizes(&[100; 300], 4096, lanes) {
                *ends.iter_mut().min().unwrap() += tokens;
            }
            assert!(
                ends.iter().max().unwrap() - ends.iter().min().unwrap() <= 512,
                "{ends:?}"
            );
        }
    }
}
