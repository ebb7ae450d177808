//! Threads that each run a batch of their own, shared by all calls of the process.
//!
//! A network runs faster on two batches with a thread each than on one batch with two threads, as nobody waits for the other after
//! every operation. Calls that come at the same time share the lanes there are; one that finds none runs its batches one after
//! another on the threads it came with.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, ErrorKind, Result};

/// Lanes of one thread that nobody uses, and how many there are in all.
static LANES: Mutex<(Vec<ThreadPool>, usize)> = Mutex::new((Vec::new(), 0));

/// Lanes for one call, given back at its end.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pools: Vec<ThreadPool>,
    shared: bool,
}

impl Lanes {
    /// Up to `wanted` lanes of one thread. The process has as many as the largest number of threads that a call came with.
    pub(super) fn shared(wanted: usize) -> Result<Self> {
        let threads = rayon::current_num_threads();
        let mut lanes = Self {
            pools: Vec::new(),
            shared: true,
        };
        let mut all = LANES.lock().unwrap_or_else(PoisonError::into_inner);
        while lanes.pools.len() < wanted.min(threads) {
            if let Some(pool) = all.0.pop() {
                lanes.pools.push(pool);
            } else if all.1 < threads {
                lanes.pools.push(pool(1)?);
                all.1 += 1;
            } else {
                break;
            }
        }
        drop(all);
        if lanes.pools.len() < 2 {
            return Ok(Self::default()); // one lane is slower than all threads
        }
        Ok(lanes)
    }

    /// Exactly `count` lanes, which share the present threads out.
    pub(super) fn own(count: usize) -> Result<Self> {
        let threads = (rayon::current_num_threads() / count.max(1)).max(1);
        let pools = (0..count).map(|_| pool(threads)).collect::<Result<_>>()?;
        Ok(Self { pools, shared: false })
    }

    /// The lanes.
    pub(super) fn pools(&self) -> &[ThreadPool] {
        &self.pools
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        if self.shared {
            let mut all = LANES.lock().unwrap_or_else(PoisonError::into_inner);
            all.0.append(&mut self.pools);
        }
    }
}

fn pool(threads: usize) -> Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|error| Error::new(ErrorKind::Internal, "cannot start threads").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_at_once_share_the_lanes_and_give_them_back() {
        let with = |threads: usize, run: &(dyn Fn() + Sync)| pool(threads).unwrap().install(run);
        with(1, &|| assert!(Lanes::shared(8).unwrap().pools().is_empty()));
        with(3, &|| {
            let first = Lanes::shared(2).unwrap();
            assert_eq!(first.pools().len(), 2);
            let one_left = Lanes::shared(3).unwrap();
            assert!(one_left.pools().len() != 1);
            drop((first, one_left));
            assert!(Lanes::shared(3).unwrap().pools().len() >= 2);
        });
        assert_eq!(Lanes::own(4).unwrap().pools().len(), 4);
    }
}
