//! Counts of lengths in bounded memory: exact below 32, within 1/16 of the value above.

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// How often each length occurs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    least: Option<u64>,
    most: u64,
}

/// Buckets per doubling of the value.
const STEPS: u64 = 16;

/// The bucket of a value: one for each below 32, then 16 for each doubling.
fn bucket(value: u64) -> usize {
    if value < 2 * STEPS {
        return value as usize;
    }
    let doublings = u64::from(value.ilog2() - STEPS.ilog2());
    (doublings * STEPS + (value >> doublings)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let doublings = bucket / STEPS - 1;
    let low = (bucket - doublings * STEPS) << doublings;
    low + ((1_u64 << doublings) - 1)
}

impl Histogram {
    /// Counts one value.
    #[inline]
    pub fn add(&mut self, value: u64) {
        self.add_times(value, 1);
    }

    /// Counts a value `times` over.
    pub fn add_times(&mut self, value: u64, times: u64) {
        let at = bucket(value);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count += times;
        }
        self.total += times;
        self.sum += u128::from(value) * u128::from(times);
        self.least = Some(self.least.map_or(value, |least| least.min(value)));
        self.most = self.most.max(value);
    }

    /// Adds all counts of another.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.least = match (self.least, other.least) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        self.most = self.most.max(other.most);
    }

    /// How many values were counted.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The smallest value, 0 if there is none.
    pub fn least(&self) -> u64 {
        self.least.unwrap_or_default()
    }

    /// The largest value.
    pub const fn most(&self) -> u64 {
        self.most
    }

    /// The arithmetic mean, 0 if there is no value.
    pub fn mean(&self) -> f64 {
        if self.total == 0 {
            0.0
        } else {
            self.sum as f64 / self.total as f64
        }
    }

    /// The smallest bucket bound that a share (0 to 1) of the values does not exceed.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(at).min(self.most);
            }
        }
        self.most
    }

    /// How many values lie between two bounds, both included; exact for bounds below 32.
    pub fn count_between(&self, least: u64, most: u64) -> u64 {
        if least > most {
            return 0;
        }
        let range = bucket(least)..(bucket(most) + 1).min(self.counts.len());
        self.counts.get(range).map_or(0, |counts| counts.iter().sum())
    }

    /// Counts by doublings, as (largest value of the bar, count), from the first bar in use to the last.
    pub fn bars(&self) -> Vec<(u64, u64)> {
        let mut bars: Vec<(u64, u64)> = Vec::new();
        for (at, &count) in self.counts.iter().enumerate() {
            // 0 and 1 each have a bar, then 2-3, 4-7, ...
            let bound = match upper(at) {
                0 => 0,
                value => (1_u64 << value.ilog2()).saturating_mul(2) - 1,
            };
            if let Some((_, bar)) = bars.last_mut().filter(|(last, _)| *last == bound) {
                *bar += count;
            } else if count > 0 || !bars.is_empty() {
                bars.push((bound, count));
            }
        }
        bars
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Histogram", 8)?;
        fields.serialize_field("count", &self.total)?;
        fields.serialize_field("mean", &self.mean())?;
        fields.serialize_field("min", &self.least())?;
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            fields.serialize_field(name, &self.quantile(share))?;
        }
        fields.serialize_field("max", &self.most)?;
        fields.serialize_field("up_to", &self.bars())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_hold_their_values() {
        let mut last = 0;
        for value in 0..100_000_u64 {
            let at = bucket(value);
            assert!(at == last || at == last + 1, "{value}");
            assert!(
                upper(at) >= value && (at == 0 || upper(at - 1) < value),
                "{value}"
            );
            assert!(upper(at) - value <= value / 16, "{value}");
            last = at;
        }
        assert!(bucket(u64::MAX) < 1000);
    }

    #[test]
    fn merging_equals_counting_together() {
        let (mut one, mut two, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for value in [3, 900, 17, 0, 65_000] {
            one.add(value);
            both.add(value);
        }
        for value in [4, 4, 1 << 40] {
            two.add(value);
            both.add(value);
        }
        one.merge(&two);
        assert_eq!(one, both);
        assert_eq!((one.least(), one.most(), one.total()), (0, 1 << 40, 8));
        assert_eq!(one.bars().iter().map(|bar| bar.1).sum::<u64>(), 8);
    }
}
