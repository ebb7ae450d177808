//! Encoders that run here but are not trained here: ModernBERT and DeBERTa-v2, by candle-transformers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use candle_core::{D, DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{debertav2, modernbert};
use serde_json::{Map, Value};

use super::config::{EncoderConfig, Family};
use super::weights::{read_file, weight_files};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::Activation;

/// The `model_type`s of the zoo.
pub const MODEL_TYPES: [&str; 2] = ["modernbert", "deberta-v2"];

/// An encoder of the zoo, with the classification head of a cross-encoder where its folder has one.
pub struct ZooModel {
    network: Network,
    head: Option<Head>,
    config: EncoderConfig,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and it is not moved about"
)]
enum Network {
    ModernBert(modernbert::ModernBert),
    DebertaV2(debertav2::DebertaV2Model),
}

/// dense, gelu, norm (ModernBERT), classifier.
struct Head {
    dense: (Tensor, Option<Tensor>),
    norm: Option<(Tensor, f64)>,
    out: (Tensor, Option<Tensor>),
    mean: bool,
}

impl fmt::Debug for ZooModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooModel")
            .field("config", &self.config)
            .field("head", &self.head.is_some())
            .finish_non_exhaustive()
    }
}

/// Whether a `config.json` is one of the zoo's.
pub(crate) fn is_zoo(raw: &Map<String, Value>) -> bool {
    let kind = raw.get("model_type").and_then(Value::as_str);
    kind.is_some_and(|kind| MODEL_TYPES.contains(&kind))
}

/// Reads the sizes in a `config.json` of the zoo, as far as batches and vectors depend on them.
pub(crate) fn parse_config(raw: Map<String, Value>) -> Result<EncoderConfig> {
    let settings = Settings(&raw);
    let modern = settings.text("model_type") == Some("modernbert");
    Ok(EncoderConfig {
        family: Family::Bert,
        vocab_size: settings.count("vocab_size", None)?,
        hidden_size: settings.count("hidden_size", None)?,
        num_hidden_layers: settings.count("num_hidden_layers", None)?,
        num_attention_heads: settings.count("num_attention_heads", None)?,
        intermediate_size: settings.count("intermediate_size", None)?,
        hidden_act: Activation::Gelu,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        max_position_embeddings: settings
            .count("max_position_embeddings", Some(if modern { 8192 } else { 512 }))?,
        type_vocab_size: settings.count("type_vocab_size", Some(0))?,
        layer_norm_eps: settings.number("norm_eps", "layer_norm_eps", if modern { 1e-5 } else { 1e-7 })?,
        pad_token_id: settings.count("pad_token_id", Some(0))? as u32,
        raw,
    })
}

impl ZooModel {
    /// Opens the weights of a folder whose configuration `parse_config` has read.
    pub(crate) fn open(folder: &Path, config: EncoderConfig) -> Result<Self> {
        Self::load(folder, config).map_err(|error| error.with_path(folder))
    }

    fn load(folder: &Path, config: EncoderConfig) -> Result<Self> {
        let mut weights = BTreeMap::new();
        for file in weight_files(folder)? {
            read_file(&file, &mut weights)?;
        }
        let settings = Settings(&config.raw);
        let modern = settings.text("model_type") == Some("modernbert");
        let (network, head) = if modern {
            let known = modernbert_config(&config)?;
            let head = Head::modernbert(&weights, &settings, config.layer_norm_eps)?;
            for layer in 1..config.num_hidden_layers {
                let name = format!("layers.{layer}.attn_norm.weight");
                if !weights.keys().any(|key| key.ends_with(&name)) {
                    return Err(missing(&name));
                }
            }
            let weights = weights.into_iter().map(|(name, tensor)| {
                let bare = ["embeddings.", "layers.", "final_norm."]
                    .iter()
                    .any(|start| name.starts_with(start));
                (if bare { format!("model.{name}") } else { name }, tensor)
            });
            let model = modernbert::ModernBert::load(builder(weights), &known).map_err(bad_weights)?;
            (Network::ModernBert(model), head)
        } else {
            let known = deberta_config(&config)?;
            let head = Head::deberta(&weights, &settings)?;
            let weights = weights.into_iter().map(|(name, tensor)| {
                let name = name.strip_prefix("deberta.").map(str::to_owned).unwrap_or(name);
                (name, tensor)
            });
            let model = debertav2::DebertaV2Model::load(builder(weights), &known).map_err(bad_weights)?;
            (Network::DebertaV2(model), head)
        };
        Ok(Self {
            network,
            head,
            config,
        })
    }

