//! `trainer_state.json`: where a run stands and what it has logged, in Hugging Face's layout.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::models::write_json;

/// The state of a run. Keys that are not ours are Hugging Face's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerState {
    /// Value of the best evaluation so far.
    pub best_metric: Option<f64>,
    /// Checkpoint of the best evaluation, when one was written.
    pub best_model_checkpoint: Option<String>,
    /// Step of the best evaluation.
    pub best_global_step: Option<usize>,
    /// Passed epochs, with the share of the present one.
    pub epoch: f64,
    /// Finished optimizer steps.
    pub global_step: usize,
    /// Optimizer steps of the whole run.
    pub max_steps: usize,
    /// Epochs of the whole run.
    pub num_train_epochs: f64,
    /// Steps between two log entries.
    pub logging_steps: usize,
    /// Steps between two evaluations.
    pub eval_steps: usize,
    /// Steps between two checkpoints.
    pub save_steps: usize,
    /// Queries per micro-batch.
    pub train_batch_size: usize,
    /// Everything that was logged: `step`, `epoch` and numbers.
    pub log_history: Vec<Map<String, Value>>,
    /// Always `true` here: one process writes.
    pub is_world_process_zero: bool,
    /// Always `true` here.
    pub is_local_process_zero: bool,
    /// State of callbacks, where Hugging Face keeps what is not its own; ours is under `bge`.
    pub stateful_callbacks: CallbackStates,
}

/// States of callbacks by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallbackStates {
    /// What bge needs to go on exactly.
    pub bge: OwnState,
}

/// What Hugging Face's state has no field for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnState {
    /// What the data looked like, so that a resumed run meets the same.
    pub data_fingerprint: String,
    /// Evaluations without improvement in a row (early stopping).
    pub evaluations_without_gain: usize,
    /// Sums since the last log entry.
    pub since_log: SinceLog,
    /// Updates of every trained weight, for the optimizer's bias correction; only in checkpoints.
    pub optimizer_steps: std::collections::BTreeMap<String, u64>,
    /// The scale of the loss, where gradients are stored as 16-bit floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
}

/// What gradients are multiplied by so that small ones can be stored (`--fp16`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor.
    pub scale: f32,
    /// Steps without overflow since it changed.
    pub good_steps: usize,
}

/// What was measured since the last log entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SinceLog {
    /// Optimizer steps.
    pub steps: usize,
    /// Sum of their losses.
    pub loss: f64,
    /// Sum of their accuracies.
    pub accuracy: f64,
    /// Their real tokens.
    pub tokens: usize,
}

/// File name within a checkpoint.
pub(crate) const STATE_FILE: &str = "trainer_state.json";

impl TrainerState {
    /// Reads the state of a checkpoint.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE_FILE);
        if !path.exists() {
            let message = "there is no trainer_state.json here; a checkpoint is a folder `checkpoint-N` that a run wrote";
            return Err(Error::new(ErrorKind::NotFound, message).with_path(folder));
        }
        serde_json::from_str(&files::read_text(&path)?).map_err(|error| {
            let message = "the file is damaged; resume from an older checkpoint";
            Error::new(ErrorKind::ModelFormat, message)
                .with_path(&path)
                .with_source(error)
        })
    }

    /// Writes the state into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(STATE_FILE), self)
    }

    /// What is ours in it.
    pub fn own(&self) -> &OwnState {
        &self.stateful_callbacks.bge
    }

    /// What is ours in it, to change.
    pub(crate) fn own_mut(&mut self) -> &mut OwnState {
        &mut self.stateful_callbacks.bge
    }

    /// Adds a log entry of the present step.
    pub fn log(&mut self, mut entry: Map<String, Value>) -> &Map<String, Value> {
        entry.insert("epoch".to_owned(), Value::from(self.epoch));
        entry.insert("step".to_owned(), Value::from(self.global_step));
        self.log_history.push(entry);
        &self.log_history[self.log_history.len() - 1]
    }
}
