//! Training a cross-encoder: beside FlagEmbedding, resumed, cut into pieces, and refused where it cannot be.

mod parity;
mod refusals;
mod runs;
mod steps;

use std::fs;
use std::path::{Path, PathBuf};

use bge_core::config::{CheckedConfig, FinetuneConfig, Loader, Module};
use bge_core::models::{Batch, CrossEncoder};
use bge_core::tokenize::TokenBatch;
use bge_core::train::{TrainReport, Trainer};
use bge_core::{Error, Issue};
use bge_tests::{copy, fixture, json};
use serde_json::Value;

const MODULE: Module = Module::RerankerEncoderOnlyBase;

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn folder() -> PathBuf {
    fixture("reranker")
}

/// Settings from words; a path that begins with `data/` or `models/` is a fixture.
fn settings<S: AsRef<str>>(words: &[S]) -> Result<CheckedConfig, Vec<Issue>> {
    let place = |word: &S| {
        let word = word.as_ref();
        if word.starts_with("data/") || word.starts_with("models/") {
            folder().join(word).display().to_string()
        } else {
            word.to_owned()
        }
    };
    let words: Vec<String> = words.iter().map(place).collect();
    let parsed = Loader::<FinetuneConfig>::for_module(MODULE)
        .flags(&words)
        .finish()?;
    parsed.arguments.check_for(MODULE)
}

fn lay(model: &CrossEncoder, tokens: &TokenBatch) -> Batch {
    let types = tokens.type_ids.as_deref().unwrap_or_default();
    Batch::new(model.config(), &tokens.ids, types, &tokens.offsets, 0..).unwrap()
}

fn dropout_folder(name: &str, to: &Path, p: f32) {
    copy(&folder().join("models").join(name), to);
    change_config(to, |config| {
        config["hidden_dropout_prob"] = p.into();
        config["attention_probs_dropout_prob"] = p.into();
    });
}

fn change_config(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = json(&path);
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

fn prepare<S: AsRef<str>>(words: &[S]) -> Result<Trainer, Error> {
    Trainer::new(settings(words).unwrap_or_else(|issues| panic!("{issues:?}")))
}

fn train<S: AsRef<str>>(words: &[S]) -> TrainReport {
    let mut trainer = prepare(words).unwrap_or_else(|error| panic!("{error}"));
    trainer.run(&mut []).unwrap_or_else(|error| panic!("{error}"))
}
