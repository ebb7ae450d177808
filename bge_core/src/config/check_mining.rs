//! The rules for mining.

use super::MineConfig;
use super::check::{Checked, Findings, MAX_BATCH, MAX_LENGTH, normalize};
use super::field::shown_text;
use super::mining::{Fusion, RetrievalMode, SamplingStrategy};
use crate::issue::Issue;

/// More candidates for each query than anybody samples from; larger numbers are typing mistakes.
const MAX_RANK: usize = 1 << 20;

impl MineConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        self.embed.check(&mut findings);
        self.check_choice(&mut findings);
        self.check_rules(&mut findings);
        self.check_heads(&mut findings);
        self.check_files(&mut findings);
        self.check_search(&mut findings);
        findings.finish(self)
    }

    fn check_choice(&self, findings: &mut Findings) {
        let mine = &self.mine;
        findings.count("negative_number", mine.negative_number, 1, MAX_BATCH);
        match mine.ranks() {
            Err(reason) => {
                let message = format!("{}: {reason}", shown_text(&mine.range_for_sampling));
                findings.error("config.invalid_value", "range_for_sampling", message);
            }
            Ok((_, end)) if end > MAX_RANK => {
                let message = format!("expected ranks up to {MAX_RANK}, got {end}");
                findings.error("config.range", "range_for_sampling", message);
            }
            Ok((start, end)) if end - start < mine.negative_number => {
                let message = format!(
                    "{} ranks hold fewer than the {} negatives asked for, so every list stays short; widen \
                     range_for_sampling or lower negative_number",
                    end - start,
                    mine.negative_number
                );
                findings.warning("config.unusual", "range_for_sampling", message);
            }
            Ok(_) => {}
        }
        if !self.embed.normalize_embeddings {
            let message =
                "without it candidates are ordered by the plain inner product, which prefers long vectors";
            findings.warning("config.unusual", "normalize_embeddings", message);
        }
    }

    fn check_rules(&self, findings: &mut Findings) {
        let mine = &self.mine;
        for (field, value) in [
            ("absolute_margin", mine.absolute_margin),
            ("relative_margin", mine.relative_margin),
            ("max_score", mine.max_score),
            ("min_score", mine.min_score),
        ] {
            if let Some(value) = value {
                findings.range(field, value.is_finite(), value, "a finite number");
            }
        }
        if let Some(margin) = mine.relative_margin {
            let accepted = "a share from 0 to 1, as in 0.05";
            findings.range("relative_margin", (0.0..=1.0).contains(&margin), margin, accepted);
        }
        if let Some(margin) = mine.absolute_margin.filter(|margin| *margin < 0.0) {
            let message = format!("{margin} lets candidates through that score higher than the positive");
            findings.warning("config.unusual", "absolute_margin", message);
        }
        if let (Some(min), Some(max)) = (mine.min_score, mine.max_score)
            && min > max
        {
            let message = format!("no score is at least {min} and at most {max}");
            findings.error("config.conflict", "min_score", message);
        }
        if let Some(name) = &mine.reranker_name_or_path {
            if name.trim().is_empty() {
                let message = "it is empty; name a folder or a model on the hub, or leave the flag out";
                findings.error("config.invalid_value", "reranker_name_or_path", message);
            }
            if !mine.has_rule() && mine.sampling_strategy == SamplingStrategy::Random {
                let message =
                    "its scores decide nothing; set relative_margin, absolute_margin, max_score or min_score";
                findings.warning("config.no_effect", "reranker_name_or_path", message);
            }
        }
        findings.count("reranker_batch_size", mine.reranker_batch_size, 1, MAX_BATCH);
        findings.count("reranker_max_length", mine.reranker_max_length, 4, MAX_LENGTH);
        if let Some(length) = mine.reranker_query_max_length {
            findings.count("reranker_query_max_length", length, 1, MAX_LENGTH);
        }
    }

    fn check_heads(&self, findings: &mut Findings) {
        let mine = &self.mine;
        findings.mode_weights(&mine.weights_for_different_modes);
        findings.count("rrf_k", mine.rrf_k, 1, MAX_BATCH);
        let joins = mine.retrieval_mode == RetrievalMode::Fused || mine.colbert_rescoring;
        let ranks = mine.fusion == Fusion::Rrf;
        if ranks && !joins {
            let message = "one head alone has nothing to be fused with; add `--retrieval_mode fused` or `--colbert_rescoring`";
            findings.warning("config.no_effect", "fusion", message);
        }
        if !mine.weights_for_different_modes.is_empty() && (ranks || !joins) {
            let message = "only the weighted mean of several heads has weights";
            findings.warning("config.no_effect", "weights_for_different_modes", message);
        }
        if ranks && joins && mine.has_margin() && mine.reranker_name_or_path.is_none() {
            let message = "reciprocal ranks say nothing about a positive that no list holds, so margins have no meaning; use \
                           `--fusion weights`, or a reranker";
            findings.error("config.conflict", "fusion", message);
        }
        if mine.uses_heads() && self.embed.embedder_model_class.as_deref() == Some("encoder-only-base") {
            let message = "a model of the class encoder-only-base has one vector a text and no other head";
            findings.error("config.conflict", "embedder_model_class", message);
        }
    }

    /// No file is both read and written, or written twice.
    fn check_files(&self, findings: &mut Findings) {
        let mine = &self.mine;
        let read = [
            ("input_file", Some(&mine.input_file)),
            ("candidate_pool", mine.candidate_pool.as_ref()),
        ];
        let written = [
            ("output_file", Some(&mine.output_file)),
            ("ledger", mine.ledger.as_ref()),
            ("false_negatives", mine.false_negatives.as_ref()),
            ("index_file", mine.index_file.as_ref()),
        ];
        let plain = |path: &str| path.trim().trim_start_matches("./").to_owned();
        for (index, (field, path)) in written.iter().enumerate() {
            let Some(path) = path.filter(|path| !path.trim().is_empty()) else {
                continue;
            };
            let others = read.iter().chain(written.iter().take(index));
            for (other, taken) in others {
                if taken.is_some_and(|taken| plain(taken) == plain(path)) {
                    let message = format!("{} is already `{other}`; name another file", shown_text(path));
                    findings.error("config.conflict", field, message);
                }
            }
        }
        for (field, path) in written.iter().skip(1).chain([
            &("candidate_pool", mine.candidate_pool.as_ref()),
            &("corpus_embd_save_dir", mine.corpus_embd_save_dir.as_ref()),
        ]) {
            if path.is_some_and(|path| path.trim().is_empty()) {
                findings.error(
                    "config.invalid_value",
                    field,
                    "the path is empty; leave the flag out",
                );
            }
        }
    }

    fn check_search(&self, findings: &mut Findings) {
        let mine = &self.mine;
        findings.count("search_batch_size", mine.search_batch_size, 1, MAX_BATCH);
        for (field, value) in [("nprobe", mine.nprobe), ("ef_search", mine.ef_search)] {
            if let Some(value) = value {
                findings.count(field, value, 1, MAX_BATCH);
            }
        }
        if mine.index_factory.trim().is_empty() {
            for (field, given) in [
                ("nprobe", mine.nprobe.is_some()),
                ("ef_search", mine.ef_search.is_some()),
                ("index_file", mine.index_file.is_some()),
            ] {
                if given {
                    let message =
                        "the built-in search is exact and has no such setting; name an index_factory";
                    findings.error("config.conflict", field, message);
                }
            }
        }
        if mine.use_gpu_for_searching && !cfg!(feature = "cuda") {
            let message = "this build searches on the CPU; for an NVIDIA GPU, build it with `--features bge_core/cuda`, or leave the flag out";
            findings.error("config.unsupported", "use_gpu_for_searching", message);
        } else if mine.use_gpu_for_searching && !mine.index_factory.trim().is_empty() {
            let message = "a FAISS index is searched on the CPU, as faiss-gpu is not linked; leave out index_factory for exact search on \
                           the GPU, or leave the flag out";
            findings.error("config.unsupported", "use_gpu_for_searching", message);
        }
    }
}
