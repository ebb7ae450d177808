//! What a run will need: memory of a device, steps, and what to change where that is too much.

use bge_core::planner::{DataOutline, ModelShape, PlanOptions, Precision, plan};
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};

use crate::given::Given;
use crate::values::{JsResult, config_of, module_of, to_error, to_js};

/// What JavaScript may say of the place of a run.
fn options(given: &mut Given) -> JsResult<PlanOptions> {
    let defaults = PlanOptions::default();
    let count = |number: Option<u64>, default: usize| number.map_or(default, |number| number as usize);
    let precision = given.text("precision")?;
    let gib = given.positive("memory_gib", 1e6)?;
    Ok(PlanOptions {
        world_size: count(given.whole("world_size", 1, 1 << 20)?, defaults.world_size),
        zero_stage: count(given.whole("zero_stage", 0, 3)?, 0) as u8,
        precision: match precision.as_deref() {
            None | Some("f32") => Precision::F32,
            Some("half") => Precision::Half,
            Some(other) => {
                let message = format!("`precision` is f32 or half, got {other}");
                return Err(JsError::new(&message));
            }
        },
        threads: count(given.whole("threads", 1, 1 << 16)?, defaults.threads),
        memory_bytes: gib.map(|gib| (gib * f64::from(1 << 30)) as u64),
        rates: None,
    })
}

/// The sizes of the model: of its `config.json`, or of a BGE model by name.
fn shape(config_json: Option<String>, name: &str) -> JsResult<ModelShape> {
    if let Some(text) = config_json {
        return ModelShape::parse(&text).map_err(|error| to_error(&error));
    }
    ModelShape::preset(name).ok_or_else(|| {
        let names: Vec<_> = ModelShape::presets().collect();
        JsError::new(&format!(
            "a plan needs the model's config.json, or one of {}; got `{name}`",
            names.join(", ")
        ))
    })
}

/// The models whose sizes are known by name.
#[wasm_bindgen(js_name = modelPresets)]
pub fn model_presets() -> Vec<String> {
    ModelShape::presets().map(str::to_owned).collect()
}

/// Plans a run, as `bge config check --plan` does.
#[wasm_bindgen(js_name = planRun, unchecked_return_type = "Plan")]
pub fn plan_run(
    #[wasm_bindgen(unchecked_param_type = "Partial<Config>")] config: &JsValue,
    #[wasm_bindgen(unchecked_param_type = "ModuleName | undefined")] module: Option<String>,
    #[wasm_bindgen(unchecked_optional_param_type = "PlanRequest")] request: JsValue,
) -> JsResult<JsValue> {
    let module = module_of(module.as_deref())?;
    let config = config_of(config, module)?.arguments;
    let mut given = Given::read(&request, "what a plan is asked for")?;
    let options = options(&mut given)?;
    let model = given.text("model")?;
    let model = model.as_deref().unwrap_or(&config.model.model_name_or_path);
    let shape = shape(given.text("config_json")?, model)?;
    let outline = given
        .text("report")?
        .map(|text| DataOutline::parse(&text))
        .transpose()
        .map_err(|error| to_error(&error))?;
    given.end()?;
    to_js(&plan(&shape, module, &config, outline.as_ref(), &options))
}
