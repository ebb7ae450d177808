//! The named weights of a model, in one order.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::{ErrorKind, Result};

/// One weight: its place in the [`ParamStore`] and its values.
///
/// Clones share the values: an optimizer that changes them in place changes the model.
#[derive(Clone, Debug)]
pub struct Param {
    /// Index into the store, and into [`super::Gradients`].
    pub id: usize,
    /// The values, contiguous `f32`.
    pub value: Tensor,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    value: Tensor,
    trainable: bool,
}

/// All weights of a model ordered by name: the order of checkpoints, optimizer state and reductions.
#[derive(Clone, Debug, Default)]
pub struct ParamStore {
    entries: Vec<Entry>,
}

impl ParamStore {
    /// Takes the weights; all are trainable until [`ParamStore::freeze`] says otherwise.
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        let entries = tensors
            .into_iter()
            .map(|(name, value)| Entry {
                name,
                value,
                trainable: true,
            })
            .collect();
        Self { entries }
    }

    /// The weight of a name, with its shape checked; the error names what was expected and what is there.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Param> {
        use crate::error::Error;
        let Ok(id) = self
            .entries
            .binary_search_by(|entry| entry.name.as_str().cmp(name))
        else {
            return Err(Error::new(
                ErrorKind::ModelFormat,
                "the weights lack this tensor; the file is cut or belongs to another architecture",
            )
            .with_field(name));
        };
        let value = &self.entries[id].value;
        if value.dims() != shape {
            let message = format!(
                "the tensor has shape {:?}, but config.json asks for {shape:?}; weights and configuration do not belong together",
                value.dims()
            );
            return Err(Error::new(ErrorKind::ModelFormat, message).with_field(name));
        }
        Ok(Param {
            id,
            value: value.clone(),
        })
    }

    /// Whether a weight of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.entries
            .binary_search_by(|entry| entry.name.as_str().cmp(name))
            .is_ok()
    }

    /// Excludes from training every weight whose name matches.
    pub fn freeze(&mut self, matches: impl Fn(&str) -> bool) {
        for entry in &mut self.entries {
            entry.trainable &= !matches(&entry.name);
        }
    }

    /// All weights in order: (name, values, trainable).
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor, bool)> {
        self.entries
            .iter()
            .map(|entry| (entry.name.as_str(), &entry.value, entry.trainable))
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of single floats, trainable or not.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|entry| entry.value.elem_count()).sum()
    }
}
