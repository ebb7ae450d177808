//! The settings of every command: plain structs, and one flat namespace of names that reaches them.

mod choices;
mod data;
mod embedding;
pub mod field;
mod model;
mod module;
mod training;
pub(crate) mod unknown;

pub use choices::{IntervalStrategy, KdLossType, LrSchedulerType, PoolingMethod, SaveStrategy, TextRole};
pub use data::DataArguments;
pub use embedding::{EmbedArguments, EncodeArguments, EncodeConfig, EvaluateArguments, EvaluateConfig};
pub use field::{Arguments, FieldDoc, FieldKind};
pub use model::ModelArguments;
pub use module::Module;
pub use training::TrainingArguments;

use field::sections;

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
}
