//! Layer normalisation of `x + dropout(f)`, fused with the map that made `f`, and its backward.
//!
//! Ba, Kiros, Hinton 2016; the order dropout, residual, norm is BERT's (post-norm).

use rayon::prelude::*;

use super::buffer::{PerRow, build_rows_2, tile_rows, unwritten, write_each};
use super::dropout::Dropout;
use super::gemm::{Mat, product};
use super::math;

/// Rows whose parameter gradients one task sums; fixed, so that the bits do not depend on the threads.
const SUM_ROWS: usize = 256;

/// The affine part and the guard against division by zero.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
    pub(crate) eps: f32,
}

/// What the forward hands to the backward: the normalised rows `[T, D]` and `1 / σ` of each row `[T]`.
pub(crate) struct Normalized {
    pub(crate) output: Vec<f32>,
    pub(crate) unit: Vec<f32>,
    pub(crate) inverse_std: Vec<f32>,
}

/// Normalises one row in place to zero mean and unit variance and returns `1 / σ`.
#[inline(always)]
pub(crate) fn normalize_row(row: &mut [f32], eps: f32) -> f32 {
    let n = row.len() as f32;
    let mean = math::total(row) / n;
    for x in row.iter_mut() {
        *x -= mean;
    }
    let inverse = 1.0 / (math::dot(row, row) / n + eps).sqrt();
    for x in row.iter_mut() {
        *x *= inverse;
    }
    inverse
}

/// `layer_norm(residual + dropout(x Wᵀ + b))`: `x [T, K]`, `w [D, K]`, `residual [T, D]`.
pub(crate) fn linear_residual_norm(
    x: &[f32],
    (w, bias): (&[f32], &[f32]),
    residual: &[f32],
    dropout: Option<(Dropout, &[u64])>,
    affine: Affine,
) -> Normalized {
    let width = affine.gamma.len();
    let rows = residual.len() / width;
    let inputs = x.len() / rows.max(1);
    let weight = Mat::new(w, width, inputs);
    let tile = tile_rows(rows);
    let inverse_std = PerRow::new(rows);
    let (unit, output) = build_rows_2(rows, width, width, tile, |range, unit, output| {
        let unit = product(
            unit,
            Mat::new(&x[range.start * inputs..], range.len(), inputs),
            weight.t(),
        );
        let output = math::vectorized!({
            for (offset, row) in unit.chunks_exact_mut(width).enumerate() {
                let t = range.start + offset;
                let residual = &residual[t * width..][..width];
                if let Some((dropout, keys)) = dropout {
                    let mask = dropout.row(keys[t]);
                    for (i, ((f, b), r)) in row.iter_mut().zip(bias).zip(residual).enumerate() {
                        *f = (*f + b) * mask.factor(i) + r;
                    }
                } else {
                    for ((f, b), r) in row.iter_mut().zip(bias).zip(residual) {
                        *f = (*f + b) + r;
                    }
                }
                let inverse = normalize_row(row, affine.eps);
                inverse_std.set(t, inverse);
            }
            scale_and_shift(output, unit, affine)
        });
        (unit, output)
    });
    Normalized {
        output,
        unit,
        inverse_std: inverse_std.into_floats(),
    }
}

/// `unit * gamma + beta` for whole rows.
#[inline(always)]
pub(crate) fn scale_and_shift<'a>(
    output: &'a mut [std::mem::MaybeUninit<f32>],
    unit: &[f32],
    affine: Affine,
) -> &'a mut [f32] {
    let width = affine.gamma.len();
    for (output, unit) in output.chunks_exact_mut(width).zip(unit.chunks_exact(width)) {
        for (((y, x), g), b) in output.iter_mut().zip(unit).zip(affine.gamma).zip(affine.beta) {
            y.write(x * g + b);
        }
    }
    let len = output.len();
    debug_assert_eq!(len % width, 0);
    #[expect(unsafe_code, reason = "the loops above wrote every element")]
    // SAFETY: `output` and `unit` have one length, a multiple of the width, so every element was written.
    unsafe {
        output.assume_init_mut()
    }
}

