//! Fine-tune and serve BGE text-embedding models, whole and fast, without Python.

pub mod config;
pub mod data;
pub mod error;
pub mod issue;
pub mod random;

pub use error::{Error, ErrorKind, Result};
pub use issue::{Issue, Severity};
