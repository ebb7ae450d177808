//! A [`Bert`] that computes on a GPU: from its batches and weights to those of `cuda`.
//!
//! What leaves the encoder comes to the CPU, as does its gradient's way back; the gradients of the weights stay on the GPU, where
//! the optimizer is.
//!
//! To encode with, a model may have a copy on each of several GPUs; what trains has one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::batch::Batch;
use super::bert::{Bert, BertRecord};
use crate::cuda::{Encoder, Input, Outcome, Share, Sizes, gpu::Gpu, kernels::Variant};
use crate::error::Result;
use crate::nn::{Keep, Part, read, tensor};

/// Where and how precisely a model computes.
#[cfg(any(feature = "cuda", test))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The number of the device.
    pub(crate) number: usize,
    pub(crate) storage: crate::cuda::gpu::Storage,
    /// Whether products of f32 may round their factors to TF32.
    pub(crate) tf32: bool,
}

#[cfg(any(feature = "cuda", test))]
impl Placement {
    /// What settings ask for, on each of the devices, which count once; nothing on the CPU. `half` are those for f16 and bf16.
    pub(crate) fn of(devices: &[String], half: [bool; 2], tf32: bool) -> Vec<Self> {
        use crate::cuda::gpu::Storage;
        let storage = match half {
            [true, _] => Storage::F16,
            [_, true] => Storage::Bf16,
            _ => Storage::F32,
        };
        let on = |number| Self {
            number,
            storage,
            tf32,
        };
        crate::config::cuda_numbers(devices).into_iter().map(on).collect()
    }

    #[cfg(not(test))]
    fn open(self, variant: Variant) -> Result<Arc<dyn Gpu>> {
        let device = crate::cuda::Device::open(self.number, variant, self.tf32)?;
        Ok(Arc::new(device))
    }

    /// In tests of the library every device is an emulated one, unless they run on a real one.
    #[cfg(test)]
    fn open(self, variant: Variant) -> Result<Arc<dyn Gpu>> {
        use crate::error::{Error, ErrorKind};
        let missing = || Error::new(ErrorKind::Device, format!("nothing emulates {self:?}"));
        crate::cuda::emulator::emulator(variant).ok_or_else(missing)
    }
}

/// Copies of an encoder, one on each GPU; without any, the CPU computes.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    encoders: Vec<Arc<Encoder>>,
    /// The batches that each of them has now.
    batches: Mutex<Vec<usize>>,
}

/// A copy that has a batch until this is dropped.
#[derive(Debug)]
struct Taken<'a> {
    gpus: &'a Gpus,
    at: usize,
}

impl Gpus {
    fn of(encoders: Vec<Arc<Encoder>>) -> Self {
        Self {
            batches: Mutex::new(vec![0; encoders.len()]),
            encoders,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.encoders.len()
    }

    /// The copy that trains.
    pub(super) fn first(&self) -> Option<&Arc<Encoder>> {
        self.encoders.first()
    }

    /// The copy with the fewest batches takes one more.
    fn take(&self) -> Option<Taken<'_>> {
        let mut batches = self.batches();
        let (at, count) = batches.iter_mut().enumerate().min_by_key(|(_, count)| **count)?;
        *count += 1;
        Some(Taken { gpus: self, at })
    }

    fn batches(&self) -> MutexGuard<'_, Vec<usize>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken<'_> {
    fn encoder(&self) -> Option<&Arc<Encoder>> {
        self.gpus.encoders.get(self.at)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.gpus.batches().get_mut(self.at) {
            *count -= 1;
        }
    }
}

impl Bert {
    /// The encoder on the GPU, where that is where it computes; of several copies the first, with which it trains.
    pub(crate) fn gpu(&self) -> Option<&Arc<Encoder>> {
        self.gpus.first()
    }

    /// Computes on the CPU again.
    #[cfg(feature = "train")]
    pub(crate) fn leave_gpus(&mut self) {
        self.gpus = Arc::default();
    }

    /// Computes on CUDA devices from now on, with a copy on each.
    #[cfg(feature = "cuda")]
    pub(crate) fn move_to_cuda(&mut self, placements: &[Placement]) -> Result<()> {
        for &placement in placements {
            let (gpu, variant) = self.open_cuda(placement)?;
            self.move_to_gpu(gpu, variant, None)?;
        }
        Ok(())
    }

