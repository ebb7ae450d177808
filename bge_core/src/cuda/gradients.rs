//! Where the backward of an encoder adds up gradients: all of them, or a part at a time, of which only a stretch is kept.

use std::ops::Range;
use std::sync::Arc;

use super::encoder::Encoder;
use super::gpu::{Arg, Memory};
use super::kernels::THREADS;
use crate::error::Result;
use crate::nn::Part;

/// The gradients of an encoder, whose memory is taken when it is first needed.
#[derive(Debug)]
pub(super) struct Gradients {
    kept: Option<Arc<Memory>>,
    /// The floats of the flat buffers that are kept.
    range: Range<usize>,
    /// Where the parts have their turns, if not all is kept.
    turn: Option<Arc<Memory>>,
    /// What they are multiplied by.
    scale: f32,
}

/// A stretch of the flat gradients.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    memory: Arc<Memory>,
    range: Range<usize>,
    /// What they are multiplied by.
    pub(crate) scale: f32,
}

impl Stretch {
    /// The place of a float of the flat buffers.
    pub(crate) fn at(&self, float: usize) -> u64 {
        debug_assert!(self.range.start <= float && float <= self.range.end);
        self.memory.at((float - self.range.start) * size_of::<f32>())
    }

    /// The floats of the flat buffers that are here.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl Gradients {
    /// All `floats` of them.
    pub(super) fn new(floats: usize) -> Self {
        Self {
            kept: None,
            range: 0..floats,
            turn: None,
            scale: 1.0,
        }
    }

    pub(super) fn scale(&self) -> f32 {
        self.scale
    }
}

impl Encoder {
    /// Keeps these floats of the gradients alone from now on: whoever runs a backward must take them out of each part
    /// ([`Encoder::keep`]) before the next one has its turn.
    #[cfg(feature = "train")]
    pub(crate) fn keep_only(&self, range: Range<usize>) -> Result<()> {
        let parts = self.store.layout.parts().map(|(_, floats)| floats.len());
        let turn = self.zeros(parts.max().unwrap_or(0))?;
        let gradients = &mut *self.sums();
        *gradients = Gradients {
            range,
            turn: Some(turn),
            ..Gradients::new(0)
        };
        Ok(())
    }

    /// Forgets all gradients; the next ones are multiplied by `scale`.
    pub(crate) fn clear_gradients(&self, scale: f32) -> Result<()> {
        let mut gradients = self.sums();
        gradients.scale = scale;
        for memory in gradients.kept.iter().chain(&gradients.turn) {
            self.ops.gpu.zero(memory.address(), memory.bytes())?;
        }
        Ok(())
    }

    /// The gradients that are kept.
    pub(crate) fn gradients(&self) -> Result<Stretch> {
        let gradients = &mut *self.sums();
        let range = gradients.range.clone();
        let memory = match &gradients.kept {
            Some(memory) => Arc::clone(memory),
            None => Arc::clone(gradients.kept.insert(self.zeros(range.len())?)),
        };
        Ok(Stretch {
            memory,
            range,
            scale: gradients.scale,
        })
    }

    /// Where the gradients of a part are added up.
    pub(crate) fn gradients_of(&self, part: Part) -> Result<Stretch> {
        let gradients = self.sums();
        let Some(turn) = &gradients.turn else {
            drop(gradients);
            return self.gradients();
        };
        Ok(Stretch {
            memory: Arc::clone(turn),
            range: self.store.layout.part(part),
            scale: gradients.scale,
        })
    }

    /// Adds what is to be kept of a part to what is kept, and makes room for the next part.
    #[cfg(feature = "train")]
    pub(crate) fn keep(&self, part: &Stretch) -> Result<()> {
        let kept = self.gradients()?;
        let (start, end) = (
            part.range.start.max(kept.range.start),
            part.range.end.min(kept.range.end),
        );
        if start < end {
            let count = end - start;
            let args = [
                Arg::Place(part.at(start)),
                Arg::U64(count as u64),
                Arg::Place(kept.at(start)),
            ];
            let blocks = count.div_ceil(THREADS);
            self.ops.gpu.launch("add_floats", [blocks, 1], &args)?;
        }
        let bytes = part.range.len() * size_of::<f32>();
        self.ops.gpu.zero(part.memory.address(), bytes)
    }

    /// Puts a gradient that the CPU has computed in its place, as far as it is kept.
    pub(crate) fn set_gradient(&self, id: usize, gradient: &[f32]) -> Result<()> {
        use super::gpu::Plain;
        let (kept, place) = (self.gradients()?, self.floats(id));
        let (start, end) = (place.start.max(kept.range.start), place.end.min(kept.range.end));
        let Some(here) = gradient.get(start.saturating_sub(place.start)..end.saturating_sub(place.start))
        else {
            return Ok(());
        };
        if here.is_empty() {
            return Ok(());
        }
        let scaled: Vec<f32> = here.iter().map(|x| x * kept.scale).collect();
        self.ops.gpu.upload(kept.at(start), f32::bytes(&scaled))
    }

    /// The gradient of a weight.
    #[cfg(test)]
    pub(crate) fn gradient(&self, id: usize) -> Result<Vec<f32>> {
        let (kept, place) = (self.gradients()?, self.floats(id));
        let values: Vec<f32> = super::gpu::read_values(&self.ops.gpu, kept.at(place.start), place.len())?;
        Ok(values.iter().map(|x| x / kept.scale).collect())
    }

    fn zeros(&self, floats: usize) -> Result<Arc<Memory>> {
        let memory = self.ops.floats(floats)?;
        self.ops.gpu.zero(memory.address(), memory.bytes())?;
        Ok(Arc::new(memory))
    }
}
