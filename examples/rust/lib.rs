//! What the example programs share, and the README, whose Rust code is tested here.
//!
#![doc = include_str!("../../README.md")]
#![allow(clippy::doc_markdown, reason = "the README is prose, not rustdoc")]

use std::path::{Path, PathBuf};

/// A file of this repository, wherever the program is started.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A tiny model for trying things out: random weights, 32 dimensions.
pub fn toy_model() -> PathBuf {
    in_repository("tests/fixtures/parity/models/bert")
}

/// Sixteen rows of training data.
pub fn toy_data() -> PathBuf {
    in_repository("examples/data/toy.jsonl")
}
