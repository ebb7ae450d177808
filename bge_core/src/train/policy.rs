//! When to log, evaluate and save, how long to train, and which evaluation is the best.

use super::state::TrainerState;
use crate::config::{IntervalStrategy, SaveStrategy, TrainingArguments};
use crate::error::{Result, bail};

/// The decisions of a run, worked out once.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) max_steps: usize,
    epochs: f64,
    logging: Interval,
    logging_first_step: bool,
    evaluation: Interval,
    save: Interval,
    /// The metric that decides, `ndcg_at_10` unless set.
    pub(crate) metric: String,
    greater_is_better: bool,
    /// Evaluations without gain that end the run.
    pub(crate) patience: Option<usize>,
    threshold: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interval {
    Never,
    Steps(usize),
    Epochs,
}

impl Interval {
    fn steps(self) -> usize {
        if let Self::Steps(steps) = self { steps } else { 0 }
    }

    fn due(self, step: usize, updates_per_epoch: usize) -> bool {
        match self {
            Self::Never => false,
            Self::Steps(every) => step.is_multiple_of(every),
            Self::Epochs => step.is_multiple_of(updates_per_epoch),
        }
    }
}

/// What follows a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) log: bool,
    pub(crate) evaluate: bool,
    pub(crate) save: bool,
}

impl Policy {
    /// Works out steps and intervals as Hugging Face's Trainer does: a number below 1 is a share of all steps.
    pub(crate) fn new(training: &TrainingArguments, updates_per_epoch: usize) -> Result<Self> {
        let max_steps = if training.max_steps > 0 {
            training.max_steps as usize
        } else {
            (training.num_train_epochs * updates_per_epoch as f64).ceil() as usize
        };
        if max_steps == 0 {
            bail!(
                InvalidConfig,
                "num_train_epochs {} gives no step",
                training.num_train_epochs
            );
        }
        let steps = |value: f64| {
            let steps = if value < 1.0 {
                (value * max_steps as f64).ceil()
            } else {
                value
            };
            Interval::Steps((steps as usize).max(1))
        };
        let interval = |strategy, value: f64| match strategy {
            IntervalStrategy::No => Interval::Never,
            IntervalStrategy::Steps => steps(value),
            IntervalStrategy::Epoch => Interval::Epochs,
        };
        let metric = training.metric_for_best_model.as_deref().unwrap_or("ndcg_at_10");
        Ok(Self {
            max_steps,
            epochs: if training.max_steps > 0 {
                (max_steps as f64 / updates_per_epoch as f64).ceil()
            } else {
                training.num_train_epochs
            },
            logging: interval(training.logging_strategy, training.logging_steps),
            logging_first_step: training.logging_first_step,
            evaluation: interval(
                training.eval_strategy,
                training.eval_steps.unwrap_or(training.logging_steps),
            ),
            save: match training.save_strategy {
                SaveStrategy::No | SaveStrategy::Best => Interval::Never,
                SaveStrategy::Steps => steps(training.save_steps),
                SaveStrategy::Epoch => Interval::Epochs,
            },
            metric: metric.trim_start_matches("eval_").to_owned(),
            greater_is_better: training.greater_is_better.unwrap_or(true),
            patience: training.early_stopping_patience,
            threshold: training.early_stopping_threshold,
        })
    }

    /// The state of a run that has not begun.
    pub(crate) fn fresh_state(&self, training: &TrainingArguments, data_fingerprint: String) -> TrainerState {
        let mut state = TrainerState {
            max_steps: self.max_steps,
            num_train_epochs: self.epochs,
            logging_steps: self.logging.steps(),
            eval_steps: self.evaluation.steps(),
            save_steps: self.save.steps(),
            train_batch_size: training.per_device_train_batch_size,
            is_world_process_zero: true,
            is_local_process_zero: true,
            ..TrainerState::default()
        };
        state.own_mut().data_fingerprint = data_fingerprint;
        state
    }

    /// What follows the step that made `step` finished ones; an interval by epochs also ends with the run, and so does one by
    /// steps of checkpoints (`transformers` 5, `trainer_callback.py`).
    pub(crate) fn due(&self, step: usize, updates_per_epoch: usize) -> Due {
        let due = |interval: Interval| {
            interval.due(step, updates_per_epoch) || (interval == Interval::Epochs && step == self.max_steps)
        };
        Due {
            log: due(self.logging) || (self.logging_first_step && step == 1),
            evaluate: due(self.evaluation),
            save: due(self.save) || (self.save != Interval::Never && step == self.max_steps),
        }
    }

    /// Takes an evaluation into account; true if it is the best so far.
    pub(crate) fn judge(&self, state: &mut TrainerState, value: f64) -> bool {
        let gain = |best: f64| {
            if self.greater_is_better {
                value - best
            } else {
                best - value
            }
        };
        let enough = state
            .best_metric
            .is_none_or(|best| gain(best) > self.threshold.max(0.0));
        let without_gain = &mut state.own_mut().evaluations_without_gain;
        *without_gain = if enough { 0 } else { *without_gain + 1 };
        let better = state.best_metric.is_none_or(|best| gain(best) > 0.0);
        if better {
            state.best_metric = Some(value);
            state.best_global_step = Some(state.global_step);
        }
        better
    }
}
