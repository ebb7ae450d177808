//! Random numbers as a pure function of (seed, stream, index): no global state, no order of calls.
//!
//! Every draw in bge names what it is for ([`Stream`]) and which one it is (an index), so that data order,
//! group sampling and dropout are the same bytes on every machine, thread count, resume and sub-batch.

/// What a random draw is for; two streams of one seed are independent.
///
/// The numbers are part of the reproducibility promise: append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stream {
    /// Order of records and batches in an epoch.
    EpochOrder = 1,
    /// Which positive and which negatives a group gets.
    Group = 2,
    /// Cutting a file to `max_example_num_per_dataset`.
    Subsample = 3,
    /// Shuffling the text of a positive (`shuffle_ratio`).
    TextShuffle = 4,
    /// Dropout masks.
    Dropout = 5,
    /// Fresh weights.
    Init = 6,
    /// Bootstrap resampling of evaluation results.
    Bootstrap = 7,
    /// Which candidates become negatives of a row.
    Negatives = 8,
    /// Which rows become dev when training data is split.
    Split = 12,
}

/// The 64-bit finaliser of `SplitMix64` (Steele, Lea, Flood 2014): a bijection that scatters every bit.
#[inline]
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One key for (seed, stream, index); feed it to [`Draws::new`] or use it as 64 random bits.
#[inline]
pub const fn key(seed: u64, stream: Stream, index: u64) -> u64 {
    let golden = 0x9e37_79b9_7f4a_7c15_u64;
    let seeded = mix(seed.wrapping_add(golden));
    let streamed = mix(seeded ^ (stream as u64).wrapping_mul(golden));
    mix(streamed.wrapping_add(index.wrapping_mul(golden)))
}

/// A short sequence of draws that starts at a key: `SplitMix64` from there on.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// Starts the sequence of one key, see [`key`].
    pub const fn new(key: u64) -> Self {
        Self(key)
    }

    /// The next 64 random bits.
    #[inline]
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0..n` without bias towards low numbers (Lemire 2019); `n` must not be 0.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        debug_assert!(n > 0, "a draw below zero has no answer");
        let n = n.max(1) as u64;
        loop {
            let wide = u128::from(self.bits()) * u128::from(n);
            let low = wide as u64;
            if low >= n.wrapping_neg() % n {
                return (wide >> 64) as usize;
            }
        }
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// A standard normal draw (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_only_on_its_key() {
        let first = Draws::new(key(42, Stream::Group, 7)).bits();
        assert_eq!(first, Draws::new(key(42, Stream::Group, 7)).bits());
        assert_ne!(first, Draws::new(key(42, Stream::Group, 8)).bits());
        assert_ne!(first, Draws::new(key(42, Stream::EpochOrder, 7)).bits());
        assert_ne!(first, Draws::new(key(43, Stream::Group, 7)).bits());
    }

    #[test]
    fn draws_are_uniform_and_normal() {
        let mut draws = Draws::new(key(1, Stream::Init, 0));
        let mut counts = [0_usize; 7];
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..70_000 {
            counts[draws.below(7)] += 1;
            let x = draws.normal();
            sum += x;
            squares += x * x;
        }
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
        assert!((sum / 70_000.0).abs() < 0.02);
        assert!((squares / 70_000.0 - 1.0).abs() < 0.03);
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..1000).collect();
        Draws::new(5).shuffle(&mut items);
        assert_ne!(items, (0..1000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
