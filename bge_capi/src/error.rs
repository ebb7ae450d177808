//! What went wrong: a status, a message, and where.

use std::mem::MaybeUninit;

use bge_core::config::config_error;
use bge_core::{Error, ErrorKind, Issue};
use serde_json::json;

use crate::status::bge_status;
use crate::text::bge_str;

/// What went wrong. Never changes, so that any thread may read it; freed with bge_error_free.
#[derive(Debug)]
pub struct bge_error {
    pub(crate) status: bge_status,
    message: String,
    path: String,
    field: String,
    line: u64,
    issues: String,
}

/// The result of the body of a function.
pub(crate) type Outcome<T = ()> = Result<T, Box<bge_error>>;

/// Where a function leaves its error; NULL where nobody asks for it.
pub(crate) type ErrorOut<'a> = Option<&'a mut MaybeUninit<*mut bge_error>>;

impl bge_error {
    pub(crate) fn new(status: bge_status, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            status,
            message: message.into(),
            path: String::new(),
            field: String::new(),
            line: 0,
            issues: "[]".to_owned(),
        })
    }

    pub(crate) fn null(parameter: &str) -> Box<Self> {
        let mut error = Self::new(bge_status::NullPointer, format!("`{parameter}` must not be NULL"));
        parameter.clone_into(&mut error.field);
        error
    }

    pub(crate) fn argument(parameter: &str, message: impl std::fmt::Display) -> Box<Self> {
        let mut error = Self::new(bge_status::InvalidArgument, format!("`{parameter}`: {message}"));
        parameter.clone_into(&mut error.field);
        error
    }

    /// An error for settings that were refused, with everything that is wrong with them.
    pub(crate) fn refused(issues: Vec<Issue>) -> Box<Self> {
        let mut error = Box::<Self>::from(config_error(&issues));
        error.issues = json!(issues).to_string();
        error
    }
}

impl From<Error> for Box<bge_error> {
    fn from(error: Error) -> Self {
        Self::new(bge_error {
            status: error.kind().into(),
            message: error.to_string(),
            path: error
                .path()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            field: error.field().unwrap_or_default().to_owned(),
            line: error.line().unwrap_or(0),
            issues: "[]".to_owned(),
        })
    }
}

/// A required value.
pub(crate) fn required<T>(value: Option<T>, parameter: &str) -> Outcome<T> {
    value.ok_or_else(|| bge_error::null(parameter))
}

/// A report as JSON text.
pub(crate) fn json_text(value: &impl serde::Serialize) -> Outcome<String> {
    serde_json::to_string(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "a report cannot be written as JSON")
            .with_source(error)
            .into()
    })
}

/// The status of an error; BGE_STATUS_OK for NULL.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_error_status(error: Option<&bge_error>) -> bge_status {
    error.map_or(bge_status::Ok, |error| error.status)
}

/// The whole message: place, field, what is wrong and the way out. Borrowed from the error; empty for NULL.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_error_message(error: Option<&bge_error>) -> bge_str<'_> {
    bge_str::of(error.map_or("", |error| &error.message))
}

/// The file or folder it is about, or an empty text. Borrowed from the error.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_error_path(error: Option<&bge_error>) -> bge_str<'_> {
    bge_str::of(error.map_or("", |error| &error.path))
}

/// The line in it, counted from 1; 0 where there is none.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_error_line(error: Option<&bge_error>) -> u64 {
    error.map_or(0, |error| error.line)
}

/// The setting, tensor or parameter it is about, or an empty text. Borrowed from the error.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_error_field(error: Option<&bge_error>) -> bge_str<'_> {
    bge_str::of(error.map_or("", |error| &error.field))
}

/// Everything that is wrong with settings, as a JSON array of findings (code, severity, path, line, field, message);
/// the message is only about the first. `[]` for other errors. Borrowed from the error.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_error_issues(error: Option<&bge_error>) -> bge_str<'_> {
    bge_str::of(error.map_or("[]", |error| &error.issues))
}

/// Frees an error. NULL is fine.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_error_free(error: Option<Box<bge_error>>) {
    drop(error);
}
