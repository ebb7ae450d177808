//! Values that cross the border: JavaScript objects as JSON, errors as `Error`s, modules by name.

use bge_core::config::{FinetuneConfig, Loader, Module, Parsed};
use bge_core::{Error, Issue};
use serde::Serialize;
use wasm_bindgen::prelude::{JsError, JsValue};

/// What every fallible function of this crate returns.
pub(crate) type JsResult<T> = Result<T, JsError>;

/// A value as text, the way the command prints it.
///
/// Everything that leaves goes through here: a second way of writing would add its copy of the code of every report.
pub(crate) fn to_text<T: Serialize>(value: &T) -> JsResult<String> {
    serde_json::to_string_pretty(value).map_err(|error| JsError::new(&error.to_string()))
}

/// A value as the object that `JSON.parse` makes of it.
pub(crate) fn to_js<T: Serialize>(value: &T) -> JsResult<JsValue> {
    js_sys::JSON::parse(&to_text(value)?).map_err(|_| JsError::new("the result is no JSON"))
}

/// An object as JSON; `undefined` and `null` are an empty object.
pub(crate) fn to_json(value: &JsValue) -> JsResult<String> {
    if value.is_undefined() || value.is_null() {
        return Ok("{}".to_owned());
    }
    match js_sys::JSON::stringify(value) {
        Ok(text) if text.is_string() => Ok(text.into()),
        _ => Err(JsError::new("the settings must be a plain object")),
    }
}

/// An error of the library with its place.
pub(crate) fn to_error(error: &Error) -> JsError {
    JsError::new(&error.to_string())
}

/// The module of a name, or the default one.
pub(crate) fn module_of(name: Option<&str>) -> JsResult<Module> {
    name.map_or(Ok(Module::default()), Module::from_path)
        .map_err(|error| to_error(&error))
}

/// The settings of an object; findings that keep them from being read are one error.
pub(crate) fn config_of(value: &JsValue, module: Module) -> JsResult<Parsed<FinetuneConfig>> {
    let text = to_json(value)?;
    Loader::for_module(module)
        .json(&text)
        .finish()
        .map_err(|issues| JsError::new(&lines(&issues)))
}

/// Findings, one to a line.
pub(crate) fn lines(issues: &[Issue]) -> String {
    let lines: Vec<String> = issues.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
