//! What a setting is: its documentation, its text form, and how it is reached by name.

use serde::Serialize;
use serde_json::{Map, Value};

use super::foreign::Foreign;
use crate::error::{Error, ErrorKind, Result};

/// What a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// True or false.
    Boolean,
    /// A whole number from zero.
    Count,
    /// A whole number.
    Integer,
    /// A finite number.
    Number,
    /// A text.
    Text,
    /// One of [`FieldDoc::choices`].
    Choice,
    /// A list of texts.
    Texts,
    /// A list of whole numbers from zero.
    Counts,
    /// Numbers.
    Numbers,
    /// A JSON object.
    Object,
}

impl FieldKind {
    /// Whether the setting holds a list.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Texts | Self::Counts | Self::Numbers)
    }
}

/// What there is to know about one setting. Help, schema, C flag list and browser form are made from these.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldDoc {
    /// The name, without dashes.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether it may be left unset.
    pub optional: bool,
    /// Whether nothing runs without it.
    pub required: bool,
    /// Whether it is bge's own: FlagEmbedding and Hugging Face do not know it.
    pub ours: bool,
    /// Under which heading it is shown.
    pub group: &'static str,
    /// One paragraph for people.
    pub help: String,
    /// The value when nobody gives one; null for an optional setting.
    pub default: Value,
    /// The accepted words of a [`FieldKind::Choice`].
    pub choices: &'static [&'static str],
}

impl FieldDoc {
    /// The documentation of a field of type `T`; called by `arguments!`.
    pub(crate) fn of<T: Setting>(
        name: &'static str,
        group: &'static str,
        help: &[&str],
        default: &T,
        marks: &[&str],
    ) -> Self {
        let help: Vec<&str> = help.iter().map(|line| line.trim()).collect();
        Self {
            name,
            kind: T::KIND,
            optional: T::OPTIONAL,
            required: marks.contains(&"required"),
            ours: marks.contains(&"ours"),
            group,
            help: help.join(" "),
            default: default.to_json(),
            choices: T::CHOICES,
        }
    }
}

/// A struct whose fields are settings, reachable by name.
pub trait Arguments: Default + Clone + PartialEq {
    /// Every setting, in the order of declaration.
    fn fields() -> &'static [FieldDoc];

    /// The value of a setting, or `None` for a name that is not a setting.
    fn get(&self, name: &str) -> Option<Value>;

    /// Sets one setting. Texts are read as on the command line, so `"8"` is a number where one is expected.
    ///
    /// Errors: `UnknownFlag` with the nearest name, `InvalidConfig` with the value seen and what is accepted.
    fn set(&mut self, name: &str, value: &Value) -> Result<()>;

    /// Another spelling of a setting that upstream tools use, or `None`.
    fn alias(_name: &str) -> Option<&'static str> {
        None
    }

    /// Flags of other tools that a pasted command line may carry.
    fn foreign() -> &'static [Foreign] {
        &[]
    }

    /// The documentation of one setting.
    fn field(name: &str) -> Option<&'static FieldDoc> {
        Self::fields().iter().find(|field| field.name == name)
    }

    /// All settings as one flat JSON object, in the order of declaration.
    fn to_json(&self) -> Map<String, Value> {
        Self::fields()
            .iter()
            .filter_map(|field| Some((field.name.to_owned(), self.get(field.name)?)))
            .collect()
    }
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// What it holds.
    const KIND: FieldKind;
    /// Whether it may be left unset.
    const OPTIONAL: bool = false;
    /// The accepted words, where there are only some.
    const CHOICES: &'static [&'static str] = &[];

    /// Reads a JSON value, or a text as it stands on a command line; the error says what is accepted.
    fn from_json(value: &Value) -> Result<Self, String>;

    /// Writes what [`Setting::from_json`] reads.
    fn to_json(&self) -> Value;
}

