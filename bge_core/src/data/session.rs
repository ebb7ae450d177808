//! Validation in one pass: bytes go in, a report comes out. Memory does not grow with the data.

use std::fmt;

use super::duplicates::Seen;
use super::findings::IssueLog;
use super::leaks::EvaluationTexts;
use super::lines::{DEFAULT_LIMIT, LineSplitter};
use super::report::{DatasetReport, FileReport, LeakReport, Outlook, TextReport, Verdict};
use super::rules::Mode;
use super::tally::State;
use super::template::Instructions;
use crate::config::{DataArguments, Module, TrainingArguments};
use crate::error::Result;
use crate::issue::Severity;

/// Settings of a validation.
#[derive(Clone, Debug)]
pub struct ValidationOptions {
    /// What will be trained on the data.
    pub module: Module,
    /// The data settings that training will have.
    pub data: DataArguments,
    /// The training settings.
    pub training: TrainingArguments,
    /// Devices that share a batch.
    pub world_size: usize,
    /// Findings of each code that are kept in full.
    pub max_issues_per_code: usize,
    /// Different texts of each kind that the duplicate search remembers, at about 20 bytes each.
    pub max_fingerprints: usize,
    /// Longest record in bytes.
    pub max_line_bytes: usize,
    /// Rows whose tokens are all counted; of later ones ever fewer are, with more weight.
    pub token_rows: u64,
}

impl Default for ValidationOptions {
    fn default() -> Self {
        Self {
            module: Module::default(),
            data: DataArguments::default(),
            training: TrainingArguments::default(),
            world_size: 1,
            max_issues_per_code: 10,
            max_fingerprints: 4_000_000,
            max_line_bytes: DEFAULT_LIMIT,
            token_rows: 10_000,
        }
    }
}

/// Counts the tokens of a text, special tokens included, without cutting.
pub type TokenCounter<'t> = &'t dyn Fn(&str) -> usize;

/// How far a validation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read, of all files.
    pub bytes: u64,
    /// Rows read.
    pub rows: u64,
    /// Errors so far.
    pub errors: u64,
    /// Warnings so far.
    pub warnings: u64,
}

/// The ending of a file or folder name that switches in-batch negatives off in same-dataset mode.
pub const NO_IN_BATCH_NEG: &str = "no_in_batch_neg";

/// What a file is called and what its name and folder say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRole {
    /// Its path, for messages.
    pub name: String,
    /// Which entry of `train_data` it belongs to.
    pub argument: usize,
    /// Whether it came out of a folder.
    pub from_folder: bool,
    /// Whether it is marked as using no in-batch negatives.
    pub no_in_batch_neg: bool,
}

/// A validation under way.
///
/// ```
/// use bge_core::data::session::{FileRole, ValidationOptions, ValidationSession};
///
/// let mut session = ValidationSession::new(ValidationOptions::default())?;
/// session.start_file(FileRole { name: "train.jsonl".into(), ..FileRole::default() });
/// session.push(br#"{"query": "what melts ice?", "pos": ["Salt does."], "neg": [""#);
/// session.push(br#"Ice is cold."]}"#);
/// let report = session.finish();
/// assert_eq!(report.rows, 1);
/// assert!(!report.has_errors());
/// # Ok::<(), bge_core::Error>(())
/// ```
pub struct ValidationSession<'t> {
    splitter: LineSplitter,
    open: bool,
    state: State<'t>,
}

impl fmt::Debug for ValidationSession<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidationSession")
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

impl<'t> ValidationSession<'t> {
    /// Starts; an instruction format that cannot be used is an error.
    pub fn new(options: ValidationOptions) -> Result<Self> {
        let instructions = Instructions::for_module(options.module, &options.data)?;
        let most = options.max_fingerprints;
        let texts = |max_tokens| TextReport {
            max_tokens,
            ..TextReport::default()
        };
        Ok(Self {
            splitter: LineSplitter::new(options.max_line_bytes),
            open: false,
            state: State {
                mode: Mode {
                    distillation: options.data.knowledge_distillation,
                    same_dataset: options.data.same_dataset_within_batch,
                },
                instructions,
                counter: None,
                evaluation: None,
                leaks: LeakReport::default(),
                log: IssueLog::new(options.max_issues_per_code),
                done: Vec::new(),
                file: FileReport::default(),
                rows: 0,
                queries: Seen::new(most),
                passages: Seen::new(most),
                positives: Seen::new(most),
                query_texts: texts(options.data.query_max_len),
                positive_texts: texts(options.data.passage_max_len),
                negative_texts: texts(options.data.passage_max_len),
                replacement: State::replacement(),
                measured: (Vec::new(), Vec::new()),
                scratch: Default::default(),
                options,
            },
        })
    }

    /// Also counts tokens, with instruction.
    #[must_use]
    pub fn with_token_counter(mut self, counter: TokenCounter<'t>) -> Self {
        self.state.counter = Some(counter);
        self
    }

    /// Also looks for texts of evaluation data.
    #[must_use]
    pub fn with_evaluation(mut self, texts: EvaluationTexts) -> Self {
        self.state.leaks.queries = texts.queries.len() as u64;
        self.state.leaks.passages = texts.passages.len() as u64;
        self.state.evaluation = Some(texts);
        self
    }

    /// Ends the file before and starts the next one.
    pub fn start_file(&mut self, role: FileRole) {
        self.end_file();
        self.open = true;
        if self.state.mode.same_dataset {
            self.state.positives.clear();
        }
        self.state.file = FileReport {
            name: role.name,
            argument: role.argument,
            from_folder: role.from_folder,
            no_in_batch_neg: role.no_in_batch_neg,
            ..FileReport::default()
        };
    }

    /// Takes the next bytes of the file, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.open {
            self.start_file(FileRole {
                name: "input".into(),
                ..FileRole::default()
            });
        }
        let Self { splitter, state, .. } = self;
        splitter.push(bytes, |found| state.take(found));
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let log = &self.state.log;
        Progress {
            bytes: self.state.done.iter().map(|file| file.bytes).sum::<u64>() + self.splitter.bytes(),
            rows: self.state.rows,
            errors: log.count(Severity::Error),
            warnings: log.count(Severity::Warning),
        }
    }

    fn end_file(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let Self { splitter, state, .. } = self;
        splitter.finish(|found| state.take(found));
        let ended = std::mem::replace(splitter, LineSplitter::new(state.options.max_line_bytes));
        state.end_file(&ended);
    }

    /// Ends the last file and draws the conclusions.
    pub fn finish(mut self) -> DatasetReport {
        self.end_file();
        let state = self.state;
        let mut report = DatasetReport {
            verdict: Verdict::Ready,
            rows: state.rows,
            bytes: state.done.iter().map(|file| file.bytes).sum(),
            files: state.done,
            queries: state.query_texts,
            positives: state.positive_texts,
            negatives: state.negative_texts,
            distinct_queries: state.queries.len() as u64,
            distinct_passages: state.passages.len() as u64,
            duplicates_bounded: state.queries.is_full()
                || state.passages.is_full()
                || state.positives.is_full(),
            shared_positive_share: 0.0,
            evaluation: state.evaluation.map(|_| state.leaks),
            training: Outlook::default(),
            issues: Vec::new(),
            log: state.log,
            options: state.options,
        };
        report.conclude();
        report
    }
}
