//! `AdamW` over the flat buffers of a GPU, and the length of the whole gradient.

use super::encoder::Encoder;
use super::gpu::{Arg, Memory, Plain, memory_of, read_values};
use super::kernels::CHUNK;
use crate::error::{Result, bail};

/// What an update needs to know of one weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Update {
    /// What weight decay leaves of a weight.
    pub(crate) keep: f32,
    /// Square root of the second moment's bias correction.
    pub(crate) root_correction: f32,
    /// Minus the learning rate over the first moment's bias correction.
    pub(crate) step: f32,
}

/// What an update needs to know of all weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Betas {
    pub(crate) beta1: f32,
    /// `1 - beta1`, computed in f64.
    pub(crate) take1: f32,
    pub(crate) beta2: f32,
    /// `1 - beta2`, computed in f64.
    pub(crate) take2: f32,
    pub(crate) epsilon: f32,
}

/// The moments of all weights of an [`Encoder`]; the weights and gradients are the encoder's.
#[derive(Debug)]
pub(crate) struct Optimizer {
    first: Memory,
    second: Memory,
    /// The weight that each chunk of the flat buffers belongs to.
    chunks: Memory,
    count: usize,
}

impl Optimizer {
    /// Moments of zero.
    pub(crate) fn new(encoder: &Encoder) -> Result<Self> {
        let (ops, layout) = (&encoder.ops, &encoder.store.layout);
        let zeros = || {
            let memory = ops.floats(layout.floats())?;
            ops.gpu.zero(memory.address(), memory.bytes())?;
            Ok::<_, crate::Error>(memory)
        };
        let chunks = layout.chunks();
        Ok(Self {
            first: zeros()?,
            second: zeros()?,
            chunks: memory_of(&ops.gpu, &chunks)?,
            count: chunks.len(),
        })
    }

    /// The Euclidean norm of the gradients of the weights that take part, summed in f64 in one order.
    ///
    /// A NaN or an infinity anywhere makes it not finite.
    pub(crate) fn norm(&self, encoder: &Encoder, live: &[bool]) -> Result<f64> {
        let gpu = &encoder.ops.gpu;
        let (gradients, scale) = encoder.gradients()?;
        let live: Vec<u32> = live.iter().map(|&live| u32::from(live)).collect();
        let live = memory_of(gpu, &live)?;
        let blocks = self.count.div_ceil(CHUNK);
        let sums = gpu.alloc(self.count * size_of::<f64>())?;
        let whole = gpu.alloc(blocks * size_of::<f64>())?;
        let args = [
            (&*gradients).into(),
            (&self.chunks).into(),
            (&live).into(),
            (&sums).into(),
        ];
        gpu.launch("squares", [self.count, 1], &args)?;
        let args = [(&sums).into(), (self.count as u32).into(), (&whole).into()];
        gpu.launch("sum_squares", [blocks, 1], &args)?;
        let sums: Vec<f64> = read_values(gpu, whole.address(), blocks)?;
        Ok(sums.iter().sum::<f64>().sqrt() / f64::from(scale))
    }

    /// Updates every weight for which there is an update, in the order of the encoder's; every gradient is multiplied by `clip`.
    pub(crate) fn step(
        &self,
        encoder: &Encoder,
        updates: &[Option<Update>],
        betas: Betas,
        clip: f32,
    ) -> Result<()> {
        let (ops, store) = (&encoder.ops, &encoder.store);
        let (gradients, scale) = encoder.gradients()?;
        let numbers = |update: &Option<Update>| {
            update.map_or([1.0, 1.0, 0.0, 0.0], |update| {
                [update.keep, update.root_correction, update.step, 1.0]
            })
        };
        let scalars: Vec<f32> = updates.iter().flat_map(numbers).collect();
        let scalars = memory_of(&ops.gpu, &scalars)?;
        let half = store.layout.half();
        let args = [
            (&store.flat).into(),
            (&*gradients).into(),
            (&self.first).into(),
            (&self.second).into(),
            store.half.as_ref().into(),
            Arg::U64(half.start as u64),
            Arg::U64(half.end as u64),
            (&self.chunks).into(),
            (&scalars).into(),
            (clip / scale).into(),
            betas.beta1.into(),
            betas.take1.into(),
            betas.beta2.into(),
            betas.take2.into(),
            betas.epsilon.into(),
        ];
        ops.gpu.launch("adamw", [self.count, 1], &args)
    }

    /// Both moments of a weight.
    pub(crate) fn moments(&self, encoder: &Encoder, id: usize) -> Result<[Vec<f32>; 2]> {
        let (at, len) = place(encoder, id)?;
        let read = |of: &Memory| read_values(&encoder.ops.gpu, of.at(at), len);
        Ok([read(&self.first)?, read(&self.second)?])
    }

    /// Changes both moments of a weight.
    pub(crate) fn set_moments(
        &self,
        encoder: &Encoder,
        id: usize,
        [first, second]: [&[f32]; 2],
    ) -> Result<()> {
        let (at, len) = place(encoder, id)?;
        if first.len() != len || second.len() != len {
            bail!(
                Internal,
                "moments of {} numbers do not fit a weight of {len}",
                first.len()
            );
        }
        let gpu = &encoder.ops.gpu;
        gpu.upload(self.first.at(at), f32::bytes(first))?;
        gpu.upload(self.second.at(at), f32::bytes(second))
    }
}

/// The first byte of a weight in a flat buffer, and its floats.
fn place(encoder: &Encoder, id: usize) -> Result<(usize, usize)> {
    match encoder.store.layout.places().get(id) {
        Some(place) => Ok((place.first * size_of::<f32>(), place.len)),
        None => bail!(Internal, "there is no weight {id}"),
    }
}
