//! The rules for everything that is counted in steps: optimizer, schedule, logs, checkpoints, evaluations.

use super::FinetuneConfig;
use super::check::{Findings, MAX_BATCH};
use super::choices::{IntervalStrategy, LrSchedulerType, SaveStrategy};
use super::field::{shown, shown_text};

/// The metrics of an evaluation while training, each at every k of [`METRIC_K`].
pub(crate) const METRICS: &[&str] = &["ndcg", "map", "recall", "precision", "mrr", "recall_cap"];
/// Upstream's cut-offs (`AbsEvalArgs.k_values`).
pub(crate) const METRIC_K: &[&str] = &["1", "3", "5", "10", "100", "1000"];

/// A larger count of steps or epochs is a typing mistake.
const MAX_STEPS: f64 = 1e12;

impl FinetuneConfig {
    pub(super) fn check_optimizer(&self, findings: &mut Findings) {
        let training = &self.training;
        findings.count(
            "per_device_train_batch_size",
            training.per_device_train_batch_size,
            1,
            MAX_BATCH,
        );
        findings.count(
            "gradient_accumulation_steps",
            training.gradient_accumulation_steps,
            1,
            MAX_BATCH,
        );
        for (field, value) in [
            ("learning_rate", training.learning_rate),
            ("weight_decay", training.weight_decay),
            ("adam_epsilon", training.adam_epsilon),
            ("max_grad_norm", training.max_grad_norm),
        ] {
            findings.range(
                field,
                value >= 0.0 && value.is_finite(),
                value,
                "a finite number from 0",
            );
        }
        for (field, value) in [
            ("adam_beta1", training.adam_beta1),
            ("adam_beta2", training.adam_beta2),
        ] {
            findings.range(
                field,
                (0.0..1.0).contains(&value),
                value,
                "a number from 0 and below 1",
            );
        }
        if training.learning_rate > 0.1 && training.learning_rate.is_finite() {
            let message = format!(
                "{} is far above what fine-tuning needs (about 1e-5)",
                training.learning_rate
            );
            findings.warning("config.unusual", "learning_rate", message);
        }
        self.check_schedule(findings);
    }

    fn check_schedule(&self, findings: &mut Findings) {
        let training = &self.training;
        let ratio = training.warmup_ratio;
        findings.range(
            "warmup_ratio",
            (0.0..=1.0).contains(&ratio),
            ratio,
            "a number from 0 to 1",
        );
        let steps = training.warmup_steps;
        let whole_or_share = steps < 1.0 || steps.fract() == 0.0;
        let fits = (0.0..=MAX_STEPS).contains(&steps) && whole_or_share;
        findings.range(
            "warmup_steps",
            fits,
            steps,
            "a whole number, or a share of all steps from 0 and below 1",
        );
        if steps > 0.0 && ratio > 0.0 {
            findings.warning(
                "config.no_effect",
                "warmup_ratio",
                "`warmup_steps` is given too, and counts",
            );
        }
        let kind = training.lr_scheduler_type;
        if kind == LrSchedulerType::Constant && (steps > 0.0 || ratio > 0.0) {
            let field = if steps > 0.0 {
                "warmup_steps"
            } else {
                "warmup_ratio"
            };
            let message = "the schedule `constant` has no warm-up; use `constant_with_warmup`";
            findings.warning("config.no_effect", field, message);
        }
        let known: &[&str] = match kind {
            LrSchedulerType::Cosine | LrSchedulerType::CosineWithRestarts => &["num_cycles"],
            LrSchedulerType::Polynomial => &["lr_end", "power"],
            LrSchedulerType::InverseSqrt => &["timescale"],
            LrSchedulerType::Linear | LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => &[],
        };
        for (key, value) in &training.lr_scheduler_kwargs {
            if !known.contains(&key.as_str()) {
                let key = super::unknown::short(key);
                if matches!(
                    kind,
                    LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup
                ) {
                    let message = format!("`{kind}` has no settings, so `{key}` has no effect");
                    findings.warning("config.no_effect", "lr_scheduler_kwargs", message);
                    continue;
                }
                let accepted = if known.is_empty() {
                    "nothing".to_owned()
                } else {
                    known.join(" and ")
                };
                let message = format!("`{kind}` knows {accepted}, got `{key}`");
                findings.error("config.invalid_value", "lr_scheduler_kwargs", message);
                continue;
            }
            let number = value.as_f64().unwrap_or(f64::NAN);
            let (fits, accepted) = match key.as_str() {
                "lr_end" => (
                    number >= 0.0 && number < training.learning_rate,
                    "a number from 0 and below learning_rate",
                ),
                _ => (number > 0.0 && number <= MAX_STEPS, "a number above 0"),
            };
            let shown = shown(value);
            findings.range(
                "lr_scheduler_kwargs",
                fits,
                format!("`{key}` = {shown}"),
                accepted,
            );
        }
        let lr_end_given = training.lr_scheduler_kwargs.contains_key("lr_end");
        if kind == LrSchedulerType::Polynomial && !lr_end_given && training.learning_rate <= 1e-7 {
            let message = "`polynomial` ends at 1e-7, which is not below learning_rate; give `lr_end`";
            findings.error("config.range", "learning_rate", message);
        }
    }

