//! The rules for BGE-M3's heads.

use super::FinetuneConfig;
use super::check::{Findings, MAX_LENGTH};

impl FinetuneConfig {
    pub(super) fn check_m3(&self, findings: &mut Findings) {
        let training = &self.training;
        if training.use_mrl {
            let message = "upstream has no Matryoshka losses for BGE-M3's heads, and neither has bge; train it as `encoder_only.base`, or leave the flag out";
            findings.error("config.unsupported", "use_mrl", message);
        }
        if training.colbert_dim > MAX_LENGTH as i64 {
            let message = format!("expected at most {MAX_LENGTH}, got {}", training.colbert_dim);
            findings.error("config.invalid_value", "colbert_dim", message);
        }
        if !training.unified_finetuning {
            if training.fix_encoder {
                let message = "without `unified_finetuning` the heads are not trained, so nothing would be";
                findings.error("config.conflict", "fix_encoder", message);
            }
            if training.use_self_distill {
                let message = "without `unified_finetuning` there is no common score to learn from";
                findings.warning("config.no_effect", "use_self_distill", message);
            }
            if training.colbert_dim > 0 {
                let message = "without `unified_finetuning` the head is kept as it is";
                findings.warning("config.no_effect", "colbert_dim", message);
            }
        }
        if training.self_distill_start_step != -1 && !training.use_self_distill {
            let message = "without `use_self_distill` it has no effect";
            findings.warning("config.no_effect", "self_distill_start_step", message);
        }
        if training.fix_encoder && training.fix_position_embedding {
            let message = "`fix_encoder` keeps all of the encoder as it is";
            findings.warning("config.no_effect", "fix_position_embedding", message);
        }
    }
}
