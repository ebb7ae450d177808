//! Settings written out again: TOML, JSON, shell flags, a FlagEmbedding command, a `DeepSpeed` file.
//!
//! What TOML, JSON and flags say is read back to the same settings.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::FinetuneConfig;
use super::check::Findings;
use super::choices::{LrSchedulerType, SaveStrategy};
use super::declare::choices;
use super::field::{Arguments, FieldDoc, FieldKind};
use super::module::Module;
use super::schema::groups;
use super::shell::quote;

choices! {
    /// What settings can be written as.
    pub enum RenderFormat {
        /// TOML, in sections.
        Toml = "toml",
        /// One flat JSON object.
        Json = "json",
        /// Shell flags of everything that is not a default.
        Flags = "flags",
        /// A command line of FlagEmbedding's.
        FlagEmbedding = "flagembedding",
        /// A `DeepSpeed` file of the run's stage, with numbers where upstream's says auto.
        DeepSpeed = "deepspeed",
    }
}

impl FinetuneConfig {
    /// Writes the settings of a module in a format, ending with a newline.
    pub fn render(&self, format: RenderFormat, module: Module) -> String {
        match format {
            RenderFormat::Toml => to_toml(self, module),
            RenderFormat::Json => to_json_text(self, module),
            RenderFormat::Flags => flag_lines(self, module),
            RenderFormat::FlagEmbedding => self.to_flagembedding(module),
            RenderFormat::DeepSpeed => format!("{:#}\n", self.to_deepspeed()),
        }
    }

    /// The command that trains the same in FlagEmbedding (with transformers 4, whose flags it uses).
    fn to_flagembedding(&self, module: Module) -> String {
        let mut upstream = self.clone();
        // The launcher has it.
        upstream.training.nproc_per_node = None;
        let defaults = Self::default();
        let travels = defaults.training.communication_data_type;
        if self.training.zero_stage > 0 || self.training.communication_data_type != travels {
            upstream.training.zero_stage = 0;
            upstream.training.communication_data_type = travels;
            let file = || self.smallest_deepspeed().to_string();
            upstream.training.deepspeed.get_or_insert_with(file);
        }
        let mut left_out = Vec::new();
        // Upstream has no evaluation, and its Trainer refuses an eval_strategy without data.
        for field in Self::fields()
            .iter()
            .filter(|field| (field.ours && field.name != "nproc_per_node") || field.group == "evaluation")
        {
            if upstream.get(field.name) != defaults.get(field.name) {
                left_out.push(field.name);
                reset(&mut upstream, field);
            }
        }
        if upstream.training.save_strategy == SaveStrategy::Best {
            left_out.push("save_strategy");
            upstream.training.save_strategy = defaults.training.save_strategy;
        }
        let share = upstream.training.warmup_steps;
        if share > 0.0 && share < 1.0 {
            // transformers 4 takes whole warmup_steps only.
            upstream.training.warmup_ratio = share;
            upstream.training.warmup_steps = 0.0;
        }
        let mut text = String::new();
        if !left_out.is_empty() {
            let _ = writeln!(
                text,
                "# Left out, as FlagEmbedding cannot do it: {}",
                left_out.join(", ")
            );
        }
        let processes = self.training.world_size();
        let mut words = vec![
            vec![
                "torchrun".to_owned(),
                "--nproc_per_node".to_owned(),
                processes.to_string(),
            ],
            vec!["-m".to_owned(), module.path()],
        ];
        words.extend(to_flags(&upstream, module));
        text + &lines(&words)
    }

    /// A file for upstream's `--deepspeed`, in the shape of its `ds_stage0.json`.
    ///
    /// The schedule is `WarmupDecayLR` made linear, where Hugging Face's is linear; else it is left out, and
    /// the Trainer brings its own.
    fn to_deepspeed(&self) -> Value {
        let mut resolved = self.clone();
        resolved.check_deepspeed(&mut Findings::default());
        let training = &resolved.training;
        let auto = || Value::from("auto");
        let total = self.total_steps();
        let warmup = self.warmup_number().unwrap_or_else(auto);
        let mut file = json!({
            "zero_optimization": { "stage": training.zero_stage },
            "fp16": {
                "enabled": training.fp16,
                "loss_scale": 0,
                "loss_scale_window": 1000,
                "initial_scale_power": 12,
                "hysteresis": 2,
                "min_loss_scale": 1,
            },
            "bf16": { "enabled": training.bf16 },
            "optimizer": {
                "type": "AdamW",
                "params": {
                    "lr": training.learning_rate,
                    "betas": [training.adam_beta1, training.adam_beta2],
                    "eps": training.adam_epsilon,
                    "weight_decay": training.weight_decay,
                },
            },
        });
        if let (LrSchedulerType::Linear, Some(map)) = (training.lr_scheduler_type, file.as_object_mut()) {
            let scheduler = json!({
                "type": "WarmupDecayLR",
                "params": {
                    "warmup_min_lr": 0,
                    "warmup_max_lr": training.learning_rate,
                    "warmup_num_steps": warmup,
                    "warmup_type": "linear",
                    "total_num_steps": total.map_or_else(auto, Value::from),
                },
            });
            map.insert("scheduler".to_owned(), scheduler);
        }
        if let Some(map) = file.as_object_mut() {
            let rest = json!({
                "gradient_accumulation_steps": training.gradient_accumulation_steps,
                "gradient_clipping": training.max_grad_norm,
                "steps_per_print": 100,
                "train_batch_size": self.train_batch_size(),
                "train_micro_batch_size_per_gpu": training.per_device_train_batch_size,
                "wall_clock_breakdown": false,
            });
            map.extend(rest.as_object().cloned().unwrap_or_default());
        }
        resolved.with_travel(file)
    }
}

