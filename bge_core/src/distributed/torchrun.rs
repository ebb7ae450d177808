//! Ranks that are processes of torchrun, or of a `PyTorchJob`, and speak over the launcher's store.
//!
//! Each rank writes what it brings to a call under the call's number and its own, and reads what the others wrote. That is
//! quick for small things; floats are for NCCL, and go this way only where the GPUs do not reach each other. Sums are made in
//! the order of the ranks.

#[cfg(test)]
mod checks;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::call::Call;
use super::failure::Failure;
use super::launcher::Launched;
use super::store::{MOST_BYTES, Store, host};
use super::{Communicator, Process, block, check_lengths, check_own, check_root, sum_by_parts};
use crate::config::NumberType;
use crate::error::{Error, ErrorKind, Result, bail};

/// How long a rank waits for the store, as PyTorch does.
const START: Duration = Duration::from_mins(5);
/// How long a call waits before [`Process::set_limit`] says otherwise, as `ddp_timeout`.
const LIMIT: Duration = Duration::from_mins(30);
/// Between two looks for failures while a call waits.
const LOOK: Duration = Duration::from_millis(200);
/// How long ranks that failed wait for each other.
const FAREWELL: Duration = Duration::from_secs(10);
/// Floats that are written at once.
const PIECE: usize = MOST_BYTES / 8;

/// This process as a rank of torchrun's.
#[derive(Debug)]
pub struct Torchrun {
    rank: usize,
    size: usize,
    local_rank: usize,
    sharers: usize,
    /// What all keys of this start of the run begin with.
    prefix: String,
    /// Whether this rank keeps the store itself, and must be the last to go.
    keeps: bool,
    line: Mutex<Line>,
    /// A second connection, for failures: the first one may be waiting.
    failures: Mutex<Store>,
}

#[derive(Debug)]
struct Line {
    store: Store,
    limit: Duration,
    /// The number of the next call.
    call: u64,
}

impl Torchrun {
    /// Joins the processes of the launcher, as its variables say.
    pub fn start(launched: &Launched) -> Result<Self> {
        Self::of(launched, |name| std::env::var(name).ok())
    }

