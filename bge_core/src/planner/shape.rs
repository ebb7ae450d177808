//! The sizes of an encoder, from its `config.json` or by the name of a BGE model.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{FinetuneConfig, Module};
use crate::error::{Error, ErrorKind, Result};

/// What decides how much memory an encoder needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelShape {
    /// Rows of the word table.
    pub vocab_size: u64,
    /// Width of the hidden states.
    pub hidden_size: u64,
    /// Number of layers.
    pub num_hidden_layers: u64,
    /// Attention heads.
    pub num_attention_heads: u64,
    /// Width of the feed-forward block.
    pub intermediate_size: u64,
    /// Tokens that a text may have.
    pub max_tokens: u64,
    /// Rows of the position table; that of `RoBERTa` has two more than a text may have tokens.
    pub max_position_embeddings: u64,
    /// Rows of the token-type table.
    pub type_vocab_size: u64,
}

/// (name, layers, width, heads, feed-forward width, vocabulary, positions, token types) of the models on the hub.
const PRESETS: &[(&str, [u64; 7])] = &[
    ("bge-small-en-v1.5", [12, 384, 12, 1536, 30_522, 512, 2]),
    ("bge-base-en-v1.5", [12, 768, 12, 3072, 30_522, 512, 2]),
    ("bge-large-en-v1.5", [24, 1024, 16, 4096, 30_522, 512, 2]),
    ("bge-small-zh-v1.5", [4, 512, 8, 2048, 21_128, 512, 2]),
    ("bge-base-zh-v1.5", [12, 768, 12, 3072, 21_128, 512, 2]),
    ("bge-large-zh-v1.5", [24, 1024, 16, 4096, 21_128, 512, 2]),
    ("bge-m3", [24, 1024, 16, 4096, 250_002, 8194, 1]),
    ("bge-reranker-base", [12, 768, 12, 3072, 250_002, 514, 1]),
    ("bge-reranker-large", [24, 1024, 16, 4096, 250_002, 514, 1]),
    ("bge-reranker-v2-m3", [24, 1024, 16, 4096, 250_002, 8194, 1]),
];

/// What a run holds of its model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// Numbers in all weights.
    pub all: u64,
    /// Those that the run changes.
    pub trained: u64,
}

impl ModelShape {
    /// Reads a `config.json` of `bert`, `roberta` or `xlm-roberta`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |message: String| Error::new(ErrorKind::ModelFormat, message);
        let raw: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| bad(format!("this is not the config.json of an encoder: {error}")))?;
        let roberta = match raw.get("model_type").and_then(Value::as_str) {
            Some("bert") => false,
            Some("xlm-roberta" | "roberta" | "camembert") => true,
            Some(other) => {
                return Err(bad(format!(
                    "this config.json is of {other:?}; a plan is made for bert, roberta and xlm-roberta"
                )));
            }
            None => {
                return Err(bad(
                    "this is not the config.json of an encoder: it has no `model_type`".into(),
                ));
            }
        };
        let size = |name: &str, default: Option<u64>| match raw.get(name) {
            Some(value) if !value.is_null() => value.as_u64(),
            _ => default,
        };
        let size = |name: &str, default: Option<u64>| {
            size(name, default).ok_or_else(|| bad("the config.json needs this size".into()).with_field(name))
        };
        // The defaults are those of transformers' `BertConfig`.
        let positions = size("max_position_embeddings", Some(512))?;
        let reserved = if roberta {
            size("pad_token_id", Some(1))?.saturating_add(1)
        } else {
            0
        };
        let shape = Self {
            vocab_size: size("vocab_size", None)?,
            hidden_size: size("hidden_size", None)?,
            num_hidden_layers: size("num_hidden_layers", None)?,
            num_attention_heads: size("num_attention_heads", None)?,
            intermediate_size: size("intermediate_size", None)?,
            max_tokens: positions.saturating_sub(reserved),
            max_position_embeddings: positions,
            type_vocab_size: size("type_vocab_size", Some(2))?,
        };
        shape.plausible()
    }

    /// Refuses sizes whose product no number could hold.
    fn plausible(self) -> Result<Self> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 30),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("max_position_embeddings", self.max_tokens, 1 << 24),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
            ("type_vocab_size", self.type_vocab_size, 1 << 24),
        ];
        for (name, value, most) in sizes {
            if value == 0 || value > most {
                let message = format!("{value} is not a size that an encoder has (1 to {most})");
                return Err(Error::new(ErrorKind::ModelFormat, message).with_field(name));
            }
        }
        Ok(self)
    }

    /// The model of a name such as `BAAI/bge-base-en-v1.5`, where it is one of BGE's encoders.
    pub fn preset(name: &str) -> Option<Self> {
        let last = name.trim_end_matches('/').rsplit('/').next()?;
        let (_, sizes) = PRESETS.iter().find(|(preset, _)| *preset == last)?;
        let [layers, width, heads, hidden, words, positions, types] = *sizes;
        Some(Self {
            vocab_size: words,
            hidden_size: width,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            intermediate_size: hidden,
            max_tokens: if types == 1 { positions - 2 } else { positions },
            max_position_embeddings: positions,
            type_vocab_size: types,
        })
    }

    /// The names of [`ModelShape::preset`].
    pub fn presets() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// Numbers in the weights that a run of `module` holds and trains.
    pub fn parameters(&self, module: Module, config: &FinetuneConfig) -> Parameters {
        let width = self.hidden_size;
        let square = width * width + width;
        let [tables, layer] = self.parts();
        let encoder = tables + 2 * width + self.num_hidden_layers * layer;
        let heads = match module {
            Module::RerankerEncoderOnlyBase => square + width + 1,
            Module::EncoderOnlyM3 if config.training.unified_finetuning => {
                width + 1 + (width + 1) * self.colbert_dim(config)
            }
            _ => 0,
        };
        let frozen = if module == Module::EncoderOnlyM3 && config.training.fix_encoder {
            encoder
        } else if config.training.fix_position_embedding {
            self.max_position_embeddings * width
        } else {
            0
        };
        // An embedder keeps the pooler of its file, which it neither uses nor trains.
        let pooler = if module.trains_reranker() { 0 } else { square };
        Parameters {
            all: encoder + heads + pooler,
            trained: encoder + heads - frozen,
        }
    }

    /// Numbers in the tables of the embeddings, and in one layer.
    pub(super) fn parts(&self) -> [u64; 2] {
        let (width, hidden) = (self.hidden_size, self.intermediate_size);
        let tables = (self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * width;
        let layer = 4 * (width * width + width) + 2 * width * hidden + hidden + width + 4 * width;
        [tables, layer]
    }

    /// The length of the multi-vector head's vectors.
    pub(super) fn colbert_dim(&self, config: &FinetuneConfig) -> u64 {
        match u64::try_from(config.training.colbert_dim) {
            Ok(dim) if dim > 0 => dim,
            _ => self.hidden_size,
        }
    }
}
