//! Row buffers that are written once, tile by tile, in parallel, without being zeroed first.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

/// Rows of one tile: few enough that every thread gets work and results stay in its cache, many enough that packing a weight pays.
///
/// A tile never changes a result: each row is computed alone (see [`super::gemm`]).
pub(crate) fn tile_rows(rows: usize) -> usize {
    let tiles = match rayon::current_num_threads() {
        0 | 1 => 1,
        threads => 2 * threads,
    };
    rows.div_ceil(tiles).clamp(16, 512)
}

/// One float a row, written by the tiles beside their large results.
pub(crate) struct PerRow(Vec<AtomicU32>);

impl PerRow {
    /// Zeros.
    pub(crate) fn new(rows: usize) -> Self {
        Self((0..rows).map(|_| AtomicU32::new(0)).collect())
    }

    /// Sets the float of a row; each row belongs to one tile.
    #[inline(always)]
    pub(crate) fn set(&self, row: usize, value: f32) {
        self.0[row].store(value.to_bits(), Ordering::Relaxed);
    }

    /// All rows, after the last tile.
    pub(crate) fn into_floats(self) -> Vec<f32> {
        let bits = self.0.into_iter().map(AtomicU32::into_inner);
        bits.map(f32::from_bits).collect()
    }
}

/// A buffer of `len` floats whose contents are not written yet.
pub(crate) fn unwritten(len: usize) -> Vec<MaybeUninit<f32>> {
    let mut buffer = Vec::with_capacity(len);
    #[expect(unsafe_code, reason = "a MaybeUninit needs no initial value")]
    // SAFETY: the capacity is `len` and every bit pattern, also none, is a valid `MaybeUninit`.
    unsafe {
        buffer.set_len(len);
    }
    buffer
}

/// Writes every element from a function of its index and hands the slice back as written.
#[inline(always)]
pub(crate) fn write_each(tile: &mut [MaybeUninit<f32>], mut value: impl FnMut(usize) -> f32) -> &mut [f32] {
    for (i, slot) in tile.iter_mut().enumerate() {
        slot.write(value(i));
    }
    #[expect(unsafe_code, reason = "the loop above wrote every element")]
    // SAFETY: the loop wrote every element.
    unsafe {
        tile.assume_init_mut()
    }
}

/// Builds a `[rows, width]` buffer by tiles of whole rows, in parallel.
///
/// `fill` gets the rows of its tile and the tile's memory, and must return that memory as written:
/// [`super::gemm::product`] and [`write_each`] are the ways to do so.
pub(crate) fn build_rows<F>(rows: usize, width: usize, tile: usize, fill: F) -> Vec<f32>
where
    F: for<'a> Fn(Range<usize>, &'a mut [MaybeUninit<f32>]) -> &'a mut [f32] + Sync,
{
    let mut buffer = unwritten(rows * width);
    let fill = |(index, memory): (usize, &mut [MaybeUninit<f32>])| {
        let start = index * tile;
        let (at, len) = (memory.as_ptr().cast::<f32>(), memory.len());
        let written = fill(start..start + len / width, memory);
        assert!(
            written.as_ptr() == at && written.len() == len,
            "a tile was not written whole"
        );
    };
    if rows > 0 && width > 0 {
        if rows <= tile {
            fill((0, &mut buffer));
        } else {
            buffer.par_chunks_mut(tile * width).enumerate().for_each(fill);
        }
    }
    written(buffer)
}

/// Builds two `[rows, width]` buffers in one parallel pass; see [`build_rows`].
pub(crate) fn build_rows_2<F>(
    rows: usize,
    width_a: usize,
    width_b: usize,
    tile: usize,
    fill: F,
) -> (Vec<f32>, Vec<f32>)
where
    F: for<'a> Fn(
            Range<usize>,
            &'a mut [MaybeUninit<f32>],
            &'a mut [MaybeUninit<f32>],
        ) -> (&'a mut [f32], &'a mut [f32])
        + Sync,
{
    let (mut a, mut b) = (unwritten(rows * width_a), unwritten(rows * width_b));
    if rows > 0 && width_a > 0 && width_b > 0 {
        let tiles = a
            .par_chunks_mut(tile * width_a)
            .zip(b.par_chunks_mut(tile * width_b))
            .enumerate();
        tiles.for_each(|(index, (a, b))| {
            let start = index * tile;
            let at = (
                a.as_ptr().cast::<f32>(),
                a.len(),
                b.as_ptr().cast::<f32>(),
                b.len(),
            );
            let (a, b) = fill(start..start + a.len() / width_a, a, b);
            assert!(
                at == (a.as_ptr(), a.len(), b.as_ptr(), b.len()),
                "a tile was not written whole"
            );
        });
    }
    (written(a), written(b))
}

/// The buffer as plain floats; private because only the builders above know that all of it is written.
fn written(buffer: Vec<MaybeUninit<f32>>) -> Vec<f32> {
    let mut buffer = std::mem::ManuallyDrop::new(buffer);
    #[expect(unsafe_code, reason = "every tile proved that it was written")]
    // SAFETY: every tile was handed back as `&mut [f32]` of its own address and length, `f32` and
    // `MaybeUninit<f32>` have one layout, and the allocation is taken over exactly once.
    unsafe {
        Vec::from_raw_parts(buffer.as_mut_ptr().cast::<f32>(), buffer.len(), buffer.capacity())
    }
}
