//! `bge convert`: one file of training rows from what people have.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Watch;
use super::input::{Inputs, is_packed};
use super::output::{Maybe, guard, quarantine_of};
use crate::config::{Checked, ConvertArguments, ConvertConfig, ConvertFormat};
use crate::data::beir_folder::BeirFiles;
use crate::data::convert::{ColumnNames, ConvertOptions, ConvertReport, Converted, Converter, Role};
use crate::error::{Error, ErrorKind, Result};

/// What a conversion of files did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conversion {
    /// Rows and findings.
    #[serde(flatten)]
    pub report: ConvertReport,
    /// The files that were read, with what they were read as.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Where the rows are; `None` where a file could not be used or no row came out, and nothing was written.
    pub output_file: Option<PathBuf>,
    /// Where the records are that could not be used, if there are any.
    pub quarantine_file: Option<PathBuf>,
}

/// Converts files into one of training rows.
pub fn convert_files(config: &Checked<ConvertConfig>, watch: Watch<'_>) -> Result<Conversion> {
    let convert = &config.convert;
    let inputs = find(convert)?;
    let files: Vec<PathBuf> = inputs.iter().map(|(_, path)| path.clone()).collect();
    let output = Path::new(&convert.output_file);
    let aside = quarantine_of(&convert.output_file, convert.quarantine_file.as_deref());
    guard("output_file", output, &files, convert.overwrite)?;
    guard("quarantine_file", &aside, &files, convert.overwrite)?;
    let (mut rows, mut aside) = (Maybe::new(output.to_path_buf()), Maybe::new(aside));
    let mut converter = Converter::new(options(convert));
    let mut out = Converted::default();
    let mut drain = |out: &mut Converted| {
        rows.drain(&mut out.rows)?;
        aside.drain(&mut out.quarantine)
    };
    let mut reader = Inputs::new(&files, 1, watch);
    for (role, path) in &inputs {
        converter.start_file(&path.display().to_string(), *role, &mut out)?;
        reader.read(path, |bytes| {
            converter.push(bytes, &mut out);
            drain(&mut out)
        })?;
    }
    let report = converter.finish(&mut out);
    drain(&mut out)?;
    let mut done = Conversion {
        report,
        files: inputs
            .into_iter()
            .map(|(role, path)| (role.as_str(), path))
            .collect(),
        output_file: None,
        quarantine_file: None,
    };
    if done.report.written > 0 && !done.report.has_errors() {
        done.quarantine_file = aside.finish()?;
        done.output_file = rows.finish()?;
    }
    Ok(done)
}

fn options(convert: &ConvertArguments) -> ConvertOptions {
    ConvertOptions {
        group: convert.group,
        max_group_bytes: convert.group_megabytes.saturating_mul(1 << 20),
        columns: ColumnNames {
            query: convert.query_column.clone(),
            positives: convert.positive_columns.clone(),
            negatives: convert.negative_columns.clone(),
            score: convert.score_column.clone(),
        },
        quotes: convert.quotes,
        delimiter: (convert.input_format == ConvertFormat::Tsv).then_some(b'\t'),
        ..ConvertOptions::default()
    }
}

/// The files to read, in the order in which a conversion needs them, with what they hold.
fn find(convert: &ConvertArguments) -> Result<Vec<(Role, PathBuf)>> {
    let format = convert.input_format;
    let mut found = Vec::new();
    for name in &convert.input_path {
        let path = Path::new(name);
        let metadata =
            fs::metadata(path).map_err(|error| Error::io(path, "open what is converted", error))?;
        if !metadata.is_dir() {
            found.push((role(path, format)?, path.to_path_buf()));
        } else if format == ConvertFormat::Beir || format == ConvertFormat::Auto && is_beir(path) {
            if convert.input_path.len() > 1 {
                let message = "a BEIR folder is converted by itself: its ids would mix with those of another";
                return Err(Error::new(ErrorKind::InvalidConfig, message)
                    .with_path(path)
                    .with_field("input_path"));
            }
            let files = BeirFiles::locate(path, &convert.split)?;
            found.push((Role::Judgments, files.judgments));
            found.push((Role::Queries, files.queries));
            found.push((Role::Corpus, files.corpus));
        } else {
            found.extend(in_folder(path, format)?);
        }
    }
    let order = |role: Role| Role::ALL.iter().position(|one| *one == role);
    found.sort_by_key(|(role, _)| order(*role));
    Ok(found)
}

/// Whether a folder looks like one of BEIR's.
fn is_beir(folder: &Path) -> bool {
    let there = |name: &str| folder.join(name).exists();
    there("corpus.jsonl") || there("corpus.jsonl.gz") || there("qrels")
}

/// What a file holds that was named: what the format says, otherwise what its name says.
fn role(path: &Path, format: ConvertFormat) -> Result<Role> {
    let by_name = Role::of(&path.display().to_string());
    let problem = |message: &str| {
        Err(Error::new(ErrorKind::InvalidData, message)
            .with_path(path)
            .with_field("input_path"))
    };
    match (format, by_name) {
        (ConvertFormat::Csv | ConvertFormat::Tsv, _) => Ok(Role::Table),
        (ConvertFormat::SentenceTransformers, _) => Ok(Role::Rows),
        (ConvertFormat::Auto, Some(role))
        | (ConvertFormat::Beir, Some(role @ (Role::Judgments | Role::Queries | Role::Corpus))) => Ok(role),
        (ConvertFormat::Auto, None) => problem(
            "its name tells not what it is; it should end in .csv, .tsv, .json or .jsonl, each also with .gz behind it, or say \
             what it is with --format",
        ),
        (ConvertFormat::Beir, _) => problem(
            "this is no file of a BEIR folder by its name; name the folder with corpus.jsonl, queries.jsonl and qrels/",
        ),
    }
}

/// The tables and rows directly in a folder, in sorted order.
fn in_folder(folder: &Path, format: ConvertFormat) -> Result<Vec<(Role, PathBuf)>> {
    let list = |error| Error::io(folder, "list this folder", error);
    let mut children = Vec::new();
    for child in fs::read_dir(folder).map_err(list)? {
        children.push(child.map_err(list)?.path());
    }
    children.sort();
    let wanted = |path: &PathBuf| -> Option<(Role, PathBuf)> {
        let role = Role::of(&path.display().to_string())?;
        let bare = if is_packed(path) {
            path.with_extension("")
        } else {
            path.clone()
        };
        let tabs = bare
            .extension()
            .is_some_and(|end| !end.eq_ignore_ascii_case("csv"));
        let fits = match format {
            ConvertFormat::Csv => role == Role::Table && !tabs,
            ConvertFormat::Tsv => role == Role::Table && tabs,
            ConvertFormat::SentenceTransformers => role == Role::Rows,
            _ => true,
        };
        (fits && path.is_file()).then(|| (role, path.clone()))
    };
    let found: Vec<_> = children.iter().filter_map(wanted).collect();
    if found.is_empty() {
        let message = match format {
            ConvertFormat::Auto => {
                "the folder has no .csv, .tsv, .json or .jsonl directly in it, and is none of BEIR's, with corpus.jsonl, \
                 queries.jsonl and qrels/"
                    .to_owned()
            }
            format => format!("the folder has no file of the format {format} directly in it"),
        };
        return Err(Error::new(ErrorKind::InvalidData, message).with_path(folder));
    }
    Ok(found)
}
