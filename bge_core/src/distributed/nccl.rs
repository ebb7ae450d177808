//! Ranks whose GPUs reach each other through NCCL, without a way through their hosts.
//!
//! It lies over another line between the same ranks, on which they find each other and on which everything small goes: numbers,
//! orders, failures. Floats go from GPU to GPU. **NCCL chooses the order of its sums** by the number, the kind and the place of the GPUs: all ranks
//! hold the same bits, but not those of a line that sums in the order of the ranks. Sums of 16-bit numbers it may round at each addition.
//!
//! NCCL is told not to block, and is asked until it is done: meanwhile a failure of another rank is heard, and waiting has a limit. The
//! first failure aborts the communicator of every rank. Where a rank has no NCCL, or two share a GPU, all goes over the other line.

mod library;

#[cfg(test)]
mod checks;
#[cfg(test)]
mod fake;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Communicator, block, check_lengths, check_own, check_root, nap, of_rank};
use crate::config::NumberType;
use crate::cuda::gpu::{Gpu, memory_of, read_values};
use crate::error::{Error, Result, bail};
use library::{Collective, Comm, ID_BYTES, Id, Nvidia};

/// Between two questions to the other line whether a rank has failed.
const LOOK: Duration = Duration::from_millis(50);
/// How long a rank that NCCL tells of a failure waits to hear of the first one.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// One rank's line to the others through its GPU.
#[derive(Debug)]
pub(crate) struct Nccl {
    line: Arc<dyn Communicator>,
    gpu: Arc<dyn Gpu>,
    nvidia: std::result::Result<Arc<Nvidia>, String>,
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Nothing was sent yet.
    Fresh,
    Open(Comm),
    /// Not all ranks can, and why.
    Unreachable(String),
    Failed,
}

impl Nccl {
    /// Over `line`, for a rank with this GPU; calls wait for `limit` at most.
    #[cfg(feature = "nccl")]
    pub(crate) fn new(line: Arc<dyn Communicator>, gpu: Arc<dyn Gpu>, limit: Duration) -> Self {
        let nvidia = Nvidia::open().map(Arc::new).map_err(|error| error.to_string());
        Self::over(line, gpu, nvidia, limit)
    }

    /// Over `line` through a NCCL that is none, for emulated GPUs.
    #[cfg(test)]
    pub(crate) fn faked(line: Arc<dyn Communicator>, gpu: Arc<dyn Gpu>, limit: Duration) -> Self {
        Self::over(line, gpu, Ok(fake::nvidia()), limit)
    }

    fn over(
        line: Arc<dyn Communicator>,
        gpu: Arc<dyn Gpu>,
        nvidia: std::result::Result<Arc<Nvidia>, String>,
        limit: Duration,
    ) -> Self {
        Self {
            line,
            gpu,
            nvidia,
            limit,
            state: Mutex::new(State::Fresh),
        }
    }

    /// Whether the GPUs reach each other, which is so on all ranks or on none.
    pub(crate) fn reaches(&self) -> Result<bool> {
        self.guarded(|state| {
            if matches!(state, State::Fresh) {
                *state = self.connect()?;
            }
            Ok(matches!(state, State::Open(_)))
        })
    }

    /// Why the GPUs do not reach each other, if they do not; all ranks call this.
    pub(crate) fn obstacle(&self) -> Result<Option<String>> {
        self.reaches()?;
        Ok(match &*self.state() {
            State::Unreachable(why) => Some(why.clone()),
            _ => None,
        })
    }

    /// Replaces numbers of a type in the memory of this rank's GPU by their sums over the ranks, where the GPUs reach each other.
    pub(crate) fn sum(&self, at: u64, count: usize, of: NumberType) -> Result<()> {
        self.run(Collective::AllReduce(at, at, count), of)
    }

    /// Replaces numbers of a type in the memory of rank `root`'s GPU by their sums over the ranks, where the GPUs reach each other;
    /// what the others have is of no use any more.
    pub(crate) fn sum_on(&self, root: usize, at: u64, count: usize, of: NumberType) -> Result<()> {
        self.run(Collective::Reduce(root, at, count), of)
    }

    /// Puts floats that rank `root` has at `from` where each rank says, in the memory of its GPU, where the GPUs reach each other. They
    /// may be two numbers of 16 bits each: nothing is computed with them.
    pub(crate) fn share(&self, root: usize, from: u64, to: u64, floats: usize) -> Result<()> {
        self.run(Collective::Broadcast(root, from, to, floats), NumberType::Fp32)
    }

