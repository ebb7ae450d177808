//! The outcome of a call, as a stable number.

use bge_core::ErrorKind;

/// The outcome of a call. Numbers are appended, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum bge_status {
    /// Done.
    Ok = 0,
    /// A pointer that must not be NULL is; the error's field names it.
    NullPointer = 1,
    /// An argument of a call is out of its range.
    InvalidArgument = 2,
    /// A flag or key that bge does not know.
    UnknownFlag = 3,
    /// Settings that contradict each other or cannot be read.
    InvalidConfig = 4,
    /// Training or evaluation data with errors.
    InvalidData = 5,
    /// A file, folder or model that is not there.
    NotFound = 6,
    /// The operating system refused to read or write.
    Io = 7,
    /// A model folder or checkpoint that is damaged or of a wrong shape.
    ModelFormat = 8,
    /// A tokenizer that cannot be loaded or used.
    Tokenizer = 9,
    /// A device that is not there or failed.
    Device = 10,
    /// Memory ran out.
    OutOfMemory = 11,
    /// A rank failed or did not answer.
    Distributed = 12,
    /// A loss, gradient or weight became NaN or infinite.
    NotFinite = 13,
    /// Stopped because the caller asked for it.
    Cancelled = 14,
    /// Known, but not available in this build or for this model.
    Unsupported = 15,
    /// An earlier call on this handle panicked; free it.
    Poisoned = 16,
    /// bge panicked, which is a bug in it; the handles of the call are poisoned.
    Panic = 17,
    /// A bug in bge.
    Internal = 18,
}

impl From<ErrorKind> for bge_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidArgument => Self::InvalidArgument,
            ErrorKind::UnknownFlag => Self::UnknownFlag,
            ErrorKind::InvalidConfig => Self::InvalidConfig,
            ErrorKind::InvalidData => Self::InvalidData,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Io => Self::Io,
            ErrorKind::ModelFormat => Self::ModelFormat,
            ErrorKind::Tokenizer => Self::Tokenizer,
            ErrorKind::Device => Self::Device,
            ErrorKind::OutOfMemory => Self::OutOfMemory,
            ErrorKind::Distributed => Self::Distributed,
            ErrorKind::NotFinite => Self::NotFinite,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Unsupported => Self::Unsupported,
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_and_its_status_have_one_number() {
        use ErrorKind as Kind;
        for kind in [
            Kind::InvalidArgument,
            Kind::UnknownFlag,
            Kind::InvalidConfig,
            Kind::InvalidData,
            Kind::NotFound,
            Kind::Io,
            Kind::ModelFormat,
            Kind::Tokenizer,
            Kind::Device,
            Kind::OutOfMemory,
            Kind::Distributed,
            Kind::NotFinite,
            Kind::Cancelled,
            Kind::Unsupported,
            Kind::Internal,
        ] {
            assert_eq!(bge_status::from(kind) as u32, kind as u32, "{kind:?}");
        }
    }
}
