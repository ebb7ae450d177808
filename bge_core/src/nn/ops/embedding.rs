//! The sum of word, position and type embeddings, normalised; and the scatter of its gradient.

use rayon::prelude::*;

use super::buffer::{PerRow, build_rows_2, tile_rows};
use super::dropout::Dropout;
use super::math;
use super::norm::{Affine, Normalized, normalize_row, scale_and_shift};

/// One embedding table `[rows, D]` and the row that each token takes.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub(crate) table: &'a [f32],
    pub(crate) rows: &'a [u32],
}

/// `dropout(layer_norm(Σ lookups))` over `T` tokens.
pub(crate) fn forward(lookups: &[Lookup], dropout: Option<(Dropout, &[u64])>, affine: Affine) -> Normalized {
    let width = affine.gamma.len();
    let tokens = lookups.first().map_or(0, |lookup| lookup.rows.len());
    let inverse_std = PerRow::new(tokens);
    let (unit, output) = build_rows_2(tokens, width, width, tile_rows(tokens), |range, unit, output| {
        math::vectorized!({
            for (offset, row) in unit.chunks_exact_mut(width).enumerate() {
                let t = range.start + offset;
                for (i, x) in row.iter_mut().enumerate() {
                    x.write(
                        lookups
                            .iter()
                            .map(|l| l.table[l.rows[t] as usize * width + i])
                            .sum(),
                    );
                }
            }
            #[expect(unsafe_code, reason = "the loop above wrote every element")]
            // SAFETY: the tile is a whole number of rows and each was written.
            let unit = unsafe { unit.assume_init_mut() };
            for (offset, row) in unit.chunks_exact_mut(width).enumerate() {
                let inverse = normalize_row(row, affine.eps);
                inverse_std.set(range.start + offset, inverse);
            }
            let output = scale_and_shift(output, unit, affine);
            if let Some((dropout, keys)) = dropout {
                for (offset, row) in output.chunks_exact_mut(width).enumerate() {
                    let mask = dropout.row(keys[range.start + offset]);
                    for (i, x) in row.iter_mut().enumerate() {
                        *x *= mask.factor(i);
                    }
                }
            }
            (unit, output)
        })
    });
    Normalized {
        output,
        unit,
        inverse_std: inverse_std.into_floats(),
    }
}

/// Adds each token's gradient row to the row of the table that it took.
///
/// Tasks own ranges of the table, and each walks the tokens in order: no atomics, and the same bits always.
pub(crate) fn scatter_add(table: &mut [f32], rows: &[u32], gradient: &[f32], width: usize) {
    let table_rows = table.len() / width;
    let share = table_rows.div_ceil(rayon::current_num_threads().max(1)).max(1);
    table
        .par_chunks_mut(share * width)
        .enumerate()
        .for_each(|(index, table)| {
            let (first, last) = (index * share, index * share + table.len() / width);
            for (t, &row) in rows.iter().enumerate() {
                let row = row as usize;
                if (first..last).contains(&row) {
                    let target = &mut table[(row - first) * width..][..width];
                    for (sum, g) in target.iter_mut().zip(&gradient[t * width..][..width]) {
                        *sum += g;
                    }
                }
            }
        });
}
