//! How far a score in f32 can be from the score in f64, proved and not measured.
//!
//! A sum of `n` products in f32, in any order, with or without fused multiply-add, differs from the true sum by at most
//! `n u / (1 - n u) * sum |x_i y_i|` with `u = 2^-24` (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section
//! 3.1), and the sum of magnitudes is at most the product of the norms (Cauchy and Schwarz).

/// Half the distance of 1 and the next f32.
const UNIT: f64 = 1.0 / (1_u64 << 24) as f64;
/// Twice the smallest positive f32, `2^-149`: what a term can lose to underflow.
const TINY: f64 = 3e-45;
/// `2^-125`: a lost factor, or a lost product, where numbers below `2^-126` are zero.
#[cfg(any(target_arch = "x86_64", feature = "cuda", test))]
const LOST: f64 = 2.4e-38;
/// Products of norms from here on could overflow in f32; `2^120`.
const LARGE: f64 = 1.329_227_995_784_916e36;

/// Euclidean norm, or `None` when a number is not finite.
pub(super) fn norm(vector: &[f32]) -> Option<f64> {
    // Eight sums, as one alone would wait for itself. Squares of f32 cannot overflow in f64.
    let mut sums = [0.0_f64; 8];
    let (lanes, rest) = vector.as_chunks::<8>();
    for lanes in lanes {
        for (sum, x) in sums.iter_mut().zip(lanes) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(*x) * f64::from(*x);
    }
    let square: f64 = sums.iter().sum();
    square.is_finite().then(|| square.sqrt())
}

/// What to multiply a query by, a power of two, so that no score with a row up to `most` overflows.
pub(super) fn scale(query: f64, most: f64) -> f64 {
    let product = query * most;
    if product < LARGE {
        1.0
    } else {
        (LARGE / product).log2().floor().exp2()
    }
}

/// The bound for one query, as a function of the row's norm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    slope: f64,
    least: f64,
}

impl Bound {
    /// For `dim` terms and a scaled query of the norm `query`.
    ///
    /// Six more terms and two parts in a hundred cover the rounding of the norms, of the bound itself, of the sums with
    /// it, and of the score in f64.
    pub(super) fn new(dim: usize, query: f64) -> Self {
        let sum = (dim + 6) as f64 * UNIT;
        let relative = if sum < 0.5 {
            1.02 * sum / (1.0 - sum)
        } else {
            f64::INFINITY
        };
        let least = dim as f64 * TINY;
        Self {
            slope: relative * query + least,
            least,
        }
    }

    /// The same where what is below `2^-126` may be lost, as a GPU may.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn with_losses(dim: usize, query: f64) -> Self {
        let bound = Self::new(dim, query);
        let least = dim as f64 * LOST;
        Self {
            slope: bound.slope + least,
            least: least * (1.0 + query),
        }
    }

    /// The same where both vectors are rounded to bfloat16 first, and what is below `2^-126` is lost.
    ///
    /// Rounding changes a vector by at most `2^-9` of its norm.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn with_bfloat16(dim: usize, query: f64) -> Self {
        let rounded = 1.01 / 256.0;
        let bound = Self::new(dim, query * (1.0 + rounded));
        let least = dim as f64 * LOST;
        Self {
            slope: bound.slope + rounded * query + least,
            least: least * (1.0 + query),
        }
    }

    /// The same where both vectors are stretched to [`LENGTH`](super::integers::LENGTH), rows by the greatest norm of their block,
    /// and rounded to whole numbers.
    ///
    /// Rounding moves each number by half at most, and so a vector by half the root of `dim`. The sum is exact; it is rounded when it
    /// becomes an f32, and when it is multiplied by a factor that is rounded.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn with_integers(dim: usize, query: f64) -> Self {
        let rounded = 1.01 * (dim as f64).sqrt() / (2.0 * super::integers::LENGTH);
        let longer = 1.0 + rounded;
        let bound = Self::new(dim + 4, query * longer * longer);
        Self {
            slope: bound.slope + (longer * longer - 1.0) * query,
            least: bound.least,
        }
    }

    /// How far the score of a row of this norm can be from the truth.
    #[inline]
    pub(super) fn error(self, row: f64) -> f64 {
        self.slope * row + self.least
    }
}

/// The greatest f32 that is not above.
pub(super) fn below(x: f64) -> f32 {
    let near = x as f32;
    if f64::from(near) > x {
        near.next_down()
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_vectors_are_scaled_until_their_scores_fit() {
        let most = f64::from(f32::MAX) * 32.0;
        let scale = scale(most, most);
        assert!(scale > 0.0 && most * scale * most < 1.4e36);
        assert_eq!(super::scale(1.0, 1.0), 1.0);
        assert_eq!(super::scale(0.0, f64::from(f32::MAX)), 1.0);
        assert_eq!(scale.log2().fract(), 0.0);
    }

    #[test]
    fn a_number_below_is_not_above() {
        for x in [0.1, -0.1, 1e-50, -1e-50, 0.5, -0.0, 1e300, f64::NEG_INFINITY] {
            assert!(f64::from(below(x)) <= x);
        }
        assert_eq!(below(0.5), 0.5);
        assert_eq!(norm(&[3.0, 4.0]), Some(5.0));
        assert_eq!(norm(&[f32::MAX; 9]).unwrap(), f64::from(f32::MAX) * 3.0);
        assert_eq!(norm(&[1.0, f32::NAN]), None);
        assert_eq!(norm(&[f32::INFINITY; 3]), None);
    }
}
