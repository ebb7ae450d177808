//! Splits training data into train and dev so that no query and no positive is on both sides.
//!
//! Rows that share a query or a positive belong together, and so do rows that share one of these with them; case and the
//! amount of white space do not matter, as in the search for leaks. The groups are found in a first pass, in four bytes per
//! row and about twenty per different text, and written in a second one.

use std::collections::HashMap;

use serde::Serialize;

use super::leaks::loose_fingerprint;
use super::lines::{Found, LineSplitter, one_line};
use super::record::RecordView;
use crate::random::{Stream, key};

/// What decides a split.
#[derive(Clone, Copy, Debug)]
pub struct SplitOptions {
    /// The share of the rows that dev gets, from 0 to 1. It is not exceeded.
    pub dev_share: f64,
    /// The key of the draw.
    pub seed: u64,
    /// Also keep rows together that share a negative. With mined negatives this may leave one group.
    pub negatives_too: bool,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self {
            dev_share: 0.05,
            seed: 42,
            negatives_too: false,
        }
    }
}

/// How a split came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SplitReport {
    /// Rows of train.
    pub train: u64,
    /// Rows of dev.
    pub dev: u64,
    /// Groups of rows that belong together.
    pub groups: u64,
    /// Rows of the largest group.
    pub largest_group: u64,
    /// Rows that cannot be trained on, whatever their scores; they are on neither side.
    pub unreadable: u64,
    /// Places where an array is damaged; what is no row there is on neither side.
    pub broken_arrays: u64,
}

/// The two sides in JSON lines; whoever pushes empties them as often as he likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// The rows to train on.
    pub train: Vec<u8>,
    /// The rows to measure with.
    pub dev: Vec<u8>,
}

/// The first pass: which rows belong together.
#[derive(Debug)]
pub struct Groups {
    splitter: LineSplitter,
    links: Links,
}

#[derive(Debug)]
struct Links {
    options: SplitOptions,
    /// For each row an earlier row of its group, or itself; `None` for one that cannot be read.
    parents: Vec<Option<u32>>,
    /// The first row of each text.
    first: HashMap<u64, u32>,
    broken_arrays: u64,
}

/// The second pass: writes every row to its side.
#[derive(Debug)]
pub struct Split {
    splitter: LineSplitter,
    dev: Vec<Option<bool>>,
    row: usize,
    report: SplitReport,
}

impl Groups {
    /// Starts the first pass.
    pub fn new(options: SplitOptions) -> Self {
        Self {
            splitter: LineSplitter::default(),
            links: Links {
                options,
                parents: Vec::new(),
                first: HashMap::new(),
                broken_arrays: 0,
            },
        }
    }

    /// Takes the next bytes of a file, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        let Self { splitter, links } = self;
        splitter.push(bytes, |found| links.take(found));
    }

    /// Says that a file has ended; the next bytes are those of another.
    pub fn end_file(&mut self) {
        let Self { splitter, links } = self;
        splitter.finish(|found| links.take(found));
        *splitter = LineSplitter::default();
    }

    /// Draws the sides; the same files in the same order are then pushed again.
    pub fn finish(mut self) -> Split {
        self.end_file();
        let (dev, report) = self.links.draw();
        Split {
            splitter: LineSplitter::default(),
            dev,
            row: 0,
            report,
        }
    }
}

impl Links {
    fn take(&mut self, found: Found<'_>) {
        let line = match found {
            Found::Record(line) => line,
            Found::TooLong(_) => return self.parents.push(None),
            Found::BadArray { .. } => {
                self.broken_arrays += 1;
                return;
            }
        };
        let view = RecordView::parse(line.bytes).ok();
        let Some(record) = view.and_then(|view| view.into_unscored_record().ok()) else {
            return self.parents.push(None);
        };
        let row = self.parents.len() as u32;
        self.parents.push(Some(row));
        // A query and a passage with the same words are one text: either would be known from the other side.
        let negatives = record.neg.iter().filter(|_| self.options.negatives_too);
        let texts = record.pos.iter().chain(negatives).chain([&record.query]);
        let fingerprints: Vec<u64> = texts.map(|text| loose_fingerprint(text)).collect();
        for text in fingerprints {
            let other = *self.first.entry(text).or_insert(row);
            self.join(row, other);
        }
    }

