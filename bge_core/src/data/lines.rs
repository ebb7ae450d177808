//! Cuts bytes into records: numbered JSON lines, or the elements of one JSON array.
//!
//! Bytes come in chunks of any size; the same bytes give the same records whatever the chunk borders. Rows behind the end of
//! an array, as joined files have them, are records too, and a complaint.

use memchr::{memchr, memchr3};

/// Longest record that is read, in bytes: 64 MiB.
pub const DEFAULT_LIMIT: usize = 64 << 20;

/// Where a record begins in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The line, counted from 1.
    pub line: u64,
    /// The number of the record, counted from 1, in a file that is an array: a whole array may be one line.
    pub element: Option<u64>,
}

impl From<u64> for Position {
    /// A line that is no element.
    fn from(line: u64) -> Self {
        Self { line, element: None }
    }
}

/// One record's bytes and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Line number of its first byte, counted from 1.
    pub number: u64,
    /// Its number among the records, counted from 1, in a file that is an array.
    pub element: Option<u64>,
    /// Byte offset of its first byte in the file.
    pub offset: u64,
    /// The bytes without line ending; only the first ones if the record is over the limit.
    pub bytes: &'a [u8],
    /// Length of the whole record in bytes.
    pub length: u64,
}

impl Line<'_> {
    /// Where it begins.
    pub const fn position(&self) -> Position {
        Position {
            line: self.number,
            element: self.element,
        }
    }
}

