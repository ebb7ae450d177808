//! One training row: a lenient view that keeps what is wrong for the report, and the strict record that trains.
//!
//! Both come from one parser, so what the validator accepts is what the trainer reads. Texts are borrowed from the
//! line wherever the JSON has no escapes in them.

use std::borrow::Cow;

use serde::de::DeserializeSeed;

use super::parse::{ViewSeed, broken_json, broken_utf8};
use crate::error::{Error, ErrorKind, Result};

/// A value as found in the data: absent, `null`, of the wrong type, or given.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Slot<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// The value is `null`; read as absent.
    Null,
    /// The value has the wrong type; the text says which it has, such as `a number`.
    Wrong(&'static str),
    /// The value.
    Given(T),
}

impl<T> Slot<T> {
    /// The value, where there is one of the right type.
    pub const fn given(&self) -> Option<&T> {
        match self {
            Self::Given(value) => Some(value),
            _ => None,
        }
    }

    /// Whether the key is missing or `null`.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent | Self::Null)
    }
}

/// A list whose elements may be wrong one by one.
pub type SlotList<T> = Slot<Vec<Slot<T>>>;

/// A row as written, with everything that is wrong about its types still visible.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordView<'a> {
    /// The anchor text.
    pub query: Slot<Cow<'a, str>>,
    /// The positives.
    pub pos: SlotList<Cow<'a, str>>,
    /// The explicit negatives.
    pub neg: SlotList<Cow<'a, str>>,
    /// Teacher scores of the positives.
    pub pos_scores: SlotList<f64>,
    /// Teacher scores of the negatives.
    pub neg_scores: SlotList<f64>,
    /// The row's own instruction.
    pub prompt: Slot<Cow<'a, str>>,
    /// A reranker's own instruction for the row's query.
    pub query_prompt: Slot<Cow<'a, str>>,
    /// A reranker's own instruction for the row's passages.
    pub passage_prompt: Slot<Cow<'a, str>>,
    /// The task type, key `type`.
    pub task_type: Slot<Cow<'a, str>>,
    /// The response text of in-context examples in clustering rows.
    pub category: Slot<Cow<'a, str>>,
    /// Queries per device for the whole file (read from its first row).
    pub batch_size: Slot<f64>,
    /// Passages per query for the whole file (read from its first row).
    pub train_group_size: Slot<f64>,
    /// A known key that occurs twice.
    pub repeated_key: Option<&'static str>,
    /// Keys that bge does not know, in the order of the row.
    pub other_keys: Vec<Cow<'a, str>>,
}

/// Why a line is no JSON object at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What kind of damage.
    pub kind: BrokenKind,
    /// Lines below the start of the element (0 in JSON lines).
    pub line_offset: u64,
    /// Byte column, counted from 1.
    pub column: usize,
    /// What is wrong; lower-case, no full stop.
    pub message: String,
}

/// The kinds of damage a line can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenKind {
    /// Bytes that are not UTF-8.
    Utf8,
    /// `NaN` or `Infinity`, which Python writes and JSON does not have.
    NotFinite,
    /// The JSON ends too early.
    Truncated,
    /// Any other error of syntax.
    Syntax,
    /// Valid JSON, but not an object.
    NotObject,
}

impl<'a> RecordView<'a> {
    /// Reads one line or array element that holds exactly one JSON object.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Broken> {
        let mut view = Self::default();
        view.fill(bytes)?;
        Ok(view)
    }

    /// Reads one line into an empty view, as moving one costs as much as a short row.
    pub(super) fn fill(&mut self, bytes: &'a [u8]) -> Result<(), Broken> {
        let text = simdutf8::basic::from_utf8(bytes).map_err(|_| broken_utf8(bytes))?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let read = ViewSeed(self).deserialize(&mut reader);
        read.and_then(|()| reader.end())
            .map_err(|error| broken_json(bytes, &error))
    }

    /// Reads the object at the start of `bytes` and ignores what follows it.
    pub fn parse_prefix(bytes: &'a [u8]) -> Result<Self, Broken> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let mut view = Self::default();
        ViewSeed(&mut view)
            .deserialize(&mut reader)
            .map_err(|error| broken_json(bytes, &error))?;
        Ok(view)
    }

    /// The record to train on without teacher scores: the score columns are not looked at.
    pub fn into_unscored_record(mut self) -> Result<TrainingRecord<'a>> {
        self.pos_scores = Slot::Absent;
        self.neg_scores = Slot::Absent;
        self.into_record()
    }

    /// The record to train on, or an error that names the first bad field.
    ///
    /// `null` counts as absent, a missing `neg` as an empty one. An error has no path and line; the caller adds them.
    pub fn into_record(self) -> Result<TrainingRecord<'a>> {
        if let Some(key) = self.repeated_key {
            return Err(invalid(key, "occurs twice in the row; keep one".into()));
        }
        let pos = texts("pos", self.pos)?.unwrap_or_default();
        if pos.is_empty() {
            return Err(invalid("pos", "has no positive; give at least one text".into()));
        }
        Ok(TrainingRecord {
            query: text("query", self.query)?
                .ok_or_else(|| invalid("query", "is missing; every row needs one text".into()))?,
            pos,
            neg: texts("neg", self.neg)?.unwrap_or_default(),
            pos_scores: scores("pos_scores", self.pos_scores)?,
            neg_scores: scores("neg_scores", self.neg_scores)?,
            prompt: text("prompt", self.prompt)?,
            query_prompt: text("query_prompt", self.query_prompt)?,
            passage_prompt: text("passage_prompt", self.passage_prompt)?,
            task_type: text("type", self.task_type)?,
            category: text("category", self.category)?,
            batch_size: count("batch_size", &self.batch_size)?,
            train_group_size: count("train_group_size", &self.train_group_size)?,
        })
    }
}

