//! The rules that settings keep together, and the proof that they were checked.

use std::ops::Deref;

use serde_json::Value;

use super::FinetuneConfig;
use super::choices::NumberType;
use super::field::{Arguments, shown_text, upstream_reading};
use super::format::{self, Part};
use super::module::Module;
use crate::issue::{Issue, Severity};

/// Whether this build computes on GPUs; its own tests emulate them.
const GPUS: bool = cfg!(any(feature = "cuda", test));

/// Settings that passed every rule. Only these reach a trainer or an encoder, and nothing else makes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked<C> {
    config: C,
    module: Module,
    warnings: Vec<Issue>,
}

/// Settings that [`FinetuneConfig::check`] has passed.
pub type CheckedConfig = Checked<FinetuneConfig>;

impl<C> Checked<C> {
    /// What is worth a look, though nothing stops because of it.
    pub fn warnings(&self) -> &[Issue] {
        &self.warnings
    }

    /// The module that the settings were checked for.
    pub fn module(&self) -> Module {
        self.module
    }

    /// The settings; to use them again they are checked again.
    pub fn into_inner(self) -> C {
        self.config
    }
}

impl<C> Deref for Checked<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.config
    }
}

/// Where a run is to take place that is planned on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elsewhere {
    /// Its devices; as many as the settings say if not given.
    pub world_size: Option<usize>,
    /// Whether they are accelerators, whatever the settings name.
    pub accelerators: bool,
}

/// Findings while a configuration is checked.
#[derive(Default)]
pub(super) struct Findings {
    issues: Vec<Issue>,
    /// Where the run is planned; there, what this build lacks is no matter.
    planned: Option<Elsewhere>,
}

impl Findings {
    pub(super) fn error(&mut self, code: &'static str, field: &str, message: impl Into<String>) {
        self.issues
            .push(Issue::new(code, Severity::Error, message).on_field(field));
    }

    pub(super) fn warning(&mut self, code: &'static str, field: &str, message: impl Into<String>) {
        self.issues
            .push(Issue::new(code, Severity::Warning, message).on_field(field));
    }

    /// Reports a number outside of its range.
    pub(super) fn range(&mut self, field: &str, fits: bool, value: impl std::fmt::Display, accepted: &str) {
        if !fits {
            self.error("config.range", field, format!("expected {accepted}, got {value}"));
        }
    }

    /// Reports a count outside of `low..=high`.
    pub(super) fn count(&mut self, field: &str, value: usize, low: usize, high: usize) {
        let accepted = match high {
            usize::MAX => format!("a whole number from {low}"),
            _ => format!("a whole number from {low} to {high}"),
        };
        self.range(field, (low..=high).contains(&value), value, &accepted);
    }

    /// Reports every required setting that is empty, and every text with a NUL character.
    pub(super) fn required<A: Arguments>(&mut self, arguments: &A) {
        for field in A::fields() {
            let value = arguments.get(field.name).unwrap_or_default();
            let texts = match &value {
                Value::Array(items) => items.iter().collect(),
                single => vec![single],
            };
            let is_empty = texts
                .iter()
                .all(|text| text.as_str().is_some_and(|text| text.trim().is_empty()));
            if field.required && is_empty {
                let help = field.help.trim_end_matches('.');
                self.error("config.required", field.name, format!("it is required: {help}"));
            }
            if texts
                .iter()
                .any(|text| text.as_str().is_some_and(|text| text.contains('\0')))
            {
                self.error(
                    "config.invalid_value",
                    field.name,
                    "a text must not contain a NUL character",
                );
            }
        }
    }

