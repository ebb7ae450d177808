//! Hugging Face's and FlagEmbedding's flags that bge has no setting for, each with what it does about it.
//!
//! The list is that of `TrainingArguments` in transformers 4.44 and 5.23. A flag whose effect bge has anyway, or
//! cannot have, is ignored with one warning; a flag that would change the result is refused unless its value is
//! harmless.

use serde_json::Value;

/// How many values a foreign flag takes on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// None, or True or False.
    Switch,
    /// Exactly one.
    One,
    /// Any number.
    Many,
}

/// What is done about a foreign flag.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// One warning with the reason.
    Ignored,
    /// Nothing for one of these values, else an error with the reason.
    RefusedUnless(&'static [&'static str]),
}

/// A flag of another tool.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    /// The name, without dashes.
    pub name: &'static str,
    /// How many values it takes.
    pub takes: Takes,
    /// What is done about it.
    pub verdict: Verdict,
    /// Why; lower-case, no full stop.
    pub reason: &'static str,
}

impl Foreign {
    /// Whether the value changes nothing, so that there is nothing to say.
    pub(crate) fn is_harmless(&self, value: &Value) -> bool {
        let Verdict::RefusedUnless(harmless) = self.verdict else {
            return false;
        };
        if value.is_null() {
            return true;
        }
        let given = plain(value);
        harmless.iter().any(|word| {
            *word == given
                || matches!((word.parse::<f64>(), given.parse::<f64>()), (Ok(word), Ok(given)) if word == given)
        })
    }
}

/// A value as one lower-case word.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() > 100 => String::from("…"),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "yes" | "y" | "on" => String::from("true"),
            "f" | "no" | "n" | "off" => String::from("false"),
            other => other.to_owned(),
        },
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string().to_ascii_lowercase(),
    }
}

const fn ignored(name: &'static str, takes: Takes, reason: &'static str) -> Foreign {
    Foreign {
        name,
        takes,
        verdict: Verdict::Ignored,
        reason,
    }
}

pub(super) const fn refused(
    name: &'static str,
    takes: Takes,
    harmless: &'static [&'static str],
    reason: &'static str,
) -> Foreign {
    Foreign {
        name,
        takes,
        verdict: Verdict::RefusedUnless(harmless),
        reason,
    }
}

const OFF: &[&str] = &["false", "0", ""];
const UNSET: &[&str] = &["", "none"];

const TRACKERS: &str = "bge reports to no tracker; progress goes to standard error and to trainer_state.json";
const TORCH: &str = "it tunes PyTorch, which is not used here";
const LAUNCHER: &str = "there is no process launcher to set up; bge runs in one process";
const LOADER: &str = "batches are read by threads of this process and need no such setting";
const EVALUATION: &str = "evaluation measures retrieval on `eval_dataset` and has no such setting";
const PUSH: &str = "bge uploads nothing; the folder it writes can be pushed with any hub client";
const MEMORY_ONLY: &str = "it changes speed or memory only, not the result";
const F32: &str = "bge computes in f32 here, which is at least as exact";

const DTYPES: &[&str] = &["", "none", "auto", "float32", "fp32", "torch.float32"];
const DTYPE: &str = "weights are kept in f32; leave the flag out, and give `--bf16` or `--fp16` to compute in 16 bits on a GPU";
const FSDP: &str =
    "weights, gradients and optimizer are shared out over the ranks by `--zero_stage 3` instead";
const SAMPLING: &str =
    "it changes the order of the data, which here is a function of the seed alone; leave the flag out";

