//! `AdamW` over the flat buffers of a GPU, and the length of the whole gradient.

use std::ops::Range;

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

/// The moments of the weights of an [`Encoder`], all or a stretch of them; the weights and gradients are the encoder's.
#[derive(Debug)]
pub(crate) struct Optimizer {
    first: Memory,
    second: Memory,
    /// The weight that each chunk of the flat buffers belongs to.
    chunks: Memory,
    count: usize,
    /// The floats of the flat buffers that have moments here.
    own: Range<usize>,
}

impl Optimizer {
    /// Moments of zero for these floats of the flat buffers, which begin and end with chunks.
    pub(crate) fn new(encoder: &Encoder, own: Range<usize>) -> Result<Self> {
        let (ops, layout) = (&encoder.ops, &encoder.store.layout);
        let zeros = || {
            let memory = ops.floats(own.len())?;
            ops.gpu.zero(memory.address(), memory.bytes())?;
            Ok::<_, crate::Error>(memory)
        };
        let chunks = layout.chunks();
        Ok(Self {
            first: zeros()?,
            second: zeros()?,
            chunks: memory_of(&ops.gpu, &chunks)?,
            count: chunks.len(),
            own,
        })
    }

    /// The Euclidean norm of the gradients of the weights that take part, summed in f64 in one order.
    ///
    /// A NaN or an infinity anywhere makes it not finite. Where the encoder keeps a stretch of the gradients, `join` gets the sums
    /// of that stretch's chunks and brings those of all chunks.
    pub(crate) fn norm(
        &self,
        encoder: &Encoder,
        live: &[bool],
        join: impl FnOnce(&[f64]) -> Result<Vec<f64>>,
    ) -> Result<f64> {
        let gpu = &encoder.ops.gpu;
        let gradients = encoder.gradients()?;
        let (first, count) = (gradients.range().start / CHUNK, gradients.range().len() / CHUNK);
        let live: Vec<u32> = live.iter().map(|&live| u32::from(live)).collect();
        let live = memory_of(gpu, &live)?;
        let blocks = self.count.div_ceil(CHUNK);
        let sums = gpu.alloc(self.count * size_of::<f64>())?;
        let whole = gpu.alloc(blocks * size_of::<f64>())?;
        let args = [
            Arg::Place(gradients.at(first * CHUNK)),
            Arg::Place(self.chunks.at(first * size_of::<u32>())),
            (&live).into(),
            Arg::Place(sums.at(first * size_of::<f64>())),
        ];
        gpu.launch("squares", [count, 1], &args)?;
        if count < self.count {
            let own: Vec<f64> = read_values(gpu, sums.at(first * size_of::<f64>()), count)?;
            let all = join(&own)?;
            if all.len() != self.count {
                bail!(Internal, "{} sums do not fit {} chunks", all.len(), self.count);
            }
            gpu.upload(sums.address(), f64::bytes(&all))?;
        }
        let args = [(&sums).into(), (self.count as u32).into(), (&whole).into()];
        gpu.launch("sum_squares", [blocks, 1], &args)?;
        let sums: Vec<f64> = read_values(gpu, whole.address(), blocks)?;
        Ok(sums.iter().sum::<f64>().sqrt() / f64::from(gradients.scale))
    }

    /// Updates what has moments here of every weight for which there is an update, in the order of the encoder's; every gradient
    /// is multiplied by `clip`.
    pub(crate) fn step(
        &self,
        encoder: &Encoder,
        updates: &[Option<Update>],
        betas: Betas,
        clip: f32,
    ) -> Result<()> {
        let (ops, store) = (&encoder.ops, &encoder.store);
        let gradients = encoder.gradients()?;
        let numbers = |update: &Option<Update>| {
            update.map_or([1.0, 1.0, 0.0, 0.0], |update| {
                [update.keep, update.root_correction, update.step, 1.0]
            })
        };
        let scalars: Vec<f32> = updates.iter().flat_map(numbers).collect();
        let scalars = memory_of(&ops.gpu, &scalars)?;
        // The kernel counts from the first float of the stretch.
        let (first, half) = (self.own.start, store.layout.half());
        let args = [
            Arg::Place(store.master(first)),
            Arg::Place(gradients.at(first)),
            (&self.first).into(),
            (&self.second).into(),
            Arg::Place(store.copies(first)),
            Arg::U64(half.start.saturating_sub(first) as u64),
            Arg::U64(half.end.saturating_sub(first) as u64),
            Arg::Place(self.chunks.at(first / CHUNK * size_of::<u32>())),
            (&scalars).into(),
            (clip / gradients.scale).into(),
            betas.beta1.into(),
            betas.take1.into(),
            betas.beta2.into(),
            betas.take2.into(),
            betas.epsilon.into(),
        ];
        ops.gpu.launch("adamw", [self.own.len() / CHUNK, 1], &args)
    }

    /// First or second moments (0 or 1) of floats that have some here.
    pub(crate) fn moments(&self, encoder: &Encoder, kind: usize, floats: Range<usize>) -> Result<Vec<f32>> {
        let memory = [&self.first, &self.second][kind.min(1)];
        let at = (floats.start - self.own.start) * size_of::<f32>();
        read_values(&encoder.ops.gpu, memory.at(at), floats.len())
    }

    /// Changes both moments of a weight, as far as they are here.
    pub(crate) fn set_moments(&self, encoder: &Encoder, id: usize, moments: [&[f32]; 2]) -> Result<()> {
        let place = encoder.floats(id);
        if moments.iter().any(|moments| moments.len() != place.len()) {
            let len = moments[0].len();
            bail!(
                Internal,
                "moments of {len} numbers do not fit a weight of {}",
                place.len()
            );
        }
        let (start, end) = (place.start.max(self.own.start), place.end.min(self.own.end));
        if start >= end {
            return Ok(());
        }
        let at = (start - self.own.start) * size_of::<f32>();
        for (memory, moments) in [&self.first, &self.second].into_iter().zip(moments) {
            let here = &moments[start - place.start..end - place.start];
            encoder.ops.gpu.upload(memory.at(at), f32::bytes(here))?;
        }
        Ok(())
    }
}
