//! One optimizer step, in this order and nowhere else: micro-batches, sum over the ranks, finite check, clip, update, schedule.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::Tensor;

use super::batch::MicroBatch;
use super::embed::Turn;
use super::objective::Objective;
use super::reduce;
#[cfg(any(feature = "cuda", test))]
use super::state::LossScale;
use super::zero::{Held, Moments, Shards};
use crate::config::{NumberType, TrainingArguments};
#[cfg(any(feature = "cuda", test))]
use crate::cuda::{Share, flat_floats, gpu::Gpu, kernels::Variant};
use crate::distributed::{Communicator, Solo};
use crate::error::{Error, ErrorKind, Result};
use crate::issue::Issue;
#[cfg(any(feature = "cuda", test))]
use crate::issue::Severity;
use crate::models::{Bert, CrossEncoder, M3};
use crate::nn::{Gradients, Watcher, read, update};
use crate::optim::{AdamW, AdamWConfig, Parameter, Schedule, clip_factor, decays, global_norm, warmup_steps};
use crate::random::{self, Stream};

/// A model with everything that changes it: gradients, optimizer and schedule.
///
/// The trainer drives it; tests and other loops may do so too.
#[derive(Debug)]
pub struct Stepper {
    objective: Objective,
    ranks: Arc<dyn Communicator>,
    gradients: Gradients,
    optimizer: AdamW,
    /// Ids of the trained weights in the order of the optimizer's parameters.
    trained: Vec<usize>,
    schedule: Schedule,
    max_grad_norm: f64,
    seed: u64,
    steps: usize,
    /// Micro-batches of the finished steps; the last step of an epoch may have fewer than the others.
    forwards: u64,
    zero_stage: usize,
    /// How gradients travel between ranks.
    travels: NumberType,
    /// What the ranks share out, where they do.
    shards: Option<Arc<Shards>>,
    /// How long ranks with GPUs wait for each other.
    #[cfg(any(feature = "cuda", test))]
    limit: std::time::Duration,
    /// What is on a GPU, where it is.
    #[cfg(any(feature = "cuda", test))]
    gpu: Option<super::gpu::OnGpu>,
    /// The GPU to which the encoder goes when it is known which weights this rank keeps (`zero_stage` 3).
    #[cfg(any(feature = "cuda", test))]
    waiting: Option<(Arc<dyn Gpu>, Variant)>,
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
    /// Prepares `total_steps` optimizer steps of an embedder.
    pub fn new(model: Bert, arguments: &TrainingArguments, total_steps: usize) -> Result<Self> {
        Self::over(Objective::embedder(model, arguments), arguments, total_steps)
    }

    /// Prepares `total_steps` optimizer steps of BGE-M3; `special` are the ids that are no words: of `cls`, `eos`, `pad` and
    /// `unk`, as many as the tokenizer has.
    ///
    /// Training all heads (`unified_finetuning`) needs a model that has them: [`M3::open_with_heads`].
    pub fn m3(
        model: M3,
        arguments: &TrainingArguments,
        total_steps: usize,
        special: Vec<u32>,
    ) -> Result<Self> {
        Self::over(Objective::m3(model, arguments, special), arguments, total_steps)
    }

    /// Prepares `total_steps` optimizer steps of a reranker.
    pub fn reranker(model: CrossEncoder, arguments: &TrainingArguments, total_steps: usize) -> Result<Self> {
        Self::over(Objective::reranker(model, arguments), arguments, total_steps)
    }

