//! `bge rerank`.

use bge_core::{Error, ErrorKind};

use crate::command::{Failure, Outcome};

/// Runs the command.
pub(crate) fn run(_args: &[String]) -> Outcome<()> {
    Err(Failure::Work(Error::new(ErrorKind::Unsupported, "not written yet")))
}
