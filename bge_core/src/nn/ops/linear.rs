//! The linear map `y = x Wᵀ + b` over the rows of a flat batch, and its gradients.

use rayon::prelude::*;

use super::buffer::{build_rows, build_rows_2, tile_rows};
use super::gemm::{Mat, product, product_into};
use super::math;

/// Rows summed by one task of a column sum; fixed, so that the bits do not depend on the threads.
const SUM_ROWS: usize = 256;

/// `x [T, K]`, `w [N, K]` → `[T, N]`; `finish` gets each finished tile of whole rows, still hot in cache.
pub(crate) fn forward(
    x: &[f32],
    w: &[f32],
    inputs: usize,
    outputs: usize,
    finish: impl Fn(&mut [f32]) + Sync,
) -> Vec<f32> {
    let rows = x.len() / inputs;
    let turned = turned_for(rows, w, outputs, inputs);
    let w = side(turned.as_ref(), w, outputs, inputs);
    build_rows(rows, outputs, tile_rows(rows), |range, memory| {
        let x = Mat::new(&x[range.start * inputs..], range.len(), inputs);
        let tile = product(memory, x, w);
        finish(tile);
        tile
    })
}

/// Like [`forward`], keeping the product beside what `finish` makes of it: (product, finished), both `[T, N]`.
pub(crate) fn forward_keeping(
    x: &[f32],
    w: &[f32],
    inputs: usize,
    outputs: usize,
    finish: impl for<'a> Fn(&mut [f32], &'a mut [std::mem::MaybeUninit<f32>]) -> &'a mut [f32] + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / inputs;
    let turned = turned_for(rows, w, outputs, inputs);
    let w = side(turned.as_ref(), w, outputs, inputs);
    build_rows_2(
        rows,
        outputs,
        outputs,
        tile_rows(rows),
        |range, kept, finished| {
            let x = Mat::new(&x[range.start * inputs..], range.len(), inputs);
            let kept = product(kept, x, w);
            let finished = finish(kept, finished);
            (kept, finished)
        },
    )
}

/// Rows from which turning a weight costs less than it saves.
const TURNED_FROM: usize = 128;

/// `w [N, K]` as `[K, N]`, for many rows; `None` for few.
///
/// gemm packs its right side anew for every tile: by rows it copies whole vectors, by columns single floats. The sums,
/// and so the bits, are the same.
fn turned_for(rows: usize, w: &[f32], outputs: usize, inputs: usize) -> Option<Vec<f32>> {
    /// Floats of a cache line, rows and columns of a block.
    const BLOCK: usize = 16;
    if rows < TURNED_FROM {
        return None;
    }
    let mut turned = vec![0.0_f32; w.len()];
    let tasks = turned.par_chunks_mut(BLOCK * outputs).enumerate();
    tasks.for_each(|(index, turned)| {
        math::vectorized!({
            let first = index * BLOCK;
            let columns = turned.len() / outputs;
            for start in (0..outputs).step_by(BLOCK) {
                let rows = BLOCK.min(outputs - start);
                let mut block = [[0.0_f32; BLOCK]; BLOCK];
                for (r, line) in block.iter_mut().enumerate().take(rows) {
                    let row = &w[(start + r) * inputs + first..];
                    line[..columns].copy_from_slice(&row[..columns]);
                }
                for (c, out) in turned.chunks_exact_mut(outputs).enumerate() {
                    for (slot, row) in out[start..start + rows].iter_mut().zip(&block) {
                        *slot = row[c];
                    }
                }
            }
        });
    });
    Some(turned)
}

/// The right side `[K, N]` of a product with `w [N, K]`.
fn side<'a>(turned: Option<&'a Vec<f32>>, w: &'a [f32], outputs: usize, inputs: usize) -> Mat<'a> {
    match turned {
        Some(turned) => Mat::new(turned, inputs, outputs),
        None => Mat::new(w, outputs, inputs).t(),
    }
}

/// Adds a bias to every row of a tile.
pub(crate) fn add_bias(tile: &mut [f32], bias: &[f32]) {
    math::vectorized!({
        for row in tile.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y += b;
            }
        }
    });
}

/// The gradient of the input: `dy [T, N] × w [N, K]` → `[T, K]`.
pub(crate) fn input_gradient(dy: &[f32], w: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = dy.len() / outputs;
    let w = Mat::new(w, outputs, inputs);
    build_rows(rows, inputs, tile_rows(rows), |range, memory| {
        product(
            memory,
            Mat::new(&dy[range.start * outputs..], range.len(), outputs),
            w,
        )
    })
}

/// Adds the gradient of the input to `dx [T, K]`.
pub(crate) fn add_input_gradient(dx: &mut [f32], dy: &[f32], w: &[f32], inputs: usize, outputs: usize) {
    let rows = dy.len() / outputs;
    if rows == 0 {
        return;
    }
    let tile = tile_rows(rows);
    let w = Mat::new(w, outputs, inputs);
    dx.par_chunks_mut(tile * inputs)
        .enumerate()
        .for_each(|(index, dx)| {
            let dy = Mat::new(&dy[index * tile * outputs..], dx.len() / inputs, outputs);
            product_into(dx, inputs, true, dy, w);
        });
}

/// The gradient of the weight `[N, K]`: `dyᵀ x`, written, or added to what is there.
///
/// Every element is one sum over all tokens in order, so the bits do not depend on the threads.
pub(crate) fn weight_gradient(
    dw: &mut [f32],
    add: bool,
    dy: &[f32],
    x: &[f32],
    inputs: usize,
    outputs: usize,
) {
    let rows = dy.len() / outputs;
    if rows == 0 {
        return;
    }
    let tile = outputs
        .div_ceil(rayon::current_num_threads().max(1) * 2)
        .next_multiple_of(16);
    let x = Mat::new(x, rows, inputs);
    dw.par_chunks_mut(tile * inputs)
        .enumerate()
        .for_each(|(index, dw)| {
            let dy = Mat::strided(&dy[index * tile..], rows, dw.len() / inputs, outputs);
            product_into(dw, inputs, add, dy.t(), x);
        });
}

/// The sum over rows of `[T, N]`: the gradient of a bias, written or added.
pub(crate) fn column_sums(sums: &mut [f32], add: bool, rows: &[f32]) {
    let width = sums.len();
    let partial = |rows: &[f32]| {
        let mut sums = vec![0.0_f32; width];
        math::vectorized!({
            for row in rows.chunks_exact(width) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += x;
                }
            }
        });
        sums
    };
    let partials: Vec<Vec<f32>> = rows.par_chunks(SUM_ROWS * width).map(partial).collect();
    if !add {
        sums.fill(0.0);
    }
    for partial in partials {
        for (sum, x) in sums.iter_mut().zip(partial) {
            *sum += x;
        }
    }
}
