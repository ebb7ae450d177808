//! Rows of CSV and TSV with a header, quoted as RFC 4180 says.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use memchr::memchr_iter;
use serde::de::DeserializeOwned;

use super::columns::{Cells, Column, ColumnNames, KNOWN, Row, said};
use super::sink::Sink;
use super::{ConvertOptions, Converted};
use crate::data::beir::shorten;
use crate::data::codes;
use crate::issue::Severity;

/// A header is looked for in so many bytes at most.
const MOST_HEAD: usize = 1 << 16;
/// More cells than any table has.
const MOST_CELLS: usize = 1 << 14;

/// A table that is being read.
#[derive(Debug)]
pub(super) struct Table {
    quotes: bool,
    delimiter: Option<u8>,
    limit: usize,
    names: ColumnNames,
    /// The first line, until the delimiter is known.
    head: Vec<u8>,
    reader: Option<Reader>,
    /// What each column holds, once the header was read; `None` where it names no rows.
    columns: Option<Vec<(Column, String)>>,
    hopeless: bool,
    /// The line of the next byte, and of the record's first one.
    line: u64,
    start: u64,
    /// The bytes of the record, as they stand in the file.
    raw: Vec<u8>,
    length: u64,
    cells: Vec<u8>,
    used: usize,
    ends: Vec<usize>,
    ended: usize,
    too_long: bool,
}

impl Table {
    pub(super) fn new(options: &ConvertOptions) -> Self {
        Self {
            quotes: options.quotes,
            delimiter: options.delimiter,
            limit: options.max_line_bytes,
            names: options.columns.clone(),
            head: Vec::new(),
            reader: None,
            columns: None,
            hopeless: false,
            line: 1,
            start: 1,
            raw: Vec::new(),
            length: 0,
            cells: vec![0; 1024],
            used: 0,
            ends: vec![0; 32],
            ended: 0,
            too_long: false,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8], sink: &mut Sink, out: &mut Converted) {
        if self.reader.is_some() {
            return self.read(bytes, sink, out);
        }
        self.head.extend_from_slice(bytes);
        if self.head.len() >= MOST_HEAD || self.head_is_whole() {
            self.open(sink, out);
        }
    }

    pub(super) fn finish(&mut self, sink: &mut Sink, out: &mut Converted) {
        if self.reader.is_none() {
            self.open(sink, out);
        }
        // An empty input ends the last record.
        if self.length > 0 {
            self.read_some(&[], sink, out);
        }
        if self.columns.is_none() && !self.hopeless {
            let place = sink.here(0.into());
            let message = format!("the file is empty; its first line must name the columns: {KNOWN}");
            sink.note(codes::CONVERT_COLUMNS, Severity::Error, &place, None, &message);
        }
    }

    fn head_is_whole(&self) -> bool {
        let mut quoted = false;
        let text = self.head.trim_ascii_start();
        text.iter().any(|byte| {
            quoted ^= self.quotes && *byte == b'"';
            !quoted && *byte == b'\n'
        })
    }

    /// Takes the delimiter that was given or that the first line has most of, and begins.
    fn open(&mut self, sink: &mut Sink, out: &mut Converted) {
        let head = std::mem::take(&mut self.head);
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
        let (mut quoted, mut counts) = (false, [0_usize; 4]);
        const DELIMITERS: [u8; 4] = [b',', b'\t', b';', b'|'];
        for byte in head.trim_ascii_start() {
            quoted ^= self.quotes && *byte == b'"';
            if !quoted && *byte == b'\n' {
                break;
            }
            for (delimiter, count) in DELIMITERS.iter().zip(&mut counts) {
                *count += usize::from(!quoted && byte == delimiter);
            }
        }
        let most = counts.iter().max().copied().unwrap_or_default();
        let found = DELIMITERS.iter().zip(&counts).find(|(_, count)| **count == most);
        let most_of = found.map_or(b',', |(delimiter, _)| *delimiter);
        let delimiter = *self.delimiter.get_or_insert(most_of);
        self.reader = Some(
            ReaderBuilder::new()
                .delimiter(delimiter)
                .quoting(self.quotes)
                .build(),
        );
        self.read(head, sink, out);
    }

    fn read(&mut self, mut bytes: &[u8], sink: &mut Sink, out: &mut Converted) {
        while !bytes.is_empty() {
            if self.length == 0 {
                // Line ends between records, blank lines among them.
                let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
                let (skipped, rest) = bytes.split_at(blank.count());
                self.line += memchr_iter(b'\n', skipped).count() as u64;
                self.start = self.line;
                bytes = rest;
                if bytes.is_empty() {
                    return;
                }
            }
            let read = self.read_some(bytes, sink, out);
            bytes = bytes.get(read..).unwrap_or_default();
        }
    }

