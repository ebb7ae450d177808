//! A settings file as a tree of keys, with the line of each where the format tells it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: Option<u64>,
    pub(crate) value: Node,
}

/// A section, or a value. Sections keep double keys, which `serde_json::Value` would drop.
#[derive(Debug)]
pub(crate) enum Node {
    Section(Vec<Entry>),
    Value(Value),
}

impl Node {
    /// The value as JSON; the error is a key that a section holds twice.
    pub(crate) fn into_value(self) -> Result<Value, String> {
        let entries = match self {
            Self::Value(value) => return Ok(value),
            Self::Section(entries) => entries,
        };
        let mut map = Map::new();
        for Entry { key, value, .. } in entries {
            let value = value.into_value()?;
            if map.insert(key.clone(), value).is_some() {
                return Err(key);
            }
        }
        Ok(Value::Object(map))
    }
}

/// What is wrong with a file, and on which line.
pub(crate) type SyntaxError = (String, Option<u64>);

/// Reads a JSON object.
pub(crate) fn json(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let text = text.trim_start_matches('\u{feff}');
    match serde_json::from_str(text) {
        Ok(Node::Section(entries)) => Ok(entries),
        Ok(Node::Value(value)) => Err((
            format!(
                "expected a JSON object with settings, got {}",
                super::field::shown(&value)
            ),
            Some(1),
        )),
        Err(error) => Err((format!("not valid JSON: {error}"), Some(error.line() as u64))),
    }
}

/// Reads a TOML document.
pub(crate) fn toml(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line_starts: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let line_of = |at: usize| line_starts.partition_point(|start| *start <= at) as u64;
    match DeTable::parse(text) {
        Ok(table) => Ok(section(table.get_ref(), &line_of)),
        Err(error) => {
            let message = format!("not valid TOML: {}", error.message().replace('\n', ", "));
            Err((message, error.span().map(|span| line_of(span.start))))
        }
    }
}

fn section(table: &DeTable<'_>, line_of: &dyn Fn(usize) -> u64) -> Vec<Entry> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
        .into_iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            line: Some(line_of(key.span().start)),
            value: match value.get_ref() {
                DeValue::Table(inner) => Node::Section(section(inner, line_of)),
                other => Node::Value(toml_value(other)),
            },
        })
        .collect()
}

/// A TOML value as JSON. What JSON has no number for stays a text, and is refused where a number is expected.
fn toml_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Integer(digits) => {
            let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
            let signed = number
                .and_then(|number| i64::try_from(number).ok())
                .map(Value::from);
            let unsigned = number
                .and_then(|number| u64::try_from(number).ok())
                .map(Value::from);
            signed
                .or(unsigned)
                .unwrap_or_else(|| Value::from(digits.to_string()))
        }
        DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
            Ok(number) if number.is_finite() => Value::from(number),
            _ => Value::from(digits.to_string()),
        },
        DeValue::Datetime(datetime) => Value::from(datetime.to_string()),
        DeValue::Array(items) => items.iter().map(|item| toml_value(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), toml_value(value.get_ref())))
                .collect();
            Value::Object(entries)
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut access: M) -> Result<Node, M::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = access.next_entry()? {
            entries.push(Entry {
                key,
                line: None,
                value,
            });
        }
        Ok(Node::Section(entries))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut access: S) -> Result<Node, S::Error> {
        let mut items: Vec<Value> = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::Value(Value::Array(items)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Value(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Value(Value::Null))
    }
}