    /// Checks the format of an instruction.
    pub(super) fn format(&mut self, field: &str, format: &str, instruction: Option<&str>) {
        let shown = shown_text(format);
        match format::parts(format) {
            Err(message) => self.error("config.format", field, format!("{shown}: {message}")),
            Ok(parts) if !parts.contains(&Part::Text) => {
                let message = format!("{shown} has no place for the text; the usual format is \"{{}}{{}}\"");
                if instruction.is_some() {
                    self.error("config.format", field, message);
                } else {
                    self.warning("config.format", field, message);
                }
            }
            Ok(parts)
                if !parts.contains(&Part::Instruction)
                    && instruction.is_some_and(|text| !text.is_empty()) =>
            {
                let message =
                    format!("{shown} has no place for the instruction, which is therefore not used");
                self.warning("config.format", field, message);
            }
            Ok(_) => {}
        }
    }

    /// Reports an instruction that is the word which upstream puts in front of queries by mistake.
    pub(super) fn instruction(&mut self, field: &str, instruction: Option<&str>) {
        if instruction.is_some_and(|text| matches!(text.trim(), "None" | "null")) {
            let message =
                "this very word is put in front of every text; leave the flag out for no instruction";
            self.warning("config.instruction_none", field, message);
        }
    }

    pub(super) fn remote_code(&mut self, trusted: bool) {
        if trusted {
            let message = "code shipped with a model is Python, which bge does not run; leave the flag out, and the \
                           model is refused by name if bge does not know its architecture";
            self.error("config.unsupported", "trust_remote_code", message);
        }
    }

    /// Whether the build that runs computes on GPUs.
    fn has_gpus(&self) -> bool {
        GPUS || self.planned.is_some()
    }

    /// Whether the run is on GPUs or, as a plan says, on other accelerators.
    fn on_gpu(&self, devices: &[String]) -> bool {
        let named = devices.iter().any(|name| cuda_number(name).is_some());
        self.has_gpus() && named || self.planned.is_some_and(|planned| planned.accelerators)
    }

    /// Refuses devices that this build does not have, and GPUs beside the processor.
    pub(super) fn devices(&mut self, devices: &[String]) {
        let gpus = devices.iter().filter(|name| cuda_number(name).is_some()).count();
        if self.has_gpus() && gpus > 0 && gpus < devices.len() {
            let message = "GPUs and the processor do not work together; name GPUs alone, or `cpu` alone";
            self.error("config.unsupported", "devices", message);
        }
        for device in devices {
            let name = device.trim().to_ascii_lowercase();
            let cuda = cuda_number(&name).is_some();
            if is_cpu(&name) || cuda && self.has_gpus() {
                continue;
            }
            let hint = if cuda {
                "; for an NVIDIA GPU, build it with `--features bge_core/cuda`"
            } else if GPUS {
                "; a GPU is `cuda` or `cuda:N`"
            } else {
                ""
            };
            let message = format!("this build computes on `cpu`, got {}{hint}", shown_text(device));
            self.error("config.unsupported", "devices", message);
        }
    }

    /// Says that a GPU which is named twice has one copy of the model, for settings that encode or score.
    pub(super) fn copies(&mut self, devices: &[String]) {
        let numbers = devices.iter().filter_map(|name| cuda_number(name));
        for number in cuda_numbers(devices) {
            let times = numbers.clone().filter(|&other| other == number).count();
            if times > 1 {
                let message = format!(
                    "`cuda:{number}` is named {times} times and counts once: one copy of the model keeps a GPU busy"
                );
                self.warning("config.device_twice", "devices", message);
            }
        }
    }

    /// Says once that reduced precision is not used, where it is not.
    pub(super) fn precision(&mut self, wanted: &[(&str, bool)], devices: &[String]) {
        if self.on_gpu(devices) {
            return;
        }
        for (field, wanted) in wanted {
            if *wanted {
                let message = "ignored: on the CPU everything is computed in f32, which is at least as exact";
                self.warning("config.precision", field, message);
            }
        }
    }

