//! Texts of evaluation data that are in the training data too.

use super::duplicates::{Seen, fingerprint};

/// The texts of evaluation data, to find those that are in the training data too.
#[derive(Clone, Debug)]
pub struct EvaluationTexts {
    pub(super) queries: Seen<()>,
    pub(super) passages: Seen<()>,
}

impl Default for EvaluationTexts {
    fn default() -> Self {
        Self {
            queries: Seen::new(usize::MAX),
            passages: Seen::new(usize::MAX),
        }
    }
}

impl EvaluationTexts {
    /// Adds a query. Case and the amount of white space do not matter.
    pub fn add_query(&mut self, text: &str) {
        self.queries.see(loose_fingerprint(text), ());
    }

    /// Adds a document, as it is embedded (title and text joined).
    pub fn add_passage(&mut self, text: &str) {
        self.passages.see(loose_fingerprint(text), ());
    }
}

/// A fingerprint that does not see case and the amount of white space.
pub(super) fn loose_fingerprint(text: &str) -> u64 {
    let mut loose = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !loose.is_empty() {
            loose.push(' ');
        }
        if word.is_ascii() {
            loose.extend(word.chars().map(|c| c.to_ascii_lowercase()));
        } else {
            loose.extend(word.chars().flat_map(char::to_lowercase));
        }
    }
    fingerprint(loose.as_bytes())
}