fn reset(config: &mut FinetuneConfig, field: &FieldDoc) {
    // A default is a valid value of its own field.
    let _ = config.set(field.name, &field.default);
}

/// Fields of a group that a module takes.
fn fields_of<A: Arguments>(group: &'static str, module: Module) -> impl Iterator<Item = &'static FieldDoc> {
    A::fields()
        .iter()
        .filter(move |field| field.group == group && module.takes(field))
}

/// Writes TOML: every setting that has a value, in sections by group.
pub fn to_toml<A: Arguments>(arguments: &A, module: Module) -> String {
    toml(arguments, module, false)
}

/// Writes TOML with the help of every setting above it; unset ones are comments.
pub fn documented_toml<A: Arguments>(arguments: &A, module: Module) -> String {
    toml(arguments, module, true)
}

fn toml<A: Arguments>(arguments: &A, module: Module, documented: bool) -> String {
    let mut text = String::new();
    for group in groups::<A>() {
        if fields_of::<A>(group, module).next().is_none() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "[{group}]");
        for field in fields_of::<A>(group, module) {
            let value = arguments.get(field.name).unwrap_or_default();
            if documented {
                let _ = writeln!(text, "# {}", field.help);
                if !field.choices.is_empty() {
                    let _ = writeln!(text, "# One of {}.", field.choices.join(", "));
                }
            }
            if !value.is_null() {
                let _ = writeln!(text, "{} = {}", field.name, toml_text(&value));
            } else if documented {
                let _ = writeln!(text, "# {} =", field.name);
            }
        }
    }
    text
}

/// A value as TOML; what TOML cannot hold (null, numbers past 63 bits) goes as a text, which is read back alike.
fn toml_text(value: &Value) -> String {
    let value = toml_value(value).unwrap_or_else(|| match value {
        Value::String(text) => toml::Value::String(text.clone()),
        other => toml::Value::String(other.to_string()),
    });
    value.to_string()
}

fn toml_value(value: &Value) -> Option<toml::Value> {
    match value {
        Value::Null => None,
        Value::Bool(flag) => Some(toml::Value::Boolean(*flag)),
        Value::String(text) => Some(toml::Value::String(text.clone())),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Some(toml::Value::Integer(whole)),
            (None, Some(_)) => None,
            (None, None) => number.as_f64().map(toml::Value::Float),
        },
        Value::Array(items) => items
            .iter()
            .map(toml_value)
            .collect::<Option<Vec<_>>>()
            .map(toml::Value::Array),
        Value::Object(map) => {
            let entries = map
                .iter()
                .map(|(key, value)| Some((key.clone(), toml_value(value)?)));
            entries.collect::<Option<toml::Table>>().map(toml::Value::Table)
        }
    }
}

/// Writes one flat JSON object with every setting, unset ones as null.
pub fn to_json_text<A: Arguments>(arguments: &A, module: Module) -> String {
    let map: Map<String, Value> = A::fields()
        .iter()
        .filter(|field| module.takes(field))
        .map(|field| {
            (
                field.name.to_owned(),
                arguments.get(field.name).unwrap_or_default(),
            )
        })
        .collect();
    format!("{:#}\n", Value::Object(map))
}

/// The flags of everything that is not a default, each with its values.
pub fn to_flags<A: Arguments>(arguments: &A, module: Module) -> Vec<Vec<String>> {
    let mut flags = Vec::new();
    for field in A::fields().iter().filter(|field| module.takes(field)) {
        let value = arguments.get(field.name).unwrap_or_default();
        if value == field.default || value.is_null() {
            continue;
        }
        let name = format!("--{}", field.name);
        let values: Vec<String> = match &value {
            Value::Array(items) => items.iter().map(word).collect(),
            Value::String(text) if field.name.contains("instruction_format") => {
                vec![text.replace('\n', "\\n")]
            }
            single => vec![word(single)],
        };
        if values.iter().any(|value| value.starts_with('-')) && field.kind != FieldKind::Integer {
            // Attached, so that it cannot be taken for a flag.
            flags.extend(values.into_iter().map(|value| vec![format!("{name}={value}")]));
        } else {
            flags.push(std::iter::once(name).chain(values).collect());
        }
    }
    flags
}

/// The same as a text for a shell, one flag a line.
pub fn flag_lines<A: Arguments>(arguments: &A, module: Module) -> String {
    lines(&to_flags(arguments, module))
}

/// A value as one word of a command line, Python's spelling for booleans.
fn word(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A command over several lines, one flag a line.
fn lines(flags: &[Vec<String>]) -> String {
    let lines: Vec<String> = flags
        .iter()
        .map(|words| words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "))
        .collect();
    let mut text = lines.join(" \\\n    ");
    text.push('\n');
    text
}
