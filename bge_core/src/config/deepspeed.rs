//! `--deepspeed`: a file of `DeepSpeed`, held against the settings.
//!
//! As in transformers (`integrations/deepspeed.py`), "auto" stands for the value of a setting, and another value must be that of
//! the setting; it is never taken silently. What remains is the stage of `ZeRO`, and how gradients travel. Keys that tune what bge does not have
//! are named in one warning.

use serde_json::{Map, Value, json};

use super::FinetuneConfig;
use super::check::Findings;
use super::choices::{LrSchedulerType, NumberType};
use super::field::{Setting, shown};

const FIELD: &str = "deepspeed";

/// Switches that would change the result where `DeepSpeed` has them: the key, or the beginning of the key.
const REFUSED: &[&str] = &[
    "compression_training.",
    "curriculum_learning.",
    "data_efficiency.",
    "progressive_layer_drop.",
    "sparse_attention.",
    "zero_optimization.zero_quantized_",
    "prescale_gradients",
];

/// A file as it was read.
struct Reader<'a> {
    config: &'a FinetuneConfig,
    findings: &'a mut Findings,
    stage: Option<usize>,
    travels: Option<NumberType>,
    /// Keys that mean nothing here.
    idle: Vec<String>,
}

impl FinetuneConfig {
    /// Takes the stage, and how gradients travel, out of the file of `deepspeed`, and reports what contradicts other settings. The file is not needed
    /// after that.
    pub(super) fn check_deepspeed(&mut self, findings: &mut Findings) {
        let Some(given) = self
            .training
            .deepspeed
            .take()
            .filter(|given| !given.trim().is_empty())
        else {
            return;
        };
        let file = match document(&given, findings) {
            Ok(file) => file,
            Err(message) => return findings.error("config.deepspeed", FIELD, message),
        };
        let mut leaves = Vec::new();
        flatten("", &file, &mut leaves);
        let mut reader = Reader {
            config: self,
            findings,
            stage: None,
            travels: None,
            idle: Vec::new(),
        };
        for (key, value) in &leaves {
            reader.read(key, value);
        }
        reader.compare_recipe(&leaves);
        let Reader {
            stage, travels, idle, ..
        } = reader;
        if !idle.is_empty() {
            let message = format!("ignored, as they mean nothing here: {}", idle.join(", "));
            findings.warning("config.deepspeed", FIELD, message);
        }
        if let Some(stage) = stage {
            let own = self.training.zero_stage;
            if own > 0 && own != stage {
                let message = format!(
                    "the file says zero_optimization.stage = {stage} and zero_stage is {own}; give one of the two"
                );
                findings.error("config.conflict", FIELD, message);
            }
            self.training.zero_stage = stage;
        }
        if let Some(travels) = travels {
            let own = self.training.communication_data_type;
            if own != NumberType::default() && own != travels {
                let message = format!(
                    "the file says communication_data_type = {travels} and the flag of that name is {own}; give one of the two"
                );
                findings.error("config.conflict", FIELD, message);
            }
            self.training.communication_data_type = travels;
        }
    }

    /// A file that leaves everything but the stage, and how gradients travel, to the flags.
    pub(super) fn smallest_deepspeed(&self) -> Value {
        self.with_travel(json!({
            "zero_optimization": { "stage": self.training.zero_stage },
            "fp16": { "enabled": "auto" },
            "bf16": { "enabled": "auto" },
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": "auto",
            "train_batch_size": "auto",
            "train_micro_batch_size_per_gpu": "auto",
        }))
    }

    /// The file with the key for how gradients travel, where that is not as they are.
    pub(super) fn with_travel(&self, mut file: Value) -> Value {
        let travels = self.training.communication_data_type;
        if let (Some(map), true) = (file.as_object_mut(), travels != NumberType::default()) {
            map.insert("communication_data_type".to_owned(), travels.to_json());
        }
        file
    }

    /// Queries of a step over all ranks.
    pub(super) fn train_batch_size(&self) -> usize {
        let training = &self.training;
        training
            .per_device_train_batch_size
            .saturating_mul(training.gradient_accumulation_steps)
            .saturating_mul(training.world_size())
    }

    /// Optimizer steps of the run, where a setting says it.
    pub(super) fn total_steps(&self) -> Option<u64> {
        u64::try_from(self.training.max_steps)
            .ok()
            .filter(|steps| *steps > 0)
    }

