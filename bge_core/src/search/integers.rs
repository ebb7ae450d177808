//! Proposals in whole numbers of 16 bits, on processors with 256-bit vectors: products summed in 32 bits, without a rounding.
//!
//! There the vector unit multiplies twice as many whole numbers as it does f32. Vectors are stretched to one length before they are
//! rounded; what rounding takes away is part of the error bound ([`bounds`](super::bounds)), so that the lists stay the same.
//!
//! Numbers go in pairs, as the instruction wants them: a tile has 6 rows, a panel 16 queries, pair after pair.

use core::arch::x86_64::{
    _CMP_GE_OQ, _mm256_add_epi32, _mm256_cmp_ps, _mm256_cvtepi32_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_movemask_ps, _mm256_mul_ps, _mm256_set1_epi32, _mm256_setzero_si256,
    _mm256_storeu_ps,
};

use super::kernel::Tile;

/// Rows of a packed tile.
pub(super) const ROWS: usize = 6;
/// Queries of a panel.
pub(super) const WIDTH: usize = 16;
/// The length that vectors are stretched to: no number leaves 16 bits, and no sum of products 31.
pub(super) const LENGTH: f64 = 32_000.0;
/// Longer rows could have sums that do not fit, by what rounding adds to their length.
pub(super) const MOST_DIM: usize = 1 << 24;

/// Whether the processor has the instructions.
pub(super) fn detect() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Whether vectors of this norm can be stretched, and their scores be told in f32.
pub(super) fn fits(norm: f64) -> bool {
    norm == 0.0 || (1e-15..1e15).contains(&norm)
}

/// What stretches vectors up to this norm.
pub(super) fn stretch(norm: f64) -> f32 {
    if norm == 0.0 { 0.0 } else { (LENGTH / norm) as f32 }
}

/// What makes scores of sums where the vectors were stretched by these.
pub(super) fn factor(row: f32, query: f32) -> f32 {
    let product = f64::from(row) * f64::from(query);
    if product == 0.0 {
        0.0
    } else {
        (1.0 / product) as f32
    }
}

/// Pairs of numbers in a row.
pub(super) const fn pairs(dim: usize) -> usize {
    dim.div_ceil(2)
}

/// Packs rows `[count, dim]` to `[count, pairs]`, with rows of zeros that fill the last tile up.
pub(super) fn pack_rows(rows: &[f32], dim: usize, stretch: f32, out: &mut Vec<i32>) {
    let pairs = pairs(dim);
    out.clear();
    out.resize((rows.len() / dim).next_multiple_of(ROWS) * pairs, 0);
    for (row, slots) in rows.chunks_exact(dim).zip(out.chunks_exact_mut(pairs)) {
        pack(row, stretch, slots.iter_mut());
    }
}

/// Packs the numbers of a query, scaled, into its place in a panel, `[pairs, 16]`.
pub(super) fn pack_query(lane: usize, numbers: &[f32], stretch: f32, panel: &mut [i32]) {
    pack(numbers, stretch, panel.iter_mut().skip(lane).step_by(WIDTH));
}

fn pack<'p>(numbers: &[f32], stretch: f32, mut slots: impl Iterator<Item = &'p mut i32>) {
    /// Next to this, the numbers that an f32 can hold are whole: the last bits of a sum are those of the rounded number.
    const WHOLE: f32 = 3.0 * (1 << 22) as f32;
    let whole = |x: f32| (x * stretch + WHOLE).to_bits();
    let pair = |a: f32, b: f32| (whole(a) & 0xffff | whole(b) << 16) as i32;
    let (pairs, last) = numbers.as_chunks();
    for ([a, b], slot) in pairs.iter().zip(&mut slots) {
        *slot = pair(*a, *b);
    }
    for (x, slot) in last.iter().zip(slots) {
        *slot = pair(*x, 0.0);
    }
}

/// One tile: 6 packed rows, `[6, pairs]`, with the 16 queries of a panel, whose sums are scores after multiplication with `factors`.
///
/// Says whether a score reached the threshold of its query, and only then writes `out`, `[6, 16]`.
pub(super) fn tile(rows: &[i32], panel: &[i32], factors: &[f32], thresholds: &[f32], out: &mut Tile) -> bool {
    let pairs = rows.len() / ROWS;
    assert!(
        detect() && rows.len() == pairs * ROWS && panel.len() == pairs * WIDTH,
        "a tile of another shape"
    );
    assert!(
        factors.len() == WIDTH && thresholds.len() == WIDTH,
        "thresholds of another panel"
    );
    #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
    // SAFETY: the instructions were detected; `rows` holds 6 and `panel` 16 for each pair, `factors` and `thresholds` 16.
    unsafe {
        multiply(rows, panel, pairs, factors, thresholds, out)
    }
}

