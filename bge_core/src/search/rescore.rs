//! The score of the contract: one sum in f64 over the stored numbers, in their order.
//!
//! The product of two f32 is exact in f64, so it makes no difference whether it is fused into the addition.

use super::kernel::Level;
use super::{Hit, Rows};

/// Rows scored at once: their sums are independent, so none waits for another.
const RESCORED: usize = 16;

/// Appends the rows of these ids with their scores, in the order of the ids.
pub(super) fn rescore(level: Level, rows: &Rows, query: &[f32], ids: &[u32], out: &mut Vec<Hit>) {
    let query: Vec<f64> = query.iter().map(|x| f64::from(*x)).collect();
    let mut scratch: [Vec<f32>; RESCORED] = Default::default();
    let mut scratch_ahead: [Vec<f32>; RESCORED] = Default::default();
    let mut chunks = ids.chunks(RESCORED).peekable();
    while let Some(ids) = chunks.next() {
        let here = some_rows(rows, ids, &mut scratch);
        let ahead = match (chunks.peek(), rows) {
            (Some(ids), Rows::Memory { .. }) => some_rows(rows, ids, &mut scratch_ahead),
            _ => here,
        };
        let scores = scores(level, &query, here, ahead);
        out.extend(ids.iter().zip(scores).map(|(id, score)| Hit { id: *id, score }));
    }
}

/// The rows of up to sixteen ids, the last one repeated.
fn some_rows<'r>(
    rows: &'r Rows,
    ids: &[u32],
    scratch: &'r mut [Vec<f32>; RESCORED],
) -> [&'r [f32]; RESCORED] {
    let mut slots = scratch.iter_mut();
    std::array::from_fn(|i| match (ids.get(i).or(ids.last()), slots.next()) {
        (Some(id), Some(scratch)) => rows.slice(*id as usize..*id as usize + 1, scratch),
        _ => &[],
    })
}

