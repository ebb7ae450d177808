//! The flags that a command takes out of its line before the settings are read.

use super::field::{Arguments, FieldKind};
use crate::issue::{Issue, Severity};

/// Whether a word of a command line is a flag rather than a value; negative numbers are values.
pub(super) fn is_flag(word: &str) -> bool {
    let Some(rest) = word.strip_prefix('-') else {
        return false;
    };
    let name = rest.strip_prefix('-').unwrap_or(rest);
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    name.starts_with(|first: char| first.is_alphabetic())
        && !name.contains(char::is_whitespace)
        && word.parse::<f64>().is_err()
}

/// Takes `--config FILE` out of a command line and returns the file.
///
/// The file is read by the caller: this half of the library does not touch the disk.
pub fn split_config_flag(arguments: &[String]) -> Result<(Option<String>, Vec<String>), Issue> {
    let problem = |code, message: &str| Err(Issue::new(code, Severity::Error, message).on_field("config"));
    let mut file = None;
    let mut rest = Vec::with_capacity(arguments.len());
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        let found = if word == "--config" {
            words.next_if(|next| !is_flag(next)).cloned()
        } else if let Some(attached) = word.strip_prefix("--config=") {
            Some(attached.to_owned())
        } else {
            rest.push(word.clone());
            continue;
        };
        match found {
            None => return problem("config.missing_value", "`--config` needs a file"),
            Some(_) if file.is_some() => {
                return problem("config.given_twice", "only one file of settings can be given");
            }
            found => file = found,
        }
    }
    Ok((file, rest))
}

/// Separates words that belong to no flag, such as paths, from flags and their values: a flag takes as many values as its
/// kind has. All words behind `--` belong to no flag.
pub fn split_free_words<A: Arguments>(words: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut free, mut flags) = (Vec::new(), Vec::new());
    let is_flag = |word: &str| word.len() > 2 && word.starts_with("--");
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            free.extend(words.by_ref().cloned());
        } else if !is_flag(word) {
            free.push(word.clone());
        } else {
            flags.push(word.clone());
            if word.contains('=') {
                continue;
            }
            let name = word.trim_start_matches('-').replace('-', "_");
            let name = A::alias(&name).unwrap_or(&name);
            match A::field(name).map(|field| field.kind) {
                Some(kind) if kind.is_list() => {
                    flags.extend(std::iter::from_fn(|| words.next_if(|next| !is_flag(next))).cloned());
                }
                Some(FieldKind::Boolean) => {
                    let is_word = |next: &str| {
                        let words = ["true", "false", "yes", "no", "t", "f", "y", "n", "1", "0"];
                        words.iter().any(|word| next.eq_ignore_ascii_case(word))
                    };
                    flags.extend(words.next_if(|next| is_word(next)).cloned());
                }
                // An unknown flag takes a value too, so that the complaint is about the flag.
                _ => flags.extend(words.next_if(|next| !is_flag(next)).cloned()),
            }
        }
    }
    (free, flags)
}

/// Takes every bare `name` (with its dashes) out of a command line; true if there was one.
pub fn take_switch(arguments: &mut Vec<String>, name: &str) -> bool {
    let before = arguments.len();
    arguments.retain(|word| word != name);
    arguments.len() < before
}