    fn over(mut objective: Objective, arguments: &TrainingArguments, total_steps: usize) -> Result<Self> {
        if arguments.fix_position_embedding {
            objective.freeze(|name| name.contains("position_embeddings"));
        }
        let mut parameters = Vec::new();
        let mut trained = Vec::new();
        for (id, (name, value, trainable)) in objective.params().iter().enumerate() {
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
        let stepper = Self {
            gradients: Gradients::new(objective.params()),
            optimizer: AdamW::new(config, &parameters)?,
            trained,
            schedule: Schedule::new(
                arguments.lr_scheduler_type,
                &arguments.lr_scheduler_kwargs,
                arguments.learning_rate,
                warmup,
                total_steps,
            )?,
            max_grad_norm: arguments.max_grad_norm,
            seed: arguments.seed,
            steps: 0,
            forwards: 0,
            objective,
            ranks: Arc::new(Solo),
            zero_stage: arguments.zero_stage,
            travels: arguments.communication_data_type,
            shards: None,
            #[cfg(any(feature = "cuda", test))]
            limit: std::time::Duration::from_secs(arguments.ddp_timeout as u64),
            #[cfg(any(feature = "cuda", test))]
            gpu: None,
            #[cfg(any(feature = "cuda", test))]
            waiting: None,
        };
        #[cfg(any(feature = "cuda", test))]
        let stepper = stepper.placed(arguments)?;
        Ok(stepper)
    }

    /// With the encoder on the first of the GPUs, if there are any.
    #[cfg(any(feature = "cuda", test))]
    fn placed(mut self, arguments: &TrainingArguments) -> Result<Self> {
        let half = [arguments.fp16, arguments.bf16];
        let placements = crate::models::Placement::of(&arguments.devices, half, arguments.tf32);
        if let Some(&placement) = placements.first() {
            let (gpu, variant) = self.model().open_cuda(placement)?;
            self.put_on(gpu, variant)?;
        }
        Ok(self)
    }

    /// Goes on with the encoder on a GPU: from now on, or where ranks may share its weights out when it is known which ones this one
    /// keeps.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn put_on(&mut self, gpu: Arc<dyn Gpu>, variant: Variant) -> Result<()> {
        self.waiting = Some((gpu, variant));
        if self.zero_stage > 2 {
            return Ok(());
        }
        self.settle(&Solo)
    }

    /// Puts the encoder on the GPU that waits for it, if one does: with all its weights, or of several ranks' the share of this one.
    #[cfg(any(feature = "cuda", test))]
    fn settle(&mut self, ranks: &dyn Communicator) -> Result<()> {
        let shares = self.zero_stage > 2 && ranks.world_size() > 1;
        if let Some(gpu) = self.gpu.take_if(|_| shares) {
            // It has taken steps alone.
            gpu.gather(self.objective.params())?;
            self.waiting = Some(gpu.device());
            self.objective.encoder_mut().leave_gpus();
        }
        let Some((gpu, variant)) = self.waiting.take() else {
            return Ok(());
        };
        let lengths = super::gpu::blocks(flat_floats(self.objective.params()), ranks.world_size());
        let share = shares.then(|| Share {
            lengths: &lengths,
            rank: ranks.rank(),
        });
        self.objective.encoder_mut().move_to_gpu(gpu, variant, share)?;
        let encoder = self.objective.encoder().gpu().map(Arc::clone);
        self.gpu = encoder.map(|encoder| super::gpu::OnGpu::new(encoder, variant.storage));
        Ok(())
    }

    /// Makes this one rank of several that train together: each step takes the rank's share of the joined micro-batches, and the
    /// update is the same on all of them. Their weights and settings must be equal.
    ///
    /// With `zero_stage` the ranks share out what the stage says from here on; an optimizer that has taken steps starts anew.
    pub fn join(&mut self, ranks: Arc<dyn Communicator>) -> Result<()> {
        #[cfg(any(feature = "cuda", test))]
        self.settle(&*ranks)?;
        #[cfg(any(feature = "cuda", test))]
        if let Some(gpu) = &mut self.gpu {
            self.ranks = gpu.join(ranks, self.zero_stage, self.limit, self.travels)?;
            if let Some(watcher) = gpu.watcher() {
                self.objective.watch(watcher);
            }
            return Ok(());
        }
        if self.zero_stage > 0 && ranks.world_size() > 1 {
            let params = self.objective.params();
            let line = Arc::clone(&ranks);
            let shards = Shards::new(self.zero_stage, self.travels, line, params, &self.trained)?;
            let shards = Arc::new(shards);
            self.optimizer = self.optimizer.part(shards.spans())?;
            if shards.watches() {
                self.objective.watch(Arc::clone(&shards) as Arc<dyn Watcher>);
            }
            self.shards = Some(shards);
        }
        self.ranks = ranks;
        Ok(())
    }

