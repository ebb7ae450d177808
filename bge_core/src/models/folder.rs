//! A model folder: which files it has, and what they say about pooling, normalisation, lengths and prompts.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::EncoderConfig;
use crate::config::PoolingMethod;
use crate::error::{Error, ErrorKind, Result};
use crate::files;

/// An opened model folder in Hugging Face's layout, with sentence-transformers' files where they exist.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its `config.json`.
    pub config: EncoderConfig,
    /// Pooling, from `modules.json` and the pooling folder's `config.json`.
    pub pooling: Option<PoolingMethod>,
    /// Whether `modules.json` ends in a normalisation; `None` without `modules.json`.
    pub normalize: Option<bool>,
    /// Longest text in tokens, from `sentence_bert_config.json`.
    pub max_seq_length: Option<usize>,
    /// Text before a query, from `config_sentence_transformers.json`.
    pub query_prompt: Option<String>,
    /// Text before a passage, likewise.
    pub passage_prompt: Option<String>,
}

impl ModelFolder {
    /// Reads the small files of a model folder; the weights stay on disk.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, EncoderConfig::parse)
    }

    /// As [`ModelFolder::open`], and with the feature `zoo` also for the models that run but are not trained here.
    pub(crate) fn open_to_run(path: &Path) -> Result<Self> {
        #[cfg(feature = "zoo")]
        let parse = |text: &str| match serde_json::from_str(text) {
            Ok(raw) if super::zoo::is_zoo(&raw) => super::zoo::parse_config(raw),
            _ => EncoderConfig::parse(text),
        };
        #[cfg(not(feature = "zoo"))]
        let parse = EncoderConfig::parse;
        Self::open_with(path, parse)
    }

    fn open_with(path: &Path, parse: impl Fn(&str) -> Result<EncoderConfig>) -> Result<Self> {
        if !path.is_dir() {
            let message = if path.exists() {
                "this is a file, not a model folder"
            } else {
                "there is no such model folder"
            };
            return Err(Error::new(ErrorKind::NotFound, message).with_path(path));
        }
        let file = path.join("config.json");
        if !file.exists() {
            let message = "there is no config.json in this folder; a model folder holds config.json, model.safetensors and tokenizer.json";
            return Err(Error::new(ErrorKind::NotFound, message).with_path(path));
        }
        let config = parse(&files::read_text(&file)?).map_err(|error| error.with_path(&file))?;
        let mut folder = Self {
            path: path.to_path_buf(),
            config,
            pooling: None,
            normalize: None,
            max_seq_length: None,
            query_prompt: None,
            passage_prompt: None,
        };
        folder.read_modules()?;
        if let Some(value) = optional_json(&path.join("sentence_bert_config.json"))? {
            let length = value.get("max_seq_length").and_then(Value::as_u64);
            folder.max_seq_length = length.map(|length| length as usize).filter(|&length| length > 0);
        }
        if let Some(value) = optional_json(&path.join("config_sentence_transformers.json"))? {
            let prompt = |names: &[&str]| {
                let prompts = value.get("prompts")?;
                let text = names.iter().find_map(|name| prompts.get(*name)?.as_str())?;
                (!text.is_empty()).then(|| text.to_owned())
            };
            folder.query_prompt = prompt(&["query"]);
            folder.passage_prompt = prompt(&["passage", "document", "corpus"]);
        }
        Ok(folder)
    }

    fn read_modules(&mut self) -> Result<()> {
        let file = self.path.join("modules.json");
        let Some(value) = optional_json(&file)? else {
            return Ok(());
        };
        let bad = |message: &str| Error::new(ErrorKind::ModelFormat, message).with_path(&file);
        let modules = value
            .as_array()
            .ok_or_else(|| bad("the file is not a list of modules"))?;
        self.normalize = Some(false);
        for module in modules {
            let text = |key| module.get(key).and_then(Value::as_str).unwrap_or_default();
            let (kind, sub) = (text("type"), text("path"));
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Normalize" => self.normalize = Some(true),
                "Pooling" => self.pooling = Some(read_pooling(&self.path.join(sub).join("config.json"))?),
                other => {
                    let message = format!(
                        "the module `{other}` is not supported; bge runs Transformer, Pooling and Normalize"
                    );
                    return Err(Error::new(ErrorKind::Unsupported, message).with_path(&file));
                }
            }
        }
        Ok(())
    }

    /// Longest text in tokens: the folder's own limit, or that of the position table.
    pub fn max_tokens(&self) -> usize {
        self.max_seq_length
            .unwrap_or(usize::MAX)
            .min(self.config.max_tokens())
    }
}

/// Reads a JSON file that may be missing.
fn optional_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let value = serde_json::from_str(&files::read_text(path)?).map_err(|error| {
        Error::new(ErrorKind::ModelFormat, "the file is not JSON")
            .with_path(path)
            .with_source(error)
    })?;
    Ok(Some(value))
}

/// Both spellings of a pooling configuration: `pooling_mode_cls_token: true` and `pooling_mode: "cls"`.
fn read_pooling(path: &Path) -> Result<PoolingMethod> {
    let bad = |message: String| Error::new(ErrorKind::ModelFormat, message).with_path(path);
    let value = optional_json(path)?
        .ok_or_else(|| bad("modules.json names a pooling, but its config.json is missing".to_owned()))?;
    let on = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or(false);
    let mut modes: Vec<&str> = [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_lasttoken", "lasttoken"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ]
    .into_iter()
    .filter_map(|(key, mode)| on(key).then_some(mode))
    .collect();
    match value.get("pooling_mode") {
        Some(Value::String(mode)) => modes.push(mode),
        Some(Value::Array(list)) => modes.extend(list.iter().filter_map(Value::as_str)),
        _ => {}
    }
    modes.sort_unstable();
    modes.dedup();
    match modes.as_slice() {
        ["cls"] => Ok(PoolingMethod::Cls),
        ["mean"] => Ok(PoolingMethod::Mean),
        ["lasttoken"] => Ok(PoolingMethod::LastToken),
        [] => Err(bad("the file names no pooling mode".to_owned())),
        other => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "pooling by {} is not supported; bge pools by cls, mean or lasttoken",
                other.join(" + ")
            ),
        )
        .with_path(path)),
    }
}
