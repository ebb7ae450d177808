//! One optimizer step, in this order and nowhere else: micro-batches, finite check, clip, update, schedule.

use super::batch::TrainBatch;
use super::embed::Embedding;
use crate::config::TrainingArguments;
use crate::error::{Error, ErrorKind, Result};
use crate::loss::LossConfig;
use crate::models::{Bert, Keep};
use crate::nn::{Gradients, read, update};
use crate::optim::{AdamW, AdamWConfig, Parameter, Schedule, clip_factor, decays, global_norm, warmup_steps};
use crate::random::{self, Stream};

/// A model with everything that changes it: gradients, optimizer and schedule.
///
/// The trainer drives it; tests and other loops may do so too.
#[derive(Debug)]
pub struct Stepper {
    model: Bert,
    gradients: Gradients,
    optimizer: AdamW,
    /// Ids of the trained weights in the order of the optimizer's parameters.
    trained: Vec<usize>,
    schedule: Schedule,
    embedding: Embedding,
    max_grad_norm: f64,
    seed: u64,
    steps: usize,
}

/// What one optimizer step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss of the micro-batches.
    pub loss: f64,
    /// Share of queries whose positive came first.
    pub accuracy: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate that the step used.
    pub learning_rate: f64,
    /// Real tokens that went through the encoder.
    pub tokens: usize,
}

impl Stepper {
    /// Prepares `total_steps` optimizer steps of a model.
    pub fn new(mut model: Bert, arguments: &TrainingArguments, total_steps: usize) -> Result<Self> {
        if arguments.fix_position_embedding {
            model.freeze(|name| name.contains("position_embeddings"));
        }
        let mut parameters = Vec::new();
        let mut trained = Vec::new();
        for (id, (name, value, trainable)) in model.params().iter().enumerate() {
            if trainable {
                trained.push(id);
                let (name, len, decay) = (name.to_owned(), value.elem_count(), decays(name));
                parameters.push(Parameter { name, len, decay });
            }
        }
        let config = AdamWConfig {
            beta1: arguments.adam_beta1,
            beta2: arguments.adam_beta2,
            epsilon: arguments.adam_epsilon,
            weight_decay: arguments.weight_decay,
        };
        let warmup = warmup_steps(arguments.warmup_steps, arguments.warmup_ratio, total_steps)?;
        Ok(Self {
            gradients: Gradients::new(model.params()),
            optimizer: AdamW::new(config, &parameters)?,
            trained,
            schedule: Schedule::new(
                arguments.lr_scheduler_type,
                &arguments.lr_scheduler_kwargs,
                arguments.learning_rate,
                warmup,
                total_steps,
            )?,
            embedding: Embedding {
                pooling: arguments.sentence_pooling_method,
                loss: LossConfig::from(arguments),
                sub_batch_size: arguments.sub_batch_size,
                keep: if arguments.gradient_checkpointing {
                    Keep::Inputs
                } else {
                    Keep::All
                },
            },
            max_grad_norm: arguments.max_grad_norm,
            seed: arguments.seed,
            steps: 0,
            model,
        })
    }

    /// The model in its present state.
    pub fn model(&self) -> &Bert {
        &self.model
    }

    /// Finished optimizer steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The optimizer, for checkpoints.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The optimizer, for taking up a checkpoint after `steps` finished steps.
    pub fn resume(&mut self, steps: usize) -> &mut AdamW {
        self.steps = steps;
        &mut self.optimizer
    }

    /// Runs the micro-batches of one step and updates the weights.
    ///
    /// A loss or gradient that is not finite is an error and leaves weights and optimizer as they were.
    pub fn step(&mut self, batches: &[TrainBatch]) -> Result<StepReport> {
        let share = 1.0 / batches.len().max(1) as f64;
        let mut report = StepReport {
            loss: 0.0,
            accuracy: 0.0,
            grad_norm: 0.0,
            learning_rate: self.schedule.lr(self.steps),
            tokens: batches.iter().map(TrainBatch::tokens).sum(),
        };
        self.gradients.clear();
        for (index, batch) in batches.iter().enumerate() {
            let place = (self.steps as u64) << 16 | index as u64;
            let dropout = random::key(self.seed, Stream::Dropout, place);
            let measured =
                self.embedding
                    .accumulate(&self.model, batch, share, Some(dropout), &mut self.gradients)?;
            if !measured.loss.is_finite() {
                return Err(self.not_finite("loss", measured.loss));
            }
            report.loss += measured.loss * share;
            report.accuracy += measured.accuracy * share;
        }
        report.grad_norm = self.gradient_norm()?;
        if !report.grad_norm.is_finite() {
            return Err(self.not_finite("gradient norm", report.grad_norm));
        }
        self.apply(
            report.learning_rate,
            clip_factor(report.grad_norm, self.max_grad_norm),
        )?;
        self.steps += 1;
        Ok(report)
    }

    fn gradient_norm(&self) -> Result<f64> {
        let slices = self.trained.iter().filter_map(|&id| self.gradients.get(id));
        let slices = slices.map(read).collect::<Result<Vec<_>>>()?;
        Ok(global_norm(slices.iter().map(|slice| &**slice)))
    }

    fn apply(&mut self, lr: f64, scale: f32) -> Result<()> {
        let values: Vec<_> = self
            .model
            .params()
            .iter()
            .map(|(_, value, _)| value.clone())
            .collect();
        for (index, &id) in self.trained.iter().enumerate() {
            if let (Some(gradient), Some(value)) = (self.gradients.get(id), values.get(id)) {
                let gradient = read(gradient)?;
                update(value, |value| {
                    self.optimizer.update(index, lr, scale, value, &gradient);
                })?;
            }
        }
        Ok(())
    }

    fn not_finite(&self, what: &str, value: f64) -> Error {
        let message = format!(
            "the {what} of step {} is {value}; nothing was updated or written. Lower --learning_rate or raise --warmup_ratio, \
             and check --temperature and the data",
            self.steps + 1
        );
        Error::new(ErrorKind::NotFinite, message)
    }
}
