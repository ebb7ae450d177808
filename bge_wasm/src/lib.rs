//! The validator, the converters, the planner and the settings of bge for JavaScript: the very functions that the trainer runs.
//!
//! Nothing here computes: every function turns JavaScript values into those of `bge_core` and back. The types that
//! TypeScript sees are in `types.d.ts` beside this file. It is built as three modules, by its features, so that a page loads
//! what it needs.

#![allow(
    clippy::needless_pass_by_value,
    reason = "what comes from JavaScript is owned: wasm-bindgen has no borrowed optional text"
)]

#[cfg(feature = "tools")]
mod convert;
#[cfg(feature = "tools")]
mod given;
#[cfg(feature = "tools")]
mod length;
#[cfg(feature = "tools")]
mod planner;
#[cfg(feature = "check")]
mod repair;
#[cfg(feature = "check")]
mod settings;
#[cfg(feature = "check")]
mod split;
#[cfg(all(feature = "tokens", target_arch = "wasm32"))]
mod tokens;
#[cfg(feature = "check")]
mod validator;
mod values;

#[cfg(feature = "tools")]
pub use convert::{Converter, file_role};
#[cfg(feature = "tools")]
pub use length::{LengthSplitter, default_lengths};
#[cfg(feature = "tools")]
pub use planner::{model_presets, plan_run};
#[cfg(feature = "check")]
pub use repair::{Excerpts, Repairer};
#[cfg(feature = "check")]
pub use settings::{check_config, config_schema, default_config, modules, parse_config, render_config};
#[cfg(feature = "check")]
pub use split::Splitter;
#[cfg(feature = "check")]
pub use validator::Validator;

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("types.d.ts");

/// The version of bge that this was built from.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
