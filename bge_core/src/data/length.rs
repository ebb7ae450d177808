//! Splits rows by the length of their longest text, as FlagEmbedding's `split_data_by_length.py` does.
//!
//! Training on rows of like length with a batch size for each wastes less memory on padding. A row keeps its bytes.

use serde::Serialize;

use super::lines::{DEFAULT_LIMIT, Found, LineSplitter, Position, one_line};
use super::record::{RecordView, Slot};
use super::repair::quarantine;
use crate::error::{Error, ErrorKind, Result};

/// The lengths at which upstream cuts.
pub const DEFAULT_LENGTHS: [u64; 9] = [0, 500, 1000, 2000, 3000, 4000, 5000, 6000, 7000];

/// Rows are measured together, in batches of about so many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// The lengths of texts, in their order: tokens with special ones, nothing cut off.
pub type LengthCounter<'a> = Box<dyn Fn(&[&str]) -> Vec<usize> + 'a>;

/// A range of lengths and its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// The smallest length.
    pub from: u64,
    /// The length that is too large; `None` for the last range, which has no end.
    pub to: Option<u64>,
    /// Rows so far.
    pub rows: u64,
}

impl Bucket {
    /// `len-500-1000`, and `len-7000-inf` for the last one.
    pub fn label(&self) -> String {
        match self.to {
            Some(to) => format!("len-{}-{to}", self.from),
            None => format!("len-{}-inf", self.from),
        }
    }

    /// The name of its file, for a file of this stem.
    pub fn file_name(&self, stem: &str) -> String {
        format!("{stem}_{}.jsonl", self.label())
    }
}

/// How a split by length came out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LengthReport {
    /// Rows that were measured.
    pub rows: u64,
    /// The ranges, shortest first.
    pub buckets: Vec<Bucket>,
    /// The lengths of all rows together.
    pub total_length: u64,
    /// The length of the longest row.
    pub longest: u64,
    /// Rows that are shorter than the first length, in the quarantine.
    pub below: u64,
    /// Rows that cannot be read, in the quarantine.
    pub unreadable: u64,
    /// Places where an array is damaged; what is no row there is in no range.
    pub broken_arrays: u64,
}

impl LengthReport {
    /// The mean length of a row; 0 without rows.
    pub fn mean_length(&self) -> f64 {
        self.total_length as f64 / self.rows.max(1) as f64
    }
}

/// What comes out, in JSON lines; whoever pushes empties all as often as he likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByLength {
    /// The rows of each range, in the order of [`LengthReport::buckets`].
    pub buckets: Vec<Vec<u8>>,
    /// `{"file", "line", "reason", "text"}` of rows in no range, in arrays with their number as "element".
    pub quarantine: Vec<u8>,
}

/// A split by length under way.
pub struct LengthSplit<'a> {
    splitter: LineSplitter,
    desk: Desk<'a>,
}

struct Desk<'a> {
    file: String,
    count: LengthCounter<'a>,
    report: LengthReport,
    /// Rows that are still to be measured, with their places.
    waiting: Vec<(Position, Vec<u8>)>,
    bytes: usize,
}

impl std::fmt::Debug for LengthSplit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LengthSplit")
            .field("report", &self.desk.report)
            .finish_non_exhaustive()
    }
}

impl<'a> LengthSplit<'a> {
    /// Starts a split at these lengths, in any order. Without a counter lengths are characters.
    pub fn new(lengths: &[u64], counter: Option<LengthCounter<'a>>) -> Result<Self> {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty() {
            let message = "no length is given to split at; the usual ones are 0 500 1000 2000 ... 7000";
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_field("length_list"));
        }
        let ends = sorted.iter().copied().map(Some).skip(1).chain([None]);
        let bucket = |(from, to): (&u64, Option<u64>)| Bucket {
            from: *from,
            to,
            rows: 0,
        };
        let report = LengthReport {
            buckets: sorted.iter().zip(ends).map(bucket).collect(),
            ..LengthReport::default()
        };
        let characters =
            |texts: &[&str]| -> Vec<usize> { texts.iter().map(|text| text.chars().count()).collect() };
        Ok(Self {
            splitter: LineSplitter::new(DEFAULT_LIMIT),
            desk: Desk {
                file: "input".into(),
                count: counter.unwrap_or_else(|| Box::new(characters)),
                report,
                waiting: Vec::new(),
                bytes: 0,
            },
        })
    }

    /// Ends the file before and starts the next one; the name is for the quarantine.
    pub fn start_file(&mut self, name: &str, out: &mut ByLength) {
        self.end_file(out);
        name.clone_into(&mut self.desk.file);
    }

    /// Takes the next bytes of the file, cut anywhere.
    pub fn push(&mut self, bytes: &[u8], out: &mut ByLength) {
        let Self { splitter, desk } = self;
        splitter.push(bytes, |found| desk.take(found, out));
    }

    /// How it comes out so far; a few rows may wait to be measured.
    pub fn report(&self) -> &LengthReport {
        &self.desk.report
    }

    /// Ends the last file.
    pub fn finish(mut self, out: &mut ByLength) -> LengthReport {
        self.end_file(out);
        self.desk.report
    }

    fn end_file(&mut self, out: &mut ByLength) {
        let Self { splitter, desk } = self;
        splitter.finish(|found| desk.take(found, out));
        desk.measure(out);
        *splitter = LineSplitter::new(DEFAULT_LIMIT);
    }
}

