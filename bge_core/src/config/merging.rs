//! How models are merged.

use super::check::{Checked, Findings, MAX_LENGTH, normalize};
use super::choices::PoolingMethod;
use super::declare::{arguments, sections};
#[cfg(feature = "model")]
use super::embedding::EmbedArguments;
use crate::issue::Issue;

arguments! {
    /// What `bge merge` reads and writes (`LM_Cocktail.mix_models`, `mix_models_with_data`).
    pub struct MergeArguments {
        ["merge"]
        /// The models, such as the base and the fine-tuned one; all of one shape. Everything but weights comes from the last.
        model_names_or_paths: Vec<String> = Vec::new(), required;
        /// The share of each model, in their order; they sum to 1. Chosen on `dataset` if not given.
        weights: Vec<f64> = Vec::new();
        /// The folder that receives the merged model.
        output_path: String = String::new(), required;
        /// Where models from the hub are kept.
        cache_dir: Option<String> = None;
        /// The access token for private models on the hub.
        token: Option<String> = None;

        ["choice"]
        /// A folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, on which the weights of two models are chosen.
        dataset: Option<String> = None, ours;
        /// Which judgements of `dataset` are used.
        split: String = "dev".to_owned(), ours;
        /// Folders with general data that count as much as `dataset` does.
        general_dataset: Vec<String> = Vec::new(), ours;
        /// Which judgements of `general_dataset` are used.
        general_split: String = "test".to_owned(), ours;
        /// How many steps from the first model to the second are tried.
        merge_steps: usize = 10, ours;
        /// How token vectors become the vector of a text; as the last model's folder says if not given.
        pooling_method: Option<PoolingMethod> = None;
        /// Longest query in tokens, special tokens included.
        embedder_query_max_length: usize = 512;
        /// Longest passage in tokens, special tokens included.
        embedder_passage_max_length: usize = 512;
        /// Threads on the CPU; all there are if not given.
        threads: Option<usize> = None, ours;
    }
    aliases {
        "output_dir" => "output_path",
        "model_names" => "model_names_or_paths",
    }
}

sections! {
    /// Everything `bge merge` takes.
    pub struct MergeConfig {
        /// Models, weights, and how weights are chosen.
        merge: MergeArguments,
    }
}

impl MergeConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        let merge = &self.merge;
        let models = merge.model_names_or_paths.len();
        if models == 1 {
            let message = "one model is nothing to merge; name at least two";
            findings.error("config.invalid_value", "model_names_or_paths", message);
        }
        if merge.weights.is_empty() {
            if merge.dataset.is_none() {
                let message = "give the share of each model, as in `--weights 0.5 0.5`, or a `dataset` to choose them on";
                findings.error("config.required", "weights", message);
            } else if models > 2 {
                let message = format!(
                    "weights are chosen for two models, got {models}; merge them two at a time, or give `--weights`"
                );
                findings.error("config.unsupported", "model_names_or_paths", message);
            }
        } else {
            if merge.weights.len() != models {
                let message = format!(
                    "{} weights for {models} models; give one for each",
                    merge.weights.len()
                );
                findings.error("config.invalid_value", "weights", message);
            }
            if let Some(weight) = merge.weights.iter().find(|weight| !weight.is_finite()) {
                findings.error(
                    "config.range",
                    "weights",
                    format!("expected numbers, got {weight}"),
                );
            }
            let sum: f64 = merge.weights.iter().sum();
            if (sum - 1.0).abs() > 1e-3 {
                let message = format!("they sum to {sum}, not to 1; a merged model is a weighted mean");
                findings.error("config.range", "weights", message);
            }
            if merge.dataset.is_some() {
                let message = "weights are given, so none are chosen; leave `dataset` or `weights` out";
                findings.error("config.conflict", "dataset", message);
            }
        }
        if merge.dataset.is_none() && !merge.general_dataset.is_empty() {
            let message = "it only helps to choose weights, which needs `dataset`";
            findings.error("config.conflict", "general_dataset", message);
        }
        findings.split("split", &merge.split);
        findings.split("general_split", &merge.general_split);
        findings.count("merge_steps", merge.merge_steps, 1, 1000);
        findings.count(
            "embedder_query_max_length",
            merge.embedder_query_max_length,
            3,
            MAX_LENGTH,
        );
        findings.count(
            "embedder_passage_max_length",
            merge.embedder_passage_max_length,
            3,
            MAX_LENGTH,
        );
        if let Some(threads) = merge.threads {
            findings.count("threads", threads, 1, 4096);
        }
        findings.finish(self)
    }
}

impl MergeArguments {
    /// How a candidate is opened while weights are chosen.
    #[cfg(feature = "model")]
    pub(crate) fn embedding(&self) -> EmbedArguments {
        EmbedArguments {
            pooling_method: self.pooling_method,
            embedder_query_max_length: self.embedder_query_max_length,
            embedder_passage_max_length: self.embedder_passage_max_length,
            ..EmbedArguments::default()
        }
    }
}
