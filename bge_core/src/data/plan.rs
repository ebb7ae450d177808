//! The order of an epoch: which rows form which batch, as a pure function of seed, epoch, sizes and world size.
//!
//! A global batch has `batch_size` × world size rows, and the ranks share it. The order of the rows depends on that product alone:
//! two ranks with batches of 4 train on the same global batches as one rank with batches of 8.
//!
//! Plain mode: one permutation of all rows, cut into global batches; the last, partial one is kept unless
//! `dataloader_drop_last`. The ranks share it as evenly as they can, and some may get nothing of it.
//! Same-dataset mode: each dataset is permuted and cut into blocks, and the blocks of all datasets are shuffled. As in
//! FlagEmbedding the rows after a dataset's last whole block sit out the epoch (others in the next one), but a dataset
//! smaller than one block is kept as one smaller batch. [`EpochPlan::notes`] says what is left out.

use super::codes;
use super::layout::DatasetShape;
use super::task::GroupSize;
use crate::error::{Result, bail};
use crate::issue::{Issue, Severity};
use crate::random::{Draws, Stream, key};

/// A row of all datasets, counted through the datasets in the order of the layout.
pub type RowId = u64;

/// Everything that an epoch's order depends on.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The datasets of the layout.
    pub datasets: &'a [DatasetShape],
    /// Whether a batch comes from one dataset.
    pub same_dataset: bool,
    /// Ranks that share a global batch.
    pub world_size: usize,
    /// Whether partial batches are left out (`dataloader_drop_last`).
    pub drop_last: bool,
    /// `data_seed`, or `seed` where that is not given.
    pub seed: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
}

/// One rank's share of one global batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// The rows, in order.
    pub rows: Vec<RowId>,
    /// First row of the global batch; the same on all ranks.
    pub first: RowId,
    /// The dataset, as an index into the layout.
    pub dataset: usize,
    /// Whether passages of other queries are no negatives.
    pub no_in_batch_neg: bool,
    /// Passages per query; where it depends on the first row, see [`GroupSize::resolve`].
    pub group: GroupSize,
    /// Seed of all data draws of the run.
    pub seed: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Random key of the global batch; the same on all ranks.
    pub key: u64,
}

/// The batches of one epoch.
#[derive(Clone, Debug)]
pub struct EpochPlan<'a> {
    input: PlanInput<'a>,
    /// Per dataset its first global row and its permuted local rows.
    orders: Vec<(RowId, Vec<u32>)>,
    blocks: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    dataset: u32,
    /// Position of its first row in the dataset's order.
    start: u32,
    /// Rows of all ranks together.
    rows: u32,
}

/// What one epoch does with one dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Batches (steps before gradient accumulation).
    pub batches: u64,
    /// Rows that no batch uses in this epoch.
    pub left_out: u64,
    /// Rows of the last batch, of all ranks together; less than in the others where it is partial.
    pub last: u64,
}

impl PlanInput<'_> {
    /// What an epoch does with a dataset, without laying out its rows.
    pub fn usage(&self, dataset: &DatasetShape) -> Usage {
        let (world, batch) = (self.world_size.max(1) as u64, dataset.batch_size.max(1) as u64);
        let block = batch * world;
        let (whole, rest) = (dataset.rows / block, dataset.rows % block);
        if rest == 0 || self.drop_last || (self.same_dataset && whole > 0) {
            return Usage {
                batches: whole,
                left_out: rest,
                last: block,
            };
        }
        Usage {
            batches: whole + 1,
            left_out: 0,
            last: rest,
        }
    }

    /// Batches of one epoch, before gradient accumulation.
    pub fn steps(&self) -> u64 {
        self.datasets
            .iter()
            .map(|dataset| self.usage(dataset).batches)
            .sum()
    }

    /// What an epoch leaves out or makes smaller; the rows concerned differ from epoch to epoch.
    pub fn notes(&self) -> Vec<Issue> {
        let mut notes = Vec::new();
        for dataset in self.datasets {
            let usage = self.usage(dataset);
            let (name, rows) = (&dataset.name, dataset.rows);
            let block = dataset.batch_size as u64 * self.world_size as u64;
            let mut note = |code, severity, message: String| notes.push(Issue::new(code, severity, message));
            if usage.batches == 0 {
                note(
                    codes::ROWS_LEFT_OUT,
                    Severity::Warning,
                    format!(
                        "{name}: none of its {rows} rows is used, they do not fill one batch of {block} and dataloader_drop_last is on"
                    ),
                );
            } else if usage.left_out > 0 {
                let why = if self.drop_last {
                    "dataloader_drop_last"
                } else {
                    "the last, partial batch"
                };
                note(
                    codes::ROWS_LEFT_OUT,
                    Severity::Info,
                    format!(
                        "{name}: {} of {rows} rows sit out each epoch ({why}), others in every epoch",
                        usage.left_out
                    ),
                );
            }
            if self.same_dataset && usage.batches == 1 && usage.last < block {
                note(
                    codes::DATASET_SMALL,
                    Severity::Info,
                    format!(
                        "{name}: its {rows} rows do not fill one batch of {block} and train as one smaller batch"
                    ),
                );
            }
        }
        notes
    }
}

