//! The streaming validator: chunks of files go in, the report of `bge validate` comes out.

use bge_core::data::session::{FileRole, NO_IN_BATCH_NEG};
use bge_core::data::{ValidationOptions, ValidationSession};
use bge_core::{Issue, Severity};
use serde_json::json;
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};

use crate::values::{JsResult, config_of, lines, module_of, to_error, to_js, to_text};

/// A validation under way. Its memory does not grow with the data.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Validator {
    session: Option<ValidationSession<'static>>,
}

#[wasm_bindgen]
impl Validator {
    /// Starts with the settings that training will have; of those that are missing, the defaults.
    #[wasm_bindgen(constructor)]
    pub fn new(
        #[wasm_bindgen(unchecked_optional_param_type = "Partial<Config>")] config: JsValue,
        #[wasm_bindgen(unchecked_optional_param_type = "ModuleName")] module: Option<String>,
    ) -> JsResult<Validator> {
        let module = module_of(module.as_deref())?;
        let config = config_of(&config, module)?.arguments;
        // What only training needs may be missing; what is there has to be right.
        if let Err(issues) = config.clone().check_for(module) {
            let wrong = |issue: &Issue| issue.severity == Severity::Error && issue.code != "config.required";
            let issues: Vec<Issue> = issues.into_iter().filter(wrong).collect();
            if !issues.is_empty() {
                return Err(JsError::new(&lines(&issues)));
            }
        }
        let options = ValidationOptions {
            module,
            world_size: config.training.world_size(),
            data: config.data,
            training: config.training,
            ..ValidationOptions::default()
        };
        let session = ValidationSession::new(options).map_err(|error| to_error(&error))?;
        Ok(Self {
            session: Some(session),
        })
    }

    /// Ends the file before and starts the next one. `argument` says which dropped item it belongs to, `folder`
    /// the name of the folder it came out of.
    #[wasm_bindgen(js_name = startFile)]
    pub fn start_file(&mut self, name: &str, argument: Option<u32>, folder: Option<String>) -> JsResult<()> {
        let file = name.rsplit('/').next().unwrap_or(name);
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        let marked = [Some(stem), folder.as_deref()]
            .into_iter()
            .flatten()
            .any(|name| name.ends_with(NO_IN_BATCH_NEG));
        let role = FileRole {
            name: name.to_owned(),
            argument: argument.unwrap_or_default() as usize,
            from_folder: folder.is_some(),
            no_in_batch_neg: marked,
        };
        self.open()?.start_file(role);
        Ok(())
    }

    /// Takes the next bytes of the file, cut anywhere.
    pub fn push(&mut self, chunk: &[u8]) -> JsResult<()> {
        self.open()?.push(chunk);
        Ok(())
    }

    /// How far it is.
    #[wasm_bindgen(unchecked_return_type = "Progress")]
    pub fn progress(&mut self) -> JsResult<JsValue> {
        let at = self.open()?.progress();
        to_js(&json!({ "bytes": at.bytes, "rows": at.rows, "errors": at.errors, "warnings": at.warnings }))
    }

    /// Ends the last file and returns the report as text: byte for byte what `bge validate --json` prints.
    #[wasm_bindgen(js_name = finishText)]
    pub fn finish_text(&mut self) -> JsResult<String> {
        let report = self.session.take().ok_or_else(ended)?.finish();
        Ok(to_text(&report)? + "\n")
    }

    /// Ends the last file and returns the report.
    #[wasm_bindgen(unchecked_return_type = "DatasetReport")]
    pub fn finish(&mut self) -> JsResult<JsValue> {
        to_js(&self.session.take().ok_or_else(ended)?.finish())
    }

    fn open(&mut self) -> JsResult<&mut ValidationSession<'static>> {
        self.session.as_mut().ok_or_else(ended)
    }
}

#[cfg(all(feature = "tokens", target_arch = "wasm32"))]
#[wasm_bindgen]
impl Validator {
    /// Also counts tokens, with the text of a `tokenizer.json`. To be called before the first file.
    #[wasm_bindgen(js_name = countTokens)]
    pub fn count_tokens(&mut self, tokenizer_json: &[u8]) -> JsResult<()> {
        let counter = crate::tokens::counter(tokenizer_json)?;
        let session = self.session.take().ok_or_else(ended)?;
        self.session = Some(session.with_token_counter(counter));
        Ok(())
    }
}

fn ended() -> JsError {
    JsError::new("the validation has ended; make a new Validator")
}
