//! Training rows from what people have: BEIR folders, CSV and TSV, pairs and triplets of sentence-transformers.
//!
//! Bytes go in as they come, rows come out as they are found. What cannot be read goes to a quarantine with its place and
//! the reason, and nothing is dropped without being counted. Memory does not grow with the data, with two exceptions: of a
//! BEIR folder, the judgments and the texts that they name are held, and with [`ConvertOptions::group`], up to
//! [`ConvertOptions::max_group_bytes`] of rows.

mod beir;
mod columns;
mod rows;
mod sink;
mod table;

use serde::Serialize;

use self::beir::Beir;
pub use self::columns::ColumnNames;
use self::sink::Sink;
use self::table::Table;
use super::codes;
use super::findings::IssueGroup;
use super::lines::{DEFAULT_LIMIT, Found, LineSplitter};
use crate::error::{Error, ErrorKind, Result};
use crate::issue::Severity;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Judgments of a BEIR folder: `qrels/train.tsv`, or `train_qrels.jsonl`.
    Judgments,
    /// Queries of a BEIR folder.
    Queries,
    /// Documents of a BEIR folder.
    Corpus,
    /// CSV or TSV with a header.
    Table,
    /// JSON lines, or one JSON array, of objects or of lists of texts.
    Rows,
}

impl Role {
    /// Every role, in the order in which files are read.
    pub const ALL: [Self; 5] = [
        Self::Judgments,
        Self::Queries,
        Self::Corpus,
        Self::Table,
        Self::Rows,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Judgments => "qrels",
            Self::Queries => "queries",
            Self::Corpus => "corpus",
            Self::Table => "table",
            Self::Rows => "rows",
        }
    }

    /// What a file of this path holds, by its name; `None` for files that are no data. A `.gz` at the end does not count.
    pub fn of(path: &str) -> Option<Self> {
        let path = path.to_ascii_lowercase().replace('\\', "/");
        let path = path.strip_suffix(".gz").unwrap_or(&path);
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (stem, extension) = name.rsplit_once('.')?;
        let in_qrels = folder.rsplit('/').next() == Some("qrels");
        match extension {
            "tsv" | "jsonl" if in_qrels || stem.ends_with("_qrels") || stem == "qrels" => {
                Some(Self::Judgments)
            }
            "jsonl" if stem == "corpus" => Some(Self::Corpus),
            "jsonl" if stem == "queries" || stem.ends_with("_queries") => Some(Self::Queries),
            "csv" | "tsv" | "tab" => Some(Self::Table),
            "json" | "jsonl" => Some(Self::Rows),
            _ => None,
        }
    }
}

impl std::str::FromStr for Role {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == name);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|role| role.as_str()).collect();
            let message = format!("a file holds one of {}, got {name:?}", names.join(", "));
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }
}

/// How a conversion goes.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Join the rows of one query (with one prompt and type) into one, at the place of the first. Rows are then held back
    /// until the end, or until they take `max_group_bytes`: rows of one query further apart stay apart.
    pub group: bool,
    /// The memory for rows that are held back, in bytes.
    pub max_group_bytes: usize,
    /// Names of columns, where they are none of those that are known.
    pub columns: ColumnNames,
    /// Whether a quote at the beginning of a cell of CSV or TSV opens a quoted one; otherwise it is a character like others.
    pub quotes: bool,
    /// The byte between the cells of CSV and TSV; if not given, the one of comma, tab, semicolon and bar that the header has most of.
    pub delimiter: Option<u8>,
    /// Longest record in bytes.
    pub max_line_bytes: usize,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            group: false,
            max_group_bytes: 256 << 20,
            columns: ColumnNames::default(),
            quotes: true,
            delimiter: None,
            max_line_bytes: DEFAULT_LIMIT,
        }
    }
}

/// What comes out, in JSON lines; whoever pushes empties both as often as he likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// The rows to train on.
    pub rows: Vec<u8>,
    /// `{"file", "line", "reason", "text"}` of everything that could not be used, in arrays with its number as "element".
    pub quarantine: Vec<u8>,
}

/// How a conversion went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConvertReport {
    /// Records read: rows, or judgments.
    pub rows: u64,
    /// Training rows written.
    pub written: u64,
    /// Records that joined the row of an earlier one.
    pub merged: u64,
    /// Records in the quarantine.
    pub quarantined: u64,
    /// Positives written.
    pub positives: u64,
    /// Negatives written.
    pub negatives: u64,
    /// Written rows whose scores were left out.
    pub scores_unused: u64,
    /// Whether rows of one query may have stayed apart for want of memory.
    pub groups_bounded: bool,
    /// What there is to say, with the first places of each kind.
    pub issues: Vec<IssueGroup>,
}

impl ConvertReport {
    /// Whether a file could not be used at all.
    pub fn has_errors(&self) -> bool {
        self.issues.iter().any(|group| group.severity == Severity::Error)
    }
}

