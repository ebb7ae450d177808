//! What one rank holds of a model that ranks share out.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layout::{BUCKET, Bucket, Layout};
use crate::config::NumberType;
use crate::distributed::Communicator;
use crate::error::Result;
use crate::nn::{Gradients, Param, ParamStore, Part, Watcher, held, put_back, read, take_out, update};
use crate::optim::{AdamW, Span, piece_sums};

/// Bytes that a rank holds of what ranks can share out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The weights, now.
    pub weights: usize,
    /// The gradients of the last step, when they were most.
    pub gradients: usize,
    /// The moments of AdamW.
    pub optimizer: usize,
}

/// One rank's blocks, and its line to the others.
#[derive(Debug)]
pub(crate) struct Shards {
    stage: usize,
    /// How gradients travel.
    travels: NumberType,
    pub(super) ranks: Arc<dyn Communicator>,
    pub(super) layout: Layout,
    /// The trained weights, in the order of the optimizer's parameters.
    weights: Vec<Param>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The sums over the ranks, of the own block of each bucket.
    gradients: Vec<Vec<f32>>,
    /// Whether nothing was added to them in this step.
    fresh: Vec<bool>,
    /// Which weights got a gradient in this step.
    known: Vec<bool>,
    /// Stage 3: the own blocks of weights that are not in their tensors; empty for others.
    weights: Vec<Vec<f32>>,
    /// Stage 3: whether the tensors have their floats all the same, for as long as no step follows.
    whole: bool,
    /// Bytes of gradients in this step, when they were most.
    most_bytes: usize,
}

impl Shards {
    /// Shares out the `trained` weights, whose gradients travel as the type says; in stage 3 they leave their tensors.
    pub(crate) fn new(
        stage: usize,
        travels: NumberType,
        ranks: Arc<dyn Communicator>,
        params: &ParamStore,
        trained: &[usize],
    ) -> Result<Self> {
        let (mut parts, mut weights) = (Vec::new(), Vec::new());
        for (id, (name, value, _)) in params.iter().enumerate() {
            if trained.contains(&id) {
                parts.push((Part::of(name), value.elem_count()));
                let value = value.clone();
                weights.push(Param { id, value });
            }
        }
        let layout = Layout::new(&parts, ranks.world_size(), ranks.rank(), BUCKET);
        let floats = |spans: &Vec<Span>| spans.iter().map(|span| span.length).sum();
        let state = State {
            gradients: layout.own.iter().map(|spans| vec![0.0; floats(spans)]).collect(),
            fresh: vec![true; layout.buckets.len()],
            known: vec![false; weights.len()],
            weights: vec![Vec::new(); layout.buckets.len()],
            whole: true,
            most_bytes: 0,
        };
        let shards = Self {
            stage,
            travels,
            ranks,
            layout,
            weights,
            state: Mutex::new(state),
        };
        let mut state = shards.lock();
        for (at, bucket) in shards.layout.buckets.iter().enumerate() {
            if shards.is_apart(bucket.part) {
                state.weights[at] = shards.floats(&shards.layout.own[at])?;
            }
        }
        shards.take_apart(&mut state)?;
        drop(state);
        Ok(shards)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only this rank's thread comes here, and it does not go on after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a network must say which of its parts runs.
    pub(crate) fn watches(&self) -> bool {
        self.stage >= 2
    }

    /// Whether weights are in their tensors only while they are used.
    pub(crate) fn shares_weights(&self) -> bool {
        self.stage >= 3
    }

    fn is_apart(&self, part: Part) -> bool {
        self.shares_weights() && part != Part::Rest
    }

    /// The stretches that this rank updates.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.layout.own.concat()
    }

    fn place(&self, part: Part) -> (Range<usize>, &[usize]) {
        let place = self.layout.places.get(&part);
        place.map_or((0..0, &[]), |place| (place.buckets.clone(), &place.parameters))
    }

    /// The floats of these stretches, out of their tensors.
    fn floats(&self, spans: &[Span]) -> Result<Vec<f32>> {
        let mut floats = Vec::with_capacity(spans.iter().map(|span| span.length).sum());
        for span in spans {
            floats.extend_from_slice(&read(&self.weights[span.parameter].value)?[span.range()]);
        }
        Ok(floats)
    }

