//! Scores of a few rows with a panel of queries, all in registers, and whether any of them passes its query's threshold.
//!
//! The rounding error of a score has the bound that [`bounds`](super::bounds) states, in whatever order its products are summed: here
//! in that of the numbers. No score is written to memory unless one of the tile passes.
//!
//! Where there are fewer queries than fill a panel, [`few`](super::few) takes them and sums along the rows.

#[cfg(target_arch = "x86_64")]
use super::few;

/// Scores of a tile at most: rows times queries of a panel.
const MOST_SCORES: usize = 32 * 32;

/// The scores of a tile of which some pass.
pub(super) struct Tile {
    /// `[rows, width]`.
    pub scores: [f32; MOST_SCORES],
    /// For each row one bit for each query that it passes.
    pub passes: [u64; 32],
}

impl Tile {
    /// An empty one, to be written to.
    pub(super) const fn new() -> Self {
        Self {
            scores: [0.0; MOST_SCORES],
            passes: [0; 32],
        }
    }
}

/// What the processor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Any processor.
    Portable,
    /// 256-bit registers with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best one of this machine.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if few::detect() {
                return if is_x86_feature_detected!("avx512f") {
                    Self::Avx512
                } else {
                    Self::Avx2
                };
            }
        }
        Self::Portable
    }

    /// All that this machine can run.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if few::detect() {
                all.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") {
                    all.push(Self::Avx512);
                }
            }
        }
        all
    }

    /// Rows of a tile.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Portable => 4,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 8,
        }
    }

    /// Rows, in whole tiles, that meet all panels before the next ones do.
    ///
    /// With 512-bit registers it is one tile: the panels stay in a second-level cache of 2 MiB. Where that is smaller (512 KiB
    /// on Zen), a strip of rows stays there instead, and one panel after the other passes nearest to the processor.
    pub(super) fn strip(self, dim: usize) -> usize {
        /// Numbers of a strip: half of the cache.
        const STRIP: usize = 64 << 10;
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => self.rows(),
            _ => (STRIP / dim / self.rows()).max(1) * self.rows(),
        }
    }

    /// Queries that the next panel takes when `left` are left: the narrower ones waste less on a few. Up to [`few::MOST`] lie one after
    /// the other in it, `[width, dim]`.
    pub(super) fn width(self, left: usize) -> usize {
        match self {
            Self::Portable => 16,
            #[cfg(target_arch = "x86_64")]
            _ if left <= few::MOST => left.max(1),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => left.min(48).next_multiple_of(16),
        }
    }

    /// Where a query of a panel has its first number, and how far from each other its numbers are.
    pub(super) fn lane(self, lane: usize, width: usize, dim: usize) -> (usize, usize) {
        match self {
            #[cfg(target_arch = "x86_64")]
            _ if width <= few::MOST => (lane * dim, 1),
            _ => (lane, width),
        }
    }
}

/// One tile: `count` rows of `rows`, at most [`Level::rows`], with the queries of `panel`, `[dim, width]`, or `[width, dim]` of a few.
///
/// Says whether a score reached the threshold of its query; only then is `out` written.
/// `next` is what will be read after this tile.
pub(super) fn tile(
    level: Level,
    rows: &[f32],
    next: &[f32],
    panel: &[f32],
    thresholds: &[f32],
    out: &mut Tile,
) -> bool {
    let width = thresholds.len();
    let dim = panel.len() / width;
    let count = rows.len() / dim;
    assert!(
        dim > 0
            && count > 0
            && count <= level.rows()
            && panel.len() == dim * width
            && rows.len() == count * dim,
        "a tile of another shape"
    );
    match level {
        #[cfg(target_arch = "x86_64")]
        _ if width <= few::MOST => few::tile(rows, dim, panel, thresholds, out),
        Level::Portable => {
            assert_eq!(width, 16, "a panel of another width");
            portable(rows, count, panel, thresholds, out)
        }
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
        Level::Avx2 => {
            assert_eq!(width, 16, "a panel of another width");
            // SAFETY: the instructions were detected; `rows` holds `count` rows of `dim`, `panel` `dim` times 16
            // numbers, `thresholds` 16, and `out` has room for 6 times 16.
            unsafe { x86::tile_avx2(rows, count, dim, next, panel, thresholds, out) }
        }
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
        // SAFETY: the instructions were detected; `rows` holds `count` rows of `dim`, `panel` `dim` times `width`
        // numbers, `thresholds` `width`, and `out` has room for 8 times `width`, which is what the name says.
        Level::Avx512 => unsafe {
            match width {
                48 => x86::tile_avx512::<3>(rows, count, dim, next, panel, thresholds, out),
                32 => x86::tile_avx512::<2>(rows, count, dim, next, panel, thresholds, out),
                16 => x86::tile_avx512::<1>(rows, count, dim, next, panel, thresholds, out),
                _ => unreachable!("a panel of another width"),
            }
        },
    }
}

