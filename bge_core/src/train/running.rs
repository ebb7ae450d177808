//! What rank 0 does in a run: steps, log, evaluations, checkpoints, and the finished model.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Map, Value};

use super::callback::{Listeners, TrainEvent};
use super::checkpoint;
use super::step::StepReport;
use super::trainer::{TrainReport, Trainer};
use super::worker::Order;
use crate::config::SaveStrategy;
use crate::error::{Error, Result, bail};
use crate::files;
use crate::issue::{Issue, Severity};

impl Trainer {
    /// The whole run; the other ranks follow.
    pub(super) fn lead(&mut self, listeners: &mut Listeners<'_, '_>) -> Result<TrainReport> {
        let output_dir = &self.save.output_dir;
        std::fs::create_dir_all(output_dir)
            .map_err(|error| Error::io(output_dir, "create the output folder", error))?;
        files::sweep(output_dir)?;
        for note in self.notes.iter().chain(&self.worker.meet()?) {
            listeners.tell(&TrainEvent::Note(note));
        }
        listeners.tell(&TrainEvent::Begin(&self.state));
        let asked_to_stop =
            |run: &Self, listeners: &Listeners<'_, '_>| listeners.stop || run.stopper.stopped();
        let mut stop = asked_to_stop(self, listeners);
        if self.state.global_step == 0 && self.config.training.eval_on_start && !stop {
            self.evaluate(listeners)?;
            stop = asked_to_stop(self, listeners);
        }
        let mut rates: Vec<(f64, f64)> = Vec::new();
        let mut ended_early = false;
        while self.state.global_step < self.policy.max_steps && !stop && !ended_early {
            let started = Instant::now();
            let report = self.step()?;
            let secs = started.elapsed().as_secs_f64();
            rates.push((report.tokens as f64 / secs, secs));
            listeners.tell(&TrainEvent::Step {
                state: &self.state,
                report: &report,
                secs,
            });
            ended_early = self.after_step(&report, listeners)?;
            stop = asked_to_stop(self, listeners);
        }
        let stopped = stop && !ended_early && self.state.global_step < self.policy.max_steps;
        let folder = if stopped {
            match self.saved {
                Some(step) if step == self.state.global_step => self.save.place(step),
                _ => self.checkpoint(listeners)?,
            }
        } else {
            self.finish(listeners)?
        };
        self.worker
            .order(if stopped { Order::Stop } else { Order::End })?;
        let median = |pick: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = rates.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        Ok(TrainReport {
            state: self.state.clone(),
            folder,
            stopped,
            tokens_per_second: median(|rate| rate.0),
            step_secs: median(|rate| rate.1),
        })
    }

    fn step(&mut self) -> Result<StepReport> {
        self.worker.order(Order::Step)?;
        let report = self.worker.step()?;
        let state = &mut self.state;
        state.global_step += 1;
        state.epoch = self.worker.feed.epoch_at(state.global_step);
        let since = &mut state.own_mut().since_log;
        since.steps += 1;
        since.loss += report.loss;
        since.accuracy += report.accuracy;
        since.tokens += report.tokens;
        Ok(report)
    }

    /// Logs, evaluates and saves where the policy says so; true ends the run (early stopping).
    fn after_step(&mut self, report: &StepReport, listeners: &mut Listeners<'_, '_>) -> Result<bool> {
        let due = self
            .policy
            .due(self.state.global_step, self.worker.feed.updates_per_epoch());
        if due.log {
            self.log(report, listeners);
        }
        let mut save = due.save;
        let mut ended = false;
        if due.evaluate && self.evaluator.is_some() {
            let better = self.evaluate(listeners)?;
            save |= better && self.config.training.save_strategy == SaveStrategy::Best;
            ended = self
                .policy
                .patience
                .is_some_and(|patience| self.state.own().evaluations_without_gain >= patience);
        }
        if save {
            self.checkpoint(listeners)?;
        }
        Ok(ended)
    }

    fn log(&mut self, report: &StepReport, listeners: &mut Listeners<'_, '_>) {
        let since = std::mem::take(&mut self.state.own_mut().since_log);
        let steps = since.steps.max(1) as f64;
        let mut entry = Map::new();
        for (name, value) in [
            ("loss", since.loss / steps),
            ("grad_norm", report.grad_norm),
            ("learning_rate", report.learning_rate),
            ("accuracy", since.accuracy / steps),
        ] {
            entry.insert(name.to_owned(), Value::from(value));
        }
        entry.insert("real_tokens".to_owned(), Value::from(since.tokens));
        let entry = self.state.log(entry).clone();
        listeners.tell(&TrainEvent::Log(&entry));
    }

    /// Evaluates, logs, and keeps the score for the best model and early stopping; true if it is the best so far. That of the
    /// model before the first step is only logged: there is no checkpoint of it.
    fn evaluate(&mut self, listeners: &mut Listeners<'_, '_>) -> Result<bool> {
        let Some(evaluator) = &self.evaluator else {
            return Ok(false);
        };
        self.worker.whole()?;
        let report = evaluator.evaluate(self.worker.stepper.model())?;
        let mut entry = Map::new();
        for (key, value) in &report.metrics {
            entry.insert(format!("eval_{key}"), Value::from(*value));
        }
        self.state.log(entry);
        let Some(value) = report.get(&self.policy.metric) else {
            bail!(
                InvalidConfig,
                "metric_for_best_model `{}` is not among the metrics",
                self.policy.metric
            );
        };
        let better = self.state.global_step > 0 && self.policy.judge(&mut self.state, value);
        listeners.tell(&TrainEvent::Evaluated {
            state: &self.state,
            report: &report,
        });
        Ok(better)
    }

    fn checkpoint(&mut self, listeners: &mut Listeners<'_, '_>) -> Result<PathBuf> {
        let place = self.save.place(self.state.global_step);
        if self.state.best_global_step == Some(self.state.global_step) {
            self.state.best_model_checkpoint = Some(place.display().to_string());
        }
        self.worker.whole()?;
        let moments = self.worker.moments()?;
        self.save
            .save_checkpoint(&self.worker.stepper, &moments, &mut self.state)?;
        drop(moments);
        self.saved = Some(self.state.global_step);
        listeners.tell(&TrainEvent::Saved(&place));
        self.save.replace_earlier(Some(&place))?;
        if let Some(limit) = self.config.training.save_total_limit {
            let best = self.config.training.load_best_model_at_end;
            let best = self.state.best_model_checkpoint.as_deref().filter(|_| best);
            self.save.rotate(limit, &place, best)?;
        }
        Ok(place)
    }

    fn finish(&mut self, listeners: &mut Listeners<'_, '_>) -> Result<PathBuf> {
        self.worker.whole()?;
        if self.config.training.load_best_model_at_end {
            let best = self.state.best_model_checkpoint.as_deref();
            if let Some(best) = best.and_then(|best| self.save.find(best)) {
                checkpoint::load(&mut self.worker.stepper, &best, None)?;
            } else {
                let gone = best.map(|best| format!("the best checkpoint, {best}, is gone"));
                let gone = gone.unwrap_or_else(|| "no step was evaluated and saved".into());
                let message = format!("{gone}; the finished model is that of the last step");
                let note = Issue::new("training.no_best_model", Severity::Warning, message);
                listeners.tell(&TrainEvent::Note(&note.on_field("load_best_model_at_end")));
            }
        }
        self.save.save_final(&self.worker.stepper, &self.state)?;
        listeners.tell(&TrainEvent::Saved(&self.save.output_dir));
        self.save.replace_earlier(None)?;
        Ok(self.save.output_dir.clone())
    }
}
