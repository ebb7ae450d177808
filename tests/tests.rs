//! All integration tests, one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]
#![allow(
    clippy::case_sensitive_file_extension_comparisons,
    clippy::semicolon_if_nothing_returned,
    clippy::type_complexity,
    reason = "tables of cases name their own files and closures"
)]

#[cfg(feature = "train")]
mod beir;
#[cfg(feature = "train")]
mod checkpoints;
mod config;
mod data;
#[cfg(feature = "train")]
mod devices;
#[cfg(feature = "train")]
mod evaluation;
#[cfg(feature = "train")]
mod gradients;
#[cfg(feature = "train")]
mod hub;
#[cfg(feature = "train")]
mod inference;
mod layers;
#[cfg(feature = "train")]
mod loss;
#[cfg(feature = "train")]
mod m3;
#[cfg(feature = "train")]
mod m3_heads;
#[cfg(feature = "train")]
mod merging;
#[cfg(feature = "train")]
mod mining;
#[cfg(feature = "train")]
mod optim;
#[cfg(feature = "train")]
mod parity;
#[cfg(feature = "train")]
mod pipeline;
#[cfg(feature = "train")]
mod queue;
#[cfg(feature = "train")]
mod quickstart;
#[cfg(feature = "train")]
mod reranker_training;
#[cfg(feature = "train")]
mod resume;
#[cfg(feature = "train")]
mod scoring;
#[cfg(feature = "train")]
mod search;
#[cfg(feature = "train")]
mod tokenize;
#[cfg(feature = "train")]
mod training;
mod validate;
mod wasm;
#[cfg(feature = "zoo")]
mod zoo;
