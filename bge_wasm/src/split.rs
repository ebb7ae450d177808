//! The split into train and dev, in two passes over the same files.

use bge_core::data::split::{Groups, Sides, Split, SplitOptions};
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};

use crate::values::{JsResult, to_js};

/// A split under way: every file is pushed once, `draw` is called, and every file is pushed again in the same order.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Splitter {
    groups: Option<Groups>,
    split: Option<Split>,
    out: Sides,
}

#[wasm_bindgen]
impl Splitter {
    /// Starts the first pass.
    #[wasm_bindgen(constructor)]
    pub fn new(dev_share: f64, seed: u32, negatives_too: bool) -> JsResult<Splitter> {
        if !(0.0..=1.0).contains(&dev_share) {
            return Err(JsError::new("the share of dev is a number from 0 to 1"));
        }
        let options = SplitOptions {
            dev_share,
            seed: u64::from(seed),
            negatives_too,
        };
        Ok(Self {
            groups: Some(Groups::new(options)),
            split: None,
            out: Sides::default(),
        })
    }

    /// Takes the next bytes of a file, cut anywhere.
    pub fn push(&mut self, chunk: &[u8]) {
        if let Some(groups) = &mut self.groups {
            groups.push(chunk);
        } else if let Some(split) = &mut self.split {
            split.push(chunk, &mut self.out);
        }
    }

    /// Says that a file has ended.
    #[wasm_bindgen(js_name = endFile)]
    pub fn end_file(&mut self) {
        if let Some(groups) = &mut self.groups {
            groups.end_file();
        } else if let Some(split) = &mut self.split {
            split.end_file(&mut self.out);
        }
    }

    /// Ends the first pass and draws the sides.
    #[wasm_bindgen(unchecked_return_type = "SplitReport")]
    pub fn draw(&mut self) -> JsResult<JsValue> {
        let groups = self.groups.take();
        let split = groups
            .ok_or_else(|| JsError::new("the sides are drawn already"))?
            .finish();
        let report = to_js(&split.report());
        self.split = Some(split);
        report
    }

    /// The lines of train since the last call.
    #[wasm_bindgen(js_name = takeTrain)]
    pub fn take_train(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.train)
    }

    /// The lines of dev since the last call.
    #[wasm_bindgen(js_name = takeDev)]
    pub fn take_dev(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.dev)
    }
}