    /// Steps of the warm-up, where the settings alone say it.
    pub(super) fn warmup_number(&self) -> Option<Value> {
        let training = &self.training;
        match (training.warmup_steps, self.total_steps()) {
            (steps, _) if steps >= 1.0 => Some(steps.to_json()),
            (share, Some(total)) => {
                let share = if share > 0.0 { share } else { training.warmup_ratio };
                Some((share * total as f64).ceil().to_json())
            }
            (0.0, None) if training.warmup_ratio == 0.0 => Some(Value::from(0)),
            (_, None) => None,
        }
    }
}

impl Reader<'_> {
    fn read(&mut self, key: &str, value: &Value) {
        let training = &self.config.training;
        match key {
            "zero_optimization.stage" => match usize::from_json(value) {
                Ok(stage @ 0..=3) => self.stage = Some(stage),
                _ => self.refuse(key, value, "expected 0, 1, 2 or 3"),
            },
            "communication_data_type" if is_auto(value) || value.is_null() => {}
            "communication_data_type" => match NumberType::from_json(value) {
                Ok(travels) => self.travels = Some(travels),
                Err(message) => self.refuse(key, value, &message),
            },
            "train_micro_batch_size_per_gpu" => {
                self.equal(
                    key,
                    value,
                    "per_device_train_batch_size",
                    &training.per_device_train_batch_size,
                );
            }
            "gradient_accumulation_steps" => {
                self.equal(
                    key,
                    value,
                    "gradient_accumulation_steps",
                    &training.gradient_accumulation_steps,
                );
            }
            "train_batch_size" => {
                let product = "per_device_train_batch_size × gradient_accumulation_steps × ranks";
                self.equal(key, value, product, &self.config.train_batch_size());
            }
            "gradient_clipping" => self.equal(key, value, "max_grad_norm", &training.max_grad_norm),
            "fp16.enabled" => self.equal(key, value, "fp16", &training.fp16),
            "bf16.enabled" => self.equal(key, value, "bf16", &training.bf16),
            "optimizer.type" => {
                if !matches!(value.as_str(), Some("AdamW" | "Adam")) {
                    self.refuse(key, value, "bge trains with AdamW only");
                }
            }
            "optimizer.params.adam_w_mode" if *value != Value::Bool(false) => self.idle.push(key.to_owned()),
            "optimizer.params.adam_w_mode" => self.refuse(key, value, "weight decay is decoupled here"),
            "optimizer.params.lr" => self.equal(key, value, "learning_rate", &training.learning_rate),
            "optimizer.params.betas" => {
                let betas = json!([training.adam_beta1, training.adam_beta2]);
                self.same(key, value, "[adam_beta1, adam_beta2]", &betas);
            }
            "optimizer.params.eps" => self.equal(key, value, "adam_epsilon", &training.adam_epsilon),
            "optimizer.params.weight_decay" => {
                self.equal(key, value, "weight_decay", &training.weight_decay);
            }
            "scheduler.type" => self.schedule(key, value),
            "scheduler.params.warmup_min_lr" => {
                self.equal(key, value, "the rate before the first step", &0.0);
            }
            "scheduler.params.warmup_max_lr" => {
                self.equal(key, value, "learning_rate", &training.learning_rate);
            }
            "scheduler.params.warmup_num_steps" => {
                let own = self.config.warmup_number();
                self.counted(key, value, "warmup_steps", own);
            }
            "scheduler.params.total_num_steps" => {
                let own = self.config.total_steps().map(Value::from);
                self.counted(key, value, "max_steps", own);
            }
            // Read with the rest of the schedule.
            "scheduler.params.warmup_type" => {}
            _ if REFUSED.iter().any(|refused| key.starts_with(refused)) && *value == Value::Bool(true) => {
                self.refuse(key, value, "it would change the result, and bge does not have it");
            }
            _ => self.idle.push(key.to_owned()),
        }
    }

    /// What `DeepSpeed` would do otherwise with the same numbers.
    fn compare_recipe(&mut self, leaves: &[(String, Value)]) {
        let get = |name: &str| leaves.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let training = &self.config.training;
        let warms_up = training.warmup_steps > 0.0 || training.warmup_ratio > 0.0;
        let linear = get("scheduler.params.warmup_type").and_then(Value::as_str) == Some("linear");
        if get("scheduler.type").is_some() && warms_up && !linear {
            let message = "the warm-up is linear here, as in Hugging Face's schedule; DeepSpeed's own, without \
                           scheduler.params.warmup_type = \"linear\", grows with the logarithm of the step";
            self.findings.warning("config.deepspeed", FIELD, message);
        }
        if get("optimizer.type").is_some() && training.weight_decay > 0.0 {
            let message =
                "biases and norms get no weight decay here; DeepSpeed's optimizer decays everything";
            self.findings.warning("config.deepspeed", FIELD, message);
        }
    }

    fn schedule(&mut self, key: &str, value: &Value) {
        let own = self.config.training.lr_scheduler_type;
        let theirs =
            match value.as_str() {
                Some("WarmupDecayLR") => LrSchedulerType::Linear,
                Some("WarmupLR") => LrSchedulerType::ConstantWithWarmup,
                _ => return self.refuse(
                    key,
                    value,
                    "bge knows WarmupDecayLR and WarmupLR; leave the block out and give lr_scheduler_type",
                ),
            };
        if theirs != own {
            let message = format!(
                "that is the schedule `{theirs}`, and lr_scheduler_type is `{own}`; leave the block out, or give --lr_scheduler_type {theirs}"
            );
            self.refuse(key, value, &message);
        }
    }

    /// Reports a value that is neither "auto" nor that of the setting.
    fn equal(&mut self, key: &str, value: &Value, name: &str, own: &impl Setting) {
        self.same(key, value, name, &own.to_json());
    }

    fn same(&mut self, key: &str, value: &Value, name: &str, own: &Value) {
        if !is_auto(value) && !alike(value, own) {
            let message = format!(
                "{name} is {}; write \"auto\" in the file, or the same value",
                shown(own)
            );
            self.refuse(key, value, &message);
        }
    }

    /// The same for a number of steps, which the settings alone may not say.
    fn counted(&mut self, key: &str, value: &Value, name: &str, own: Option<Value>) {
        match own {
            Some(own) => self.same(key, value, name, &own),
            None if is_auto(value) => {}
            None => {
                let message = format!(
                    "the data decides how many steps there are; write \"auto\" in the file, or give --{name}"
                );
                self.refuse(key, value, &message);
            }
        }
    }

    fn refuse(&mut self, key: &str, value: &Value, why: &str) {
        let message = format!(
            "the file says {} = {}: {why}",
            super::unknown::short(key),
            shown(value)
        );
        self.findings.error("config.conflict", FIELD, message);
    }
}

