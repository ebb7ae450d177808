//! Cross-encoders: BERT or XLM-RoBERTa over a pair of texts, and a head that gives the pair one score.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::batch::Batch;
use super::bert::{Bert, BertRecord, Rows};
use super::config::{EncoderConfig, Family};
use super::folder::ModelFolder;
use super::weights::read_weights_and;
use crate::error::{Error, ErrorKind, Result};
use crate::issue::{Issue, Severity};
use crate::nn::{DropoutPlan, Gradients, Keep, ParamStore, ScoreHead, ScoreHeadRecord, Watcher};
use crate::random::{Draws, Stream, key};

/// `BertForSequenceClassification`, `XLMRobertaForSequenceClassification` and the latter's relatives, with one label.
///
/// A text of a [`Batch`] is a pair here: query and passage with the special tokens between them.
#[derive(Clone, Debug)]
pub struct CrossEncoder {
    encoder: Bert,
    head: ScoreHead,
}

/// What [`CrossEncoder::backward`] needs.
#[derive(Debug)]
pub struct CrossEncoderRecord {
    encoder: BertRecord,
    head: ScoreHeadRecord,
}

/// The two linear maps of a family's head.
fn head_names(family: Family) -> [&'static str; 2] {
    match family {
        Family::Bert => ["pooler.dense", "classifier"],
        Family::Roberta => ["classifier.dense", "classifier.out_proj"],
    }
}

/// Whether a weight is one of the head's.
fn of_head(family: Family, name: &str) -> bool {
    let map = name
        .strip_suffix(".weight")
        .or_else(|| name.strip_suffix(".bias"));
    map.is_some_and(|map| head_names(family).contains(&map))
}

impl CrossEncoder {
    /// Opens a finished cross-encoder: bge-reranker, one trained here, or any of its classes in Hugging Face's layout.
    ///
    /// A folder without a classification head, or with one of several labels, is an error.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = ModelFolder::open(folder.as_ref())?;
        let weights = read_cross_encoder_weights(&folder.path, &folder.config)?;
        Self::new(folder.config, weights).map_err(|error| error.with_path(&folder.path))
    }

    /// Opens a folder to train it: where there is no head yet, it starts from random weights, and the note says so.
    ///
    /// The draws are a function of `seed`: normal with the standard deviation `initializer_range` of `config.json`,
    /// and biases of 0, as transformers makes them.
    pub fn open_for_training(folder: &ModelFolder, seed: u64) -> Result<(Self, Option<Issue>)> {
        let mut config = folder.config.clone();
        let mut weights = read_cross_encoder_weights(&folder.path, &config)?;
        let here = |error: Error| error.with_path(&folder.path);
        let note = add_missing_head(&config, &mut weights, seed).map_err(here)?;
        if note.is_some() {
            // The labels of a configuration without a head say nothing.
            config.raw.remove("id2label");
            config.raw.remove("num_labels");
        }
        Ok((Self::new(config, weights).map_err(here)?, note))
    }

    /// Builds it over the encoder's weights and those of the head, named as in Hugging Face's files but for the
    /// prefix of the encoder (`bert.`, `roberta.`).
    pub fn new(config: EncoderConfig, weights: BTreeMap<String, Tensor>) -> Result<Self> {
        let family = config.family;
        let names = head_names(family);
        let width = config.hidden_size;
        let Some(out) = weights.get(&format!("{}.weight", names[1])) else {
            let message = format!(
                "there is no `{}.weight`: this is not a cross-encoder but an encoder without a classification head; \
                 train one with `bge finetune reranker.encoder_only.base`",
                names[1]
            );
            return Err(Error::new(ErrorKind::ModelFormat, message));
        };
        let labels = labels(&config.raw).filter(|&labels| labels != 1);
        let labels = labels.or_else(|| out.dims().first().copied().filter(|&labels| labels != 1));
        if let Some(labels) = labels {
            let message = format!(
                "the head has {labels} labels, as a classifier of topics or entailment has; a cross-encoder gives one score: num_labels must be 1"
            );
            return Err(Error::new(ErrorKind::Unsupported, message).with_field("num_labels"));
        }
        let dropout = head_dropout(&config)?;
        let encoder = Bert::with_head(config, weights, |name| of_head(family, name))?;
        let input_dropout = family == Family::Roberta;
        let head = ScoreHead::load(encoder.params(), names, width, dropout, input_dropout)?;
        Ok(Self { encoder, head })
    }

    /// The encoder; its weights include those of the head.
    pub fn encoder(&self) -> &Bert {
        &self.encoder
    }

    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn encoder_mut(&mut self) -> &mut Bert {
        &mut self.encoder
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &EncoderConfig {
        self.encoder.config()
    }

    /// Tells `watcher` from now on which part runs.
    pub(crate) fn watch(&mut self, watcher: std::sync::Arc<dyn Watcher>) {
        self.encoder.watch(watcher);
    }

    /// All weights, of encoder and head.
    pub fn params(&self) -> &ParamStore {
        self.encoder.params()
    }

    /// Keeps the weights whose name matches as they are (`fix_position_embedding`).
    pub fn freeze(&mut self, matches: impl Fn(&str) -> bool) {
        self.encoder.freeze(matches);
    }

    /// The score of each pair: the raw logit, before any sigmoid.
    pub fn scores(&self, batch: &Batch) -> Result<Vec<f32>> {
        if batch.texts() == 0 {
            return Ok(Vec::new());
        }
        Ok(self.forward(batch, Keep::Nothing, None)?.0)
    }

    /// The score of each pair, and the record for the backward unless `keep` is nothing.
    pub fn forward(
        &self,
        batch: &Batch,
        keep: Keep,
        dropout: Option<u64>,
    ) -> Result<(Vec<f32>, Option<CrossEncoderRecord>)> {
        let (x, record) = self.encoder.forward_rows(batch, Rows::First, keep, dropout)?;
        let tokens = batch.first_identities();
        let plan = dropout.map(|key| DropoutPlan { key, tokens: &tokens });
        let (scores, head) = self.head.forward(&x, plan, self.encoder.free_site())?;
        Ok((scores, record.map(|encoder| CrossEncoderRecord { encoder, head })))
    }

    /// Adds the gradient of every trainable weight, from the gradient of the scores `[n]`.
    ///
    /// `batch` and `dropout` are those of the forward that made `record`.
    pub fn backward(
        &self,
        batch: &Batch,
        record: CrossEncoderRecord,
        d_scores: &[f32],
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let tokens = batch.first_identities();
        let plan = dropout.map(|key| DropoutPlan { key, tokens: &tokens });
        let CrossEncoderRecord { encoder, head } = record;
        let site = self.encoder.free_site();
        let d_first = self.head.backward(d_scores, &head, plan, site, grads)?;
        drop(head);
        self.encoder
            .backward_rows(batch, Rows::First, encoder, d_first, dropout, grads)
    }

    /// The name of a weight in transformers' file of the whole model.
    pub(super) fn saved_name(&self, name: &str) -> String {
        let prefix = match self.config().family {
            _ if name.starts_with("classifier.") => "",
            Family::Bert => "bert.",
            Family::Roberta => "roberta.",
        };
        format!("{prefix}{name}")
    }

    /// `config.json` with the class and the one label.
    pub(super) fn saved_config(&self) -> Map<String, Value> {
        let mut raw = self.config().raw.clone();
        let class = match raw.get("model_type").and_then(Value::as_str).unwrap_or_default() {
            "xlm-roberta" => "XLMRoberta",
            "roberta" => "Roberta",
            "camembert" => "Camembert",
            _ => "Bert",
        };
        raw.remove("num_labels");
        for (key, value) in [
            (
                "architectures",
                json!([format!("{class}ForSequenceClassification")]),
            ),
            ("id2label", json!({ "0": "LABEL_0" })),
            ("label2id", json!({ "LABEL_0": 0 })),
        ] {
            raw.insert(key.to_owned(), value);
        }
        raw
    }
}

