//! `config.json` of a Hugging Face encoder, checked.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::nn::Activation;

/// The encoder families that bge trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `bert`: positions from 0, token types.
    Bert,
    /// `xlm-roberta`, `roberta`, `camembert`: positions from `pad_token_id + 1`, padding tokens not counted.
    Roberta,
}

/// The part of `config.json` that decides what is computed, and the whole of it for saving.
#[derive(Clone, Debug)]
pub struct EncoderConfig {
    /// Which family.
    pub family: Family,
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Its activation.
    pub hidden_act: Activation,
    /// Dropout of hidden states, in `[0, 1)`.
    pub hidden_dropout_prob: f32,
    /// Dropout of attention probabilities, in `[0, 1)`.
    pub attention_probs_dropout_prob: f32,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the token-type table.
    pub type_vocab_size: usize,
    /// Guard of the layer norms.
    pub layer_norm_eps: f64,
    /// Id of the padding token.
    pub pad_token_id: u32,
    /// The file as it was read, all keys in order.
    pub raw: Map<String, Value>,
}

#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "tenth")]
    hidden_dropout_prob: f32,
    #[serde(default = "tenth")]
    attention_probs_dropout_prob: f32,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "eps")]
    layer_norm_eps: f64,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
}

// Defaults of transformers' `BertConfig` and `XLMRobertaConfig`.
fn gelu() -> String {
    "gelu".to_owned()
}
fn tenth() -> f32 {
    0.1
}
fn positions() -> usize {
    512
}
fn two() -> usize {
    2
}
fn eps() -> f64 {
    1e-12
}

impl EncoderConfig {
    /// Reads and checks the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |message: String| Error::new(ErrorKind::ModelFormat, message);
        let raw: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| bad("the file is not a JSON object".to_owned()).with_source(error))?;
        let model_type = raw.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let family = match model_type {
            "bert" => Family::Bert,
            "xlm-roberta" | "roberta" | "camembert" => Family::Roberta,
            "" => {
                return Err(
                    bad("the field is missing; this is not a transformers model".to_owned())
                        .with_field("model_type"),
                );
            }
            other => {
                let zoo = match other {
                    "modernbert" | "deberta-v2" if cfg!(feature = "zoo") => {
                        "; it can be run, but not trained"
                    }
                    "modernbert" | "deberta-v2" => {
                        "; built with `--features zoo`, bge runs it, but does not train it"
                    }
                    _ => "",
                };
                let message = format!(
                    "this version trains and runs `bert` and `xlm-roberta` encoders, not `{other}`{zoo}"
                );
                return Err(Error::new(ErrorKind::Unsupported, message).with_field("model_type"));
            }
        };
        let known: Raw = serde_json::from_value(Value::Object(raw.clone()))
            .map_err(|error| bad("a field is missing or of a wrong type".to_owned()).with_source(error))?;
        debug_assert_eq!(known.model_type, model_type);
        let Some(hidden_act) = Activation::from_name(&known.hidden_act) else {
            let message = format!(
                "`{}` is not one of gelu, gelu_new, gelu_pytorch_tanh, relu",
                known.hidden_act
            );
            return Err(Error::new(ErrorKind::Unsupported, message).with_field("hidden_act"));
        };
        for (field, size) in [
            ("vocab_size", known.vocab_size),
            ("hidden_size", known.hidden_size),
            ("num_hidden_layers", known.num_hidden_layers),
            ("num_attention_heads", known.num_attention_heads),
            ("intermediate_size", known.intermediate_size),
            ("max_position_embeddings", known.max_position_embeddings),
            ("type_vocab_size", known.type_vocab_size),
        ] {
            if size == 0 || size > 1 << 24 {
                return Err(bad(format!("{size} is not a size that a model can have")).with_field(field));
            }
        }
        if !known.hidden_size.is_multiple_of(known.num_attention_heads) {
            return Err(bad(format!(
                "{} is not a multiple of num_attention_heads = {}",
                known.hidden_size, known.num_attention_heads
            ))
            .with_field("hidden_size"));
        }
        for (field, p) in [
            ("hidden_dropout_prob", known.hidden_dropout_prob),
            ("attention_probs_dropout_prob", known.attention_probs_dropout_prob),
        ] {
            if !(0.0..1.0).contains(&p) {
                return Err(bad(format!("{p} is not a probability below 1")).with_field(field));
            }
        }
        if let Some(kind) = known
            .position_embedding_type
            .as_deref()
            .filter(|kind| *kind != "absolute")
        {
            let message = format!("`{kind}` positions are not supported, only `absolute`");
            return Err(Error::new(ErrorKind::Unsupported, message).with_field("position_embedding_type"));
        }
        if known.is_decoder == Some(true) {
            let message = "a decoder cannot be used as an encoder";
            return Err(Error::new(ErrorKind::Unsupported, message).with_field("is_decoder"));
        }
        let pad_token_id = known.pad_token_id.unwrap_or(match family {
            Family::Bert => 0,
            Family::Roberta => 1,
        });
        let config = Self {
            family,
            vocab_size: known.vocab_size,
            hidden_size: known.hidden_size,
            num_hidden_layers: known.num_hidden_layers,
            num_attention_heads: known.num_attention_heads,
            intermediate_size: known.intermediate_size,
            hidden_act,
            hidden_dropout_prob: known.hidden_dropout_prob,
            attention_probs_dropout_prob: known.attention_probs_dropout_prob,
            max_position_embeddings: known.max_position_embeddings,
            type_vocab_size: known.type_vocab_size,
            layer_norm_eps: known.layer_norm_eps,
            pad_token_id,
            raw,
        };
        if config.max_tokens() < 2 {
            return Err(bad("leaves no room for a text".to_owned()).with_field("max_position_embeddings"));
        }
        Ok(config)
    }

    /// The longest text in tokens that the position table allows.
    pub fn max_tokens(&self) -> usize {
        match self.family {
            Family::Bert => self.max_position_embeddings,
            Family::Roberta => self
                .max_position_embeddings
                .saturating_sub(self.pad_token_id as usize + 1),
        }
    }
}
