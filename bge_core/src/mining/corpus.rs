//! The texts that negatives come from, and the rows that need them: indexed once, read again from disk.
//!
//! Of a text only its place, its length and a fingerprint stay in memory (20 bytes; 16 more while the index is made).
//! Texts are numbered in the order in which they occur first; equal texts have one number.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::source::{Place, RawObject, Source};
use crate::config::MineArguments;
use crate::data::duplicates::fingerprint;
use crate::data::lines::Line;
use crate::data::record::{RecordView, TrainingRecord};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files::Digest;

/// All rows and all texts of a run.
#[derive(Debug)]
pub(super) struct Corpus {
    input: Source,
    pool: Option<Source>,
    offsets: Vec<u64>,
    lengths: Vec<u32>,
    /// Of each text, the fingerprint of its [`plain`] form.
    plains: Vec<u64>,
    /// Of each text of a pool, its id; empty where the pool has none.
    ids: Vec<Option<Place>>,
    /// How many of the texts are candidates; those behind them are positives outside of the pool.
    candidates: usize,
    rows: Vec<RowPlace>,
    /// The positives of all rows with one query: `positives[starts[g]..starts[g + 1]]` are texts of group `g`.
    starts: Vec<u32>,
    positives: Vec<u32>,
    hashes: Hashes,
    /// The first row of each different pair of prompt and query.
    asked: Vec<u32>,
    /// Texts that were there before, and texts of white space only.
    pub(super) repeated: u64,
    pub(super) blank: u64,
}

/// Content hashes, as hexadecimal digits: of the candidates in order, of the other positives in order, and of the different
/// pairs of prompt and query in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Hashes {
    pub(super) candidates: String,
    pub(super) positives: String,
    pub(super) queries: String,
    /// Of the rows as they are written.
    pub(super) rows: String,
}

#[derive(Clone, Copy, Debug)]
struct RowPlace {
    place: Place,
    line: u64,
    group: u32,
    asked: u32,
}

/// One row of the input.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its number, counted from 0.
    pub(super) index: usize,
    /// Its line in the file, counted from 1.
    pub(super) line: u64,
    /// The bytes of its JSON object.
    pub(super) bytes: Vec<u8>,
    pub(super) query: String,
    /// Its own instruction.
    pub(super) prompt: Option<String>,
    pub(super) pos: Vec<String>,
}

impl Corpus {
    /// Indexes the input and the candidate pool. Packed files are unpacked into `folder`.
    pub(super) fn open(arguments: &MineArguments, folder: &Path) -> Result<Self> {
        let pool = match &arguments.candidate_pool {
            Some(path) => Some(Source::open(&pool_file(path)?, &folder.join("pool.jsonl"))?),
            None => None,
        };
        let mut index = Index::default();
        let mut ids = Vec::new();
        if let Some(source) = &pool {
            source.scan(|line| index.take_pool_line(source, line, &mut ids))?;
            if index.texts.offsets.is_empty() {
                let message = "the candidate pool has no text; give JSON lines with `text`";
                return Err(Error::new(ErrorKind::InvalidData, message).with_path(source.path()));
            }
        }
        let candidates = pool.as_ref().map(|_| index.texts.offsets.len());
        let mut hashes = Hashes::default();
        if pool.is_some() {
            hashes.candidates = std::mem::take(&mut index.digest).finish();
        }
        let input = Source::open(Path::new(&arguments.input_file), &folder.join("input.jsonl"))?;
        let mut rows = Rows::default();
        input.scan(|line| {
            let record = read_record(line.bytes)?;
            let object = RawObject::parse(line.bytes)?;
            let group = rows.group(&record.query);
            let sides = [("pos", &record.pos), ("neg", &record.neg)];
            for (key, texts) in sides {
                // With a pool only the positives of the input are needed, to compare with.
                if key == "neg" && pool.is_some() {
                    continue;
                }
                for (raw, text) in object.list(key).into_iter().zip(texts) {
                    let place = Place::of(raw, line);
                    let number = index.add(text, place, |place, known| match &pool {
                        Some(pool) if known < candidates.unwrap_or(0) => pool.document(place),
                        _ => input.text(place),
                    })?;
                    if let Some(number) = number.filter(|_| key == "pos") {
                        rows.positives.push((group, number));
                    }
                }
            }
            rows.push(line, group, &record);
            Ok(())
        })?;
        if rows.places.is_empty() {
            let message = "the input has no rows; give JSON lines with `query` and `pos`";
            return Err(Error::new(ErrorKind::InvalidData, message).with_path(input.path()));
        }
        let Index {
            texts,
            repeated,
            blank,
            digest,
            ..
        } = index;
        if pool.is_some() {
            hashes.positives = digest.finish();
        } else {
            hashes.candidates = digest.finish();
        }
        hashes.queries = rows.digest.finish();
        hashes.rows = rows.bytes.finish();
        let (starts, positives) = rows.by_group();
        if !ids.iter().any(Option::is_some) {
            ids.clear();
        }
        ids.shrink_to_fit();
        Ok(Self {
            candidates: candidates.unwrap_or(texts.offsets.len()),
            offsets: texts.offsets,
            lengths: texts.lengths,
            plains: texts.plains,
            rows: rows.places,
            input,
            pool,
            ids,
            starts,
            positives,
            hashes,
            asked: std::mem::take(&mut rows.asked),
            repeated,
            blank,
        })
    }

