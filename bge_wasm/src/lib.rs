//! The validator, the repair and the settings of bge for JavaScript: the very functions that the trainer runs.
//!
//! Nothing here computes: every function turns JavaScript values into those of `bge_core` and back. The types that
//! TypeScript sees are in `types.d.ts` beside this file.

#![allow(
    clippy::needless_pass_by_value,
    reason = "what comes from JavaScript is owned: wasm-bindgen has no borrowed optional text"
)]

mod repair;
mod settings;
mod split;
#[cfg(all(feature = "tokens", target_arch = "wasm32"))]
mod tokens;
mod validator;
mod values;

pub use repair::{Excerpts, Repairer};
pub use settings::{check_config, config_schema, default_config, modules, parse_config, render_config};
pub use split::Splitter;
pub use validator::Validator;

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("types.d.ts");

/// The version of bge that this was built from.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
