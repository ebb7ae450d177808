//! The half of a step that happens on a GPU: loss scaling, the sum over the ranks, the norm, the update, and the moments.
//!
//! Ranks hold equal weights and gradients. With `zero_stage` 1 each has the moments of its block of the flat buffers, updates
//! that block, and gives it to the others. With stage 2 it has the gradients of that block alone: those of a layer are summed over
//! the ranks right after its backward, in each pass. Without, they are summed in the last pass, beside the backward of the layers that
//! follow, if the GPUs reach each other; otherwise at its end. With stage 3 it has the weights of that block alone, and those of a
//! layer are brought together before it runs; to evaluate and to save, rank 0 has all until the next step.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::between::Between;
use super::parts::Parts;
use super::state::LossScale;
use super::zero::Moments;
use crate::config::NumberType;
use crate::cuda::gpu::{Gpu, Storage};
use crate::cuda::kernels::{CHUNK, Variant};
use crate::cuda::{Encoder, Optimizer};
use crate::distributed::{Communicator, block, even};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Gradients, ParamStore, Watcher, read};
use crate::optim::AdamW;

/// What gradients are first multiplied by where they are stored as f16, as torch's `GradScaler` has it.
const FIRST_SCALE: LossScale = LossScale {
    scale: 65536.0,
    good_steps: 0,
};

/// Good steps after which the scale doubles.
const PATIENCE: usize = 2000;

/// An encoder on a GPU with what trains it.
#[derive(Debug)]
pub(super) struct OnGpu {
    encoder: Arc<Encoder>,
    /// The moments; none before the first update, and after they were loaded on the CPU.
    optimizer: Option<Optimizer>,
    /// What the loss is scaled by, where gradients are stored as f16.
    scale: Option<LossScale>,
    /// The other ranks, where there are any.
    between: Option<Arc<Between>>,
    /// The floats of each rank's block, where they share out the optimizer.
    blocks: Option<Vec<usize>>,
    /// Who sums the gradients of each part over the ranks during the backward.
    parts: Option<Arc<Parts>>,
}

/// The floats of each rank's block of flat buffers.
pub(super) fn blocks(floats: usize, world_size: usize) -> Vec<usize> {
    let chunks = even(floats / CHUNK, world_size).into_iter();
    chunks.map(|chunks| chunks * CHUNK).collect()
}

impl OnGpu {
    pub(super) fn new(encoder: Arc<Encoder>, storage: Storage) -> Self {
        Self {
            encoder,
            optimizer: None,
            scale: (storage == Storage::F16).then_some(FIRST_SCALE),
            between: None,
            blocks: None,
            parts: None,
        }
    }

    /// The GPU, and what its kernels were compiled for.
    pub(super) fn device(&self) -> (Arc<dyn Gpu>, Variant) {
        (Arc::clone(self.encoder.flat().0), self.encoder.variant())
    }

    /// Makes this one rank of several, which share out what the stage says, wait for each other for `limit` at most, and whose
    /// gradients travel so; the line that they speak on from here on.
    pub(super) fn join(
        &mut self,
        ranks: Arc<dyn Communicator>,
        zero_stage: usize,
        limit: Duration,
        travels: NumberType,
    ) -> Result<Arc<dyn Communicator>> {
        if ranks.world_size() == 1 {
            return Ok(ranks);
        }
        let between = Between::new(ranks, self.encoder.flat().0, limit, travels);
        self.join_over(between, zero_stage)
    }

    /// The same over a way that is there. With stage 3 the encoder was made with this rank's block alone.
    pub(super) fn join_over(&mut self, between: Between, zero_stage: usize) -> Result<Arc<dyn Communicator>> {
        let ranks = Arc::clone(between.ranks());
        let between = Arc::new(between);
        let mut kept = None;
        if zero_stage > 0 {
            let blocks = blocks(self.encoder.flat().1, ranks.world_size());
            if zero_stage > 1 {
                let (first, length) = block(&blocks, ranks.rank());
                self.encoder.keep_only(first..first + length)?;
                kept = Some(blocks.clone());
            }
            self.blocks = Some(blocks);
            self.optimizer = None;
        }
        let parts = Parts::new(Arc::clone(&self.encoder), Arc::clone(&between), kept);
        self.parts = Some(Arc::new(parts));
        self.between = Some(between);
        Ok(ranks)
    }

