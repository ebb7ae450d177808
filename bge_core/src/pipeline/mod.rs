//! All steps from one file: validate, mine, score, train, merge, evaluate; what is current is skipped.
//!
//! A stage's record ([`Manifest`]) names the hashes of its inputs and outputs and its settings. A rerun skips a stage whose
//! record is still true, and runs the first one that is not, which resumes where it was interrupted: mining and
//! scoring at the last whole block, training at the last checkpoint. The result has the bytes of an undisturbed run.

mod manifest;
mod report;
mod stages;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use manifest::Manifest;

use crate::config::{PipelineConfig, STAGES};
use crate::error::{Error, Result};
use crate::issue::Issue;
use crate::train::{Callback, Stopper};

/// What is heard while a pipeline runs.
#[derive(Clone, Copy, Debug)]
pub enum PipelineEvent<'a> {
    /// A stage begins.
    Begin {
        /// Its name.
        stage: &'static str,
        /// Its number among those of the file, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// The command that does the same.
        command: &'a str,
    },
    /// Nothing changed since the stage ran; it is not run again.
    Skipped {
        /// Its name.
        stage: &'static str,
        /// What it found then.
        summary: &'a str,
    },
    /// Work done within a stage.
    Progress {
        /// How much so far.
        done: usize,
        /// Of how much.
        total: usize,
    },
    /// Something worth knowing.
    Note(&'a Issue),
    /// A stage is complete and its files are on disk.
    Done {
        /// Its name.
        stage: &'static str,
        /// What it found, in a line.
        summary: &'a str,
    },
}

/// What a pipeline made.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineReport {
    /// The records of all stages, in order.
    pub stages: Vec<Manifest>,
    /// The folder of the finished model; the base where nothing was trained.
    pub model: PathBuf,
    /// The comparison's tables, where the pipeline evaluates.
    pub table: Option<String>,
    /// The HTML report, likewise.
    pub report: Option<PathBuf>,
}

impl PipelineReport {
    /// What a stage found.
    pub fn result(&self, stage: &str) -> Option<&Value> {
        self.stages
            .iter()
            .find(|manifest| manifest.stage == stage)
            .map(|manifest| &manifest.result)
    }
}

/// Who hears of a pipeline, and who may stop its training.
pub struct Audience<'a> {
    /// Hears of the stages.
    pub listener: &'a mut dyn FnMut(PipelineEvent<'_>),
    /// Hears of the training.
    pub training: &'a mut dyn Callback,
    /// Stops the training after the present step, with a checkpoint.
    pub stopper: Stopper,
}

impl std::fmt::Debug for Audience<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audience").finish_non_exhaustive()
    }
}

/// Runs the stages of a pipeline in order, those that are not current.
///
/// Each stage's files appear whole or not at all, under `output_dir`. Ends at the first stage that fails, with its error;
/// the stages before it stay, and a later run goes on from there. Fails with `Cancelled` when training was stopped.
pub fn run(config: &PipelineConfig, audience: &mut Audience<'_>) -> Result<PipelineReport> {
    let folder = Path::new(&config.shared.output_dir);
    let outcome = run_in(folder, config, audience);
    if outcome.is_err() {
        // Nothing was made: nothing stays. A folder that holds something is not removed by this.
        let _ = std::fs::remove_dir(folder);
    }
    outcome
}

fn run_in(folder: &Path, config: &PipelineConfig, audience: &mut Audience<'_>) -> Result<PipelineReport> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create the output folder", error))?;
    crate::files::sweep(folder)?;
    let names: Vec<&'static str> = STAGES.into_iter().filter(|stage| config.has(stage)).collect();
    let mut done: Vec<Manifest> = Vec::new();
    for (index, stage) in names.iter().copied().enumerate() {
        let plan = stages::plan(config, stage, &done)?;
        let command = plan.command.clone();
        (audience.listener)(PipelineEvent::Begin {
            stage,
            number: index + 1,
            of: names.len(),
            command: &command,
        });
        let place = folder.join(format!("{stage}.manifest.json"));
        let earlier = Manifest::read(&place);
        if let Some(earlier) = earlier
            && plan.manifest.is_current(&earlier)?
        {
            let summary = report::summary(&earlier);
            (audience.listener)(PipelineEvent::Skipped {
                stage,
                summary: &summary,
            });
            done.push(earlier);
            continue;
        }
        let manifest = stages::execute(config, plan, &done, &place, audience)?;
        let summary = report::summary(&manifest);
        (audience.listener)(PipelineEvent::Done {
            stage,
            summary: &summary,
        });
        done.push(manifest);
    }
    Ok(report::finish(config, done))
}
