//! Ranks that train one model together: what they say to each other, and how one failure ends them all.
//!
//! A rank holds a copy of the model, or its block of what the ranks share out (`zero_stage`), and a share of every batch.
//! [`Solo`] is the world of one and costs nothing; the ranks of a [`ThreadGroup`] are threads of this process, and a process may
//! be a rank with the feature `mpi`, or `nccl` under torchrun. Every sum is made in the order of the ranks, so that all of them hold
//! the same bits, whoever came first; between GPUs that NCCL connects (`nccl`) all hold the same bits too, but the order is NCCL's.
//! Numbers travel in 32 bits or in 16 ([`NumberType`]).
//!
//! All ranks make the same calls in the same order. A call that the others do not make, a rank that ends, panics or fails, or one
//! that does not come within the limit is an error on every rank and not a hang.

mod call;
#[cfg(test)]
pub(crate) mod checks;
mod failure;
mod launcher;
#[cfg(feature = "mpi")]
mod line;
#[cfg(any(feature = "nccl", test))]
mod nccl;
mod number;
#[cfg(feature = "mpi")]
mod processes;
mod solo;
#[cfg(any(feature = "nccl", test))]
mod store;
mod threads;
#[cfg(any(feature = "nccl", test))]
mod torchrun;

use std::fmt;
use std::time::Duration;

use crate::config::NumberType;
use crate::error::{Result, bail};
pub(crate) use failure::of_rank;
pub use launcher::{Launched, Launcher};
#[cfg(any(feature = "nccl", test))]
pub(crate) use nccl::Nccl;
#[cfg(feature = "mpi")]
pub use processes::Mpi;
pub use solo::Solo;
pub use threads::{ThreadGroup, ThreadRank, together};
#[cfg(any(feature = "nccl", test))]
pub use torchrun::Torchrun;

/// One rank's line to the others.
///
/// Numbers travel as the caller says, which must be the same on all ranks. In 16 bits each is rounded before it leaves, and a sum
/// is rounded again, after it was made in f32 in the order of the ranks. A world of one sends nothing and rounds nothing.
pub trait Communicator: fmt::Debug + Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// The number of this rank among those of its host, from 0, which is the number of its GPU.
    fn local_rank(&self) -> usize {
        self.rank()
    }

    /// How many ranks, this one among them, compute on the processor cores of this one.
    fn sharers(&self) -> usize {
        self.world_size()
    }

    /// Replaces the values by the sum over all ranks.
    fn all_reduce(&self, values: &mut [f32], travels: NumberType) -> Result<()>;

    /// The sum over all ranks, of which each gets its block: the blocks have these lengths, in the order of the ranks.
    fn reduce_scatter(&self, values: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>>;

    /// The blocks of all ranks, one after another; every rank knows all lengths.
    fn all_gather(&self, own: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>>;

    /// A few numbers of every rank, one rank after another; all have equally many.
    fn gather_numbers(&self, own: &[f64]) -> Result<Vec<f64>>;

    /// Replaces the values by those of rank `root`.
    fn broadcast(&self, root: usize, values: &mut [f32], travels: NumberType) -> Result<()>;

    /// Returns when every rank has come here.
    fn barrier(&self) -> Result<()>;

    /// Rank 0's `word`, on every rank. The others wait for it as long as rank 0 lives, since it may have work of its own to do.
    fn order(&self, word: u32) -> Result<u32>;

    /// The failure that has ended the group, if one has.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Ends the group: every present and later call of every rank fails with this error. Only the first one counts.
    fn fail(&self, error: &crate::Error);
}

/// A rank that is a process, among others that a launcher started.
pub trait Process: Communicator {
    /// Makes calls wait for `limit` at most.
    fn set_limit(&self, limit: Duration);

    /// Ends the group where all went well: waits for all ranks to come here. No call can follow.
    fn end(&self) -> Result<()>;

    /// After a failure: waits a little for all ranks to know of it; those that may not. What is left then is [`Process::abort`].
    fn farewell(&self) -> Vec<usize>;

    /// Ends this process at once, and the others where it can; the launcher gets `code`.
    fn abort(&self, code: i32);
}

/// Where the block of `rank` begins, and its length, among blocks of these lengths.
pub(crate) fn block(lengths: &[usize], rank: usize) -> (usize, usize) {
    let first = lengths.iter().take(rank).sum();
    (first, lengths.get(rank).copied().unwrap_or(0))
}

/// The lengths of `ranks` shares of `length` values, as equal as they can be, the longer ones first.
pub(crate) fn even(length: usize, ranks: usize) -> Vec<usize> {
    let ranks = ranks.max(1);
    (0..ranks)
        .map(|rank| length / ranks + usize::from(rank < length % ranks))
        .collect()
}

/// Sums values over the ranks in two calls: each rank sums one part of them, and all take all parts.
#[cfg(any(feature = "mpi", feature = "nccl", test))]
fn sum_by_parts(
    values: &mut [f32],
    ranks: usize,
    sum: impl FnOnce(&[f32], &[usize]) -> Result<Vec<f32>>,
    gather: impl FnOnce(&[f32], &[usize]) -> Result<Vec<f32>>,
) -> Result<()> {
    let lengths = even(values.len(), ranks);
    let part = sum(values, &lengths)?;
    values.copy_from_slice(&gather(&part, &lengths)?);
    Ok(())
}

/// Leaves the processor to others, the longer the longer it has waited: 5 percent of that, and 200 µs at most.
#[cfg(any(feature = "mpi", feature = "nccl", test))]
fn nap(since: std::time::Instant) {
    let nap = (since.elapsed() / 20).min(Duration::from_micros(200));
    if nap < Duration::from_micros(5) {
        std::thread::yield_now();
    } else {
        std::thread::sleep(nap);
    }
}

/// Refuses lengths that do not fit the world or the values.
fn check_lengths(world_size: usize, lengths: &[usize], total: usize) -> Result<()> {
    if lengths.len() != world_size {
        bail!(
            InvalidArgument,
            "{} blocks do not fit {world_size} ranks",
            lengths.len()
        );
    }
    let sum: usize = lengths.iter().sum();
    if sum != total {
        bail!(InvalidArgument, "blocks of {sum} values do not fit {total}");
    }
    Ok(())
}

/// Refuses own values that are not as many as was announced.
fn check_own(rank: usize, own: usize, lengths: &[usize]) -> Result<()> {
    let expected = lengths[rank];
    if own != expected {
        bail!(
            InvalidArgument,
            "rank {rank} brings {own} values where {expected} were announced"
        );
    }
    Ok(())
}

/// Refuses a rank that does not exist.
fn check_root(world_size: usize, root: usize) -> Result<()> {
    if root >= world_size {
        bail!(InvalidArgument, "rank {root} is outside a world of {world_size}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_and_differ_by_one_at_most() {
        for length in 0..20 {
            for ranks in 1..6 {
                let lengths = even(length, ranks);
                assert_eq!((lengths.len(), lengths.iter().sum()), (ranks, length));
                assert!(lengths.is_sorted_by(|a, b| a >= b) && lengths[0] - lengths[ranks - 1] <= 1);
            }
        }
        assert_eq!(block(&[3, 2, 2], 2), (5, 2));
    }
}
