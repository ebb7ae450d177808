//! The weights of an encoder in the memory of a GPU: all of them, or one rank's block of them and the part that runs.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::blocks::{Block, Share};
use super::encoder::Encoder;
use super::gpu::{Memory, Plain};
use super::gradients::Stretch;
use super::layout::{Layout, Place, overlap};
use super::ops::Ops;
use crate::error::{Result, bail};
use crate::nn::{ParamStore, read, update};

pub(super) const FLOAT: usize = size_of::<f32>();

/// Where the weights are.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) layout: Layout,
    /// Bytes of a number of the storage type.
    pub(super) element: usize,
    weights: RwLock<Weights>,
}

#[derive(Debug)]
pub(super) enum Weights {
    All(All),
    /// Of several ranks' blocks this one's, and all weights for as long as no step follows.
    Block(Block, Option<All>),
}

/// All weights.
#[derive(Debug)]
pub(super) struct All {
    /// f32.
    pub(super) flat: Memory,
    /// Copies of the layers' weights in the storage type, unless that is f32.
    half: Option<Memory>,
}

impl All {
    pub(super) fn new(ops: &Ops, layout: &Layout) -> Result<Self> {
        let flat = ops.floats(layout.floats())?;
        ops.gpu.zero(flat.address(), flat.bytes())?;
        let half = (ops.element() != FLOAT).then(|| ops.elements(layout.half().len(), 1));
        let half = half.transpose()?;
        Ok(Self { flat, half })
    }
}

impl Weights {
    /// All weights, where they are here.
    pub(super) fn all(&self) -> Option<&All> {
        match self {
            Self::All(all) => Some(all),
            Self::Block(_, all) => all.as_ref(),
        }
    }

    pub(super) fn block(&self) -> Option<&Block> {
        match self {
            Self::All(_) => None,
            Self::Block(block, _) => Some(block),
        }
    }
}

impl Store {
    /// Room for all weights, or for one rank's share.
    pub(super) fn new(ops: &Ops, layout: Layout, share: Option<Share>) -> Result<Self> {
        let weights = match share {
            None => Weights::All(All::new(ops, &layout)?),
            Some(share) => Weights::Block(Block::new(ops, &layout, share)?, None),
        };
        Ok(Self {
            element: ops.element(),
            weights: RwLock::new(weights),
            layout,
        })
    }

    pub(super) fn weights(&self) -> RwLockReadGuard<'_, Weights> {
        self.weights.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self) -> RwLockWriteGuard<'_, Weights> {
        self.weights.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a weight lies; the index is one of the layout's.
    fn place(&self, id: usize) -> Option<&Place> {
        self.layout.places().get(id)
    }

    /// A weight of a layer as products take it: in the storage type.
    pub(super) fn operand(&self, id: usize) -> u64 {
        let at = |place| match &*self.weights() {
            Weights::All(all) | Weights::Block(_, Some(all)) => self.operand_of(all, place),
            Weights::Block(block, None) => block.turn(place.part).at(place.in_part * self.element),
        };
        self.place(id).map_or(0, at)
    }

    fn operand_of(&self, all: &All, place: &Place) -> u64 {
        match &all.half {
            Some(half) => half.at((place.first - self.layout.half().start) * self.element),
            None => all.flat.at(place.first * FLOAT),
        }
    }

    /// A weight as f32: a small one, or a table.
    pub(super) fn vector(&self, id: usize) -> u64 {
        let at = |place: &Place| match &*self.weights() {
            Weights::All(all) | Weights::Block(_, Some(all)) => all.flat.at(place.first * FLOAT),
            Weights::Block(block, None) => match place.small {
                Some(small) => block.small.at(small * FLOAT),
                None => block.turn(place.part).at(place.in_part * FLOAT),
            },
        };
        self.place(id).map_or(0, at)
    }

    /// The gradient of a weight, f32.
    pub(super) fn gradient(&self, gradients: &Stretch, id: usize) -> u64 {
        gradients.at(self.place(id).map_or(0, |place| place.first))
    }

    /// Where a float is updated.
    pub(super) fn master(&self, float: usize) -> u64 {
        match &*self.weights() {
            Weights::All(all) => all.flat.at(float * FLOAT),
            Weights::Block(block, _) => block.at(float),
        }
    }

    /// Where the copies of the floats from one on begin; 0 where there are none that stay.
    #[cfg(feature = "train")]
    pub(super) fn copies(&self, first: usize) -> u64 {
        let half = self.layout.half();
        let before = first.clamp(half.start, half.end) - half.start;
        match &*self.weights() {
            Weights::All(All {
                half: Some(copies), ..
            }) => copies.at(before * self.element),
            _ => 0,
        }
    }
}

impl Encoder {
    /// Takes the weights of `params`, which are those that it was made of.
    pub(crate) fn upload(&self, params: &ParamStore) -> Result<()> {
        for (id, (_, value, _)) in params.iter().enumerate() {
            self.set(id, &read(value)?)?;
        }
        Ok(())
    }

    /// Changes a weight, as far as it is here.
    pub(crate) fn set(&self, id: usize, floats: &[f32]) -> Result<()> {
        let (store, gpu) = (&self.store, &self.ops.gpu);
        let place = store.place(id).filter(|place| place.len == floats.len());
        let Some(place) = place else {
            bail!(Internal, "{} floats do not fit weight {id}", floats.len());
        };
        let weights = store.weights();
        if let Some(all) = weights.all() {
            let at = all.flat.at(place.first * FLOAT);
            gpu.upload(at, f32::bytes(floats))?;
            if all.half.is_some() && store.layout.half().contains(&place.first) {
                self.ops.narrow(place.len, at, store.operand_of(all, place))?;
            }
        }
        if let Some(block) = weights.block() {
            let here = overlap(&(place.first..place.first + place.len), &block.range());
            if !here.is_empty() {
                let own = &floats[here.start - place.first..here.end - place.first];
                gpu.upload(block.at(here.start), f32::bytes(own))?;
            }
            if let Some(small) = place.small {
                gpu.upload(block.small.at(small * FLOAT), f32::bytes(floats))?;
            }
        }
        Ok(())
    }

    /// Writes the weights for which `wanted(name, inside)` into `params`; those inside are computed with on the GPU alone.
    pub(crate) fn download(&self, params: &ParamStore, wanted: impl Fn(&str, bool) -> bool) -> Result<()> {
        let weights = self.store.weights();
        for ((_, value, _), place) in params.iter().zip(self.store.layout.places()) {
            if !wanted(&place.name, place.inside) {
                continue;
            }
            let at = match (weights.all(), weights.block(), place.small) {
                (Some(all), ..) => all.flat.at(place.first * FLOAT),
                (None, Some(block), Some(small)) => block.small.at(small * FLOAT),
                _ => bail!(Internal, "`{}` is in the blocks of several ranks", place.name),
            };
            update(value, |floats| self.ops.gpu.download(at, f32::bytes_mut(floats)))??;
        }
        Ok(())
    }

    /// Makes the copies in the storage type again, after the weights were changed from outside.
    #[cfg(feature = "train")]
    pub(crate) fn renew_copies(&self) -> Result<()> {
        let range = self.store.layout.half();
        match self.store.weights().all() {
            Some(All {
                flat,
                half: Some(half),
            }) => self
                .ops
                .narrow(range.len(), flat.at(range.start * FLOAT), half.address()),
            _ => Ok(()),
        }
    }
}
