//! The C interface of bge: `include/bge.h` is made from these files, and says what holds for all of them.
//!
//! Each function is a `guard` around a few safe lines over `bge_core`. References, `Option` and `Box` are what C sees as
//! pointers that may be NULL; raw pointers are read in `text.rs` alone.
#![allow(non_camel_case_types, reason = "types bear the names that C knows them by")]
#![allow(
    unreachable_pub,
    reason = "what C calls is public without being reachable in Rust"
)]
#![allow(
    clippy::doc_markdown,
    reason = "these comments are the header's, in C's words"
)]
#![allow(
    clippy::boxed_local,
    clippy::needless_pass_by_value,
    reason = "a Box that C hands back is freed where it arrives"
)]
#![allow(clippy::unnecessary_box_returns, reason = "C gets its errors in boxes")]

mod config;
mod data;
mod embedder;
mod error;
mod event;
mod guard;
mod handle;
mod library;
mod log;
mod reranker;
mod runs;
mod settings;
mod status;
mod text;
mod trainer;

pub use config::*;
pub use data::*;
pub use embedder::*;
pub use error::*;
pub use event::*;
pub use handle::{bge_text, bge_text_free, bge_text_view};
pub use library::*;
pub use log::*;
pub use reranker::*;
pub use runs::*;
pub use status::*;
pub use text::*;
pub use trainer::*;
