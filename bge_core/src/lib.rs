//! Fine-tune and serve BGE text-embedding models, whole and fast, without Python.

pub mod config;
pub mod error;
pub mod issue;
#[cfg(feature = "train")]
pub mod loss;
#[cfg(feature = "train")]
pub mod optim;
pub mod random;
#[cfg(feature = "model")]
pub mod tokenize;

pub use error::{Error, ErrorKind, Result};
pub use issue::{Issue, Severity};
