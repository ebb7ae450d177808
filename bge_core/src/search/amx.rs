//! Proposals from the matrix unit of recent x86 processors: products of bfloat16, summed in f32.
//!
//! It multiplies up to sixteen times as fast as the vector unit. What bfloat16 rounds away is part of the error bound
//! ([`bounds`](super::bounds)), so more rows have to be scored in f64, and the lists stay the same.
//!
//! A tile of the unit has 16 rows of 64 bytes. Rows and queries are packed into such tiles, and zeros fill the last ones.
//! 32 rows meet 32 queries: four tiles of sums, two of rows, two of queries, which are all that there are.

use core::arch::asm;
use core::arch::x86_64::{
    __cpuid, __cpuid_count, __m512, __m512i, _CMP_GE_OQ, _mm256_storeu_si256, _mm512_add_epi32,
    _mm512_and_si512, _mm512_castps_si512, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi16, _mm512_loadu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_srli_epi32,
};
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::kernel::Tile;

/// Rows of a packed strip, and queries of a panel.
pub(super) const STRIP: usize = 32;
/// Numbers of a row that one tile holds.
const DEPTH: usize = 32;
/// Numbers of a tile.
const TILE: usize = 16 * DEPTH;

/// Numbers of a packed strip or panel of this length of rows.
pub(super) fn packed(dim: usize) -> usize {
    dim.div_ceil(DEPTH) * 2 * TILE
}

/// Whether the processor has the unit and the system lets this process use it.
pub(super) fn detect() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && __cpuid(0).eax >= 7
            && __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == (1 << 22 | 1 << 24)
            && allowed()
    })
}

/// Asks the kernel for the unit's registers, which it hands out only on demand.
#[cfg(target_os = "linux")]
fn allowed() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    #[expect(unsafe_code, reason = "no library offers this call")]
    // SAFETY: `arch_prctl(ARCH_REQ_XCOMP_PERM, 18)` reads and writes no memory of ours; it sets a permission or fails.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> bool {
    false
}

/// The unit, set up for this thread until it is dropped; it cannot go to another one.
pub(super) struct Unit(PhantomData<*const ()>);

impl Unit {
    /// Sets the thread's unit up for eight tiles of 16 rows of 64 bytes, if there is one.
    pub(super) fn new() -> Option<Self> {
        if !detect() {
            return None;
        }
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = [0; 64];
        config[0] = 1; // the only palette
        for tile in 0..8 {
            config[16 + 2 * tile] = 64; // bytes of a row, in 16 bits
            config[48 + tile] = 16; // rows
        }
        let config = Config(config);
        #[expect(unsafe_code, reason = "the unit has no other interface")]
        // SAFETY: the unit was detected and allowed, and the configuration is a valid one of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly));
        }
        Some(Self(PhantomData))
    }

    /// One tile: 32 packed rows with the queries of a packed panel.
    ///
    /// Says whether a score reached the threshold of its query, and only then writes `out`, `[32, 32]`.
    pub(super) fn tile(&self, rows: &[u16], panel: &[u16], thresholds: &[f32], out: &mut Tile) -> bool {
        assert!(
            rows.len() == panel.len() && rows.len().is_multiple_of(2 * TILE) && !rows.is_empty(),
            "a tile of another shape"
        );
        assert!(thresholds.len() == STRIP, "thresholds of another panel");
        let Self(_this_thread) = self;
        #[expect(unsafe_code, reason = "the unit has no other interface")]
        // SAFETY: `self` proves that the unit is set up; both operands are `steps` times two tiles, `scores` has room
        // for 32 times 32 numbers, which is what four tiles with rows 128 bytes apart take.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{rows} + {near}]",
                "tileloadd tmm6, [{panel} + {near}]",
                "tileloadd tmm7, [{panel} + {near} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{rows} + {near} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {rows}, 2048",
                "add {panel}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{out} + {far}], tmm0",
                "tilestored [{out} + {far} + 64], tmm1",
                "tilestored [{out} + {far} + 2048], tmm2",
                "tilestored [{out} + {far} + 2112], tmm3",
                rows = inout(reg) rows.as_ptr() => _,
                panel = inout(reg) panel.as_ptr() => _,
                steps = inout(reg) rows.len() / (2 * TILE) => _,
                out = in(reg) out.scores.as_mut_ptr(),
                near = in(reg) 64_usize,
                far = in(reg) 128_usize,
                options(nostack),
            );
        }
        #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
        // SAFETY: `detect` found AVX-512F; there are 32 thresholds and 32 times 32 scores.
        unsafe {
            passes(thresholds, out)
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the unit has no other interface")]
        // SAFETY: the unit is there; its registers hold nothing between two tiles.
        unsafe {
            asm!("tilerelease", options(nostack, nomem));
        }
    }
}

