//! What goes from GPU to GPU part by part, while the network runs: gradients, and weights.
//!
//! Where the ranks share gradients out (`zero_stage` 2 and 3) they are summed in every pass, and each rank keeps its block. Where each
//! holds all of them, it is in the last pass of a step, beside the backward of the parts that follow. Where the ranks share weights out
//! (`zero_stage` 3) those of a part are brought together before it runs, in forward and backward, unless they are there: where GPUs reach
//! each other the next part's come while one runs, and at the turn from forward to backward the last two parts have not gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::between::Between;
use crate::cuda::{Encoder, TURNS};
use crate::distributed::Communicator;
use crate::error::Result;
use crate::nn::{Gradients, Part, Watcher};

/// Hears which part is about to run, and which has its gradients.
#[derive(Debug)]
pub(super) struct Parts {
    encoder: Arc<Encoder>,
    between: Arc<Between>,
    /// The floats of each rank's block, where the ranks share gradients out.
    blocks: Option<Vec<usize>>,
    step: Mutex<Step>,
}

/// Where a step stands.
#[derive(Debug, Default)]
struct Step {
    last_micro_batch: bool,
    /// Passes that this micro-batch has still to make, this one among them.
    passes: usize,
    /// Whether sums were begun beside the backward.
    begun: bool,
    /// The parts whose weights are there, or on their way, where they have turns.
    there: [Option<Part>; TURNS],
    /// The part whose weights are on their way.
    coming: Option<Part>,
    /// The part that ran last.
    last: Option<Part>,
}

impl Step {
    /// Whether the weights of a part are there or on their way; from now on they are.
    fn has(&mut self, part: Part) -> bool {
        let place = &mut self.there[part.number() % TURNS];
        place.replace(part) == Some(part)
    }

    /// The part that follows this one, which is about to run: in a backward, the one before it.
    fn next(&self, part: Part) -> Option<Part> {
        match (part, self.last) {
            (Part::Layer(layer), Some(last)) if last >= part => Some(Part::Layer(layer.checked_sub(1)?)),
            _ => Some(Part::Layer(part.number())),
        }
    }
}

impl Parts {
    pub(super) fn new(encoder: Arc<Encoder>, between: Arc<Between>, blocks: Option<Vec<usize>>) -> Self {
        Self {
            encoder,
            between,
            blocks,
            step: Mutex::default(),
        }
    }

    fn step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ranks(&self) -> &Arc<dyn Communicator> {
        self.between.ranks()
    }

    /// Replaces gradients of the CPU by their sums over the ranks. They travel multiplied by the `scale` of those of the GPU, which is a
    /// power of two.
    pub(super) fn sum_of_cpus(&self, gradients: &mut [f32], scale: f32) -> Result<()> {
        for x in &mut *gradients {
            *x *= scale;
        }
        self.ranks().all_reduce(gradients, self.between.travels())?;
        for x in gradients {
            *x /= scale;
        }
        Ok(())
    }

    /// Whether each rank keeps a block of the gradients alone.
    pub(super) fn shares_out(&self) -> bool {
        self.blocks.is_some()
    }

    /// A step begins.
    pub(super) fn begin(&self) {
        *self.step() = Step::default();
    }

    /// What follows is the last micro-batch of the step.
    pub(super) fn last_micro_batch(&self) {
        self.step().last_micro_batch = true;
    }

    /// The backward of a step is over: waits for the sums that run beside it. Whether there were any; then all parts are summed.
    pub(super) fn finish(&self) -> Result<bool> {
        let begun = self.step().begun;
        if begun {
            self.between.finish()?;
        }
        Ok(begun)
    }
}

impl Watcher for Parts {
    fn enter(&self, part: Part) -> Result<()> {
        if !self.encoder.brings(part) {
            return Ok(());
        }
        let step = &mut *self.step();
        if !step.has(part) {
            if let Some(joint) = self.encoder.part(part)? {
                self.between.share(&joint)?;
            }
        } else if step.coming == Some(part) {
            self.between.finish()?;
            step.coming = None;
        }
        let next = step.next(part);
        step.last = Some(part);
        if let Some(next) = next.filter(|&next| self.encoder.brings(next))
            && self.between.runs_beside()?
            && !step.has(next)
            && let Some(joint) = self.encoder.part(next)?
        {
            self.between.begin_share(&joint)?;
            step.coming = Some(next);
        }
        Ok(())
    }

    fn leave(&self, _: Part) -> Result<()> {
        Ok(())
    }

    fn collect(&self, part: Part, _: &mut Gradients) -> Result<()> {
        let mut step = self.step();
        if part == Part::Rest {
            // The end of a pass. Heads are the CPU's, and have their turn at the end of the step.
            step.passes = step.passes.saturating_sub(1);
            return Ok(());
        }
        let floats = self.encoder.trained_part(part);
        if floats.is_empty() {
            return Ok(());
        }
        if let Some(blocks) = &self.blocks {
            let turn = self.encoder.gradients_of(part)?;
            self.between.sum_blocks(turn.at(floats.start), floats, blocks)?;
            return self.encoder.keep(&turn);
        }
        if step.last_micro_batch && step.passes == 1 && self.between.runs_beside()? {
            step.begun = true;
            self.between.begin_sum(self.encoder.gradients()?.at(0), floats)?;
        }
        Ok(())
    }

    fn passes(&self, own: usize) -> Result<usize> {
        let mut passes = own;
        if self.shares_out() || self.between.runs_beside()? {
            let all = self.ranks().gather_numbers(&[own as f64])?;
            passes = all.into_iter().fold(0.0, f64::max) as usize;
        }
        self.step().passes = passes;
        Ok(passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_follows_is_known_forward_and_backward() {
        let [tables, first, second, third] = [Part::Tables, Part::Layer(0), Part::Layer(1), Part::Layer(2)];
        let mut step = Step::default();
        let run = [tables, first, second, second, first, tables, first];
        let next = run.map(|part| {
            let next = step.next(part);
            step.last = Some(part);
            next
        });
        let [first, second, third] = [first, second, third].map(Some);
        assert_eq!(next, [first, second, third, first, None, first, second]);
    }

    #[test]
    fn the_last_two_parts_have_not_gone() {
        let mut step = Step::default();
        let mut fetched = Vec::new();
        for number in [0_usize, 1, 2, 3, 3, 2, 1, 0] {
            let part = number.checked_sub(1).map_or(Part::Tables, Part::Layer);
            if !step.has(part) {
                fetched.push(number);
            }
        }
        assert_eq!(fetched, [0, 1, 2, 3, 1, 0]);
    }
}