/// What a splitter finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A record within the length limit.
    Record(Line<'a>),
    /// A record over the limit; `bytes` holds its beginning.
    TooLong(Line<'a>),
    /// An array that is not well-formed between its elements.
    BadArray {
        /// Line number, counted from 1.
        line: u64,
        /// What is wrong.
        message: &'static str,
    },
}

/// Cuts a stream of chunks into records.
#[derive(Clone, Debug)]
pub struct LineSplitter {
    state: State,
    /// The beginning of the current record when it started in an earlier chunk.
    carry: Vec<u8>,
    /// Length of the current record so far, more than `carry` when over the limit.
    length: u64,
    /// Line of the next byte.
    number: u64,
    /// Offset of the next byte.
    offset: u64,
    /// Where the current record began.
    start: (u64, u64),
    limit: usize,
    brackets: Brackets,
    bom: bool,
    array: bool,
    /// Records so far.
    records: u64,
    crlf: u64,
    blank: u64,
}

/// What a `[` at the beginning of a file opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brackets {
    /// One array of all records.
    Array,
    /// A list of texts, which is the record of the first line, if a text follows it on the line; else an array.
    TextList,
    /// Nothing: the file is plain lines.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte; the payload counts bytes of a possible byte order mark.
    Bom(usize),
    /// Only white space so far.
    Head,
    /// After a bracket that opens an array or the first list.
    Opened,
    /// JSON lines.
    Lines,
    /// Between two elements of an array.
    Between { after_comma: bool },
    /// Inside an element.
    Element { depth: u32, text: Text },
    /// After the closing bracket.
    Closed { complained: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Outside,
    Inside,
    Escape,
}

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

impl Default for LineSplitter {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl LineSplitter {
    /// A splitter that reads records of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            state: State::Bom(0),
            carry: Vec::new(),
            length: 0,
            number: 1,
            offset: 0,
            start: (1, 0),
            limit,
            brackets: Brackets::Array,
            bom: false,
            array: false,
            records: 0,
            crlf: 0,
            blank: 0,
        }
    }

    /// A splitter for files whose lines may be lists of texts, as in `["query", "positive", "negative"]`.
    pub fn for_text_lists(limit: usize) -> Self {
        Self {
            brackets: Brackets::TextList,
            ..Self::new(limit)
        }
    }

    /// A splitter for files of plain lines, which never are one array.
    pub fn for_plain_lines(limit: usize) -> Self {
        Self {
            brackets: Brackets::Nothing,
            ..Self::new(limit)
        }
    }

    /// Whether the file begins with a byte order mark.
    pub const fn has_bom(&self) -> bool {
        self.bom
    }

    /// Lines so far that end in CR LF.
    pub const fn crlf_lines(&self) -> u64 {
        self.crlf
    }

    /// Lines so far with nothing but white space.
    pub const fn blank_lines(&self) -> u64 {
        self.blank
    }

    /// Bytes taken so far.
    pub const fn bytes(&self) -> u64 {
        self.offset
    }

    /// Whether the file is one JSON array.
    pub const fn is_array(&self) -> bool {
        self.array
    }

    /// Takes the next chunk and hands every finished record to `found`.
    pub fn push(&mut self, mut chunk: &[u8], mut found: impl FnMut(Found<'_>)) {
        while !chunk.is_empty() {
            let used = match self.state {
                State::Bom(seen) => self.take_bom(seen, chunk),
                State::Head => self.take_head(chunk),
                State::Opened => self.take_opened(chunk),
                State::Lines => self.take_lines(chunk, &mut found),
                State::Between { .. } | State::Closed { .. } => self.take_between(chunk, &mut found),
                State::Element { .. } => self.take_element(chunk, &mut found),
            };
            chunk = chunk.get(used..).unwrap_or_default();
        }
    }

    /// Says that the file has ended: hands out the last record and an array's missing end.
    pub fn finish(&mut self, mut found: impl FnMut(Found<'_>)) {
        match self.state {
            State::Bom(seen) if seen > 0 => {
                // One or two bytes of a mark and nothing else: a record that is not UTF-8.
                self.carry.extend_from_slice(BOM.get(..seen).unwrap_or_default());
                self.length = seen as u64;
                self.emit(&[], &mut found);
            }
            State::Bom(_) | State::Head | State::Closed { .. } => {}
            State::Lines => {
                if self.length > 0 {
                    self.emit_line(&[], &mut found);
                }
            }
            State::Between { .. } | State::Opened => {
                self.complain("the array is not closed; the file may be cut off", &mut found);
            }
            State::Element { .. } => {
                self.emit(&[], &mut found);
                self.complain("the array is not closed; the file may be cut off", &mut found);
            }
        }
        self.state = State::Closed { complained: true };
    }

    fn complain(&self, message: &'static str, found: &mut impl FnMut(Found<'_>)) {
        found(Found::BadArray {
            line: self.number,
            message,
        });
    }

    fn take_bom(&mut self, seen: usize, chunk: &[u8]) -> usize {
        match chunk.first() {
            Some(byte) if BOM.get(seen) == Some(byte) => {
                self.offset += 1;
                if seen + 1 == BOM.len() {
                    self.bom = true;
                    self.state = State::Head;
                } else {
                    self.state = State::Bom(seen + 1);
                }
                1
            }
            _ => {
                // Not a mark after all: what was taken for one begins the first line.
                self.state = if seen == 0 { State::Head } else { State::Lines };
                if seen > 0 {
                    self.start = (1, 0);
                    self.carry.extend_from_slice(BOM.get(..seen).unwrap_or_default());
                    self.length = seen as u64;
                }
                0
            }
        }
    }

    fn take_head(&mut self, chunk: &[u8]) -> usize {
        for (used, &byte) in chunk.iter().enumerate() {
            match byte {
                b'\n' => {
                    self.number += 1;
                    self.blank += 1;
                }
                b' ' | b'\t' | b'\r' => {}
                b'[' if self.brackets != Brackets::Nothing => return self.open_array(used),
                _ => return self.open_lines(used),
            }
        }
        self.offset += chunk.len() as u64;
        chunk.len()
    }

    /// Begins an array, or the list of the first line, at a bracket behind so many bytes.
    fn open_array(&mut self, used: usize) -> usize {
        self.start = (self.number, self.offset + used as u64);
        self.offset += used as u64 + 1;
        self.array = true;
        self.state = if self.brackets == Brackets::Array {
            State::Between { after_comma: false }
        } else {
            State::Opened
        };
        used + 1
    }

    /// Begins JSON lines behind so many bytes.
    fn open_lines(&mut self, used: usize) -> usize {
        self.offset += used as u64;
        self.start = (self.number, self.offset);
        self.state = State::Lines;
        used
    }

    fn take_opened(&mut self, chunk: &[u8]) -> usize {
        let blanks = chunk
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        self.offset += blanks as u64;
        match chunk.get(blanks) {
            None => {}
            Some(b'"') if self.brackets == Brackets::TextList => {
                self.keep(b"[");
                self.array = false;
                self.state = State::Lines;
            }
            Some(_) => self.state = State::Between { after_comma: false },
        }
        blanks
    }

    fn take_lines(&mut self, chunk: &[u8], found: &mut impl FnMut(Found<'_>)) -> usize {
        let mut rest = chunk;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            self.offset += end as u64 + 1;
            self.emit_line(line, found);
            self.number += 1;
            self.start = (self.number, self.offset);
            rest = after.get(1..).unwrap_or_default();
        }
        self.offset += rest.len() as u64;
        self.keep(rest);
        chunk.len()
    }

    fn take_between(&mut self, chunk: &[u8], found: &mut impl FnMut(Found<'_>)) -> usize {
        for (used, &byte) in chunk.iter().enumerate() {
            match (byte, self.state) {
                (b'\n', _) => self.number += 1,
                (b'[' | b'{', State::Closed { .. }) => {
                    self.complain(
                        "rows follow the end of the array; make one array or JSON lines of them, as `bge repair` does",
                        found,
                    );
                    return if byte == b'[' {
                        self.open_array(used)
                    } else {
                        self.open_lines(used)
                    };
                }
                (b' ' | b'\t' | b'\r', _) | (_, State::Closed { complained: true }) => {}
                (_, State::Closed { .. }) => {
                    self.complain("there is text after the end of the array", found);
                    self.state = State::Closed { complained: true };
                }
                (b',', _) => {
                    self.complain("the array has a comma without an element", found);
                    self.state = State::Between { after_comma: true };
                }
                (b']', State::Between { after_comma }) => {
                    if after_comma {
                        self.complain("the array has a comma without an element", found);
                    }
                    self.state = State::Closed { complained: false };
                }
                _ => {
                    self.offset += used as u64;
                    self.start = (self.number, self.offset);
                    self.state = State::Element {
                        depth: 0,
                        text: Text::Outside,
                    };
                    return used;
                }
            }
        }
        self.offset += chunk.len() as u64;
        chunk.len()
    }

    fn take_element(&mut self, chunk: &[u8], found: &mut impl FnMut(Found<'_>)) -> usize {
        let State::Element { mut depth, mut text } = self.state else {
            return 0;
        };
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            match text {
                Text::Inside => {
                    let Some(skip) = chunk.get(at..).and_then(|rest| memchr3(b'"', b'\\', b'\n', rest))
                    else {
                        break;
                    };
                    at += skip;
                    match chunk.get(at) {
                        Some(b'"') => text = Text::Outside,
                        Some(b'\\') => text = Text::Escape,
                        _ => self.number += 1,
                    }
                }
                Text::Escape => {
                    text = Text::Inside;
                    self.number += u64::from(byte == b'\n');
                }
                Text::Outside => match byte {
                    b'"' => text = Text::Inside,
                    b'{' | b'[' => depth += 1,
                    b']' | b',' if depth == 0 => {
                        self.offset += at as u64 + 1;
                        self.emit(chunk.get(..at).unwrap_or_default(), found);
                        self.state = if byte == b',' {
                            State::Between { after_comma: true }
                        } else {
                            State::Closed { complained: false }
                        };
                        return at + 1;
                    }
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    b'\n' => self.number += 1,
                    _ => {}
                },
            }
            at += 1;
        }
        self.offset += chunk.len() as u64;
        self.keep(chunk);
        self.state = State::Element { depth, text };
        chunk.len()
    }

    /// Remembers a part of a record that goes on in the next chunk.
    fn keep(&mut self, part: &[u8]) {
        self.length += part.len() as u64;
        let room = self.limit.saturating_sub(self.carry.len());
        self.carry
            .extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
    }

    /// Hands out a line; `tail` is its part in the present chunk.
    #[inline]
    fn emit_line(&mut self, tail: &[u8], found: &mut impl FnMut(Found<'_>)) {
        let ends_in_cr = match tail.last() {
            Some(&last) => last == b'\r',
            None => self.carry.last() == Some(&b'\r') && self.length == self.carry.len() as u64,
        };
        self.crlf += u64::from(ends_in_cr);
        self.emit(tail, found);
    }

    /// Hands out the current record without the white space at its end; `tail` is its part in the present chunk.
    #[inline]
    fn emit(&mut self, tail: &[u8], found: &mut impl FnMut(Found<'_>)) {
        if self.length == 0 {
            self.hand_out(tail, tail.len() as u64, found);
            return;
        }
        self.keep(tail);
        let record = std::mem::take(&mut self.carry);
        self.hand_out(&record, self.length, found);
        self.carry = record;
        self.carry.clear();
        self.length = 0;
    }

    #[inline]
    fn hand_out(&mut self, bytes: &[u8], length: u64, found: &mut impl FnMut(Found<'_>)) {
        let is_long = length > self.limit as u64;
        let bytes = if is_long {
            bytes.get(..self.limit).unwrap_or(bytes)
        } else {
            trim_end(bytes)
        };
        if bytes.is_empty() {
            self.blank += 1;
            return;
        }
        self.records += 1;
        let (number, offset) = self.start;
        let line = Line {
            number,
            element: self.array.then_some(self.records),
            offset,
            bytes,
            length,
        };
        found(if is_long {
            Found::TooLong(line)
        } else {
            Found::Record(line)
        });
    }
}

/// Without JSON white space at the end.
fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Writes a record as one line. An element of an array may span lines; white space between its tokens is all that a line
/// break can be.
pub(super) fn one_line(out: &mut Vec<u8>, record: &[u8]) {
    out.extend(record.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    }));
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8], cuts: &[usize], limit: usize) -> (Vec<String>, u64, u64, bool) {
        let mut splitter = LineSplitter::new(limit);
        let mut found = Vec::new();
        let mut start = 0;
        for &cut in cuts.iter().chain(&[bytes.len()]) {
            splitter.push(&bytes[start..cut], |item| found.push(format!("{item:?}")));
            start = cut;
        }
        splitter.finish(|item| found.push(format!("{item:?}")));
        assert_eq!(splitter.bytes(), bytes.len() as u64);
        (
            found,
            splitter.crlf_lines(),
            splitter.blank_lines(),
            splitter.has_bom(),
        )
    }

    #[test]
    fn chunk_borders_anywhere_give_the_same_records() {
        for bytes in [
            &b"\xef\xbb\xbf{\"a\":1}\r\n\n  \t\r\n{\"b\":\"\\\"]\"}\n{}"[..],
            b" \n\n [ {\"a\": \"x,]\\\\\"} ,\n[1,2], 3,\n ,{\"b\":\n[{}]}\n]\n tail",
            b"[]",
            b"[1, 2]\n[3,\n4] , tail [5]\n{\"a\": 6}\r\n{\"a\":\n[7]",
            b"[{\"a\": \"\\\"",
            b"[1,]",
            b"\xef\xbb",
            b"\xef\xbbx\n{}",
            b"\n\n",
            b"",
            b"{}\n0123456789012345678901234567890123456789\n{}\r",
        ] {
            let whole = split(bytes, &[], 30);
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    assert_eq!(split(bytes, &[first, second], 30), whole, "{first} {second}");
                }
            }
        }
    }

    #[test]
    fn rows_behind_an_array_are_records_and_a_complaint() {
        let found = |bytes: &str, mut splitter: LineSplitter| {
            let (mut rows, mut complaints) = (Vec::new(), Vec::new());
            let mut look = |item: Found<'_>| match item {
                Found::BadArray { line, message } => complaints.push((line, message)),
                Found::Record(line) | Found::TooLong(line) => {
                    rows.push((line.number, String::from_utf8_lossy(line.bytes).into_owned()));
                }
            };
            splitter.push(bytes.as_bytes(), &mut look);
            splitter.finish(&mut look);
            (rows, complaints)
        };
        let joined = "[{\"a\":1}]\n[{\"a\":2},{\"a\":3}]\n, tail\n{\"a\":4}\n{\"a\":5}";
        let (rows, complaints) = found(joined, LineSplitter::default());
        let lines: Vec<u64> = rows.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 2, 4, 5]);
        assert!(
            rows.iter()
                .zip(1..)
                .all(|((_, row), at)| *row == format!("{{\"a\":{at}}}"))
        );
        let said: Vec<(u64, bool)> = complaints
            .iter()
            .map(|(line, message)| (*line, message.starts_with("rows follow")))
            .collect();
        assert_eq!(said, [(2, true), (3, false), (4, true)]);
        let lists = "[[\"a\",\"b\"]]\n[\"c\",\"d\"]\n";
        let (rows, _) = found(lists, LineSplitter::for_text_lists(DEFAULT_LIMIT));
        assert_eq!(rows.last(), Some(&(2, "[\"c\",\"d\"]".to_owned())));
    }

    #[test]
    fn lines_keep_numbers_and_offsets_past_blank_ones() {
        let bytes = b"\n{\"a\":1}\r\n\n{\"b\":2}";
        let mut splitter = LineSplitter::default();
        let mut seen = Vec::new();
        let mut look = |item: Found<'_>| {
            let Found::Record(line) = item else {
                panic!("{item:?}")
            };
            seen.push((
                line.number,
                line.offset,
                String::from_utf8(line.bytes.to_vec()).unwrap(),
            ));
        };
        splitter.push(bytes, &mut look);
        splitter.finish(&mut look);
        assert_eq!(seen, [(2, 1, "{\"a\":1}".into()), (4, 11, "{\"b\":2}".into())]);
        assert_eq!((splitter.crlf_lines(), splitter.blank_lines()), (1, 2));
    }

    #[test]
    fn array_elements_have_the_line_they_start_on() {
        let bytes = b"[\n {\"a\":\n 1},\n\n {\"b\": \"]\"}\n]";
        let mut splitter = LineSplitter::default();
        let mut seen = Vec::new();
        let mut look = |item: Found<'_>| {
            let Found::Record(line) = item else {
                panic!("{item:?}")
            };
            assert!(bytes[line.offset as usize..].starts_with(line.bytes));
            seen.push((line.number, line.element));
        };
        splitter.push(bytes, &mut look);
        splitter.finish(&mut look);
        assert_eq!(seen, [(2, Some(1)), (5, Some(2))]);
        assert!(splitter.is_array());
    }
}
