//! What a validation keeps while rows go by: counts, lengths, fingerprints, findings.

use std::borrow::Cow;
use std::sync::Arc;

use memchr::memmem;

use super::codes;
use super::duplicates::Seen;
use super::findings::IssueLog;
use super::leaks::{EvaluationTexts, loose_fingerprint};
use super::lines::{Found, Line, LineSplitter, Position};
use super::quick;
use super::record::{RecordView, Slot, SlotList, whole};
use super::report::{FileReport, FirstRow, LeakReport, TextReport};
use super::rules::{self, Findings, Measured, Mode, Row};
use super::session::{TokenCounter, ValidationOptions};
use super::task::TaskType;
use super::template::Instructions;
use crate::issue::Severity;

/// A line longer than this is suspicious: no passage of a retrieval set is that long.
const LONG_LINE: u64 = 4 << 20;

/// Different names of prompts, types and columns that a file's report lists.
const NAMES: usize = 16;

/// Everything but the splitter, which hands records to it.
pub(super) struct State<'t> {
    pub(super) options: ValidationOptions,
    pub(super) mode: Mode,
    pub(super) instructions: Instructions,
    pub(super) counter: Option<TokenCounter<'t>>,
    pub(super) evaluation: Option<EvaluationTexts>,
    pub(super) leaks: LeakReport,
    pub(super) log: IssueLog,
    pub(super) done: Vec<FileReport>,
    pub(super) file: FileReport,
    pub(super) rows: u64,
    pub(super) queries: Seen<(u32, u32)>,
    pub(super) passages: Seen<()>,
    pub(super) positives: Seen<f32>,
    pub(super) query_texts: TextReport,
    pub(super) positive_texts: TextReport,
    pub(super) negative_texts: TextReport,
    /// Finds U+FFFD.
    pub(super) replacement: memmem::Finder<'static>,
    /// What was measured on one row, and below where it is read to: memory for the next.
    pub(super) measured: (Vec<Measured>, Vec<Measured>),
    pub(super) scratch: (Vec<u8>, quick::Lists),
}