    /// The sizes, and the whole `config.json`.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Whether the folder has the classification head of a cross-encoder.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// The hidden states `[T, D]` of one text with `T` token ids; `types` are its segments, or empty.
    pub fn hidden(&self, ids: &[u32], types: &[u32]) -> Result<Tensor> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidArgument, message);
        let limit = self.config.max_position_embeddings;
        if ids.is_empty() || ids.len() > limit {
            return Err(invalid(format!(
                "a text has {} tokens, but the model takes 1 to {limit}",
                ids.len()
            )));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            return Err(invalid(format!(
                "token id {id} is outside the model's vocabulary of {}",
                self.config.vocab_size
            )));
        }
        let rows = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu)?;
        let mask = Tensor::ones((1, ids.len()), DType::U32, &Device::Cpu)?;
        let hidden = match &self.network {
            Network::ModernBert(model) => model.forward(&rows, &mask)?,
            Network::DebertaV2(model) => {
                let types = (types.len() == ids.len() && self.config.type_vocab_size > 0)
                    .then(|| Tensor::from_slice(types, (1, ids.len()), &Device::Cpu))
                    .transpose()?;
                model.forward(&rows, types, Some(mask))?
            }
        };
        Ok(hidden.squeeze(0)?.contiguous()?)
    }

    /// The score of one pair: the raw logit of the head's one label.
    pub fn score(&self, ids: &[u32], types: &[u32]) -> Result<f32> {
        let Some(head) = &self.head else {
            let message = "there is no classification head: this is not a cross-encoder but an encoder";
            return Err(Error::new(ErrorKind::ModelFormat, message));
        };
        head.score(&self.hidden(ids, types)?)
    }
}

impl Head {
    fn modernbert(
        weights: &BTreeMap<String, Tensor>,
        settings: &Settings<'_>,
        eps: f64,
    ) -> Result<Option<Self>> {
        let Some(out) = classifier(weights)? else {
            return Ok(None);
        };
        settings.only("classifier_activation", "gelu")?;
        let norm = weights
            .get("head.norm.weight")
            .ok_or_else(|| missing("head.norm.weight"))?;
        Ok(Some(Self {
            dense: linear(weights, "head.dense")?,
            norm: Some((norm.clone(), eps)),
            out,
            mean: settings.text("classifier_pooling") == Some("mean"),
        }))
    }

    fn deberta(weights: &BTreeMap<String, Tensor>, settings: &Settings<'_>) -> Result<Option<Self>> {
        let Some(out) = classifier(weights)? else {
            return Ok(None);
        };
        settings.only("pooler_hidden_act", "gelu")?;
        Ok(Some(Self {
            dense: linear(weights, "pooler.dense")?,
            norm: None,
            out,
            mean: false,
        }))
    }

    fn score(&self, hidden: &Tensor) -> Result<f32> {
        let mut x = if self.mean {
            hidden.mean_keepdim(0)?
        } else {
            hidden.i(0..1)?
        };
        x = apply(&x, &self.dense)?;
        x = x.gelu_erf()?;
        if let Some((weight, eps)) = &self.norm {
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
            x = centred
                .broadcast_div(&(variance + *eps)?.sqrt()?)?
                .broadcast_mul(weight)?;
        }
        Ok(apply(&x, &self.out)?.flatten_all()?.get(0)?.to_scalar()?)
    }
}

fn apply(x: &Tensor, (weight, bias): &(Tensor, Option<Tensor>)) -> Result<Tensor> {
    let x = x.matmul(&weight.t()?)?;
    Ok(match bias {
        Some(bias) => x.broadcast_add(bias)?,
        None => x,
    })
}

fn linear(weights: &BTreeMap<String, Tensor>, name: &str) -> Result<(Tensor, Option<Tensor>)> {
    let weight = format!("{name}.weight");
    let bias = weights.get(&format!("{name}.bias")).cloned();
    let weight = weights.get(&weight).ok_or_else(|| missing(&weight))?;
    Ok((weight.clone(), bias))
}

/// The last map of a head with one label; none where the folder has no head.
fn classifier(weights: &BTreeMap<String, Tensor>) -> Result<Option<(Tensor, Option<Tensor>)>> {
    let Some(weight) = weights.get("classifier.weight") else {
        return Ok(None);
    };
    let labels = weight.dims().first().copied().unwrap_or(0);
    if labels != 1 {
        let message =
            format!("the head has {labels} labels; a cross-encoder gives one score: num_labels must be 1");
        return Err(Error::new(ErrorKind::Unsupported, message).with_field("num_labels"));
    }
    linear(weights, "classifier").map(Some)
}

fn builder(weights: impl Iterator<Item = (String, Tensor)>) -> VarBuilder<'static> {
    let weights: HashMap<String, Tensor> = weights.collect();
    VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu)
}

fn missing(name: &str) -> Error {
    let message = format!("the weights lack `{name}`; the file is cut or of another class");
    Error::new(ErrorKind::ModelFormat, message)
}

fn bad_weights(error: candle_core::Error) -> Error {
    Error::new(ErrorKind::ModelFormat, "the weights do not fit config.json").with_source(error)
}

