//! Encoders, their files, and the way from hidden states to one vector per text.

mod batch;
mod bert;
#[cfg(test)]
pub(crate) mod checks;
mod config;
mod cross_encoder;
mod fingerprint;
mod folder;
#[cfg(any(feature = "cuda", test))]
mod gpu;
pub mod hub;
mod m3;
mod merge;
mod pooling;
mod save;
mod torch_file;
pub(crate) mod weights;
#[cfg(feature = "zoo")]
pub mod zoo;

pub use batch::Batch;
pub use bert::{Bert, BertRecord};
pub use config::{EncoderConfig, Family};
pub(crate) use cross_encoder::read_cross_encoder_weights;
pub use cross_encoder::{CrossEncoder, CrossEncoderRecord};
pub use fingerprint::fingerprint;
pub use folder::ModelFolder;
#[cfg(any(feature = "cuda", all(test, feature = "train")))]
pub(crate) use gpu::Placement;
pub use m3::{HeadVectors, Heads, M3, normalize_rows, normalize_rows_backward};
pub(crate) use m3::{has_heads, read_m3_weights};
pub use merge::Merger;
pub use pooling::{pool, pool_backward};
pub(crate) use save::write_json;
pub use save::{SentenceSettings, save_cross_encoder, save_m3, save_model};
pub use weights::read_weights;

pub use crate::nn::Keep;
