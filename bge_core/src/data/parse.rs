//! The parser of one row: wrong types are kept as findings instead of ending it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::record::{Broken, BrokenKind, RecordView, Slot, SlotList};

/// What a scalar of the data may be made from; everything else is of the wrong type.
trait Scalar<'de>: Sized {
    fn from_text(_: Cow<'de, str>) -> Slot<Self> {
        Slot::Wrong("a text")
    }
    fn from_number(_: f64) -> Slot<Self> {
        Slot::Wrong("a number")
    }
}

impl<'de> Scalar<'de> for Cow<'de, str> {
    fn from_text(text: Cow<'de, str>) -> Slot<Self> {
        Slot::Given(text)
    }
}

impl Scalar<'_> for f64 {
    fn from_number(number: f64) -> Slot<Self> {
        Slot::Given(number)
    }
}

/// Lists are read by [`ListSeed`]; as scalars they only say what they are not.
impl<T> Scalar<'_> for Vec<Slot<T>> {}

/// The arms that every lenient visitor shares: scalars of any JSON type.
macro_rules! scalar_arms {
    ($target:ty) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Slot::Wrong("true or false"))
        }
        fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
            Ok(<$target>::from_number(value as f64))
        }
        fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
            Ok(<$target>::from_number(value as f64))
        }
        fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
            Ok(<$target>::from_number(value))
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(<$target>::from_text(Cow::Borrowed(text)))
        }
        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(<$target>::from_text(Cow::Owned(text.to_owned())))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Slot::Null)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Slot::Wrong("an object"))
        }
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }
    };
}

struct ScalarSeed<T>(PhantomData<T>);

impl<'de, T: Scalar<'de>> DeserializeSeed<'de> for ScalarSeed<T> {
    type Value = Slot<T>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Slot<T>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, T: Scalar<'de>> Visitor<'de> for ScalarSeed<T> {
    type Value = Slot<T>;
    scalar_arms!(T);
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Slot<T>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Slot::Wrong("a list"))
    }
}

struct ListSeed<T>(PhantomData<T>);

impl<'de, T: Scalar<'de>> DeserializeSeed<'de> for ListSeed<T> {
    type Value = SlotList<T>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<SlotList<T>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, T: Scalar<'de>> Visitor<'de> for ListSeed<T> {
    type Value = SlotList<T>;
    scalar_arms!(Vec<Slot<T>>);
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SlotList<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(ScalarSeed(PhantomData))? {
            list.push(value);
        }
        Ok(Slot::Given(list))
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Cow<'de, str>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
}

/// Fills an empty [`RecordView`] in its place, as moving one costs as much as a short row.
pub(super) struct ViewSeed<'v, 'de>(pub(super) &'v mut RecordView<'de>);

impl<'de> DeserializeSeed<'de> for ViewSeed<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ViewSeed<'_, 'de> {
    type Value = ();

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(view) = self;
        while let Some(key) = map.next_key_seed(KeySeed)? {
            macro_rules! read {
                ($field:ident, $name:literal, $seed:ident) => {{
                    if view.$field != Slot::Absent {
                        view.repeated_key = Some($name);
                    }
                    view.$field = map.next_value_seed($seed(PhantomData))?;
                }};
            }
            match &*key {
                "query" => read!(query, "query", ScalarSeed),
                "pos" => read!(pos, "pos", ListSeed),
                "neg" => read!(neg, "neg", ListSeed),
                "pos_scores" => read!(pos_scores, "pos_scores", ListSeed),
                "neg_scores" => read!(neg_scores, "neg_scores", ListSeed),
                "prompt" => read!(prompt, "prompt", ScalarSeed),
                "query_prompt" => read!(query_prompt, "query_prompt", ScalarSeed),
                "passage_prompt" => read!(passage_prompt, "passage_prompt", ScalarSeed),
                "type" => read!(task_type, "type", ScalarSeed),
                "category" => read!(category, "category", ScalarSeed),
                "batch_size" => read!(batch_size, "batch_size", ScalarSeed),
                "train_group_size" => read!(train_group_size, "train_group_size", ScalarSeed),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    view.other_keys.push(key);
                }
            }
        }
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(E::custom("must be a JSON object, found null"))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom("must be a JSON object, found a text"))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(E::custom("must be a JSON object, found true or false"))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom("must be a JSON object, found a number"))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.visit_f64(0.0)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.visit_f64(0.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Err(A::Error::custom("must be a JSON object, found a list"))
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }
}

pub(super) fn broken_utf8(bytes: &[u8]) -> Broken {
    let valid = std::str::from_utf8(bytes)
        .err()
        .map_or(0, |error| error.valid_up_to());
    let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    Broken {
        kind: BrokenKind::Utf8,
        line_offset: 0,
        column: valid + 1,
        message: if utf16 {
            "the file is UTF-16; convert it to UTF-8".into()
        } else {
            format!(
                "byte {:#04x} is not UTF-8; convert the file to UTF-8",
                bytes.get(valid).copied().unwrap_or(0)
            )
        },
    }
}

pub(super) fn broken_json(bytes: &[u8], error: &serde_json::Error) -> Broken {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or_default().to_string();
    let (kind, message) = match error.classify() {
        serde_json::error::Category::Data => (BrokenKind::NotObject, message),
        serde_json::error::Category::Eof => (
            BrokenKind::Truncated,
            "the JSON ends too early; a record is one whole object on one line".into(),
        ),
        _ if names_non_finite(bytes, error) => (
            BrokenKind::NotFinite,
            "NaN and Infinity are not JSON; write a finite number or leave the score lists out".into(),
        ),
        _ if error.column() <= 1 && error.line() <= 1 && bytes.starts_with(b"\x1f\x8b") => (
            BrokenKind::Syntax,
            "the file is compressed; unpack it with gunzip".into(),
        ),
        _ => (BrokenKind::Syntax, format!("not valid JSON: {message}")),
    };
    Broken {
        kind,
        line_offset: (error.line() as u64).saturating_sub(1),
        column: error.column().max(1),
        message,
    }
}

/// Whether the syntax error sits on one of Python's words for a number that is not finite.
fn names_non_finite(bytes: &[u8], error: &serde_json::Error) -> bool {
    if error.to_string().starts_with("number out of range") {
        return true;
    }
    let line = bytes
        .split(|&b| b == b'\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    let at = error.column().saturating_sub(1);
    // The column is that of the offending byte, or of the one after a minus sign.
    [at.saturating_sub(1), at].iter().any(|&at| {
        let word = line.get(at..).unwrap_or_default();
        [&b"NaN"[..], b"Infinity", b"-Infinity", b"-NaN", b"nan", b"inf"]
            .iter()
            .any(|name| word.starts_with(name))
    })
}

/// What a JSON value is, for an error that says what was found.
pub(crate) fn kind_of(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
