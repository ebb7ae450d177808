//! Choosing how much of a fine-tuned model to keep: the mean of base and fine-tuned model that retrieves best.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::beir::BeirFolder;
use super::metrics::{Metric, MetricKey};
use super::models::{Listener, MeasureEvent, measure};
use super::retrieval::EvaluationOptions;
use crate::config::{Checked, MergeArguments, MergeConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::Embedder;
use crate::issue::{Issue, Severity};
use crate::models::{Bert, Merger, ModelFolder, hub};
use crate::tokenize::Tokenizer;

/// The metric that decides.
const METRIC: MetricKey = MetricKey::new(Metric::Ndcg, 10);

/// One candidate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeTrial {
    /// The share of each model.
    pub weights: [f64; 2],
    /// nDCG@10 on the development set, then on each folder of general data.
    pub ndcg_at_10: Vec<f64>,
}

impl MergeTrial {
    /// The mean over the development set and the general data, which counts as one more set.
    pub fn score(&self) -> f64 {
        let Some((first, general)) = self.ndcg_at_10.split_first() else {
            return 0.0;
        };
        if general.is_empty() {
            return *first;
        }
        let general = general.iter().sum::<f64>() / general.len() as f64;
        f64::midpoint(*first, general)
    }
}

/// What `bge merge` made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    /// The folder of the merged model.
    pub output_path: PathBuf,
    /// The share of each model.
    pub weights: Vec<f64>,
    /// What was tried, where weights were chosen.
    pub choice: Vec<MergeTrial>,
}

/// Merges the models of `config` with the weights given, or chosen: the whole of `bge merge`.
///
/// The folder appears whole or not at all; one that exists is an error before anything is read.
pub fn merge_models(config: &Checked<MergeConfig>, listener: &mut Listener<'_>) -> Result<MergeReport> {
    let ask = &config.merge;
    let output_path = PathBuf::from(&ask.output_path);
    Merger::check_output(&output_path)?;
    let options = hub::HubOptions::new(ask.cache_dir.as_ref(), ask.token.as_ref());
    let folders = ask
        .model_names_or_paths
        .iter()
        .map(|name| hub::resolve_model(name, &options))
        .collect::<Result<Vec<_>>>()?;
    let merger = Merger::open(&folders)?;
    if let Some(note) = different_poolings(&folders)? {
        listener(MeasureEvent::Note(&note));
    }
    let (weights, choice) = if ask.weights.is_empty() {
        let trials = choose_weights(&merger, ask, listener)?;
        let best =
            best_trial(&trials).ok_or_else(|| Error::new(ErrorKind::Internal, "no weights were tried"))?;
        (best.weights.to_vec(), trials)
    } else {
        (ask.weights.clone(), Vec::new())
    };
    merger.save(&weights, &output_path, &json!(choice))?;
    Ok(MergeReport {
        output_path,
        weights,
        choice,
    })
}

/// What to say of models that make vectors of tokens in different ways: the merged one has the way of the last.
fn different_poolings(folders: &[PathBuf]) -> Result<Option<Issue>> {
    let mut poolings = Vec::new();
    for folder in folders {
        poolings.extend(ModelFolder::open(folder)?.pooling);
    }
    let Some(last) = poolings.last() else {
        return Ok(None);
    };
    let other = poolings.iter().find(|pooling| *pooling != last);
    Ok(other.map(|other| {
        let message = format!(
            "the models pool by {other} and by {last}, and the merged one by {last}; merge models of one pooling"
        );
        Issue::new("merge.pooling", Severity::Warning, message).on_field("model_names_or_paths")
    }))
}

/// Measures `merge_steps + 1` means between two models on `dataset` and `general_dataset`; the best is the first of the
/// greatest [`MergeTrial::score`].
pub fn choose_weights(
    merger: &Merger,
    arguments: &MergeArguments,
    listener: &mut Listener<'_>,
) -> Result<Vec<MergeTrial>> {
    let missing =
        || Error::new(ErrorKind::InvalidConfig, "weights are chosen on a folder").with_field("dataset");
    let dataset = arguments.dataset.as_ref().ok_or_else(missing)?;
    let mut folders = vec![BeirFolder::open(dataset, &arguments.split)?];
    for path in &arguments.general_dataset {
        folders.push(BeirFolder::open(path, &arguments.general_split)?);
    }
    let last: &PathBuf = merger.folders().last().ok_or_else(missing)?;
    let folder = ModelFolder::open(last)?;
    let tokenizer = Tokenizer::open(last)?;
    let embed = arguments.embedding();
    let options = EvaluationOptions {
        k_values: vec![METRIC.k],
        search_top_k: 100,
        ..EvaluationOptions::default()
    };
    let mut trials = Vec::new();
    for step in 0..=arguments.merge_steps {
        let second = step as f64 / arguments.merge_steps.max(1) as f64;
        let weights = [1.0 - second, second];
        let model = Bert::new(folder.config.clone(), merger.weights(&weights)?)?;
        let embedder = Embedder::with_model(&folder, model, tokenizer.clone(), &embed)?;
        let mut ndcg_at_10 = Vec::new();
        for folder in &folders {
            let evaluation = measure(&embedder, folder, &options, listener)?;
            ndcg_at_10.push(evaluation.report.metrics.get(&METRIC).copied().unwrap_or(0.0));
        }
        trials.push(MergeTrial { weights, ndcg_at_10 });
    }
    Ok(trials)
}

/// The trial with the greatest score; the first of equal ones.
pub fn best_trial(trials: &[MergeTrial]) -> Option<&MergeTrial> {
    trials
        .iter()
        .reduce(|best, trial| if trial.score() > best.score() { trial } else { best })
}
