//! Why a group of ranks ended.

use crate::error::{Error, ErrorKind};

/// Why the group ended.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(message: String) -> Self {
        let kind = ErrorKind::Distributed;
        Self { kind, message }
    }

    pub(super) fn of(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            message: error.to_string(),
        }
    }

    /// The kind of this number; a number of no kind is a failed rank.
    #[cfg(any(feature = "mpi", feature = "nccl", test))]
    pub(super) fn kind_of(number: u32) -> ErrorKind {
        use ErrorKind::{
            Cancelled, Device, Distributed, Internal, InvalidArgument, InvalidConfig, InvalidData, Io,
            ModelFormat, NotFinite, NotFound, OutOfMemory, Tokenizer, UnknownFlag, Unsupported,
        };
        let kinds = [
            InvalidArgument,
            UnknownFlag,
            InvalidConfig,
            InvalidData,
            NotFound,
            Io,
            ModelFormat,
            Tokenizer,
            Device,
            OutOfMemory,
            NotFinite,
            Cancelled,
            Unsupported,
            Internal,
        ];
        kinds
            .into_iter()
            .find(|kind| *kind as u32 == number)
            .unwrap_or(Distributed)
    }

    pub(super) fn error(&self) -> Error {
        Error::new(self.kind, self.message.clone())
    }
}

/// An error as the other ranks see it.
pub(crate) fn of_rank(rank: usize, error: &Error) -> Error {
    Error::new(ErrorKind::Distributed, format!("rank {rank} failed: {error}"))
}
