//! `bge config check --plan`: what a run would need.

use std::path::Path;

use bge_core::config::{self, Elsewhere, FinetuneConfig, Module};
use bge_core::data::preflight::validate_files;
use bge_core::data::session::{TokenCounter, ValidationOptions};
use bge_core::planner::{
    DataOutline, ModelShape, Plan, PlanOptions, Precision, Rates, available_memory, plan,
};
use bge_core::{Issue, Severity};

use crate::validate::MakeCounter;

/// The flags of a plan, which are no settings of a run.
#[derive(Debug, Default)]
pub(crate) struct Request {
    memory_gib: Option<f64>,
    world_size: Option<usize>,
    rates: Option<Rates>,
}

impl Request {
    /// Takes `--plan` and its flags out of the words; `None` without it.
    pub(crate) fn take(words: &mut Vec<String>) -> Result<Option<Self>, Vec<Issue>> {
        if !config::take_switch(words, "--plan") {
            return Ok(None);
        }
        Ok(Some(Self {
            memory_gib: number(words, "--memory_gib", |&gib| gib > 0.0 && gib < 1e6)?,
            world_size: number(words, "--world_size", |&size| size > 0 && size <= 1 << 20)?,
            rates: rates(words)?,
        }))
    }

    /// The plan, and what there is to say of the settings where it is carried out.
    pub(crate) fn answer(
        &self,
        module: Module,
        settings: FinetuneConfig,
        counter: MakeCounter<'_>,
    ) -> (Option<Plan>, Result<Vec<Issue>, Vec<Issue>>) {
        let elsewhere = Elsewhere {
            world_size: self.world_size,
            accelerators: self.rates.is_some(),
        };
        let (settings, checked) = match settings.clone().check_to_plan(module, elsewhere) {
            Ok((settings, warnings)) => (settings, Ok(warnings)),
            Err(issues) => (settings, Err(issues)),
        };
        let (plan, unplanned) = match self.plan(module, &settings, counter) {
            Ok(plan) => (Some(plan), missing_data(&settings)),
            Err(issue) => (None, Some(issue)),
        };
        let sound = plan.is_some() && checked.is_ok();
        let (Ok(mut issues) | Err(mut issues)) = checked;
        issues.extend(unplanned);
        (plan, if sound { Ok(issues) } else { Err(issues) })
    }

    /// Plans a run. Its data is read where it is there, its tokens counted where the tokenizer is there.
    fn plan(
        &self,
        module: Module,
        settings: &FinetuneConfig,
        counter: MakeCounter<'_>,
    ) -> Result<Plan, Issue> {
        let name = &settings.model.model_name_or_path;
        let shape = shape(name)?;
        let training = &settings.training;
        let options = PlanOptions {
            world_size: self.world_size.unwrap_or(training.world_size()),
            zero_stage: training.zero_stage.min(3) as u8,
            precision: match (self.rates, training.fp16 || training.bf16) {
                (Some(_), true) => Precision::Half,
                _ => Precision::F32, // this machine's processor has no other
            },
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: match self.memory_gib {
                Some(gib) => Some((gib * f64::from(1 << 30)) as u64),
                // It is about another machine, or about GPUs.
                None if self.rates.is_some() || on_gpus(&training.devices) => None,
                None => available_memory(),
            },
            rates: self.rates,
        };
        let data = outline(module, settings, options.world_size, counter)?;
        Ok(plan(&shape, module, settings, data.as_ref(), &options))
    }
}

/// Whether a run computes on GPUs.
pub(crate) fn on_gpus(devices: &[String]) -> bool {
    devices
        .iter()
        .any(|name| name.trim().to_ascii_lowercase().starts_with("cuda"))
}