/// Every flag of `TrainingArguments` that is neither a setting nor an alias of one.
pub(crate) const TRAINER: &[Foreign] = &[
    // Optimizer and loss.
    refused(
        "optim",
        Takes::One,
        &[
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_torch_xla",
            "adamw_torch_npu_fused",
            "adamw_apex_fused",
            "adamw_hf",
        ],
        "bge trains with AdamW (adamw_torch) only; leave the flag out",
    ),
    refused(
        "optim_args",
        Takes::One,
        UNSET,
        "AdamW's settings are adam_beta1, adam_beta2, adam_epsilon and weight_decay",
    ),
    refused(
        "optim_target_modules",
        Takes::Many,
        UNSET,
        "it belongs to optimizers that bge does not have",
    ),
    refused(
        "adafactor",
        Takes::Switch,
        OFF,
        "bge trains with AdamW only; leave the flag out",
    ),
    refused(
        "label_smoothing_factor",
        Takes::One,
        &["0"],
        "it would change the loss; bge's losses have no label smoothing, so leave the flag out",
    ),
    refused(
        "neftune_noise_alpha",
        Takes::One,
        UNSET,
        "it would change the embeddings while training; bge does not add noise, so leave the flag out",
    ),
    ignored(
        "average_tokens_across_devices",
        Takes::Switch,
        "the loss is a mean over queries, not over tokens",
    ),
    // Batches and their order.
    refused(
        "auto_find_batch_size",
        Takes::Switch,
        OFF,
        "another batch size has other negatives and another result; set `sub_batch_size` to save memory",
    ),
    refused("group_by_length", Takes::Switch, OFF, SAMPLING),
    refused("train_sampling_strategy", Takes::One, &["random"], SAMPLING),
    refused(
        "split_batches",
        Takes::Switch,
        &["false", "0", "none", ""],
        "the batch size is always per device",
    ),
    refused(
        "dispatch_batches",
        Takes::Switch,
        &["false", "0", "none", ""],
        SAMPLING,
    ),
    ignored(
        "length_column_name",
        Takes::One,
        "lengths are counted by the tokenizer",
    ),
    refused(
        "ignore_data_skip",
        Takes::Switch,
        OFF,
        "a resumed run goes on where it stopped, bit for bit, and needs no skipping",
    ),
    ignored(
        "remove_unused_columns",
        Takes::Switch,
        "unknown keys of a line are left alone",
    ),
    ignored("label_names", Takes::Many, "training lines have no label column"),
    ignored("dataloader_pin_memory", Takes::Switch, LOADER),
    ignored("dataloader_persistent_workers", Takes::Switch, LOADER),
    ignored("dataloader_prefetch_factor", Takes::One, LOADER),
    ignored("dataloader_multiprocessing_context", Takes::One, LOADER),
    ignored("dataloader_in_order", Takes::Switch, LOADER),
    refused("past_index", Takes::One, &["-1"], "embedders have no past state"),
    // Devices and launchers.
    refused("fsdp", Takes::Many, &["", "none", "false", "0"], FSDP),
    ignored("fsdp_config", Takes::One, FSDP),
    ignored("fsdp_min_num_params", Takes::One, FSDP),
    ignored("fsdp_transformer_layer_cls_to_wrap", Takes::One, FSDP),
    refused("sharded_ddp", Takes::Many, &["", "none", "false"], FSDP),
    refused(
        "parallelism_config",
        Takes::One,
        UNSET,
        "bge does not split a layer over devices; leave the flag out, and see `zero_stage`",
    ),
    ignored("accelerator_config", Takes::One, LAUNCHER),
    ignored("local_rank", Takes::One, LAUNCHER),
    ignored("ddp_find_unused_parameters", Takes::One, LAUNCHER),
    ignored("ddp_bucket_cap_mb", Takes::One, LAUNCHER),
    ignored("ddp_broadcast_buffers", Takes::One, LAUNCHER),
    ignored("ddp_static_graph", Takes::One, LAUNCHER),
    ignored("ddp_backend", Takes::One, LAUNCHER),
    ignored("xpu_backend", Takes::One, LAUNCHER),
    ignored("ray_scope", Takes::One, LAUNCHER),
    refused(
        "mp_parameters",
        Takes::One,
        UNSET,
        "bge does not split a layer over devices; leave the flag out, and see `zero_stage`",
    ),
    ignored("use_cpu", Takes::Switch, "this build trains on the CPU"),
    ignored("no_cuda", Takes::Switch, "this build trains on the CPU"),
    refused(
        "use_mps_device",
        Takes::Switch,
        OFF,
        "this build trains on the CPU",
    ),
    ignored("use_ipex", Takes::Switch, TORCH),
    ignored("jit_mode_eval", Takes::Switch, TORCH),
    ignored("tpu_num_cores", Takes::One, LAUNCHER),
    ignored("tpu_metrics_debug", Takes::Switch, LAUNCHER),
    // Precision and speed.
    refused("dtype", Takes::One, DTYPES, DTYPE),
    refused("torch_dtype", Takes::One, DTYPES, DTYPE),
    ignored("fp16_opt_level", Takes::One, F32),
    ignored("fp16_backend", Takes::One, F32),
    ignored("half_precision_backend", Takes::One, F32),
    ignored("fp16_full_eval", Takes::Switch, F32),
    ignored("bf16_full_eval", Takes::Switch, F32),
    ignored("gradient_checkpointing_kwargs", Takes::One, MEMORY_ONLY),
    ignored("activation_checkpointing_kwargs", Takes::One, MEMORY_ONLY),
    ignored("torch_compile", Takes::Switch, TORCH),
    ignored("torch_compile_backend", Takes::One, TORCH),
    ignored("torch_compile_mode", Takes::One, TORCH),
    ignored("torchdynamo", Takes::One, TORCH),
    ignored("torch_empty_cache_steps", Takes::One, TORCH),
    ignored("use_liger_kernel", Takes::Switch, TORCH),
    ignored("liger_kernel_config", Takes::One, TORCH),
    ignored("use_cache", Takes::Switch, "encoders have no cache"),
    ignored(
        "full_determinism",
        Takes::Switch,
        "the same command always gives the same bytes",
    ),
    // Logging.
    ignored("report_to", Takes::Many, TRACKERS),
    ignored("run_name", Takes::One, TRACKERS),
    ignored("project", Takes::One, TRACKERS),
    ignored("trackio_space_id", Takes::One, TRACKERS),
    ignored("trackio_bucket_id", Takes::One, TRACKERS),
    ignored("trackio_static_space_id", Takes::One, TRACKERS),
    ignored("logging_dir", Takes::One, TRACKERS),
    ignored(
        "logging_nan_inf_filter",
        Takes::Switch,
        "a loss that is not finite stops the run instead of being hidden",
    ),
    ignored("log_on_each_node", Takes::Switch, "there is one node"),
    ignored(
        "log_level",
        Takes::One,
        "progress is always shown on standard error",
    ),
    ignored("log_level_replica", Takes::One, "there are no replicas"),
    ignored(
        "disable_tqdm",
        Takes::One,
        "the bar is shown on a terminal only, without any setting",
    ),
    ignored(
        "include_num_input_tokens_seen",
        Takes::Switch,
        "tokens are always counted",
    ),
    ignored(
        "include_tokens_per_second",
        Takes::Switch,
        "tokens per second are always shown",
    ),
    ignored(
        "skip_memory_metrics",
        Takes::Switch,
        "memory is not measured by the trainer",
    ),
    ignored("debug", Takes::Many, TORCH),
    // Evaluation.
    ignored(
        "do_eval",
        Takes::Switch,
        "`eval_strategy` decides whether there is an evaluation",
    ),
    ignored(
        "do_predict",
        Takes::Switch,
        "`bge encode` and `bge evaluate` use the finished model",
    ),
    ignored(
        "per_device_eval_batch_size",
        Takes::One,
        "evaluation makes its batches by tokens",
    ),
    ignored(
        "per_gpu_eval_batch_size",
        Takes::One,
        "evaluation makes its batches by tokens",
    ),
    refused(
        "eval_delay",
        Takes::One,
        &["0"],
        "evaluations begin with the first interval; choose `eval_steps` instead",
    ),
    ignored("prediction_loss_only", Takes::Switch, EVALUATION),
    ignored("eval_do_concat_batches", Takes::Switch, EVALUATION),
    ignored("eval_use_gather_object", Takes::Switch, EVALUATION),
    ignored("eval_accumulation_steps", Takes::One, EVALUATION),
    ignored("include_for_metrics", Takes::Many, EVALUATION),
    ignored("include_inputs_for_metrics", Takes::Switch, EVALUATION),
    ignored("batch_eval_metrics", Takes::Switch, EVALUATION),
    ignored("use_legacy_prediction_loop", Takes::Switch, EVALUATION),
    // Checkpoints and the hub.
    ignored(
        "save_safetensors",
        Takes::Switch,
        "models are always written as safetensors",
    ),
    ignored(
        "save_only_model",
        Takes::Switch,
        "a checkpoint always holds what resuming needs",
    ),
    ignored("save_on_each_node", Takes::Switch, "there is one node"),
    ignored(
        "enable_jit_checkpoint",
        Takes::Switch,
        "SIGTERM writes a checkpoint without any setting",
    ),
    ignored(
        "restore_callback_states_from_checkpoint",
        Takes::Switch,
        "resuming always restores early stopping",
    ),
    refused("push_to_hub", Takes::Switch, OFF, PUSH),
    ignored("push_to_hub_model_id", Takes::One, PUSH),
    ignored("push_to_hub_organization", Takes::One, PUSH),
    ignored("push_to_hub_token", Takes::One, PUSH),
    ignored("hub_model_id", Takes::One, PUSH),
    ignored("hub_token", Takes::One, PUSH),
    ignored("hub_strategy", Takes::One, PUSH),
    ignored("hub_private_repo", Takes::One, PUSH),
    ignored("hub_always_push", Takes::Switch, PUSH),
    ignored("hub_revision", Takes::One, PUSH),
];

