//! The rules for training a cross-encoder.

use super::FinetuneConfig;
use super::check::Findings;
use super::choices::{IntervalStrategy, SaveStrategy};
use super::field::shown_text;

impl FinetuneConfig {
    pub(super) fn check_reranker(&self, findings: &mut Findings) {
        let (model, data, training) = (&self.model, &self.data, &self.training);
        if model.model_type != "encoder" {
            let message = format!(
                "this version trains rerankers of the type `encoder`, got {}; decoders are planned",
                shown_text(&model.model_type)
            );
            findings.error("config.unsupported", "model_type", message);
        }
        if data.train_group_size == 1 {
            let message = "a cross-encoder compares the passages of one query, and one passage has nothing to be \
                           compared with: the loss is always 0; give 2 or more";
            findings.error("config.one_candidate", "train_group_size", message);
        }
        // Nothing here ranks a whole corpus with a cross-encoder; `eval_dataset` alone is looked at for leaks.
        for (field, wanted) in [
            ("eval_strategy", training.eval_strategy != IntervalStrategy::No),
            ("eval_on_start", training.eval_on_start),
            ("load_best_model_at_end", training.load_best_model_at_end),
            ("save_strategy", training.save_strategy == SaveStrategy::Best),
            (
                "early_stopping_patience",
                training.early_stopping_patience.is_some(),
            ),
        ] {
            if wanted {
                let message = "a reranker is not evaluated while it trains; leave the flag out and compare its \
                               checkpoints afterwards with `bge rerank` (`eval_dataset` alone looks for leaks)";
                findings.error("config.unsupported", field, message);
            }
        }
    }
}
