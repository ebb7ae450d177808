//! The kinds of model that upstream trains, by the names of its Python modules.

use super::declare::choices;
use super::field::FieldDoc;
use crate::error::{Error, ErrorKind, Result};

/// The package of all modules.
pub(super) const UPSTREAM: &str = "FlagEmbedding.finetune.";
const EMBEDDER: &str = "embedder.";

/// The group of the settings that only rerankers have.
const RERANKER_GROUP: &str = "reranker_training";

/// Settings of other groups that only embedders have.
const EMBEDDER_ONLY: &[&str] = &[
    "query_instruction_for_retrieval",
    "passage_instruction_for_retrieval",
    "same_dataset_within_batch",
    "small_threshold",
    "drop_threshold",
    "negatives_cross_device",
    "temperature",
    "sentence_pooling_method",
    "normalize_embeddings",
    "kd_loss_type",
    "use_mrl",
    "mrl_dims",
];

choices! {
    /// A module of `FlagEmbedding.finetune.embedder`, or of `FlagEmbedding.finetune` where it trains a reranker.
    pub enum Module {
        /// BERT, XLM-RoBERTa and other encoders.
        EncoderOnlyBase = "encoder_only.base",
        /// BGE-M3: dense, sparse and multi-vector.
        EncoderOnlyM3 = "encoder_only.m3",
        /// Decoders such as Mistral, Gemma and Qwen.
        DecoderOnlyBase = "decoder_only.base",
        /// Decoders with examples in the query.
        DecoderOnlyIcl = "decoder_only.icl",
        /// Cross-encoders: BERT or XLM-RoBERTa over query and passage together.
        RerankerEncoderOnlyBase = "reranker.encoder_only.base",
    }
}

impl Module {
    /// The modules that this version trains.
    pub const TRAINED: [Self; 3] = [
        Self::EncoderOnlyBase,
        Self::EncoderOnlyM3,
        Self::RerankerEncoderOnlyBase,
    ];

    /// Their names in a sentence.
    pub fn trained() -> String {
        let [others @ .., last] = Self::TRAINED.map(Self::as_str);
        format!("{} or {last}", others.join(", "))
    }

    /// Fails with `Unsupported` for a module that this version does not train.
    pub fn available(self) -> Result<Self> {
        if Self::TRAINED.contains(&self) {
            return Ok(self);
        }
        let message = format!("`{self}` is planned; this version trains {}", Self::trained());
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// The module that a command line names, with or without upstream's packages in front.
    pub fn from_path(path: &str) -> Result<Self> {
        let name = path.strip_prefix(UPSTREAM).unwrap_or(path);
        name.strip_prefix(EMBEDDER).unwrap_or(name).parse()
    }

    /// Upstream's name of the module: what `python -m` takes.
    pub(crate) fn path(self) -> String {
        let package = if self.trains_reranker() { "" } else { EMBEDDER };
        format!("{UPSTREAM}{package}{self}")
    }

    /// Whether it trains a cross-encoder rather than an embedder.
    pub fn trains_reranker(self) -> bool {
        self == Self::RerankerEncoderOnlyBase
    }

    /// Whether the module has a setting.
    pub fn takes(self, field: &FieldDoc) -> bool {
        match field.group {
            "m3" => self == Self::EncoderOnlyM3,
            RERANKER_GROUP => self.trains_reranker(),
            _ => !(self.trains_reranker() && EMBEDDER_ONLY.contains(&field.name)),
        }
    }

    /// Which modules have a setting that this one lacks.
    pub(crate) fn owners(field: &FieldDoc) -> &'static str {
        match field.group {
            "m3" => Self::EncoderOnlyM3.as_str(),
            RERANKER_GROUP => Self::RerankerEncoderOnlyBase.as_str(),
            _ => "the embedders",
        }
    }
}
