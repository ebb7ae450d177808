//! `bge split --by_length`: a file for each range of lengths, as FlagEmbedding's `split_data_by_length.py` writes them.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};

use super::Watch;
use super::input::Inputs;
use super::output::Maybe;
use crate::config::{Checked, SplitConfig};
use crate::data::length::{ByLength, LengthReport, LengthSplit};
use crate::data::source::find_packed_too;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files::MadeFolders;
use crate::issue::Issue;

/// Counts the tokens of texts, special ones included, nothing cut off.
pub type CountTokens<'a> = &'a dyn Fn(&[&str]) -> Vec<usize>;

/// The line of a file in upstream's log, and under upstream's names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogLine {
    /// The name of the input file.
    pub file_name: String,
    /// Its rows.
    pub size: u64,
    /// The mean over its rows of the length of the longest text.
    pub avg_length: f64,
    /// Where it is.
    pub file_path: String,
    /// When it was begun, in UTC: `2026-01-31 23:59:59`.
    pub start_time: String,
    /// When it was done.
    pub end_time: String,
    /// The rows of each range.
    pub split_info: Map<String, Value>,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LengthFile {
    /// What the log says.
    #[serde(flatten)]
    pub log: LogLine,
    /// The files that were written.
    pub written: Vec<PathBuf>,
    /// The files that exist and were left as they are.
    pub skipped: Vec<PathBuf>,
    /// Rows that are shorter than the first length.
    pub below: u64,
    /// Rows that cannot be read.
    pub unreadable: u64,
    /// Places where an array is damaged.
    pub broken_arrays: u64,
    /// Where these are, if there are any.
    pub quarantine_file: Option<PathBuf>,
}

/// Splits each file by the length of its rows' longest text, and adds a line for each to the log.
///
/// Files get their names when all are split. One whose name is taken is left as it is unless it may be replaced. The findings are about files that were not read.
pub fn split_by_length(
    config: &Checked<SplitConfig>,
    count: CountTokens<'_>,
    watch: Watch<'_>,
) -> Result<(Vec<LengthFile>, Vec<Issue>)> {
    let split = &config.split;
    let Some(folder) = split.output_dir.as_deref().map(Path::new) else {
        bail!(InvalidConfig, "a split by length needs `output_dir`");
    };
    if folder.is_file() {
        let message = "this is a file; output_dir must be a folder";
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_path(folder)
            .with_field("output_dir"));
    }
    let sources = find_packed_too(&split.input_path)?;
    let files: Vec<PathBuf> = sources.files.into_iter().map(|file| file.path).collect();
    let stems = stems(&files)?;
    let lengths: Vec<u64> = split.length_list.iter().map(|&length| length as u64).collect();
    let log = folder.join(split.log_name.trim());
    let _made = MadeFolders::around(&log)?;
    let mut inputs = Inputs::new(&files, 1, watch);
    let mut parted = Vec::new();
    for (path, stem) in files.iter().zip(&stems) {
        parted.push(split_file(
            path,
            &folder.join(stem),
            &lengths,
            split.overwrite,
            count,
            &mut inputs,
        )?);
    }
    let is_empty = |parted: &Parted| parted.file.log.size + parted.file.unreadable == 0;
    if parted.iter().all(is_empty) {
        return Err(Error::new(ErrorKind::InvalidData, "the input has no rows"));
    }
    let done = parted.into_iter().map(Parted::finish);
    let done = done.collect::<Result<Vec<LengthFile>>>()?;
    append(&log, &done)?;
    Ok((done, sources.notes))
}

fn split_file(
    path: &Path,
    output: &Path,
    lengths: &[u64],
    overwrite: bool,
    count: CountTokens<'_>,
    inputs: &mut Inputs<'_>,
) -> Result<Parted> {
    let start_time = now();
    let mut work = LengthSplit::new(lengths, Some(Box::new(count)))?;
    let stem = output.file_name().unwrap_or_default().to_string_lossy();
    let place = |name: String| output.with_file_name(name);
    let places = work
        .report()
        .buckets
        .iter()
        .map(|bucket| place(bucket.file_name(&stem)));
    let mut ranges: Vec<Target> = places.map(|place| Target::new(place, overwrite)).collect();
    let mut aside = Target::new(place(format!("{stem}.quarantine")), overwrite);
    let mut out = ByLength::default();
    let mut drain = |out: &mut ByLength| {
        for (file, bytes) in ranges.iter_mut().zip(&mut out.buckets) {
            file.drain(bytes)?;
        }
        aside.drain(&mut out.quarantine)
    };
    work.start_file(&path.display().to_string(), &mut out);
    inputs.read(path, |bytes| {
        work.push(bytes, &mut out);
        drain(&mut out)
    })?;
    let report = work.finish(&mut out);
    drain(&mut out)?;
    // Many inputs have more files than a process may hold open.
    for target in ranges.iter_mut().chain([&mut aside]) {
        if let Target::New(file) = target {
            file.close()?;
        }
    }
    Ok(Parted {
        file: LengthFile {
            log: log_line(path, &report, start_time),
            written: Vec::new(),
            skipped: Vec::new(),
            below: report.below,
            unreadable: report.unreadable,
            broken_arrays: report.broken_arrays,
            quarantine_file: None,
        },
        ranges,
        aside,
    })
}