/// A value as it is shown in a message: JSON, shortened.
pub(crate) fn shown(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = match value {
        // Only what can be shown is turned into text: values may be megabytes long.
        Value::String(text) => Value::String(text.chars().take(MAX_CHARS + 3).collect()).to_string(),
        other => other.to_string(),
    };
    if text.chars().count() <= MAX_CHARS + 2 {
        return text;
    }
    let mut short: String = text.chars().take(MAX_CHARS).collect();
    short.push('…');
    short
}

/// A text as it is shown in a message: quoted, shortened.
pub(crate) fn shown_text(text: &str) -> String {
    shown(&Value::String(text.chars().take(100).collect()))
}

/// The message for a value that is not what a setting expects.
fn expected<T>(what: &str, value: &Value) -> Result<T, String> {
    Err(format!("expected {what}, got {}", shown(value)))
}

impl Setting for bool {
    const KIND: FieldKind = FieldKind::Boolean;

    fn from_json(value: &Value) -> Result<Self, String> {
        let word = match value {
            Value::Bool(flag) => return Ok(*flag),
            Value::Number(number) => number.to_string(),
            Value::String(text) if text.len() <= 8 => text.trim().to_ascii_lowercase(),
            _ => String::new(),
        };
        // The words of Hugging Face's `string_to_bool`, and on/off.
        match word.as_str() {
            "true" | "t" | "yes" | "y" | "1" | "on" => Ok(true),
            "false" | "f" | "no" | "n" | "0" | "off" => Ok(false),
            _ => expected("True or False", value),
        }
    }

    fn to_json(&self) -> Value {
        Value::Bool(*self)
    }
}

/// Whole numbers through the widest type, so that range errors are told apart from nonsense.
fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_u64() {
                return Some(whole.into());
            }
            if let Some(whole) = number.as_i64() {
                return Some(whole.into());
            }
            // 1e8 in a file means a whole number, as long as it is exact.
            let number = number.as_f64()?;
            (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i128)
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

macro_rules! integer_setting {
    ($($type:ty: $kind:ident, $what:literal;)+) => {$(
        impl Setting for $type {
            const KIND: FieldKind = FieldKind::$kind;

            fn from_json(value: &Value) -> Result<Self, String> {
                match integer(value) {
                    Some(whole) => <$type>::try_from(whole)
                        .or_else(|_| expected(&format!("{} up to {}", $what, <$type>::MAX), value)),
                    None => expected($what, value),
                }
            }

            fn to_json(&self) -> Value {
                Value::from(*self)
            }
        }
    )+};
}

integer_setting! {
    usize: Count, "a whole number from 0";
    u64: Count, "a whole number from 0";
    i64: Integer, "a whole number";
}

impl Setting for f64 {
    const KIND: FieldKind = FieldKind::Number;

    fn from_json(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) if text.len() <= 400 => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number.is_finite() => Ok(number),
            _ => expected("a finite number", value),
        }
    }

    fn to_json(&self) -> Value {
        // 500 rather than 500.0: Hugging Face's integer flags are floats here only to take fractions too.
        if self.fract() == 0.0 && self.abs() < 9e15 && !(*self == 0.0 && self.is_sign_negative()) {
            return Value::from(*self as i64);
        }
        Value::from(*self)
    }
}

impl Setting for String {
    const KIND: FieldKind = FieldKind::Text;

    fn from_json(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if text.contains('\0') => Err(format!(
                "a text must not contain a NUL character, got {}",
                shown(value)
            )),
            Value::String(text) => Ok(text.clone()),
            _ => expected("a text", value),
        }
    }

    fn to_json(&self) -> Value {
        Value::String(self.clone())
    }
}

impl<T: Setting> Setting for Option<T> {
    const KIND: FieldKind = T::KIND;
    const OPTIONAL: bool = true;
    const CHOICES: &'static [&'static str] = T::CHOICES;

    fn from_json(value: &Value) -> Result<Self, String> {
        if value.is_null() {
            Ok(None)
        } else {
            T::from_json(value).map(Some)
        }
    }

    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Setting::to_json)
    }
}