impl State<'_> {
    /// Finds the character that stands for bytes that could not be decoded.
    pub(super) fn replacement() -> memmem::Finder<'static> {
        memmem::Finder::new("\u{fffd}")
    }

    /// Takes what the splitter found.
    pub(super) fn take(&mut self, found: Found<'_>) {
        match found {
            Found::Record(line) => self.take_record(&line),
            Found::TooLong(line) => {
                self.file.broken_rows += 1;
                let message = format_args!(
                    "the record has {} bytes, more than {}; is the file one object per line?",
                    line.length, self.options.max_line_bytes
                );
                self.log.add(
                    codes::LINE_TOO_LONG,
                    Severity::Error,
                    Some(&self.file.name),
                    Some(line.position()),
                    None,
                    message,
                );
            }
            Found::BadArray { line, message } => {
                let message = format_args!("{message}");
                self.log.add(
                    codes::BROKEN_ARRAY,
                    Severity::Error,
                    Some(&self.file.name),
                    Some(line.into()),
                    None,
                    message,
                );
            }
        }
    }

    fn take_record(&mut self, line: &Line<'_>) {
        let (mut room, mut lists) = std::mem::take(&mut self.scratch);
        let mut view = RecordView::default();
        match quick::read(line.bytes, &mut room, &mut lists, &mut view) {
            Ok(()) => self.take_row(line, &view),
            Err(broken) => {
                self.file.broken_rows += 1;
                let mut findings = Findings {
                    log: &mut self.log,
                    path: &self.file.name,
                    at: line.position(),
                };
                rules::broken(&broken, &mut findings);
            }
        }
        lists.take_back(&mut view);
        self.scratch = (room, lists);
    }

    fn take_row(&mut self, line: &Line<'_>, view: &RecordView<'_>) {
        let (mut pos, mut neg) = std::mem::take(&mut self.measured);
        measure(&view.pos, &mut pos);
        measure(&view.neg, &mut neg);
        let query = view.query.given().map(|text| Measured::of(text));
        let first = Arc::clone(&self.file.first);
        let first_type = (self.file.rows > 0).then_some(first.task_type.as_deref());
        let row = Row {
            view,
            query,
            pos: &pos,
            neg: &neg,
            first_type,
        };
        let mut findings = Findings {
            log: &mut self.log,
            path: &self.file.name,
            at: line.position(),
        };
        for rule in rules::ALL {
            rule(&row, self.mode, &mut findings);
        }
        self.look_at_characters(line, &row);
        self.count_file(line.position(), &row);
        self.count_texts(&row);
        self.find_duplicates(line.position(), &row);
        self.find_leaks(line.position(), view);
        self.count_tokens(view);
        self.rows += 1;
        self.measured = (pos, neg);
    }

    fn look_at_characters(&mut self, line: &Line<'_>, row: &Row<'_>) {
        let name = Some(self.file.name.as_str());
        if line.length > LONG_LINE {
            let message = format_args!("the line has {} bytes, much for one row", line.length);
            self.log.add(
                codes::LINE_LONG,
                Severity::Warning,
                name,
                Some(line.position()),
                None,
                message,
            );
        }
        // Python writes it as an escape, so that it is looked for in the texts; one of single bytes cannot have it.
        let view = row.view;
        let texts = [(&view.pos, row.pos), (&view.neg, row.neg)]
            .into_iter()
            .flat_map(|(list, measured)| texts(list).zip(measured))
            .chain(view.query.given().map(AsRef::as_ref).zip(row.query.as_ref()));
        let prompts = [
            &view.prompt,
            &view.query_prompt,
            &view.passage_prompt,
            &view.category,
        ];
        let replaced = |text: &str| self.replacement.find(text.as_bytes()).is_some();
        let mut texts = texts.filter(|(text, measured)| measured.characters < text.len() as u64);
        if texts.any(|(text, _)| replaced(text))
            || prompts
                .into_iter()
                .filter_map(Slot::given)
                .any(|text| replaced(text))
        {
            let message = format_args!("a text has the character U+FFFD, the trace of a wrong decoding");
            self.log.add(
                codes::REPLACEMENT_CHARACTER,
                Severity::Warning,
                name,
                Some(line.position()),
                None,
                message,
            );
        }
    }

    fn count_file(&mut self, at: Position, row: &Row<'_>) {
        let (view, most) = (row.view, self.options.max_issues_per_code);
        let file = &mut self.file;
        let size = |slot: &Slot<f64>| slot.given().and_then(|value| whole(*value));
        let sizes = (size(&view.batch_size), size(&view.train_group_size));
        let counted =
            |scores: &SlotList<f64>, texts: usize| scores.given().is_some_and(|scores| scores.len() == texts);
        let scored = counted(&view.pos_scores, view.pos.given().map_or(0, Vec::len))
            && (row.neg.is_empty() || counted(&view.neg_scores, view.neg.given().map_or(0, Vec::len)));
        if file.rows == 0 {
            file.first = Arc::new(FirstRow {
                line: at.line,
                task_type: view.task_type.given().map(|name| name.clone().into_owned()),
                batch_size: sizes.0,
                train_group_size: sizes.1,
                scored,
            });
        } else if sizes != (file.first.batch_size, file.first.train_group_size) {
            file.other_sizes.add(at, most);
        }
        file.rows += 1;
        if !scored {
            file.unscored.add(at, most);
        }
        if row.neg.is_empty() {
            file.without_negatives.add(at, most);
        }
        file.positives.add(row.pos.len() as u64);
        file.negatives.add(row.neg.len() as u64);
        for (scores, range) in [
            (&view.pos_scores, &mut file.pos_scores),
            (&view.neg_scores, &mut file.neg_scores),
        ] {
            scores
                .given()
                .into_iter()
                .flatten()
                .filter_map(Slot::given)
                .for_each(|score| range.add(*score));
        }
        if let Some(name) = view.task_type.given() {
            count_name(&mut file.types, name);
        }
        if let Some(prompt) = view.prompt.given() {
            file.prompted += 1;
            count_name(&mut file.prompts, prompt);
        }
        for key in &view.other_keys {
            count_name(&mut file.other_columns, key);
        }
    }

    fn count_texts(&mut self, row: &Row<'_>) {
        if let Some(query) = row.query {
            self.query_texts.characters.add(query.characters);
        }
        row.pos
            .iter()
            .for_each(|text| self.positive_texts.characters.add(text.characters));
        row.neg
            .iter()
            .for_each(|text| self.negative_texts.characters.add(text.characters));
    }

    fn find_duplicates(&mut self, at: Position, row: &Row<'_>) {
        for text in row.pos.iter().chain(row.neg) {
            self.passages.see(text.fingerprint, ());
        }
        // A positive is drawn with this chance.
        let weight = 1.0 / row.pos.len().max(1) as f32;
        for text in row.pos {
            if let Some(before) = self.positives.see(text.fingerprint, weight) {
                self.file.shared_pairs += 2.0 * f64::from(*before) * f64::from(weight);
                *before += weight;
            }
        }
        let Some(query) = row.query.filter(|query| !query.blank) else {
            return;
        };
        // In an array the line says nothing.
        let number = at.element.unwrap_or(at.line);
        let place = (self.done.len() as u32, u32::try_from(number).unwrap_or(u32::MAX));
        if let Some(&mut (file, first)) = self.queries.see(query.fingerprint, place) {
            let (file, between) = match self.done.get(file as usize) {
                Some(file) if file.array => (file.name.as_str(), ", element "),
                Some(file) => (file.name.as_str(), ":"),
                None if at.element.is_some() => ("", "element "),
                None => ("", "line "),
            };
            let message = format_args!(
                "is also the query of {file}{between}{first}; join their positives into one row, or they are negatives of each other"
            );
            self.log.add(
                codes::QUERY_REPEATED,
                Severity::Warning,
                Some(&self.file.name),
                Some(at),
                Some("query"),
                message,
            );
        }
    }

    fn find_leaks(&mut self, at: Position, view: &RecordView<'_>) {
        let Some(evaluation) = &self.evaluation else {
            return;
        };
        if let Some(query) = view.query.given()
            && evaluation.queries.contains(loose_fingerprint(query))
        {
            self.leaks.leaked_queries += 1;
            let message = format_args!(
                "is a query of the evaluation data, whose scores it will flatter; remove the row"
            );
            self.log.add(
                codes::LEAK_QUERY,
                Severity::Warning,
                Some(&self.file.name),
                Some(at),
                Some("query"),
                message,
            );
        }
        let mut positives = view.pos.given().into_iter().flatten().filter_map(Slot::given);
        if positives.any(|text| evaluation.passages.contains(loose_fingerprint(text))) {
            self.leaks.leaked_positives += 1;
        }
    }

    fn count_tokens(&mut self, view: &RecordView<'_>) {
        let Some(counter) = self.counter else { return };
        // The first rows all, then of each doubling of the data half as many, with double weight.
        let octave = (self.rows / self.options.token_rows.max(1))
            .checked_ilog2()
            .map_or(0, |octave| octave + 1);
        if !self.rows.is_multiple_of(1_u64 << octave) {
            return;
        }
        let weight = 1_u64 << octave;
        let [query_prompt, passage_prompt] = self.instructions.prompts(
            [&view.prompt, &view.query_prompt, &view.passage_prompt]
                .map(|slot| slot.given().map(AsRef::as_ref)),
        );
        let task = view
            .task_type
            .given()
            .map_or(TaskType::Normal, |name| TaskType::from_name(name));
        let as_queries = self.mode.same_dataset && task.passages_are_queries();
        let count = |report: &mut TextReport, text: &str| {
            let tokens = counter(text) as u64;
            report.tokens.get_or_insert_default().add_times(tokens, weight);
            report.cut += if tokens > report.max_tokens as u64 {
                weight
            } else {
                0
            };
        };
        if let Some(text) = view.query.given() {
            count(
                &mut self.query_texts,
                &self.instructions.query(text, query_prompt),
            );
        }
        for (list, report) in [
            (&view.pos, &mut self.positive_texts),
            (&view.neg, &mut self.negative_texts),
        ] {
            for text in list.given().into_iter().flatten().filter_map(Slot::given) {
                count(
                    report,
                    &self.instructions.passage(text, passage_prompt, as_queries),
                );
            }
        }
    }

    /// Ends a file, whose bytes went through `splitter`.
    pub(super) fn end_file(&mut self, splitter: &LineSplitter) {
        let mut file = std::mem::take(&mut self.file);
        file.bytes = splitter.bytes();
        file.array = splitter.is_array();
        file.byte_order_mark = splitter.has_bom();
        file.crlf_lines = splitter.crlf_lines();
        file.blank_lines = splitter.blank_lines();
        let name = Some(file.name.as_str());
        if file.byte_order_mark {
            let message = format_args!(
                "begins with a byte order mark; it is skipped here, other tools may stumble over it"
            );
            self.log.add(
                codes::BYTE_ORDER_MARK,
                Severity::Warning,
                name,
                Some(1.into()),
                None,
                message,
            );
        }
        if file.crlf_lines > 0 {
            let message = format_args!("{} lines end in CR LF, which does no harm", file.crlf_lines);
            self.log
                .add(codes::CRLF, Severity::Info, name, None, None, message);
        }
        self.done.push(file);
    }
}

/// The texts of a list, without what is none.
fn texts<'a>(list: &'a SlotList<Cow<'_, str>>) -> impl Iterator<Item = &'a str> {
    list.given()
        .into_iter()
        .flatten()
        .filter_map(Slot::given)
        .map(AsRef::as_ref)
}

fn measure(list: &SlotList<Cow<'_, str>>, measured: &mut Vec<Measured>) {
    measured.clear();
    measured.extend(texts(list).map(Measured::of));
}

fn count_name(names: &mut std::collections::BTreeMap<String, u64>, name: &str) {
    // Prompts can be long; what is listed is their beginning.
    let name = name
        .char_indices()
        .nth(200)
        .and_then(|(end, _)| name.get(..end))
        .unwrap_or(name);
    if let Some(count) = names.get_mut(name) {
        *count += 1;
    } else if names.len() < NAMES {
        names.insert(name.to_owned(), 1);
    }
}
