//! Fine-tune and serve BGE text-embedding models, whole and fast, without Python.
//!
//! # From settings to vectors
//!
//! ```no_run
//! # #[cfg(feature = "train")]
//! # fn main() -> bge_core::Result<()> {
//! use bge_core::config::{EmbedArguments, FinetuneConfig, config_error};
//! use bge_core::{Embedder, Trainer};
//!
//! let flags = ["--model_name_or_path", "model", "--train_data", "train.jsonl", "--output_dir", "tuned"];
//! let parsed = FinetuneConfig::from_flags(&flags).map_err(|issues| config_error(&issues))?;
//! let config = parsed.arguments.check().map_err(|issues| config_error(&issues))?;
//! let report = Trainer::new(config)?.run(&mut [])?;
//!
//! let embedder = Embedder::from_finetuned(&report.folder, &EmbedArguments::default())?;
//! let queries = embedder.encode_queries(&["what melts ice?"])?;
//! let corpus = embedder.encode_corpus(&["Salt lowers the melting point."])?;
//! let score: f32 = queries.row(0).iter().zip(corpus.row(0)).map(|(a, b)| a * b).sum();
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "train"))]
//! # fn main() {}
//! ```
//!
//! # Where things are
//!
//! Settings and data come first: [`config`] reads flags, JSON, TOML and FlagEmbedding's command lines, and checks them;
//! [`data`] reads, validates, orders and draws training rows; [`planner`] says what a run will need. These three, with [`mod@error`], [`issue`] and [`random`],
//! are the pure half of the library: `default-features = false` leaves only them, and they compile for the browser.
//!
//! What runs a model needs the feature `model`: `tokenize`, `nn` (layers with a hand-written backward), `models` (BERT and
//! XLM-RoBERTa, their folders), `inference` (texts to vectors) and `evaluation` (retrieval metrics, before against after).
//! What changes a model needs `train`: `loss`, `optim`, `distributed` (ranks that train together) and `train`. `hub` fetches models by name, and `cli`
//! builds the `bge` command. `train` and `cli` are on unless switched off.
//!
//! # What holds everywhere
//!
//! - One error type, [`Error`]: a stable [`ErrorKind`], and where it happened. Bad data and settings come in bulk, as
//!   [`Issue`]s with stable codes.
//! - Every random draw is a pure function of a seed, a purpose and an index ([`random`]). No result depends on a
//!   clock, on the batch around a text, or on the order of a hash map.
//! - Files are written beside their place and then renamed ([`files`]): a crash leaves the old one or the new one.

pub mod config;
#[cfg(all(feature = "model", any(feature = "cuda", test)))]
mod cuda;
pub mod data;
#[cfg(feature = "model")]
pub mod distillation;
#[cfg(feature = "train")]
pub mod distributed;
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
pub mod mining;
#[cfg(feature = "model")]
pub mod models;
#[cfg(feature = "model")]
pub mod nn;
#[cfg(feature = "train")]
pub mod optim;
#[cfg(feature = "train")]
pub mod pipeline;
pub mod planner;
pub mod random;
#[cfg(feature = "model")]
pub mod search;
#[cfg(feature = "model")]
pub mod tokenize;
#[cfg(feature = "train")]
pub mod train;

pub use config::{EmbedArguments, FinetuneConfig};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "model")]
pub use inference::{Embedder, Reranker, Vectors};
pub use issue::{Issue, Severity};
#[cfg(feature = "train")]
pub use train::{Callback, Control, TrainEvent, TrainReport, Trainer};
