//! Flat buffers of GPUs between ranks: from GPU to GPU where these reach each other, or down to the host, over the ranks' line, and
//! up again.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

#[cfg(any(feature = "nccl", test))]
use super::halves::Halves;
use crate::config::NumberType;
use crate::cuda::Joint;
use crate::cuda::gpu::{Gpu, Plain, read_values};
#[cfg(any(feature = "nccl", test))]
use crate::distributed::Nccl;
use crate::distributed::{Communicator, block};
use crate::error::Result;

/// Floats that are sent at once: 16 MB. What is summed with what does not depend on it.
const PIECE: usize = 1 << 22;

/// A rank's way from its GPU to those of the others.
#[derive(Debug)]
pub(super) struct Between {
    ranks: Arc<dyn Communicator>,
    gpu: Arc<dyn Gpu>,
    /// How gradients travel.
    travels: NumberType,
    #[cfg(any(feature = "nccl", test))]
    nccl: Option<Arc<Nccl>>,
    /// Gradients on their way from GPU to GPU in 16 bits.
    #[cfg(any(feature = "nccl", test))]
    halves: Option<Halves>,
}

impl Between {
    /// For a rank with this GPU, whose calls wait for `limit` at most, and whose gradients travel so.
    #[cfg(feature = "nccl")]
    pub(super) fn new(
        ranks: Arc<dyn Communicator>,
        gpu: &Arc<dyn Gpu>,
        limit: Duration,
        travels: NumberType,
    ) -> Self {
        Self::through(Arc::new(Nccl::new(ranks, Arc::clone(gpu), limit)), gpu, travels)
    }

    /// For a rank with this GPU, whose line has a limit of its own.
    #[cfg(not(feature = "nccl"))]
    pub(super) fn new(
        ranks: Arc<dyn Communicator>,
        gpu: &Arc<dyn Gpu>,
        _: Duration,
        travels: NumberType,
    ) -> Self {
        Self {
            ranks,
            gpu: Arc::clone(gpu),
            travels,
            #[cfg(test)]
            nccl: None,
            #[cfg(test)]
            halves: None,
        }
    }

    #[cfg(any(feature = "nccl", test))]
    pub(super) fn through(nccl: Arc<Nccl>, gpu: &Arc<dyn Gpu>, travels: NumberType) -> Self {
        Self {
            ranks: Arc::clone(&nccl) as Arc<dyn Communicator>,
            gpu: Arc::clone(gpu),
            travels,
            halves: (travels != NumberType::Fp32).then(|| Halves::new(gpu, travels)),
            nccl: Some(nccl),
        }
    }

    pub(super) fn ranks(&self) -> &Arc<dyn Communicator> {
        &self.ranks
    }

    /// How gradients travel.
    pub(super) fn travels(&self) -> NumberType {
        self.travels
    }

    /// Why the GPUs do not reach each other through NCCL, where that was to be so; all ranks call this.
    pub(super) fn obstacle(&self) -> Result<Option<String>> {
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl {
            return nccl.obstacle();
        }
        Ok(None)
    }

    /// Replaces gradients, floats of the buffer that begins at `at`, by their sums over the ranks.
    pub(super) fn sum(&self, at: u64, floats: Range<usize>) -> Result<()> {
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl
            && nccl.reaches()?
        {
            let Some(halves) = &self.halves else {
                return nccl.sum(place(at, floats.start), floats.len(), self.travels);
            };
            for first in floats.clone().step_by(PIECE) {
                let count = PIECE.min(floats.end - first);
                nccl.sum(halves.send(place(at, first), count)?, count, self.travels)?;
                halves.take()?;
            }
            return Ok(());
        }
        for first in floats.clone().step_by(PIECE) {
            let (at, length) = (place(at, first), PIECE.min(floats.end - first));
            let mut piece: Vec<f32> = read_values(&self.gpu, at, length)?;
            self.ranks.all_reduce(&mut piece, self.travels)?;
            self.gpu.upload(at, f32::bytes(&piece))?;
        }
        Ok(())
    }

    /// Whether sums and shares can run beside other work of the GPU: where GPUs reach each other. So it is on all ranks or on none.
    pub(super) fn runs_beside(&self) -> Result<bool> {
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl {
            return nccl.reaches();
        }
        Ok(false)
    }

    /// Begins [`Between::sum`] beside other work of the GPU, which must leave these floats alone until [`Between::finish`]. In 16 bits
    /// there is room for one sum: it waits for the one before.
    pub(super) fn begin_sum(&self, at: u64, floats: Range<usize>) -> Result<()> {
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl {
            let (mut at, count) = (place(at, floats.start), floats.len());
            if let Some(halves) = &self.halves {
                self.finish()?;
                at = halves.send(at, count)?;
            }
            return nccl.begin_sum(at, count, self.travels);
        }
        self.sum(at, floats)
    }

