//! The settings of every command: plain structs, and one flat namespace of names that reaches them.

mod check;
mod check_embedding;
mod check_m3;
mod check_mining;
mod check_reranker;
pub(crate) mod check_scoring;
mod check_steps;
mod choices;
mod data;
mod declare;
mod deepspeed;
mod embedding;
pub mod field;
mod flags;
mod foreign;
pub(crate) mod format;
mod merging;
mod mining;
mod model;
mod module;
mod parse;
mod pipeline;
mod preparing;
mod render;
mod reranking;
mod schema;
mod scoring;
mod shell;
mod training;
mod tree;
pub(crate) mod unknown;

pub use check::{Checked, CheckedConfig, Elsewhere};
#[cfg(feature = "model")]
pub(crate) use check::{cuda_number, cuda_numbers};
pub use choices::{
    IntervalStrategy, KdLossType, LrSchedulerType, NumberType, PoolingMethod, SaveStrategy, TextRole,
};
pub use data::DataArguments;
pub use embedding::{EmbedArguments, EncodeArguments, EncodeConfig, EvaluateArguments, EvaluateConfig};
pub use field::{Arguments, FieldDoc, FieldKind};
pub use flags::{split_config_flag, split_free_words, take_switch};
pub use foreign::{Foreign, Takes, Verdict};
pub use merging::{MergeArguments, MergeConfig};
pub use mining::{EmbeddingDtype, Fusion, MineArguments, MineConfig, RetrievalMode, SamplingStrategy};
pub use model::ModelArguments;
pub use module::Module;
pub use parse::{Loader, Parsed, config_error};
pub use pipeline::{PipelineArguments, PipelineConfig, STAGES};
pub use preparing::{
    ConvertArguments, ConvertConfig, ConvertFormat, RepairArguments, RepairConfig, SplitArguments,
    SplitConfig,
};
pub use render::{RenderFormat, documented_toml, flag_lines, to_flags, to_json_text, to_toml};
pub use reranking::{PairFiles, RerankArguments, RerankConfig};
pub use schema::{flag_help, groups, json_schema, module_flag_help};
pub use scoring::{ScoreArguments, ScoreConfig};
pub use shell::{CommandLine, flags_of_script, from_command_line, from_words, quote, split_words};
pub use training::TrainingArguments;

use declare::sections;

sections! {
    /// Everything that `bge finetune` takes.
    pub struct FinetuneConfig {
        /// Which model.
        model: ModelArguments,
        /// Which data.
        data: DataArguments,
        /// How it is trained.
        training: TrainingArguments,
    }
    foreign foreign::TRAINER
}
