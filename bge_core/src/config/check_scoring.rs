//! The rules for opening a teacher and scoring with it.

use super::check::{Checked, Findings, MAX_BATCH, MAX_LENGTH, normalize};
use super::field::shown_text;
use super::{RerankArguments, RerankConfig, ScoreConfig};
use crate::issue::Issue;

/// The classes of LLM rerankers upstream, none of which this version runs.
pub(crate) const LLM_RERANKERS: [&str; 3] = [
    "decoder-only-base",
    "decoder-only-layerwise",
    "decoder-only-lightweight",
];

impl ScoreConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        self.rerank.check(&mut findings);
        if self.rerank.normalize {
            let message = "scores from 0 to 1 make a nearly flat softmax, so a student learns little from them; leave the \
                           flag out for teacher scores";
            findings.warning("config.unusual", "normalize", message);
        }
        findings.files(&self.files.input_file, &self.files.output_file);
        findings.finish(self)
    }
}

impl RerankConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        self.rerank.check(&mut findings);
        findings.files(&self.files.input_file, &self.files.output_file);
        findings.finish(self)
    }
}

impl Findings {
    fn files(&mut self, input: &str, output: &str) {
        if !output.trim().is_empty() && input.trim() == output.trim() {
            let message = "it is the input file, which would be overwritten; give another name";
            self.error("config.conflict", "output_file", message);
        }
    }
}

impl RerankArguments {
    /// Checks what it takes to open a reranker and score with it. Nothing on disk is looked at.
    pub fn check_to_open(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        self.check(&mut findings);
        findings.finish(self)
    }

    fn check(&self, findings: &mut Findings) {
        findings.remote_code(self.trust_remote_code);
        self.check_class(findings);
        findings.count("reranker_max_length", self.reranker_max_length, 4, MAX_LENGTH);
        if let Some(length) = self.reranker_query_max_length {
            findings.count("reranker_query_max_length", length, 1, MAX_LENGTH);
        }
        findings.count("reranker_batch_size", self.reranker_batch_size, 1, MAX_BATCH);
        if let Some(threads) = self.threads {
            findings.count("threads", threads, 1, 4096);
        }
        for (side, format, instruction) in [
            (
                "query",
                &self.query_instruction_format_for_rerank,
                self.query_instruction_for_rerank.as_deref(),
            ),
            (
                "passage",
                &self.passage_instruction_format_for_rerank,
                self.passage_instruction_for_rerank.as_deref(),
            ),
        ] {
            let field = format!("{side}_instruction_format_for_rerank");
            findings.format(&field, format, instruction);
            findings.instruction(&format!("{side}_instruction_for_rerank"), instruction);
        }
        findings.devices(&self.devices);
        findings.copies(&self.devices);
        findings.precision(
            &[("use_fp16", self.use_fp16), ("use_bf16", self.use_bf16)],
            &self.devices,
        );
    }

    fn check_class(&self, findings: &mut Findings) {
        if let Some(class) = self.reranker_model_class.as_deref() {
            if LLM_RERANKERS.contains(&class) {
                let message = format!(
                    "`{class}` is an LLM reranker, which this version does not run; use a cross-encoder such as \
                     BAAI/bge-reranker-v2-m3"
                );
                findings.error("config.unsupported", "reranker_model_class", message);
            } else if !matches!(class, "encoder-only-base" | "encoder-only-m3" | "embedder") {
                let message = format!(
                    "expected encoder-only-base, encoder-only-m3 or embedder, got {}",
                    shown_text(class)
                );
                findings.error("config.unsupported", "reranker_model_class", message);
            } else if self.m3 && class != "encoder-only-m3" {
                let message = format!("`m3` is the class encoder-only-m3, not {class}; give one of the two");
                findings.error("config.conflict", "m3", message);
            }
        }
        let weights = &self.weights_for_different_modes;
        let m3 = self.m3 || self.reranker_model_class.as_deref() == Some("encoder-only-m3");
        if findings.mode_weights(weights) && !m3 {
            let message = "only BGE-M3 has several scores; add `--m3`";
            findings.warning("config.no_effect", "weights_for_different_modes", message);
        }
        for (field, set) in [
            ("reranker_peft_path", self.reranker_peft_path.is_some()),
            ("prompt", self.prompt.is_some()),
            ("cutoff_layers", !self.cutoff_layers.is_empty()),
            ("compress_ratio", self.compress_ratio != 1),
            ("compress_layers", !self.compress_layers.is_empty()),
        ] {
            if set {
                let message = format!(
                    "it is a setting of LLM rerankers ({}), which this version does not run; leave the flag out",
                    LLM_RERANKERS.join(", ")
                );
                findings.error("config.unsupported", field, message);
            }
        }
    }
}