    pub(super) fn check_steps(&self, findings: &mut Findings) {
        let training = &self.training;
        let epochs = training.num_train_epochs;
        if training.max_steps <= 0 {
            let fits = epochs > 0.0 && epochs <= MAX_STEPS;
            findings.range(
                "num_train_epochs",
                fits,
                epochs,
                "a number above 0, or set max_steps",
            );
        } else {
            let steps = training.max_steps as f64;
            findings.range(
                "max_steps",
                steps <= MAX_STEPS,
                training.max_steps,
                "fewer steps than 10^12",
            );
        }
        if training.logging_strategy == IntervalStrategy::Steps {
            interval(findings, "logging_steps", training.logging_steps);
        }
        if training.save_strategy == SaveStrategy::Steps {
            interval(findings, "save_steps", training.save_steps);
        }
        if let (IntervalStrategy::Steps, Some(steps)) = (training.eval_strategy, training.eval_steps) {
            interval(findings, "eval_steps", steps);
        }
        if training.resume_from_checkpoint.as_deref().is_some_and(|text| {
            let word = text.trim().to_ascii_lowercase();
            word.is_empty() || word == "false"
        }) {
            let message = "expected the folder of a checkpoint, as in `runs/checkpoint-500`, or True for the newest in output_dir";
            findings.error("config.invalid_value", "resume_from_checkpoint", message);
        }
    }

    pub(super) fn check_evaluation(&self, findings: &mut Findings) {
        let training = &self.training;
        let evaluates = training.eval_strategy != IntervalStrategy::No;
        let dataset = self.data.eval_dataset.as_deref();
        for (field, wanted) in [
            ("eval_strategy", evaluates),
            ("eval_on_start", training.eval_on_start),
        ] {
            if wanted && dataset.is_none_or(|path| path.trim().is_empty()) {
                let message =
                    "it needs `--eval_dataset FOLDER` with corpus.jsonl, queries.jsonl and qrels/test.tsv";
                findings.error("config.required", field, message);
            }
        }
        if dataset.is_some() && !evaluates && !training.eval_on_start {
            let message = "it is never used; add `--eval_strategy epoch` or `--eval_strategy steps`";
            findings.warning("config.no_effect", "eval_dataset", message);
        }
        let split = self.data.eval_split.as_str();
        if split.trim().is_empty() || split.contains(['/', '\\']) {
            let message = format!(
                "expected the name of a file in qrels/ without its ending, got {}",
                shown_text(split)
            );
            findings.error("config.invalid_value", "eval_split", message);
        }
        if training.load_best_model_at_end {
            self.check_best(findings);
        }
        if training.save_strategy == SaveStrategy::Best && !evaluates {
            let message = "saving the best checkpoint needs evaluations; set eval_strategy";
            findings.error("config.conflict", "save_strategy", message);
        }
        let threshold = training.early_stopping_threshold;
        let fits = threshold >= 0.0 && threshold.is_finite();
        findings.range(
            "early_stopping_threshold",
            fits,
            threshold,
            "a finite number from 0",
        );
        if let Some(patience) = training.early_stopping_patience {
            findings.range(
                "early_stopping_patience",
                patience >= 1,
                patience,
                "a whole number from 1",
            );
            if !evaluates {
                let message = "early stopping needs evaluations; set eval_strategy";
                findings.error("config.conflict", "early_stopping_patience", message);
            } else if !training.load_best_model_at_end {
                let message =
                    "early stopping needs `--load_best_model_at_end`, or the run ends with worse weights";
                findings.error("config.conflict", "early_stopping_patience", message);
            }
        } else if threshold > 0.0 {
            let message = "without `early_stopping_patience` it has no effect";
            findings.warning("config.no_effect", "early_stopping_threshold", message);
        }
        self.check_metric(findings);
    }