/// # Safety
///
/// AVX-512F; 32 thresholds.
#[expect(unsafe_code, reason = "vector instructions on raw memory")]
#[target_feature(enable = "avx512f")]
unsafe fn passes(thresholds: &[f32], out: &mut Tile) -> bool {
    // SAFETY: within 32 thresholds and 32 times 32 scores.
    let load = |slice: &[f32], at: usize| unsafe { _mm512_loadu_ps(slice.as_ptr().add(at)) };
    let (low, high) = (load(thresholds, 0), load(thresholds, 16));
    let mut any = 0;
    for row in 0..STRIP {
        let bits = u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(
            load(&out.scores, row * STRIP),
            low,
        )) | u64::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(
            load(&out.scores, row * STRIP + 16),
            high,
        )) << 16;
        out.passes[row] = bits;
        any |= bits;
    }
    any != 0
}

/// Packs rows `[count, dim]` into strips of 32.
pub(super) fn pack_rows(rows: &[f32], dim: usize, out: &mut Vec<u16>) {
    let strip = packed(dim);
    let count = rows.len() / dim;
    out.clear();
    out.resize(count.div_ceil(STRIP) * strip, 0);
    #[expect(unsafe_code, reason = "vector instructions that not every processor has")]
    // SAFETY: called with a `Unit` at hand, so that `detect` found AVX-512F and BW.
    unsafe {
        narrow(rows, dim, out);
    }
}

/// # Safety
///
/// AVX-512F and AVX-512BW; `out` has a strip for every 32 rows.
#[expect(unsafe_code, reason = "vector instructions on raw memory")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn narrow(rows: &[f32], dim: usize, out: &mut [u16]) {
    let strip = packed(dim);
    for (index, row) in rows.chunks_exact(dim).enumerate() {
        let (number, place) = (index / STRIP, index % STRIP);
        let start = number * strip + place / 16 * TILE + place % 16 * DEPTH;
        for (piece, k) in (0..dim).step_by(16).enumerate() {
            let left = (dim - k).min(16);
            // SAFETY: only the first `left` numbers are read, the row has so many from `k` on.
            let numbers = unsafe {
                if left == 16 {
                    _mm512_loadu_ps(row.as_ptr().add(k))
                } else {
                    _mm512_maskz_loadu_ps((1 << left) - 1, row.as_ptr().add(k))
                }
            };
            let narrow = _mm512_cvtepi32_epi16(round(numbers));
            let at = start + piece / 2 * 2 * TILE + piece % 2 * 16;
            let slots = &mut out[at..at + 16];
            // SAFETY: sixteen numbers of two bytes into sixteen places.
            unsafe { _mm256_storeu_si256(slots.as_mut_ptr().cast(), narrow) };
        }
    }
}

/// To the nearest bfloat16, ties to even, in the low half of each number.
#[target_feature(enable = "avx512f")]
fn round(numbers: __m512) -> __m512i {
    let bits = _mm512_castps_si512(numbers);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm512_srli_epi32::<16>(sum)
}

/// Packs the numbers of one query, scaled, into its place in a panel.
pub(super) fn pack_query(lane: usize, numbers: impl Iterator<Item = f32>, panel: &mut [u16]) {
    for (k, x) in numbers.enumerate() {
        let bits = x.to_bits();
        let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        // Step, tile, pair, query, number of the pair.
        let at = k / DEPTH * 2 * TILE + lane / 16 * TILE + k % DEPTH / 2 * DEPTH + lane % 16 * 2 + k % 2;
        if let Some(slot) = panel.get_mut(at) {
            *slot = rounded as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    #[test]
    fn a_tile_has_the_scores_of_rounded_numbers() {
        let Some(unit) = Unit::new() else {
            return; // not this processor
        };
        for dim in [1, 31, 32, 33, 100] {
            let mut draws = Draws::new(dim as u64);
            // Small whole numbers are bfloat16, and their sums exact.
            let mut numbers = |count: usize| -> Vec<f32> {
                (0..count * dim).map(|_| draws.below(17) as f32 - 8.0).collect()
            };
            let (rows, queries) = (numbers(40), numbers(32));
            let mut strips = Vec::new();
            pack_rows(&rows, dim, &mut strips);
            assert_eq!(strips.len(), 2 * packed(dim));
            let mut panel = vec![0; packed(dim)];
            for (lane, query) in queries.chunks(dim).enumerate() {
                pack_query(lane, query.iter().copied(), &mut panel);
            }
            let mut out = Tile::new();
            for (strip, first) in strips.chunks(packed(dim)).zip([0, 32]) {
                assert!(unit.tile(strip, &panel, &[0.0; 32], &mut out));
                for (r, row) in rows.chunks(dim).skip(first).take(32).enumerate() {
                    for (lane, query) in queries.chunks(dim).enumerate() {
                        let score: f32 = row.iter().zip(query).map(|(a, b)| a * b).sum();
                        assert_eq!(out.scores[r * 32 + lane], score);
                        assert_eq!(out.passes[r] >> lane & 1 == 1, score >= 0.0);
                    }
                }
            }
            assert!(!unit.tile(&strips[..packed(dim)], &panel, &[f32::INFINITY; 32], &mut out));
        }
    }
}