    /// Begins what [`Nccl::sum`] does, once all that the GPU was told is done, and beside what it is told next, which must leave these
    /// numbers alone. [`Nccl::finish`] must follow.
    pub(crate) fn begin_sum(&self, at: u64, count: usize, of: NumberType) -> Result<()> {
        self.begin(Collective::AllReduce(at, at, count), of)
    }

    /// Begins what [`Nccl::share`] does, in the same way.
    pub(crate) fn begin_share(&self, root: usize, from: u64, to: u64, floats: usize) -> Result<()> {
        self.begin(Collective::Broadcast(root, from, to, floats), NumberType::Fp32)
    }

    /// Waits for all that was begun.
    pub(crate) fn finish(&self) -> Result<()> {
        self.with_comm(|comm| self.wait(comm, &"what runs beside other work", || self.gpu.is_idle_beside()))
    }

    /// Runs a collective in the second line of work, and does not wait for it.
    fn begin(&self, collective: Collective, of: NumberType) -> Result<()> {
        self.with_comm(|comm| {
            let stream = self.gpu.enter_beside()?;
            comm.run(collective, of, stream)
                .map_err(|error| self.first(error))?;
            self.wait(comm, &collective, || Ok(true))
        })
    }

    /// Runs a collective and waits for it.
    fn run(&self, collective: Collective, of: NumberType) -> Result<()> {
        self.with_comm(|comm| {
            let stream = self.gpu.enter()?;
            comm.run(collective, of, stream)
                .map_err(|error| self.first(error))?;
            self.wait(comm, &collective, || self.gpu.is_idle())
        })
    }

    /// Where `work` fails, or the GPUs do not reach each other, all ranks end.
    fn with_comm(&self, work: impl FnOnce(&Comm) -> Result<()>) -> Result<()> {
        self.guarded(|state| match state {
            State::Open(comm) => work(comm),
            _ => bail!(Distributed, "the GPUs of the ranks do not reach each other"),
        })
    }

