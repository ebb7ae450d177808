//! Fine-tune and serve BGE text-embedding models, whole and fast, without Python.

pub mod config;
pub mod error;
#[cfg(not(target_arch = "wasm32"))]
pub mod files;
#[cfg(feature = "model")]
pub mod evaluation;
pub mod issue;
#[cfg(feature = "model")]
pub mod models;
#[cfg(feature = "model")]
pub mod nn;
#[cfg(feature = "train")]
pub mod loss;
#[cfg(feature = "train")]
pub mod optim;
pub mod random;
#[cfg(feature = "model")]
pub mod tokenize;

pub use error::{Error, ErrorKind, Result};
pub use issue::{Issue, Severity};