    /// Texts that can become negatives; their numbers come first.
    pub(super) const fn candidates(&self) -> usize {
        self.candidates
    }

    /// All texts: the candidates, and behind them the positives that are not among them.
    pub(super) const fn len(&self) -> usize {
        self.offsets.len()
    }

    /// How many rows the input has.
    pub(super) const fn rows(&self) -> usize {
        self.rows.len()
    }

    /// How many different queries the rows have.
    pub(super) const fn queries(&self) -> usize {
        self.starts.len() - 1
    }

    /// Content hashes of all texts.
    pub(super) const fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    /// The first row of each different pair of prompt and query; these are what is encoded.
    pub(super) fn asked(&self) -> &[u32] {
        &self.asked
    }

    /// Which of [`Corpus::asked`] a row asks.
    pub(super) fn asks(&self, row: usize) -> usize {
        self.rows.get(row).map_or(0, |row| row.asked as usize)
    }

    /// The bytes of a row and what it says.
    pub(super) fn row(&self, index: usize) -> Result<Row> {
        let Some(row) = self.rows.get(index) else {
            bail!(Internal, "row {index} of {}", self.rows.len());
        };
        let bytes = self.input.bytes(row.place)?;
        let record = read_record(&bytes).map_err(|error| self.input.changed().with_source(error))?;
        let (query, pos) = (record.query.into_owned(), record.pos);
        Ok(Row {
            index,
            line: row.line,
            query,
            prompt: record.prompt.map(std::borrow::Cow::into_owned),
            pos: pos.into_iter().map(std::borrow::Cow::into_owned).collect(),
            bytes,
        })
    }

    /// The positives of all rows that have this row's query, as numbers of texts, in order and without repetition.
    pub(super) fn positives(&self, row: usize) -> &[u32] {
        let range = self.rows.get(row).and_then(|row| {
            let group = row.group as usize;
            Some(*self.starts.get(group)? as usize..*self.starts.get(group + 1)? as usize)
        });
        range
            .and_then(|range| self.positives.get(range))
            .unwrap_or_default()
    }

    /// Reads a text.
    pub(super) fn text(&self, number: u32) -> Result<String> {
        let index = number as usize;
        let (Some(&offset), Some(&length)) = (self.offsets.get(index), self.lengths.get(index)) else {
            bail!(Internal, "text {number} of {}", self.offsets.len());
        };
        let place = Place { offset, length };
        match &self.pool {
            Some(pool) if index < self.candidates => pool.document(place),
            _ => self.input.text(place),
        }
    }

    /// The fingerprint of a text's [`plain`] form.
    pub(super) fn plain(&self, number: u32) -> u64 {
        self.plains.get(number as usize).copied().unwrap_or_default()
    }

    /// Whether there is a pool in which no row finds a positive, or a variant of one.
    pub(super) fn pool_lacks_positives(&self) -> bool {
        let wanted: HashSet<u64> = self.positives.iter().map(|number| self.plain(*number)).collect();
        let mut pool = self.plains.iter().take(self.candidates);
        self.pool.is_some() && !pool.any(|plain| wanted.contains(plain))
    }

