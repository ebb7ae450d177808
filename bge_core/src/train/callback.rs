//! What a run tells its host, and how the host stops it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};

use super::state::TrainerState;
use super::step::StepReport;
use crate::evaluation::EvaluationReport;
use crate::issue::Issue;

/// Something that happened in a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum TrainEvent<'a> {
    /// Something worth knowing, before the first step or after the last.
    Note(&'a Issue),
    /// The run starts, or goes on, at `state.global_step`.
    Begin(&'a TrainerState),
    /// An optimizer step is done.
    Step {
        /// Where the run stands.
        state: &'a TrainerState,
        /// What the step measured.
        report: &'a StepReport,
        /// Seconds since the last step.
        secs: f64,
    },
    /// An entry was added to the log.
    Log(&'a Map<String, Value>),
    /// The model was evaluated.
    Evaluated {
        /// Where the run stands.
        state: &'a TrainerState,
        /// The metrics.
        report: &'a EvaluationReport,
    },
    /// A checkpoint or the finished model was written.
    Saved(&'a Path),
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Write a checkpoint and stop.
    Stop,
}

/// Hears the events of a run, on the thread that runs it.
pub trait Callback {
    /// Answers [`Control::Stop`] to end the run after the present step.
    fn on_event(&mut self, event: &TrainEvent<'_>) -> Control;
}

impl<F: FnMut(&TrainEvent<'_>) -> Control> Callback for F {
    fn on_event(&mut self, event: &TrainEvent<'_>) -> Control {
        self(event)
    }
}

/// The callbacks of a run, and whether one of them has said stop.
pub(super) struct Listeners<'l, 'c> {
    callbacks: &'l mut [&'c mut dyn Callback],
    pub(super) stop: bool,
}

impl<'l, 'c> Listeners<'l, 'c> {
    pub(super) fn new(callbacks: &'l mut [&'c mut dyn Callback]) -> Self {
        Self {
            callbacks,
            stop: false,
        }
    }

    /// Tells all of them.
    pub(super) fn tell(&mut self, event: &TrainEvent<'_>) {
        for callback in &mut *self.callbacks {
            self.stop |= callback.on_event(event) == Control::Stop;
        }
    }
}

/// Stops a run from another thread or a signal handler: it ends after the present step, with a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Stopper(Arc<AtomicBool>);

impl Stopper {
    /// A stopper on a flag of the caller.
    pub fn on(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Asks the run to stop.
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked to.
    pub fn stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
