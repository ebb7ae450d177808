//! Helpers shared by the tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "helpers of tests fail by panicking"
)]

use std::path::{Path, PathBuf};

/// A file or folder under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Reads a JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(
        &std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    )
    .unwrap()
}

/// Opens the model of a folder.
#[cfg(feature = "train")]
pub fn open_model(folder: &Path) -> bge_core::models::Bert {
    let opened = bge_core::models::ModelFolder::open(folder).unwrap();
    bge_core::models::Bert::new(opened.config, bge_core::models::read_weights(folder).unwrap()).unwrap()
}

/// Largest absolute difference of two slices of one length.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[cfg(feature = "train")]
pub use train::*;

/// Helpers that need a model.
#[cfg(feature = "train")]
mod train {
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::path::Path;

    use bge_core::config::{CheckedConfig, FinetuneConfig, Module};
    use bge_core::models::{Bert, ModelFolder, read_weights};
    use bge_core::random::Draws;
    use bge_core::tokenize::TokenBatch;
    use bge_core::train::{TrainBatch, TrainReport, Trainer};

    use super::{fixture, json};

    /// The tiny `bert` or `xlmr` with dropout `p` everywhere.
    pub fn network(name: &str, p: f32) -> Bert {
        let folder = fixture("parity/models").join(name);
        let mut config = ModelFolder::open(&folder).unwrap().config;
        config.hidden_dropout_prob = p;
        config.attention_probs_dropout_prob = p;
        Bert::new(config, read_weights(&folder).unwrap()).unwrap()
    }

    /// Random texts of these lengths; ids stay clear of the special tokens.
    pub fn token_rows(vocab: usize, lengths: &[usize]) -> Vec<Vec<u32>> {
        let mut draws = Draws::new(lengths.iter().fold(17, |sum, len| sum * 31 + *len as u64));
        let mut row = |len: &usize| (0..*len).map(|_| 6 + draws.below(vocab - 6) as u32).collect();
        lengths.iter().map(&mut row).collect()
    }

    /// A random micro-batch of texts of 2 to 40 tokens.
    pub fn random_batch(vocab: usize, queries: usize, group: usize, seed: u64) -> TrainBatch {
        let mut draws = Draws::new(seed);
        let mut side = |count: usize, longest: usize| {
            let rows: Vec<Vec<u32>> = (0..count)
                .map(|_| {
                    let len = 2 + draws.below(longest - 1);
                    (0..len).map(|_| 6 + draws.below(vocab - 6) as u32).collect()
                })
                .collect();
            TokenBatch::from_rows(&rows).unwrap()
        };
        TrainBatch {
            queries: side(queries, 12),
            passages: side(queries * group, 40),
            no_in_batch_neg: false,
            teacher_scores: None,
        }
    }

    /// Every weight as bits, by name.
    pub fn bits(model: &Bert) -> BTreeMap<String, Vec<u32>> {
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        let flat = |(name, value, _): (&str, &candle_core::Tensor, bool)| {
            let values = value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (name.to_owned(), bits(values))
        };
        model.params().iter().map(flat).collect()
    }

    /// Every weight, by name.
    pub fn weights(model: &Bert) -> BTreeMap<String, Vec<f32>> {
        let flat = |(name, value, _): (&str, &candle_core::Tensor, bool)| {
            (name.to_owned(), value.flatten_all().unwrap().to_vec1().unwrap())
        };
        model.params().iter().map(flat).collect()
    }

    /// An evaluation folder out of `plain.jsonl`: its queries, positives and negatives.
    pub fn beir(folder: &Path) {
        let (mut corpus, mut queries) = (String::new(), String::new());
        let mut qrels = "query-id\tcorpus-id\tscore\n".to_owned();
        let lines = std::fs::read_to_string(fixture("parity/data/plain.jsonl")).unwrap();
        for (row, line) in lines.lines().enumerate() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let _ = writeln!(queries, "{{\"_id\": \"q{row}\", \"text\": {}}}", record["query"]);
            for (kind, key) in [("p", "pos"), ("n", "neg")] {
                let _ = writeln!(
                    corpus,
                    "{{\"_id\": \"{kind}{row}\", \"text\": {}}}",
                    record[key][0]
                );
            }
            let _ = writeln!(qrels, "q{row}\tp{row}\t1");
        }
        std::fs::create_dir_all(folder.join("qrels")).unwrap();
        std::fs::write(folder.join("corpus.jsonl"), corpus).unwrap();
        std::fs::write(folder.join("queries.jsonl"), queries).unwrap();
        std::fs::write(folder.join("qrels/test.tsv"), qrels).unwrap();
    }

    /// Copies the files and folders of a folder.
    pub fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    /// A copy of a tiny model's folder whose `config.json` asks for dropout 0.1.
    pub fn folder_with_dropout(name: &str, to: &Path) {
        copy(&fixture("parity/models").join(name), to);
        let mut config = json(&to.join("config.json"));
        for key in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
            config[key] = 0.1.into();
        }
        std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    }

    /// Settings from words; a path that begins with `data/` or `models/` is a fixture.
    pub fn settings<S: AsRef<str>>(words: &[S]) -> CheckedConfig {
        let place = |word: &S| {
            let word = word.as_ref();
            if word.starts_with("data/") || word.starts_with("models/") {
                fixture("parity").join(word).display().to_string()
            } else {
                word.to_owned()
            }
        };
        let words: Vec<String> = words.iter().map(place).collect();
        let parsed = FinetuneConfig::from_flags(&words).unwrap_or_else(|issues| panic!("{issues:?}"));
        let checked = parsed.arguments.check_for(Module::EncoderOnlyBase);
        checked.unwrap_or_else(|issues| panic!("{issues:?}"))
    }

    /// Runs a training with these settings to its end.
    pub fn train<S: AsRef<str>>(words: &[S]) -> TrainReport {
        let mut trainer = Trainer::new(settings(words)).unwrap_or_else(|error| panic!("{error}"));
        trainer.run(&mut []).unwrap_or_else(|error| panic!("{error}"))
    }
}
