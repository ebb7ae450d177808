//! What a mining run did, in numbers.

use serde::{Deserialize, Serialize};

use super::select::{Candidate, Verdict};

/// Counts over all rows of a run. The same command counts the same, but for what was there already.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct MineReport {
    /// Rows of the input, and of the output.
    pub rows: usize,
    /// Different queries, not told apart by case and white space.
    pub queries: usize,
    /// Different texts that negatives come from.
    pub corpus: usize,
    /// Texts of the input or the pool that were there before.
    pub repeated_texts: u64,
    /// Texts of white space only, which are left out.
    pub blank_texts: u64,
    /// Negatives found, without filled ones.
    pub negatives: u64,
    /// Negatives drawn from the whole corpus to fill lists.
    pub filled: u64,
    /// Rows with fewer negatives than asked for.
    pub short_rows: u64,
    /// Rows without any.
    pub empty_rows: u64,
    /// Rows whose old `neg_scores` or `pos_scores` were taken out: without scores of the new negatives they teach nothing.
    pub stale_scores: u64,
    /// Suspected false negatives, where they are written to a file.
    pub suspected: u64,
    /// Candidates that passed every rule and were not drawn.
    pub not_sampled: u64,
    /// Candidates in the range that were left out, by the first reason that applied.
    pub dropped: Dropped,
    /// Vectors that were taken from an earlier run.
    pub reused_vectors: usize,
}

/// Candidates in the range that were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Dropped {
    /// Positives of the same query.
    pub positive: u64,
    /// Texts that differ from one in case and white space only.
    pub positive_variant: u64,
    /// The query itself, or a text that differs from it in case and white space only.
    pub query: u64,
    /// Too close to the positive.
    pub absolute_margin: u64,
    /// Too close to the positive, by share.
    pub relative_margin: u64,
    /// Scores too high.
    pub max_score: u64,
    /// Scores too low.
    pub min_score: u64,
}

/// What one row adds to a report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) verdicts: [u64; Verdict::ALL.len()],
    pub(super) suspected: u64,
    pub(super) stale: bool,
}

impl Counts {
    /// Counts the candidates whose rank is in the range, and the filled ones.
    pub(super) fn of(candidates: &[Candidate], start: usize) -> Self {
        let mut counts = Self::default();
        let inside = |c: &&Candidate| c.rank.is_none_or(|rank| rank as usize >= start);
        for candidate in candidates.iter().filter(inside) {
            if let Some(count) = counts.verdicts.get_mut(candidate.verdict as usize) {
                *count += 1;
            }
        }
        counts
    }

    fn get(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict as usize).copied().unwrap_or_default()
    }
}

impl MineReport {
    /// Adds a row.
    pub(super) fn add(&mut self, counts: &Counts, asked_for: usize) {
        let found = counts.get(Verdict::Chosen);
        let filled = counts.get(Verdict::Filled);
        self.negatives += found;
        self.filled += filled;
        self.short_rows += u64::from(found + filled < asked_for as u64);
        self.empty_rows += u64::from(found + filled == 0);
        self.stale_scores += u64::from(counts.stale);
        self.suspected += counts.suspected;
        self.not_sampled += counts.get(Verdict::NotSampled);
        for (sum, verdict) in [
            (&mut self.dropped.positive, Verdict::Positive),
            (&mut self.dropped.positive_variant, Verdict::PositiveVariant),
            (&mut self.dropped.query, Verdict::Query),
            (&mut self.dropped.absolute_margin, Verdict::AbsoluteMargin),
            (&mut self.dropped.relative_margin, Verdict::RelativeMargin),
            (&mut self.dropped.max_score, Verdict::MaxScore),
            (&mut self.dropped.min_score, Verdict::MinScore),
        ] {
            *sum += counts.get(verdict);
        }
    }

    /// The report in a few lines for people.
    pub fn summary(&self) -> String {
        let mut lines = vec![format!(
            "{} negatives for {} rows ({} queries) out of {} texts",
            self.negatives + self.filled,
            self.rows,
            self.queries,
            self.corpus
        )];
        let dropped = self.dropped;
        let reasons: Vec<String> = [
            ("positives of the query", dropped.positive),
            ("their variants in case or space", dropped.positive_variant),
            ("the query itself", dropped.query),
            ("absolute_margin", dropped.absolute_margin),
            ("relative_margin", dropped.relative_margin),
            ("max_score", dropped.max_score),
            ("min_score", dropped.min_score),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
        if !reasons.is_empty() {
            lines.push(format!("left out: {}", reasons.join(", ")));
        }
        if self.short_rows > 0 {
            lines.push(format!(
                "{} rows have fewer negatives than asked for, {} of them none; widen range_for_sampling, loosen the rules, or \
                 set fill_negatives",
                self.short_rows, self.empty_rows
            ));
        }
        if self.filled > 0 {
            lines.push(format!(
                "{} negatives are random texts that fill short lists",
                self.filled
            ));
        }
        if self.stale_scores > 0 {
            lines.push(format!(
                "{} rows lost their old teacher scores, which do not belong to the new negatives; score them again with bge score",
                self.stale_scores
            ));
        }
        if self.suspected > 0 {
            lines.push(format!(
                "{} suspected false negatives are written for judging",
                self.suspected
            ));
        }
        lines.join("\n") + "\n"
    }
}
