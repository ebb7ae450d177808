//! The verdict in plain words: a gain is called a gain only when chance does not explain it.

use serde::{Deserialize, Serialize};

use super::compare::{MetricChange, QueryCounts};
use super::similarity::{Shift, SimilarityReport};
use super::statistics::PairedEstimate;

/// With fewer queries nothing is called a gain or a loss.
const FEWEST_QUERIES: usize = 20;
/// With fewer changed queries even a unanimous change has a p-value above 0.05 (2 / 2^5 = 0.06).
const FEWEST_CHANGED: usize = 6;
/// A difference is real below this p-value, where its interval also excludes zero.
const LEVEL: f64 = 0.05;
/// Documents more alike than this, on average, cannot be told apart.
const COLLAPSED: f64 = 0.95;
/// Vectors that stayed this close to the old ones did not learn.
const UNMOVED: f64 = 0.9999;

/// What the comparison shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The metric rose by more than chance explains.
    Better,
    /// It fell by more than chance explains.
    Worse,
    /// The difference can be chance.
    NoClearChange,
    /// Every query scores the same as before.
    Same,
}

impl Outcome {
    /// One or two words for it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Better => "Better",
            Self::Worse => "Worse",
            Self::NoClearChange => "No clear change",
            Self::Same => "No change",
        }
    }
}

/// The outcome with its reason, and what else a reader should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What the comparison shows.
    pub outcome: Outcome,
    /// The outcome and its numbers in one or two sentences.
    pub headline: String,
    /// Further findings: other metrics that moved, collapse, vectors that did not move.
    pub notes: Vec<String>,
}

/// What a verdict is made from.
pub(super) struct Evidence<'a> {
    /// The metric that decides.
    pub(super) primary: &'a MetricChange,
    /// All metrics.
    pub(super) metrics: &'a [MetricChange],
    /// Queries by how the deciding metric changed.
    pub(super) counts: &'a QueryCounts,
    /// Spread of one query's change, the standard deviation.
    pub(super) deviation: f64,
    /// Old and new similarities.
    pub(super) similarities: [&'a SimilarityReport; 2],
    /// How far the vectors moved.
    pub(super) shift: Option<&'a Shift>,
}

impl Evidence<'_> {
    pub(super) fn verdict(&self) -> Verdict {
        let queries = self.counts.improved + self.counts.hurt + self.counts.unchanged;
        let (metric, change) = (self.primary.metric.title(), self.primary.change);
        let numbers = format!(
            "{metric} went from {:.4} to {:.4} ({}",
            self.primary.before,
            self.primary.after,
            signed(change)
        );
        let interval = self
            .primary
            .estimate
            .as_ref()
            .map_or_else(String::new, |estimate| {
                let interval = estimate.change.interval;
                format!(
                    ", 95 % interval {} to {}",
                    signed(interval.low),
                    signed(interval.high)
                )
            });
        let numbers = format!("{numbers}{interval}, {queries} queries)");
        let changed = self.counts.improved + self.counts.hurt;
        let real = self.primary.estimate.as_ref().is_some_and(is_real);
        let (outcome, headline) = if changed == 0 {
            (
                Outcome::Same,
                format!(
                    "No change: {metric} is {:.4} and every query scores as before.",
                    self.primary.after
                ),
            )
        } else if queries < FEWEST_QUERIES {
            let why = format!(
                "{queries} queries are too few to tell a gain from chance; use at least {FEWEST_QUERIES}, better some hundreds"
            );
            (
                Outcome::NoClearChange,
                format!("No clear change: {numbers}. {why}."),
            )
        } else if real && changed >= FEWEST_CHANGED {
            let outcome = if change > 0.0 {
                Outcome::Better
            } else {
                Outcome::Worse
            };
            (
                outcome,
                format!(
                    "{}: {numbers}. Chance alone does not explain this.",
                    outcome.title()
                ),
            )
        } else {
            let why = if changed < FEWEST_CHANGED {
                format!("Only {changed} of the queries changed at all, which can be chance")
            } else {
                format!(
                    "A difference this small can be chance{}",
                    self.queries_needed(queries)
                )
            };
            (
                Outcome::NoClearChange,
                format!("No clear change: {numbers}. {why}."),
            )
        };
        Verdict {
            outcome,
            headline,
            notes: self.notes(outcome),
        }
    }

    /// How many queries would show a difference of this size four times out of five (two-sided, 5 %).
    fn queries_needed(&self, queries: usize) -> String {
        let change = self.primary.change.abs();
        if change < 1e-9 {
            return String::new();
        }
        let needed = ((1.96 + 0.84) * self.deviation / change).powi(2).ceil();
        if needed > queries as f64 && needed < 1e6 {
            format!(
                "; to prove one of this size would take about {} queries",
                round_up(needed as usize)
            )
        } else {
            String::new()
        }
    }

    fn notes(&self, outcome: Outcome) -> Vec<String> {
        let mut notes = Vec::new();
        let [before, after] = self.similarities;
        if let Some(shift) = self.shift {
            if shift.identical >= 1.0 {
                notes.push(
                    "All vectors are identical to the old ones: the two models are the same, or training changed nothing."
                        .to_owned(),
                );
            } else if shift.queries.min(shift.documents) > UNMOVED {
                notes.push(format!(
                    "The vectors hardly moved (mean cosine of old and new {:.6}): the learning rate may be too low or the \
                     training too short.",
                    shift.queries.min(shift.documents)
                ));
            }
        }
        if after.document_cosine > COLLAPSED && after.document_cosine > before.document_cosine {
            notes.push(format!(
                "The space has collapsed: two documents have a mean cosine of {:.3} (before {:.3}). Lower the learning \
                 rate and check that the negatives are real negatives.",
                after.document_cosine, before.document_cosine
            ));
        }
        if after.zero_vectors > before.zero_vectors {
            notes.push(format!("{} vectors are all zero.", after.zero_vectors));
        }
        for change in self
            .metrics
            .iter()
            .filter(|change| change.metric != self.primary.metric)
        {
            let Some(estimate) = change.estimate.as_ref().filter(|estimate| is_real(estimate)) else {
                continue;
            };
            let rose = estimate.change.mean > 0.0;
            if rose != (outcome == Outcome::Better) || !matches!(outcome, Outcome::Better | Outcome::Worse) {
                let moved = if rose { "rose" } else { "fell" };
                notes.push(format!(
                    "{} {moved} from {:.4} to {:.4}, more than chance explains ({}, 95 % interval {} to {}).",
                    change.metric.title(),
                    change.before,
                    change.after,
                    signed(change.change),
                    signed(estimate.change.interval.low),
                    signed(estimate.change.interval.high)
                ));
            }
        }
        notes
    }
}

/// Whether chance alone does not explain a difference.
pub(super) fn is_real(estimate: &PairedEstimate) -> bool {
    estimate.p_value < LEVEL && estimate.change.interval.excludes_zero()
}

/// A number of queries for people: two digits, rounded up.
fn round_up(number: usize) -> usize {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    number.div_ceil(unit) * unit
}

/// A difference with its sign and four decimals; no sign when it rounds to zero.
pub(super) fn signed(value: f64) -> String {
    if value.abs() < 0.000_05 {
        "0.0000".to_owned()
    } else {
        format!("{value:+.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_for_people() {
        assert_eq!(
            [round_up(7), round_up(99), round_up(101), round_up(12345)],
            [7, 99, 110, 13000]
        );
        assert_eq!(signed(0.01234), "+0.0123");
        assert_eq!(signed(-0.00001), "0.0000");
        assert_eq!(signed(-10.0), "-10.0000");
    }
}