/// What a device can do, where `--tflops` says it; the rest is that of a host with eight H100 unless it is given too.
fn rates(words: &mut Vec<String>) -> Result<Option<Rates>, Vec<Issue>> {
    let positive = |&value: &f64| value > 0.0 && value < 1e9;
    let tflops = number(words, "--tflops", positive)?;
    let names = ["--memory_gb_s", "--line_gb_s", "--network_gb_s"];
    let [memory, line, network] = names.map(|name| number(words, name, positive));
    let (memory, line, network) = (memory?, line?, network?);
    let devices = number(words, "--devices_per_host", |&size| size > 0 && size <= 1 << 16)?;
    let overlap = number::<bool>(words, "--overlap", |_| true)?;
    let Some(tflops) = tflops else {
        if memory.or(line).or(network).is_some() || devices.is_some() || overlap.is_some() {
            let message =
                "a time needs `--tflops`: what a device reaches in training, for example 400 on an H100";
            return Err(vec![problem(message)]);
        }
        return Ok(None);
    };
    let mut rates = Rates::accelerator(tflops);
    let gigabytes = |given: Option<f64>, known: f64| given.map_or(known, |rate| rate * 1e9);
    rates.memory = gigabytes(memory, rates.memory);
    rates.line = gigabytes(line, rates.line);
    rates.network = gigabytes(network, rates.network);
    rates.devices_per_host = devices.unwrap_or(rates.devices_per_host);
    rates.overlap = overlap.unwrap_or(rates.overlap);
    Ok(Some(rates))
}

fn problem(message: impl Into<String>) -> Issue {
    Issue::new("config.plan", Severity::Error, message)
}

fn number<T: std::str::FromStr>(
    words: &mut Vec<String>,
    name: &str,
    sensible: impl Fn(&T) -> bool,
) -> Result<Option<T>, Vec<Issue>> {
    let Some(word) = crate::config::take_value(words, name)? else {
        return Ok(None);
    };
    // `True` and `False` are the words of every other flag.
    let value = word
        .to_ascii_lowercase()
        .parse()
        .ok()
        .filter(|value| sensible(value));
    value
        .map(Some)
        .ok_or_else(|| vec![problem(format!("`{name}` got {word:?}, which it cannot be"))])
}

/// The sizes of the model: of its folder, or of a BGE model by name. Nothing is fetched.
fn shape(name: &str) -> Result<ModelShape, Issue> {
    let file = Path::new(name).join("config.json");
    if !name.is_empty() && file.is_file() {
        let text = std::fs::read_to_string(&file)
            .map_err(|error| problem(format!("cannot read the model's config.json: {error}")))?;
        return ModelShape::parse(&text).map_err(|error| problem(error.with_path(&file).to_string()));
    }
    ModelShape::preset(name).ok_or_else(|| {
        let names: Vec<_> = ModelShape::presets().collect();
        problem(format!(
            "a plan needs a folder with a config.json, or one of {}; got {name:?}",
            names.join(", ")
        ))
        .on_field("model_name_or_path")
    })
}

/// What to say where the plan knows nothing of the data, as it is not there; the settings may be for another machine.
fn missing_data(settings: &FinetuneConfig) -> Option<Issue> {
    let paths = &settings.data.train_data;
    let missing = paths.iter().find(|path| !Path::new(path).exists())?;
    let message = format!(
        "{missing:?} is not there, so no data was read: every text counts as long as allowed, and steps as `max_steps` says"
    );
    Some(Issue::new("config.plan", Severity::Warning, message).on_field("train_data"))
}

/// What the training data says, where there is any.
fn outline(
    module: Module,
    settings: &FinetuneConfig,
    world_size: usize,
    counter: MakeCounter<'_>,
) -> Result<Option<DataOutline>, Issue> {
    let data = &settings.data;
    if data.train_data.is_empty() || !data.train_data.iter().all(|path| Path::new(path).exists()) {
        return Ok(None);
    }
    let tokenizer = settings.model.tokenizer_name.as_ref();
    let local = Path::new(tokenizer.unwrap_or(&settings.model.model_name_or_path)).is_dir();
    let wrong = |error: bge_core::Error| problem(error.to_string());
    let counter = if local {
        counter(settings).map_err(wrong)?
    } else {
        None
    };
    let options = ValidationOptions {
        module,
        data: data.clone(),
        training: settings.training.clone(),
        world_size,
        ..ValidationOptions::default()
    };
    let count = counter.as_deref().map(|counter| counter as TokenCounter<'_>);
    let report = validate_files(options, count, |_| true).map_err(wrong)?;
    Ok(Some(DataOutline::from(&report)))
}