impl Desk<'_> {
    fn take(&mut self, found: Found<'_>, out: &mut ByLength) {
        match found {
            Found::Record(line) => {
                self.bytes += line.bytes.len();
                self.waiting.push((line.position(), line.bytes.to_vec()));
                if self.bytes >= BATCH_BYTES {
                    self.measure(out);
                }
            }
            Found::TooLong(line) => {
                self.measure(out);
                self.report.unreadable += 1;
                let reason = format!("the record has {} bytes", line.length);
                let start = line.bytes.get(..1000).unwrap_or(line.bytes);
                quarantine(&mut out.quarantine, &self.file, line.position(), &reason, start);
            }
            Found::BadArray { .. } => self.report.broken_arrays += 1,
        }
    }

    /// Measures the rows that wait, and writes each to its range.
    fn measure(&mut self, out: &mut ByLength) {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let views: Vec<_> = waiting
            .iter()
            .map(|(_, bytes)| RecordView::parse(bytes))
            .collect();
        let mut texts: Vec<&str> = Vec::new();
        let mut many = Vec::with_capacity(views.len());
        for view in &views {
            let before = texts.len();
            if let Ok(view) = view {
                texts.extend(view.query.given().map(AsRef::<str>::as_ref));
                let lists = [&view.pos, &view.neg]
                    .into_iter()
                    .filter_map(Slot::given)
                    .flatten();
                texts.extend(lists.filter_map(Slot::given).map(AsRef::<str>::as_ref));
            }
            many.push(texts.len() - before);
        }
        let mut lengths = (self.count)(&texts).into_iter();
        out.buckets.resize_with(self.report.buckets.len(), Vec::new);
        for (((at, bytes), view), many) in waiting.iter().zip(&views).zip(many) {
            let length = lengths.by_ref().take(many).max().unwrap_or_default() as u64;
            let broken = view.as_ref().err();
            let reason = match broken {
                Some(broken) => {
                    self.report.unreadable += 1;
                    format!("{} (column {})", broken.message, broken.column)
                }
                None => match self.put(length, bytes, out) {
                    Ok(()) => continue,
                    Err(reason) => reason,
                },
            };
            quarantine(&mut out.quarantine, &self.file, *at, &reason, bytes);
        }
    }

    fn put(&mut self, length: u64, row: &[u8], out: &mut ByLength) -> Result<(), String> {
        let report = &mut self.report;
        report.rows += 1;
        report.total_length += length;
        report.longest = report.longest.max(length);
        let buckets = report.buckets.iter_mut().zip(&mut out.buckets);
        let Some((bucket, file)) = buckets.take_while(|(bucket, _)| bucket.from <= length).last() else {
            report.below += 1;
            return Err(format!(
                "the longest text has a length of {length}, below the first range; put 0 into `length_list`"
            ));
        };
        bucket.rows += 1;
        one_line(file, row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words count as tokens, and two special ones are around them.
    fn words(texts: &[&str]) -> Vec<usize> {
        texts
            .iter()
            .map(|text| text.split_whitespace().count() + 2)
            .collect()
    }

    fn split(lengths: &[u64], files: &[&str], chunk: usize) -> (ByLength, LengthReport) {
        let mut split = LengthSplit::new(lengths, Some(Box::new(words))).unwrap();
        let mut out = ByLength::default();
        for (at, file) in files.iter().enumerate() {
            split.start_file(&format!("f{at}"), &mut out);
            file.as_bytes()
                .chunks(chunk)
                .for_each(|piece| split.push(piece, &mut out));
        }
        let report = split.finish(&mut out);
        (out, report)
    }

    /// A row whose longest text has so many tokens, in the list that is named.
    fn row(tokens: usize, place: &str) -> String {
        let long = vec!["w"; tokens - 2].join(" ");
        let text = |name: &str| if name == place { long.as_str() } else { "w" };
        format!(
            "{{\"query\":\"{}\", \"pos\":[\"w\",\"{}\"],\"neg\":[\"{}\"],\"id\": 7}}\n",
            text("query"),
            text("pos"),
            text("neg")
        )
    }

    #[test]
    fn a_row_goes_where_upstream_puts_it_and_keeps_its_bytes() {
        let rows: Vec<String> = [(9, "query"), (10, "pos"), (19, "neg"), (20, "neg"), (500, "pos")]
            .map(|(tokens, place)| row(tokens, place))
            .to_vec();
        let (out, report) = split(&[20, 0, 10], &[&rows.concat()], 64);
        let expected = [
            rows[0].clone(),
            rows[1].clone() + &rows[2],
            rows[3].clone() + &rows[4],
        ];
        assert_eq!(out.buckets, expected.map(String::into_bytes));
        let names: Vec<String> = report
            .buckets
            .iter()
            .map(|bucket| bucket.file_name("train"))
            .collect();
        assert_eq!(
            names,
            [
                "train_len-0-10.jsonl",
                "train_len-10-20.jsonl",
                "train_len-20-inf.jsonl"
            ]
        );
        assert_eq!((report.rows, report.longest, report.total_length), (5, 500, 558));
        assert_eq!(report.mean_length(), 111.6);
        assert!(out.quarantine.is_empty());
    }

    #[test]
    fn nothing_is_lost_below_the_first_length_or_where_json_is_broken() {
        let text = row(4, "pos") + "nonsense\n" + &row(6, "pos");
        let (out, report) = split(&[5], &[&text], 1000);
        assert_eq!((report.rows, report.below, report.unreadable), (2, 1, 1));
        let aside = String::from_utf8(out.quarantine).unwrap();
        assert!(
            aside.contains("\"line\":1") && aside.contains("put 0 into `length_list`"),
            "{aside}"
        );
        assert!(
            aside.contains("\"line\":2") && aside.contains("nonsense"),
            "{aside}"
        );
    }

    #[test]
    fn rows_behind_an_array_are_measured_too() {
        let joined = format!("[{}]\n[{}]\n{}", row(4, "pos"), row(6, "pos"), row(8, "pos"));
        let (_, report) = split(&[0], &[&joined], 5);
        assert_eq!((report.rows, report.longest, report.broken_arrays), (3, 8, 2));
    }

    #[test]
    fn chunk_borders_do_not_matter() {
        let array = format!(
            "[{},\n{}]",
            row(9, "pos").trim(),
            row(30, "neg").trim().replace(", ", ",\r\n")
        );
        let lines: String = (3..40).map(|tokens| row(tokens, "query")).collect();
        let files = [array.as_str(), &lines, "", "\u{feff}{\"query\": \"ü\"}\r\n{"];
        let whole = split(&DEFAULT_LENGTHS, &files, usize::MAX);
        for chunk in [1, 2, 3, 7, 64, 1000] {
            assert_eq!(split(&DEFAULT_LENGTHS, &files, chunk), whole, "by {chunk}");
        }
        assert_eq!((whole.1.rows, whole.1.unreadable), (40, 1));
    }

    #[test]
    fn without_a_counter_characters_are_counted() {
        let mut split = LengthSplit::new(&[0, 3], None).unwrap();
        let mut out = ByLength::default();
        split.push(
            "{\"query\":\"üü\",\"pos\":[\"魚\"]}\n{\"query\":\"abc\"}".as_bytes(),
            &mut out,
        );
        let report = split.finish(&mut out);
        assert_eq!(
            report
                .buckets
                .iter()
                .map(|bucket| bucket.rows)
                .collect::<Vec<_>>(),
            [1, 1]
        );
        assert!(LengthSplit::new(&[], None).is_err());
    }
}