/// # Safety
///
/// AVX2; `rows` is `[6, pairs]`, `panel` `[pairs, 16]`, `factors` and `thresholds` `[16]`.
#[expect(unsafe_code, reason = "vector instructions on raw memory")]
#[target_feature(enable = "avx2")]
unsafe fn multiply(
    rows: &[i32],
    panel: &[i32],
    pairs: usize,
    factors: &[f32],
    thresholds: &[f32],
    out: &mut Tile,
) -> bool {
    // SAFETY: pairs are below `pairs`, rows below 6, vectors below 2: within the slices by the caller's promise. 6 * 16 scores fit.
    unsafe {
        let (rows, mut queries) = (rows.as_ptr(), panel.as_ptr());
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        // One pair at a time: of several, the compiler would add the products up first, for which there are not enough registers.
        for pair in 0..pairs {
            let lanes = [
                _mm256_loadu_si256(queries.cast()),
                _mm256_loadu_si256(queries.add(8).cast()),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(*rows.add(r * pairs + pair));
                for (sum, lanes) in sums.iter_mut().zip(lanes) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, lanes));
                }
            }
            queries = queries.add(WIDTH);
        }
        let load = |values: &[f32]| {
            [
                _mm256_loadu_ps(values.as_ptr()),
                _mm256_loadu_ps(values.as_ptr().add(8)),
            ]
        };
        let (factors, limits) = (load(factors), load(thresholds));
        let score = |r: usize, v: usize| _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][v]), factors[v]);
        let mut any = 0;
        for (r, passes) in out.passes.iter_mut().enumerate().take(ROWS) {
            *passes = 0;
            for (v, limit) in limits.iter().enumerate() {
                let bits = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(score(r, v), *limit));
                *passes |= (bits as u64 & 0xff) << (8 * v);
            }
            any |= *passes;
        }
        if any != 0 {
            for r in 0..ROWS {
                for v in 0..2 {
                    _mm256_storeu_ps(out.scores.as_mut_ptr().add(WIDTH * r + 8 * v), score(r, v));
                }
            }
        }
        any != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    #[test]
    fn a_tile_has_the_scores_of_whole_numbers() {
        if !detect() {
            return; // not this processor
        }
        for dim in [1, 2, 7, 8, 33, 100] {
            let mut draws = Draws::new(dim as u64);
            let mut numbers = |count: usize| -> Vec<f32> {
                (0..count * dim).map(|_| draws.below(65) as f32 - 32.0).collect()
            };
            let (rows, queries) = (numbers(8), numbers(16));
            let mut tiles = Vec::new();
            pack_rows(&rows, dim, 2.0, &mut tiles);
            assert_eq!(tiles.len(), 2 * ROWS * pairs(dim));
            let mut panel = vec![0; pairs(dim) * WIDTH];
            for (lane, query) in queries.chunks(dim).enumerate() {
                pack_query(lane, query, 4.0, &mut panel);
            }
            let mut out = Tile::new();
            for (packed, rows) in tiles.chunks(ROWS * pairs(dim)).zip(rows.chunks(ROWS * dim)) {
                assert!(tile(packed, &panel, &[0.125; 16], &[0.0; 16], &mut out));
                for (r, row) in rows.chunks(dim).enumerate() {
                    for (lane, query) in queries.chunks(dim).enumerate() {
                        let score: f32 = row.iter().zip(query).map(|(a, b)| a * b).sum();
                        assert_eq!(out.scores[r * WIDTH + lane], score);
                        assert_eq!(out.passes[r] >> lane & 1 == 1, score >= 0.0);
                    }
                }
            }
            let tile_0 = &tiles[..ROWS * pairs(dim)];
            assert!(!tile(
                tile_0,
                &panel,
                &[0.125; 16],
                &[f32::INFINITY; 16],
                &mut out
            ));
        }
    }

    #[test]
    fn the_longest_vectors_keep_their_sums_within_31_bits() {
        let dim = 4096;
        let mut longest = vec![0.0; dim];
        longest[7] = 1.0;
        for vector in [longest, vec![1.0 / 64.0; dim]] {
            let (mut tiles, mut panel) = (Vec::new(), vec![0; pairs(dim) * WIDTH]);
            pack_rows(&vector, dim, stretch(1.0), &mut tiles);
            pack_query(0, &vector, stretch(1.0), &mut panel);
            let mut out = Tile::new();
            let factor = (1.0 / (LENGTH * LENGTH)) as f32;
            assert!(!detect() || tile(&tiles, &panel, &[factor; 16], &[0.99; 16], &mut out));
            assert!(!detect() || (out.scores[0] - 1.0).abs() < 1e-6);
        }
    }
}