/// Reads the weights of encoder and head; a pooler where the head has none is left out, as transformers does.
pub(crate) fn read_cross_encoder_weights(
    folder: &Path,
    config: &EncoderConfig,
) -> Result<BTreeMap<String, Tensor>> {
    let mut weights = read_weights_and(folder, |name| name.starts_with("classifier."))?;
    let family = config.family;
    weights.retain(|name, _| of_head(family, name) || !name.starts_with("pooler."));
    Ok(weights)
}

/// Draws the maps of the head that are not there, and says which.
fn add_missing_head(
    config: &EncoderConfig,
    weights: &mut BTreeMap<String, Tensor>,
    seed: u64,
) -> Result<Option<Issue>> {
    let [dense, out] = head_names(config.family);
    let width = config.hidden_size;
    let deviation = match config.raw.get("initializer_range").map(Value::as_f64) {
        None => 0.02,
        Some(Some(deviation)) if deviation.is_finite() && deviation >= 0.0 => deviation,
        Some(_) => {
            let message = "this is not a standard deviation";
            return Err(Error::new(ErrorKind::ModelFormat, message).with_field("initializer_range"));
        }
    };
    let mut missing = Vec::new();
    for (index, (map, outputs)) in [(dense, width), (out, 1)].into_iter().enumerate() {
        let (weight, bias) = (format!("{map}.weight"), format!("{map}.bias"));
        if weights.contains_key(&weight) || weights.contains_key(&bias) {
            continue; // half a map is an error that the constructor reports
        }
        let mut draws = Draws::new(key(seed, Stream::Init, index as u64));
        let values = (0..outputs * width).map(|_| (draws.normal() * deviation) as f32);
        let values = Tensor::from_iter(values, &Device::Cpu)?.reshape((outputs, width))?;
        weights.insert(weight, values);
        weights.insert(
            bias,
            Tensor::from_vec(vec![0.0_f32; outputs], outputs, &Device::Cpu)?,
        );
        missing.push(map);
    }
    if !missing.contains(&out) {
        if missing.is_empty() {
            return Ok(None);
        }
        let message =
            format!("the head has a `{out}`, but no `{dense}`; the file is cut or of another class");
        return Err(Error::new(ErrorKind::ModelFormat, message));
    }
    let message = format!(
        "the model has no classification head: `{}` starts from random weights (seed {seed}, standard deviation {deviation})",
        missing.join("` and `")
    );
    Ok(Some(Issue::new("model.fresh_head", Severity::Warning, message)))
}

/// The number of labels that `config.json` names.
fn labels(raw: &Map<String, Value>) -> Option<usize> {
    let listed = raw.get("id2label").and_then(Value::as_object).map(Map::len);
    let number = raw.get("num_labels").and_then(Value::as_u64);
    listed.or(number.map(|number| number as usize))
}

/// Dropout of the head: `classifier_dropout`, or that of the hidden states.
fn head_dropout(config: &EncoderConfig) -> Result<f32> {
    match config.raw.get("classifier_dropout") {
        None | Some(Value::Null) => Ok(config.hidden_dropout_prob),
        Some(value) => match value.as_f64() {
            Some(p) if (0.0..1.0).contains(&p) => Ok(p as f32),
            _ => Err(
                Error::new(ErrorKind::ModelFormat, "this is not a probability below 1")
                    .with_field("classifier_dropout"),
            ),
        },
    }
}