    /// Waits for all that was begun.
    pub(super) fn finish(&self) -> Result<()> {
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl {
            nccl.finish()?;
            return self.halves.as_ref().map_or(Ok(()), Halves::take);
        }
        Ok(())
    }

    /// Sums gradients over the ranks, of which each gets the sums of its block in their place; what else is there is of no use any
    /// more. The first of the floats lies at `at`, and the blocks are those of the whole buffer.
    pub(super) fn sum_blocks(&self, at: u64, floats: Range<usize>, lengths: &[usize]) -> Result<()> {
        let of = |rank: usize, floats: &Range<usize>| {
            let (first, length) = block(lengths, rank);
            let start = first.clamp(floats.start, floats.end);
            start..(first + length).clamp(start, floats.end)
        };
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl
            && nccl.reaches()?
        {
            let from = match &self.halves {
                Some(halves) => halves.send(at, floats.len())?,
                None => at,
            };
            for root in 0..lengths.len() {
                let block = of(root, &floats);
                if !block.is_empty() {
                    let before = (block.start - floats.start) * self.travels.bytes();
                    nccl.sum_on(root, from + before as u64, block.len(), self.travels)?;
                }
            }
            let own = of(self.ranks.rank(), &floats);
            let halves = self.halves.as_ref();
            return halves.map_or(Ok(()), |halves| {
                halves.take_part(own.start - floats.start, own.len())
            });
        }
        for first in floats.clone().step_by(PIECE) {
            let piece = first..(first + PIECE).min(floats.end);
            let parts: Vec<usize> = (0..lengths.len()).map(|rank| of(rank, &piece).len()).collect();
            let from = place(at, first - floats.start);
            let values: Vec<f32> = read_values(&self.gpu, from, piece.len())?;
            let sums = self.ranks.reduce_scatter(&values, &parts, self.travels)?;
            let own = of(self.ranks.rank(), &piece).start;
            self.gpu
                .upload(place(at, own - floats.start), f32::bytes(&sums))?;
        }
        Ok(())
    }

    /// Brings what each rank has together on all of them.
    pub(super) fn share(&self, joint: &Joint) -> Result<()> {
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl
            && nccl.reaches()?
        {
            return self.each_block(joint, |root, from, to, length| nccl.share(root, from, to, length));
        }
        let Joint { from, to, lengths } = joint;
        let (first, _) = block(lengths, self.ranks.rank());
        self.gather(
            lengths,
            |own| read_values(&self.gpu, place(*from, own.start - first), own.len()),
            |first, floats| self.gpu.upload(place(*to, first), f32::bytes(floats)),
        )
    }

    /// Begins [`Between::share`] beside other work of the GPU, which must leave both places alone until [`Between::finish`].
    pub(super) fn begin_share(&self, joint: &Joint) -> Result<()> {
        #[cfg(any(feature = "nccl", test))]
        if let Some(nccl) = &self.nccl {
            return self.each_block(joint, |root, from, to, length| {
                nccl.begin_share(root, from, to, length)
            });
        }
        self.share(joint)
    }

    /// Sends what each rank has: its number, where it has it, where all are to have it, and its length.
    #[cfg(any(feature = "nccl", test))]
    fn each_block(&self, joint: &Joint, send: impl Fn(usize, u64, u64, usize) -> Result<()>) -> Result<()> {
        for root in 0..joint.lengths.len() {
            let (first, length) = block(&joint.lengths, root);
            let to = place(joint.to, first);
            let from = if root == self.ranks.rank() { joint.from } else { to };
            if length > 0 {
                send(root, from, to, length)?;
            }
        }
        Ok(())
    }

    /// Brings blocks of these lengths together on every rank, some of each at a time: `own` reads of this rank's block, `take`
    /// gets the first place and the floats of all. Places are those of the joined buffer.
    pub(super) fn gather(
        &self,
        lengths: &[usize],
        own: impl Fn(Range<usize>) -> Result<Vec<f32>>,
        mut take: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let piece = (PIECE / lengths.len().max(1)).max(1);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        for before in (0..longest).step_by(piece) {
            let parts: Vec<usize> = lengths
                .iter()
                .map(|length| length.saturating_sub(before).min(piece))
                .collect();
            let (first, _) = block(lengths, self.ranks.rank());
            let (_, length) = block(&parts, self.ranks.rank());
            let part = own(first + before..first + before + length)?;
            let all = self.ranks.all_gather(&part, &parts, NumberType::Fp32)?;
            let mut rest = all.as_slice();
            for (rank, &length) in parts.iter().enumerate() {
                let (floats, after) = rest.split_at(length);
                rest = after;
                take(block(lengths, rank).0 + before, floats)?;
            }
        }
        Ok(())
    }
}

/// The place of a float in a buffer.
fn place(at: u64, float: usize) -> u64 {
    at + (float * size_of::<f32>()) as u64
}
