//! Training rows from other formats, in a stream.

use bge_core::data::convert::{ColumnNames, ConvertOptions, Converted, Role};
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};

use crate::given::Given;
use crate::values::{JsResult, to_error, to_js};

/// What a file of this path holds, by its name; `undefined` for files that are no data.
#[wasm_bindgen(js_name = fileRole, unchecked_return_type = "FileRole | undefined")]
pub fn file_role(path: &str) -> Option<String> {
    Role::of(path).map(|role| role.as_str().to_owned())
}

/// What JavaScript may say of a conversion.
fn options(value: &JsValue) -> JsResult<ConvertOptions> {
    let mut given = Given::read(value, "the options of a conversion")?;
    let defaults = ConvertOptions::default();
    let most = given.whole("max_group_bytes", 0, 1 << 31)?;
    let options = ConvertOptions {
        group: given.flag("group")?.unwrap_or(defaults.group),
        max_group_bytes: most.map_or(defaults.max_group_bytes, |most| most as usize),
        quotes: given.flag("quotes")?.unwrap_or(defaults.quotes),
        columns: ColumnNames {
            query: given.text("query")?,
            positives: given.texts("positives")?,
            negatives: given.texts("negatives")?,
            score: given.text("score")?,
        },
        ..defaults
    };
    given.end()?;
    Ok(options)
}

/// A conversion under way: chunks of BEIR, CSV, TSV or sentence-transformers files go in, training rows come out.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Converter {
    converter: Option<bge_core::data::convert::Converter>,
    out: Converted,
}

#[wasm_bindgen]
impl Converter {
    /// Starts a conversion.
    #[wasm_bindgen(constructor)]
    pub fn new(
        #[wasm_bindgen(unchecked_optional_param_type = "ConvertOptions")] options: JsValue,
    ) -> JsResult<Converter> {
        let converter = bge_core::data::convert::Converter::new(self::options(&options)?);
        Ok(Self {
            converter: Some(converter),
            out: Converted::default(),
        })
    }

    /// Ends the file before and starts the next one. Without a role, its name says what it holds. Of a BEIR folder,
    /// judgments come first, then queries, then the corpus.
    #[wasm_bindgen(js_name = startFile)]
    pub fn start_file(
        &mut self,
        name: &str,
        #[wasm_bindgen(unchecked_optional_param_type = "FileRole")] role: Option<String>,
    ) -> JsResult<()> {
        let role = match role {
            Some(role) => role.parse().map_err(|error| to_error(&error))?,
            None => Role::of(name).ok_or_else(|| {
                JsError::new(&format!(
                    "{name}: what this file holds does not show in its name; say it"
                ))
            })?,
        };
        let Self { converter, out } = self;
        let converter = converter.as_mut().ok_or_else(ended)?;
        converter
            .start_file(name, role, out)
            .map_err(|error| to_error(&error))
    }

    /// Takes the next bytes of the file, cut anywhere.
    pub fn push(&mut self, chunk: &[u8]) -> JsResult<()> {
        let Self { converter, out } = self;
        converter.as_mut().ok_or_else(ended)?.push(chunk, out);
        Ok(())
    }

    /// The training rows since the last call.
    #[wasm_bindgen(js_name = takeRows)]
    pub fn take_rows(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.rows)
    }

    /// What could not be used since the last call, with reasons.
    #[wasm_bindgen(js_name = takeQuarantine)]
    pub fn take_quarantine(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out.quarantine)
    }

    /// How it goes so far; findings come with the end.
    #[wasm_bindgen(unchecked_return_type = "ConvertReport")]
    pub fn report(&self) -> JsResult<JsValue> {
        to_js(self.converter.as_ref().ok_or_else(ended)?.report())
    }

    /// Ends the last file and says how it went; the last rows are taken after it.
    #[wasm_bindgen(unchecked_return_type = "ConvertReport")]
    pub fn finish(&mut self) -> JsResult<JsValue> {
        let report = self.converter.take().ok_or_else(ended)?.finish(&mut self.out);
        to_js(&report)
    }
}

fn ended() -> JsError {
    JsError::new("the conversion has ended; make a new Converter")
}
