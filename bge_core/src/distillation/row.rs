//! One line of a file to score: its pairs, and the same line with their scores.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::data::kind_of;
use crate::error::{Error, ErrorKind, Result};

/// What the lines of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Training rows: `query`, `pos` and perhaps `neg` give `pos_scores` and `neg_scores`.
    Training,
    /// `query` and `passage` give `score`.
    Pair,
}

/// The pairs of one line.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    pub(super) query: String,
    /// The positives, then the negatives; or the one passage.
    pub(super) passages: Vec<String>,
    /// How many of them are positives.
    positives: usize,
}

impl Row {
    /// Reads a line; an error names the field.
    pub(super) fn parse(line: &[u8], shape: Shape) -> Result<Self> {
        let bad = |message: &str| Error::new(ErrorKind::InvalidData, message);
        let value: Value =
            serde_json::from_slice(line).map_err(|error| bad("the line is not JSON").with_source(error))?;
        let Value::Object(object) = value else {
            return Err(bad("the line is not a JSON object"));
        };
        let query = text(&object, "query")?;
        if query.trim().is_empty() {
            return Err(bad("the text is blank").with_field("query"));
        }
        if shape == Shape::Pair {
            let passages = vec![text(&object, "passage")?];
            return Ok(Self {
                query,
                passages,
                positives: 1,
            });
        }
        let mut passages = texts(&object, "pos")?.ok_or_else(|| missing("pos", "a list of texts"))?;
        let positives = passages.len();
        passages.extend(texts(&object, "neg")?.unwrap_or_default());
        Ok(Self {
            query,
            passages,
            positives,
        })
    }

    /// The line with the scores of its passages, on one line, without a line ending.
    ///
    /// Every other byte stays; older scores are replaced where they stand, new ones go to the end.
    pub(super) fn with_scores(&self, line: &[u8], scores: &[f32], shape: Shape) -> Result<String> {
        let line = std::str::from_utf8(line).map_err(|error| {
            Error::new(ErrorKind::InvalidData, "the line is not UTF-8").with_source(error)
        })?;
        let list = |scores: &[f32]| {
            let numbers: Vec<String> = scores.iter().copied().map(number).collect();
            format!("[{}]", numbers.join(", "))
        };
        let (pos, neg) = scores.split_at(self.positives.min(scores.len()));
        let updates = match shape {
            Shape::Training => vec![("pos_scores", list(pos)), ("neg_scores", list(neg))],
            Shape::Pair => vec![(
                "score",
                pos.first().copied().map_or_else(|| "null".to_owned(), number),
            )],
        };
        let mut out = line.to_owned();
        for (name, value) in &updates {
            out = with_member(&out, name, value);
        }
        // A row of a JSON array may span lines; between tokens a space does as well.
        Ok(out.replace(['\n', '\r'], " "))
    }
}

fn missing(field: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidData,
        format!("the field is missing; expected {what}"),
    )
    .with_field(field)
}

fn text(object: &Map<String, Value>, field: &str) -> Result<String> {
    match object.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        None => Err(missing(field, "a text")),
        Some(other) => Err(wrong(field, "a text", other)),
    }
}

/// A list of texts; none where the field is missing or null.
fn texts(object: &Map<String, Value>, field: &str) -> Result<Option<Vec<String>>> {
    let items = match object.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(field, "a list of texts", other)),
    };
    let texts = items.iter().map(|item| match item {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong(field, "a list of texts", other)),
    });
    texts.collect::<Result<_>>().map(Some)
}

fn wrong(field: &str, expected: &str, value: &Value) -> Error {
    let message = format!("expected {expected}, found {}", kind_of(value));
    Error::new(ErrorKind::InvalidData, message).with_field(field)
}

/// The shortest decimal that is read back as the same f32, always with a point or an exponent: trainers want floats.
fn number(score: f32) -> String {
    format!("{score:?}")
}

/// A JSON object with the value of a member replaced, wherever it stands, or added at the end.
fn with_member(object: &str, name: &str, value: &str) -> String {
    let members = members(object);
    let mut out = String::with_capacity(object.len() + name.len() + value.len() + 8);
    let mut copied = 0;
    for (key, old) in &members {
        let is_name = serde_json::from_str::<String>(&object[key.clone()]).is_ok_and(|key| key == name);
        if is_name {
            out.push_str(&object[copied..old.start]);
            out.push_str(value);
            copied = old.end;
        }
    }
    if copied == 0
        && let Some((_, last)) = members.last()
    {
        out.push_str(&object[..last.end]);
        out.push_str(&format!(", \"{name}\": {value}"));
        copied = last.end;
    }
    out.push_str(&object[copied..]);
    out
}

