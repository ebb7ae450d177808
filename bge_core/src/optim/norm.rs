//! The length of the whole gradient and the factor that clips it, the same bits on any number of threads.

use rayon::prelude::*;

/// Elements that are summed as one piece; fixed, so that the order of additions never depends on the machine.
pub(crate) const PIECE: usize = 1 << 12;

/// Accumulators inside a piece, so that the additions need not wait for each other.
const LANES: usize = 8;

/// The Euclidean norm over all elements of all gradients, summed in f64.
///
/// The order of the additions depends on the lengths alone, not on the number of threads. A NaN or an infinity
/// anywhere makes the result not finite, which is how a broken gradient is found.
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    piece_sums(gradients).iter().sum::<f64>().sqrt()
}

/// The sums of squares of all pieces, in order. Ranks that hold whole pieces can add them up to the norm of one rank.
pub(crate) fn piece_sums<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> Vec<f64> {
    let pieces: Vec<&[f32]> = gradients
        .into_iter()
        .flat_map(|gradient| gradient.chunks(PIECE))
        .collect();
    pieces.par_iter().map(|piece| squares(piece)).collect()
}

/// The sum of squares of one piece.
fn squares(piece: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (whole, rest) = piece.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x) * f64::from(x);
    }
    lanes.iter().sum()
}

/// The factor that brings a gradient of length `norm` down to `max_norm`: `min(1, max_norm / (norm + 1e-6))`,
/// as `torch.nn.utils.clip_grad_norm_`.
///
/// 1 where `max_norm` is 0 or less, which turns clipping off (as in Hugging Face's Trainer). NaN stays NaN.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm <= 0.0 {
        return 1.0;
    }
    let factor = max_norm / (norm + 1e-6);
    if factor > 1.0 { 1.0 } else { factor as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_runs_over_all_gradients() {
        assert_eq!(global_norm([[3.0_f32].as_slice(), &[], &[0.0, 4.0]]), 5.0);
        assert_eq!(global_norm([]), 0.0);
        // f32 would overflow in the squares, and lose the small one beside the large.
        let norm = global_norm([[1e30_f32, 1.0].as_slice()]);
        assert!((norm / 1e30 - 1.0).abs() < 1e-6);
        assert!(global_norm([[1.0, f32::NAN].as_slice()]).is_nan());
        assert!(global_norm([[1.0, f32::INFINITY].as_slice()]).is_infinite());
    }

    #[test]
    fn the_norm_is_the_same_on_any_number_of_threads() {
        let gradient: Vec<f32> = (0..300_000_u64)
            .map(|i| ((i * 7919) % 1000) as f32 * 1e-3 + 1e-7)
            .collect();
        let on = |threads: usize| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
                .install(|| global_norm([&gradient[..], &gradient[1..77_777]]))
        };
        assert_eq!(on(1).to_bits(), on(2).to_bits());
        assert_eq!(on(1).to_bits(), on(7).to_bits());
    }

    #[test]
    fn clipping_never_lengthens() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(0.0, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 1.0), (1.0 / (4.0 + 1e-6)) as f32);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
        assert!(clip_factor(f64::NAN, 1.0).is_nan());
        assert_eq!(clip_factor(f64::INFINITY, 1.0), 0.0);
    }
}
