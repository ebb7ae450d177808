//! Options that come in one object, picked by hand: what derives would write for each is much code to fetch.

use serde_json::{Map, Value};
use wasm_bindgen::prelude::{JsError, JsValue};

use crate::values::{JsResult, to_json};

/// The options that came in one object, taken out by name; what is left over in the end is an error.
pub(crate) struct Given {
    what: &'static str,
    fields: Map<String, Value>,
}

impl Given {
    /// Reads an object; `what` is for messages.
    pub(crate) fn read(value: &JsValue, what: &'static str) -> JsResult<Self> {
        match serde_json::from_str(&to_json(value)?) {
            Ok(Value::Object(fields)) => Ok(Self { what, fields }),
            _ => Err(JsError::new(&format!("{what} must be a plain object"))),
        }
    }

    /// Takes what is called so; `null` is as good as nothing.
    fn take<T>(&mut self, name: &str, kind: &str, pick: impl Fn(&Value) -> Option<T>) -> JsResult<Option<T>> {
        match self.fields.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => pick(&value)
                .map(Some)
                .ok_or_else(|| JsError::new(&format!("{}: `{name}` must be {kind}, got {value}", self.what))),
        }
    }

    pub(crate) fn text(&mut self, name: &str) -> JsResult<Option<String>> {
        self.take(name, "text", |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn texts(&mut self, name: &str) -> JsResult<Vec<String>> {
        let pick = |value: &Value| {
            let list = value.as_array()?.iter();
            list.map(|one| one.as_str().map(str::to_owned)).collect()
        };
        Ok(self.take(name, "a list of texts", pick)?.unwrap_or_default())
    }

    pub(crate) fn flag(&mut self, name: &str) -> JsResult<Option<bool>> {
        self.take(name, "true or false", Value::as_bool)
    }

    /// A whole number from `least` to `most`.
    pub(crate) fn whole(&mut self, name: &str, least: u64, most: u64) -> JsResult<Option<u64>> {
        let kind = format!("a whole number from {least} to {most}");
        self.take(name, &kind, |value| {
            value.as_u64().filter(|number| (least..=most).contains(number))
        })
    }

    /// A number above 0.
    pub(crate) fn positive(&mut self, name: &str, most: f64) -> JsResult<Option<f64>> {
        let kind = format!("a number above 0 and at most {most}");
        self.take(name, &kind, |value| {
            value.as_f64().filter(|number| *number > 0.0 && *number <= most)
        })
    }

    /// Says what nobody took.
    pub(crate) fn end(self) -> JsResult<()> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(JsError::new(&format!("{}: there is no `{name}`", self.what))),
        }
    }
}