    /// The id that a text has in the pool.
    pub(super) fn id(&self, number: u32) -> Result<Option<String>> {
        match (&self.pool, self.ids.get(number as usize)) {
            (Some(pool), Some(Some(place))) => {
                let bytes = pool.bytes(*place)?;
                Ok(serde_json::from_slice(&bytes)
                    .ok()
                    .or_else(|| String::from_utf8(bytes).ok()))
            }
            _ => Ok(None),
        }
    }

    /// The input, for errors.
    pub(super) fn input_path(&self) -> &Path {
        self.input.path()
    }
}

/// The file of a pool: itself, or corpus.jsonl in a folder.
fn pool_file(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    if !path.is_dir() {
        return Ok(path);
    }
    let names = ["corpus.jsonl", "corpus.jsonl.gz"].map(|name| path.join(name));
    names.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        let message = "the folder has no corpus.jsonl (or .gz); name a file of JSON lines with `text`";
        Error::new(ErrorKind::NotFound, message).with_path(&path)
    })
}

/// A row with a query and at least one positive that are not blank. Score columns are not looked at.
fn read_record(bytes: &[u8]) -> Result<TrainingRecord<'_>> {
    let record = RecordView::parse(bytes)?.into_unscored_record()?;
    let blank = |text: &str| text.trim().is_empty();
    let bad = |field: &str, message: &str| Err(Error::new(ErrorKind::InvalidData, message).with_field(field));
    if blank(&record.query) {
        return bad("query", "is blank; every row needs a text");
    }
    if record.pos.iter().all(|text| blank(text)) {
        return bad("pos", "has only blank texts; give at least one positive");
    }
    Ok(record)
}

/// What a text is compared by: lower case, white space runs as one space, none at the ends.
///
/// Two texts that differ in nothing else are variants of one another.
pub(super) fn plain(text: &str) -> u64 {
    let mut plain = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.extend(word.chars().flat_map(char::to_lowercase));
    }
    fingerprint(plain.as_bytes())
}

#[derive(Debug, Default)]
struct Texts {
    offsets: Vec<u64>,
    lengths: Vec<u32>,
    plains: Vec<u64>,
}

/// Texts while they are gathered.
#[derive(Default)]
struct Index {
    texts: Texts,
    /// Fingerprint to number. Texts are compared in full; another one with the same fingerprint stands under the next.
    numbers: HashMap<u64, u32>,
    repeated: u64,
    blank: u64,
    digest: Digest,
}

impl Index {
    fn take_pool_line(
        &mut self,
        source: &Source,
        line: &Line<'_>,
        ids: &mut Vec<Option<Place>>,
    ) -> Result<()> {
        // The view names what is wrong with the JSON in the same words as for training rows.
        RecordView::parse(line.bytes)?;
        let object = RawObject::parse(line.bytes)?;
        let text = object.document()?;
        let number = self.add(&text, Place::of_line(line), |place, _| source.document(place))?;
        if number.is_some_and(|number| number as usize == ids.len()) {
            let id = object
                .get("_id")
                .or_else(|| object.get("id"))
                .filter(|id| *id != "null");
            ids.push(id.map(|id| Place::of(id, line)));
        }
        Ok(())
    }

    /// The number of a text, a new one if it was not there before; none for a blank text.
    ///
    /// `read(place, number)` reads a text that was added earlier.
    fn add(
        &mut self,
        text: &str,
        place: Place,
        read: impl Fn(Place, usize) -> Result<String>,
    ) -> Result<Option<u32>> {
        if text.trim().is_empty() {
            self.blank += 1;
            return Ok(None);
        }
        let own = fingerprint(text.as_bytes());
        let mut slot = own;
        while let Some(&number) = self.numbers.get(&slot) {
            let index = number as usize;
            let (Some(&offset), Some(&length)) =
                (self.texts.offsets.get(index), self.texts.lengths.get(index))
            else {
                bail!(Internal, "text {number} of {}", self.texts.offsets.len());
            };
            if read(Place { offset, length }, index)? == text {
                self.repeated += 1;
                return Ok(Some(number));
            }
            slot = slot.wrapping_add(1);
        }
        let number = self.texts.offsets.len();
        let Some(number) = u32::try_from(number).ok().filter(|number| *number < u32::MAX) else {
            bail!(Unsupported, "more than 4294967294 different texts");
        };
        self.numbers.insert(slot, number);
        self.digest.add(text.as_bytes());
        self.texts.offsets.push(place.offset);
        self.texts.lengths.push(place.length);
        self.texts.plains.push(plain(text));
        Ok(Some(number))
    }
}

