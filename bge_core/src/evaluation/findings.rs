//! What is wrong with evaluation data: each error with its line, warnings counted by kind.

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::beir::shorten;
use crate::error::{Error, ErrorKind};
use crate::issue::{Issue, Severity};

/// Errors listed before the rest is only counted.
const LISTED_ERRORS: usize = 100;
/// Examples named in a warning about many places.
const EXAMPLES: usize = 3;

/// Errors one by one, warnings gathered by kind.
#[derive(Default)]
pub(super) struct Findings {
    errors: Vec<Issue>,
    more_errors: usize,
    warnings: BTreeMap<(&'static str, String), Tally>,
}

struct Tally {
    what: &'static str,
    count: usize,
    line: u64,
    examples: Vec<String>,
}

impl Findings {
    pub(super) fn error(&mut self, code: &'static str, file: &Path, line: u64, message: String) {
        if self.errors.len() < LISTED_ERRORS {
            let issue = Issue::new(code, Severity::Error, message).in_file(file.display().to_string());
            self.errors
                .push(if line > 0 { issue.at_line(line) } else { issue });
        } else {
            self.more_errors += 1;
        }
    }

    /// Counts one more case of `what` (a phrase that follows a number); `example` is an id.
    pub(super) fn warn(
        &mut self,
        code: &'static str,
        what: &'static str,
        file: &Path,
        line: u64,
        example: &str,
    ) {
        let tally = self
            .warnings
            .entry((code, file.display().to_string()))
            .or_insert(Tally {
                what,
                count: 0,
                line,
                examples: Vec::new(),
            });
        tally.count += 1;
        if tally.examples.len() < EXAMPLES {
            tally.examples.push(format!("`{}`", shorten(example, 60)));
        }
    }

    pub(super) fn finish(self) -> Vec<Issue> {
        let mut issues = self.errors;
        if self.more_errors > 0 {
            issues.push(Issue::new(
                "evaluation.more_errors",
                Severity::Error,
                format!("{} more errors are not listed", self.more_errors),
            ));
        }
        issues.extend(self.warnings.into_iter().map(|((code, file), tally)| {
            let dots = if tally.count > tally.examples.len() {
                ", ..."
            } else {
                ""
            };
            let message = format!(
                "{} {} ({}{dots})",
                tally.count,
                tally.what,
                tally.examples.join(", ")
            );
            let issue = Issue::new(code, Severity::Warning, message).in_file(file);
            if tally.line > 0 {
                issue.at_line(tally.line)
            } else {
                issue
            }
        }));
        issues
    }
}

/// The first error, with the number of those after it.
pub(super) fn first_error(issues: &[Issue]) -> Error {
    let errors: Vec<&Issue> = issues
        .iter()
        .filter(|issue| issue.severity == Severity::Error)
        .collect();
    let Some(first) = errors.first() else {
        return Error::new(ErrorKind::InvalidData, "the evaluation data cannot be used");
    };
    let message = match errors.len() - 1 {
        0 => first.message.clone(),
        1 => format!("{} (and one more error)", first.message),
        more => format!("{} (and {more} more errors)", first.message),
    };
    let mut error = Error::new(ErrorKind::InvalidData, message);
    if let Some(path) = &first.path {
        error = error.with_path(path);
    }
    if let Some(line) = first.line {
        error = error.with_line(line);
    }
    error
}
