//! One gradient per trainable weight, summed in place and reused from step to step.

use candle_core::Tensor;

use super::params::{Param, ParamStore};
use super::{read, tensor, update};
use crate::error::Result;

#[derive(Debug)]
struct Slot {
    value: Option<Tensor>,
    /// Whether anything was added since the last [`Gradients::clear`]; if not, the memory holds old numbers.
    live: bool,
    trainable: bool,
}

/// The gradients of a [`ParamStore`], by the ids of its weights.
#[derive(Debug)]
pub struct Gradients {
    slots: Vec<Slot>,
}

impl Gradients {
    /// No gradients yet; memory comes with the first contribution to each weight.
    pub fn new(params: &ParamStore) -> Self {
        let slots = params.iter().map(|(_, _, trainable)| Slot {
            value: None,
            live: false,
            trainable,
        });
        Self {
            slots: slots.collect(),
        }
    }

    /// Whether this weight is trained; a frozen one needs no gradient work.
    pub fn wants(&self, param: &Param) -> bool {
        self.slots.get(param.id).is_some_and(|slot| slot.trainable)
    }

    /// Contributes to a weight's gradient: `write(values, add)` adds when `add` is true, and otherwise
    /// overwrites all of `values`, whose old contents mean nothing.
    pub(crate) fn contribute(&mut self, param: &Param, write: impl FnOnce(&mut [f32], bool)) -> Result<()> {
        let Some(slot) = self.slots.get_mut(param.id).filter(|slot| slot.trainable) else {
            return Ok(());
        };
        if slot.value.is_none() {
            slot.value = Some(tensor(
                vec![0.0; param.value.elem_count()],
                param.value.shape().clone(),
            )?);
        }
        if let Some(value) = &slot.value {
            let add = slot.live;
            update(value, |values| write(values, add))?;
            slot.live = true;
        }
        Ok(())
    }

    /// Adds finished numbers to a weight's gradient.
    pub(crate) fn add(&mut self, param: &Param, numbers: &[f32]) -> Result<()> {
        self.contribute(param, |values, add| {
            if add {
                values.iter_mut().zip(numbers).for_each(|(sum, x)| *sum += x);
            } else {
                values.copy_from_slice(numbers);
            }
        })
    }

    /// Puts finished numbers in the place of a weight's gradient.
    pub(crate) fn replace(&mut self, param: &Param, numbers: &[f32]) -> Result<()> {
        self.contribute(param, |values, _| values.copy_from_slice(numbers))
    }

    /// Forgets a weight's gradient and its memory.
    pub(crate) fn release(&mut self, id: usize) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.value = None;
            slot.live = false;
        }
    }

    /// Bytes of all gradients that have memory.
    pub(crate) fn bytes(&self) -> usize {
        let floats = |slot: &Slot| slot.value.as_ref().map_or(0, Tensor::elem_count);
        self.slots.iter().map(floats).sum::<usize>() * size_of::<f32>()
    }

    /// Forgets all contributions and keeps the memory for the next step.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            slot.live = false;
        }
    }

    /// The gradient of the weight with this id, if anything contributed to it.
    pub fn get(&self, id: usize) -> Option<&Tensor> {
        self.slots
            .get(id)
            .filter(|slot| slot.live)
            .and_then(|slot| slot.value.as_ref())
    }

    /// Copies a gradient out; for tests and tools.
    pub fn to_vec(&self, id: usize) -> Result<Option<Vec<f32>>> {
        self.get(id)
            .map(|gradient| Ok(read(gradient)?.to_vec()))
            .transpose()
    }
}
