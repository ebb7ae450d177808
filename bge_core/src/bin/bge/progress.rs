//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bge_core::data::preparing::Passed;
use bge_core::train::{Callback, Control, Stopper, TrainEvent};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::command::say;

/// A bar with a message; silent where standard error is no terminal.
pub(crate) fn bar(length: u64, unit: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{msg}}  {{elapsed}} < {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

/// A bar over the bytes of files that are read, which ends where the run is stopped.
pub(crate) fn over_files(stopper: &Stopper) -> impl FnMut(Passed) -> ControlFlow<()> + '_ {
    const MEGABYTE: u64 = 1_000_000;
    let bar = bar(0, "MB");
    move |passed: Passed| {
        bar.set_length(passed.total.div_ceil(MEGABYTE));
        bar.set_position(passed.bytes / MEGABYTE);
        let stopped = stopper.stopped();
        if stopped || passed.bytes == passed.total {
            bar.finish_and_clear();
        }
        if stopped {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// A bar for work whose length shows while it runs, and that may start over with another.
pub(crate) struct Counter {
    unit: &'static str,
    bar: Option<ProgressBar>,
}

impl Counter {
    pub(crate) fn new(unit: &'static str) -> Self {
        Self { unit, bar: None }
    }

    pub(crate) fn at(&mut self, done: usize, total: usize) {
        let unit = self.unit;
        let bar = self.bar.get_or_insert_with(|| bar(total as u64, unit));
        if bar.length() != Some(total as u64) || bar.position() > done as u64 {
            bar.set_length(total as u64);
            bar.reset();
        }
        bar.set_position(done as u64);
    }

    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Shows a training run.
pub(crate) struct TrainProgress {
    bar: Option<ProgressBar>,
    terminal: bool,
    /// (tokens, seconds) of the steps so far, recent ones weighing more.
    rate: (f64, f64),
    last_line: Instant,
}

impl TrainProgress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            bar: None,
            terminal,
            rate: (0.0, 0.0),
            last_line: Instant::now(),
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn tokens_per_second(&self) -> f64 {
        self.rate.0 / self.rate.1.max(1e-9)
    }
}

impl Callback for TrainProgress {
    fn on_event(&mut self, event: &TrainEvent<'_>) -> Control {
        match event {
            TrainEvent::Note(issue) => self.line(&issue.to_string()),
            TrainEvent::Begin(state) => {
                if state.global_step > 0 {
                    self.line(&format!(
                        "going on after step {} of {}",
                        state.global_step, state.max_steps
                    ));
                }
                if self.terminal {
                    let bar = bar(state.max_steps as u64, "steps");
                    bar.set_position(state.global_step as u64);
                    self.bar = Some(bar);
                }
            }
            TrainEvent::Step { state, report, secs } => {
                self.rate = (
                    self.rate.0 * 0.95 + report.tokens as f64,
                    self.rate.1 * 0.95 + secs,
                );
                let message = format!(
                    "loss {:.4}  {:.0} tokens/s",
                    report.loss,
                    self.tokens_per_second()
                );
                if let Some(bar) = &self.bar {
                    bar.set_message(message);
                    bar.set_position(state.global_step as u64);
                } else if self.last_line.elapsed() > Duration::from_secs(10) {
                    self.last_line = Instant::now();
                    let left = (state.max_steps - state.global_step) as f64 * secs;
                    say(format!(
                        "step {}/{}  epoch {:.2}  {message}  {} left",
                        state.global_step,
                        state.max_steps,
                        state.epoch,
                        duration(left)
                    ));
                }
            }
            TrainEvent::Log(entry) if !self.terminal => {
                let number = |key: &str| {
                    entry
                        .get(key)
                        .and_then(serde_json::Value::as_f64)
                        .unwrap_or(f64::NAN)
                };
                say(format!(
                    "step {}  loss {:.4}  grad_norm {:.3}  learning_rate {:.3e}",
                    number("step"),
                    number("loss"),
                    number("grad_norm"),
                    number("learning_rate")
                ));
            }
            TrainEvent::Evaluated { state, report } => {
                let metric = |name: &str| report.get(name).unwrap_or(f64::NAN);
                self.line(&format!(
                    "step {}  ndcg_at_10 {:.4}  mrr_at_10 {:.4}  recall_at_100 {:.4}",
                    state.global_step,
                    metric("ndcg_at_10"),
                    metric("mrr_at_10"),
                    metric("recall_at_100")
                ));
            }
            TrainEvent::Saved(path) => self.line(&format!("wrote {}", path.display())),
            _ => {}
        }
        Control::Continue
    }
}

/// `1:02:03`, `2:03`, `3 s`.
fn duration(secs: f64) -> String {
    let secs = secs as u64;
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}
