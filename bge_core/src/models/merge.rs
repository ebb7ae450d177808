//! Weighted means of models of one shape (LM-Cocktail, Xiao et al. 2023; model soups, Wortsman et al. 2022).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Value, json};

use super::folder::ModelFolder;
use super::save::write_json;
use super::weights::{read_all_weights, read_weights, write_weights};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files::{self, NewFolder};
use crate::nn::{read, tensor};

/// Weights of several models under one set of names.
#[derive(Clone, Debug)]
pub struct Merger {
    folders: Vec<PathBuf>,
    models: Vec<BTreeMap<String, Tensor>>,
}

impl Merger {
    /// Reads the weights of model folders. They must have the same names and shapes.
    ///
    /// Of embedders only the encoder is read: the heads that a pre-trained one may carry are not used. Rerankers
    /// keep theirs.
    pub fn open(folders: &[PathBuf]) -> Result<Self> {
        let models = folders
            .iter()
            .map(|folder| {
                if is_classifier(folder)? {
                    read_all_weights(folder)
                } else {
                    read_weights(folder)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let Some((first, rest)) = models.split_first() else {
            bail!(InvalidArgument, "there is no model to merge");
        };
        for (model, folder) in rest.iter().zip(folders.iter().skip(1)) {
            let apart = |name: &str, message: String| {
                Err(Error::new(ErrorKind::ModelFormat, message)
                    .with_path(folder)
                    .with_field(name))
            };
            let of_first = folders
                .first()
                .map_or_else(String::new, |folder| folder.display().to_string());
            for (name, value) in first {
                match model.get(name) {
                    None => {
                        return apart(
                            name,
                            format!(
                                "the model lacks this weight of {of_first}; only models of one architecture can be merged"
                            ),
                        );
                    }
                    Some(other) if other.dims() != value.dims() => {
                        let message = format!(
                            "the weight has shape {:?}, but {:?} in {of_first}; only models of one shape can be merged",
                            other.dims(),
                            value.dims()
                        );
                        return apart(name, message);
                    }
                    Some(_) => {}
                }
            }
            if let Some(name) = model.keys().find(|name| !first.contains_key(*name)) {
                return apart(
                    name,
                    format!("{of_first} lacks this weight; only models of one architecture can be merged"),
                );
            }
        }
        Ok(Self {
            folders: folders.to_vec(),
            models,
        })
    }

    /// The folders, in the order of their shares.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The weighted mean of all weights, each summed in the order of the models in `f64`.
    pub fn weights(&self, shares: &[f64]) -> Result<BTreeMap<String, Tensor>> {
        if shares.len() != self.models.len() {
            bail!(
                InvalidArgument,
                "{} weights for {} models",
                shares.len(),
                self.models.len()
            );
        }
        let Some(first) = self.models.first() else {
            bail!(InvalidArgument, "there is no model to merge");
        };
        let mut merged = BTreeMap::new();
        for (name, value) in first {
            let mut sums = vec![0.0_f64; value.elem_count()];
            for (model, share) in self.models.iter().zip(shares) {
                let Some(value) = model.get(name) else {
                    bail!(Internal, "a weight was lost");
                };
                for (sum, x) in sums.iter_mut().zip(read(value)?.iter()) {
                    *sum += share * f64::from(*x);
                }
            }
            let values: Vec<f32> = sums.iter().map(|sum| *sum as f32).collect();
            merged.insert(name.clone(), tensor(values, value.shape().clone())?);
        }
        Ok(merged)
    }

    /// Refuses a folder that exists.
    pub fn check_output(output: &Path) -> Result<()> {
        if output.exists() {
            let message = "the folder exists already; name another one or remove it";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_path(output)
                .with_field("output_path"));
        }
        Ok(())
    }

    /// Writes the merged model: the files of the last folder, new weights, and `merge.json`, which says what it was made of.
    ///
    /// The folder appears whole or not at all; one that exists is not replaced.
    pub fn save(&self, shares: &[f64], output: &Path, note: &Value) -> Result<()> {
        Self::check_output(output)?;
        let Some(last) = self.folders.last() else {
            bail!(InvalidArgument, "there is no model to merge");
        };
        let weights = self.weights(shares)?;
        let folder = NewFolder::start(output)?;
        copy_settings(last, folder.path())?;
        write_weights(
            folder.path(),
            weights.iter().map(|(name, value)| (name.as_str(), value)),
            super::save::SHARD_BYTES,
        )?;
        let manifest = json!({
            "model_names_or_paths": self.folders,
            "weights": shares,
            "choice": note,
        });
        write_json(&folder.path().join("merge.json"), &manifest)?;
        folder.finish()
    }
}

/// Whether `config.json` names a classification head among the architectures.
fn is_classifier(folder: &Path) -> Result<bool> {
    let config = ModelFolder::open(folder)?.config.raw;
    let names = config.get("architectures").and_then(Value::as_array);
    Ok(names
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .any(|name| name.ends_with("ForSequenceClassification")))
}

/// Copies what belongs to a model beside its weights, byte for byte; `config.json` says f32, as the weights are.
fn copy_settings(from: &Path, to: &Path) -> Result<()> {
    const FILES: [&str; 12] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Normalize/config.json",
    ];
    for name in FILES {
        let file = from.join(name);
        if file.is_file() {
            let bytes = files::read_bytes(&file)?;
            let place = to.join(name);
            if let Some(parent) = place.parent() {
                std::fs::create_dir_all(parent)
                    .map_err(|error| Error::io(parent, "create this folder", error))?;
            }
            files::write_whole(&place, |out| std::io::Write::write_all(out, &bytes))?;
        }
    }
    // sentence-transformers loads a module from its folder even where that is empty.
    if from.join("2_Normalize").is_dir() {
        let place = to.join("2_Normalize");
        std::fs::create_dir_all(&place).map_err(|error| Error::io(&place, "create this folder", error))?;
    }
    let path = from.join("config.json");
    let mut config: Value = serde_json::from_str(&files::read_text(&path)?).map_err(|error| {
        Error::new(ErrorKind::ModelFormat, "the file is not JSON")
            .with_path(&path)
            .with_source(error)
    })?;
    for key in ["torch_dtype", "dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = json!("float32");
        }
    }
    write_json(&to.join("config.json"), &config)
}