    /// One step of the reader; says how many bytes it took.
    fn read_some(&mut self, bytes: &[u8], sink: &mut Sink, out: &mut Converted) -> usize {
        let mut taken = 0;
        loop {
            let Some(reader) = &mut self.reader else {
                return bytes.len();
            };
            let rest = bytes.get(taken..).unwrap_or_default();
            let (result, read, written, ended) = reader.read_record(
                rest,
                self.cells.get_mut(self.used..).unwrap_or_default(),
                self.ends.get_mut(self.ended..).unwrap_or_default(),
            );
            let part = rest.get(..read).unwrap_or_default();
            taken += read;
            self.line += memchr_iter(b'\n', part).count() as u64;
            self.length += read as u64;
            let room = self.limit.saturating_sub(self.raw.len());
            self.raw
                .extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
            self.used += written;
            self.ended += ended;
            self.too_long |= self.length > self.limit as u64;
            match result {
                ReadRecordResult::InputEmpty if !bytes.is_empty() => return taken,
                ReadRecordResult::InputEmpty | ReadRecordResult::OutputFull if self.too_long => self.used = 0,
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.cells.resize(self.cells.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if self.ends.len() < MOST_CELLS => {
                    self.ends.resize(self.ends.len() * 2, 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    self.too_long = true;
                    self.ended = 0;
                }
                ReadRecordResult::Record | ReadRecordResult::End => {
                    self.record(sink, out);
                    return taken;
                }
            }
        }
    }

    fn record(&mut self, sink: &mut Sink, out: &mut Converted) {
        let raw = std::mem::take(&mut self.raw);
        let bytes = raw.trim_ascii_end();
        if self.length > 0 && !(self.hopeless || bytes.is_empty()) {
            if let Some(columns) = &self.columns {
                let place = sink.here(self.start.into());
                let doubtful = self.quotes.then(|| misquoted(bytes, self.delimiter)).flatten();
                if let Some(message) = doubtful.filter(|_| !self.too_long) {
                    sink.note(codes::CONVERT_QUOTES, Severity::Warning, &place, None, message);
                }
                let row = self.row(columns, &mut |name| {
                    let message = "the cell looks like a list as Python prints it and is taken for one text; write the rows with \
                                   `to_json(path, orient=\"records\", lines=True)` instead, or the lists as JSON";
                    sink.note(codes::CONVERT_LIST, Severity::Warning, &place, Some(name), message);
                });
                let bytes = if self.too_long {
                    bytes.get(..1000).unwrap_or(bytes)
                } else {
                    bytes
                };
                sink.take(self.start.into(), row, bytes, out);
            } else {
                self.header(sink);
            }
        }
        self.raw = raw;
        self.raw.clear();
        self.length = 0;
        (self.used, self.ended, self.too_long) = (0, 0, false);
        self.start = self.line;
    }

    fn cells(&self) -> Result<Vec<&str>, String> {
        if self.too_long {
            return Err(format!(
                "the record is too long or has too many cells ({} bytes); a quote that is not closed joins lines: close it, or \
                 read quotes as ordinary characters (`quotes` off)",
                self.length
            ));
        }
        let mut start = 0;
        let ends = self.ends.get(..self.ended).unwrap_or_default();
        ends.iter()
            .enumerate()
            .map(|(at, &end)| {
                let cell = self.cells.get(start..end).unwrap_or_default();
                start = end;
                std::str::from_utf8(cell)
                    .map_err(|_| format!("cell {} is not UTF-8; save the file as UTF-8", at + 1))
            })
            .collect()
    }

    /// Reads the names of the columns.
    fn header(&mut self, sink: &mut Sink) {
        let columns: Result<Vec<(Column, String)>, String> = self.cells().map(|cells| {
            let role = |cell: &&str| (self.names.role(cell), (*cell).to_owned());
            cells.iter().map(role).collect()
        });
        let place = sink.here(self.start.into());
        let columns = columns.and_then(|columns| match problem(&columns) {
            Some(message) => Err(message),
            None => Ok(columns),
        });
        match columns {
            Err(message) => {
                self.hopeless = true;
                sink.note(codes::CONVERT_COLUMNS, Severity::Error, &place, None, &message);
            }
            Ok(columns) => {
                let unused = columns
                    .iter()
                    .filter(|(column, _)| matches!(column, Column::Unused | Column::Texts | Column::Set));
                for (_, name) in unused {
                    sink.unused_column(&place, name, "the column is not used");
                }
                self.columns = Some(columns);
            }
        }
    }

    /// The row of a record; `doubt` hears of columns whose cells look like Python's lists.
    fn row(&self, columns: &[(Column, String)], doubt: &mut dyn FnMut(&str)) -> Result<Row, String> {
        let found = self.cells()?;
        if found.len() != columns.len() {
            return Err(format!(
                "it has {} cells, the header has {}; cells with the delimiter or a line break inside need quotes, and a quote \
                 that is not closed joins lines",
                found.len(),
                columns.len()
            ));
        }
        let mut cells = Cells::default();
        for ((column, name), cell) in columns.iter().zip(found) {
            let scores = || match cell.trim() {
                "" => Ok(vec![None]),
                text => match text.parse::<f64>() {
                    Ok(score) if score.is_finite() => Ok(vec![Some(score)]),
                    _ => list(cell)
                        .ok_or_else(|| format!("`{name}` must be a number, found {:?}", shorten(text, 40))),
                },
            };
            match column {
                Column::Query => cells.queries.push(cell.to_owned()),
                Column::Positive | Column::Negative => {
                    let texts = list(cell);
                    let printed =
                        |quote: &str| cell.trim_start().starts_with(quote) && cell.trim_end().ends_with(']');
                    if texts.is_none() && (printed("['") || printed("[\"")) {
                        doubt(name);
                    }
                    let out = if *column == Column::Positive {
                        &mut cells.pos
                    } else {
                        &mut cells.neg
                    };
                    match texts {
                        Some(texts) => out.extend(texts.iter().map(|text: &String| said(text))),
                        None => out.push(said(cell)),
                    }
                }
                Column::PositiveScore => cells.pos_scores.extend(scores()?),
                Column::NegativeScore => cells.neg_scores.extend(scores()?),
                Column::Score | Column::Label => {
                    cells.scores.extend(scores()?.into_iter().flatten());
                    cells.is_label = *column == Column::Label;
                }
                Column::Kept(key) if !cell.is_empty() => cells.keep(key, cell.to_owned())?,
                Column::Kept(_) | Column::Texts | Column::Set | Column::Unused => {}
            }
        }
        // A table has as many columns as its richest row: empty cells at the end are no negatives.
        while cells.neg.last().is_some_and(Option::is_none) && cells.neg_scores.len() <= cells.neg.len() {
            if cells.neg_scores.len() == cells.neg.len() {
                cells.neg_scores.pop();
            }
            cells.neg.pop();
        }
        cells.row()
    }
}

/// The elements of a cell that holds a JSON list of them, as training rows have in a table.
fn list<T: DeserializeOwned>(cell: &str) -> Option<Vec<T>> {
    let is_list = cell.trim_start().starts_with('[');
    is_list.then(|| serde_json::from_str(cell).ok()).flatten()
}

/// What is doubtful about the quotes of a record: that they enclose cells, as its writer may have meant them as characters.
fn misquoted(record: &[u8], delimiter: Option<u8>) -> Option<&'static str> {
    let mut rest = record.iter().copied().peekable();
    while rest.peek().is_some() {
        if rest.next_if_eq(&b'"').is_some() {
            // A doubled quote is a character of the cell, and does not close it.
            while let Some(byte) = rest.find(|byte| matches!(byte, b'"' | b'\n')) {
                if byte == b'\n' && delimiter == Some(b'\t') {
                    return Some(
                        "a quoted cell holds a line break, which is rare between tabs; if quotes are ordinary characters in this \
                         file, read them as such (`quotes` off)",
                    );
                }
                if byte == b'"' && rest.next_if_eq(&b'"').is_none() {
                    break;
                }
            }
            if rest.peek().is_some_and(|next| Some(*next) != delimiter) {
                return Some(
                    "text follows a closing quote; double the quotes inside of cells, or read quotes as ordinary characters \
                     (`quotes` off)",
                );
            }
        }
        rest.find(|byte| Some(*byte) == delimiter);
    }
    None
}

/// What keeps a header from naming rows.
fn problem(columns: &[(Column, String)]) -> Option<String> {
    let of = |wanted: Column| -> Vec<&str> {
        let found = columns.iter().filter(|(column, _)| *column == wanted);
        found.map(|(_, name)| name.as_str()).collect()
    };
    let mut scores = of(Column::Score);
    scores.extend(of(Column::Label));
    for (what, names) in [("query", of(Column::Query)), ("score", scores)] {
        if let [one, two, ..] = names.as_slice() {
            return Some(format!(
                "`{one}` and `{two}` both mean the {what}; rename or remove one of them"
            ));
        }
    }
    let missing = match (of(Column::Query).is_empty(), of(Column::Positive).is_empty()) {
        (true, true) => "query and of positives",
        (true, false) => "query",
        (false, true) => "positives",
        (false, false) => return None,
    };
    let names: Vec<String> = columns
        .iter()
        .map(|(_, name)| format!("`{}`", shorten(name, 40)))
        .collect();
    let names = shorten(&names.join(", "), 300);
    Some(format!(
        "there is no column of {missing} among {names}; name columns as in {KNOWN}, or say which they are (`query_column`, \
         `positive_columns`)"
    ))
}