    /// The same to train: refused where the CPU is named, and ignored where nothing is, as commands for GPUs have to run.
    fn training_precision(&mut self, wanted: &[(&str, bool)], devices: &[String]) {
        if !devices.iter().any(|name| is_cpu(name)) {
            return self.precision(wanted, devices);
        }
        for (field, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
            let message = "needs a GPU, but `devices` names the CPU, where training is done in f32; leave one of the two out";
            self.error("config.precision", field, message);
        }
    }

    /// The proof, or everything that is wrong.
    pub(super) fn finish<C>(self, config: C) -> Result<Checked<C>, Vec<Issue>> {
        self.finish_for(Module::default(), config)
    }

    /// The same for a module.
    fn finish_for<C>(self, module: Module, config: C) -> Result<Checked<C>, Vec<Issue>> {
        if self.issues.iter().any(|issue| issue.severity == Severity::Error) {
            return Err(self.issues);
        }
        Ok(Checked {
            config,
            module,
            warnings: self.issues,
        })
    }
}

/// The number of the CUDA device that a name means: `cuda` is `cuda:0`.
pub(crate) fn cuda_number(name: &str) -> Option<usize> {
    match name.trim().to_ascii_lowercase().strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

/// The numbers of the CUDA devices that are named, each once. To encode and score, one copy of a model keeps a GPU busy: a second
/// would take its memory again and its turns from the first.
pub(crate) fn cuda_numbers(devices: &[String]) -> Vec<usize> {
    let mut numbers = Vec::new();
    for number in devices.iter().filter_map(|name| cuda_number(name)) {
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

fn is_cpu(name: &str) -> bool {
    matches!(name.trim().to_ascii_lowercase().as_str(), "cpu" | "cpu:0")
}

/// Applies upstream's readings to settings that were built in code rather than parsed.
pub(super) fn normalize<A: Arguments>(arguments: &mut A) {
    for field in A::fields() {
        let Some(value) = arguments.get(field.name) else {
            continue;
        };
        if let Some(read) = upstream_reading(field.name, &value) {
            // The reading of a valid value is valid.
            let _ = arguments.set(field.name, &read);
        }
    }
}

/// More than any model's positions; larger lengths are typing mistakes.
pub(super) const MAX_LENGTH: usize = 1 << 20;
/// Larger batches and groups are typing mistakes, and their products would overflow.
pub(super) const MAX_BATCH: usize = 1 << 20;

/// More ranks than this are a typing mistake on one machine.
const MAX_RANKS: usize = 1024;
/// A year.
const MAX_SECONDS: usize = 366 * 24 * 3600;

impl FinetuneConfig {
    /// Checks the settings for `encoder_only.base`. Nothing on disk is looked at but the file of `deepspeed`.
    ///
    /// The error is everything that is wrong, with the warnings.
    pub fn check(self) -> Result<CheckedConfig, Vec<Issue>> {
        self.check_for(Module::EncoderOnlyBase)
    }

    /// Checks the settings for a module.
    pub fn check_for(self, module: Module) -> Result<CheckedConfig, Vec<Issue>> {
        self.check_with(module, Findings::default())
    }

    /// Checks the settings for a run on another machine and with another build, which is planned here: the settings with
    /// what a file of `DeepSpeed` says, and the warnings. It is no proof, as such a run cannot start here.
    pub fn check_to_plan(self, module: Module, planned: Elsewhere) -> Result<(Self, Vec<Issue>), Vec<Issue>> {
        let findings = Findings {
            planned: Some(planned),
            ..Findings::default()
        };
        let checked = self.check_with(module, findings)?;
        Ok((checked.config, checked.warnings))
    }

    fn check_with(mut self, module: Module, mut findings: Findings) -> Result<CheckedConfig, Vec<Issue>> {
        if let Err(error) = module.available() {
            findings.error("config.unsupported", "module", error.message());
        }
        normalize(&mut self);
        if self.training.eval_steps == Some(0.0) {
            self.training.eval_steps = None;
        }
        findings.required(&self);
        self.check_model(&mut findings);
        self.check_data(module, &mut findings);
        self.check_optimizer(&mut findings);
        if module.trains_reranker() {
            self.check_reranker(&mut findings);
            self.check_steps(&mut findings);
        } else {
            self.check_loss(&mut findings);
            if module == Module::EncoderOnlyM3 {
                self.check_m3(&mut findings);
            }
            self.check_steps(&mut findings);
            self.check_evaluation(&mut findings);
        }
        self.check_deepspeed(&mut findings);
        self.check_machine(&mut findings);
        self.check_module(module, &mut findings);
        findings.finish_for(module, self)
    }

    fn check_model(&self, findings: &mut Findings) {
        let model = &self.model;
        findings.remote_code(model.trust_remote_code);
        if model.config_name.is_some() {
            let message =
                "the config in the model's own folder is read, as FlagEmbedding does; this one has no effect";
            findings.warning("config.no_effect", "config_name", message);
        }
        if !model.use_fast_tokenizer {
            let message = "ignored: bge has fast tokenizers only, which give the same tokens";
            findings.warning("config.tokenizer", "use_fast_tokenizer", message);
        }
        let path = |text: &str| text.trim().trim_end_matches('/').to_owned();
        if !model.model_name_or_path.is_empty()
            && path(&model.model_name_or_path) == path(&self.training.output_dir)
        {
            let message = "it is the folder of the model to start from, which would be overwritten";
            findings.error("config.conflict", "output_dir", message);
        }
    }

    fn check_data(&self, module: Module, findings: &mut Findings) {
        let data = &self.data;
        if data.train_data.len() > 1 && data.train_data.iter().any(|path| path.trim().is_empty()) {
            findings.error("config.invalid_value", "train_data", "one of the paths is empty");
        }
        findings.count("train_group_size", data.train_group_size, 1, MAX_BATCH);
        // Two special tokens enclose a text.
        findings.count("query_max_len", data.query_max_len, 3, MAX_LENGTH);
        findings.count("passage_max_len", data.passage_max_len, 3, MAX_LENGTH);
        if let Some(multiple) = data.pad_to_multiple_of {
            findings.count("pad_to_multiple_of", multiple, 1, MAX_LENGTH);
        }
        findings.count(
            "max_example_num_per_dataset",
            data.max_example_num_per_dataset,
            1,
            usize::MAX,
        );
        let ratio = data.shuffle_ratio;
        findings.range(
            "shuffle_ratio",
            (0.0..=1.0).contains(&ratio),
            ratio,
            "a number from 0 to 1",
        );
        let (query, passage) = (data.query_instruction(), data.passage_instruction());
        findings.format("query_instruction_format", &data.query_instruction_format, query);
        findings.format(
            "passage_instruction_format",
            &data.passage_instruction_format,
            passage,
        );
        let purpose = if module.trains_reranker() {
            "rerank"
        } else {
            "retrieval"
        };
        findings.instruction(&format!("query_instruction_for_{purpose}"), query);
        findings.instruction(&format!("passage_instruction_for_{purpose}"), passage);
        if !data.same_dataset_within_batch {
            for (field, threshold) in [
                ("small_threshold", data.small_threshold),
                ("drop_threshold", data.drop_threshold),
            ] {
                if threshold > 0 {
                    let message = "without `same_dataset_within_batch` it has no effect";
                    findings.warning("config.no_effect", field, message);
                }
            }
        }
        if data.knowledge_distillation && data.train_group_size == 1 {
            let message =
                "a group of one has no other passage to compare scores with, so teacher scores teach nothing";
            findings.warning("config.no_effect", "knowledge_distillation", message);
        }
    }

    fn check_loss(&self, findings: &mut Findings) {
        let training = &self.training;
        let temperature = training.temperature;
        let fits = temperature > 0.0 && temperature.is_finite();
        findings.range("temperature", fits, temperature, "a number above 0");
        if training.use_mrl && training.mrl_dims.is_empty() {
            let message = "`use_mrl` needs the lengths to train, as in `--mrl_dims 64 128 256`";
            findings.error("config.required", "mrl_dims", message);
        }
        for dim in &training.mrl_dims {
            findings.count("mrl_dims", *dim, 1, MAX_LENGTH);
        }
        if !training.use_mrl && !training.mrl_dims.is_empty() {
            findings.warning(
                "config.no_effect",
                "mrl_dims",
                "without `use_mrl` it has no effect",
            );
        }
        // Issue 823 upstream: the loss is constantly 0.
        if self.data.train_group_size == 1 && training.per_device_train_batch_size == 1 {
            let message = "one query with one passage has nothing to tell apart, so the loss is always 0; raise \
                           per_device_train_batch_size or train_group_size";
            if self.data.same_dataset_within_batch {
                findings.warning("config.one_candidate", "train_group_size", message);
            } else {
                findings.error("config.one_candidate", "train_group_size", message);
            }
        }
    }

    fn check_machine(&self, findings: &mut Findings) {
        let training = &self.training;
        if training.fp16 && training.bf16 {
            findings.error(
                "config.conflict",
                "bf16",
                "at most one of `fp16` and `bf16` can be True",
            );
        } else {
            let wanted = [
                ("fp16", training.fp16),
                ("bf16", training.bf16),
                ("tf32", training.tf32),
            ];
            findings.training_precision(&wanted, &training.devices);
        }
        findings.devices(&training.devices);
        let (named, ranks) = (training.devices.len(), training.world_size());
        findings.count(
            "nproc_per_node",
            training.nproc_per_node.unwrap_or(ranks),
            1,
            MAX_RANKS,
        );
        if named > 1 && named != ranks {
            let message = format!("{named} devices are named for {ranks} ranks; give one of the two flags");
            findings.error("config.conflict", "nproc_per_node", message);
        }
        findings.count("ddp_timeout", training.ddp_timeout, 1, MAX_SECONDS);
        findings.count("zero_stage", training.zero_stage, 0, 3);
        let planned = findings.planned.unwrap_or_default();
        let ranks = planned.world_size.unwrap_or(ranks);
        if training.zero_stage > 0 && ranks == 1 {
            let message =
                "with one rank there is nothing to share out, so it has no effect; see `nproc_per_node`";
            findings.warning("config.no_effect", "zero_stage", message);
        }
        let travels = training.communication_data_type;
        if travels != NumberType::Fp32 && ranks == 1 {
            let message = "with one rank nothing travels, so it has no effect; see `nproc_per_node`";
            findings.warning("config.no_effect", "communication_data_type", message);
        } else if travels == NumberType::Fp16
            && !(training.fp16 && (training.on_gpus() || planned.accelerators))
        {
            let message = "without the loss scale of `fp16` on a GPU, gradients below 6e-8 become 0 on their way; `bf16` keeps them";
            findings.warning("config.precision", "communication_data_type", message);
        }
        findings.count("dataloader_num_workers", training.dataloader_num_workers, 0, 1024);
        if let Some(size) = training.sub_batch_size {
            findings.count("sub_batch_size", size, 1, MAX_BATCH);
        }
    }

    fn check_module(&self, module: Module, findings: &mut Findings) {
        for field in Self::fields().iter().filter(|field| !module.takes(field)) {
            if self.get(field.name).is_some_and(|value| value != field.default) {
                let message = format!(
                    "`{module}` has no such setting; it belongs to {}",
                    Module::owners(field)
                );
                findings.error("config.unknown_flag", field.name, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Findings, NumberType, cuda_number, cuda_numbers};

    /// The codes of what is wrong with training on these devices.
    fn wrong(devices: &[&str], ranks: Option<usize>, zero_stage: usize) -> Vec<String> {
        let mut config = crate::config::FinetuneConfig::default();
        config.training.devices = devices.iter().map(|&name| name.to_owned()).collect();
        config.training.nproc_per_node = ranks;
        config.training.zero_stage = zero_stage;
        let Err(issues) = config.check() else {
            return Vec::new();
        };
        let fields = issues.iter().filter_map(|issue| issue.field.clone());
        fields
            .filter(|field| ["devices", "nproc_per_node", "zero_stage"].contains(&field.as_str()))
            .collect()
    }

    #[test]
    fn a_gpu_that_is_named_twice_counts_once_and_says_so() {
        let named =
            |devices: &[&str]| -> Vec<String> { devices.iter().map(|&name| name.to_owned()).collect() };
        assert_eq!(
            cuda_numbers(&named(&["cuda:1", "CUDA", "cuda:1", "cuda:0"])),
            [1, 0]
        );
        assert_eq!(cuda_numbers(&named(&["cpu", "cpu"])), [0; 0]);
        let messages = |devices: &[&str]| -> Vec<String> {
            let mut findings = Findings::default();
            findings.copies(&named(devices));
            findings
                .issues
                .iter()
                .map(|issue| issue.message.clone())
                .collect()
        };
        let said = messages(&["cuda:1", "cuda", "cuda:1", " cuda:1"]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("`cuda:1` is named 3 times"), "{said:?}");
        assert_eq!(messages(&["cuda", "cuda:0"]).len(), 1);
        // Groups of threads share the processor.
        assert_eq!(
            messages(&["cpu", "cpu"]).len() + messages(&["cuda:0", "cuda:1"]).len(),
            0
        );
    }

    #[test]
    fn several_gpus_work_together_but_none_beside_the_processor() {
        let wrong = |devices: &[&str]| {
            let mut findings = Findings::default();
            findings.devices(&devices.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
            findings.issues.len()
        };
        assert_eq!(wrong(&["cuda:0", "cuda:1"]), 0);
        assert_eq!(wrong(&["cuda:0", "cpu"]), 1);
    }

    #[test]
    fn gpus_train_together_and_share_out_what_a_stage_says() {
        let none: [&str; 0] = [];
        assert_eq!(wrong(&["cuda:0", "cuda:1"], None, 3), none);
        assert_eq!(wrong(&["cuda"], Some(4), 0), none);
        assert_eq!(wrong(&["cuda:0", "cpu"], None, 0), ["devices"]);
        assert_eq!(wrong(&["cuda:0", "cuda:1"], Some(3), 0), ["nproc_per_node"]);
        assert_eq!(wrong(&["cuda:0", "cuda:1"], None, 4), ["zero_stage"]);
    }

    #[test]
    fn gradients_travel_in_fp16_where_a_loss_scale_keeps_the_small_ones() {
        let said = |fp16: bool, devices: &[&str]| {
            let mut findings = Findings::default();
            let mut config = crate::config::FinetuneConfig::default();
            config.training.devices = devices.iter().map(|&name| name.to_owned()).collect();
            config.training.fp16 = fp16;
            config.training.communication_data_type = NumberType::Fp16;
            config.check_machine(&mut findings);
            let fields = findings.issues.iter().filter_map(|issue| issue.field.as_deref());
            fields.filter(|field| *field == "communication_data_type").count()
        };
        assert_eq!(said(true, &["cuda:0", "cuda:1"]), 0);
        assert_eq!(said(false, &["cuda:0", "cuda:1"]), 1);
        assert_eq!(said(true, &["cpu", "cpu"]), 1);
    }

    #[test]
    fn names_of_cuda_devices_have_a_number() {
        assert_eq!(cuda_number("cuda"), Some(0));
        assert_eq!(cuda_number(" CUDA:3 "), Some(3));
        for name in ["cpu", "cuda:", "cuda:x", "cuda0", "cuda:-1"] {
            assert_eq!(cuda_number(name), None, "{name}");
        }
    }
}
