//! What is said about a name that is not a setting.

use super::field::Arguments;
use crate::error::{Error, ErrorKind};

/// The error for a name that is not a setting of `A`.
pub(crate) fn error<A: Arguments>(name: &str) -> Error {
    let _ = A::fields();
    Error::new(ErrorKind::UnknownFlag, "there is no such setting").with_field(name)
}
