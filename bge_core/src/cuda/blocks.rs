//! One rank's block of an encoder's weights, and what all ranks bring together of their blocks.
//!
//! The block is f32. To compute, the matrices of a layer are brought together in the storage type, and the tables in f32. There is room
//! for two parts that follow each other: that which runs, and the next one. Vectors, and what the CPU computes with, are small and
//! stay whole on every rank.

use std::ops::Range;

use super::encoder::Encoder;
use super::gpu::{Arg, Memory, Plain, read_values};
use super::kernels::THREADS;
use super::layout::{Layout, overlap};
use super::ops::Ops;
use super::store::{All, FLOAT, Weights};
use crate::error::{Error, Result, bail};
use crate::nn::Part;

/// Parts for which there is room.
pub(crate) const TURNS: usize = 2;

/// A rank's block, and what it computes with.
#[derive(Debug)]
pub(super) struct Block {
    /// The floats of every rank's block in the flat buffers, and the number of this rank.
    blocks: Vec<Range<usize>>,
    rank: usize,
    /// The weights of the block.
    own: Memory,
    /// The small weights of all blocks, f32.
    pub(super) small: Memory,
    /// Where the parts have their turns, by their numbers.
    turns: [Memory; TURNS],
}

/// Which weights one of several ranks keeps: the floats of each rank's block, in their order, and the number of this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share<'a> {
    pub(crate) lengths: &'a [usize],
    pub(crate) rank: usize,
}

/// Weights that all ranks bring together, in words of 4 bytes.
#[derive(Debug)]
pub(crate) struct Joint {
    /// Where this rank's own are.
    pub(crate) from: u64,
    /// Where those of all ranks are to be, one rank's after another's.
    pub(crate) to: u64,
    /// The words of each rank.
    pub(crate) lengths: Vec<usize>,
}

impl Block {
    pub(super) fn range(&self) -> Range<usize> {
        self.blocks.get(self.rank).cloned().unwrap_or(0..0)
    }

    /// The place of a float of the flat buffers that is in the block.
    pub(super) fn at(&self, float: usize) -> u64 {
        self.own.at((float - self.range().start) * FLOAT)
    }

    /// Where a part has its turn.
    pub(super) fn turn(&self, part: Part) -> &Memory {
        &self.turns[part.number() % TURNS]
    }

    /// Room for the block of a rank, whose ends are those of chunks, and for what it computes with. Nothing is there but zeros.
    pub(super) fn new(ops: &Ops, layout: &Layout, Share { lengths, rank }: Share) -> Result<Self> {
        let mut end = 0;
        let blocks = lengths.iter().map(|length| {
            end += length;
            end - length..end
        });
        let blocks: Vec<Range<usize>> = blocks.collect();
        let zeros = |floats: usize| {
            let memory = ops.floats(floats)?;
            ops.gpu.zero(memory.address(), memory.bytes())?;
            Ok::<_, Error>(memory)
        };
        let turn = |number: usize| {
            let parts = layout.parts().filter(|(part, _)| part.number() % TURNS == number);
            let bytes = parts.map(|(part, floats)| floats.len() * bytes_of(ops, part));
            ops.gpu.alloc(bytes.max().unwrap_or(0))
        };
        Ok(Self {
            own: zeros(blocks.get(rank).map_or(0, Range::len))?,
            small: zeros(layout.small_before(layout.floats()))?,
            turns: [turn(0)?, turn(1)?],
            blocks,
            rank,
        })
    }

    /// How many of these floats each rank has.
    fn lengths(&self, floats: &Range<usize>) -> impl Iterator<Item = usize> {
        self.blocks.iter().map(|block| overlap(block, floats).len())
    }
}

/// Bytes of a number that a part is computed with.
fn bytes_of(ops: &Ops, part: Part) -> usize {
    match part {
        Part::Layer(_) => ops.element(),
        Part::Tables | Part::Rest => FLOAT,
    }
}

