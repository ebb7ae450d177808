//! One-click repairs in a stream, and the lines that a report points at.

use bge_core::data::lines::{Found, LineSplitter};
use bge_core::data::repair::{Repair, RepairOptions, Repaired};
use serde_json::{Value, json};
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};

use crate::values::{JsResult, to_js};

/// A repair under way: chunks go in, cleaned and quarantined lines come out.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Repairer {
    repair: Option<Repair>,
    out: Repaired,
}

#[wasm_bindgen]
impl Repairer {
    /// Starts a repair.
    #[wasm_bindgen(constructor)]
    pub fn new(drop_repeated_rows: bool, require_negatives: bool) -> Repairer {
        let options = RepairOptions {
            drop_repeated_rows,
            require_negatives,
            ..RepairOptions::default()
        };
        Self {
            repair: Some(Repair::new(options)),
            out: Repaired::default(),
        }
    }

    /// Ends the file before and starts the next one.
    #[wasm_bindgen(js_name = startFile)]
    pub fn start_file(&mut self, name: &str) -> JsResult<()> {
        let Self { repair, out } = self;
        repair.as_mut().ok_or_else(ended)?.start_file(name, out);
        Ok(())
    }

    /// Takes the next bytes of the file, cut anywhere.
    pub fn push(&mut self, chunk: &[u8]) -> JsResult<()> {
        let Self { repair, out } = self;
        repair.as_mut().ok_or_else(ended)?.push(chunk, out);
        Ok(())
    }

    /// The cleaned lines since the last call.
    #[wasm_bindgen(js_name = takeCleaned)]
    pub fn take_cleaned(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.cleaned)
    }

    /// The quarantined lines since the last call.
    #[wasm_bindgen(js_name = takeQuarantine)]
    pub fn take_quarantine(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.quarantine)
    }

    /// Ends the last file and says what was done; the last lines are taken after it.
    #[wasm_bindgen(unchecked_return_type = "RepairReport")]
    pub fn finish(&mut self) -> JsResult<JsValue> {
        let report = self.repair.take().ok_or_else(ended)?.finish(&mut self.out);
        to_js(&report)
    }
}

fn ended() -> JsError {
    JsError::new("the repair has ended; make a new Repairer")
}

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
