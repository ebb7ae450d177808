//! Token counts by a `tokenizer.json`, for the second module.

use bge_core::data::session::TokenCounter;
use tokenizers::Tokenizer;

use crate::values::JsResult;
use wasm_bindgen::prelude::JsError;

/// A counter that lives as long as the module.
///
/// It is leaked, once for each tokenizer that a page loads: a validation borrows it, and JavaScript has no lifetimes.
pub(crate) fn counter(tokenizer_json: &[u8]) -> JsResult<TokenCounter<'static>> {
    let refuse = |error: tokenizers::Error| JsError::new(&format!("this is no tokenizer.json: {error}"));
    let mut tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(refuse)?;
    tokenizer.with_truncation(None).map_err(refuse)?;
    tokenizer.with_padding(None);
    let count = move |text: &str| {
        tokenizer
            .encode_fast(text, true)
            .map_or(0, |encoding| encoding.len())
    };
    Ok(Box::leak(Box::new(count)))
}
