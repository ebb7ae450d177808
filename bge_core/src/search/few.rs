//! Scores of rows with a few queries, summed along the rows: as fast as memory gives them.

use core::arch::x86_64::{
    __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
};

use super::kernel::Tile;

/// Queries of a panel at most.
pub(super) const MOST: usize = 4;

/// Whether the processor has the instructions.
pub(super) fn detect() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// One tile: rows of `rows`, `[count, dim]`, with the queries of `panel`, `[width, dim]`, at most [`MOST`].
///
/// Says whether a score reached the threshold of its query; only then are the scores in `out`, `[count, width]`.
pub(super) fn tile(rows: &[f32], dim: usize, panel: &[f32], thresholds: &[f32], out: &mut Tile) -> bool {
    assert!(
        detect() && dim > 0 && panel.len() == thresholds.len() * dim,
        "a tile of another shape"
    );
    #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
    // SAFETY: the instructions were detected; the panel holds as many queries as there are thresholds, each of `dim`.
    unsafe {
        match thresholds {
            [a] => with::<1>(rows, dim, panel, [*a], out),
            [a, b] => with::<2>(rows, dim, panel, [*a, *b], out),
            [a, b, c] => with::<3>(rows, dim, panel, [*a, *b, *c], out),
            [a, b, c, d] => with::<4>(rows, dim, panel, [*a, *b, *c, *d], out),
            _ => unreachable!("a panel of another width"),
        }
    }
}

/// # Safety
///
/// AVX2 and FMA; `panel` is `[Q, dim]`.
#[expect(unsafe_code, reason = "vector instructions on raw memory")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with<const Q: usize>(
    rows: &[f32],
    dim: usize,
    panel: &[f32],
    thresholds: [f32; Q],
    out: &mut Tile,
) -> bool {
    let whole = dim - dim % 16;
    let mut any = 0;
    for ((row, passes), scores) in rows
        .chunks_exact(dim)
        .zip(&mut out.passes)
        .zip(out.scores.chunks_exact_mut(Q))
    {
        let mut sums = [[_mm256_setzero_ps(); 2]; Q];
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 numbers from `at` on are within each row of `dim`.
            unsafe {
                let x = [
                    _mm256_loadu_ps(row.as_ptr().add(at)),
                    _mm256_loadu_ps(row.as_ptr().add(at + 8)),
                ];
                for (q, sums) in sums.iter_mut().enumerate() {
                    let query = panel.as_ptr().add(q * dim + at);
                    sums[0] = _mm256_fmadd_ps(x[0], _mm256_loadu_ps(query), sums[0]);
                    sums[1] = _mm256_fmadd_ps(x[1], _mm256_loadu_ps(query.add(8)), sums[1]);
                }
            }
        }
        *passes = 0;
        for (q, ((sums, query), limit)) in sums
            .into_iter()
            .zip(panel.chunks_exact(dim))
            .zip(thresholds)
            .enumerate()
        {
            let rest = row[whole..].iter().zip(&query[whole..]);
            let score = rest.fold(add_up(_mm256_add_ps(sums[0], sums[1])), |sum, (a, b)| {
                a.mul_add(*b, sum)
            });
            scores[q] = score;
            *passes |= u64::from(score >= limit) << q;
        }
        any |= *passes;
    }
    any != 0
}

#[target_feature(enable = "avx2")]
fn add_up(sums: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    #[test]
    fn a_tile_of_a_few_queries_has_the_scores_of_whole_numbers() {
        if !detect() {
            return; // not this processor
        }
        for dim in [1, 7, 16, 33, 100] {
            let mut draws = Draws::new(dim as u64);
            let mut numbers = |count: usize| -> Vec<f32> {
                (0..count * dim).map(|_| draws.below(65) as f32 - 32.0).collect()
            };
            let (rows, queries) = (numbers(6), numbers(MOST));
            for width in 1..=MOST {
                let panel = &queries[..width * dim];
                let mut out = Tile::new();
                tile(&rows, dim, panel, &vec![0.0; width], &mut out);
                for (r, row) in rows.chunks(dim).enumerate() {
                    for (q, query) in panel.chunks(dim).enumerate() {
                        let score: f32 = row.iter().zip(query).map(|(a, b)| a * b).sum();
                        assert_eq!(out.scores[r * width + q], score);
                        assert_eq!(out.passes[r] >> q & 1 == 1, score >= 0.0);
                    }
                }
                assert!(!tile(&rows, dim, panel, &vec![f32::INFINITY; width], &mut out));
            }
        }
    }
}
