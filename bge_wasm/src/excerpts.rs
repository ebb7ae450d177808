//! The lines that a report points at.

use bge_core::data::lines::{Found, LineSplitter};
use serde_json::{Value, json};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::values::{JsResult, to_js};

/// Finds the lines that a report points at, in one more pass over a file.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Excerpts {
    splitter: LineSplitter,
    wanted: Vec<u32>,
    most: usize,
    found: Vec<Value>,
}

#[wasm_bindgen]
impl Excerpts {
    /// Looks for these lines, and keeps up to `most` characters of each.
    #[wasm_bindgen(constructor)]
    pub fn new(lines: Vec<u32>, most: usize) -> Excerpts {
        let mut wanted = lines;
        wanted.sort_unstable();
        wanted.dedup();
        Self {
            splitter: LineSplitter::default(),
            wanted,
            most,
            found: Vec::new(),
        }
    }

    /// Takes the next bytes of the file; `true` once nothing is left to look for.
    pub fn push(&mut self, chunk: &[u8]) -> bool {
        let Self {
            splitter,
            wanted,
            most,
            found,
        } = self;
        splitter.push(chunk, |line| keep(line, wanted, *most, found));
        self.found.len() >= self.wanted.len()
    }

    /// The lines that were found, as `{line, text}`.
    #[wasm_bindgen(unchecked_return_type = "Excerpt[]")]
    pub fn finish(&mut self) -> JsResult<JsValue> {
        let Self {
            splitter,
            wanted,
            most,
            found,
        } = self;
        splitter.finish(|line| keep(line, wanted, *most, found));
        to_js(&self.found)
    }
}

fn keep(line: Found<'_>, wanted: &[u32], most: usize, found: &mut Vec<Value>) {
    let (Found::Record(line) | Found::TooLong(line)) = line else {
        return;
    };
    let is_wanted = u32::try_from(line.number).is_ok_and(|number| wanted.binary_search(&number).is_ok());
    if is_wanted {
        // A character has at most four bytes.
        let start = line.bytes.get(..most.saturating_mul(4)).unwrap_or(line.bytes);
        let text: String = String::from_utf8_lossy(start).chars().take(most).collect();
        found.push(json!({ "line": line.number, "text": text, "cut": text.len() < line.bytes.len() }));
    }
}
