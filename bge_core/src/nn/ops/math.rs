//! Element functions that the compiler turns into vector code, and the dispatch to the widest vectors at hand.
//!
//! Written without fused multiply-add so that every processor computes the same bits.

/// Computes an expression compiled for the best vector instructions of this processor.
///
/// A macro, as the closure around the expression must be marked: one that the compiler leaves a function of its own is compiled
/// for the oldest processor, four numbers wide.
macro_rules! vectorized {
    ($work:expr) => {
        $crate::nn::ops::math::dispatch(
            #[inline(always)]
            || $work,
        )
    };
}
pub(crate) use vectorized;

/// What [`vectorized`] calls.
#[inline(always)]
pub(crate) fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    use std::sync::LazyLock;
    static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);
    ARCH.dispatch(work)
}

/// `e^x` to about 1e-7 relative; below -87 it is 0, above 88 it is about 1.6e38.
///
/// Range reduction by ln 2 in two parts (Cody and Waite 1980), then a polynomial of degree 6 on
/// `[-ln2/2, ln2/2]`, the truncated Taylor series.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let clamped = x.clamp(-87.0, 88.0);
    let rounded = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = rounded - MAGIC;
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.0
        + r * (1.0
            + r * (0.5
                + r * (1.666_666_7e-1 + r * (4.166_666_8e-2 + r * (8.333_334e-3 + r * 1.388_889e-3)))));
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * scale }
}

/// `2^z` for `z` up to 0, to 2.5e-7 relative; towards -127 and below it it is 0.
///
/// With half the work of [`exp`]: the rest `r` on `[-1/2, 1/2]` is exact, the largest relative error of the polynomial, 1e-7, is
/// the least that degree 5 can have with the first two terms as they are (least squares with weights shifted to the worst places;
/// Lawson 1961).
#[inline(always)]
fn power_of_two(z: f32) -> f32 {
    const BIASED: f32 = 12_582_912.0 + 127.0; // 1.5 * 2^23 rounds to an integer, 127 is that of an exponent's bits
    let z = if z < -127.0 { -127.0 } else { z };
    let rounded = z + BIASED;
    let r = z - (rounded - BIASED);
    let p = 1.0
        + r * (std::f32::consts::LN_2
            + r * (2.402_228_3e-1 + r * (5.550_558_5e-2 + r * (9.669_691e-3 + r * 1.330_060_5e-3))));
    p * f32::from_bits(rounded.to_bits() << 23)
}

/// `tanh x` to about 2e-7 absolute.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let e = exp(2.0 * x.abs());
    let positive = 1.0 - 2.0 / (e + 1.0);
    positive.copysign(x)
}

/// The standard normal distribution function Φ(x) and density φ(x), Φ to about 1e-7 absolute.
///
/// Abramowitz and Stegun 7.1.26, which shares its exponential with the density.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let e = power_of_two(x * x * (-0.5 * std::f32::consts::LOG2_E));
    let poly =
        t * (0.254_829_6 + t * (-0.284_496_72 + t * (1.421_413_8 + t * (-1.453_152_1 + t * 1.061_405_4))));
    let tail = 0.5 * poly * e;
    let cdf = if x < 0.0 { tail } else { 1.0 - tail };
    (cdf, e * 0.398_942_3)
}

/// The dot product of two slices in sixteen fixed lanes.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..16 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] += x * y;
    }
    fold(lanes)
}

/// The sum of a slice in sixteen fixed lanes.
#[inline(always)]
pub(crate) fn total(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..16 {
            lanes[lane] += chunk[lane];
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        lanes[lane] += value;
    }
    fold(lanes)
}

/// Turns every element, none above `peak`, into `e^((x - peak) scale)` and returns their sum, in sixteen fixed lanes.
#[inline(always)]
pub(crate) fn exponentials(values: &mut [f32], peak: f32, scale: f32) -> f32 {
    let scale = scale * std::f32::consts::LOG2_E;
    let mut lanes = [0.0_f32; 16];
    let mut chunks = values.chunks_exact_mut(16);
    for chunk in &mut chunks {
        for lane in 0..16 {
            chunk[lane] = power_of_two((chunk[lane] - peak) * scale);
            lanes[lane] += chunk[lane];
        }
    }
    for (lane, x) in chunks.into_remainder().iter_mut().enumerate() {
        *x = power_of_two((*x - peak) * scale);
        lanes[lane] += *x;
    }
    fold(lanes)
}

/// The largest element in sixteen fixed lanes; `-inf` for an empty slice.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..16 {
            lanes[lane] = if chunk[lane] > lanes[lane] {
                chunk[lane]
            } else {
                lanes[lane]
            };
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        lanes[lane] = if value > lanes[lane] { value } else { lanes[lane] };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn fold(lanes: [f32; 16]) -> f32 {
    let mut eight = [0.0_f32; 8];
    for i in 0..8 {
        eight[i] = lanes[i] + lanes[i + 8];
    }
    ((eight[0] + eight[4]) + (eight[2] + eight[6])) + ((eight[1] + eight[5]) + (eight[3] + eight[7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Maclaurin series in f64, exact enough on [-4, 4] to judge f32 code.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn exp_is_right_to_float_precision_everywhere() {
        for i in -8_700..8_800 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 3e-7, "exp({x}) = {got}, not {want}");
        }
        assert_eq!(exp(-1e9), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1e9).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn powers_of_two_are_right_to_float_precision_up_to_zero() {
        for i in -12_600..=0 {
            let z = i as f32 * 0.01;
            let (got, want) = (f64::from(power_of_two(z)), f64::from(z).exp2());
            assert!((got / want - 1.0).abs() < 2.5e-7, "2^{z} = {got}, not {want}");
        }
        assert_eq!(power_of_two(0.0), 1.0);
        assert_eq!(power_of_two(-1e9), 0.0);
        assert_eq!(power_of_two(f32::NEG_INFINITY), 0.0);
        assert!(power_of_two(f32::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_is_right_to_float_precision() {
        for i in -400..=400 {
            let x = f64::from(i) * 0.01;
            let (cdf, pdf) = normal(x as f32);
            let want = 0.5 * (1.0 + erf(x / 2.0_f64.sqrt()));
            assert!((f64::from(cdf) - want).abs() < 2e-7, "Φ({x}) = {cdf}, not {want}");
            let want = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            assert!((f64::from(pdf) - want).abs() < 2e-7);
            assert!((f64::from(tanh(x as f32)) - x.tanh()).abs() < 3e-7);
        }
        assert!(normal(f32::NAN).0.is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!(normal(40.0).0, 1.0);
        assert_eq!(normal(-40.0).0, 0.0);
    }

    #[test]
    fn lane_sums_cover_every_length() {
        for len in 0..70 {
            let values: Vec<f32> = (0..len).map(|i| i as f32 - 3.0).collect();
            let want: f32 = values.iter().sum();
            assert_eq!(total(&values), want);
            let mut powers = values.clone();
            let sum = exponentials(&mut powers, 66.0, 0.5);
            assert_eq!(sum, total(&powers));
            for (power, x) in powers.iter().zip(&values) {
                let want = ((f64::from(*x) - 66.0) * 0.5).exp();
                assert!(
                    (f64::from(*power) / want - 1.0).abs() < 4e-6,
                    "{power}, not {want}"
                );
            }
            assert_eq!(dot(&values, &vec![1.0; len]), want);
            assert_eq!(
                largest(&values),
                values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            );
        }
    }
}
