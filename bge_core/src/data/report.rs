//! What a validation found: counts, lengths, the outlook on training, findings, a verdict.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::findings::{IssueGroup, IssueLog};
use super::histogram::Histogram;
use super::lines::Position;
use super::session::ValidationOptions;
use crate::issue::{Issue, Severity};

/// Whether data can be trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing to complain about.
    #[default]
    Ready,
    /// Can be trained; the warnings are worth a look.
    Warnings,
    /// Training would refuse to start.
    Errors,
}

/// The report on all files of a validation.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetReport {
    /// The bottom line.
    pub verdict: Verdict,
    /// Rows that could be read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The files in order.
    pub files: Vec<FileReport>,
    /// The queries.
    pub queries: TextReport,
    /// The positives.
    pub positives: TextReport,
    /// The negatives.
    pub negatives: TextReport,
    /// Different queries; a lower bound if `duplicates_bounded`.
    pub distinct_queries: u64,
    /// Different passages; a lower bound if `duplicates_bounded`.
    pub distinct_passages: u64,
    /// Whether there were more texts than the duplicate search remembers.
    pub duplicates_bounded: bool,
    /// Share of the queries of a full batch that meet their own positive as that of another query.
    pub shared_positive_share: f64,
    /// What was compared with evaluation data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<LeakReport>,
    /// What training on it would look like.
    pub training: Outlook,
    /// The findings, worst first.
    pub issues: Vec<IssueGroup>,
    #[serde(skip)]
    pub(crate) log: IssueLog,
    #[serde(skip)]
    pub(crate) options: ValidationOptions,
}

/// What is known of one file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileReport {
    /// Its path.
    pub name: String,
    #[serde(skip)]
    pub(crate) argument: usize,
    #[serde(skip)]
    pub(crate) from_folder: bool,
    /// Whether it is marked as using no in-batch negatives.
    pub no_in_batch_neg: bool,
    /// Its size.
    pub bytes: u64,
    /// Rows that could be read.
    pub rows: u64,
    /// Rows that could not.
    pub broken_rows: u64,
    /// Lines with nothing but white space.
    pub blank_lines: u64,
    /// Lines that end in CR LF.
    pub crlf_lines: u64,
    /// Whether it begins with a byte order mark.
    pub byte_order_mark: bool,
    /// Whether it is one JSON array.
    pub array: bool,
    /// Rows of each task type; rows without one are not counted.
    pub types: BTreeMap<String, u64>,
    /// Rows of each prompt, of the first few different ones.
    pub prompts: BTreeMap<String, u64>,
    /// Rows with a prompt.
    pub prompted: u64,
    /// Rows of each column that bge does not read.
    pub other_columns: BTreeMap<String, u64>,
    /// Positives per row.
    pub positives: Histogram,
    /// Negatives per row.
    pub negatives: Histogram,
    /// Rows without negatives.
    pub without_negatives: Places,
    /// Rows without complete teacher scores.
    pub unscored: Places,
    /// Teacher scores of positives.
    pub pos_scores: Range,
    /// Teacher scores of negatives.
    pub neg_scores: Range,
    /// Rows whose `batch_size` or `train_group_size` is not that of the first row.
    pub other_sizes: Places,
    #[serde(skip)]
    pub(crate) first: Arc<FirstRow>,
    /// Sum over pairs of rows of the chance that both draw the same positive.
    #[serde(skip)]
    pub(crate) shared_pairs: f64,
}

/// The properties that a file has from its first row.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstRow {
    pub(crate) line: u64,
    pub(crate) task_type: Option<String>,
    pub(crate) batch_size: Option<usize>,
    pub(crate) train_group_size: Option<usize>,
    pub(crate) scored: bool,
}

/// How many rows, and the first few lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Places {
    /// How many.
    pub total: u64,
    /// Where the first ones begin.
    #[serde(rename = "first_lines", serialize_with = "as_lines")]
    pub first: Vec<Position>,
}

fn as_lines<S: serde::Serializer>(first: &[Position], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(first.iter().map(|at| at.line))
}

impl Places {
    pub(crate) fn add(&mut self, at: Position, most: usize) {
        self.total += 1;
        if self.first.len() < most {
            self.first.push(at);
        }
    }
}

