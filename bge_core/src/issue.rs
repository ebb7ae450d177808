//! One finding about data or settings: a stable code, how bad it is, where it is, and what to do.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; nothing is wrong.
    Info,
    /// Training goes on, the result may suffer.
    Warning,
    /// Training refuses to start.
    Error,
}

/// One finding. Codes are stable text (`data.neg_empty`), appended and never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// Stable code, for filters and tests.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The file, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The line in it, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The number of the row, counted from 1, in a file that is a JSON array.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element: Option<u32>,
    /// The field or flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong and what to do about it; lower-case, no full stop.
    pub message: String,
}

impl Issue {
    /// A finding without a place; add it with the builder methods.
    pub fn new(code: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            path: None,
            line: None,
            element: None,
            field: None,
            message: message.into(),
        }
    }

    /// Adds the line.
    #[must_use]
    pub fn at_line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }

    /// Adds the field or flag.
    #[must_use]
    pub fn on_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds the file.
    #[must_use]
    pub fn in_file(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }
}

impl std::fmt::Display for Issue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if let Some(path) = &self.path {
            write!(f, "{path}:")?;
        }
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if self.path.is_some() || self.line.is_some() {
            write!(f, " ")?;
        }
        if let Some(element) = self.element {
            write!(f, "element {element}: ")?;
        }
        write!(f, "{severity}[{}]: ", self.code)?;
        if let Some(field) = &self.field {
            write!(f, "`{field}`: ")?;
        }
        write!(f, "{}", self.message)
    }
}