/// Gradients of the normalised sum: of its input `[T, D]`, and added to those of gamma and beta.
///
/// `d_gamma`/`d_beta` come back as sums over all tokens, in an order that does not depend on the threads.
pub(crate) fn backward(
    dy: &[f32],
    unit: &[f32],
    inverse_std: &[f32],
    gamma: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let width = gamma.len();
    let rows = inverse_std.len();
    let mut dx = unwritten(rows * width);
    let chunk = SUM_ROWS * width;
    let partials: Vec<(Vec<f32>, Vec<f32>)> = dx
        .par_chunks_mut(chunk)
        .enumerate()
        .map(|(index, dx)| {
            let (mut d_gamma, mut d_beta) = (vec![0.0_f32; width], vec![0.0_f32; width]);
            math::vectorized!({
                for (offset, dx) in dx.chunks_exact_mut(width).enumerate() {
                    let t = index * SUM_ROWS + offset;
                    let (dy, unit) = (&dy[t * width..][..width], &unit[t * width..][..width]);
                    for ((s, dy), u) in d_gamma.iter_mut().zip(dy).zip(unit) {
                        *s += dy * u;
                    }
                    for (s, dy) in d_beta.iter_mut().zip(dy) {
                        *s += dy;
                    }
                    row_backward(dx, dy, unit, gamma, inverse_std[t]);
                }
            });
            (d_gamma, d_beta)
        })
        .collect();
    let (mut d_gamma, mut d_beta) = (vec![0.0_f32; width], vec![0.0_f32; width]);
    for (gamma, beta) in partials {
        d_gamma.iter_mut().zip(gamma).for_each(|(sum, x)| *sum += x);
        d_beta.iter_mut().zip(beta).for_each(|(sum, x)| *sum += x);
    }
    #[expect(unsafe_code, reason = "every row of every chunk was written")]
    // SAFETY: the chunks cover `dx`, and `row_backward` wrote each of their rows whole.
    let dx = unsafe {
        let mut dx = std::mem::ManuallyDrop::new(dx);
        Vec::from_raw_parts(dx.as_mut_ptr().cast::<f32>(), dx.len(), dx.capacity())
    };
    (dx, d_gamma, d_beta)
}

/// One row: `dx = (g - mean(g) - unit * mean(g * unit)) / σ` with `g = dy * gamma`.
#[inline(always)]
fn row_backward(
    dx: &mut [std::mem::MaybeUninit<f32>],
    dy: &[f32],
    unit: &[f32],
    gamma: &[f32],
    inverse_std: f32,
) {
    let n = dy.len() as f32;
    let dx = write_each(dx, |i| dy[i] * gamma[i]);
    let mean = math::total(dx) / n;
    let projection = math::dot(dx, unit) / n;
    for (g, u) in dx.iter_mut().zip(unit) {
        *g = (*g - mean - u * projection) * inverse_std;
    }
}

/// The gradient behind a dropout: each row times its mask.
pub(crate) fn dropout_backward(gradient: &[f32], width: usize, dropout: Dropout, keys: &[u64]) -> Vec<f32> {
    let rows = gradient.len() / width;
    super::buffer::build_rows(rows, width, tile_rows(rows), |range, memory| {
        math::vectorized!({
            for (offset, out) in memory.chunks_exact_mut(width).enumerate() {
                let t = range.start + offset;
                let (mask, row) = (dropout.row(keys[t]), &gradient[t * width..][..width]);
                for (i, (out, g)) in out.iter_mut().zip(row).enumerate() {
                    out.write(g * mask.factor(i));
                }
            }
        });
        #[expect(unsafe_code, reason = "the loop above wrote every element")]
        // SAFETY: the tile is a whole number of rows and each was written.
        unsafe {
            memory.assume_init_mut()
        }
    })
}
