//! Conversion, repair and splits of files: read from front to back, written whole or not at all.
//!
//! Inputs may be packed as `.gz`. An output that exists is refused unless it may be replaced, and so is one that is an
//! input. Whoever watches may end the work at any time; then nothing is left of it.

mod convert;
mod input;
mod length;
mod output;
mod repair;
mod split;

use std::ops::ControlFlow;

pub use convert::{Conversion, convert_files};
pub use length::{CountTokens, LengthFile, LogLine, split_by_length};
pub use repair::{Repairing, repair_files};
pub use split::{Splitting, split_files};

/// How far the work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes of the files that were read, packed as they are.
    pub bytes: u64,
    /// Bytes that will be read.
    pub total: u64,
}

/// Is told after each piece how far the work is; `Break` ends it with
/// [`ErrorKind::Cancelled`](crate::error::ErrorKind::Cancelled).
pub type Watch<'a> = &'a mut dyn FnMut(Passed) -> ControlFlow<()>;