fn modernbert_config(config: &EncoderConfig) -> Result<modernbert::Config> {
    let settings = Settings(&config.raw);
    for name in ["norm_bias", "attention_bias", "mlp_bias"] {
        if config.raw.get(name).and_then(Value::as_bool) == Some(true) {
            return Err(unsupported(name, "true"));
        }
    }
    settings.only("hidden_activation", "gelu")?;
    let theta = |kind: &str, old: &str, default: f64| {
        let rope = config.raw.get("rope_parameters").and_then(|rope| rope.get(kind));
        if let Some(other) = rope
            .and_then(|rope| rope.get("rope_type"))
            .and_then(Value::as_str)
            .filter(|other| *other != "default")
        {
            return Err(unsupported("rope_type", other));
        }
        let new = rope
            .and_then(|rope| rope.get("rope_theta"))
            .and_then(Value::as_f64);
        new.map_or_else(|| settings.number(old, old, default), Ok)
    };
    Ok(modernbert::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        intermediate_size: config.intermediate_size,
        max_position_embeddings: config.max_position_embeddings,
        layer_norm_eps: config.layer_norm_eps,
        pad_token_id: config.pad_token_id,
        global_attn_every_n_layers: global_every(&settings, config.num_hidden_layers)?,
        global_rope_theta: theta("full_attention", "global_rope_theta", 160_000.0)?,
        local_attention: settings.count("local_attention", Some(128))?,
        local_rope_theta: theta("sliding_attention", "local_rope_theta", 10_000.0)?,
        classifier_config: None,
    })
}

/// Every how many layers attention is global: a number, or the list that newer files have.
fn global_every(settings: &Settings<'_>, layers: usize) -> Result<usize> {
    let Some(types) = settings.0.get("layer_types").and_then(Value::as_array) else {
        return settings
            .count("global_attn_every_n_layers", Some(3))
            .map(|every| every.max(1));
    };
    let global: Vec<bool> = types.iter().map(|kind| kind == "full_attention").collect();
    let every = global
        .iter()
        .skip(1)
        .position(|&global| global)
        .map_or(layers.max(1), |at| at + 1);
    let fits = global.len() == layers && (0..layers).all(|at| global.get(at) == Some(&(at % every == 0)));
    if fits {
        Ok(every)
    } else {
        Err(unsupported(
            "layer_types",
            "another pattern than every n-th layer global",
        ))
    }
}

fn deberta_config(config: &EncoderConfig) -> Result<debertav2::Config> {
    let settings = Settings(&config.raw);
    if settings.count("conv_kernel_size", Some(0))? > 0 {
        return Err(unsupported("conv_kernel_size", "a convolution"));
    }
    let mut raw = config.raw.clone();
    for name in [
        "id2label",
        "label2id",
        "pooler_hidden_act",
        "pooler_dropout",
        "legacy",
    ] {
        raw.remove(name);
    }
    raw.retain(|_, value| !value.is_null());
    // Defaults of transformers' `DebertaV2Config`.
    for (name, value) in [
        ("hidden_act", Value::from("gelu")),
        ("hidden_dropout_prob", 0.0.into()),
        ("attention_probs_dropout_prob", 0.0.into()),
        ("max_position_embeddings", 512.into()),
        ("type_vocab_size", 0.into()),
        ("initializer_range", 0.02.into()),
        ("layer_norm_eps", 1e-7.into()),
        ("relative_attention", false.into()),
        ("max_relative_positions", (-1).into()),
        ("position_biased_input", true.into()),
        ("pos_att_type", Value::Array(Vec::new())),
        ("position_buckets", (-1).into()),
        ("norm_rel_ebd", "none".into()),
    ] {
        raw.entry(name).or_insert(value);
    }
    serde_json::from_value(Value::Object(raw)).map_err(|error| {
        Error::new(
            ErrorKind::ModelFormat,
            "a field of config.json is missing or of a wrong type",
        )
        .with_source(error)
    })
}

fn unsupported(field: &str, value: &str) -> Error {
    let message = format!("`{value}` is not supported for this kind of model");
    Error::new(ErrorKind::Unsupported, message).with_field(field)
}

/// Fields of a `config.json`.
struct Settings<'a>(&'a Map<String, Value>);

impl<'a> Settings<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn count(&self, name: &str, default: Option<usize>) -> Result<usize> {
        let bad = || Error::new(ErrorKind::ModelFormat, "expected a whole number").with_field(name);
        match self.0.get(name) {
            None | Some(Value::Null) => default.ok_or_else(bad),
            Some(value) => value.as_u64().map(|count| count as usize).ok_or_else(bad),
        }
    }

    fn number(&self, name: &str, older: &str, default: f64) -> Result<f64> {
        let value = self.0.get(name).or_else(|| self.0.get(older));
        match value {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| Error::new(ErrorKind::ModelFormat, "expected a number").with_field(name)),
        }
    }

    /// Refuses another word than the one that is supported.
    fn only(&self, name: &str, word: &str) -> Result<()> {
        match self.text(name) {
            Some(other) if other != word => Err(unsupported(name, other)),
            _ => Ok(()),
        }
    }
}
