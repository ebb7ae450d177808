//! Fine-tune and serve BGE text-embedding models, whole and fast, without Python.

pub mod config;
pub mod data;
pub mod error;
#[cfg(feature = "model")]
pub mod evaluation;
#[cfg(not(target_arch = "wasm32"))]
pub mod files;
#[cfg(feature = "model")]
pub mod inference;
pub mod issue;
#[cfg(feature = "train")]
pub mod loss;
#[cfg(feature = "model")]
pub mod models;
#[cfg(feature = "model")]
pub mod nn;
#[cfg(feature = "train")]
pub mod optim;
pub mod random;
#[cfg(feature = "model")]
pub mod tokenize;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, ErrorKind, Result};
pub use issue::{Issue, Severity};