/// A file that was split, and what gets its name only when all of them were.
struct Parted {
    file: LengthFile,
    ranges: Vec<Target>,
    aside: Target,
}

impl Parted {
    fn finish(self) -> Result<LengthFile> {
        let mut file = self.file;
        for range in self.ranges {
            match range {
                Target::New(range) => file.written.extend(range.finish()?),
                Target::Skipped(place) => file.skipped.push(place),
            }
        }
        file.quarantine_file = match self.aside {
            Target::New(aside) => aside.finish()?,
            Target::Skipped(place) => Some(place),
        };
        Ok(file)
    }
}

/// A file to write, or one that is there and stays.
enum Target {
    New(Maybe),
    Skipped(PathBuf),
}

impl Target {
    fn new(place: PathBuf, overwrite: bool) -> Self {
        if place.exists() && !overwrite {
            Self::Skipped(place)
        } else {
            Self::New(Maybe::new(place))
        }
    }

    fn drain(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::New(file) => file.drain(bytes),
            Self::Skipped(_) => {
                bytes.clear();
                Ok(())
            }
        }
    }
}

fn log_line(path: &Path, report: &LengthReport, start_time: String) -> LogLine {
    let buckets = report.buckets.iter();
    LogLine {
        file_name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        size: report.rows,
        avg_length: report.mean_length(),
        file_path: path.display().to_string(),
        start_time,
        end_time: now(),
        split_info: buckets
            .map(|bucket| (bucket.label(), bucket.rows.into()))
            .collect(),
    }
}

/// The names of the files without their ending; two that are the same would write to one place.
fn stems(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut seen: BTreeMap<String, &Path> = BTreeMap::new();
    let mut stems = Vec::with_capacity(files.len());
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let packed = super::input::is_packed(file);
        let bare = name.get(..name.len() - 3 * usize::from(packed)).unwrap_or(&name);
        let stem = bare.rsplit_once('.').map_or(bare, |(stem, _)| stem).to_owned();
        if let Some(other) = seen.insert(stem.clone(), file) {
            let message = format!(
                "its ranges would have the names of those of {}; split the two one by one into different folders",
                other.display()
            );
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_path(file)
                .with_field("input_path"));
        }
        stems.push(stem);
    }
    Ok(stems)
}

fn append(place: &Path, files: &[LengthFile]) -> Result<()> {
    let mut lines = Vec::new();
    for file in files {
        let line = serde_json::to_string(&file.log).map_err(|error| {
            Error::new(ErrorKind::Internal, "a line of the log cannot be written").with_source(error)
        })?;
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
    }
    let log = OpenOptions::new().append(true).create(true).open(place);
    log.and_then(|mut log| log.write_all(&lines))
        .map_err(|error| Error::io(place, "write the log", error))
}

/// The time in UTC, as upstream writes it.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time_text(since.as_secs())
}

/// Seconds since 1970 as a date and a time.
fn time_text(seconds: u64) -> String {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "{year:04}-{month:02}-{:02} {:02}:{:02}:{:02}",
        days + 1,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_people_write_it() {
        // Seconds as `date -u +%s` gives them.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_868_799, "2000-02-29 23:59:59"),
            (1_767_225_599, "2025-12-31 23:59:59"),
            (1_709_164_800, "2024-02-29 00:00:00"),
        ] {
            assert_eq!(time_text(seconds), text);
        }
    }

    #[test]
    fn two_files_of_one_stem_are_refused() {
        let files = |names: &[&str]| -> Vec<PathBuf> { names.iter().map(PathBuf::from).collect() };
        assert_eq!(
            stems(&files(&["a/x.y.jsonl", "b.json.gz", "c.JSONL"])).unwrap(),
            ["x.y", "b", "c"]
        );
        let error = stems(&files(&["a/x.jsonl", "b/x.jsonl.gz"])).unwrap_err();
        assert!(error.to_string().contains("a/x.jsonl"), "{error}");
    }
}