    fn root(&mut self, mut row: u32) -> u32 {
        while let Some(Some(parent)) = self.parents.get(row as usize).copied() {
            if parent == row {
                break;
            }
            // Half the way for the next one who asks.
            let above = self
                .parents
                .get(parent as usize)
                .copied()
                .flatten()
                .unwrap_or(parent);
            if let Some(slot) = self.parents.get_mut(row as usize) {
                *slot = Some(above);
            }
            row = above;
        }
        row
    }

    fn join(&mut self, one: u32, two: u32) {
        let (one, two) = (self.root(one), self.root(two));
        if let Some(slot) = self.parents.get_mut(one.max(two) as usize) {
            *slot = Some(one.min(two));
        }
    }

    /// Gives whole groups to dev, in a random order, as long as they fit into its share.
    fn draw(mut self) -> (Vec<Option<bool>>, SplitReport) {
        let rows = self.parents.len();
        let readable: Vec<bool> = self.parents.iter().map(Option::is_some).collect();
        let roots: Vec<u32> = (0..rows as u32).map(|row| self.root(row)).collect();
        let mut sizes = vec![0_u64; rows];
        for (root, _) in roots.iter().zip(&readable).filter(|(_, readable)| **readable) {
            if let Some(size) = sizes.get_mut(*root as usize) {
                *size += 1;
            }
        }
        let mut groups: Vec<(u64, usize)> = (0..rows)
            .filter(|root| sizes.get(*root).is_some_and(|size| *size > 0))
            .map(|root| (key(self.options.seed, Stream::Split, root as u64), root))
            .collect();
        groups.sort_unstable();
        let total: u64 = sizes.iter().sum();
        let room = (self.options.dev_share.clamp(0.0, 1.0) * total as f64).floor() as u64;
        let (mut dev, mut is_dev) = (0, vec![false; rows]);
        for (_, root) in &groups {
            let size = sizes.get(*root).copied().unwrap_or_default();
            if dev + size <= room {
                dev += size;
                if let Some(side) = is_dev.get_mut(*root) {
                    *side = true;
                }
            }
        }
        let side = |(root, readable): (&u32, &bool)| {
            readable.then(|| is_dev.get(*root as usize).copied().unwrap_or_default())
        };
        let report = SplitReport {
            train: total - dev,
            dev,
            groups: groups.len() as u64,
            largest_group: sizes.iter().copied().max().unwrap_or_default(),
            unreadable: rows as u64 - total,
            broken_arrays: self.broken_arrays,
        };
        (roots.iter().zip(&readable).map(side).collect(), report)
    }
}

impl Split {
    /// How the split comes out.
    pub fn report(&self) -> SplitReport {
        self.report
    }

    /// Takes the next bytes of a file, cut anywhere.
    pub fn push(&mut self, bytes: &[u8], out: &mut Sides) {
        let Self {
            splitter, dev, row, ..
        } = self;
        splitter.push(bytes, |found| write(found, dev, row, out));
    }

    /// Says that a file has ended.
    pub fn end_file(&mut self, out: &mut Sides) {
        let Self {
            splitter, dev, row, ..
        } = self;
        splitter.finish(|found| write(found, dev, row, out));
        *splitter = LineSplitter::default();
    }
}

