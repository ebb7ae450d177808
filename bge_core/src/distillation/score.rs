//! Scoring a file: read in blocks, kept block by block beside the output, written whole at the end.

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::records::{Record, Records};
use super::row::{Row, Shape};
use super::teacher::{OpenedTeacher, open_teacher, settings_key};
use super::work::{Block, Work};
use crate::config::{RerankArguments, RerankConfig, ScoreConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{self, Digest};
use crate::inference::refuse_llm_class;
use crate::issue::Issue;
use crate::models::{fingerprint, hub};

/// A block ends with the row that reaches this many pairs,
const BLOCK_PAIRS: usize = 512;
/// or this many bytes of input.
const BLOCK_BYTES: usize = 1 << 19;
/// Pairs whose scores are remembered, so that the same pair is not scored twice: about 50 MB.
const REMEMBERED: usize = 1 << 20;

/// What happens while a file is scored.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScoreEvent<'a> {
    /// Something was assumed or is worth a look.
    Note(&'a Issue),
    /// The input is sound, and the work begins.
    Begin {
        /// Rows of the input.
        rows: u64,
        /// Pairs of all rows.
        pairs: u64,
        /// Pairs that an interrupted run has scored already.
        resumed: u64,
    },
    /// So many pairs are done, resumed and repeated ones included.
    Scored {
        /// Pairs done.
        done: u64,
        /// Pairs of all rows.
        pairs: u64,
    },
}

/// What came out of scoring a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScoreReport {
    /// The file that was written.
    pub output_file: PathBuf,
    /// The kind of teacher: `encoder-only-base` or `embedder`.
    pub teacher: &'static str,
    /// Its rows.
    pub rows: u64,
    /// Pairs of all rows.
    pub pairs: u64,
    /// Pairs that went through the model in this run.
    pub scored: u64,
    /// Pairs that an interrupted run had scored.
    pub resumed: u64,
}

