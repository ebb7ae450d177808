//! The model that a module trains, read from its folder.

use super::step::Stepper;
use crate::config::{CheckedConfig, Module, TrainingArguments};
use crate::error::Result;
use crate::issue::Issue;
use crate::loss::LossConfig;
use crate::models::{Bert, CrossEncoder, M3, ModelFolder, read_weights};

/// A model that was read and not yet prepared.
pub(super) enum Opened {
    Embedder(Bert),
    M3(M3),
    Reranker(CrossEncoder),
}

impl Opened {
    /// Reads the model that the module trains.
    pub(super) fn open(config: &CheckedConfig, folder: &ModelFolder, notes: &mut Vec<Issue>) -> Result<Self> {
        let training = &config.training;
        if config.module().trains_reranker() {
            let (model, note) = CrossEncoder::open_for_training(folder, training.seed)?;
            notes.extend(note);
            return Ok(Self::Reranker(model));
        }
        notes.extend(LossConfig::from(training).check(folder.config.hidden_size)?);
        if config.module() != Module::EncoderOnlyM3 {
            let model = Bert::new(folder.config.clone(), read_weights(&folder.path)?);
            return Ok(Self::Embedder(
                model.map_err(|error| error.with_path(&folder.path))?,
            ));
        }
        if !training.unified_finetuning {
            return Ok(Self::M3(M3::open(folder)?));
        }
        let colbert_dim = usize::try_from(training.colbert_dim).ok().filter(|&dim| dim > 0);
        let (model, fresh) = M3::open_with_heads(folder, training.seed, colbert_dim)?;
        notes.extend(fresh);
        Ok(Self::M3(model))
    }

    pub(super) fn encoder(&self) -> &Bert {
        match self {
            Self::Embedder(model) => model,
            Self::M3(model) => model.encoder(),
            Self::Reranker(model) => model.encoder(),
        }
    }

    /// Prepares `total_steps` optimizer steps; `special` are the ids that are no words.
    pub(super) fn stepper(
        self,
        training: &TrainingArguments,
        total_steps: usize,
        special: Vec<u32>,
    ) -> Result<Stepper> {
        match self {
            Self::Embedder(model) => Stepper::new(model, training, total_steps),
            Self::M3(model) => Stepper::m3(model, training, total_steps, special),
            Self::Reranker(model) => Stepper::reranker(model, training, total_steps),
        }
    }
}
