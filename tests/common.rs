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