const SEARCH: &str =
    "vectors and results are kept in memory; name `output_file` or `report` to write the metrics";
const OUTPUT: &str = "the table goes to standard output; `output_file` writes JSON, `report` an HTML page";
const RERANKER: &str = "`bge evaluate` measures the embedder alone, and reranks nothing";
pub(super) const EXAMPLES: &str =
    "examples in the query belong to decoder_only.icl, which this version does not run";

/// Flags of `FlagEmbedding.evaluation.custom` that `bge evaluate` has no setting for.
pub(crate) const EVALUATION_CUSTOM: &[Foreign] = &[
    ignored(
        "eval_name",
        Takes::One,
        "the report is named after the dataset's folder",
    ),
    refused(
        "dataset_names",
        Takes::Many,
        UNSET,
        "a dataset is a folder; name it with `dataset`, one in each call",
    ),
    ignored("corpus_embd_save_dir", Takes::One, SEARCH),
    ignored("cache_path", Takes::One, SEARCH),
    ignored("output_dir", Takes::One, SEARCH),
    ignored(
        "overwrite",
        Takes::Switch,
        "nothing is kept between runs, so nothing is stale",
    ),
    ignored("eval_output_method", Takes::One, OUTPUT),
    ignored("eval_output_path", Takes::One, OUTPUT),
    ignored("eval_metrics", Takes::Many, "all metrics are computed"),
    refused("examples_for_task", Takes::One, UNSET, EXAMPLES),
    refused("examples_instruction_format", Takes::One, &["{}{}"], EXAMPLES),
    refused(
        "reranker_name_or_path",
        Takes::One,
        UNSET,
        "`bge evaluate` measures the embedder alone, so leave the flag out; `bge rerank` scores pairs by a reranker",
    ),
    ignored("rerank_top_k", Takes::One, RERANKER),
    ignored("reranker_model_class", Takes::One, RERANKER),
    ignored("reranker_peft_path", Takes::One, RERANKER),
    ignored("reranker_batch_size", Takes::One, RERANKER),
    ignored("reranker_query_max_length", Takes::One, RERANKER),
    ignored("reranker_max_length", Takes::One, RERANKER),
    ignored("query_instruction_for_rerank", Takes::One, RERANKER),
    ignored("query_instruction_format_for_rerank", Takes::One, RERANKER),
    ignored("passage_instruction_for_rerank", Takes::One, RERANKER),
    ignored("passage_instruction_format_for_rerank", Takes::One, RERANKER),
    ignored("normalize", Takes::Switch, RERANKER),
    ignored("prompt", Takes::One, RERANKER),
    ignored("cutoff_layers", Takes::Many, RERANKER),
    ignored("compress_ratio", Takes::One, RERANKER),
    ignored("compress_layers", Takes::Many, RERANKER),
];

/// Settings of modules other than the one that is asked for: the names, and where they belong.
pub(crate) const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &[
            "use_lora",
            "lora_rank",
            "lora_alpha",
            "lora_dropout",
            "target_modules",
            "modules_to_save",
            "use_flash_attn",
            "from_peft",
            "raw_peft",
            "additional_special_tokens",
            "save_merged_lora_model",
            "only_merge_lora_model",
            "peft_model_path",
            "use_slow_tokenizer",
        ],
        "decoder_only.base and decoder_only.icl",
    ),
    (
        &[
            "example_query_max_len",
            "example_passage_max_len",
            "retrieval_use_examples",
            "icl_suffix_str",
        ],
        "decoder_only.icl",
    ),
    (
        &[
            "unified_finetuning",
            "use_self_distill",
            "fix_encoder",
            "self_distill_start_step",
            "colbert_dim",
        ],
        "encoder_only.m3",
    ),
];
