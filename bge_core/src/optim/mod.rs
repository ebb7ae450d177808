//! What happens between a gradient and a new weight: its norm, the learning rate, and the `AdamW` step.

mod adamw;
mod decay;
mod norm;
mod schedule;

pub(crate) use adamw::Span;
pub use adamw::{AdamW, AdamWConfig, Parameter};
pub use decay::decays;
pub(crate) use norm::{PIECE as NORM_PIECE, piece_sums};
pub use norm::{clip_factor, global_norm};
pub use schedule::{Schedule, warmup_steps};