    /// Begins a step.
    pub(crate) fn begin(&self) -> Result<()> {
        let state = &mut *self.lock();
        state.gradients.iter_mut().for_each(|block| block.fill(0.0));
        state.fresh.fill(true);
        state.known.fill(false);
        state.most_bytes = 0;
        self.take_apart(state)
    }

    /// Ends the backward of a step. Without a watched network the gradients are summed only now.
    pub(crate) fn finish(&self, gradients: &mut Gradients) -> Result<()> {
        if !self.watches() {
            for &part in self.layout.places.keys() {
                self.collect(part, gradients)?;
            }
        }
        let state = &mut *self.lock();
        let mut known: Vec<f32> = state
            .known
            .iter()
            .map(|known| f32::from(u8::from(*known)))
            .collect();
        self.ranks.all_reduce(&mut known, NumberType::Fp32)?;
        state.known = known.iter().map(|known| *known > 0.0).collect();
        Ok(())
    }

    /// The norm of the whole gradient, with the bits of one rank.
    pub(crate) fn norm(&self) -> Result<f64> {
        let state = self.lock();
        let mut slices = Vec::new();
        for (block, spans) in state.gradients.iter().zip(&self.layout.own) {
            let mut rest = block.as_slice();
            for span in spans {
                let (floats, after) = rest.split_at(span.length);
                slices.push(floats);
                rest = after;
            }
        }
        let mut sums = piece_sums(slices);
        sums.resize(self.layout.most_pieces, 0.0);
        let all = self.ranks.gather_numbers(&sums)?;
        let squares: f64 = self.layout.pieces.iter().map(|&at| all[at]).sum();
        Ok(squares.sqrt())
    }

    /// Updates this rank's blocks and gives them to the others.
    pub(crate) fn apply(&self, optimizer: &mut AdamW, lr: f64, scale: f32) -> Result<()> {
        let state = &mut *self.lock();
        for (parameter, _) in state.known.iter().enumerate().filter(|(_, known)| **known) {
            optimizer.count(parameter);
        }
        let (mut number, mut before) = (0, 0);
        for (at, spans) in self.layout.own.iter().enumerate() {
            let apart = self.is_apart(self.layout.buckets[at].part);
            let mut offset = 0;
            for span in spans {
                let block = offset..offset + span.length;
                if state.known[span.parameter] {
                    let gradient = &state.gradients[at][block.clone()];
                    let mut change =
                        |value: &mut [f32]| optimizer.update_span(number, before, lr, scale, value, gradient);
                    if apart {
                        change(&mut state.weights[at][block]);
                    } else {
                        let value = &self.weights[span.parameter].value;
                        update(value, |value| change(&mut value[span.range()]))?;
                    }
                }
                offset += span.length;
                before += span.length;
                number += 1;
            }
        }
        for (at, bucket) in self.layout.buckets.iter().enumerate() {
            if self.is_apart(bucket.part) {
                continue;
            }
            let own = self.floats(&self.layout.own[at])?;
            let all = self.ranks.all_gather(&own, &bucket.lengths, NumberType::Fp32)?;
            let mut rest = all.as_slice();
            for span in &bucket.spans {
                let (floats, after) = rest.split_at(span.length);
                let value = &self.weights[span.parameter].value;
                update(value, |value| value[span.range()].copy_from_slice(floats))?;
                rest = after;
            }
        }
        Ok(())
    }

    /// Makes the tensors of rank 0 whole for as long as no step follows; all ranks call this.
    pub(crate) fn gather(&self) -> Result<()> {
        let state = &mut *self.lock();
        if !self.shares_weights() {
            return Ok(());
        }
        let lead = self.ranks.rank() == 0;
        for part in self.layout.places.keys().filter(|part| self.is_apart(**part)) {
            self.fetch(state, *part, lead && !state.whole)?;
        }
        state.whole |= lead;
        Ok(())
    }

    /// Changes a trained weight, by its id in the store; false for one that is not trained.
    pub(crate) fn set(&self, id: usize, floats: &[f32]) -> Result<bool> {
        let state = &mut *self.lock();
        let Some(parameter) = self.weights.iter().position(|weight| weight.id == id) else {
            return Ok(false);
        };
        for (at, spans) in self.layout.own.iter().enumerate() {
            if !self.is_apart(self.layout.buckets[at].part) {
                continue;
            }
            let mut offset = 0;
            for span in spans {
                if span.parameter == parameter {
                    state.weights[at][offset..offset + span.length].copy_from_slice(&floats[span.range()]);
                }
                offset += span.length;
            }
        }
        let value = &self.weights[parameter].value;
        if held(value)? > 0 {
            update(value, |value| value.copy_from_slice(floats))?;
        }
        Ok(true)
    }