    /// Brings weights that the ranks share out (`zero_stage` 3) back together on rank 0, or those of its GPU to the CPU, for as
    /// long as no step follows. All ranks must call it.
    pub fn gather(&self) -> Result<()> {
        #[cfg(any(feature = "cuda", test))]
        if let Some(gpu) = &self.gpu {
            return gpu.gather(self.objective.params());
        }
        self.shards.as_ref().map_or(Ok(()), |shards| shards.gather())
    }

    /// Finds out how ranks on GPUs reach each other, and says so where it is the slow way. All ranks must call it.
    #[cfg_attr(
        not(any(feature = "cuda", test)),
        expect(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "only GPUs have something to find out"
        )
    )]
    pub(crate) fn meet(&self) -> Result<Option<Issue>> {
        #[cfg(any(feature = "cuda", test))]
        if let Some(why) = self.gpu.as_ref().map_or(Ok(None), super::gpu::OnGpu::obstacle)? {
            let message = format!("gradients go from GPU to GPU through the hosts, which is slower: {why}");
            return Ok(Some(Issue::new(
                "train.through_hosts",
                Severity::Warning,
                message,
            )));
        }
        Ok(None)
    }

    /// Whether [`Stepper::gather`] has something to do.
    pub(crate) fn shares_weights(&self) -> bool {
        #[cfg(any(feature = "cuda", test))]
        if self.gpu.is_some() {
            return true;
        }
        self.shards.as_ref().is_some_and(|shards| shards.shares_weights())
    }

    /// Whether [`Stepper::moments`] must be called by all ranks.
    pub(crate) fn shares_optimizer(&self) -> bool {
        #[cfg(any(feature = "cuda", test))]
        if let Some(gpu) = &self.gpu {
            return gpu.shares_moments();
        }
        self.shards.is_some()
    }

    /// The optimizer's tensors by their names in a checkpoint. Where ranks share it out, all call this and rank 0 gets them.
    pub(crate) fn moments(&self) -> Result<Moments<'_>> {
        #[cfg(any(feature = "cuda", test))]
        if let Some(gpu) = &self.gpu {
            return gpu.moments(&self.trained, &self.optimizer);
        }
        if let Some(shards) = &self.shards {
            return shards.moments(&self.optimizer);
        }
        let tensors = self.optimizer.state_tensors().into_iter();
        Ok(tensors
            .map(|(name, floats)| (name, Cow::Borrowed(floats)))
            .collect())
    }

    /// Changes a weight, by its id.
    pub(crate) fn set_weight(&self, id: usize, value: &Tensor, floats: &[f32]) -> Result<()> {
        #[cfg(any(feature = "cuda", test))]
        if let Some(gpu) = &self.gpu {
            gpu.set_weight(id, floats)?;
        }
        let shared = match &self.shards {
            Some(shards) => shards.set(id, floats)?,
            None => false,
        };
        if !shared {
            update(value, |value| value.copy_from_slice(floats))?;
        }
        Ok(())
    }

    /// Bytes that this rank holds of weights, gradients and optimizer.
    pub fn held(&self) -> Result<Held> {
        let params = self.objective.params();
        if let Some(shards) = &self.shards {
            return shards.held(params, &self.optimizer);
        }
        Ok(Held {
            weights: params.count() * size_of::<f32>(),
            gradients: self.gradients.bytes(),
            optimizer: self.optimizer.bytes(),
        })
    }

    /// The ranks that train together.
    pub(crate) fn ranks(&self) -> &Arc<dyn Communicator> {
        &self.ranks
    }

    /// The encoder in its present state; its weights include those of a reranker's head. With `zero_stage` 3 they are
    /// there only after [`Stepper::gather`], on rank 0.
    pub fn model(&self) -> &Bert {
        self.objective.encoder()
    }

    /// The gradients of the last step, before clipping; by the ids of the model's weights. With `zero_stage` and several
    /// ranks, what this rank has added to them and still holds; of an encoder on a GPU those of a head alone.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// What is trained.
    pub(crate) fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Finished optimizer steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The optimizer, for checkpoints.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The optimizer, for taking up a checkpoint after `steps` finished steps of `micro_batches` micro-batches.
    pub fn resume(&mut self, steps: usize, micro_batches: usize) -> &mut AdamW {
        #[cfg(any(feature = "cuda", test))]
        if let Some(gpu) = &mut self.gpu {
            gpu.forget_moments();
        }
        self.steps = steps;
        self.forwards = micro_batches as u64;
        &mut self.optimizer
    }

    /// Runs the micro-batches of one step and updates the weights. The report is of all ranks.
    ///
    /// A loss or gradient that is not finite is an error and leaves weights and optimizer as they were.
    pub fn step<'a, B>(&mut self, batches: &'a [B]) -> Result<StepReport>
    where
        &'a B: Into<MicroBatch<'a>>,
    {
        let batches: Vec<MicroBatch<'a>> = batches.iter().map(Into::into).collect();
        #[cfg(any(feature = "cuda", test))]
        self.settle(&Solo)?;
        #[cfg(any(feature = "cuda", test))]
        if self.gpu.is_some() {
            return self.step_on_gpu(&batches);
        }
        let mut report = self.accumulate(&batches)?;
        if self.ranks.world_size() > 1 {
            self.agree(&mut report)?;
            self.reduce()?;
        }
        report.grad_norm = self.gradient_norm()?;
        if !report.grad_norm.is_finite() {
            return Err(self.not_finite("gradient norm", report.grad_norm));
        }
        self.apply(
            report.learning_rate,
            clip_factor(report.grad_norm, self.max_grad_norm),
        )?;
        self.count(&batches);
        Ok(report)
    }

    fn count(&mut self, batches: &[MicroBatch<'_>]) {
        self.steps += 1;
        self.forwards += batches.len() as u64;
    }

    /// The same with the gradients, the weights and the optimizer on a GPU.
    #[cfg(any(feature = "cuda", test))]
    fn step_on_gpu(&mut self, batches: &[MicroBatch<'_>]) -> Result<StepReport> {
        loop {
            if let Some(gpu) = &self.gpu {
                gpu.begin()?;
            }
            let mut report = self.accumulate(batches)?;
            if self.ranks.world_size() > 1 {
                self.agree(&mut report)?;
            }
            let params = self.objective.params();
            let Some(gpu) = &mut self.gpu else {
                return Err(Error::new(ErrorKind::Internal, "there is no GPU"));
            };
            let (norm, live) = gpu.norm(params, &self.trained, &self.gradients, &self.optimizer)?;
            report.grad_norm = norm;
            if norm.is_finite() {
                let (lr, clip) = (report.learning_rate, clip_factor(norm, self.max_grad_norm));
                gpu.apply(params, &self.trained, &live, &mut self.optimizer, lr, clip)?;
                self.count(batches);
                return Ok(report);
            }
            if !gpu.lower() {
                return Err(self.not_finite("gradient norm", norm));
            }
        }
    }

    /// Adds up the gradients of the micro-batches of a step.
    fn accumulate(&mut self, batches: &[MicroBatch<'_>]) -> Result<StepReport> {
        let share = 1.0 / batches.len().max(1) as f64;
        let mut report = StepReport {
            loss: 0.0,
            accuracy: 0.0,
            grad_norm: 0.0,
            learning_rate: self.schedule.lr(self.steps),
            tokens: batches.iter().map(MicroBatch::tokens).sum(),
        };
        self.gradients.clear();
        if let Some(shards) = &self.shards {
            shards.begin()?;
        }
        for (index, &batch) in batches.iter().enumerate() {
            #[cfg(any(feature = "cuda", test))]
            if let Some(gpu) = self.gpu.as_ref().filter(|_| index + 1 == batches.len()) {
                gpu.last_micro_batch();
            }
            let place = (self.steps as u64) << 16 | index as u64;
            let dropout = random::key(self.seed, Stream::Dropout, place);
            let turn = Turn {
                weight: share,
                dropout: Some(dropout),
                forwards: self.forwards + index as u64,
            };
            let measured = self
                .objective
                .accumulate(&*self.ranks, batch, turn, &mut self.gradients)?;
            if !measured.loss.is_finite() && self.ranks.world_size() == 1 {
                return Err(self.not_finite("loss", measured.loss));
            }
            report.loss += measured.loss * share;
            report.accuracy += measured.accuracy * share;
        }
        Ok(report)
    }

    /// [`Stepper::join`] through GPUs that reach each other.
    #[cfg(test)]
    pub(super) fn join_through(
        &mut self,
        nccl: impl FnOnce(Arc<dyn Gpu>) -> crate::distributed::Nccl,
    ) -> Result<()> {
        let placed = self.gpu.as_ref().map(super::gpu::OnGpu::device);
        let Some((gpu, _)) = placed.or_else(|| self.waiting.clone()) else {
            return Err(Error::new(ErrorKind::Internal, "there is no GPU"));
        };
        let nccl = Arc::new(nccl(gpu));
        self.settle(&*nccl)?;
        if let (Some(gpu), Some(encoder)) = (&mut self.gpu, self.objective.encoder().gpu()) {
            let between = super::between::Between::through(nccl, encoder.flat().0, self.travels);
            self.ranks = gpu.join_over(between, self.zero_stage)?;
            if let Some(watcher) = gpu.watcher() {
                self.objective.watch(watcher);
            }
        }
        Ok(())
    }

    /// Whether the last step summed gradients beside its backward.
    #[cfg(test)]
    pub(super) fn sums_beside(&self) -> bool {
        self.gpu.as_ref().is_some_and(super::gpu::OnGpu::sums_beside)
    }

    /// What the loss is scaled by, where it is.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn loss_scale(&self) -> Option<LossScale> {
        self.gpu.as_ref().and_then(super::gpu::OnGpu::loss_scale)
    }

    /// Goes on with the scale of a checkpoint, where there is one.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn set_loss_scale(&mut self, scale: Option<LossScale>) {
        if let (Some(gpu), Some(scale)) = (&mut self.gpu, scale) {
            gpu.set_loss_scale(scale);
        }
    }

    /// Makes the report that of all ranks together.
    fn agree(&self, report: &mut StepReport) -> Result<()> {
        let own = [report.loss, report.accuracy, report.tokens as f64];
        let all = self.ranks.gather_numbers(&own)?;
        let sum = |of: usize| all.iter().skip(of).step_by(own.len()).sum::<f64>();
        report.loss = sum(0);
        report.accuracy = sum(1);
        report.tokens = sum(2) as usize;
        if !report.loss.is_finite() {
            return Err(self.not_finite("loss", report.loss));
        }
        Ok(())
    }

    /// Makes the gradients those of all ranks together.
    fn reduce(&mut self) -> Result<()> {
        if let Some(shards) = &self.shards {
            return shards.finish(&mut self.gradients);
        }
        let params = self.objective.params();
        let (ranks, gradients) = (&*self.ranks, &mut self.gradients);
        reduce::all_reduce(ranks, gradients, params, &self.trained, self.travels)
    }

    fn gradient_norm(&self) -> Result<f64> {
        if let Some(shards) = &self.shards {
            return shards.norm();
        }
        let slices = self.trained.iter().filter_map(|&id| self.gradients.get(id));
        let slices = slices.map(read).collect::<Result<Vec<_>>>()?;
        Ok(global_norm(slices.iter().map(|slice| &**slice)))
    }

    fn apply(&mut self, lr: f64, scale: f32) -> Result<()> {
        if let Some(shards) = &self.shards {
            return shards.apply(&mut self.optimizer, lr, scale);
        }
        let values: Vec<_> = self
            .objective
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
        let alone = self.ranks.world_size() == 1;
        let way_out = match self.travels {
            NumberType::Fp16 if !alone && what == "gradient norm" => {
                "Gradients travel in fp16, which ends at 65504: give --communication_data_type bf16 or fp32. "
            }
            _ => "",
        };
        let message = format!(
            "the {what} of step {} is {value}; nothing was updated or written. {way_out}Lower --learning_rate or raise --warmup_ratio, \
             and check {}",
            self.steps + 1,
            self.objective.suspects()
        );
        Error::new(ErrorKind::NotFinite, message)
    }
}
