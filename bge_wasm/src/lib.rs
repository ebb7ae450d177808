//! The validator, the converters, the planner and the settings of bge for JavaScript: the very functions that the trainer runs.
//!
//! Nothing here computes: every function turns JavaScript values into those of `bge_core` and back. The types that
//! TypeScript sees are in `types.d.ts` beside this file. It is built as four modules, by its features, so that a page loads
//! what it needs.

#![allow(
    clippy::needless_pass_by_value,
    reason = "what comes from JavaScript is owned: wasm-bindgen has no borrowed optional text"
)]

#[cfg(feature = "tools")]
mod convert;
#[cfg(feature = "validate")]
mod excerpts;
#[cfg(feature = "tools")]
mod given;
#[cfg(feature = "tools")]
mod length;
#[cfg(feature = "tools")]
mod planner;
#[cfg(feature = "tools")]
mod repair;
#[cfg(feature = "settings")]
mod settings;
#[cfg(feature = "tools")]
mod split;
#[cfg(all(feature = "tokens", target_arch = "wasm32"))]
mod tokens;
#[cfg(feature = "validate")]
mod validator;
mod values;

#[cfg(feature = "tools")]
pub use convert::{Converter, file_role};
#[cfg(feature = "validate")]
pub use excerpts::Excerpts;
#[cfg(feature = "tools")]
pub use length::{LengthSplitter, default_lengths};
#[cfg(feature = "tools")]
pub use planner::{model_presets, plan_run};
#[cfg(feature = "tools")]
pub use repair::Repairer;
#[cfg(feature = "settings")]
pub use settings::{check_config, config_schema, default_config, modules, parse_config, render_config};
#[cfg(feature = "tools")]
pub use split::Splitter;
#[cfg(feature = "validate")]
pub use validator::Validator;

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("types.d.ts");

/// The version of bge that this was built from.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