/// Where the keys (with quotes) and values of a valid JSON object are in its text.
fn members(object: &str) -> Vec<(Range<usize>, Range<usize>)> {
    let bytes = object.as_bytes();
    let mut members = Vec::new();
    let (mut depth, mut inside, mut escaped) = (0_usize, false, false);
    let mut string_start = 0;
    let mut key: Option<Range<usize>> = None;
    // The value's first byte and the end of its last one so far.
    let mut value: Option<Range<usize>> = None;
    for (at, &byte) in bytes.iter().enumerate() {
        if inside {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    inside = false;
                    if depth == 1 && key.is_none() {
                        key = Some(string_start..at + 1);
                    } else if let Some(value) = &mut value {
                        value.end = at + 1;
                    }
                }
                _ => {}
            }
            continue;
        }
        let starts_value = depth == 1 && value.as_ref().is_some_and(Range::is_empty);
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            b':' if depth == 1 && value.is_none() => {
                value = Some(at + 1..at + 1);
                continue;
            }
            b',' | b'}' if depth == 1 => {
                if let (Some(key), Some(value)) = (key.take(), value.take()) {
                    members.push((key, value));
                }
                depth -= usize::from(byte == b'}');
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                inside = true;
                string_start = at;
            }
            _ => {}
        }
        if let Some(value) = &mut value {
            if starts_value {
                value.start = at;
            }
            value.end = at + 1;
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(line: &str, scores: &[f32]) -> String {
        let row = Row::parse(line.as_bytes(), Shape::Training).unwrap();
        row.with_scores(line.as_bytes(), scores, Shape::Training).unwrap()
    }

    #[test]
    fn other_bytes_stay_and_scores_go_to_the_end() {
        assert_eq!(
            scored(
                r#"{"query":"q\u00e9 }","x": {"pos": [1,{"a":"]"}]} ,  "pos":["p"], "id":1e2 }"#,
                &[1.0]
            ),
            r#"{"query":"q\u00e9 }","x": {"pos": [1,{"a":"]"}]} ,  "pos":["p"], "id":1e2, "pos_scores": [1.0], "neg_scores": [] }"#
        );
    }

    #[test]
    fn older_scores_are_replaced_where_they_stand() {
        assert_eq!(
            scored(
                r#"{"neg_scores": [1, 2] , "query": "q", "pos": ["p", "\\\"r"], "neg": ["n"], "pos\u005fscores":null}"#,
                &[0.5, -2.0, 1e-9]
            ),
            r#"{"neg_scores": [1e-9] , "query": "q", "pos": ["p", "\\\"r"], "neg": ["n"], "pos\u005fscores":[0.5, -2.0]}"#
        );
    }

    #[test]
    fn a_row_over_several_lines_becomes_one() {
        let out = scored("{\n \"query\": \"a\\nb\",\r\n \"pos\": [\n\"p\"]\n}", &[3.25]);
        assert!(!out.contains('\n') && out.contains("a\\nb"), "{out}");
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["pos_scores"], serde_json::json!([3.25]));
    }

    #[test]
    fn a_pair_gets_one_score() {
        let line = br#"{"passage": "p", "query": "q"}"#;
        let row = Row::parse(line, Shape::Pair).unwrap();
        let out = row.with_scores(line, &[7.0], Shape::Pair).unwrap();
        assert_eq!(out, r#"{"passage": "p", "query": "q", "score": 7.0}"#);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (line, field, says) in [
            (r#"{"query": "q""#, None, "JSON"),
            ("[1]", None, "object"),
            (r#"{"pos": ["p"]}"#, Some("query"), "missing"),
            (r#"{"query": 3, "pos": ["p"]}"#, Some("query"), "number"),
            (r#"{"query": " \n", "pos": ["p"]}"#, Some("query"), "blank"),
            (r#"{"query": "q"}"#, Some("pos"), "missing"),
            (r#"{"query": "q", "pos": "p"}"#, Some("pos"), "list"),
            (r#"{"query": "q", "pos": ["p", null]}"#, Some("pos"), "null"),
            (
                r#"{"query": "q", "pos": ["p"], "neg": {}}"#,
                Some("neg"),
                "object",
            ),
            ("{\"query\": \"\u{1}\", \"pos\": []}", None, "control"),
        ] {
            let error = Row::parse(line.as_bytes(), Shape::Training).unwrap_err();
            assert_eq!(error.field(), field, "{line}");
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(Row::parse(b"{\"query\": \"\xff\", \"pos\": []}", Shape::Training).is_err());
    }

    #[test]
    fn a_row_without_negatives_is_fine() {
        for neg in ["", ", \"neg\": null", ", \"neg\": []"] {
            let line = format!("{{\"query\": \"q\", \"pos\": [\"p\"]{neg}}}");
            assert!(scored(&line, &[1.0]).contains("\"neg_scores\": []"));
        }
    }
}
