//! The kinds of embedder that upstream trains, by the names of its Python modules.

use super::declare::choices;
use crate::error::{Error, ErrorKind, Result};

choices! {
    /// A module of `FlagEmbedding.finetune.embedder`.
    pub enum Module {
        /// BERT, XLM-RoBERTa and other encoders.
        EncoderOnlyBase = "encoder_only.base",
        /// BGE-M3: dense, sparse and multi-vector.
        EncoderOnlyM3 = "encoder_only.m3",
        /// Decoders such as Mistral, Gemma and Qwen.
        DecoderOnlyBase = "decoder_only.base",
        /// Decoders with examples in the query.
        DecoderOnlyIcl = "decoder_only.icl",
    }
}

impl Module {
    /// Fails with `Unsupported` for a module that this version does not train.
    pub fn available(self) -> Result<Self> {
        match self {
            Self::EncoderOnlyBase => Ok(self),
            planned => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "`{planned}` is planned; this version trains `{}`",
                    Self::EncoderOnlyBase
                ),
            )),
        }
    }

    /// Whether the module takes the settings of a group.
    pub(crate) fn takes(self, group: &str) -> bool {
        group != "m3" || self == Self::EncoderOnlyM3
    }
}