    /// Where `work` fails, all ranks end.
    fn guarded<T>(&self, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.line.check()?;
        let mut state = self.state();
        work(&mut state).inspect_err(|error| {
            if let State::Open(comm) = std::mem::replace(&mut *state, State::Failed) {
                comm.abort();
            }
            self.line.fail(&of_rank(self.line.rank(), error));
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Meets the other ranks.
    fn connect(&self) -> Result<State> {
        let (rank, size) = (self.line.rank(), self.line.world_size());
        let nccl = f64::from(u8::from(self.nvidia.is_ok()));
        // As much of the number as an f64 holds.
        let gpu = (self.gpu.identity() >> 12) as f64;
        let all = self.line.gather_numbers(&[nccl, gpu])?;
        let (all, _) = all.as_chunks::<2>();
        let without = all.iter().position(|[nccl, _]| *nccl == 0.0);
        let twice = (0..size).find(|&at| all[..at].iter().any(|[_, other]| *other == all[at][1]));
        let (Ok(nvidia), None, None) = (&self.nvidia, without, twice) else {
            let here = self.nvidia.as_ref().err().cloned();
            let without = without.map(|rank| format!("rank {rank} has no NCCL"));
            let twice = twice.map(|rank| format!("rank {rank} shares its GPU with another"));
            return Ok(State::Unreachable(here.or(without).or(twice).unwrap_or_default()));
        };
        let mut bytes = [0.0; ID_BYTES];
        if rank == 0 {
            bytes = nvidia.id()?.0.map(f32::from);
        }
        self.line.broadcast(0, &mut bytes, NumberType::Fp32)?;
        self.gpu.enter()?;
        let comm = Comm::begin(Arc::clone(nvidia), size, rank, Id(bytes.map(|byte| byte as u8)))?;
        match self.wait(&comm, &"the first meeting", || self.gpu.is_idle()) {
            Ok(()) => Ok(State::Open(comm)),
            Err(error) => {
                comm.abort();
                Err(error)
            }
        }
    }

    /// Waits until NCCL has told the GPU what to do, and `done` says that the GPU has done it.
    fn wait(&self, comm: &Comm, what: &dyn std::fmt::Debug, done: impl Fn() -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        let mut looked = started;
        loop {
            let settled = comm.is_settled().map_err(|error| self.first(error))?;
            if settled && done()? {
                return Ok(());
            }
            if looked.elapsed() > LOOK {
                self.line.check()?;
                looked = Instant::now();
            }
            if started.elapsed() > self.limit {
                bail!(
                    Distributed,
                    "rank {} waited {:?} for the others in NCCL ({what:?})",
                    self.line.rank(),
                    self.limit
                );
            }
            nap(started);
        }
    }

    /// The failure that another rank has told of, where NCCL's error is but its echo.
    fn first(&self, echo: Error) -> Error {
        let started = Instant::now();
        while started.elapsed() < LAST_WORDS {
            if let Err(first) = self.line.check() {
                return first;
            }
            std::thread::sleep(LOOK);
        }
        echo
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.line.rank()
    }

    fn world_size(&self) -> usize {
        self.line.world_size()
    }

    fn local_rank(&self) -> usize {
        self.line.local_rank()
    }

    fn sharers(&self) -> usize {
        self.line.sharers()
    }

    fn all_reduce(&self, values: &mut [f32], travels: NumberType) -> Result<()> {
        if values.is_empty() || !self.reaches()? {
            return self.line.all_reduce(values, travels);
        }
        let memory = memory_of(&self.gpu, &travels.pack(values))?;
        let at = memory.address();
        self.run(Collective::AllReduce(at, at, values.len()), travels)?;
        let bytes: Vec<u8> = read_values(&self.gpu, at, memory.bytes())?;
        values.copy_from_slice(&travels.unpack(&bytes));
        Ok(())
    }

    fn reduce_scatter(&self, values: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.world_size(), lengths, values.len())?;
        if values.is_empty() || !self.reaches()? {
            return self.line.reduce_scatter(values, lengths, travels);
        }
        // NCCL's blocks have one length.
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut padded = vec![0.0; longest * lengths.len()];
        for (rank, place) in padded.chunks_mut(longest).enumerate() {
            let (first, length) = block(lengths, rank);
            place[..length].copy_from_slice(&values[first..first + length]);
        }
        let from = memory_of(&self.gpu, &travels.pack(&padded))?;
        let to = self.gpu.alloc(longest * travels.bytes())?;
        let collective = Collective::ReduceScatter(from.address(), to.address(), longest);
        self.run(collective, travels)?;
        let own = lengths[self.rank()] * travels.bytes();
        let bytes: Vec<u8> = read_values(&self.gpu, to.address(), own)?;
        Ok(travels.unpack(&bytes))
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.world_size(), lengths, lengths.iter().sum())?;
        check_own(self.rank(), own.len(), lengths)?;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 || !self.reaches()? {
            return self.line.all_gather(own, lengths, travels);
        }
        let each = longest * travels.bytes();
        let (from, to) = (self.gpu.alloc(each)?, self.gpu.alloc(each * lengths.len())?);
        self.gpu.upload(from.address(), &travels.pack(own))?;
        let collective = Collective::AllGather(from.address(), to.address(), longest);
        self.run(collective, travels)?;
        let padded: Vec<u8> = read_values(&self.gpu, to.address(), to.bytes())?;
        let blocks = padded.chunks(each).zip(lengths);
        let whole: Vec<u8> = blocks
            .flat_map(|(block, &length)| &block[..length * travels.bytes()])
            .copied()
            .collect();
        Ok(travels.unpack(&whole))
    }

    fn gather_numbers(&self, own: &[f64]) -> Result<Vec<f64>> {
        self.line.gather_numbers(own)
    }

    fn broadcast(&self, root: usize, values: &mut [f32], travels: NumberType) -> Result<()> {
        check_root(self.world_size(), root)?;
        if values.is_empty() || !self.reaches()? {
            return self.line.broadcast(root, values, travels);
        }
        let memory = memory_of(&self.gpu, &travels.pack(values))?;
        let at = memory.address();
        self.run(Collective::Broadcast(root, at, at, values.len()), travels)?;
        let bytes: Vec<u8> = read_values(&self.gpu, at, memory.bytes())?;
        values.copy_from_slice(&travels.unpack(&bytes));
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.line.barrier()
    }

    fn order(&self, word: u32) -> Result<u32> {
        self.line.order(word)
    }

    fn check(&self) -> Result<()> {
        self.line.check()
    }

    fn fail(&self, error: &Error) {
        self.line.fail(error);
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.state(), State::Failed);
        // Aborting is the one end that asks nothing of the other ranks, which may be dropped by this very thread. It costs nothing: what
        // was sent has arrived, as every rank waits for it and then says something on the line below.
        if let State::Open(comm) = state {
            comm.abort();
        }
    }
}
