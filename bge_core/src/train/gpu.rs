//! The half of a step that happens on a GPU: loss scaling, the norm, the update, and the moments.

use std::borrow::Cow;
use std::sync::Arc;

use super::zero::Moments;
use crate::cuda::gpu::Storage;
use crate::cuda::{Encoder, Optimizer};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Gradients, ParamStore, read};
use crate::optim::AdamW;

/// What gradients are first multiplied by where they are stored as f16, as torch's `GradScaler` has it.
const FIRST_SCALE: f32 = 65536.0;

/// Good steps after which the scale doubles.
const PATIENCE: usize = 2000;

/// An encoder on a GPU with what trains it.
#[derive(Debug)]
pub(super) struct OnGpu {
    encoder: Arc<Encoder>,
    /// The moments; none before the first update, and after they were loaded on the CPU.
    optimizer: Option<Optimizer>,
    scale: f32,
    /// Steps since the scale changed.
    good: usize,
}

impl OnGpu {
    pub(super) fn new(encoder: Arc<Encoder>, storage: Storage) -> Self {
        Self {
            encoder,
            optimizer: None,
            scale: if storage == Storage::F16 { FIRST_SCALE } else { 1.0 },
            good: 0,
        }
    }

    /// Forgets all gradients.
    pub(super) fn begin(&self) -> Result<()> {
        self.encoder.clear_gradients(self.scale)
    }

    /// Halves the scale after a gradient that is not finite; `false` where that cannot be the reason.
    pub(super) fn lower(&mut self) -> bool {
        self.good = 0;
        let scaled = self.scale > 1.0;
        if scaled {
            self.scale /= 2.0;
        }
        scaled
    }

    /// Counts a good step.
    fn raise(&mut self) {
        self.good += 1;
        if self.good == PATIENCE && self.scale > 1.0 {
            self.good = 0;
            self.scale *= 2.0;
        }
    }

    /// Which weights take part in this step: of the trained ones those on the GPU, and those with a gradient on the CPU, which goes
    /// up.
    fn live(&self, params: &ParamStore, trained: &[usize], gradients: &Gradients) -> Result<Vec<bool>> {
        let mut live = vec![false; params.len()];
        let inside: Vec<bool> = self.encoder.inside().collect();
        for &id in trained {
            if let Some(gradient) = gradients.get(id) {
                self.encoder.set_gradient(id, &read(gradient)?)?;
            } else if !inside.get(id).copied().unwrap_or(false) {
                continue;
            }
            if let Some(live) = live.get_mut(id) {
                *live = true;
            }
        }
        Ok(live)
    }

    /// The norm of the whole gradient, and which weights take part.
    pub(super) fn norm(
        &mut self,
        params: &ParamStore,
        trained: &[usize],
        gradients: &Gradients,
        host: &AdamW,
    ) -> Result<(f64, Vec<bool>)> {
        self.moments_of(trained, host)?;
        let live = self.live(params, trained, gradients)?;
        let norm = self.optimizer()?.norm(&self.encoder, &live)?;
        Ok((norm, live))
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
        self.raise();
        self.encoder.download(params, |_, inside| !inside)
    }

    /// Writes the weights into those of the CPU.
    pub(super) fn gather(&self, params: &ParamStore) -> Result<()> {
        self.encoder.download(params, |_, inside| inside)
    }

    /// Changes a weight.
    pub(super) fn set_weight(&self, id: usize, floats: &[f32]) -> Result<()> {
        self.encoder.set(id, floats)
    }

    /// The moments are from now on those of the CPU's optimizer.
    pub(super) fn forget_moments(&mut self) {
        self.optimizer = None;
    }

    /// The moments by their names in a checkpoint.
    pub(super) fn moments<'a>(&self, trained: &[usize], host: &'a AdamW) -> Result<Moments<'a>> {
        let Some(optimizer) = &self.optimizer else {
            let tensors = host.state_tensors().into_iter();
            return Ok(tensors
                .map(|(name, floats)| (name, Cow::Borrowed(floats)))
                .collect());
        };
        let mut tensors = Moments::new();
        for (parameter, &id) in host.parameters().iter().zip(trained) {
            let moments = optimizer.moments(&self.encoder, id)?;
            for (name, values) in AdamW::state_names(parameter).into_iter().zip(moments) {
                tensors.insert(name, Cow::Owned(values));
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
        let optimizer = Optimizer::new(&self.encoder)?;
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
