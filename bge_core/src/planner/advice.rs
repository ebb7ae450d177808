//! Settings under which a run that needs too much memory would fit, the mildest first.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{DataOutline, ModelShape, PlanOptions, plan};
use crate::config::{FinetuneConfig, Module};

/// What to change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// The settings, by their names; empty where none would do.
    pub settings: Map<String, Value>,
    /// Bytes of a device under these settings, or the least that any would need.
    pub total: u64,
    /// In words, with the cost.
    pub message: String,
}

/// A way to spend less, with what it costs.
struct Attempt {
    config: FinetuneConfig,
    options: PlanOptions,
    settings: Map<String, Value>,
    costs: Vec<&'static str>,
}

impl Attempt {
    fn set(&mut self, name: &str, value: Value) {
        self.settings.insert(name.to_owned(), value);
    }
}

/// The mildest change under which a device of `limit` bytes is enough.
///
/// Tried one after another, each kept when the next is tried: activations computed twice, sub-batches, shared-out optimizer,
/// smaller batches, shorter passages.
pub(super) fn advise(
    shape: &ModelShape,
    module: Module,
    config: &FinetuneConfig,
    data: Option<&DataOutline>,
    options: &PlanOptions,
    limit: u64,
) -> Advice {
    let mut attempt = Attempt {
        config: config.clone(),
        options: PlanOptions {
            memory_bytes: None,
            ..*options
        },
        settings: Map::new(),
        costs: Vec::new(),
    };
    let mut least = u64::MAX;
    let mut fits = |attempt: &Attempt| {
        let total = plan(shape, module, &attempt.config, data, &attempt.options)
            .memory
            .total;
        least = least.min(total);
        (total <= limit).then(|| found(attempt, total))
    };
    if !attempt.config.training.gradient_checkpointing {
        attempt.config.training.gradient_checkpointing = true;
        attempt.set("gradient_checkpointing", json!(true));
        attempt.costs.push("a third more time");
        if let Some(advice) = fits(&attempt) {
            return advice;
        }
    }
    let texts = plan(shape, module, config, data, &attempt.options)
        .fullest_batch
        .texts;
    let now = config
        .training
        .sub_batch_size
        .filter(|&size| size > 0)
        .unwrap_or(usize::MAX);
    attempt.costs.push("each text encoded twice; the same gradient");
    let mut size = (texts as usize).min(now).max(1).next_power_of_two();
    while size > 1 {
        size /= 2;
        attempt.config.training.sub_batch_size = Some(size);
        attempt.set("sub_batch_size", json!(size));
        if let Some(advice) = fits(&attempt) {
            return advice;
        }
    }
    if options.world_size > 1 {
        attempt.costs.push("more traffic between the devices");
        for stage in options.zero_stage + 1..=3 {
            attempt.options.zero_stage = stage;
            attempt.set("zero_stage", json!(stage));
            if let Some(advice) = fits(&attempt) {
                return advice;
            }
        }
    }
    attempt.costs.push("fewer negatives in a batch");
    while attempt.config.training.per_device_train_batch_size > 1 {
        let training = &mut attempt.config.training;
        training.per_device_train_batch_size /= 2;
        training.gradient_accumulation_steps = training.gradient_accumulation_steps.saturating_mul(2);
        let (batch, steps) = (
            training.per_device_train_batch_size,
            training.gradient_accumulation_steps,
        );
        attempt.set("per_device_train_batch_size", json!(batch));
        attempt.set("gradient_accumulation_steps", json!(steps));
        if let Some(advice) = fits(&attempt) {
            return advice;
        }
    }
    attempt.costs.push("longer passages are cut");
    while attempt.config.data.passage_max_len > 64 {
        attempt.config.data.passage_max_len /= 2;
        let length = attempt.config.data.passage_max_len;
        attempt.set("passage_max_len", json!(length));
        if let Some(advice) = fits(&attempt) {
            return advice;
        }
    }
    Advice {
        settings: Map::new(),
        total: least,
        message: format!(
            "no setting makes it fit: even the smallest batch needs {}; take a smaller model, or a device with more memory",
            size_text(least)
        ),
    }
}

fn found(attempt: &Attempt, total: u64) -> Advice {
    let flags: Vec<String> = attempt
        .settings
        .iter()
        .map(|(name, value)| match value {
            Value::Bool(true) => format!("--{name}"),
            value => format!("--{name} {value}"),
        })
        .collect();
    Advice {
        settings: attempt.settings.clone(),
        total,
        message: format!(
            "{} would need {} (the cost: {})",
            flags.join(" "),
            size_text(total),
            attempt.costs.join("; ")
        ),
    }
}

/// Bytes for people: `812 MiB`, `3.4 GiB`.
pub fn size_text(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1000.0 {
        format!("{mebibytes:.0} MiB")
    } else {
        format!("{:.1} GiB", mebibytes / 1024.0)
    }
}
