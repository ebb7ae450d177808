//! Training data: JSON lines from bytes to drawn groups, and the report on what is wrong with them.
//!
//! A row is one JSON object:
//!
//! ```json
//! {"query": "what melts ice?", "pos": ["Salt lowers the melting point."], "neg": ["Ice is cold."]}
//! ```
//!
//! with the optional columns `pos_scores` and `neg_scores` (teacher scores), `prompt` (the row's own instruction), `type`
//! (task type), `category`, `batch_size` and `train_group_size` (read from a file's first row in same-dataset mode).
//! Bytes become lines ([`lines`]), lines records ([`record`]), files datasets ([`layout`]), datasets the batches of an
//! epoch ([`plan`]) and rows groups ([`group`]). What is no training data yet is made into some ([`convert`]), or mended ([`repair`]);
//! `preparing`, in builds with the feature `model`, does this to files. A [`session`] holds the same bytes against all [`rules`] for a [`report`].

pub(crate) mod beir;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod beir_folder;
pub mod codes;
pub mod convert;
#[cfg(not(target_arch = "wasm32"))]
pub mod dataset;
pub mod duplicates;
pub mod findings;
pub mod group;
pub mod histogram;
mod judge;
pub mod layout;
pub mod leaks;
pub mod length;
pub mod lines;
mod parse;
pub mod plan;
#[cfg(not(target_arch = "wasm32"))]
pub mod preflight;
#[cfg(feature = "model")]
pub mod preparing;
mod quick;
pub mod record;
mod render;
pub mod repair;
pub mod report;
pub mod rules;
pub mod session;
#[cfg(not(target_arch = "wasm32"))]
pub mod source;
pub mod split;
mod tally;
pub mod task;
pub mod template;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod text_lines;

#[cfg(not(target_arch = "wasm32"))]
pub use dataset::Dataset;
pub use group::TrainGroup;
pub(crate) use parse::kind_of;
pub use plan::{BatchPlan, EpochPlan, PlanInput};
pub use record::TrainingRecord;
pub use render::ShowIssues;
pub use report::{DatasetReport, Verdict};
pub use session::{ValidationOptions, ValidationSession};