/// The extent of some numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Range {
    /// How many numbers.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their sum.
    #[serde(skip)]
    pub sum: f64,
}

impl Range {
    pub(crate) fn add(&mut self, value: f64) {
        self.min = if self.count == 0 {
            value
        } else {
            self.min.min(value)
        };
        self.max = if self.count == 0 {
            value
        } else {
            self.max.max(value)
        };
        self.count += 1;
        self.sum += value;
    }
}

/// Lengths of one kind of text.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TextReport {
    /// Lengths in Unicode characters, without instruction.
    pub characters: Histogram,
    /// Lengths in tokens with instruction and special tokens; of large data a part is counted and weighted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Histogram>,
    /// The length in tokens beyond which training cuts.
    pub max_tokens: usize,
    /// Texts longer than that.
    #[serde(skip)]
    pub cut: u64,
    /// Their share, where tokens were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_share: Option<f64>,
}

impl TextReport {
    fn merge(&mut self, other: &Self) {
        self.characters.merge(&other.characters);
        if let Some(more) = &other.tokens {
            self.tokens.get_or_insert_default().merge(more);
        }
        self.cut += other.cut;
    }

    pub(crate) fn conclude(&mut self) {
        self.cut_share = self
            .tokens
            .as_ref()
            .filter(|tokens| tokens.total() > 0)
            .map(|tokens| self.cut as f64 / tokens.total() as f64);
    }
}

/// Texts of the training data that are also in the evaluation data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeakReport {
    /// Queries of the evaluation data.
    pub queries: u64,
    /// Documents of the evaluation data.
    pub passages: u64,
    /// Training rows whose query is an evaluation query, ignoring case and white space.
    pub leaked_queries: u64,
    /// Training rows with a positive that is an evaluation document.
    pub leaked_positives: u64,
}

/// What training on the data would look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outlook {
    /// Devices that share a batch.
    pub world_size: usize,
    /// Whether a batch comes from one file.
    pub same_dataset: bool,
    /// The datasets that batches are made of.
    pub datasets: Vec<OutlookDataset>,
    /// Batches of an epoch.
    pub batches_per_epoch: u64,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
}

/// One dataset of the outlook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutlookDataset {
    /// What it is called.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Queries per device and batch.
    pub queries_per_device: usize,
    /// Passages per query; the most, where it depends on the row.
    pub passages_per_query: usize,
    /// Whether passages of other queries are negatives too.
    pub in_batch_negatives: bool,
    /// Whether it is trained with teacher scores.
    pub distilled: bool,
    /// Batches of an epoch.
    pub batches: u64,
    /// Rows that an epoch leaves out.
    pub left_out: u64,
}

impl DatasetReport {
    /// Whether training would refuse to start.
    pub fn has_errors(&self) -> bool {
        self.verdict == Verdict::Errors
    }

    /// How many findings of a severity there are.
    pub fn count(&self, severity: Severity) -> u64 {
        self.issues
            .iter()
            .filter(|group| group.severity == severity)
            .map(|group| group.total)
            .sum()
    }

    /// The findings of a code.
    pub fn issue(&self, code: &str) -> Option<&IssueGroup> {
        self.issues.iter().find(|group| group.code == code)
    }

    /// Adds findings from outside, such as notes on files that were not read.
    pub fn add_issues(&mut self, issues: impl IntoIterator<Item = Issue>) {
        issues.into_iter().for_each(|issue| self.log.add_issue(issue));
        self.conclude();
    }

    /// Joins the report on further files, made with the same settings.
    ///
    /// Duplicates between the two are not known: validate files in one session to find them.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.files.extend(other.files.iter().cloned());
        self.queries.merge(&other.queries);
        self.positives.merge(&other.positives);
        self.negatives.merge(&other.negatives);
        self.distinct_queries += other.distinct_queries;
        self.distinct_passages += other.distinct_passages;
        self.duplicates_bounded |= other.duplicates_bounded;
        if let (Some(own), Some(more)) = (&mut self.evaluation, &other.evaluation) {
            own.leaked_queries += more.leaked_queries;
            own.leaked_positives += more.leaked_positives;
        }
        self.log.merge(&other.log);
        self.conclude();
    }
}
