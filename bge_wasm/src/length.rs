//! The split by length, in a stream.

use bge_core::data::length::{ByLength, DEFAULT_LENGTHS, LengthReport, LengthSplit};
use serde::Serialize;
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};

use crate::values::{JsResult, to_error, to_js};

/// The lengths at which FlagEmbedding's `split_data_by_length.py` cuts.
#[wasm_bindgen(js_name = defaultLengths)]
pub fn default_lengths() -> Vec<u32> {
    DEFAULT_LENGTHS.iter().map(|&length| length as u32).collect()
}

/// A split by length under way: chunks go in, the rows of each range come out.
#[wasm_bindgen]
#[derive(Debug)]
pub struct LengthSplitter {
    split: Option<LengthSplit<'static>>,
    out: ByLength,
}

#[wasm_bindgen]
impl LengthSplitter {
    /// Starts a split at these lengths, in any order; without any, at FlagEmbedding's. Lengths are characters, or tokens
    /// after `countTokens`, which the tokenizer module has.
    #[wasm_bindgen(constructor)]
    pub fn new(lengths: Option<Vec<u32>>) -> JsResult<LengthSplitter> {
        let lengths: Vec<u64> = lengths
            .unwrap_or_else(default_lengths)
            .into_iter()
            .map(u64::from)
            .collect();
        let split = LengthSplit::new(&lengths, None).map_err(|error| to_error(&error))?;
        Ok(Self {
            split: Some(split),
            out: ByLength::default(),
        })
    }

    /// Ends the file before and starts the next one; the name is for the quarantine.
    #[wasm_bindgen(js_name = startFile)]
    pub fn start_file(&mut self, name: &str) -> JsResult<()> {
        let Self { split, out } = self;
        split.as_mut().ok_or_else(ended)?.start_file(name, out);
        Ok(())
    }

    /// Takes the next bytes of the file, cut anywhere.
    pub fn push(&mut self, chunk: &[u8]) -> JsResult<()> {
        let Self { split, out } = self;
        split.as_mut().ok_or_else(ended)?.push(chunk, out);
        Ok(())
    }

    /// The rows of a range since the last call; the ranges are those of the report, shortest first.
    #[wasm_bindgen(js_name = takeRows)]
    pub fn take_rows(&mut self, range: usize) -> Vec<u8> {
        self.out
            .buckets
            .get_mut(range)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Rows in no range since the last call, with reasons.
    #[wasm_bindgen(js_name = takeQuarantine)]
    pub fn take_quarantine(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.quarantine)
    }

    /// How it comes out so far; a few rows may wait to be measured.
    #[wasm_bindgen(unchecked_return_type = "LengthReport")]
    pub fn report(&self) -> JsResult<JsValue> {
        to_js(&Described::from(self.split.as_ref().ok_or_else(ended)?.report()))
    }

    /// Ends the last file and says how it came out; the last rows are taken after it.
    #[wasm_bindgen(unchecked_return_type = "LengthReport")]
    pub fn finish(&mut self) -> JsResult<JsValue> {
        let report = self.split.take().ok_or_else(ended)?.finish(&mut self.out);
        to_js(&Described::from(&report))
    }
}

#[cfg(all(feature = "tokens", target_arch = "wasm32"))]
#[wasm_bindgen]
impl LengthSplitter {
    /// Measures in tokens, with the text of a `tokenizer.json`. To be called before the first file.
    #[wasm_bindgen(js_name = countTokens)]
    pub fn count_tokens(&mut self, tokenizer_json: &[u8]) -> JsResult<()> {
        let buckets = &self.split.as_ref().ok_or_else(ended)?.report().buckets;
        let lengths: Vec<u64> = buckets.iter().map(|bucket| bucket.from).collect();
        let tokenizer = crate::tokens::load(tokenizer_json)?;
        let count = move |texts: &[&str]| {
            let length = |text: &&str| crate::tokens::length(&tokenizer, text);
            texts.iter().map(length).collect()
        };
        let split = LengthSplit::new(&lengths, Some(Box::new(count)));
        self.split = Some(split.map_err(|error| to_error(&error))?);
        Ok(())
    }
}

/// The report with what people call a range.
#[derive(Serialize)]
struct Described {
    rows: u64,
    buckets: Vec<Range>,
    total_length: u64,
    mean_length: f64,
    longest: u64,
    below: u64,
    unreadable: u64,
    broken_arrays: u64,
}

#[derive(Serialize)]
struct Range {
    from: u64,
    to: Option<u64>,
    rows: u64,
    label: String,
}

impl From<&LengthReport> for Described {
    fn from(report: &LengthReport) -> Self {
        let ranges = report.buckets.iter().map(|bucket| Range {
            from: bucket.from,
            to: bucket.to,
            rows: bucket.rows,
            label: bucket.label(),
        });
        Self {
            rows: report.rows,
            buckets: ranges.collect(),
            total_length: report.total_length,
            mean_length: report.mean_length(),
            longest: report.longest,
            below: report.below,
            unreadable: report.unreadable,
            broken_arrays: report.broken_arrays,
        }
    }
}

fn ended() -> JsError {
    JsError::new("the split has ended; make a new LengthSplitter")
}