/// Inner products of the query, in f64, with sixteen rows of its length; `ahead` is what comes next.
fn scores(
    level: Level,
    query: &[f64],
    rows: [&[f32]; RESCORED],
    ahead: [&[f32]; RESCORED],
) -> [f64; RESCORED] {
    assert!(
        rows.iter().all(|row| row.len() == query.len()),
        "rows of another length"
    );
    match level {
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
        // SAFETY: the instructions were detected, and the rows are as long as the query.
        Level::Avx512 => unsafe { x86::scores(query, rows, ahead) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
        // SAFETY: the instructions were detected, and the rows are as long as the query.
        Level::Avx2 => unsafe { x86::scores_avx2(query, rows, ahead) },
        Level::Portable => portable(query, rows),
    }
}

fn portable(query: &[f64], rows: [&[f32]; RESCORED]) -> [f64; RESCORED] {
    let mut sums = [0.0; RESCORED];
    for (sums, rows) in sums.chunks_exact_mut(4).zip(rows.chunks_exact(4)) {
        let &[a, b, c, d] = rows else { continue };
        for ((((q, a), b), c), d) in query.iter().zip(a).zip(b).zip(c).zip(d) {
            for (sum, x) in sums.iter_mut().zip([a, b, c, d]) {
                *sum += q * f64::from(*x);
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "vector instructions on raw memory")]

    use core::arch::x86_64::{
        __m128, __m256, _MM_HINT_T0, _mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_prefetch,
        _mm_unpackhi_ps, _mm_unpacklo_ps, _mm256_cvtps_pd, _mm256_fmadd_pd, _mm256_loadu_ps,
        _mm256_permute2f128_ps, _mm256_set1_pd, _mm256_setzero_pd, _mm256_shuffle_ps, _mm256_storeu_pd,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_cvtps_pd, _mm512_fmadd_pd, _mm512_set1_pd,
        _mm512_setzero_pd, _mm512_storeu_pd,
    };

    use super::RESCORED;

    /// Numbers of eight rows, eight each, so turned that a register holds one number of each row.
    #[target_feature(enable = "avx512f")]
    fn turn(rows: [__m256; 8]) -> [__m256; 8] {
        let [a, b, c, d, e, f, g, h] = rows;
        let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let (ef0, ef1) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
        let (gh0, gh1) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
        let low = [
            _mm256_shuffle_ps::<0x44>(ab0, cd0),
            _mm256_shuffle_ps::<0xee>(ab0, cd0),
            _mm256_shuffle_ps::<0x44>(ab1, cd1),
            _mm256_shuffle_ps::<0xee>(ab1, cd1),
        ];
        let high = [
            _mm256_shuffle_ps::<0x44>(ef0, gh0),
            _mm256_shuffle_ps::<0xee>(ef0, gh0),
            _mm256_shuffle_ps::<0x44>(ef1, gh1),
            _mm256_shuffle_ps::<0xee>(ef1, gh1),
        ];
        [
            _mm256_permute2f128_ps::<0x20>(low[0], high[0]),
            _mm256_permute2f128_ps::<0x20>(low[1], high[1]),
            _mm256_permute2f128_ps::<0x20>(low[2], high[2]),
            _mm256_permute2f128_ps::<0x20>(low[3], high[3]),
            _mm256_permute2f128_ps::<0x31>(low[0], high[0]),
            _mm256_permute2f128_ps::<0x31>(low[1], high[1]),
            _mm256_permute2f128_ps::<0x31>(low[2], high[2]),
            _mm256_permute2f128_ps::<0x31>(low[3], high[3]),
        ]
    }

    /// # Safety
    ///
    /// AVX-512F; the rows are as long as the query.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn scores(
        query: &[f64],
        rows: [&[f32]; RESCORED],
        ahead: [&[f32]; RESCORED],
    ) -> [f64; RESCORED] {
        let rows_at = rows.map(<[f32]>::as_ptr);
        let ahead_at = ahead.map(<[f32]>::as_ptr);
        let (mut low, mut high) = (_mm512_setzero_pd(), _mm512_setzero_pd());
        let whole = query.len() / 8 * 8;
        for k in (0..whole).step_by(8) {
            if k % 16 == 0 {
                for row in ahead_at {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(k).cast());
                }
            }
            // SAFETY: `k + 8` is at most the length of each row.
            let eight = |row: usize| unsafe { _mm256_loadu_ps(rows_at[row].add(k)) };
            let first = turn(std::array::from_fn(eight));
            let second = turn(std::array::from_fn(|i| eight(8 + i)));
            for ((first, second), q) in first.into_iter().zip(second).zip(&query[k..]) {
                let q = _mm512_set1_pd(*q);
                low = _mm512_fmadd_pd(q, _mm512_cvtps_pd(first), low);
                high = _mm512_fmadd_pd(q, _mm512_cvtps_pd(second), high);
            }
        }
        let mut sums = [0.0; RESCORED];
        // SAFETY: twice eight sums fit into sixteen places.
        unsafe {
            _mm512_storeu_pd(sums.as_mut_ptr(), low);
            _mm512_storeu_pd(sums.as_mut_ptr().add(8), high);
        }
        for (sum, row) in sums.iter_mut().zip(rows) {
            for (q, x) in query.iter().zip(row).skip(whole) {
                *sum += q * f64::from(*x);
            }
        }
        sums
    }

    /// Numbers of four rows, four each, so turned that a register holds one number of each row.
    #[target_feature(enable = "avx2,fma")]
    fn turn_four([a, b, c, d]: [__m128; 4]) -> [__m128; 4] {
        let (ab0, ab1) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd0, cd1) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        [
            _mm_movelh_ps(ab0, cd0),
            _mm_movehl_ps(cd0, ab0),
            _mm_movelh_ps(ab1, cd1),
            _mm_movehl_ps(cd1, ab1),
        ]
    }

    /// # Safety
    ///
    /// AVX2 and FMA; the rows are as long as the query.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn scores_avx2(
        query: &[f64],
        rows: [&[f32]; RESCORED],
        ahead: [&[f32]; RESCORED],
    ) -> [f64; RESCORED] {
        let rows_at = rows.map(<[f32]>::as_ptr);
        let ahead_at = ahead.map(<[f32]>::as_ptr);
        let mut four = [_mm256_setzero_pd(); RESCORED / 4];
        let whole = query.len() / 4 * 4;
        for k in (0..whole).step_by(4) {
            if k % 16 == 0 {
                for row in ahead_at {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(k).cast());
                }
            }
            for (sum, first) in four.iter_mut().zip((0..RESCORED).step_by(4)) {
                // SAFETY: `k + 4` is at most the length of each row.
                let turned = turn_four(std::array::from_fn(|r| unsafe {
                    _mm_loadu_ps(rows_at[first + r].add(k))
                }));
                for (x, q) in turned.into_iter().zip(&query[k..]) {
                    *sum = _mm256_fmadd_pd(_mm256_set1_pd(*q), _mm256_cvtps_pd(x), *sum);
                }
            }
        }
        let mut sums = [0.0; RESCORED];
        for (sums, four) in sums.chunks_exact_mut(4).zip(four) {
            // SAFETY: a chunk has four places.
            unsafe { _mm256_storeu_pd(sums.as_mut_ptr(), four) };
        }
        for (sum, row) in sums.iter_mut().zip(rows) {
            for (q, x) in query.iter().zip(row).skip(whole) {
                *sum += q * f64::from(*x);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    #[test]
    fn every_processor_adds_in_the_same_order() {
        for dim in [1, 2, 7, 8, 9, 31, 64, 385] {
            let mut draws = Draws::new(dim as u64);
            let query: Vec<f64> = (0..dim).map(|_| f64::from(draws.normal() as f32)).collect();
            let rows: Vec<Vec<f32>> = (0..RESCORED)
                .map(|_| (0..dim).map(|_| draws.normal() as f32).collect())
                .collect();
            let slices: [&[f32]; RESCORED] = std::array::from_fn(|i| rows[i].as_slice());
            let naive = slices.map(|row| {
                let mut sum = 0.0;
                for (q, x) in query.iter().zip(row) {
                    sum += q * f64::from(*x);
                }
                sum
            });
            for level in Level::all() {
                assert_eq!(scores(level, &query, slices, slices), naive, "{level:?} at {dim}");
            }
        }
    }
}