/// Rows while they are gathered.
#[derive(Default)]
struct Rows {
    places: Vec<RowPlace>,
    groups: HashMap<u64, u32>,
    /// Content hashes of the pairs of prompt and query, to 128 bits, and the number of each.
    pairs: HashMap<u128, u32>,
    asked: Vec<u32>,
    digest: Digest,
    bytes: Digest,
    /// Group and text of every positive.
    positives: Vec<(u32, u32)>,
}

impl Rows {
    /// The number of a query; queries that are variants of one another have the same.
    fn group(&mut self, query: &str) -> u32 {
        let next = self.groups.len() as u32;
        *self.groups.entry(plain(query)).or_insert(next)
    }

    fn push(&mut self, line: &Line<'_>, group: u32, record: &TrainingRecord<'_>) {
        self.bytes.add(line.bytes);
        let mut pair = Digest::default();
        // A mark keeps no prompt apart from an empty one.
        let prompt = record.prompt.as_ref().map(|prompt| format!("+{prompt}"));
        pair.add(prompt.unwrap_or_default().as_bytes())
            .add(record.query.as_bytes());
        let pair = pair.finish();
        let half = pair
            .get(..32)
            .and_then(|digits| u128::from_str_radix(digits, 16).ok());
        let half = half.unwrap_or_default();
        let next = self.asked.len() as u32;
        let asked = if let Some(asked) = self.pairs.get(&half) {
            *asked
        } else {
            self.digest.add(pair.as_bytes());
            self.pairs.insert(half, next);
            self.asked.push(self.places.len() as u32);
            next
        };
        self.places.push(RowPlace {
            place: Place::of_line(line),
            line: line.number,
            group,
            asked,
        });
    }