/// A conversion under way.
///
/// ```
/// use bge_core::data::convert::{ConvertOptions, Converted, Converter, Role};
///
/// let (mut converter, mut out) = (Converter::new(ConvertOptions::default()), Converted::default());
/// converter.start_file("faq.csv", Role::Table, &mut out)?;
/// converter.push(b"question,answer\n\"Why, \"\"oh\"\" why?\",", &mut out);
/// converter.push(b"Because.\n", &mut out);
/// let report = converter.finish(&mut out);
/// assert_eq!(out.rows, b"{\"query\":\"Why, \\\"oh\\\" why?\",\"pos\":[\"Because.\"],\"neg\":[]}\n");
/// assert_eq!((report.written, report.quarantined), (1, 0));
/// # Ok::<(), bge_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Converter {
    options: ConvertOptions,
    reader: Option<Reader>,
    beir: Beir,
    sink: Sink,
}

#[derive(Debug)]
enum Reader {
    Table(Box<Table>),
    Lines(Box<LineSplitter>, Role),
}

impl Converter {
    /// Starts a conversion.
    pub fn new(options: ConvertOptions) -> Self {
        Self {
            sink: Sink::new(&options),
            options,
            reader: None,
            beir: Beir::default(),
        }
    }

    /// Ends the file before and starts the next one. Of a BEIR folder, judgments come first, then queries, then the corpus.
    pub fn start_file(&mut self, name: &str, role: Role, out: &mut Converted) -> Result<()> {
        self.end_file(out);
        self.sink.file = name.into();
        let limit = self.options.max_line_bytes;
        if matches!(role, Role::Judgments | Role::Queries | Role::Corpus) {
            let started = self.beir.start(role);
            started.map_err(|message| Error::new(ErrorKind::InvalidArgument, message).with_path(name))?;
        }
        self.reader = Some(match role {
            Role::Table => Reader::Table(Box::new(Table::new(&self.options))),
            Role::Rows => Reader::Lines(Box::new(LineSplitter::for_text_lists(limit)), role),
            Role::Judgments | Role::Queries | Role::Corpus => {
                Reader::Lines(Box::new(LineSplitter::for_plain_lines(limit)), role)
            }
        });
        Ok(())
    }

    /// Takes the next bytes of the file, cut anywhere. Without a file that was started they are dropped.
    pub fn push(&mut self, bytes: &[u8], out: &mut Converted) {
        let Self {
            options,
            reader,
            beir,
            sink,
        } = self;
        match reader {
            None => {}
            Some(Reader::Table(table)) => table.push(bytes, sink, out),
            Some(Reader::Lines(lines, role)) => {
                lines.push(bytes, |found| take(found, *role, options, beir, sink, out));
            }
        }
    }

    /// How it goes so far; findings come with the end.
    pub fn report(&self) -> &ConvertReport {
        &self.sink.report
    }

    /// Ends the last file. Rows of a BEIR folder and rows that were held back are written now.
    pub fn finish(mut self, out: &mut Converted) -> ConvertReport {
        self.end_file(out);
        let Self { beir, mut sink, .. } = self;
        sink.flush(out);
        beir.finish(&mut sink, out);
        let mut report = sink.report;
        report.issues = sink.issues.groups().cloned().collect();
        report
    }

    fn end_file(&mut self, out: &mut Converted) {
        let Self {
            options,
            reader,
            beir,
            sink,
        } = self;
        match reader.take() {
            None => {}
            Some(Reader::Table(mut table)) => table.finish(sink, out),
            Some(Reader::Lines(mut lines, role)) => {
                lines.finish(|found| take(found, role, options, beir, sink, out));
            }
        }
        sink.end_file();
    }
}

fn take(
    found: Found<'_>,
    role: Role,
    options: &ConvertOptions,
    beir: &mut Beir,
    sink: &mut Sink,
    out: &mut Converted,
) {
    match found {
        Found::Record(line) if role == Role::Rows => {
            let place = sink.here(line.position());
            let row = rows::read(line.bytes, &options.columns, &mut |name, message| {
                sink.unused_column(&place, name, message);
            });
            sink.take(line.position(), row, line.bytes, out);
        }
        Found::Record(line) => beir.take(role, line.number, line.bytes, sink, out),
        Found::TooLong(line) => {
            let reason = format!(
                "the record has {} bytes, over the limit of {}",
                line.length, options.max_line_bytes
            );
            let start = line.bytes.get(..1000).unwrap_or(line.bytes);
            sink.take(line.position(), Err(reason), start, out);
        }
        // The rows around it are read; what is none there may have been one.
        Found::BadArray { line, message } => {
            let place = sink.here(line.into());
            sink.note(codes::CONVERT_ROW, Severity::Warning, &place, None, message);
        }
    }
}

#[cfg(test)]
mod tests;