/// One training row, checked for types and required fields; texts may borrow from the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingRecord<'a> {
    /// The anchor text.
    pub query: Cow<'a, str>,
    /// The positives, at least one.
    pub pos: Vec<Cow<'a, str>>,
    /// The explicit negatives, may be empty.
    pub neg: Vec<Cow<'a, str>>,
    /// Teacher scores of the positives.
    pub pos_scores: Option<Vec<f32>>,
    /// Teacher scores of the negatives.
    pub neg_scores: Option<Vec<f32>>,
    /// The row's own instruction; replaces `query_instruction_for_retrieval`.
    pub prompt: Option<Cow<'a, str>>,
    /// Replaces `query_instruction_for_rerank`; embedders do not read it.
    pub query_prompt: Option<Cow<'a, str>>,
    /// Replaces `passage_instruction_for_rerank`; embedders do not read it.
    pub passage_prompt: Option<Cow<'a, str>>,
    /// The task type, key `type`.
    pub task_type: Option<Cow<'a, str>>,
    /// The response text of in-context examples in clustering rows.
    pub category: Option<Cow<'a, str>>,
    /// Queries per device for the whole file (read from its first row).
    pub batch_size: Option<usize>,
    /// Passages per query for the whole file (read from its first row).
    pub train_group_size: Option<usize>,
}

impl<'a> TrainingRecord<'a> {
    /// Reads one JSON object; the error has a field, the caller adds path and line.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        RecordView::parse(bytes).map_err(Error::from)?.into_record()
    }

    /// Whether the row has teacher scores for all its passages.
    pub fn has_scores(&self) -> bool {
        let counted =
            |scores: &Option<Vec<f32>>, texts: usize| scores.as_ref().is_some_and(|s| s.len() == texts);
        counted(&self.pos_scores, self.pos.len())
            && (self.neg.is_empty() || counted(&self.neg_scores, self.neg.len()))
    }

    /// The same record without borrows.
    pub fn into_owned(self) -> TrainingRecord<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let own_all = |texts: Vec<Cow<'_, str>>| texts.into_iter().map(own).collect();
        TrainingRecord {
            query: own(self.query),
            pos: own_all(self.pos),
            neg: own_all(self.neg),
            pos_scores: self.pos_scores,
            neg_scores: self.neg_scores,
            prompt: self.prompt.map(own),
            query_prompt: self.query_prompt.map(own),
            passage_prompt: self.passage_prompt.map(own),
            task_type: self.task_type.map(own),
            category: self.category.map(own),
            batch_size: self.batch_size,
            train_group_size: self.train_group_size,
        }
    }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        Error::new(
            ErrorKind::InvalidData,
            format!("{} (column {})", broken.message, broken.column),
        )
    }
}

fn invalid(field: &str, message: String) -> Error {
    Error::new(ErrorKind::InvalidData, message).with_field(field)
}

fn text<'a>(field: &str, slot: Slot<Cow<'a, str>>) -> Result<Option<Cow<'a, str>>> {
    match slot {
        Slot::Absent | Slot::Null => Ok(None),
        Slot::Wrong(kind) => Err(invalid(field, format!("must be a text, found {kind}"))),
        Slot::Given(text) => Ok(Some(text)),
    }
}

fn list<T>(field: &str, element: &str, slot: SlotList<T>) -> Result<Option<Vec<T>>> {
    let values = match slot {
        Slot::Absent | Slot::Null => return Ok(None),
        Slot::Wrong(kind) => {
            return Err(invalid(
                field,
                format!("must be a list of {element}s, found {kind}"),
            ));
        }
        Slot::Given(values) => values,
    };
    let mut list = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        match value {
            Slot::Given(value) => list.push(value),
            Slot::Wrong(kind) => {
                return Err(invalid(
                    field,
                    format!("element {} must be a {element}, found {kind}", index + 1),
                ));
            }
            Slot::Absent | Slot::Null => {
                return Err(invalid(
                    field,
                    format!("element {} must be a {element}, found null", index + 1),
                ));
            }
        }
    }
    Ok(Some(list))
}