    /// Where each group's positives start, and all of them.
    fn by_group(&mut self) -> (Vec<u32>, Vec<u32>) {
        self.positives.sort_unstable();
        self.positives.dedup();
        let mut starts = vec![0; self.groups.len() + 1];
        for (group, _) in &self.positives {
            if let Some(count) = starts.get_mut(*group as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        self.places.shrink_to_fit();
        (starts, self.positives.iter().map(|(_, text)| *text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(input: &str, pool: Option<&str>) -> Result<Corpus> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let arguments = MineArguments {
            input_file: write("in.jsonl", input),
            candidate_pool: pool.map(|pool| write("pool.jsonl", pool)),
            ..MineArguments::default()
        };
        Corpus::open(&arguments, folder.path())
    }

    fn texts(corpus: &Corpus) -> Vec<String> {
        (0..corpus.len() as u32)
            .map(|number| corpus.text(number).unwrap())
            .collect()
    }

    #[test]
    fn texts_are_numbered_in_the_order_in_which_they_occur_first() {
        let corpus = open(
            "{\"query\":\"q\",\"pos\":[\"b\",\"a\"],\"neg\":[\"c\",\"b\",\" \"]}\n\
             {\"neg\":[\"\\u0061\",\"d\"],\"query\":\"r\",\"pos\":[\"\u{e9}\"],\"prompt\":\"p\"}\n",
            None,
        )
        .unwrap();
        assert_eq!(texts(&corpus), ["b", "a", "c", "\u{e9}", "d"]);
        assert_eq!((corpus.candidates(), corpus.rows(), corpus.queries()), (5, 2, 2));
        assert_eq!((corpus.repeated, corpus.blank), (2, 1));
        assert_eq!(
            (corpus.positives(0), corpus.positives(1)),
            (&[0, 1][..], &[3][..])
        );
        let row = corpus.row(1).unwrap();
        assert_eq!(
            (row.line, row.query.as_str(), row.prompt.as_deref()),
            (2, "r", Some("p"))
        );
        assert!(corpus.row(2).is_err());
    }

    #[test]
    fn lines_with_one_query_share_their_positives() {
        let corpus = open(
            "{\"query\":\"What is  it?\",\"pos\":[\"a\"]}\n{\"query\":\"x\",\"pos\":[\"b\"]}\n\
             {\"query\":\" what is it? \",\"pos\":[\"c\",\"a\"]}\n",
            None,
        )
        .unwrap();
        assert_eq!(corpus.queries(), 2);
        assert_eq!(corpus.positives(0), [0, 2]);
        assert_eq!(corpus.positives(2), [0, 2]);
        assert_eq!(corpus.positives(1), [1]);
        assert_eq!(corpus.asked(), [0, 1, 2]);
        let corpus = open(
            "{\"query\":\"q\",\"pos\":[\"a\"]}\n{\"query\":\"q\",\"pos\":[\"b\"],\"prompt\":\"\"}\n\
             {\"query\":\"q\",\"pos\":[\"c\"]}\n",
            None,
        )
        .unwrap();
        assert_eq!(corpus.asked(), [0, 1]);
        assert_eq!((corpus.asks(0), corpus.asks(1), corpus.asks(2)), (0, 1, 0));
    }

    #[test]
    fn a_pool_replaces_the_texts_of_the_input_and_keeps_its_ids() {
        let corpus = open(
            "{\"query\":\"q\",\"pos\":[\"two\",\"other\"],\"neg\":[\"n\"]}\n",
            Some(
                "{\"_id\":\"d1\",\"title\":\"T\",\"text\":\"one\"}\n{\"text\":\"two\",\"id\":7}\n{\"text\":\"one\",\"_id\":\"d3\"}\n\
                 {\"text\":\"three\"}\n",
            ),
        )
        .unwrap();
        assert_eq!(corpus.candidates(), 4);
        assert_eq!(texts(&corpus), ["T one", "two", "one", "three", "other"]);
        assert_eq!(corpus.positives(0), [1, 4]);
        let ids: Vec<_> = (0..5).map(|number| corpus.id(number).unwrap()).collect();
        let some = |id: &str| Some(id.to_owned());
        assert_eq!(ids, [some("d1"), some("7"), some("d3"), None, None]);
        assert_ne!(corpus.hashes().candidates, corpus.hashes().positives);
    }

    #[test]
    fn a_positive_is_found_in_a_pool_as_title_and_text() {
        let input = "{\"query\":\"q\",\"pos\":[\"Ice  melts\",\"by salt.\",\"Blank\"]}\n";
        let pool = "{\"title\":\" Ice \",\"text\":\"melts\"}\n{\"title\":null,\"text\":\"by salt.\"}\n\
                    {\"title\":\"Blank\",\"text\":\"\"}\n{\"title\":\" \",\"text\":\" as it is \"}\n";
        let corpus = open(input, Some(pool)).unwrap();
        assert_eq!(
            texts(&corpus)[..4],
            ["Ice  melts", "by salt.", "Blank", " as it is "]
        );
        assert_eq!(corpus.positives(0), [0, 1, 2]);
        assert!(!corpus.pool_lacks_positives());
        assert!(
            !open(input, Some("{\"text\":\"ICE melts\"}"))
                .unwrap()
                .pool_lacks_positives()
        );
        assert!(
            open(input, Some("{\"text\":\"melts\"}"))
                .unwrap()
                .pool_lacks_positives()
        );
        assert!(!open(input, None).unwrap().pool_lacks_positives());
    }

    #[test]
    fn bad_rows_are_errors_with_line_and_field() {
        let good = "{\"query\":\"q\",\"pos\":[\"a\"]}\n";
        for (input, pool, says) in [
            ("", None, "in.jsonl: the input has no rows"),
            ("{\"query\":\"q\"}", None, "in.jsonl:1: `pos`"),
            ("{\"query\":\" \",\"pos\":[\"a\"]}", None, "in.jsonl:1: `query`"),
            ("{\"query\":\"q\",\"pos\":[\" \"]}", None, "in.jsonl:1: `pos`"),
            ("\n{\"query\":", None, "in.jsonl:2: the JSON ends too early"),
            (good, Some(""), "pool.jsonl: the candidate pool has no text"),
            (
                good,
                Some("{\"text\":\" \"}"),
                "pool.jsonl: the candidate pool has no text",
            ),
            (
                good,
                Some("{\"text\":\"a\"}\n{\"body\":\"a\"}"),
                "pool.jsonl:2: `text`: is missing",
            ),
            (good, Some("{\"text\":5}"), "pool.jsonl:1: `text`: must be a text"),
            (
                good,
                Some("{\"text\":\"a\",\"title\":5}"),
                "pool.jsonl:1: `title`: must be a text",
            ),
            (good, Some("[1]"), "pool.jsonl:1: must be a JSON object"),
        ] {
            let error = open(input, pool).unwrap_err().to_string();
            assert!(error.contains(says), "{input} {pool:?}: {error}");
        }
    }
}
