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
//! epoch ([`plan`]) and rows groups ([`group`]).

pub mod codes;
#[cfg(not(target_arch = "wasm32"))]
pub mod dataset;
pub mod group;
pub mod layout;
pub mod lines;
pub mod plan;
pub mod record;
#[cfg(not(target_arch = "wasm32"))]
pub mod source;
pub mod task;
pub mod template;

#[cfg(not(target_arch = "wasm32"))]
pub use dataset::Dataset;
pub use group::TrainGroup;
pub use plan::{BatchPlan, EpochPlan, PlanInput};
pub use record::TrainingRecord;
