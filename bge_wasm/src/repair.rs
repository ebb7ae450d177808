//! One-click repairs in a stream.

use bge_core::data::repair::{Repair, RepairOptions, Repaired};
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
