//! Which files `train_data` means: files and the direct children of folders, in sorted order.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::codes;
use super::session::NO_IN_BATCH_NEG;
use crate::error::{Error, ErrorKind, Result};
use crate::issue::{Issue, Severity};

/// One file of training data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// Which entry of `train_data` named it or its folder, counted from 0.
    pub argument: usize,
    /// Whether it came out of a folder.
    pub from_folder: bool,
    /// Whether its name, or its folder's, switches in-batch negatives off.
    pub no_in_batch_neg: bool,
}

/// The files that `train_data` means, and what is to be said about those it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The files: order of the arguments, inside a folder by name.
    pub files: Vec<DataFile>,
    /// Ignored files, files read twice, markers without effect.
    pub notes: Vec<Issue>,
}

/// Finds the files of `train_data`.
///
/// A missing path, a file that is not `.json` or `.jsonl`, and a folder without such files are errors.
pub fn find(train_data: &[String]) -> Result<Sources> {
    collect(train_data, "train_data", &is_data)
}

/// As [`find`] for a command that reads once from front to back: files may be packed, as `.json.gz` and `.jsonl.gz`.
#[cfg(feature = "model")]
pub(super) fn find_packed_too(input_path: &[String]) -> Result<Sources> {
    collect(input_path, "input_path", &|path| {
        let packed = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gz"));
        is_data(path) || packed && is_data(&path.with_extension(""))
    })
}

/// Whether a file is data, by its name.
type IsData<'a> = &'a dyn Fn(&Path) -> bool;

fn collect(names: &[String], setting: &str, is_data: IsData<'_>) -> Result<Sources> {
    if names.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "no training data is given; name files or folders",
        )
        .with_field(setting));
    }
    let mut sources = Sources::default();
    for (argument, name) in names.iter().enumerate() {
        let path = Path::new(name);
        let metadata = fs::metadata(path).map_err(|error| Error::io(path, "open training data", error))?;
        if metadata.is_dir() {
            sources.add_folder(path, argument, is_data)?;
        } else {
            sources.add_file(path, argument, &metadata, is_data)?;
        }
    }
    sources.note_repeated();
    Ok(sources)
}

impl Sources {
    fn add_file(
        &mut self,
        path: &Path,
        argument: usize,
        metadata: &fs::Metadata,
        is_data: IsData<'_>,
    ) -> Result<()> {
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidData, "is neither a file nor a folder").with_path(path));
        }
        if !is_data(path) {
            return Err(refusal(path));
        }
        let no_in_batch_neg = is_marked(path.file_stem());
        if !no_in_batch_neg && is_marked(path.parent().and_then(Path::file_name)) {
            self.notes.push(
                Issue::new(
                    codes::MARKER_IGNORED,
                    Severity::Info,
                    format!("the folder's marker {NO_IN_BATCH_NEG} does not count for a file named alone; name the folder"),
                )
                .in_file(path.display().to_string()),
            );
        }
        self.files.push(DataFile {
            path: path.to_path_buf(),
            argument,
            from_folder: false,
            no_in_batch_neg,
        });
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path, argument: usize, is_data: IsData<'_>) -> Result<()> {
        let list = |error| Error::io(folder, "list the folder", error);
        let mut children = Vec::new();
        for child in fs::read_dir(folder).map_err(list)? {
            children.push(child.map_err(list)?.path());
        }
        children.sort();
        let marked = is_marked(folder.file_name());
        let before = self.files.len();
        let mut ignored = Vec::new();
        for path in children {
            // A link that leads nowhere is an error only if its name says it is data.
            let is_file = match fs::metadata(&path) {
                Ok(metadata) => metadata.is_file(),
                Err(error) if is_data(&path) => return Err(Error::io(&path, "open training data", error)),
                Err(_) => false,
            };
            if is_file && is_data(&path) {
                let no_in_batch_neg = marked || is_marked(path.file_stem());
                self.files.push(DataFile {
                    path,
                    argument,
                    from_folder: true,
                    no_in_batch_neg,
                });
            } else {
                ignored.push(path);
            }
        }
        if self.files.len() == before {
            return Err(Error::new(
                ErrorKind::InvalidData,
                "the folder has no .json or .jsonl file directly in it",
            )
            .with_path(folder));
        }
        if !ignored.is_empty() {
            let names: Vec<_> = ignored
                .iter()
                .take(5)
                .filter_map(|path| path.file_name())
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            // A packed or renamed data file is probably missed.
            let named = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
            let missed = ignored
                .iter()
                .filter_map(named)
                .any(|name| name.contains(".json"));
            let severity = if missed { Severity::Warning } else { Severity::Info };
            let more = if ignored.len() > 5 { ", ..." } else { "" };
            self.notes.push(
                Issue::new(
                    codes::FILE_IGNORED,
                    severity,
                    format!(
                        "{} not read, only .json and .jsonl files are: {}{more}",
                        ignored.len(),
                        names.join(", ")
                    ),
                )
                .in_file(folder.display().to_string()),
            );
        }
        Ok(())
    }

    fn note_repeated(&mut self) {
        let mut seen = BTreeSet::new();
        for file in &self.files {
            let real = fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone());
            if !seen.insert(real) {
                self.notes.push(
                    Issue::new(
                        codes::FILE_REPEATED,
                        Severity::Warning,
                        "is named twice; its rows count twice in every epoch",
                    )
                    .in_file(file.path.display().to_string()),
                );
            }
        }
    }
}

/// Whether the name ends in `.json` or `.jsonl`.
fn is_data(path: &Path) -> bool {
    path.extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("json") || end.eq_ignore_ascii_case("jsonl"))
}

fn is_marked(name: Option<&std::ffi::OsStr>) -> bool {
    name.is_some_and(|name| name.to_string_lossy().ends_with(NO_IN_BATCH_NEG))
}

fn refusal(path: &Path) -> Error {
    let end = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    let advice = match end.as_str() {
        "gz" => "training data is read in place and cannot be compressed; unpack it with gunzip",
        "zst" | "bz2" | "xz" | "zip" => "training data is read in place and cannot be compressed; unpack it",
        "csv" | "tsv" => "make JSON lines of it with `bge convert`",
        "parquet" | "arrow" => "convert it to JSON lines with `query`, `pos` and `neg`",
        _ => "training data are .json or .jsonl files; rename it if it is JSON lines",
    };
    Error::new(ErrorKind::InvalidData, advice).with_path(path)
}