fn texts<'a>(field: &str, slot: SlotList<Cow<'a, str>>) -> Result<Option<Vec<Cow<'a, str>>>> {
    list(field, "text", slot)
}

fn scores(field: &str, slot: SlotList<f64>) -> Result<Option<Vec<f32>>> {
    let scores = list(field, "number", slot)?;
    Ok(scores.map(|scores| scores.into_iter().map(|score| score as f32).collect()))
}

fn count(field: &str, slot: &Slot<f64>) -> Result<Option<usize>> {
    match slot {
        Slot::Absent | Slot::Null => Ok(None),
        Slot::Wrong(kind) => Err(invalid(field, format!("must be a whole number, found {kind}"))),
        Slot::Given(value) => match whole(*value) {
            Some(count) => Ok(Some(count)),
            None => Err(invalid(field, format!("must be a whole number, found {value}"))),
        },
    }
}

/// The number as a count, when it is whole, not negative and of a sane size.
pub(crate) fn whole(value: f64) -> Option<usize> {
    (value.fract() == 0.0 && (0.0..=1e9).contains(&value)).then_some(value as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_borrows_its_texts_and_carries_unknown_columns() {
        let line = br#"{"query":"q","pos":["p","a\nb"],"neg":null,"pos_scores":[1,2.5],"id":{"a":[1]},"prompt":null}"#;
        let view = RecordView::parse(line).unwrap();
        assert!(matches!(view.query.given(), Some(Cow::Borrowed("q"))));
        assert_eq!(view.other_keys, ["id"]);
        let record = view.into_record().unwrap();
        assert_eq!(record.pos, ["p", "a\nb"]);
        assert!(record.neg.is_empty() && record.prompt.is_none());
        assert_eq!(record.pos_scores, Some(vec![1.0, 2.5]));
        assert!(record.has_scores());
    }

    #[test]
    fn every_wrong_type_is_named_by_its_field() {
        for (line, field, part) in [
            (r#"{"query":3,"pos":["p"]}"#, "query", "found a number"),
            (r#"{"query":"q","pos":"p"}"#, "pos", "found a text"),
            (
                r#"{"query":"q","pos":[null]}"#,
                "pos",
                "element 1 must be a text, found null",
            ),
            (r#"{"query":"q","pos":[]}"#, "pos", "no positive"),
            (
                r#"{"query":"q","pos":["p"],"neg":[["n"]]}"#,
                "neg",
                "found a list",
            ),
            (
                r#"{"query":"q","pos":["p"],"neg":{"a":1}}"#,
                "neg",
                "found an object",
            ),
            (
                r#"{"query":"q","pos":["p"],"pos_scores":["1"]}"#,
                "pos_scores",
                "must be a number, found a text",
            ),
            (
                r#"{"query":"q","pos":["p"],"batch_size":1.5}"#,
                "batch_size",
                "whole number",
            ),
            (r#"{"query":"q","pos":["p"],"query":"r"}"#, "query", "twice"),
            (r#"{"pos":["p"]}"#, "query", "missing"),
        ] {
            let error = TrainingRecord::parse(line.as_bytes()).unwrap_err();
            assert_eq!(error.field(), Some(field), "{line}: {error}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn damage_is_told_apart() {
        for (line, kind) in [
            (&b"{\"query\": \"a"[..], BrokenKind::Truncated),
            (b"{\"query\": }", BrokenKind::Syntax),
            (b"{} {}", BrokenKind::Syntax),
            (b"[1]", BrokenKind::NotObject),
            (b"3", BrokenKind::NotObject),
            (b"\"x\"", BrokenKind::NotObject),
            (b"null", BrokenKind::NotObject),
            (b"{\"pos_scores\": [NaN]}", BrokenKind::NotFinite),
            (b"{\"pos_scores\": [1, -Infinity]}", BrokenKind::NotFinite),
            (b"{\"pos_scores\": [1e999]}", BrokenKind::NotFinite),
            (b"{\"query\": \"\xff\"}", BrokenKind::Utf8),
            (b"\xff\xfe{\0", BrokenKind::Utf8),
        ] {
            let broken = RecordView::parse(line).unwrap_err();
            assert_eq!(broken.kind, kind, "{}: {broken:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn deep_nesting_in_any_column_does_not_exhaust_the_stack() {
        for field in ["query", "pos", "other"] {
            let line = format!("{{\"{field}\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
            let _ = RecordView::parse(line.as_bytes());
        }
    }
}
