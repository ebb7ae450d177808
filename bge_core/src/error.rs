//! The one error type of bge: a stable kind, a message, and where it happened.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of everything that can fail in bge.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a stable number shared by Rust, C, C++, Go and JavaScript.
///
/// Numbers are appended, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum ErrorKind {
    /// An argument of a call is out of its range.
    InvalidArgument = 2,
    /// A flag or key that bge does not know.
    UnknownFlag = 3,
    /// Settings that contradict each other or cannot be read.
    InvalidConfig = 4,
    /// Training or evaluation data with errors.
    InvalidData = 5,
    /// A file, folder or model that is not there.
    NotFound = 6,
    /// The operating system refused to read or write.
    Io = 7,
    /// A model folder or checkpoint that is damaged or of a wrong shape.
    ModelFormat = 8,
    /// A tokenizer that cannot be loaded or used.
    Tokenizer = 9,
    /// A device that is not there or failed.
    Device = 10,
    /// Memory ran out.
    OutOfMemory = 11,
    /// A rank failed or did not answer.
    Distributed = 12,
    /// A loss, gradient or weight became NaN or infinite.
    NotFinite = 13,
    /// Stopped because the caller asked for it.
    Cancelled = 14,
    /// Known, but not available in this build or for this model.
    Unsupported = 15,
    /// A bug in bge.
    Internal = 18,
}

/// An error with its place: message first, then path, line, field and cause.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    line: Option<u64>,
    field: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of a kind; the message is lower-case, without a full stop, and names the way out.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            line: None,
            field: None,
            source: None,
        }))
    }

    /// A failed operation of the operating system on `path`.
    pub fn io(path: impl AsRef<Path>, doing: &str, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            _ => ErrorKind::Io,
        };
        Self::new(kind, format!("cannot {doing}"))
            .with_path(path)
            .with_source(source)
    }

    /// Adds the file or folder it is about.
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Adds the line number, counted from 1.
    #[must_use]
    pub fn with_line(mut self, line: u64) -> Self {
        self.0.line.get_or_insert(line);
        self
    }

    /// Adds the flag, field or tensor it is about.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.0.field.get_or_insert_with(|| field.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source.get_or_insert_with(|| source.into());
        self
    }

    /// The stable kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without its place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The file or folder it is about.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The line, counted from 1.
    pub fn line(&self) -> Option<u64> {
        self.0.line
    }

    /// The flag, field or tensor it is about.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            message,
            path,
            line,
            field,
            source,
            ..
        } = &*self.0;
        if let Some(path) = path {
            write!(f, "{}:", path.display())?;
            if let Some(line) = line {
                write!(f, "{line}:")?;
            }
            write!(f, " ")?;
        } else if let Some(line) = line {
            write!(f, "line {line}: ")?;
        }
        if let Some(field) = field {
            write!(f, "`{field}`: ")?;
        }
        write!(f, "{message}")?;
        if let Some(source) = source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(feature = "model")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::new(ErrorKind::Internal, "a tensor operation failed").with_source(error)
    }
}

/// Returns early with an error of a kind and a formatted message.
macro_rules! bail {
    ($kind:ident, $($message:tt)+) => {
        return Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format!($($message)+)))
    };
}
pub(crate) use bail;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_place_field_and_cause() {
        let error = Error::new(ErrorKind::InvalidData, "`pos` must not be empty")
            .with_path("train.jsonl")
            .with_line(7)
            .with_source("cause");
        assert_eq!(error.to_string(), "train.jsonl:7: `pos` must not be empty: cause");
        assert_eq!(error.kind() as u32, 5);
    }
}