    fn of(launched: &Launched, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let (Some(address), Some(port)) = (set("MASTER_ADDR"), set("MASTER_PORT")) else {
            bail!(
                InvalidConfig,
                "{} has set no MASTER_ADDR and MASTER_PORT, where the ranks find each other",
                launched.launcher
            );
        };
        let Ok(port) = port.trim().parse::<u16>() else {
            bail!(InvalidConfig, "MASTER_PORT is {port:?}, which is no port");
        };
        let keeps = launched.rank == 0 && set("TORCHELASTIC_USE_AGENT_STORE").as_deref() != Some("True");
        if keeps {
            host::serve(port)?;
        }
        let run = set("TORCHELASTIC_RUN_ID").unwrap_or_default();
        let restart = set("TORCHELASTIC_RESTART_COUNT").unwrap_or_default();
        let own_threads = set("RAYON_NUM_THREADS").is_some();
        let sharers = set("LOCAL_WORLD_SIZE").and_then(|size| size.trim().parse().ok());
        // The keeper's own name may not be known yet where it runs.
        let host = if keeps { "localhost" } else { &address };
        let connect = || Store::connect(host, port, START);
        Ok(Self {
            rank: launched.rank,
            size: launched.world_size,
            local_rank: launched.local_rank,
            sharers: sharers.filter(|_| !own_threads).unwrap_or(1).max(1),
            prefix: format!("bge/{run}/{restart}"),
            keeps,
            line: Mutex::new(Line {
                store: connect()?,
                limit: LIMIT,
                call: 0,
            }),
            failures: Mutex::new(connect()?),
        })
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, Store> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure_key(&self) -> String {
        format!("{}/failure", self.prefix)
    }

    /// Brings `own`, waits for all others, and returns what all have brought.
    fn meet(&self, call: &Call, own: &[u8], bounded: bool) -> Result<Vec<Vec<u8>>> {
        self.check()?;
        let line = &mut *self.line();
        let (number, limit) = (line.call, line.limit);
        line.call += 1;
        let key = |number: u64, rank: usize| format!("{}/{number}/{rank}", self.prefix);
        let text = call.to_string();
        let post = [&(text.len() as u32).to_le_bytes()[..], text.as_bytes(), own].concat();
        line.store.set(&key(number, self.rank), &post)?;
        let result = self.read(line, &text, limit, bounded, |rank| key(number, rank));
        if let Err(error) = &result {
            self.fail(error);
        }
        let all = result?;
        // All are in this call, so that nobody reads the last one any more.
        if let Some(last) = number.checked_sub(1) {
            line.store.delete(&key(last, self.rank))?;
        }
        Ok(all)
    }

    fn read(
        &self,
        line: &mut Line,
        call: &str,
        limit: Duration,
        bounded: bool,
        key: impl Fn(usize) -> String,
    ) -> Result<Vec<Vec<u8>>> {
        let started = Instant::now();
        let mut all = Vec::with_capacity(self.size);
        for rank in 0..self.size {
            let key = key(rank);
            line.store.wait(&[&key])?;
            while !line.store.told(LOOK)? {
                self.check()?;
                if bounded && started.elapsed() > limit {
                    bail!(
                        Distributed,
                        "rank {} waited {limit:?} in {call} for rank {rank}",
                        self.rank
                    );
                }
            }
            let post = line.store.get(&key)?;
            let Some((other, brought)) = parts(&post) else {
                bail!(
                    Distributed,
                    "rank {rank} speaks another language; is it another version?"
                );
            };
            if other != call.as_bytes() {
                bail!(
                    Distributed,
                    "the ranks are not in the same place: rank {} calls {call} and rank {rank} {}",
                    self.rank,
                    String::from_utf8_lossy(other)
                );
            }
            all.push(brought.to_vec());
        }
        Ok(all)
    }

    /// Brings floats a piece at a time; `take` gets the first place and the floats of each rank's piece.
    fn floats(
        &self,
        call: &Call,
        own: &[f32],
        lengths: &[usize],
        travels: NumberType,
        mut take: impl FnMut(usize, usize, Vec<f32>),
    ) -> Result<()> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        for first in (0..longest.max(1)).step_by(PIECE) {
            let piece = own.get(first..).unwrap_or_default();
            let piece = &piece[..piece.len().min(PIECE)];
            let all = self.meet(call, &travels.pack(piece), true)?;
            for (rank, bytes) in all.into_iter().enumerate() {
                let floats = travels.unpack(&bytes);
                let length = lengths.get(rank).copied().unwrap_or(0);
                if floats.len() != length.saturating_sub(first).min(PIECE) {
                    bail!(
                        Distributed,
                        "rank {rank} brings another number of values to {call}"
                    );
                }
                take(rank, first, floats);
            }
        }
        Ok(())
    }

    /// This rank's block of the sum over the ranks.
    fn sum(&self, call: &Call, values: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        let (first, length) = block(lengths, self.rank);
        let mut sum = vec![0.0_f32; length];
        let everything = vec![values.len(); self.size];
        self.floats(call, values, &everything, travels, |rank, at, floats| {
            for (place, x) in (at..).zip(floats) {
                if let Some(sum) = place.checked_sub(first).and_then(|place| sum.get_mut(place)) {
                    *sum = if rank == 0 { x } else { *sum + x };
                }
            }
        })?;
        travels.round(&mut sum);
        Ok(sum)
    }

    fn numbers(&self, call: &Call, own: &[f64], bounded: bool) -> Result<Vec<f64>> {
        let bytes: Vec<u8> = own.iter().flat_map(|x| x.to_le_bytes()).collect();
        let all = self.meet(call, &bytes, bounded)?.concat();
        let (words, _) = all.as_chunks::<8>();
        Ok(words.iter().map(|&word| f64::from_le_bytes(word)).collect())
    }

    /// Says that this rank needs nothing more, and waits for the others to say so; those that did not in time.
    fn part(&self, limit: Duration) -> Vec<usize> {
        let key = |rank: usize| format!("{}/done/{rank}", self.prefix);
        let store = &mut *self.failures();
        let mut missing: Vec<usize> = (0..self.size).collect();
        if store.set(&key(self.rank), b"").is_err() {
            return missing;
        }
        let started = Instant::now();
        loop {
            missing.retain(|&rank| !store.has(&key(rank)).unwrap_or(false));
            if missing.is_empty() || started.elapsed() > limit {
                return missing;
            }
            std::thread::sleep(LOOK / 10);
        }
    }
}

