//! Validation of files on disk: what `bge validate` does, and the trainer before it starts.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::beir::{parse_judgment, parse_text};
use super::beir_folder::BeirFiles;
use super::leaks::EvaluationTexts;
use super::report::DatasetReport;
use super::session::{FileRole, Progress, TokenCounter, ValidationOptions, ValidationSession};
use super::source::{DataFile, find};
use super::text_lines::for_each_line;
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

impl EvaluationTexts {
    /// Reads the queries of a split that have a relevant document, and all documents, of a folder that `bge evaluate` reads
    /// (BEIR's layout or FlagEmbedding's; each file also as `.gz` in builds that can unpack).
    pub fn read(folder: &Path, split: &str) -> Result<Self> {
        let files = BeirFiles::locate(folder, split)?;
        let mut judged = BTreeSet::new();
        let mut first = true;
        each_line(&files.judgments, |line| {
            if let Some((query, _, score)) = parse_judgment(line, std::mem::take(&mut first))?
                && score > 0.0
            {
                judged.insert(query);
            }
            Ok(())
        })?;
        let mut texts = Self::default();
        each_line(&files.queries, |line| {
            let (id, text) = parse_text(line, false)?;
            if judged.contains(&id) {
                texts.add_query(&text);
            }
            Ok(())
        })?;
        if texts.queries.is_empty() {
            let message = format!(
                "no query that is judged with a score above 0 has a text in {}; are the ids the same?",
                files.queries.display()
            );
            return Err(Error::new(ErrorKind::InvalidData, message).with_path(files.judgments));
        }
        each_line(&files.corpus, |line| {
            let (_, text) = parse_text(line, true)?;
            texts.add_passage(&text);
            Ok(())
        })?;
        Ok(texts)
    }
}

/// Calls `take` with each line that is not blank, and says where one is bad.
fn each_line(path: &Path, mut take: impl FnMut(&str) -> Result<(), String>) -> Result<()> {
    for_each_line(path, |number, line| {
        let bad = |message| Error::new(ErrorKind::InvalidData, message);
        take(line).map_err(|message| bad(message).with_path(path).with_line(number))
    })
}