impl<'a> EpochPlan<'a> {
    /// Lays out the order of one epoch; memory is 4 bytes per row.
    pub fn new(input: PlanInput<'a>) -> Result<Self> {
        if input.world_size == 0 {
            bail!(InvalidArgument, "the world size must be at least 1");
        }
        let epoch_key = key(input.seed, Stream::EpochOrder, input.epoch);
        let mut orders = Vec::with_capacity(input.datasets.len());
        let mut blocks = Vec::new();
        let mut first = 0;
        for (index, dataset) in input.datasets.iter().enumerate() {
            let Ok(rows) = u32::try_from(dataset.rows) else {
                bail!(
                    Unsupported,
                    "a dataset has more than {} rows; split {}",
                    u32::MAX,
                    dataset.name
                );
            };
            if dataset.batch_size == 0 {
                bail!(InvalidConfig, "the batch size of {} is 0", dataset.name);
            }
            let mut order: Vec<u32> = (0..rows).collect();
            Draws::new(key(epoch_key, Stream::EpochOrder, index as u64 + 1)).shuffle(&mut order);
            let usage = input.usage(dataset);
            let whole = dataset.batch_size as u64 * input.world_size as u64;
            for batch in 0..usage.batches {
                let last = batch + 1 == usage.batches;
                blocks.push(Block {
                    dataset: index as u32,
                    start: (batch * whole) as u32,
                    rows: if last { usage.last } else { whole } as u32,
                });
            }
            orders.push((first, order));
            first += dataset.rows;
        }
        if blocks.is_empty() {
            bail!(
                InvalidData,
                "the training data does not fill one batch; give more rows, a smaller batch, or dataloader_drop_last false"
            );
        }
        if input.same_dataset {
            Draws::new(key(epoch_key, Stream::EpochOrder, 0)).shuffle(&mut blocks);
        }
        Ok(Self {
            input,
            orders,
            blocks,
        })
    }

    /// Batches in this epoch, before gradient accumulation; the same on every rank.
    pub fn steps(&self) -> usize {
        self.blocks.len()
    }

    /// The share of `rank` in the batch `step` (counted from 0); an error past the end.
    pub fn batch(&self, step: usize, rank: usize) -> Result<BatchPlan> {
        if rank >= self.input.world_size {
            bail!(
                InvalidArgument,
                "rank {rank} is outside a world of {}",
                self.input.world_size
            );
        }
        let found = self.blocks.get(step).and_then(|block| {
            let dataset = block.dataset as usize;
            Some((
                block,
                dataset,
                self.orders.get(dataset)?,
                self.input.datasets.get(dataset)?,
            ))
        });
        let Some((block, dataset, (first, order), shape)) = found else {
            bail!(
                InvalidArgument,
                "batch {step} is past the end of an epoch of {}",
                self.blocks.len()
            );
        };
        let start = block.start as usize;
        let row = |at: usize| first + order.get(at).copied().map_or(0, RowId::from);
        // Rounded up, so that rank 0 never goes without.
        let border = |rank: usize| start + (block.rows as usize * rank).div_ceil(self.input.world_size);
        let epoch_key = key(self.input.seed, Stream::EpochOrder, self.input.epoch);
        Ok(BatchPlan {
            rows: (border(rank)..border(rank + 1)).map(row).collect(),
            first: row(start),
            dataset,
            no_in_batch_neg: shape.no_in_batch_neg,
            group: shape.group,
            seed: self.input.seed,
            epoch: self.input.epoch,
            key: key(epoch_key, Stream::Group, step as u64),
        })
    }

    /// See [`PlanInput::notes`].
    pub fn notes(&self) -> Vec<Issue> {
        self.input.notes()
    }
}