/// Adds a teacher's scores to training rows: `pos_scores` and `neg_scores` (`scripts/add_reranker_score.py`).
///
/// Every other byte of a row stays as it is; older scores are replaced. The input may be larger than memory and is
/// checked before anything is scored; the first bad row is an error with its line. Finished blocks are kept in `.NAME.scores`
/// beside the output, so that the same call after a crash goes on and ends with the same bytes; the side file belongs
/// to the content of input, model and settings, and goes when the output is complete. `progress` may stop the run with `Break`, which is
/// the error `Cancelled`.
pub fn score_file(
    config: &ScoreConfig,
    progress: impl FnMut(ScoreEvent<'_>) -> ControlFlow<()>,
) -> Result<ScoreReport> {
    let files = (
        Path::new(&config.files.input_file),
        Path::new(&config.files.output_file),
    );
    Job::new(&config.rerank, Shape::Training, files, progress)?.run()
}

/// Adds `score` to lines of `query` and `passage`; otherwise as [`score_file`].
pub fn rerank_file(
    config: &RerankConfig,
    progress: impl FnMut(ScoreEvent<'_>) -> ControlFlow<()>,
) -> Result<ScoreReport> {
    let files = (
        Path::new(&config.files.input_file),
        Path::new(&config.files.output_file),
    );
    Job::new(&config.rerank, Shape::Pair, files, progress)?.run()
}

struct Job<'a, P> {
    input: &'a Path,
    output: &'a Path,
    shape: Shape,
    teacher: OpenedTeacher,
    /// Content key of model and settings.
    key: Digest,
    progress: P,
    memory: HashMap<[u8; 16], f32>,
    rows: u64,
    pairs: u64,
    scored: u64,
    resumed: u64,
}

impl<'a, P: FnMut(ScoreEvent<'_>) -> ControlFlow<()>> Job<'a, P> {
    fn new(
        arguments: &RerankArguments,
        shape: Shape,
        (input, output): (&'a Path, &'a Path),
        mut progress: P,
    ) -> Result<Self> {
        check_places(input, output)?;
        refuse_llm_class(arguments)?;
        let options = hub::HubOptions::new(arguments.cache_dir.as_ref(), arguments.token.as_ref());
        let folder = hub::resolve_model(&arguments.reranker_name_or_path, &options)?;
        let teacher = open_teacher(&folder, arguments)?;
        for note in &teacher.notes {
            if progress(ScoreEvent::Note(note)).is_break() {
                return Err(stopped(0, None));
            }
        }
        let mut key = Digest::default();
        key.add(env!("CARGO_PKG_VERSION").as_bytes())
            .add(format!("{shape:?} {BLOCK_PAIRS} {BLOCK_BYTES}").as_bytes())
            .add(fingerprint(&folder)?.as_bytes())
            .add(settings_key(arguments, teacher.class, &folder)?.as_bytes());
        Ok(Self {
            input,
            output,
            shape,
            teacher,
            key,
            progress,
            memory: HashMap::new(),
            rows: 0,
            pairs: 0,
            scored: 0,
            resumed: 0,
        })
    }

    fn run(mut self) -> Result<ScoreReport> {
        self.survey()?;
        self.key.add_file(self.input)?;
        let mut work = Work::open(self.output, self.key.finish())?;
        files::remove_leftovers(self.output)?;
        match self.score(&mut work).and_then(|()| self.write(&work)) {
            Ok(()) => work.remove()?,
            Err(error) => {
                work.give_up();
                return Err(error);
            }
        }
        Ok(ScoreReport {
            output_file: self.output.to_path_buf(),
            teacher: self.teacher.class,
            rows: self.rows,
            pairs: self.pairs,
            scored: self.scored,
            resumed: self.resumed,
        })
    }

    /// Checks every row and counts.
    fn survey(&mut self) -> Result<()> {
        let mut records = Records::open(self.input)?;
        while let Some(record) = records.next()? {
            self.rows += 1;
            self.pairs += self.parse(&record)?.passages.len() as u64;
        }
        if self.rows == 0 {
            let message = "there are no rows in this file";
            return Err(Error::new(ErrorKind::InvalidData, message).with_path(self.input));
        }
        Ok(())
    }

    fn parse(&self, (line, bytes): &Record) -> Result<Row> {
        Row::parse(bytes, self.shape).map_err(|error| error.with_path(self.input).with_line(*line))
    }

    /// Brings the side file up to the end of the input.
    fn score(&mut self, work: &mut Work) -> Result<()> {
        let finished: u64 = work.reader()?.map(|block| block.scores.len() as u64).sum();
        self.resumed = finished;
        let begin = ScoreEvent::Begin {
            rows: self.rows,
            pairs: self.pairs,
            resumed: finished,
        };
        if (self.progress)(begin).is_break() {
            return Err(stopped(finished, Some(self.output)));
        }
        let mut earlier = work.reader()?;
        let mut records = Records::open(self.input)?;
        let mut done = 0;
        while let Some(rows) = self.block(&mut records)? {
            if let Some(block) = earlier.next() {
                if !fits(&block, &rows) {
                    return Err(self.changed());
                }
                for (pair, &score) in pairs(&rows).zip(&block.scores) {
                    self.remember(pair_key(pair), score);
                }
                done += block.scores.len() as u64;
                continue;
            }
            let (scores, stop) = self.score_block(&rows, done)?;
            done += scores.len() as u64;
            work.append(&Block {
                rows: rows.len() as u32,
                scores,
            })?;
            if stop {
                return Err(stopped(done, Some(self.output)));
            }
        }
        Ok(())
    }

    /// The rows of the next block; none at the end.
    fn block(&self, records: &mut Records) -> Result<Option<Vec<Row>>> {
        let mut rows = Vec::new();
        let (mut pairs, mut bytes) = (0, 0);
        while pairs < BLOCK_PAIRS && bytes < BLOCK_BYTES {
            let Some(record) = records.next()? else {
                break;
            };
            bytes += record.1.len();
            let row = self.parse(&record)?;
            pairs += row.passages.len();
            rows.push(row);
        }
        Ok((!rows.is_empty()).then_some(rows))
    }

    /// The scores of a block's pairs in order, and whether the caller wants to stop.
    fn score_block(&mut self, rows: &[Row], before: u64) -> Result<(Vec<f32>, bool)> {
        let keys: Vec<[u8; 16]> = pairs(rows).map(pair_key).collect();
        let mut fresh: HashMap<[u8; 16], usize> = HashMap::new();
        let mut asked = Vec::new();
        for (pair, key) in pairs(rows).zip(&keys) {
            if !self.memory.contains_key(key) && !fresh.contains_key(key) {
                fresh.insert(*key, asked.len());
                asked.push(pair);
            }
        }
        let (mut stop, total) = (false, self.pairs);
        let progress = &mut self.progress;
        let mut answered = Vec::new();
        if !asked.is_empty() {
            let known = (keys.len() - asked.len()) as u64;
            answered = self.teacher.teacher.scores(&asked, &mut |done| {
                let done = before + known + done as u64;
                stop |= progress(ScoreEvent::Scored { done, pairs: total }).is_break();
            })?;
        }
        self.scored += asked.len() as u64;
        let mut scores = Vec::with_capacity(keys.len());
        for key in &keys {
            let fresh = fresh.get(key).and_then(|&at| answered.get(at));
            let score = fresh.or_else(|| self.memory.get(key)).copied();
            scores.push(score.unwrap_or(f32::NAN));
        }
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            let query = pairs(rows).nth(at).map_or("", |pair| pair.0);
            let shown: String = query.chars().take(60).collect();
            let message = format!("the teacher's score for the query {shown:?} is not a finite number");
            return Err(Error::new(ErrorKind::NotFinite, message).with_path(self.input));
        }
        for (key, &score) in keys.into_iter().zip(&scores) {
            self.remember(key, score);
        }
        Ok((scores, stop))
    }

    fn remember(&mut self, key: [u8; 16], score: f32) {
        if self.memory.len() >= REMEMBERED {
            self.memory.clear();
        }
        self.memory.insert(key, score);
    }

    /// Writes the output from input and side file.
    fn write(&self, work: &Work) -> Result<()> {
        let mut failure = None;
        let name = self.output.file_name().unwrap_or_default().to_string_lossy();
        let beside = self.output.with_file_name(format!(".{name}.scores.part"));
        let written = files::write_beside(&beside, self.output, |file| {
            let mut copy = || -> Result<()> {
                let mut records = Records::open(self.input)?;
                for block in work.reader()? {
                    let mut scores = block.scores.as_slice();
                    for _ in 0..block.rows {
                        let record = records.next()?.ok_or_else(|| self.changed())?;
                        let row = self.parse(&record)?;
                        let own = scores.split_at_checked(row.passages.len());
                        let (own, rest) = own.ok_or_else(|| self.changed())?;
                        scores = rest;
                        let line = row.with_scores(&record.1, own, self.shape)?;
                        writeln!(file, "{line}")
                            .map_err(|error| Error::io(self.output, "write this file", error))?;
                    }
                }
                match records.next()? {
                    Some(_) => Err(self.changed()),
                    None => Ok(()),
                }
            };
            copy().map_err(|error| {
                failure = Some(error);
                std::io::Error::other("the rows could not be written")
            })
        });
        match failure {
            Some(error) => Err(error),
            None => written,
        }
    }

    fn changed(&self) -> Error {
        let message = "the file changed while it was scored; run again";
        Error::new(ErrorKind::InvalidData, message).with_path(self.input)
    }
}

