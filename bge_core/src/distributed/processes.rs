//! Ranks that are processes, on one host or several, and speak MPI.
//!
//! `mpirun` starts them, or `srun --mpi=pmix`. Values go from rank to rank, and every sum is made here, in the order of the ranks:
//! MPI's own reductions choose their order by sizes and hosts, so that the bits would depend on both.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mpi::Threading;
use mpi::topology::Communicator as _;
use mpi::traits::Equivalence;

use super::call::Call;
use super::failure::Failure;
use super::launcher::{Launched, Launcher};
use super::line::{Brought, Exchange, Job, Line};
use super::{Communicator, Process, block, check_lengths, check_own, check_root, sum_by_parts};
use crate::config::NumberType;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::random::mix;

/// How long a call waits before [`Mpi::set_limit`] says otherwise, as `ddp_timeout`.
const LIMIT: Duration = Duration::from_mins(30);
/// How long ranks that failed wait for each other.
const FAREWELL: Duration = Duration::from_secs(10);

/// This process as a rank.
///
/// A rank that fails tells the others why, and their calls end with its error; one that is killed without a word is noticed
/// by the launcher, and at the limit by all others.
#[derive(Debug)]
pub struct Mpi {
    rank: usize,
    size: usize,
    local_rank: usize,
    /// Ranks that compute on the same processor cores as this one, which is one of them.
    sharers: usize,
    jobs: Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread of MPI knows first.
struct Start {
    rank: usize,
    size: usize,
    host: String,
}

impl Mpi {
    /// Joins the processes of the launcher; once in the life of a process, and all of them must.
    pub fn start(launched: &Launched) -> Result<Self> {
        let (jobs, inbox) = channel();
        let (tell, told) = channel();
        let thread = std::thread::Builder::new().name("mpi".to_owned());
        let thread = thread.spawn(move || speak(&tell, inbox)).map_err(|error| {
            Error::new(ErrorKind::Distributed, "cannot start a thread").with_source(error)
        })?;
        let Ok(start) = told.recv() else {
            bail!(
                Distributed,
                "MPI was started before in this process, or cannot be started"
            );
        };
        if (start.rank, start.size) != (launched.rank, launched.world_size) {
            let way_out = match launched.launcher {
                Launcher::Slurm => "start it with `srun --mpi=pmix`, or with mpirun in the allocation",
                _ => "start it with the mpirun of the MPI library that bge was built with",
            };
            bail!(
                Distributed,
                "{} says rank {} of {}, but MPI rank {} of {}: {way_out}",
                launched.launcher,
                launched.rank,
                launched.world_size,
                start.rank,
                start.size
            );
        }
        let mut ranks = Self {
            rank: start.rank,
            size: start.size,
            local_rank: launched.local_rank,
            sharers: 1,
            jobs,
            thread: Mutex::new(Some(thread)),
        };
        let own = cores(&start.host);
        let all = ranks.gather_numbers(&[own])?;
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            ranks.sharers = all.iter().filter(|cores| **cores == own).count().max(1);
        }
        Ok(ranks)
    }

    /// Makes calls wait for `limit` at most.
    pub fn set_limit(&self, limit: Duration) {
        let _ = self.jobs.send(Job::Limit(limit));
    }

    /// Ends the group where all went well: waits for all ranks to come here, and leaves MPI. No call can follow.
    pub fn end(&self) -> Result<()> {
        let missing = self.part(LIMIT);
        if !missing.is_empty() {
            bail!(Distributed, "the ranks {missing:?} have not ended");
        }
        self.join();
        Ok(())
    }

    /// After a failure: waits a little for all ranks to know of it; those that may not. What is left then is [`Mpi::abort`].
    pub fn farewell(&self) -> Vec<usize> {
        self.part(FAREWELL)
    }

    /// Ends all processes at once; the launcher gets `code`.
    pub fn abort(&self, code: i32) {
        let _ = self.jobs.send(Job::Abort(code));
        self.join();
    }