fn portable(rows: &[f32], count: usize, panel: &[f32], thresholds: &[f32], out: &mut Tile) -> bool {
    let dim = rows.len() / count;
    let mut sums = [[0.0_f32; 16]; 4];
    // Absent rows repeat the last one; nobody reads their scores.
    let row = |i: usize| &rows[i.min(count - 1) * dim..][..dim];
    let (a, b, c, d) = (row(0), row(1), row(2), row(3));
    for ((((queries, a), b), c), d) in panel.as_chunks::<16>().0.iter().zip(a).zip(b).zip(c).zip(d) {
        for lane in 0..16 {
            sums[0][lane] += a * queries[lane];
            sums[1][lane] += b * queries[lane];
            sums[2][lane] += c * queries[lane];
            sums[3][lane] += d * queries[lane];
        }
    }
    let mut any = 0;
    for (sums, passes) in sums.iter().zip(&mut out.passes) {
        let bits = sums.iter().zip(thresholds).enumerate();
        *passes = bits.fold(0, |bits, (lane, (sum, limit))| {
            bits | u64::from(sum >= limit) << lane
        });
        any |= *passes;
    }
    if any != 0 {
        out.scores[..64].copy_from_slice(sums.as_flattened());
    }
    any != 0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "vector instructions on raw memory")]

    use core::arch::x86_64::{
        _CMP_GE_OQ, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_broadcast_ss, _mm256_cmp_ps,
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_movemask_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };

    use super::Tile;

    /// 8 rows with `16 * V` queries: 8 times `V` sums, `V` registers of queries, one of a row.
    ///
    /// # Safety
    ///
    /// AVX-512F; `rows` is `[count, dim]`, `panel` `[dim, 16 * V]`, `thresholds` `[16 * V]`, `V` at most 3.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile_avx512<const V: usize>(
        rows: &[f32],
        count: usize,
        dim: usize,
        next: &[f32],
        panel: &[f32],
        thresholds: &[f32],
        out: &mut Tile,
    ) -> bool {
        // SAFETY: indices of rows are below `count`, of numbers below `dim`, of vectors below `V`: within the slices
        // by the caller's promise. Prefetching reads nothing. 8 * 16 * 3 scores fit.
        unsafe {
            let row: [*const f32; 8] = std::array::from_fn(|r| rows.as_ptr().add(r.min(count - 1) * dim));
            let mut queries = panel.as_ptr();
            let mut sums = [[_mm512_setzero_ps(); V]; 8];
            let ahead = next.as_ptr().cast::<i8>();
            let lines = next.len() / 16;
            let mut k = 0;
            macro_rules! step {
                ($k:expr) => {
                    let lanes: [_; V] = std::array::from_fn(|v| _mm512_loadu_ps(queries.add(16 * v)));
                    for r in 0..8 {
                        let x = _mm512_set1_ps(*row[r].add($k));
                        for v in 0..V {
                            sums[r][v] = _mm512_fmadd_ps(x, lanes[v], sums[r][v]);
                        }
                    }
                    queries = queries.add(16 * V);
                };
            }
            let mut line = 0;
            while k + 4 <= dim {
                _mm_prefetch::<_MM_HINT_T0>(queries.wrapping_add(16 * V * 8).cast());
                if line < lines {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.add(64 * line));
                    line += 1;
                }
                step!(k);
                step!(k + 1);
                step!(k + 2);
                step!(k + 3);
                k += 4;
            }
            while k < dim {
                step!(k);
                k += 1;
            }
            let limits: [_; V] = std::array::from_fn(|v| _mm512_loadu_ps(thresholds.as_ptr().add(16 * v)));
            let mut any = 0;
            for sums in &sums {
                for (sum, limit) in sums.iter().zip(limits) {
                    any |= _mm512_cmp_ps_mask::<_CMP_GE_OQ>(*sum, limit);
                }
            }
            if any != 0 {
                for (r, sums) in sums.iter().enumerate() {
                    let mut bits = 0;
                    for (v, (sum, limit)) in sums.iter().zip(limits).enumerate() {
                        _mm512_storeu_ps(out.scores.as_mut_ptr().add(16 * (r * V + v)), *sum);
                        bits |= u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(*sum, limit)) << (16 * v);
                    }
                    out.passes[r] = bits;
                }
            }
            any != 0
        }
    }

    /// 6 rows with 16 queries.
    ///
    /// # Safety
    ///
    /// AVX2 and FMA; `rows` is `[count, dim]`, `panel` `[dim, 16]`, `thresholds` `[16]`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile_avx2(
        rows: &[f32],
        count: usize,
        dim: usize,
        next: &[f32],
        panel: &[f32],
        thresholds: &[f32],
        out: &mut Tile,
    ) -> bool {
        // SAFETY: indices of rows are below `count`, of numbers below `dim`, of vectors below 2: within the slices by
        // the caller's promise. Prefetching reads nothing. 6 * 16 scores fit.
        unsafe {
            let row: [*const f32; 6] = std::array::from_fn(|r| rows.as_ptr().add(r.min(count - 1) * dim));
            let mut queries = panel.as_ptr();
            let mut sums = [[_mm256_setzero_ps(); 2]; 6];
            macro_rules! step {
                ($k:expr) => {
                    let lanes = [_mm256_loadu_ps(queries), _mm256_loadu_ps(queries.add(8))];
                    for r in 0..6 {
                        let x = _mm256_broadcast_ss(&*row[r].add($k));
                        for v in 0..2 {
                            sums[r][v] = _mm256_fmadd_ps(x, lanes[v], sums[r][v]);
                        }
                    }
                    queries = queries.add(16);
                };
            }
            let ahead = next.as_ptr().cast::<i8>();
            let lines = next.len() / 16;
            let (mut k, mut line) = (0, 0);
            while k + 4 <= dim {
                for i in 0..4 {
                    _mm_prefetch::<_MM_HINT_T0>(queries.wrapping_add(16 * (16 + i)).cast());
                }
                if line < lines {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.add(64 * line));
                    line += 1;
                }
                step!(k);
                step!(k + 1);
                step!(k + 2);
                step!(k + 3);
                k += 4;
            }
            while k < dim {
                step!(k);
                k += 1;
            }
            let limits = [
                _mm256_loadu_ps(thresholds.as_ptr()),
                _mm256_loadu_ps(thresholds.as_ptr().add(8)),
            ];
            let mut any = 0;
            for (r, sums) in sums.iter().enumerate() {
                let mut bits = 0;
                for (v, (sum, limit)) in sums.iter().zip(limits).enumerate() {
                    let passes = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(*sum, limit));
                    bits |= (passes as u64 & 0xff) << (8 * v);
                }
                out.passes[r] = bits;
                any |= bits;
            }
            if any != 0 {
                for (i, sum) in sums.as_flattened().iter().enumerate() {
                    _mm256_storeu_ps(out.scores.as_mut_ptr().add(8 * i), *sum);
                }
            }
            any != 0
        }
    }
}