/// The pairs of rows in order.
fn pairs(rows: &[Row]) -> impl Iterator<Item = (&str, &str)> {
    rows.iter().flat_map(|row| {
        row.passages
            .iter()
            .map(|passage| (row.query.as_str(), passage.as_str()))
    })
}

fn fits(block: &Block, rows: &[Row]) -> bool {
    block.rows as usize == rows.len() && block.scores.len() == pairs(rows).count()
}

/// 128 bits of a pair's content hash.
fn pair_key((query, passage): (&str, &str)) -> [u8; 16] {
    let mut digest = Digest::default();
    digest.add(query.as_bytes()).add(passage.as_bytes());
    digest.short()
}

fn stopped(done: u64, output: Option<&Path>) -> Error {
    let message = format!("stopped after {done} pairs; the same command goes on from there");
    let error = Error::new(ErrorKind::Cancelled, message);
    match output {
        Some(output) => error.with_path(output),
        None => error,
    }
}

/// Refuses outputs that cannot be written, before any work.
fn check_places(input: &Path, output: &Path) -> Result<()> {
    let bad = |message: &str| {
        Error::new(ErrorKind::InvalidConfig, message)
            .with_path(output)
            .with_field("output_file")
    };
    if output.is_dir() {
        return Err(bad("this is a folder, not a file"));
    }
    if output.file_name().is_none() {
        return Err(bad("this is not the name of a file"));
    }
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    if parent.is_some_and(|parent| !parent.is_dir()) {
        return Err(bad("there is no such folder to write into"));
    }
    if let (Ok(input), Ok(output)) = (input.canonicalize(), output.canonicalize())
        && input == output
    {
        return Err(bad(
            "it is the input file, which would be overwritten; give another name",
        ));
    }
    Ok(())
}
