//! Validation of files on disk: what `bge validate` does, and the trainer before it starts.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::leaks::EvaluationTexts;
use super::report::DatasetReport;
use super::session::{FileRole, Progress, TokenCounter, ValidationOptions, ValidationSession};
use super::source::{DataFile, find};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read at once, which stay in the processor's cache; progress is reported as often.
const CHUNK: usize = 128 << 10;

/// How far a validation of files is.
#[derive(Clone, Copy, Debug)]
pub struct FileProgress<'a> {
    /// What was found so far.
    pub progress: Progress,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// The file being read.
    pub path: &'a Path,
}

/// Validates `options.data.train_data` in one pass and, if `options.data.eval_dataset` is given, compares with it.
///
/// `progress` is called after each 128 KiB; `false` stops with [`ErrorKind::Cancelled`].
pub fn validate_files(
    options: ValidationOptions,
    counter: Option<TokenCounter<'_>>,
    mut progress: impl FnMut(FileProgress<'_>) -> bool,
) -> Result<DatasetReport> {
    let sources = find(&options.data.train_data)?;
    let evaluation = match &options.data.eval_dataset {
        Some(folder) => Some(EvaluationTexts::read(
            Path::new(folder),
            &options.data.eval_split,
        )?),
        None => None,
    };
    let mut session = ValidationSession::new(options)?;
    if let Some(counter) = counter {
        session = session.with_token_counter(counter);
    }
    if let Some(texts) = evaluation {
        session = session.with_evaluation(texts);
    }
    let size = |file: &DataFile| std::fs::metadata(&file.path).map_or(0, |metadata| metadata.len());
    let total_bytes = sources.files.iter().map(size).sum();
    let mut chunk = vec![0; CHUNK];
    for file in &sources.files {
        session.start_file(FileRole {
            name: file.path.display().to_string(),
            argument: file.argument,
            from_folder: file.from_folder,
            no_in_batch_neg: file.no_in_batch_neg,
        });
        let fail = |error| Error::io(&file.path, "read training data", error);
        let mut reader = File::open(&file.path).map_err(fail)?;
        loop {
            let read = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fail(error)),
            };
            session.push(chunk.get(..read).unwrap_or_default());
            if !progress(FileProgress {
                progress: session.progress(),
                total_bytes,
                path: &file.path,
            }) {
                return Err(Error::new(ErrorKind::Cancelled, "the validation was stopped"));
            }
        }
    }
    let mut report = session.finish();
    report.add_issues(sources.notes);
    Ok(report)
}

/// A line of `corpus.jsonl` or `queries.jsonl`.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "_id", alias = "id")]
    id: serde_json::Value,
    #[serde(default)]
    title: String,
    text: String,
}

impl EvaluationTexts {
    /// Reads the judged queries of a split and all documents of a folder in BEIR's layout (`corpus.jsonl`, `queries.jsonl`,
    /// `qrels/SPLIT.tsv`, each also as `.gz` in builds that can unpack).
    pub fn read(folder: &Path, split: &str) -> Result<Self> {
        let mut judged = BTreeSet::new();
        each_line(&folder.join("qrels").join(format!("{split}.tsv")), |line| {
            judged.extend(line.split('\t').next().map(str::to_owned));
            Ok(())
        })?;
        let parse = |line: &str| {
            serde_json::from_str::<Document>(line).map_err(|error| {
                Error::new(ErrorKind::InvalidData, "is not a document with `_id` and `text`")
                    .with_source(error)
            })
        };
        let mut texts = Self::default();
        each_line(&folder.join("queries.jsonl"), |line| {
            let query = parse(line)?;
            let id = query
                .id
                .as_str()
                .map_or_else(|| query.id.to_string(), str::to_owned);
            if judged.contains(&id) {
                texts.add_query(&query.text);
            }
            Ok(())
        })?;
        each_line(&folder.join("corpus.jsonl"), |line| {
            let document = parse(line)?;
            texts.add_passage(format!("{} {}", document.title, document.text).trim());
            Ok(())
        })?;
        Ok(texts)
    }
}

/// Calls `take` with each line that is not blank; its errors get path and line.
fn each_line(path: &Path, mut take: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let (path, mut reader) = open(path)?;
    let mut line = String::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let read = reader
            .read_line(&mut line)
            .map_err(|error| Error::io(&path, "read evaluation data", error).with_line(number))?;
        if read == 0 {
            return Ok(());
        }
        let line = line.trim_start_matches('\u{feff}').trim();
        if !line.is_empty() {
            take(line).map_err(|error| error.with_path(&path).with_line(number))?;
        }
    }
}

fn open(path: &Path) -> Result<(PathBuf, Box<dyn BufRead>)> {
    let fail = |error| Error::io(path, "open evaluation data", error);
    #[cfg(feature = "model")]
    if !path.exists() {
        let mut packed = path.as_os_str().to_owned();
        packed.push(".gz");
        if let Ok(file) = File::open(&packed) {
            return Ok((
                packed.into(),
                Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
            ));
        }
    }
    Ok((
        path.to_path_buf(),
        Box::new(BufReader::new(File::open(path).map_err(fail)?)),
    ))
}
