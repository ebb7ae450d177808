//! The rows that a report points at.

use bge_core::data::lines::{Found, LineSplitter};
use serde_json::{Value, json};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::values::{JsResult, to_js};

/// Finds the rows that a report points at, in one more pass over a file.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Excerpts {
    splitter: LineSplitter,
    lines: Vec<u32>,
    elements: Vec<u32>,
    most: usize,
    found: Vec<Value>,
}

#[wasm_bindgen]
impl Excerpts {
    /// Looks for the rows on these lines, or for these elements where the file is a JSON array, and keeps up to `most`
    /// characters of each.
    #[wasm_bindgen(constructor)]
    pub fn new(lines: Vec<u32>, most: usize, elements: Option<Vec<u32>>) -> Excerpts {
        let [lines, elements] = [lines, elements.unwrap_or_default()].map(|mut wanted| {
            wanted.sort_unstable();
            wanted.dedup();
            wanted
        });
        Self {
            splitter: LineSplitter::default(),
            lines,
            elements,
            most,
            found: Vec::new(),
        }
    }

    /// Takes the next bytes of the file; `true` once nothing is left to look for.
    pub fn push(&mut self, chunk: &[u8]) -> bool {
        let Self {
            splitter,
            lines,
            elements,
            most,
            found,
        } = self;
        splitter.push(chunk, |line| keep(line, lines, elements, *most, found));
        let wanted = if splitter.is_array() { elements } else { lines };
        found.len() >= wanted.len()
    }

    /// The rows that were found, as `{line, text}`, in an array with `element`.
    #[wasm_bindgen(unchecked_return_type = "Excerpt[]")]
    pub fn finish(&mut self) -> JsResult<JsValue> {
        let Self {
            splitter,
            lines,
            elements,
            most,
            found,
        } = self;
        splitter.finish(|line| keep(line, lines, elements, *most, found));
        to_js(&self.found)
    }
}

fn keep(line: Found<'_>, lines: &[u32], elements: &[u32], most: usize, found: &mut Vec<Value>) {
    let (Found::Record(line) | Found::TooLong(line)) = line else {
        return;
    };
    let (number, wanted) = match line.element {
        Some(element) => (element, elements),
        None => (line.number, lines),
    };
    let is_wanted = u32::try_from(number).is_ok_and(|number| wanted.binary_search(&number).is_ok());
    if is_wanted {
        // A character has at most four bytes.
        let start = line.bytes.get(..most.saturating_mul(4)).unwrap_or(line.bytes);
        let text: String = String::from_utf8_lossy(start).chars().take(most).collect();
        let mut row = json!({ "line": line.number, "text": text, "cut": text.len() < line.bytes.len() });
        if let Some(element) = line.element {
            row["element"] = element.into();
        }
        found.push(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_of_an_array_is_found_by_its_number() {
        let mut excerpts = Excerpts::new(vec![1, 2], 40, Some(vec![3, 2, 2]));
        let array = b"[{\"a\":1},{\"a\":2},{\"a\":3},\n{\"a\":4}]";
        let ends: Vec<bool> = array.chunks(10).map(|chunk| excerpts.push(chunk)).collect();
        assert_eq!(ends, [false, false, true, true]);
        let expected = [2, 3]
            .map(|at| json!({"line": 1, "text": format!("{{\"a\":{at}}}"), "cut": false, "element": at}));
        assert_eq!(excerpts.found, expected);
    }

    #[test]
    fn a_row_of_lines_is_found_by_its_line() {
        let mut excerpts = Excerpts::new(vec![2], 4, Some(vec![1]));
        assert!(excerpts.push(b"{\"a\":1}\n{\"a\":2}\n"));
        assert_eq!(
            excerpts.found,
            [json!({"line": 2, "text": "{\"a\"", "cut": true})]
        );
    }
}