    fn part(&self, limit: Duration) -> Vec<usize> {
        let (reply, answer) = channel();
        let _ = self.jobs.send(Job::End(limit, reply));
        answer.recv().unwrap_or_default()
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Gives the thread of MPI something to do and waits for it.
    fn ask<T>(&self, job: impl FnOnce(Sender<Result<T>>) -> Job) -> Result<T> {
        let (reply, answer) = channel();
        let _ = self.jobs.send(job(reply));
        match answer.recv() {
            Ok(answer) => answer,
            Err(_) => bail!(Distributed, "the ranks have parted already"),
        }
    }

    /// Sends `values` in parts of these lengths, to each rank its own, and takes what they send to this one.
    fn scatter(
        &self,
        call: Call,
        values: &[f32],
        lengths: &[usize],
        travels: NumberType,
    ) -> Result<Vec<f32>> {
        let (own, size) = (lengths[self.rank], travels.bytes());
        let to = (0..self.size).map(|rank| {
            let (first, length) = block(lengths, rank);
            first * size..(first + length) * size
        });
        let exchange = Exchange {
            call,
            word: 0,
            bounded: true,
            to: to.collect(),
            values: travels.pack(values),
            lengths: vec![own * size; self.size],
        };
        let brought = self.ask(|reply| Job::Bytes(exchange, reply))?;
        let mut sum = sum(&travels.unpack(&brought.values), own);
        travels.round(&mut sum);
        Ok(sum)
    }

    /// Sends `own` to all ranks, and takes values of these lengths from them.
    fn gather(&self, call: Call, own: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        let bytes = lengths.iter().map(|length| length * travels.bytes()).collect();
        let exchange = self.to_all(call, travels.pack(own), bytes);
        let brought = self.ask(|reply| Job::Bytes(exchange, reply))?;
        Ok(travels.unpack(&brought.values))
    }

    fn to_all<T: Equivalence>(&self, call: Call, own: Vec<T>, lengths: Vec<usize>) -> Exchange<T> {
        Exchange {
            call,
            word: 0,
            bounded: true,
            to: vec![0..own.len(); self.size],
            values: own,
            lengths,
        }
    }

    /// A call that brings nothing but a word.
    fn say(&self, call: Call, word: u32, bounded: bool) -> Result<Brought<u8>> {
        let exchange = Exchange {
            word,
            bounded,
            ..self.to_all(call, Vec::new(), vec![0; self.size])
        };
        self.ask(|reply| Job::Bytes(exchange, reply))
    }
}

/// What the thread of MPI does.
fn speak(tell: &Sender<Start>, jobs: Receiver<Job>) {
    // This thread is the only one that calls MPI, which is what "funneled" promises.
    let Some((universe, Threading::Funneled | Threading::Serialized | Threading::Multiple)) =
        mpi::initialize_with_threading(Threading::Funneled)
    else {
        return;
    };
    let world = universe.world().duplicate();
    let start = Start {
        rank: world.rank() as usize,
        size: world.size() as usize,
        host: mpi::environment::processor_name().unwrap_or_default(),
    };
    let _ = tell.send(start);
    Line::new(world, jobs, LIMIT).serve();
    // Dropping it shuts MPI down, which waits for all others.
    drop(universe);
}

/// A number for the cores that this process may use: ranks with equal ones share them.
fn cores(host: &str) -> f64 {
    let machine =
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| host.to_owned());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find(|line| line.starts_with("Cpus_allowed:"));
    let text = machine + allowed.unwrap_or_default();
    let hash = text.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
    (hash >> 12) as f64
}

/// The sum of what each rank has brought, in the order of the ranks.
fn sum(values: &[f32], length: usize) -> Vec<f32> {
    if length == 0 {
        return Vec::new();
    }
    let mut parts = values.chunks_exact(length);
    let mut sum = parts.next().map(<[f32]>::to_vec).unwrap_or_default();
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    sum
}

impl Communicator for Mpi {
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
        let sum = |values: &[f32], lengths: &[usize]| self.scatter(call, values, lengths, travels);
        sum_by_parts(values, self.size, sum, |part, lengths| {
            self.all_gather(part, lengths, travels)
        })
    }

    fn reduce_scatter(&self, values: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.size, lengths, values.len())?;
        let call = Call::ReduceScatter(lengths.to_vec(), travels);
        self.scatter(call, values, lengths, travels)
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.size, lengths, lengths.iter().sum())?;
        check_own(self.rank, own.len(), lengths)?;
        let call = Call::AllGather(lengths.to_vec(), travels);
        self.gather(call, own, lengths, travels)
    }

    fn gather_numbers(&self, own: &[f64]) -> Result<Vec<f64>> {
        let lengths = vec![own.len(); self.size];
        let exchange = self.to_all(Call::GatherNumbers(own.len()), own.to_vec(), lengths);
        let brought = self.ask(|reply| Job::Numbers(exchange, reply))?;
        Ok(brought.values)
    }

    fn broadcast(&self, root: usize, values: &mut [f32], travels: NumberType) -> Result<()> {
        check_root(self.size, root)?;
        let mut exchange = self.to_all(
            Call::Broadcast(root, values.len(), travels),
            Vec::new(),
            vec![0; self.size],
        );
        let bytes = values.len() * travels.bytes();
        if root == self.rank {
            exchange.values = travels.pack(values);
            exchange.to = vec![0..bytes; self.size];
            exchange.to[root] = 0..0;
        } else {
            exchange.lengths[root] = bytes;
        }
        let brought = self.ask(|reply| Job::Bytes(exchange, reply))?;
        if root == self.rank {
            travels.round(values);
        } else {
            values.copy_from_slice(&travels.unpack(&brought.values));
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.say(Call::Barrier, 0, true).map(drop)
    }

    fn order(&self, word: u32) -> Result<u32> {
        // Whoever waits for rank 0 waits as long as it gives signs of life.
        let brought = self.say(Call::Order, word, self.rank == 0)?;
        match brought.words.first() {
            Some(word) => Ok(*word),
            None => bail!(Internal, "an order without a word"),
        }
    }

    fn check(&self) -> Result<()> {
        self.ask(Job::Check)
    }

    fn fail(&self, error: &Error) {
        let (reply, told) = channel();
        let _ = self.jobs.send(Job::Fail(Failure::of(error), reply));
        let _ = told.recv();
    }
}

impl Process for Mpi {
    fn set_limit(&self, limit: Duration) {
        Self::set_limit(self, limit);
    }

    fn end(&self) -> Result<()> {
        Self::end(self)
    }

    fn farewell(&self) -> Vec<usize> {
        Self::farewell(self)
    }

    fn abort(&self, code: i32) {
        Self::abort(self, code);
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(&Error::new(
                ErrorKind::Distributed,
                format!("rank {} panicked", self.rank),
            ));
        }
    }
}