    /// Who must know which part of the network has its gradients.
    pub(super) fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        let parts = self.parts.as_ref();
        parts.map(|parts| Arc::clone(parts) as Arc<dyn Watcher>)
    }

    /// Why the GPUs of the ranks do not reach each other, where they should.
    pub(super) fn obstacle(&self) -> Result<Option<String>> {
        self.between
            .as_ref()
            .map_or(Ok(None), |between| between.obstacle())
    }

    /// Whether all ranks must come together for the moments.
    pub(super) fn shares_moments(&self) -> bool {
        self.blocks.is_some()
    }

    /// Forgets all gradients.
    pub(super) fn begin(&self) -> Result<()> {
        if let Some(parts) = &self.parts {
            parts.begin();
        }
        self.encoder.end_whole();
        self.encoder.clear_gradients(self.scale())
    }

    /// The micro-batch that follows is the last one of the step.
    pub(super) fn last_micro_batch(&self) {
        if let Some(parts) = &self.parts {
            parts.last_micro_batch();
        }
    }

    /// Halves the scale after a gradient that is not finite; `false` where that cannot be the reason.
    pub(super) fn lower(&mut self) -> bool {
        let Some(scale) = self.scale.as_mut().filter(|scale| scale.scale > 1.0) else {
            return false;
        };
        scale.scale /= 2.0;
        scale.good_steps = 0;
        true
    }

    /// What the loss is scaled by, where it is.
    pub(super) fn loss_scale(&self) -> Option<LossScale> {
        self.scale
    }

    /// Goes on with the scale of a checkpoint.
    pub(super) fn set_loss_scale(&mut self, saved: LossScale) {
        if let Some(scale) = &mut self.scale {
            *scale = saved;
        }
    }

    fn scale(&self) -> f32 {
        self.scale.map_or(1.0, |scale| scale.scale)
    }

    /// Whether the last step summed gradients beside its backward.
    #[cfg(test)]
    pub(super) fn sums_beside(&self) -> bool {
        self.parts.as_ref().is_some_and(|parts| parts.finish().unwrap())
    }

    /// Counts a good step.
    fn raise(&mut self) {
        let Some(scale) = &mut self.scale else { return };
        scale.good_steps += 1;
        if scale.good_steps >= PATIENCE {
            scale.scale *= 2.0;
            scale.good_steps = 0;
        }
    }

    /// Which weights take part in this step: of the trained ones those on the GPU, and those with a gradient on the CPU of any rank,
    /// which goes up.
    fn live(&self, params: &ParamStore, trained: &[usize], gradients: &Gradients) -> Result<Vec<bool>> {
        let inside: Vec<bool> = self.encoder.inside().collect();
        let mut known = Vec::with_capacity(trained.len());
        let inside = |id: usize| inside.get(id).copied().unwrap_or(false);
        let sharing = self.parts.as_ref().filter(|parts| parts.shares_out());
        for &id in trained {
            let gradient = gradients.get(id);
            if let (Some(gradient), None) = (gradient, sharing) {
                self.encoder.set_gradient(id, &read(gradient)?)?;
            }
            known.push(f32::from(u8::from(gradient.is_some() || inside(id))));
        }
        if let Some(between) = &self.between {
            between.ranks().all_reduce(&mut known, NumberType::Fp32)?;
        }
        let mut live = vec![false; params.len()];
        for (&id, known) in trained.iter().zip(known) {
            if let Some(live) = live.get_mut(id) {
                *live = known > 0.0;
            }
            if let Some(parts) = sharing.filter(|_| known > 0.0 && !inside(id)) {
                let mut floats = match gradients.get(id) {
                    Some(gradient) => read(gradient)?.to_vec(),
                    None => vec![0.0; self.encoder.floats(id).len()],
                };
                parts.sum_of_cpus(&mut floats, self.scale())?;
                self.encoder.set_gradient(id, &floats)?;
            }
        }
        Ok(live)
    }

    /// The norm of the whole gradient, which is that of all ranks from here on, and which weights take part.
    pub(super) fn norm(
        &mut self,
        params: &ParamStore,
        trained: &[usize],
        gradients: &Gradients,
        host: &AdamW,
    ) -> Result<(f64, Vec<bool>)> {
        self.moments_of(trained, host)?;
        let summed = match &self.parts {
            Some(parts) => parts.finish()?,
            None => false,
        };
        let live = self.live(params, trained, gradients)?;
        let join = |own: &[f64]| self.join_chunks(own);
        let Some(between) = &self.between else {
            return Ok((self.optimizer()?.norm(&self.encoder, &live, join)?, live));
        };
        if !self.parts.as_ref().is_some_and(|parts| parts.shares_out()) {
            let left = live.iter().zip(self.encoder.inside());
            let left: Vec<bool> = left.map(|(&live, inside)| live && !(inside && summed)).collect();
            let sums = self.encoder.gradients()?;
            for stretch in self.encoder.stretches(&left) {
                between.sum(sums.at(0), stretch)?;
            }
        }
        // Rank 0's norm is everyone's: GPUs of other kinds may round it otherwise.
        let own = self.optimizer()?.norm(&self.encoder, &live, join)?;
        let all = between.ranks().gather_numbers(&[own])?;
        Ok((all.first().copied().unwrap_or(own), live))
    }

    /// A number of each chunk, where this rank has those of its block.
    fn join_chunks(&self, own: &[f64]) -> Result<Vec<f64>> {
        let (Some(between), Some(blocks)) = (&self.between, &self.blocks) else {
            return Ok(own.to_vec());
        };
        let longest = blocks.iter().max().map_or(0, |longest| longest / CHUNK);
        let mut padded = own.to_vec();
        padded.resize(longest, 0.0);
        let all = between.ranks().gather_numbers(&padded)?;
        let chunks = all.chunks(longest.max(1)).zip(blocks);
        Ok(chunks
            .flat_map(|(all, floats)| all.iter().take(floats / CHUNK))
            .copied()
            .collect())
    }

    /// Updates the weights that take part; those that the CPU computes with come back to it.
    pub(super) fn apply(
        &mut self,
        params: &ParamStore,
        trained: &[usize],
        live: &[bool],
        host: &mut AdamW,
        lr: f64,
        clip: f32,
    ) -> Result<()> {
        let mut updates = vec![None; params.len()];
        for (index, &id) in trained.iter().enumerate() {
            if let (Some(true), Some(update)) = (live.get(id), updates.get_mut(id)) {
                host.count(index);
                *update = Some(host.gpu_update(index, lr));
            }
        }
        self.optimizer()?
            .step(&self.encoder, &updates, host.gpu_betas(), clip)?;
        if let (Some(between), Some(blocks)) = (&self.between, &self.blocks) {
            between.share(&self.encoder.updates(blocks, between.ranks().rank())?)?;
            self.encoder.renew_copies()?;
        }
        self.raise();
        self.encoder.download(params, |_, inside| !inside)
    }

    /// Writes the weights of rank 0 into those of its CPU; all ranks call this. Where each keeps a block, rank 0 has all of them until
    /// the next step.
    pub(super) fn gather(&self, params: &ParamStore) -> Result<()> {
        let ranks = self.between.as_ref().map(|between| between.ranks());
        let lead = ranks.is_none_or(|ranks| ranks.rank() == 0);
        if let (Some(between), Some(blocks), true) = (&self.between, &self.blocks, self.encoder.keeps_block())
        {
            let fresh = lead && self.encoder.make_whole()?;
            let own = |floats| self.encoder.masters(floats);
            between.gather(blocks, own, |first, floats| {
                if fresh {
                    self.encoder.put(first, floats)?;
                }
                Ok(())
            })?;
            self.encoder.renew_copies()?;
        }
        if lead {
            self.encoder.download(params, |_, inside| inside)?;
        }
        Ok(())
    }

    /// Changes a weight.
    pub(super) fn set_weight(&self, id: usize, floats: &[f32]) -> Result<()> {
        self.encoder.set(id, floats)
    }

    /// The moments are from now on those of the CPU's optimizer.
    pub(super) fn forget_moments(&mut self) {
        self.optimizer = None;
    }

    /// The moments by their names in a checkpoint. Where the ranks share them out, all call this and rank 0 gets them.
    pub(super) fn moments<'a>(&self, trained: &[usize], host: &'a AdamW) -> Result<Moments<'a>> {
        let Some(optimizer) = &self.optimizer else {
            let tensors = host.state_tensors().into_iter();
            return Ok(tensors
                .map(|(name, floats)| (name, Cow::Borrowed(floats)))
                .collect());
        };
        let mut tensors = Moments::new();
        for kind in [0, 1] {
            let of = |floats| optimizer.moments(&self.encoder, kind, floats);
            let mut whole = Vec::new();
            if let (Some(between), Some(blocks)) = (&self.between, &self.blocks) {
                let lead = between.ranks().rank() == 0;
                whole.resize(if lead { self.encoder.flat().1 } else { 0 }, 0.0_f32);
                between.gather(blocks, of, |first, floats| {
                    if let Some(place) = whole.get_mut(first..first + floats.len()) {
                        place.copy_from_slice(floats);
                    }
                    Ok(())
                })?;
                if !lead {
                    continue;
                }
            }
            for (parameter, &id) in host.parameters().iter().zip(trained) {
                let floats = self.encoder.floats(id);
                let values = match whole.get(floats.clone()) {
                    Some(values) => values.to_vec(),
                    None => of(floats)?,
                };
                let [first, second] = AdamW::state_names(parameter);
                tensors.insert(if kind == 0 { first } else { second }, Cow::Owned(values));
            }
        }
        Ok(tensors)
    }

    fn optimizer(&self) -> Result<&Optimizer> {
        let missing = || Error::new(ErrorKind::Internal, "the GPU has no moments");
        self.optimizer.as_ref().ok_or_else(missing)
    }

    /// Makes the moments where there are none: those of the CPU's optimizer.
    fn moments_of(&mut self, trained: &[usize], host: &AdamW) -> Result<()> {
        if self.optimizer.is_some() {
            return Ok(());
        }
        let own = match (&self.between, &self.blocks) {
            (Some(between), Some(blocks)) => {
                let (first, length) = block(blocks, between.ranks().rank());
                first..first + length
            }
            _ => 0..self.encoder.flat().1,
        };
        let optimizer = Optimizer::new(&self.encoder, own)?;
        if host.state_steps().values().any(|&steps| steps > 0) {
            let [first, second] = host.moments();
            let mut at = 0;
            for (parameter, &id) in host.parameters().iter().zip(trained) {
                let range = at..at + parameter.len;
                at = range.end;
                optimizer.set_moments(&self.encoder, id, [&first[range.clone()], &second[range]])?;
            }
        }
        self.optimizer = Some(optimizer);
        Ok(())
    }
}
