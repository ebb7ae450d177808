//! What is said about a name that is not a setting: where it belongs, or which name was meant.

use super::field::{Arguments, FieldDoc};
use super::foreign::ELSEWHERE;
use crate::error::{Error, ErrorKind};

/// Names of other tools and older versions, and the setting that does it here.
const SYNONYMS: &[(&str, &str)] = &[
    ("lr", "learning_rate"),
    ("epochs", "num_train_epochs"),
    ("epoch", "num_train_epochs"),
    ("num_epochs", "num_train_epochs"),
    ("batch_size", "per_device_train_batch_size"),
    ("train_batch_size", "per_device_train_batch_size"),
    ("grad_accum", "gradient_accumulation_steps"),
    ("model", "model_name_or_path"),
    ("model_name", "model_name_or_path"),
    ("model_path", "model_name_or_path"),
    ("data", "train_data"),
    ("train_file", "train_data"),
    ("output", "output_dir"),
    ("group_size", "train_group_size"),
    ("max_len", "passage_max_len"),
    ("max_length", "passage_max_len"),
    ("max_seq_length", "passage_max_len"),
    ("normlized", "normalize_embeddings"),
    ("normalized", "normalize_embeddings"),
    ("pooling", "sentence_pooling_method"),
    ("pooling_method", "sentence_pooling_method"),
    ("tau", "temperature"),
    ("eval_data", "eval_dataset"),
    ("patience", "early_stopping_patience"),
    ("resume", "resume_from_checkpoint"),
    ("mini_batch_size", "sub_batch_size"),
    ("device", "devices"),
    ("model_name_or_path", "embedder_name_or_path"),
    ("dataset_dir", "dataset"),
    ("eval_dataset", "dataset"),
    ("splits", "split"),
    ("output", "output_file"),
    ("input", "input_file"),
    ("max_length", "embedder_passage_max_length"),
];

/// Longer names are nobody's typing mistake, and comparing them costs time.
const MAX_NAME_BYTES: usize = 80;

/// The error for a name that is not a setting of `A`.
pub(crate) fn error<A: Arguments>(name: &str) -> Error {
    Error::new(ErrorKind::UnknownFlag, message::<A>(name, |_| true)).with_field(short(name))
}

/// What is wrong with an unknown name; only settings that `takes` accepts are suggested.
pub(crate) fn message<A: Arguments>(name: &str, takes: impl Fn(&FieldDoc) -> bool) -> String {
    if let Some((_, modules)) = ELSEWHERE.iter().find(|(names, _)| names.contains(&name)) {
        return format!("it is a setting of {modules}, not of the module that is trained here");
    }
    match nearest::<A>(name, takes) {
        Some(found) => format!("there is no such setting; did you mean `{found}`?"),
        None => "there is no such setting; `bge COMMAND --help` lists all of them".to_owned(),
    }
}

/// A name cut to a length that fits into a message, without characters that move a terminal's cursor.
pub(crate) fn short(name: &str) -> String {
    let visible = |character: char| {
        if character.is_control() {
            '\u{fffd}'
        } else {
            character
        }
    };
    let mut short: String = name.chars().take(MAX_NAME_BYTES).map(visible).collect();
    if name.chars().nth(MAX_NAME_BYTES).is_some() {
        short.push('…');
    }
    short
}

/// The setting that was probably meant.
fn nearest<A: Arguments>(name: &str, takes: impl Fn(&FieldDoc) -> bool) -> Option<&'static str> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('-', "_");
    let names = || {
        A::fields()
            .iter()
            .filter(|field| takes(field))
            .map(|field| field.name)
    };
    let synonym = SYNONYMS
        .iter()
        .filter(|(word, _)| *word == name)
        .find_map(|(_, meant)| names().find(|candidate| candidate == meant));
    if synonym.is_some() {
        return synonym;
    }
    let close = names()
        .map(|candidate| (distance(name.as_bytes(), candidate.as_bytes()), candidate))
        .min_by_key(|(steps, _)| *steps)
        .filter(|(steps, candidate)| *steps <= (candidate.len().min(name.len()) / 3).clamp(1, 4));
    if let Some((_, candidate)) = close {
        return Some(candidate);
    }
    // argparse accepts a beginning that fits one flag only; here it is a hint.
    let mut longer = names().filter(|candidate| name.len() >= 4 && candidate.starts_with(&name));
    longer.next()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one name into the other.
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(a != b);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && *a == to[column - 1] && from[row - 1] == *b;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_swaps_once() {
        assert_eq!(distance(b"temperature", b"temperature"), 0);
        assert_eq!(distance(b"temprature", b"temperature"), 1);
        assert_eq!(distance(b"tmeperature", b"temperature"), 1);
        assert_eq!(distance(b"", b"seed"), 4);
    }
}