    /// What this rank holds; `gradients` and `optimizer` are its own.
    pub(crate) fn held(&self, params: &ParamStore, optimizer: &AdamW) -> Result<Held> {
        let state = self.lock();
        let mut floats: usize = state.weights.iter().map(Vec::len).sum();
        for (_, value, _) in params.iter() {
            floats += held(value)?;
        }
        Ok(Held {
            weights: floats * size_of::<f32>(),
            gradients: state.most_bytes,
            optimizer: optimizer.bytes(),
        })
    }

    /// Brings the blocks of a part together, and puts them into its tensors if `keep`.
    fn fetch(&self, state: &State, part: Part, keep: bool) -> Result<()> {
        let (buckets, parameters) = self.place(part);
        let mut whole: Vec<Vec<f32>> = Vec::new();
        if keep {
            let zeros = |parameter: &usize| vec![0.0; self.weights[*parameter].value.elem_count()];
            whole.extend(parameters.iter().map(zeros));
        }
        for at in buckets {
            let Bucket { spans, lengths, .. } = &self.layout.buckets[at];
            let all = self
                .ranks
                .all_gather(&state.weights[at], lengths, NumberType::Fp32)?;
            let mut rest = all.as_slice();
            for span in spans.iter().filter(|_| keep) {
                let (floats, after) = rest.split_at(span.length);
                if let Some(place) = parameters
                    .iter()
                    .position(|parameter| *parameter == span.parameter)
                {
                    whole[place][span.range()].copy_from_slice(floats);
                }
                rest = after;
            }
        }
        for (parameter, floats) in parameters.iter().zip(whole) {
            put_back(&self.weights[*parameter].value, floats)?;
        }
        Ok(())
    }

    /// Frees the tensors whose floats are in blocks.
    fn take_apart(&self, state: &mut State) -> Result<()> {
        if self.shares_weights() && state.whole {
            for part in self.layout.places.keys().filter(|part| self.is_apart(**part)) {
                self.free(*part)?;
            }
            state.whole = false;
        }
        Ok(())
    }

    fn free(&self, part: Part) -> Result<()> {
        for &parameter in self.place(part).1 {
            take_out(&self.weights[parameter].value)?;
        }
        Ok(())
    }
}

impl Watcher for Shards {
    fn enter(&self, part: Part) -> Result<()> {
        let state = self.lock();
        if self.is_apart(part) && !state.whole {
            self.fetch(&state, part, true)?;
        }
        Ok(())
    }

    fn leave(&self, part: Part) -> Result<()> {
        let state = self.lock();
        if self.is_apart(part) && !state.whole {
            self.free(part)?;
        }
        Ok(())
    }

    fn collect(&self, part: Part, gradients: &mut Gradients) -> Result<()> {
        let state = &mut *self.lock();
        let (buckets, parameters) = self.place(part);
        for at in buckets {
            let Bucket { spans, lengths, .. } = &self.layout.buckets[at];
            let mut floats = Vec::with_capacity(lengths.iter().sum());
            for span in spans {
                match gradients.get(self.weights[span.parameter].id) {
                    Some(gradient) => floats.extend_from_slice(&read(gradient)?[span.range()]),
                    None => floats.resize(floats.len() + span.length, 0.0),
                }
            }
            let block = self.ranks.reduce_scatter(&floats, lengths, self.travels)?;
            let sums = &mut state.gradients[at];
            if std::mem::take(&mut state.fresh[at]) {
                sums.copy_from_slice(&block);
            } else {
                sums.iter_mut().zip(&block).for_each(|(sum, x)| *sum += x);
            }
        }
        let blocks: usize = state.gradients.iter().map(Vec::len).sum();
        let bytes = gradients.bytes() + blocks * size_of::<f32>();
        state.most_bytes = state.most_bytes.max(bytes);
        for &parameter in parameters {
            let id = self.weights[parameter].id;
            state.known[parameter] |= gradients.get(id).is_some();
            if self.watches() {
                gradients.release(id);
            }
        }
        Ok(())
    }

    fn passes(&self, own: usize) -> Result<usize> {
        let all = self.ranks.gather_numbers(&[own as f64])?;
        Ok(all.into_iter().fold(0.0, f64::max) as usize)
    }
}