    /// Hugging Face's rules: the best checkpoint must have been both evaluated and saved.
    fn check_best(&self, findings: &mut Findings) {
        let training = &self.training;
        let field = "load_best_model_at_end";
        if training.eval_strategy == IntervalStrategy::No {
            findings.error(
                "config.conflict",
                field,
                "it needs evaluations; set eval_strategy",
            );
            return;
        }
        if training.save_strategy == SaveStrategy::Best {
            return;
        }
        if training.save_strategy.as_str() != training.eval_strategy.as_str() {
            let message = format!(
                "save_strategy ({}) and eval_strategy ({}) must be the same, or save_strategy `best`",
                training.save_strategy, training.eval_strategy
            );
            findings.error("config.conflict", field, message);
            return;
        }
        let save = training.save_steps;
        let evaluate = training.eval_steps.unwrap_or(training.logging_steps);
        if training.eval_strategy != IntervalStrategy::Steps || !(save > 0.0 && evaluate > 0.0) {
            return;
        }
        let message = if (save < 1.0) == (evaluate < 1.0) {
            // Shares are compared in millionths, as the Trainer does.
            let scale = if save < 1.0 { 1e6 } else { 1.0 };
            if save % evaluate == 0.0 || (save * scale) % (evaluate * scale) == 0.0 {
                return;
            }
            "save_steps must be a multiple of eval_steps, so that every saved checkpoint has been evaluated"
        } else {
            "save_steps and eval_steps must both be counts or both be shares of all steps"
        };
        findings.error(
            "config.conflict",
            field,
            format!("{message}, got {save} and {evaluate}"),
        );
    }

    fn check_metric(&self, findings: &mut Findings) {
        let training = &self.training;
        if let Some(given) = &training.metric_for_best_model {
            let name = given.strip_prefix("eval_").unwrap_or(given);
            let known = name
                .rsplit_once("_at_")
                .is_some_and(|(metric, k)| METRICS.contains(&metric) && METRIC_K.contains(&k));
            if !known {
                let message = format!(
                    "expected one of {} with _at_ and one of {}, as in ndcg_at_10, got {}",
                    METRICS.join(", "),
                    METRIC_K.join(", "),
                    shown_text(given)
                );
                findings.error("config.invalid_value", "metric_for_best_model", message);
            }
        }
        if training.greater_is_better == Some(false) {
            let message =
                "every retrieval metric is better when it is greater, so the worst checkpoint would win";
            findings.warning("config.unusual", "greater_is_better", message);
        }
    }
}

/// Steps between two events: a whole number, or a share of all steps below 1.
fn interval(findings: &mut Findings, field: &str, steps: f64) {
    let fits = steps > 0.0 && steps <= MAX_STEPS && (steps < 1.0 || steps.fract() == 0.0);
    findings.range(
        field,
        fits,
        steps,
        "a whole number from 1, or a share of all steps between 0 and 1",
    );
}
