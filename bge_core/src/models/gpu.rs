//! A [`Bert`] that computes on a GPU: from its batches and weights to those of `cuda`.
//!
//! What leaves the encoder comes to the CPU, as does its gradient's way back; the gradients of the weights stay on the GPU, where
//! the optimizer is.

use std::sync::Arc;

use candle_core::Tensor;

use super::batch::Batch;
use super::bert::{Bert, BertRecord};
use crate::cuda::{Encoder, Input, Outcome, Sizes, gpu::Gpu, kernels::Variant};
use crate::error::Result;
use crate::nn::{Keep, read, tensor};

/// Where and how precisely a model computes.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The number of the device.
    pub(crate) number: usize,
    pub(crate) storage: crate::cuda::gpu::Storage,
    /// Whether products of f32 may round their factors to TF32.
    pub(crate) tf32: bool,
}

#[cfg(feature = "cuda")]
impl Placement {
    /// What settings ask for; `None` for the CPU. `half` are those for f16 and bf16.
    pub(crate) fn of(devices: &[String], half: [bool; 2], tf32: bool) -> Option<Self> {
        use crate::cuda::gpu::Storage;
        let number = devices
            .first()
            .and_then(|name| crate::config::cuda_number(name))?;
        let storage = match half {
            [true, _] => Storage::F16,
            [_, true] => Storage::Bf16,
            _ => Storage::F32,
        };
        Some(Self {
            number,
            storage,
            tf32,
        })
    }
}

impl Bert {
    /// The encoder on the GPU, where that is where it computes.
    pub(crate) fn gpu(&self) -> Option<&Arc<Encoder>> {
        self.gpu.as_ref()
    }

    /// Computes on a CUDA device from now on.
    #[cfg(feature = "cuda")]
    pub(crate) fn move_to_cuda(&mut self, placement: Placement) -> Result<()> {
        let config = self.config();
        let variant = Variant::new(placement.storage, config.hidden_size, config.num_attention_heads)?;
        let device = crate::cuda::Device::open(placement.number, variant, placement.tf32)?;
        self.move_to_gpu(Arc::new(device), variant)
    }

    /// Computes on a GPU whose kernels are those of `variant`. What is frozen now stays so.
    pub(crate) fn move_to_gpu(&mut self, gpu: Arc<dyn Gpu>, variant: Variant) -> Result<()> {
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
        let encoder = Encoder::new(gpu, variant, sizes, self.params())?;
        tracing::info!(device = encoder.device(), "the encoder computes on a GPU");
        self.gpu = Some(Arc::new(encoder));
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

/// [`Bert::forward_rows`] and [`Bert::vectors`] of an encoder on a GPU.
pub(super) fn forward(
    encoder: &Encoder,
    batch: &Batch,
    outcome: Outcome,
    keep: Keep,
    dropout: Option<u64>,
) -> Result<(Tensor, Option<BertRecord>)> {
    let (values, record) = encoder.forward(input(batch), outcome, keep, dropout)?;
    let rows = match outcome {
        Outcome::Hidden => batch.tokens(),
        Outcome::First | Outcome::Pooled(_) => batch.texts(),
    };
    let width = values.len() / rows.max(1);
    Ok((tensor(values, (rows, width))?, record.map(BertRecord::on_gpu)))
}

/// The backward of [`forward`].
pub(super) fn backward(
    encoder: &Encoder,
    batch: &Batch,
    record: crate::cuda::Record,
    gradient: &Tensor,
) -> Result<()> {
    encoder.backward(input(batch), record, &read(gradient)?)
}
