//! Token counts by a `tokenizer.json`, for the second module.

use bge_core::data::session::TokenCounter;
use tokenizers::Tokenizer;

use crate::values::JsResult;
use wasm_bindgen::prelude::JsError;

/// The tokenizer of a `tokenizer.json`, which neither cuts nor pads.
pub(crate) fn load(tokenizer_json: &[u8]) -> JsResult<Tokenizer> {
    let refuse = |error: tokenizers::Error| JsError::new(&format!("this is no tokenizer.json: {error}"));
    let mut tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(refuse)?;
    tokenizer.with_truncation(None).map_err(refuse)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// The tokens of a text, special ones among them.
pub(crate) fn length(tokenizer: &Tokenizer, text: &str) -> usize {
    tokenizer
        .encode_fast(text, true)
        .map_or(0, |encoding| encoding.len())
}

/// A counter that lives as long as the module.
///
/// It is leaked, once for each tokenizer that a page loads: a validation borrows it, and JavaScript has no lifetimes.
pub(crate) fn counter(tokenizer_json: &[u8]) -> JsResult<TokenCounter<'static>> {
    let tokenizer = load(tokenizer_json)?;
    Ok(Box::leak(Box::new(move |text: &str| length(&tokenizer, text))))
}
