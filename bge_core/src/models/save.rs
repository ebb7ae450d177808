//! Writing a model folder that transformers, sentence-transformers, FlagEmbedding and bge open as it is.

use std::path::Path;

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::bert::Bert;
use super::cross_encoder::CrossEncoder;
use super::m3::M3;
use super::weights::write_weights;
use crate::config::PoolingMethod;
use crate::error::{Error, ErrorKind, Result};
use crate::files;

/// Past this size the weights are sharded, as transformers does.
pub(super) const SHARD_BYTES: usize = 5_000_000_000;

/// What the folder says about how its vectors are made.
#[derive(Clone, Debug)]
pub struct SentenceSettings {
    /// How hidden states become one vector.
    pub pooling: PoolingMethod,
    /// Whether vectors have unit length.
    pub normalize: bool,
    /// Longest text in tokens.
    pub max_seq_length: usize,
    /// Text before a query, empty for none.
    pub query_prompt: String,
    /// Text before a passage, empty for none.
    pub passage_prompt: String,
}

/// Writes the model and its tokenizer's files into an existing folder.
///
/// `tokenizer_files` are copied byte for byte.
pub fn save_model<'a>(
    folder: &Path,
    model: &Bert,
    settings: &SentenceSettings,
    tokenizer_files: impl Iterator<Item = &'a Path>,
) -> Result<()> {
    save_config_and_tokenizer(folder, model.config().raw.clone(), tokenizer_files)?;
    save_sentence_files(folder, model.config().hidden_size, settings)?;
    write_weights(
        folder,
        model.params().iter().map(|(name, value, _)| (name, value)),
        SHARD_BYTES,
    )
}

/// Writes a BGE-M3 model and its tokenizer's files into an existing folder: as [`save_model`] does, with the heads beside.
///
/// `tokenizer_files` are copied byte for byte.
pub fn save_m3<'a>(
    folder: &Path,
    model: &M3,
    settings: &SentenceSettings,
    tokenizer_files: impl Iterator<Item = &'a Path>,
) -> Result<()> {
    save_config_and_tokenizer(folder, model.config().raw.clone(), tokenizer_files)?;
    save_sentence_files(folder, model.config().hidden_size, settings)?;
    model.save_heads(folder)?;
    write_weights(folder, model.encoder_weights(), SHARD_BYTES)
}

/// Writes a cross-encoder and its tokenizer's files into an existing folder, as transformers saves
/// `BertForSequenceClassification` and what follows `RobertaForSequenceClassification`.
///
/// `tokenizer_files` are copied byte for byte.
pub fn save_cross_encoder<'a>(
    folder: &Path,
    model: &CrossEncoder,
    tokenizer_files: impl Iterator<Item = &'a Path>,
) -> Result<()> {
    save_config_and_tokenizer(folder, model.saved_config(), tokenizer_files)?;
    let named: Vec<(String, &Tensor)> = model
        .params()
        .iter()
        .map(|(name, value, _)| (model.saved_name(name), value))
        .collect();
    write_weights(
        folder,
        named.iter().map(|(name, value)| (name.as_str(), *value)),
        SHARD_BYTES,
    )
}

fn save_config_and_tokenizer<'a>(
    folder: &Path,
    mut config: Map<String, Value>,
    tokenizer_files: impl Iterator<Item = &'a Path>,
) -> Result<()> {
    for key in ["torch_dtype", "dtype"] {
        if config.contains_key(key) {
            config.insert(key.to_owned(), json!("float32"));
        }
    }
    config.remove("_name_or_path");
    write_json(&folder.join("config.json"), &Value::Object(config))?;
    for file in tokenizer_files {
        let bytes = files::read_bytes(file)?;
        let name = file.file_name().unwrap_or_default();
        files::write_whole(&folder.join(name), |out| std::io::Write::write_all(out, &bytes))?;
    }
    Ok(())
}

fn save_sentence_files(folder: &Path, width: usize, settings: &SentenceSettings) -> Result<()> {
    let module = |index: usize, path: &str, kind: &str| json!({ "idx": index, "name": index.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}") });
    let mut modules = vec![module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")];
    if settings.normalize {
        modules.push(module(2, "2_Normalize", "Normalize"));
        create(&folder.join("2_Normalize"))?;
    }
    write_json(&folder.join("modules.json"), &Value::Array(modules))?;
    create(&folder.join("1_Pooling"))?;
    let is = |method| settings.pooling == method;
    let pooling = json!({
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": is(PoolingMethod::Cls),
        "pooling_mode_mean_tokens": is(PoolingMethod::Mean),
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_weightedmean_tokens": false,
        "pooling_mode_lasttoken": is(PoolingMethod::LastToken),
        "include_prompt": true,
    });
    write_json(&folder.join("1_Pooling").join("config.json"), &pooling)?;
    let lengths = json!({ "max_seq_length": settings.max_seq_length, "do_lower_case": false });
    write_json(&folder.join("sentence_bert_config.json"), &lengths)?;
    let mut prompts = Map::new();
    if !settings.query_prompt.is_empty() {
        prompts.insert("query".to_owned(), json!(settings.query_prompt));
    }
    if !settings.passage_prompt.is_empty() {
        prompts.insert("passage".to_owned(), json!(settings.passage_prompt));
        prompts.insert("document".to_owned(), json!(settings.passage_prompt));
    }
    let sentence = json!({
        "__version__": { "bge": env!("CARGO_PKG_VERSION") },
        "prompts": prompts,
        "default_prompt_name": null,
        "similarity_fn_name": if settings.normalize { "cosine" } else { "dot" },
    });
    write_json(&folder.join("config_sentence_transformers.json"), &sentence)
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create this folder", error))
}

/// Writes pretty JSON with a final newline.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "a value cannot be written as JSON")
            .with_path(path)
            .with_source(error)
    })?;
    files::write_whole(path, |file| {
        std::io::Write::write_all(file, format!("{text}\n").as_bytes())
    })
}
