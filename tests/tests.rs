//! All integration tests, one binary.

#[cfg(feature = "train")]
mod loss;
#[cfg(feature = "train")]
mod optim;