/// Reads a list; a single value is a list of one.
fn list<T: Setting>(value: &Value) -> Result<Vec<T>, String> {
    match value {
        Value::Array(items) => items.iter().map(T::from_json).collect(),
        single => Ok(vec![T::from_json(single)?]),
    }
}

impl Setting for Vec<String> {
    const KIND: FieldKind = FieldKind::Texts;

    fn from_json(value: &Value) -> Result<Self, String> {
        list(value)
    }

    fn to_json(&self) -> Value {
        Value::from(self.as_slice())
    }
}

impl Setting for Vec<usize> {
    const KIND: FieldKind = FieldKind::Counts;

    fn from_json(value: &Value) -> Result<Self, String> {
        list(value)
    }

    fn to_json(&self) -> Value {
        Value::from(self.as_slice())
    }
}

impl Setting for Vec<f64> {
    const KIND: FieldKind = FieldKind::Numbers;

    fn from_json(value: &Value) -> Result<Self, String> {
        list(value)
    }

    fn to_json(&self) -> Value {
        self.iter().map(Setting::to_json).collect()
    }
}

impl Setting for Map<String, Value> {
    const KIND: FieldKind = FieldKind::Object;

    fn from_json(value: &Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(map.clone()),
            Value::String(text) => serde_json::from_str(text)
                .map_err(|error| format!("expected a JSON object, got {}: {error}", shown(value))),
            _ => expected("a JSON object", value),
        }
    }

    fn to_json(&self) -> Value {
        Value::Object(self.clone())
    }
}

/// Values that upstream reads in a way of its own, turned into ours before they are parsed.
///
/// `deepspeed` may be the object itself (`TrainingArguments`); a literal backslash-n in a format is a newline (`AbsArguments.py`), and these limits are off at 0 and below
/// (`AbsModeling.py`, `Trainer._rotate_checkpoints`).
pub(crate) fn upstream_reading(name: &str, value: &Value) -> Option<Value> {
    match name {
        "sub_batch_size" | "save_total_limit" => {
            integer(value).filter(|limit| *limit <= 0).map(|_| Value::Null)
        }
        "deepspeed" => value.is_object().then(|| Value::String(value.to_string())),
        "query_instruction_format"
        | "passage_instruction_format"
        | "query_instruction_format_for_retrieval"
        | "query_instruction_format_for_rerank"
        | "passage_instruction_format_for_rerank" => match value {
            Value::String(text) if text.contains("\\n") => Some(Value::String(text.replace("\\n", "\n"))),
            _ => None,
        },
        _ => None,
    }
}

/// Parses and stores one value; called by `arguments!`.
pub(crate) fn store<T: Setting>(slot: &mut T, name: &str, value: &Value) -> Result<()> {
    let read = upstream_reading(name, value);
    let value = read.as_ref().unwrap_or(value);
    match T::from_json(value) {
        Ok(parsed) => {
            *slot = parsed;
            Ok(())
        }
        Err(message) => Err(Error::new(ErrorKind::InvalidConfig, message).with_field(name)),
    }
}

/// The index of a word among `words`; words of `elsewhere` are known and not available. Called by `choices!`.
pub(crate) fn choice(value: &Value, words: &[&str], elsewhere: &[&str]) -> Result<usize, String> {
    let accepted = words.join(", ");
    let Some(text) = value.as_str() else {
        return expected(&format!("one of {accepted}"), value);
    };
    let text = text.trim();
    if let Some(index) = words.iter().position(|word| word.eq_ignore_ascii_case(text)) {
        return Ok(index);
    }
    if elsewhere.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return Err(format!(
            "{} is not available in bge; use one of {accepted}",
            shown(value)
        ));
    }
    expected(&format!("one of {accepted}"), value)
}
