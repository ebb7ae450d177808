//! Where each weight lies in the flat buffers of a GPU.

use std::collections::BTreeMap;
use std::ops::Range;

use super::kernels::CHUNK;
use crate::nn::{ParamStore, Part};

/// The weights of a [`ParamStore`] one after another in its order, each from a multiple of [`CHUNK`] on.
#[derive(Debug)]
pub(crate) struct Layout {
    places: Vec<Place>,
    floats: usize,
    /// The floats of which there are copies in the storage type: those of the layers.
    half: Range<usize>,
    /// The floats of the embeddings, with their norm, and of each layer.
    parts: BTreeMap<Part, Range<usize>>,
}

/// One weight.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Its first float.
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) trainable: bool,
    /// Whether the GPU computes with it, and not the CPU: weights of embeddings and layers.
    pub(crate) inside: bool,
    pub(crate) part: Part,
    /// Its first float, counted from that of its part.
    pub(crate) in_part: usize,
    /// Of a small weight, its first float among the small ones: vectors, and all that the CPU computes with.
    pub(crate) small: Option<usize>,
}

/// Floats of a flat buffer of these weights.
#[cfg(feature = "train")]
pub(crate) fn flat_floats(params: &ParamStore) -> usize {
    Layout::new(params).floats()
}

/// The part of `floats` that lies within `bounds`.
pub(crate) fn overlap(floats: &Range<usize>, bounds: &Range<usize>) -> Range<usize> {
    let start = floats.start.clamp(bounds.start, bounds.end);
    start..floats.end.clamp(start, bounds.end)
}

impl Layout {
    pub(crate) fn new(params: &ParamStore) -> Self {
        let (mut floats, mut small) = (0, 0);
        let mut half: Option<Range<usize>> = None;
        let mut places = Vec::with_capacity(params.len());
        let mut parts = BTreeMap::new();
        for (name, value, trainable) in params.iter() {
            let (first, len) = (floats, value.elem_count());
            let padded = len.next_multiple_of(CHUNK);
            floats += padded;
            let layer = name.starts_with("encoder.layer.");
            let tables = name.starts_with("embeddings.");
            let part = if tables { Part::Tables } else { Part::of(name) };
            let mut in_part = 0;
            if part != Part::Rest {
                let floats_of = parts.entry(part).or_insert(first..first);
                floats_of.end = floats;
                in_part = first - floats_of.start;
            }
            let is_small = !(layer || tables) || value.dims().len() == 1;
            if layer {
                half = Some(half.map_or(first, |half| half.start)..floats);
            }
            places.push(Place {
                name: name.to_owned(),
                first,
                len,
                trainable,
                inside: layer || tables,
                part,
                in_part,
                small: is_small.then_some(small),
            });
            if is_small {
                small += padded;
            }
        }
        Self {
            places,
            floats,
            half: half.unwrap_or(0..0),
            parts,
        }
    }

    /// The floats of a part; none of what the CPU computes with.
    pub(crate) fn part(&self, part: Part) -> Range<usize> {
        self.parts.get(&part).cloned().unwrap_or(0..0)
    }

    /// Each part with its floats.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Part, Range<usize>)> {
        self.parts.iter().map(|(part, floats)| (*part, floats.clone()))
    }

    /// The weights in the order of the store.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Floats of a flat buffer.
    pub(crate) fn floats(&self) -> usize {
        self.floats
    }

    pub(crate) fn half(&self) -> Range<usize> {
        self.half.clone()
    }

    /// The floats of the weights that take part, those that lie side by side as one stretch.
    pub(crate) fn stretches(&self, live: &[bool]) -> Vec<Range<usize>> {
        let mut stretches: Vec<Range<usize>> = Vec::new();
        for (place, _) in self.places.iter().zip(live).filter(|(_, live)| **live) {
            let end = place.first + place.len.next_multiple_of(CHUNK);
            match stretches.last_mut().filter(|last| last.end == place.first) {
                Some(last) => last.end = end,
                None => stretches.push(place.first..end),
            }
        }
        stretches
    }

    /// The floats of the small weights that lie before a float, which ends a chunk; those of all before the last one.
    pub(crate) fn small_before(&self, float: usize) -> usize {
        let small = self.places.iter().filter(|place| place.small.is_some());
        let before = small.map(|place| {
            let padded = place.len.next_multiple_of(CHUNK);
            float.saturating_sub(place.first).min(padded)
        });
        before.sum()
    }

    /// The index of a weight.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.places
            .binary_search_by(|place| place.name.as_str().cmp(name))
            .ok()
    }

    /// The weight that each chunk belongs to.
    pub(crate) fn chunks(&self) -> Vec<u32> {
        let chunks = |(id, place): (usize, &Place)| std::iter::repeat_n(id as u32, place.len.div_ceil(CHUNK));
        self.places.iter().enumerate().flat_map(chunks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::tensor;

    #[test]
    fn weights_lie_in_order_and_chunks_know_them() {
        let weight = |name: &str, len: usize| (name.to_owned(), tensor(vec![0.0; len], len).unwrap());
        let params = ParamStore::new(
            [
                weight("classifier.bias", 1),
                weight("embeddings.word_embeddings.weight", 1025),
                weight("encoder.layer.0.output.dense.bias", 1024),
                weight("encoder.layer.1.output.dense.bias", 7),
                weight("pooler.dense.bias", 3),
            ]
            .into(),
        );
        let layout = Layout::new(&params);
        let first: Vec<usize> = layout.places().iter().map(|place| place.first).collect();
        assert_eq!(first, [0, 1024, 3072, 4096, 5120]);
        assert_eq!((layout.floats(), layout.half()), (6144, 3072..5120));
        assert_eq!(layout.chunks(), [0, 1, 1, 2, 3, 4]);
        assert_eq!(layout.find("pooler.dense.bias"), Some(4));
        let parts = [Part::Tables, Part::Layer(0), Part::Layer(1), Part::Rest];
        assert_eq!(
            parts.map(|part| layout.part(part)),
            [1024..3072, 3072..4096, 4096..5120, 0..0]
        );
        let inside: Vec<bool> = layout.places().iter().map(|place| place.inside).collect();
        assert_eq!(inside, [false, true, true, true, false]);
        let stretches = layout.stretches(&[true, true, false, true, true]);
        assert_eq!(stretches, [0..3072, 4096..6144]);
    }
}
