//! Dropout whose mask is a pure function of (key, token, feature): nothing is stored, and any regrouping of
//! the batch (sub-batches, recomputation, threads) draws the same mask.

use crate::random;

/// Which dropout this is: the probability and the key of one place in the network in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dropout {
    threshold: u32,
    scale: f32,
    key: u64,
}

impl Dropout {
    /// Drops with probability `p` in `[0, 1)`; survivors are scaled by `1 / (1 - p)`. `None` when `p` is 0.
    pub(crate) fn new(p: f32, key: u64) -> Option<Self> {
        (p > 0.0).then(|| Self {
            threshold: (f64::from(p) * 4_294_967_296.0).min(4_294_967_295.0) as u32,
            scale: 1.0 / (1.0 - p),
            key,
        })
    }

    /// Its key, threshold and scale, for kernels that draw the same masks.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn parts(&self) -> (u64, u32, f32) {
        (self.key, self.threshold, self.scale)
    }

    /// The mask of one row, named by its identity in the batch (see `TokenKeys`).
    #[inline]
    pub(crate) fn row(&self, row: u64) -> RowMask {
        let bits = random::mix(self.key ^ random::mix(row));
        RowMask {
            first: bits as u32,
            second: (bits >> 32) as u32,
            threshold: self.threshold,
            scale: self.scale,
        }
    }
}

/// The dropout factors of one row.
#[derive(Clone, Copy)]
pub(crate) struct RowMask {
    first: u32,
    second: u32,
    threshold: u32,
    scale: f32,
}

impl RowMask {
    /// 0, or `1 / (1 - p)`: the factor of element `column`.
    ///
    /// Two multiply-xor-shift rounds of 32 bits (the constants are Wellons' `lowbias32`), keyed twice.
    #[inline(always)]
    pub(crate) fn factor(self, column: usize) -> f32 {
        let mut x = (column as u32).wrapping_mul(0x9e37_79b9) ^ self.first;
        x ^= x >> 16;
        x = x.wrapping_mul(0x7feb_352d) ^ self.second;
        x ^= x >> 15;
        x = x.wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        if x < self.threshold { 0.0 } else { self.scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_dropped_and_the_mean_is_kept() {
        let dropout = Dropout::new(0.1, 7).unwrap();
        let (mut dropped, mut sum) = (0, 0.0);
        for row in 0..1000 {
            let mask = dropout.row(row);
            for column in 0..384 {
                let factor = mask.factor(column);
                dropped += usize::from(factor == 0.0);
                sum += f64::from(factor);
            }
        }
        let n = 384_000.0;
        assert!((dropped as f64 / n - 0.1).abs() < 0.002, "{dropped}");
        assert!((sum / n - 1.0).abs() < 0.002);
        assert!(Dropout::new(0.0, 7).is_none());
    }

    #[test]
    fn neighbouring_rows_and_columns_are_independent() {
        let dropout = Dropout::new(0.5, 11).unwrap();
        let mut agree = [0_usize; 3];
        for row in 0..400 {
            for column in 0..256 {
                let here = dropout.row(row).factor(column) == 0.0;
                agree[0] += usize::from(here == (dropout.row(row + 1).factor(column) == 0.0));
                agree[1] += usize::from(here == (dropout.row(row).factor(column + 1) == 0.0));
                let other = Dropout::new(0.5, 12).unwrap();
                agree[2] += usize::from(here == (other.row(row).factor(column) == 0.0));
            }
        }
        for count in agree {
            assert!((count as f64 / 102_400.0 - 0.5).abs() < 0.01, "{agree:?}");
        }
    }
}