fn write(found: Found<'_>, dev: &[Option<bool>], row: &mut usize, out: &mut Sides) {
    let (Found::Record(line) | Found::TooLong(line)) = found else {
        return;
    };
    let side = match dev.get(*row).copied().flatten() {
        Some(true) => Some(&mut out.dev),
        Some(false) => Some(&mut out.train),
        None => None,
    };
    *row += 1;
    if let Some(side) = side {
        one_line(side, line.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn split(files: &[&str], options: SplitOptions, chunk: usize) -> (Sides, SplitReport) {
        let mut groups = Groups::new(options);
        for file in files {
            file.as_bytes().chunks(chunk).for_each(|piece| groups.push(piece));
            groups.end_file();
        }
        let (mut split, mut out) = (groups.finish(), Sides::default());
        for file in files {
            file.as_bytes()
                .chunks(chunk)
                .for_each(|piece| split.push(piece, &mut out));
            split.end_file(&mut out);
        }
        (out, split.report())
    }

    fn texts(side: &[u8]) -> BTreeSet<String> {
        let mut texts = BTreeSet::new();
        for line in std::str::from_utf8(side).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            texts.insert(row["query"].as_str().unwrap().to_owned());
            texts.extend(
                row["pos"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|text| text.as_str().unwrap().to_owned()),
            );
        }
        texts
    }

    /// Rows that share queries and positives in chains.
    fn rows(count: u64, name: &str) -> String {
        let row = |at: u64| {
            let (query, pos) = (at * 7 % (count / 2), at * 13 % count / 2);
            format!("{{\"query\":\"{name}{query}\",\"pos\":[\"p{pos}\"],\"neg\":[\"shared\"]}}\n")
        };
        (0..count).map(row).collect()
    }

    #[test]
    fn no_query_and_no_positive_is_on_both_sides() {
        for seed in 0..20 {
            let options = SplitOptions {
                dev_share: 0.3,
                seed,
                ..SplitOptions::default()
            };
            let (one, two) = (rows(400, "q"), rows(90, "r"));
            let (out, report) = split(&[&one, &two, "nonsense\n"], options, 1000);
            assert!(texts(&out.dev).is_disjoint(&texts(&out.train)));
            assert_eq!((report.train + report.dev, report.unreadable), (490, 1));
            assert!(report.dev <= 147 && report.largest_group > 1, "{report:?}");
            assert_eq!(
                out.dev.split_inclusive(|byte| *byte == b'\n').count() as u64,
                report.dev
            );
            assert_eq!(
                split(&[&one, &two, "nonsense\n"], options, 7),
                (out, report),
                "chunk borders"
            );
        }
    }

    #[test]
    fn dev_gets_its_share_where_rows_are_independent() {
        let data = (0..1000).fold(String::new(), |data, at| {
            data + &format!("{{\"query\":\"q{at}\",\"pos\":[\"p{at}\"]}}\n")
        });
        let options = SplitOptions {
            dev_share: 0.1,
            ..SplitOptions::default()
        };
        let (one, report) = split(&[&data], options, 4096);
        assert_eq!((report.train, report.dev, report.groups), (900, 100, 1000));
        let (other, _) = split(&[&data], SplitOptions { seed: 1, ..options }, 4096);
        assert_ne!(one.dev, other.dev);
    }

    #[test]
    fn texts_that_differ_in_case_or_blanks_stay_on_one_side() {
        let rows = "{\"query\":\"What is X?\",\"pos\":[\"a\"]}\n{\"query\":\"what  is x? \",\"pos\":[\"b\"]}\n\
                    {\"query\":\"c\",\"pos\":[\"WHAT IS X?\"],\"pos_scores\":3}\n";
        let (_, report) = split(&[rows], SplitOptions::default(), 64);
        assert_eq!((report.train, report.groups, report.unreadable), (3, 1, 0));
    }

    #[test]
    fn rows_that_cannot_be_trained_on_get_no_side() {
        let rows = "{\"foo\":1}\n{\"query\":\"\",\"pos\":[]}\n{\"query\":\"a\",\"pos\":\"shared\"}\n\
                    {\"query\":\"b\",\"pos\":[\"shared\"]}\n";
        let (out, report) = split(&[rows], SplitOptions::default(), 64);
        assert_eq!((report.train, report.dev, report.unreadable), (1, 0, 3));
        assert_eq!(out.train, b"{\"query\":\"b\",\"pos\":[\"shared\"]}\n");
    }

    #[test]
    fn rows_behind_an_array_get_a_side_too() {
        let row = |name: &str| format!("{{\"query\":\"{name}\",\"pos\":[\"{name}s\"]}}");
        let joined = format!("[{}]\n[{},{}]\n{}", row("a"), row("b"), row("c"), row("d"));
        let options = SplitOptions {
            dev_share: 0.5,
            ..SplitOptions::default()
        };
        let (_, report) = split(&[&joined], options, 7);
        assert_eq!((report.train, report.dev, report.broken_arrays), (2, 2, 2));
    }

    #[test]
    fn arrays_and_shared_negatives() {
        let array = "[{\"query\":\"a\",\r\n\"pos\":[\"b\"],\"neg\":[\"n\"]},{\"query\":\"c\",\"pos\":[\"d\"],\"neg\":[\"n\"]}]";
        let options = SplitOptions {
            dev_share: 0.5,
            ..SplitOptions::default()
        };
        let (out, report) = split(&[array], options, 1);
        assert_eq!((report.train, report.dev), (1, 1));
        assert_eq!(texts(&out.train).len() + texts(&out.dev).len(), 4);
        let together = SplitOptions {
            negatives_too: true,
            ..options
        };
        assert_eq!(split(&[array], together, 1).1.groups, 1);
        assert_eq!(split(&[""], options, 1).1, SplitReport::default());
    }
}
