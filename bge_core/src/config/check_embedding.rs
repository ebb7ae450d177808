//! The rules for opening a model, encoding and evaluating.

use super::check::{Checked, Findings, MAX_BATCH, MAX_LENGTH, normalize};
use super::field::shown_text;
use super::{EmbedArguments, EncodeConfig, EvaluateConfig};
use crate::issue::Issue;

impl EncodeConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        self.embed.check(&mut findings);
        let encode = &self.encode;
        for (field, wanted) in [
            ("return_sparse", encode.return_sparse),
            ("return_colbert_vecs", encode.return_colbert_vecs),
        ] {
            if wanted && !encode.output_file.to_ascii_lowercase().ends_with(".jsonl") {
                let message = "texts have different numbers of tokens, which only a .jsonl file can hold; name the output so";
                findings.error("config.conflict", field, message);
            }
        }
        if !(encode.return_dense || encode.return_sparse || encode.return_colbert_vecs) {
            findings.error(
                "config.conflict",
                "return_dense",
                "nothing is asked for; leave the flag out",
            );
        }
        let known = [".npy", ".safetensors", ".jsonl"];
        let name = encode.output_file.to_ascii_lowercase();
        if !name.trim().is_empty() && !known.iter().any(|ending| name.ends_with(ending)) {
            let message = format!(
                "expected a name that ends in {}, got {}",
                known.join(" or "),
                shown_text(&encode.output_file)
            );
            findings.error("config.invalid_value", "output_file", message);
        }
        findings.finish(self)
    }
}

impl EvaluateConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        self.embed.check(&mut findings);
        let evaluate = &self.evaluate;
        findings.count("search_top_k", evaluate.search_top_k, 1, usize::MAX);
        if evaluate.k_values.is_empty() {
            findings.error(
                "config.required",
                "k_values",
                "at least one cut-off is needed, as in `--k_values 10`",
            );
        }
        for k in &evaluate.k_values {
            findings.count("k_values", *k, 1, usize::MAX);
            if *k > evaluate.search_top_k {
                let message = format!(
                    "at {k} only the {} passages of search_top_k are seen",
                    evaluate.search_top_k
                );
                findings.warning("config.unusual", "k_values", message);
            }
        }
        self.check_heads(&mut findings);
        findings.split("split", &evaluate.split);
        findings.split("general_split", &evaluate.general_split);
        if !evaluate.general_dataset.is_empty() && evaluate.baseline.is_none() {
            let message = "what fine-tuning cost on general data shows beside the model it started from; give that as `--baseline`";
            findings.error("config.conflict", "general_dataset", message);
        }
        findings.finish(self)
    }

    /// What is asked of BGE-M3's heads.
    fn check_heads(&self, findings: &mut Findings) {
        let evaluate = &self.evaluate;
        findings.mode_weights(&evaluate.weights_for_different_modes);
        findings.count("head_window", evaluate.head_window, 1, MAX_BATCH);
        findings.split("tune_split", &evaluate.tune_split);
        let Some(folder) = &evaluate.tune_weights else {
            return;
        };
        let plain = |path: &str| {
            path.trim()
                .trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned()
        };
        if folder.trim().is_empty() {
            let message = "the path is empty; leave the flag out";
            findings.error("config.invalid_value", "tune_weights", message);
        } else if plain(folder) == plain(&evaluate.dataset) && evaluate.tune_split == evaluate.split {
            let message = "weights that are chosen on the questions they are measured on flatter the model; name another \
                           folder, or another `tune_split`";
            findings.error("config.conflict", "tune_weights", message);
        }
        if !evaluate.weights_for_different_modes.is_empty() {
            let message = "the weights are either given or chosen; leave one of the two flags out";
            findings.error("config.conflict", "tune_weights", message);
        }
    }
}

impl Findings {
    /// Reports what cannot be the weights of BGE-M3's three scores; none is no error. Says whether they can.
    pub(super) fn mode_weights(&mut self, weights: &[f64]) -> bool {
        let sound = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
        let fits = weights.len() == 3 && sound && weights.iter().sum::<f64>() > 0.0;
        if !weights.is_empty() && !fits {
            let message = format!(
                "expected three numbers from 0, not all 0 (dense, sparse, multi-vector), got {weights:?}"
            );
            self.error("config.invalid_value", "weights_for_different_modes", message);
        }
        fits
    }

    /// Reports what cannot be the name of a split.
    pub(super) fn split(&mut self, field: &str, split: &str) {
        if split.trim().is_empty() || split.contains(['/', '\\']) {
            let message = format!(
                "expected the name of a file in qrels/ without its ending, got {}",
                shown_text(split)
            );
            self.error("config.invalid_value", field, message);
        }
    }
}

impl EmbedArguments {
    /// Checks what it takes to open a model and encode with it. Nothing on disk is looked at.
    pub fn check_to_open(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        self.check(&mut findings);
        findings.finish(self)
    }

    pub(super) fn check(&self, findings: &mut Findings) {
        findings.remote_code(self.trust_remote_code);
        if let Some(class) = self
            .embedder_model_class
            .as_deref()
            .filter(|class| !["encoder-only-base", "encoder-only-m3"].contains(class))
        {
            let message = format!(
                "this version runs encoder-only-base and encoder-only-m3, got {}",
                shown_text(class)
            );
            findings.error("config.unsupported", "embedder_model_class", message);
        }
        findings.count(
            "embedder_query_max_length",
            self.embedder_query_max_length,
            3,
            MAX_LENGTH,
        );
        findings.count(
            "embedder_passage_max_length",
            self.embedder_passage_max_length,
            3,
            MAX_LENGTH,
        );
        findings.count("batch_size", self.batch_size, 1, MAX_BATCH);
        if let Some(dim) = self.truncate_dim {
            findings.count("truncate_dim", dim, 1, MAX_LENGTH);
        }
        if let Some(threads) = self.threads {
            findings.count("threads", threads, 1, 4096);
        }
        let query = self.query_instruction_for_retrieval.as_deref();
        let passage = self.passage_instruction_for_retrieval.as_deref();
        for (field, format, instruction) in [
            (
                "query_instruction_format_for_retrieval",
                &self.query_instruction_format_for_retrieval,
                query,
            ),
            (
                "passage_instruction_format",
                &self.passage_instruction_format,
                passage,
            ),
        ] {
            if let Some(format) = format {
                findings.format(field, format, instruction);
            }
        }
        findings.instruction("query_instruction_for_retrieval", query);
        findings.instruction("passage_instruction_for_retrieval", passage);
        findings.devices(&self.devices);
        findings.copies(&self.devices);
        findings.precision(
            &[("use_fp16", self.use_fp16), ("use_bf16", self.use_bf16)],
            &self.devices,
        );
    }
}
