//! How sure a mean over queries is: bootstrap intervals (Efron and Tibshirani 1993) and p-values by randomization.
//!
//! The p-value comes from the paired randomization test (Smucker, Allan and Carterette 2007) and not from the
//! bootstrap: where only a handful of queries changed, a bootstrap calls chance significant too often, while the
//! randomization test keeps its level (six queries that all rose: 2 / 2^6 = 0.03).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::{Draws, Stream, key};

/// The 95 % percentile interval of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 2.5 % of the resampled means are below it.
    pub low: f64,
    /// 2.5 % of the resampled means are above it.
    pub high: f64,
}

impl Interval {
    /// Whether zero is outside.
    pub fn excludes_zero(self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// A mean over queries and how far it would move with other queries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its interval.
    pub interval: Interval,
}

/// Two means over the same queries and their difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedEstimate {
    /// The first mean.
    pub before: Estimate,
    /// The second mean.
    pub after: Estimate,
    /// Second minus first.
    pub change: Estimate,
    /// How often chance alone gives a difference this large, two-sided: the share of random exchanges of before and
    /// after, query by query, whose difference is at least as far from zero; one is added above and below, so it is
    /// never 0.
    pub p_value: f64,
}

/// Interval of the mean of each column; all columns have one value for each query and share the resamples.
pub fn bootstrap(columns: &[&[f64]], resamples: usize, seed: u64) -> Vec<Estimate> {
    let means = resampled_means(columns, resamples, seed);
    let estimate = |(column, means): (&&[f64], Vec<f64>)| Estimate {
        mean: mean(column),
        interval: interval(means),
    };
    columns.iter().zip(means).map(estimate).collect()
}

/// Paired bootstrap and randomization test of (before, after) columns.
///
/// Every resample draws the same queries, and exchanges the same queries, for both sides and all pairs.
pub fn paired_bootstrap(pairs: &[(&[f64], &[f64])], resamples: usize, seed: u64) -> Vec<PairedEstimate> {
    let columns: Vec<&[f64]> = pairs
        .iter()
        .flat_map(|(before, after)| [*before, *after])
        .collect();
    let mut means = resampled_means(&columns, resamples, seed).into_iter();
    let mut estimates = Vec::with_capacity(pairs.len());
    for (before, after) in pairs {
        let (Some(before_means), Some(after_means)) = (means.next(), means.next()) else {
            break;
        };
        let changes: Vec<f64> = before_means
            .iter()
            .zip(&after_means)
            .map(|(b, a)| a - b)
            .collect();
        estimates.push(PairedEstimate {
            before: Estimate {
                mean: mean(before),
                interval: interval(before_means),
            },
            after: Estimate {
                mean: mean(after),
                interval: interval(after_means),
            },
            change: Estimate {
                mean: mean(after) - mean(before),
                interval: interval(changes),
            },
            p_value: randomization(before, after, resamples, seed),
        });
    }
    estimates
}

/// The p-value of the paired randomization test; only queries that changed matter.
fn randomization(before: &[f64], after: &[f64], resamples: usize, seed: u64) -> f64 {
    let changes: Vec<f64> = before
        .iter()
        .zip(after)
        .map(|(b, a)| a - b)
        .filter(|change| *change != 0.0)
        .collect();
    // Sums in another order differ in the last bits; equal must stay equal.
    let observed = changes.iter().sum::<f64>().abs() - 1e-9;
    let extreme = (0..resamples as u64)
        .into_par_iter()
        .filter(|resample| {
            // Counted from the other end, so that no exchange shares its draws with a bootstrap resample.
            let mut draws = Draws::new(key(seed, Stream::Bootstrap, u64::MAX - resample));
            let mut sum = 0.0;
            for changes in changes.chunks(64) {
                let mut signs = draws.bits();
                for change in changes {
                    sum += if signs & 1 == 0 { *change } else { -change };
                    signs >>= 1;
                }
            }
            sum.abs() >= observed
        })
        .count();
    (extreme + 1) as f64 / (resamples + 1) as f64
}

