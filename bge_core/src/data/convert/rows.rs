//! Rows as JSON: objects with the columns of sentence-transformers, lists of texts, and training rows themselves.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::columns::{Cells, Column, ColumnNames, KNOWN, Row, said};
use crate::data::kind_of;

/// A record, with every key that it has, twice if it is there twice.
enum Record {
    Object(Vec<(String, Value)>),
    List(Vec<Value>),
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Record;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object or a list of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Record::Object(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Record, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    if values.len() > 1 << 20 {
                        return Err(A::Error::custom("the list has more than a million elements"));
                    }
                    values.push(value);
                }
                Ok(Record::List(values))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// The row of a record; `unused` hears of the columns that it has no use for, and why.
pub(super) fn read(
    bytes: &[u8],
    names: &ColumnNames,
    unused: &mut dyn FnMut(&str, &str),
) -> Result<Row, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        format!(
            "byte {} is not UTF-8; save the file as UTF-8",
            error.valid_up_to() + 1
        )
    })?;
    let record: Record = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        format!("the JSON cannot be read: {message} (column {})", error.column())
    })?;
    match record {
        Record::List(values) => tuple(values, Cells::default())?.row(),
        Record::Object(entries) => object(entries, names, unused)?.row(),
    }
}

fn object(
    entries: Vec<(String, Value)>,
    names: &ColumnNames,
    unused: &mut dyn FnMut(&str, &str),
) -> Result<Cells, String> {
    let mut cells = Cells::default();
    let mut keys = std::collections::HashSet::new();
    for (name, value) in entries {
        if !keys.insert(name.clone()) {
            return Err(format!("`{name}` occurs twice in the row"));
        }
        let column = names.role(&name);
        if value.is_null() && column != Column::Unused {
            continue;
        }
        match column {
            Column::Query => match value {
                Value::String(query) => cells.queries.push(query),
                other => return Err(wrong(&name, "a text", &other)),
            },
            Column::Positive => texts(&name, value, &mut cells.pos)?,
            Column::Negative => texts(&name, value, &mut cells.neg)?,
            Column::PositiveScore => cells
                .pos_scores
                .extend(scores(&name, &value)?.into_iter().map(Some)),
            Column::NegativeScore => cells
                .neg_scores
                .extend(scores(&name, &value)?.into_iter().map(Some)),
            Column::Score | Column::Label => {
                if !cells.scores.is_empty() {
                    return Err(format!("`{name}` is a second score; remove one of them"));
                }
                cells.scores = scores(&name, &value)?;
                cells.is_label = column == Column::Label;
            }
            Column::Texts | Column::Set => {
                let Value::Array(values) = value else {
                    return Err(wrong(&name, "a list of texts", &value));
                };
                if column == Column::Texts {
                    cells = tuple(values, cells)?;
                } else {
                    set(&name, values, &mut cells)?;
                }
            }
            Column::Kept(key) => match value {
                Value::String(text) => cells.keep(key, text)?,
                _ => unused(
                    &name,
                    "the column is not used, as it holds something other than texts",
                ),
            },
            Column::Unused => unused(&name, "the column is not used"),
        }
    }
    // One that is there and empty is told apart, as its row may have negatives to join.
    let missing = |column| !keys.iter().any(|name| names.role(name) == column);
    let missing = match (
        cells.queries.is_empty() && missing(Column::Query),
        cells.pos.is_empty() && missing(Column::Positive),
    ) {
        (true, true) => "query and no positive",
        (true, false) => "query",
        (false, true) => "positive",
        (false, false) => return Ok(cells),
    };
    Err(format!("it has no {missing}; keys that are known: {KNOWN}"))
}

/// `[query, positive, negatives...]`, with a score at the end or without.
fn tuple(mut values: Vec<Value>, mut cells: Cells) -> Result<Cells, String> {
    if let Some(score) = values.pop_if(|value| value.is_number()) {
        if !cells.scores.is_empty() {
            return Err("it has two scores; remove one of them".into());
        }
        cells.scores = scores("score", &score)?;
    }
    if values.len() < 2 {
        return Err(format!(
            "a list is a query, a positive and then negatives; this one has {} texts",
            values.len()
        ));
    }
    for (at, value) in values.into_iter().enumerate() {
        let Value::String(text) = value else {
            return Err(format!("element {} of the list is not a text", at + 1));
        };
        match at {
            0 => cells.queries.push(text),
            1 => cells.pos.push(said(&text)),
            _ => cells.neg.push(said(&text)),
        }
    }
    Ok(cells)
}

/// A query and positives.
fn set(name: &str, values: Vec<Value>, cells: &mut Cells) -> Result<(), String> {
    let mut values = values.into_iter();
    let Some(Value::String(query)) = values.next() else {
        return Err(format!("`{name}` must begin with a text, the query"));
    };
    cells.queries.push(query);
    texts(name, Value::Array(values.collect()), &mut cells.pos)
}

fn texts(name: &str, value: Value, out: &mut Vec<Option<String>>) -> Result<(), String> {
    match value {
        Value::String(text) => out.push(said(&text)),
        Value::Array(values) => {
            for value in values {
                match value {
                    Value::String(text) => out.push(said(&text)),
                    Value::Null => out.push(None),
                    other => return Err(wrong(name, "texts only", &other)),
                }
            }
        }
        other => return Err(wrong(name, "a text or a list of texts", &other)),
    }
    Ok(())
}

fn scores(name: &str, value: &Value) -> Result<Vec<f64>, String> {
    let one = |value: &Value| match value {
        Value::Bool(yes) => Ok(f64::from(u8::from(*yes))),
        other => other
            .as_f64()
            .filter(|score| score.is_finite())
            .ok_or_else(|| wrong(name, "a number", other)),
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        single => Ok(vec![one(single)?]),
    }
}

fn wrong(name: &str, expected: &str, value: &Value) -> String {
    format!("`{name}` must be {expected}, found {}", kind_of(value))
}
