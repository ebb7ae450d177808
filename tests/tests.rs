//! All integration tests, one binary.

mod config;
mod data;
mod validate;