/// For each column the means of its resamples. A resample is a pure function of the seed and its number.
fn resampled_means(columns: &[&[f64]], resamples: usize, seed: u64) -> Vec<Vec<f64>> {
    let width = columns.len();
    let count = columns.iter().map(|column| column.len()).min().unwrap_or(0);
    if count == 0 {
        return vec![Vec::new(); width];
    }
    // One row for each query: a draw touches one place in memory, however many columns there are.
    let rows: Vec<f64> = (0..count)
        .flat_map(|row| columns.iter().filter_map(move |column| column.get(row).copied()))
        .collect();
    let sums: Vec<Vec<f64>> = (0..resamples as u64)
        .into_par_iter()
        .map(|resample| {
            let mut draws = Draws::new(key(seed, Stream::Bootstrap, resample));
            let mut sums = vec![0.0; width];
            for _ in 0..count {
                let start = draws.below(count) * width;
                let row = rows.get(start..start + width).unwrap_or_default();
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
            sums
        })
        .collect();
    (0..width)
        .map(|column| {
            sums.iter()
                .filter_map(|sums| sums.get(column))
                .map(|sum| sum / count as f64)
                .collect()
        })
        .collect()
}

fn interval(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    Interval {
        low: quantile(&values, 0.025),
        high: quantile(&values, 0.975),
    }
}

/// The arithmetic mean; 0 for nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// A quantile of sorted values, interpolated between neighbours; 0 for nothing.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let low = sorted.get(place.floor() as usize).copied().unwrap_or(0.0);
    let high = sorted.get(place.ceil() as usize).copied().unwrap_or(low);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_agrees_with_the_normal_approximation() {
        let mut draws = Draws::new(1);
        let values: Vec<f64> = (0..400).map(|_| 0.3 + draws.normal()).collect();
        let estimate = bootstrap(&[&values], 4000, 42)[0];
        assert!((estimate.mean - 0.3).abs() < 0.15);
        // The standard error is 1 / 20.
        assert!(
            (estimate.interval.low - (estimate.mean - 0.098)).abs() < 0.012,
            "{estimate:?}"
        );
        assert!(
            (estimate.interval.high - (estimate.mean + 0.098)).abs() < 0.012,
            "{estimate:?}"
        );
    }

    #[test]
    fn chance_is_called_significant_about_one_time_in_twenty() {
        let mut found = 0;
        for trial in 0..400 {
            let mut draws = Draws::new(key(9, Stream::Init, trial));
            let before: Vec<f64> = (0..60).map(|_| draws.unit()).collect();
            let after: Vec<f64> = (0..60).map(|_| draws.unit()).collect();
            let pair = paired_bootstrap(&[(&before, &after)], 300, trial)[0];
            found += usize::from(pair.p_value < 0.05);
        }
        assert!((8..=40).contains(&found), "{found} of 400");
    }

    #[test]
    fn six_queries_that_all_rose_are_just_significant_and_five_are_not() {
        let p = |rose: usize| {
            let before = [0.5; 100];
            let mut after = before;
            after.iter_mut().take(rose).for_each(|value| *value = 0.7);
            paired_bootstrap(&[(&before, &after)], 10_000, 42)[0].p_value
        };
        assert!((p(6) - 2.0 / 64.0).abs() < 0.006, "{}", p(6));
        assert!((p(5) - 2.0 / 32.0).abs() < 0.008, "{}", p(5));
    }

    #[test]
    fn equal_sides_have_no_difference_and_a_clear_gain_has_one() {
        let before: Vec<f64> = (0..50).map(|i| f64::from(i % 7) / 10.0).collect();
        let after: Vec<f64> = before.iter().map(|x| x + 0.1).collect();
        let pairs = paired_bootstrap(&[(&before, &before), (&before, &after)], 500, 0);
        assert_eq!(pairs[0].change.interval, Interval { low: 0.0, high: 0.0 });
        assert_eq!(pairs[0].p_value, 1.0);
        assert!(pairs[1].change.interval.excludes_zero() && pairs[1].p_value < 0.01);
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_nothing_gives_nothing() {
        let values = [0.1, 0.9, 0.4, 0.4, 0.7];
        assert_eq!(bootstrap(&[&values], 100, 3), bootstrap(&[&values], 100, 3));
        assert_ne!(bootstrap(&[&values], 100, 3), bootstrap(&[&values], 100, 4));
        assert_eq!(bootstrap(&[&[]], 100, 3)[0].mean, 0.0);
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
