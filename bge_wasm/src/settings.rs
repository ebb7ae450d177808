//! Settings: their schema, their defaults, reading them, checking them and writing them out.

use bge_core::Issue;
use bge_core::config::{
    FinetuneConfig, Loader, Module, RenderFormat, from_command_line, json_schema, to_json_text,
};
use serde::Serialize;
use serde_json::{Value, json};
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};

use crate::values::{JsResult, config_of, module_of, to_error, to_js, to_json};

/// The modules that settings can be for, with what they train and whether this version trains them.
#[wasm_bindgen(unchecked_return_type = "ModuleInfo[]")]
pub fn modules() -> JsResult<JsValue> {
    let info = |module: &Module| {
        json!({
            "name": module.as_str(),
            "available": module.available().is_ok(),
            "reranker": module.trains_reranker(),
        })
    };
    to_js(&Module::ALL.iter().map(info).collect::<Vec<Value>>())
}

/// The settings of a module as JSON Schema, for a form.
#[wasm_bindgen(js_name = configSchema, unchecked_return_type = "ConfigSchema")]
pub fn config_schema(
    #[wasm_bindgen(unchecked_optional_param_type = "ModuleName")] module: Option<String>,
) -> JsResult<JsValue> {
    let module = module_of(module.as_deref())?;
    to_js(&json_schema::<FinetuneConfig>("bge finetune", module))
}

/// Every setting of a module with its default.
#[wasm_bindgen(js_name = defaultConfig, unchecked_return_type = "Config")]
pub fn default_config(
    #[wasm_bindgen(unchecked_optional_param_type = "ModuleName")] module: Option<String>,
) -> JsResult<JsValue> {
    to_js(&flat(&FinetuneConfig::default(), module_of(module.as_deref())?)?)
}

/// Reads settings: TOML, JSON, or a command line, launcher and all. A command line brings its own module.
#[wasm_bindgen(js_name = parseConfig, unchecked_return_type = "ParsedConfig")]
pub fn parse_config(
    text: &str,
    #[wasm_bindgen(unchecked_param_type = "\"toml\" | \"json\" | \"flags\"")] format: &str,
    #[wasm_bindgen(unchecked_optional_param_type = "ModuleName")] module: Option<String>,
) -> JsResult<JsValue> {
    let module = module_of(module.as_deref())?;
    let loader = || Loader::<FinetuneConfig>::for_module(module);
    let parsed = match format {
        "toml" => loader().toml(text).finish().map(|parsed| (module, parsed)),
        "json" => loader().json(text).finish().map(|parsed| (module, parsed)),
        "flags" => from_command_line(text).map(|command| (command.module, command.config)),
        other => {
            return Err(JsError::new(&format!(
                "the format is toml, json or flags, got {other}"
            )));
        }
    };
    to_js(&match parsed {
        Ok((module, parsed)) => ParsedConfig {
            ok: true,
            module: module.as_str(),
            config: flat(&parsed.arguments, module)?,
            issues: parsed.warnings,
        },
        Err(issues) => ParsedConfig {
            ok: false,
            module: module.as_str(),
            config: Value::Null,
            issues,
        },
    })
}

/// What reading settings gave.
#[derive(Serialize)]
struct ParsedConfig {
    ok: bool,
    module: &'static str,
    config: Value,
    issues: Vec<Issue>,
}

/// Everything that is wrong with settings, or worth a look; empty if nothing is.
#[wasm_bindgen(js_name = checkConfig, unchecked_return_type = "Issue[]")]
pub fn check_config(
    #[wasm_bindgen(unchecked_param_type = "Partial<Config>")] config: &JsValue,
    #[wasm_bindgen(unchecked_optional_param_type = "ModuleName")] module: Option<String>,
) -> JsResult<JsValue> {
    let module = module_of(module.as_deref())?;
    let read: Result<_, Vec<Issue>> = Loader::<FinetuneConfig>::for_module(module)
        .json(&to_json(config)?)
        .finish();
    let issues = match read {
        Err(issues) => issues,
        Ok(parsed) => {
            let mut issues = parsed.warnings;
            match parsed.arguments.check_for(module) {
                Ok(checked) => issues.extend_from_slice(checked.warnings()),
                Err(errors) => issues.extend(errors),
            }
            issues
        }
    };
    to_js(&issues)
}

/// Writes settings as a file or a command line. What cannot be read as settings is an error.
#[wasm_bindgen(js_name = renderConfig)]
pub fn render_config(
    #[wasm_bindgen(unchecked_param_type = "Partial<Config>")] config: &JsValue,
    #[wasm_bindgen(unchecked_param_type = "RenderFormat")] format: &str,
    #[wasm_bindgen(unchecked_optional_param_type = "ModuleName")] module: Option<String>,
) -> JsResult<String> {
    let module = module_of(module.as_deref())?;
    let format: RenderFormat = format.parse().map_err(|error| to_error(&error))?;
    Ok(config_of(config, module)?.arguments.render(format, module))
}

/// The settings that a module has, as one flat object.
fn flat(config: &FinetuneConfig, module: Module) -> JsResult<Value> {
    serde_json::from_str(&to_json_text(config, module)).map_err(|error| JsError::new(&error.to_string()))
}
