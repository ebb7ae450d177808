//! Where converted rows go: joined by query where that is wanted, written, counted, or set aside with a reason.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::Value;

use super::columns::Row;
use super::{ConvertOptions, ConvertReport, Converted};
use crate::data::beir::shorten;
use crate::data::codes;
use crate::data::findings::IssueLog;
use crate::data::lines::Position;
use crate::data::repair::quarantine;
use crate::issue::Severity;

/// Findings of each kind that are kept with their places.
const FIRST: usize = 10;

/// Where a row came from.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: std::sync::Arc<str>,
    /// Line 0 is the whole file.
    pub(super) at: Position,
}

#[derive(Debug)]
pub(super) struct Sink {
    pub(super) file: std::sync::Arc<str>,
    pub(super) report: ConvertReport,
    pub(super) issues: IssueLog,
    /// Rows that wait for others of their query, in the order of their first ones.
    held: Vec<(Place, Row)>,
    places: HashMap<String, usize>,
    held_bytes: usize,
    group: bool,
    most_bytes: usize,
    /// Columns of this file that were said to be of no use.
    unused: std::collections::HashSet<String>,
    /// How many pairs of this file have a score, the first one's place, and the lowest and highest score.
    pair_scores: Option<(u64, Place, f64, f64)>,
}

impl Sink {
    pub(super) fn new(options: &ConvertOptions) -> Self {
        Self {
            file: "input".into(),
            report: ConvertReport::default(),
            issues: IssueLog::new(FIRST),
            held: Vec::new(),
            places: HashMap::new(),
            held_bytes: 0,
            group: options.group,
            most_bytes: options.max_group_bytes,
            unused: std::collections::HashSet::new(),
            pair_scores: None,
        }
    }

    pub(super) fn here(&self, at: Position) -> Place {
        Place {
            file: self.file.clone(),
            at,
        }
    }

    /// Adds a finding about a place.
    pub(super) fn note(
        &mut self,
        code: &'static str,
        severity: Severity,
        place: &Place,
        field: Option<&str>,
        message: &str,
    ) {
        let at = (place.at.line > 0).then_some(place.at);
        self.issues.add(
            code,
            severity,
            Some(&place.file),
            at,
            field,
            format_args!("{message}"),
        );
    }

    /// Says once of each column that there is no use for it; of the first hundred of them.
    pub(super) fn unused_column(&mut self, place: &Place, name: &str, message: &str) {
        if self.unused.len() < 100 && self.unused.insert(name.to_owned()) {
            let name = shorten(name, 60);
            self.note(
                codes::CONVERT_COLUMN_UNUSED,
                Severity::Info,
                place,
                Some(&name),
                message,
            );
        }
    }

    /// Takes a row, or what kept it from being one; `bytes` are those of the source.
    pub(super) fn take(&mut self, at: Position, row: Result<Row, String>, bytes: &[u8], out: &mut Converted) {
        self.report.rows += 1;
        let place = self.here(at);
        if let Some(score) = row.as_ref().ok().and_then(|row| row.pair_score) {
            let first = || (0, place.clone(), score, score);
            let (pairs, _, lowest, highest) = self.pair_scores.get_or_insert_with(first);
            (*pairs, *lowest, *highest) = (*pairs + 1, lowest.min(score), highest.max(score));
        }
        match row {
            Ok(row) if self.group => self.hold(place, row, out),
            Ok(row) => self.write(&place, row, Some(bytes), out),
            Err(reason) => self.set_aside(codes::CONVERT_ROW, &place, &reason, bytes, out),
        }
    }

    /// Ends a file: says that pairs with scores are positives all.
    pub(super) fn end_file(&mut self) {
        let Some((pairs, place, lowest, highest)) = self.pair_scores.take() else {
            return;
        };
        let message = format!(
            "the file has {pairs} pairs with scores from {lowest} to {highest}, and all of them become positives; only knowledge \
             distillation looks at the scores: for any other training, take out the pairs with low ones first"
        );
        self.note(
            codes::CONVERT_PAIR_SCORES,
            Severity::Warning,
            &place,
            None,
            &message,
        );
    }

    /// Puts something into the quarantine.
    pub(super) fn set_aside(
        &mut self,
        code: &'static str,
        place: &Place,
        reason: &str,
        bytes: &[u8],
        out: &mut Converted,
    ) {
        self.report.quarantined += 1;
        self.note(code, Severity::Warning, place, None, reason);
        quarantine(&mut out.quarantine, &place.file, place.at, reason, bytes);
    }

    /// Keeps a row until the end, or until there is no room.
    fn hold(&mut self, place: Place, row: Row, out: &mut Converted) {
        let key = if row.kept.is_empty() {
            row.query.clone()
        } else {
            // A prompt or a type of its own makes another row of the same query.
            format!("{}\0{}", row.query, Value::Object(row.kept.clone()))
        };
        let passages = row.pos.iter().chain(&row.neg);
        let bytes = passages.map(|passage| passage.text.len() + 64).sum::<usize>();
        self.held_bytes += bytes;
        match self.places.entry(key) {
            Entry::Occupied(entry) => {
                if let Some((_, first)) = self.held.get_mut(*entry.get()) {
                    self.report.merged += 1;
                    first.pos.extend(row.pos);
                    first.neg.extend(row.neg);
                    first.score_unused |= row.score_unused;
                }
            }
            Entry::Vacant(entry) => {
                self.held_bytes += 2 * entry.key().len() + 256;
                entry.insert(self.held.len());
                self.held.push((place, row));
            }
        }
        if self.held_bytes > self.most_bytes {
            let message = "more rows than fit into the memory for grouping; rows of one query that are far apart stay \
                           apart: sort the data by query";
            if !self.report.groups_bounded {
                let place = self.here(Position::default());
                self.note(
                    codes::CONVERT_GROUPS_BOUNDED,
                    Severity::Warning,
                    &place,
                    None,
                    message,
                );
            }
            self.report.groups_bounded = true;
            self.flush(out);
        }
    }

    /// Writes what is held.
    pub(super) fn flush(&mut self, out: &mut Converted) {
        self.places.clear();
        self.held_bytes = 0;
        for (place, row) in std::mem::take(&mut self.held) {
            self.write(&place, row, None, out);
        }
    }

    /// Writes a row; one without a positive is set aside as `bytes`, or as what would be written.
    pub(super) fn write(&mut self, place: &Place, mut row: Row, bytes: Option<&[u8]>, out: &mut Converted) {
        row.tidy();
        if row.pos.is_empty() {
            let reason = if self.group {
                "no row of this query has a positive"
            } else {
                "it has no positive: its text or list is empty, or its label is 0; where the rows of a query are joined (`group`), \
                 negatives go to one that has"
            };
            let mut text = Vec::new();
            let bytes = bytes.unwrap_or_else(|| {
                row.write(&mut text);
                text.trim_ascii_end()
            });
            self.set_aside(codes::CONVERT_NO_POSITIVE, place, reason, bytes, out);
            return;
        }
        self.report.written += 1;
        self.report.positives += row.pos.len() as u64;
        self.report.negatives += row.neg.len() as u64;
        let unused = row.score_unused;
        if row.write(&mut out.rows) || unused {
            self.report.scores_unused += 1;
            let message = "scores are left out, as not every passage of the row has its own; give one for each passage, as \
                           in pos_scores and neg_scores";
            self.note(
                codes::CONVERT_SCORE_UNUSED,
                Severity::Warning,
                place,
                None,
                message,
            );
        }
    }
}
