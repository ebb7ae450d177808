//! Multi-head self-attention over the sequences of a flat batch: no padding, no `[L, L]` matrix kept.
//!
//! The forward keeps only the log of each softmax's denominator; the backward recomputes the probabilities
//! from it (Dao et al. 2022). Tasks are blocks of query rows (forward) and sequences (backward).

use rayon::prelude::*;

use super::dropout::Dropout;
use super::gemm::{Mat, product_of_text};
use super::math;
use crate::random;

/// Query rows handled at once; bounds the scratch memory to `BLOCK * L` floats a thread.
const BLOCK: usize = 128;

/// What every attention call shares.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) heads: usize,
    pub(crate) width: usize,
    /// Row offsets of the sequences, `n + 1` numbers from 0 to `T` (`cu_seqlens`).
    pub(crate) offsets: &'a [u32],
    /// Dropout of the probabilities, with the identity of each token.
    pub(crate) dropout: Option<(Dropout, &'a [u64])>,
}

impl Shape<'_> {
    fn head_width(self) -> usize {
        self.width / self.heads
    }

    fn scale(self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }

    /// The columns of one head in `rows` rows of `x [T, D]` from row `first` on.
    fn part(self, x: &[f32], head: usize, first: usize, rows: usize) -> Mat<'_> {
        let d = self.head_width();
        Mat::strided(&x[first * self.width + head * d..], rows, d, self.width)
    }

    fn mask(self, token: usize, head: usize) -> Option<super::dropout::RowMask> {
        self.dropout
            .map(|(dropout, keys)| dropout.row(random::mix(keys[token]).wrapping_add(head as u64)))
    }
}

/// `softmax(q kᵀ / √d) v` per head: (context `[T, D]`, log-denominators `[T, H]`).
pub(crate) fn forward(q: &[f32], k: &[f32], v: &[f32], shape: Shape) -> (Vec<f32>, Vec<f32>) {
    struct Task<'a> {
        context: &'a mut [f32],
        log_sums: &'a mut [f32],
        first: usize,
        sequence: std::ops::Range<usize>,
    }
    let tokens = q.len() / shape.width;
    let (mut context, mut log_sums) = (vec![0.0_f32; q.len()], vec![0.0_f32; tokens * shape.heads]);
    let mut tasks = Vec::new();
    let (mut context_rest, mut sums_rest) = (context.as_mut_slice(), log_sums.as_mut_slice());
    for pair in shape.offsets.windows(2) {
        let sequence = pair[0] as usize..pair[1] as usize;
        for first in sequence.clone().step_by(BLOCK) {
            let rows = BLOCK.min(sequence.end - first);
            let (context, rest) = context_rest.split_at_mut(rows * shape.width);
            context_rest = rest;
            let (log_sums, rest) = sums_rest.split_at_mut(rows * shape.heads);
            sums_rest = rest;
            tasks.push(Task {
                context,
                log_sums,
                first,
                sequence: sequence.clone(),
            });
        }
    }
    tasks.into_par_iter().for_each(|task| {
        let (rows, len, start) = (
            task.log_sums.len() / shape.heads,
            task.sequence.len(),
            task.sequence.start,
        );
        let mut scores = vec![0.0_f32; rows * len];
        let mut inverses = vec![0.0_f32; rows];
        for head in 0..shape.heads {
            head_scores(&mut scores, q, k, shape, head, task.first, rows, start, len);
            math::vectorized!({
                for (i, row) in scores.chunks_exact_mut(len).enumerate() {
                    let (scale, peak) = (shape.scale(), math::largest(row));
                    let sum = math::exponentials(row, peak, scale);
                    task.log_sums[i * shape.heads + head] = peak * scale + sum.ln();
                    inverses[i] = 1.0 / sum;
                    if let Some(mask) = shape.mask(task.first + i, head) {
                        for (j, p) in row.iter_mut().enumerate() {
                            *p *= mask.factor(j);
                        }
                    }
                }
            });
            let at = head * shape.head_width();
            let (scores, values) = (Mat::new(&scores, rows, len), shape.part(v, head, start, len));
            product_of_text(&mut task.context[at..], shape.width, false, scores, values);
            // A head's context is narrower than a row of probabilities: it is divided by their sum instead of them.
            math::vectorized!({
                for (context, inverse) in task.context.chunks_exact_mut(shape.width).zip(&inverses) {
                    for x in &mut context[at..at + shape.head_width()] {
                        *x *= inverse;
                    }
                }
            });
        }
    });
    (context, log_sums)
}