impl Encoder {
    /// Whether this rank keeps a block alone.
    pub(crate) fn keeps_block(&self) -> bool {
        self.store.weights().block().is_some()
    }

    /// Weights of this rank, f32.
    pub(crate) fn masters(&self, floats: Range<usize>) -> Result<Vec<f32>> {
        read_values(&self.ops.gpu, self.store.master(floats.start), floats.len())
    }

    /// Whether there is such a part, whose weights must be brought together before it runs.
    pub(crate) fn brings(&self, part: Part) -> bool {
        let apart = matches!(&*self.store.weights(), Weights::Block(_, None));
        apart && !self.store.layout.part(part).is_empty()
    }

    /// What the ranks bring together before a part runs; nothing where all weights are here.
    pub(crate) fn part(&self, part: Part) -> Result<Option<Joint>> {
        let weights = self.store.weights();
        let Weights::Block(block, None) = &*weights else {
            return Ok(None);
        };
        let (floats, bytes) = (self.store.layout.part(part), bytes_of(&self.ops, part));
        let own = overlap(&block.range(), &floats);
        let turn = block.turn(part);
        let to = turn.address();
        let mut from = to;
        if !own.is_empty() {
            from = block.at(own.start);
            if bytes < FLOAT {
                let rounded = turn.at((own.start - floats.start) * bytes);
                self.ops.narrow(own.len(), from, rounded)?;
                from = rounded;
            }
        }
        // Blocks and parts end with chunks: 16-bit numbers make whole words.
        let lengths = block.lengths(&floats).map(|length| length * bytes / FLOAT);
        Ok(Some(Joint {
            from,
            to,
            lengths: lengths.collect(),
        }))
    }

    /// What the ranks bring together after each has updated its block: all weights, or where they keep blocks the small ones.
    pub(crate) fn updates(&self, lengths: &[usize], rank: usize) -> Result<Joint> {
        let weights = self.store.weights();
        let (layout, gpu) = (&self.store.layout, &self.ops.gpu);
        let mut lengths = lengths.to_vec();
        let to = match &*weights {
            Weights::All(all) => all.flat.address(),
            Weights::Block(block, _) => {
                let small: Vec<bool> = layout
                    .places()
                    .iter()
                    .map(|place| place.small.is_some())
                    .collect();
                for stretch in layout.stretches(&small) {
                    let own = overlap(&stretch, &block.range());
                    if own.is_empty() {
                        continue;
                    }
                    let args = [
                        Arg::Place(block.at(own.start)),
                        Arg::U64(own.len() as u64),
                        Arg::Place(block.small.at(layout.small_before(own.start) * FLOAT)),
                    ];
                    gpu.launch("copy_floats", [own.len().div_ceil(THREADS), 1], &args)?;
                }
                let small = |of: &Range<usize>| layout.small_before(of.end) - layout.small_before(of.start);
                lengths = block.blocks.iter().map(small).collect();
                block.small.address()
            }
        };
        let before: usize = lengths.iter().take(rank).sum();
        Ok(Joint {
            from: to + (before * FLOAT) as u64,
            to,
            lengths,
        })
    }

    /// Makes room for all weights beside the block, for as long as no step follows; false where there is.
    pub(crate) fn make_whole(&self) -> Result<bool> {
        match &mut *self.store.change() {
            Weights::Block(_, all @ None) => {
                *all = Some(All::new(&self.ops, &self.store.layout)?);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Puts floats there.
    pub(crate) fn put(&self, first: usize, floats: &[f32]) -> Result<()> {
        match self.store.weights().all() {
            Some(all) => self
                .ops
                .gpu
                .upload(all.flat.at(first * FLOAT), f32::bytes(floats)),
            None => bail!(Internal, "there is no room for all weights"),
        }
    }

    /// Keeps the block alone again.
    pub(crate) fn end_whole(&self) {
        if let Weights::Block(_, all) = &mut *self.store.change() {
            *all = None;
        }
    }
}