fn is_auto(value: &Value) -> bool {
    value.as_str() == Some("auto")
}

/// Whether two values are one number, or otherwise the same.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        _ => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
    }
}

/// The values of nested objects, under the names on the way to them.
fn flatten(before: &str, map: &Map<String, Value>, leaves: &mut Vec<(String, Value)>) {
    for (name, value) in map {
        let key = if before.is_empty() {
            name.clone()
        } else {
            format!("{before}.{name}")
        };
        match value {
            Value::Object(inner) => flatten(&key, inner, leaves),
            other => leaves.push((key, other.clone())),
        }
    }
}

/// The object that the setting holds or names.
fn document(given: &str, findings: &mut Findings) -> Result<Map<String, Value>, String> {
    let parse = |text: &str| match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(format!("expected a JSON object, got {}", shown(&other))),
        Err(error) => Err(format!("not valid JSON: {error}")),
    };
    if given.trim_start().starts_with('{') {
        return parse(given);
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let path = std::path::Path::new(given);
        if path.exists() {
            let text = crate::files::read_text(path).map_err(|error| error.to_string())?;
            return parse(&text).map_err(|message| format!("{given}: {message}"));
        }
    }
    let stage = match given.rsplit(['/', '\\']).next() {
        Some("ds_stage0.json") => 0,
        Some("ds_stage1.json") => 1,
        // What the browser cannot read, the run will.
        _ if cfg!(target_arch = "wasm32") => return Ok(Map::new()),
        _ => {
            return Err(format!(
                "there is no file {}; give a JSON file of DeepSpeed, its text, or --zero_stage",
                super::field::shown_text(given)
            ));
        }
    };
    let message = format!(
        "{given} is not here; it is taken for FlagEmbedding's file of that name, which says stage {stage}"
    );
    findings.warning("config.deepspeed", FIELD, message);
    let scheduler = json!({ "scheduler": { "type": "WarmupDecayLR" }, "optimizer": { "type": "AdamW" }, "zero_optimization": { "stage": stage } });
    Ok(scheduler.as_object().cloned().unwrap_or_default())
}