/// Raw scores `q kᵀ` of one head: `rows` queries from `first` against the `len` keys from `start`.
#[expect(clippy::too_many_arguments, reason = "the coordinates of one block")]
fn head_scores(
    scores: &mut [f32],
    q: &[f32],
    k: &[f32],
    shape: Shape,
    head: usize,
    first: usize,
    rows: usize,
    start: usize,
    len: usize,
) {
    let (queries, keys) = (shape.part(q, head, first, rows), shape.part(k, head, start, len));
    product_of_text(scores, len, false, queries, keys.t());
}

/// What the forward kept for the backward.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) context: &'a [f32],
    pub(crate) log_sums: &'a [f32],
}

/// Gradients of q, k and v, each `[T, D]`, from the gradient of the context.
pub(crate) fn backward(d_context: &[f32], kept: Kept, shape: Shape) -> [Vec<f32>; 3] {
    struct Task<'a> {
        dq: &'a mut [f32],
        dk: &'a mut [f32],
        dv: &'a mut [f32],
        start: usize,
    }
    let size = kept.q.len();
    let (mut dq, mut dk, mut dv) = (vec![0.0_f32; size], vec![0.0_f32; size], vec![0.0_f32; size]);
    let mut tasks = Vec::new();
    let mut rest = (dq.as_mut_slice(), dk.as_mut_slice(), dv.as_mut_slice());
    for pair in shape.offsets.windows(2) {
        let floats = (pair[1] - pair[0]) as usize * shape.width;
        let (dq, rest_q) = rest.0.split_at_mut(floats);
        let (dk, rest_k) = rest.1.split_at_mut(floats);
        let (dv, rest_v) = rest.2.split_at_mut(floats);
        rest = (rest_q, rest_k, rest_v);
        tasks.push(Task {
            dq,
            dk,
            dv,
            start: pair[0] as usize,
        });
    }
    tasks.into_par_iter().for_each(|task| {
        let len = task.dq.len() / shape.width;
        let block = BLOCK.min(len);
        let (mut p, mut ds) = (vec![0.0_f32; block * len], vec![0.0_f32; block * len]);
        for head in 0..shape.heads {
            for first in (0..len).step_by(BLOCK) {
                let rows = BLOCK.min(len - first);
                let (p, ds) = (&mut p[..rows * len], &mut ds[..rows * len]);
                block_backward(d_context, kept, shape, head, task.start, first, p, ds, len);
                let (at, width, global) = (head * shape.head_width(), shape.width, task.start + first);
                let (p, ds) = (Mat::new(p, rows, len), Mat::new(ds, rows, len));
                let queries = shape.part(kept.q, head, global, rows);
                let keys = shape.part(kept.k, head, task.start, len);
                let gradient = shape.part(d_context, head, global, rows);
                product_of_text(&mut task.dv[at..], width, first > 0, p.t(), gradient);
                product_of_text(&mut task.dk[at..], width, first > 0, ds.t(), queries);
                product_of_text(&mut task.dq[first * width + at..], width, false, ds, keys);
            }
        }
    });
    [dq, dk, dv]
}

/// One block of one head: fills `p` with the dropped-out probabilities and `ds` with the gradient of the scores.
#[expect(clippy::too_many_arguments, reason = "the coordinates of one block")]
fn block_backward(
    d_context: &[f32],
    kept: Kept,
    shape: Shape,
    head: usize,
    start: usize,
    first: usize,
    p: &mut [f32],
    ds: &mut [f32],
    len: usize,
) {
    let (at, d, width) = (head * shape.head_width(), shape.head_width(), shape.width);
    let rows = p.len() / len;
    let global = start + first;
    head_scores(p, kept.q, kept.k, shape, head, global, rows, start, len);
    let (gradient, values) = (
        shape.part(d_context, head, global, rows),
        shape.part(kept.v, head, start, len),
    );
    product_of_text(ds, len, false, gradient, values.t());
    math::vectorized!({
        let scale = shape.scale();
        for (i, (p, ds)) in p.chunks_exact_mut(len).zip(ds.chunks_exact_mut(len)).enumerate() {
            let token = global + i;
            let (out, d_out) = (
                &kept.context[token * width + at..][..d],
                &d_context[token * width + at..][..d],
            );
            let delta = math::dot(out, d_out);
            let log_sum = kept.log_sums[token * shape.heads + head];
            if let Some(mask) = shape.mask(token, head) {
                for (j, (p, ds)) in p.iter_mut().zip(ds).enumerate() {
                    let (probability, factor) = (math::exp(*p * scale - log_sum), mask.factor(j));
                    *ds = probability * (*ds * factor - delta) * scale;
                    *p = probability * factor;
                }
            } else {
                for (p, ds) in p.iter_mut().zip(ds) {
                    let probability = math::exp(*p * scale - log_sum);
                    *ds = probability * (*ds - delta) * scale;
                    *p = probability;
                }
            }
        }
    });
}