    /// A CUDA device with the kernels of this model, which does not yet compute there.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn open_cuda(&self, placement: Placement) -> Result<(Arc<dyn Gpu>, Variant)> {
        let config = self.config();
        let variant = Variant::new(placement.storage, config.hidden_size, config.num_attention_heads)?;
        Ok((placement.open(variant)?, variant))
    }

    /// Computes on a GPU whose kernels are those of `variant`, beside those where it has a copy already. What is frozen now
    /// stays so. With a share of the weights it runs only where other ranks bring theirs.
    pub(crate) fn move_to_gpu(
        &mut self,
        gpu: Arc<dyn Gpu>,
        variant: Variant,
        share: Option<Share>,
    ) -> Result<()> {
        let config = self.config();
        let sizes = Sizes {
            width: config.hidden_size,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            activation: config.hidden_act,
            eps: config.layer_norm_eps as f32,
            hidden_dropout: config.hidden_dropout_prob,
            attention_dropout: config.attention_probs_dropout_prob,
        };
        let encoder = Encoder::new(gpu, variant, sizes, self.params(), share)?;
        tracing::info!(device = encoder.device(), "the encoder computes on a GPU");
        let mut encoders = self.gpus.encoders.clone();
        encoders.push(Arc::new(encoder));
        self.gpus = Arc::new(Gpus::of(encoders));
        Ok(())
    }
}

fn input(batch: &Batch) -> Input<'_> {
    Input {
        rows: batch.rows(),
        offsets: batch.offsets(),
        identities: batch.identities(),
    }
}

/// [`Bert::forward_rows`] and [`Bert::vectors`] of an encoder on GPUs; nothing of one that is on none. `enter` hears which part is
/// about to run.
pub(super) fn forward(
    gpus: &Gpus,
    batch: &Batch,
    outcome: Outcome,
    keep: Keep,
    dropout: Option<u64>,
    enter: impl Fn(Part) -> Result<()>,
) -> Result<Option<(Tensor, Option<BertRecord>)>> {
    // A record goes back to where it was made.
    let taken = if keep == Keep::Nothing { gpus.take() } else { None };
    let Some(encoder) = taken.as_ref().and_then(Taken::encoder).or(gpus.first()) else {
        return Ok(None);
    };
    let (values, record) = encoder.forward(input(batch), outcome, keep, dropout, enter)?;
    let rows = match outcome {
        Outcome::Hidden => batch.tokens(),
        Outcome::First | Outcome::Pooled(_) => batch.texts(),
    };
    let width = values.len() / rows.max(1);
    let values = tensor(values, (rows, width))?;
    Ok(Some((values, record.map(BertRecord::on_gpu))))
}

/// The backward of [`forward`]; `done` hears which part has all its gradients.
pub(super) fn backward(
    encoder: &Encoder,
    batch: &Batch,
    record: crate::cuda::Record,
    gradient: &Tensor,
    enter: impl Fn(Part) -> Result<()>,
    done: impl FnMut(Part) -> Result<()>,
) -> Result<()> {
    encoder.backward(input(batch), record, &read(gradient)?, enter, done)
}

#[cfg(test)]
mod tests {
    use super::super::checks::{config, model, on_gpu};
    use super::*;
    use crate::cuda::gpu::Storage;

    #[test]
    fn a_batch_goes_to_the_gpu_that_has_the_fewest() {
        let one = on_gpu(model(&config("bert", 96, 3, 0.0)), Storage::F32);
        let Some(both) = one.and_then(|one| on_gpu(one, Storage::F32)) else {
            return;
        };
        let (first, second) = (both.gpus.take().unwrap(), both.gpus.take().unwrap());
        assert!(!Arc::ptr_eq(first.encoder().unwrap(), second.encoder().unwrap()));
        let place = second.at;
        drop(second);
        assert_eq!(both.gpus.take().unwrap().at, place);
        assert_eq!(
            *both.gpus.batches(),
            [usize::from(place != 0), usize::from(place != 1)]
        );
        assert!(Gpus::default().take().is_none());
    }
}