/// The call of a post, and what was brought to it.
fn parts(post: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = post.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

impl Communicator for Torchrun {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.size
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn sharers(&self) -> usize {
        self.sharers
    }

    fn all_reduce(&self, values: &mut [f32], travels: NumberType) -> Result<()> {
        let call = Call::AllReduce(values.len(), travels);
        let sum = |values: &[f32], lengths: &[usize]| self.sum(&call, values, lengths, travels);
        sum_by_parts(values, self.size, sum, |part, lengths| {
            self.all_gather(part, lengths, travels)
        })
    }

    fn reduce_scatter(&self, values: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.size, lengths, values.len())?;
        let call = Call::ReduceScatter(lengths.to_vec(), travels);
        self.sum(&call, values, lengths, travels)
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.size, lengths, lengths.iter().sum())?;
        check_own(self.rank, own.len(), lengths)?;
        let mut all = vec![0.0; lengths.iter().sum()];
        let call = Call::AllGather(lengths.to_vec(), travels);
        self.floats(&call, own, lengths, travels, |rank, at, floats| {
            let first = block(lengths, rank).0 + at;
            if let Some(place) = all.get_mut(first..first + floats.len()) {
                place.copy_from_slice(&floats);
            }
        })?;
        Ok(all)
    }

    fn gather_numbers(&self, own: &[f64]) -> Result<Vec<f64>> {
        self.numbers(&Call::GatherNumbers(own.len()), own, true)
    }

    fn broadcast(&self, root: usize, values: &mut [f32], travels: NumberType) -> Result<()> {
        check_root(self.size, root)?;
        let mut lengths = vec![0; self.size];
        lengths[root] = values.len();
        let own = if root == self.rank {
            values.to_vec()
        } else {
            Vec::new()
        };
        let call = Call::Broadcast(root, values.len(), travels);
        self.floats(&call, &own, &lengths, travels, |_, at, floats| {
            if let Some(place) = values.get_mut(at..at + floats.len()) {
                place.copy_from_slice(&floats);
            }
        })
    }

    fn barrier(&self) -> Result<()> {
        self.meet(&Call::Barrier, &[], true).map(drop)
    }

    fn order(&self, word: u32) -> Result<u32> {
        // Whoever waits for rank 0 waits as long as the store is there.
        let all = self.numbers(&Call::Order, &[f64::from(word)], self.rank == 0)?;
        match all.first() {
            Some(word) => Ok(*word as u32),
            None => bail!(Internal, "an order without a word"),
        }
    }

    fn check(&self) -> Result<()> {
        let (store, key) = (&mut *self.failures(), self.failure_key());
        if !store.has(&key)? {
            return Ok(());
        }
        let post = store.get(&key)?;
        let failure = post.split_first_chunk::<4>().map(|(kind, text)| Failure {
            kind: Failure::kind_of(u32::from_le_bytes(*kind)),
            message: String::from_utf8_lossy(text).into_owned(),
        });
        let unknown = || Error::new(ErrorKind::Distributed, "another rank has failed");
        Err(failure.map_or_else(unknown, |failure| failure.error()))
    }

    fn fail(&self, error: &Error) {
        let failure = Failure::of(error);
        let post = [
            &(failure.kind as u32).to_le_bytes()[..],
            failure.message.as_bytes(),
        ]
        .concat();
        // Without a store nobody can be told.
        let _ = self.failures().set_first(&self.failure_key(), &post);
    }
}

impl Process for Torchrun {
    fn set_limit(&self, limit: Duration) {
        self.line().limit = limit;
    }

    fn end(&self) -> Result<()> {
        let missing = self.part(LIMIT);
        if !missing.is_empty() {
            bail!(Distributed, "the ranks {missing:?} have not ended");
        }
        if self.keeps {
            // The others read that all are done before the store goes with this process.
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn farewell(&self) -> Vec<usize> {
        self.part(FAREWELL)
    }

    fn abort(&self, code: i32) {
        std::process::exit(code);
    }
}

impl Drop for Torchrun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = format!("rank {} panicked", self.rank);
            self.fail(&Error::new(ErrorKind::Distributed, message));
        }
    }
}
