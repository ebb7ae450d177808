//! The thread of a process that speaks MPI, and the only one: it does what the rank asks for, hears what the others say
//! meanwhile, and gives them signs of life.
//!
//! Everything is sent from rank to rank and tested until it is done, so that it is known who is missing, and waiting
//! has a limit. What MPI may still write to must stay: after a failure this thread stays where it is, with its
//! buffers, and answers every call with the failure until the process ends.

use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use mpi::point_to_point::{Destination, MatchedReceiveVec, Source};
use mpi::request::{Request, Scope, StaticScope};
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::Equivalence;

use super::call::Call;
use super::failure::Failure;
use super::nap;
use crate::error::{Error, ErrorKind, Result};
use crate::random::mix;

/// What the rank asks for.
pub(super) enum Job {
    Bytes(Exchange<u8>, Sender<Result<Brought<u8>>>),
    Numbers(Exchange<f64>, Sender<Result<Brought<f64>>>),
    /// How long to wait for others from now on.
    Limit(Duration),
    /// Whether the group goes on.
    Check(Sender<Result<()>>),
    Fail(Failure, Sender<()>),
    /// Waits this long for all to say that they are done; answers with those that did not.
    End(Duration, Sender<Vec<usize>>),
    /// Ends all processes with this exit code.
    Abort(i32),
}

/// One collective, as this rank sees it.
pub(super) struct Exchange<T> {
    pub(super) call: Call,
    /// A word for everyone.
    pub(super) word: u32,
    /// Whether waiting has a limit; without one, rank 0 must give signs of life.
    pub(super) bounded: bool,
    pub(super) values: Vec<T>,
    /// The values that each rank gets.
    pub(super) to: Vec<Range<usize>>,
    /// How many values come from each rank.
    pub(super) lengths: Vec<usize>,
}

/// What the ranks have brought.
pub(super) struct Brought<T> {
    pub(super) words: Vec<u32>,
    /// Of all ranks, one after another.
    pub(super) values: Vec<T>,
}

const HELLO: i32 = 1;
const DATA: i32 = 2;
const NOTICE: i32 = 3;

/// First bytes of a notice.
const ALIVE: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// A word, a number that stands for the whole call, and as much of the call's text as there is room for.
const HELLO_BYTES: usize = 256;
/// A notice that is no longer than this leaves at once.
const NOTICE_BYTES: usize = 2048;
/// Values in one message: MPI counts with 31 bits.
const MESSAGE: usize = 1 << 27;
/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(500);
/// Between two looks at what has come, while there is nothing to do.
const LOOK: Duration = Duration::from_millis(20);
/// How long a failing rank tries to tell the others.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A message on its way.
type Sent<'a, T, S> = (usize, Request<'a, [T], S>);

pub(super) struct Line {
    pub(super) world: SimpleCommunicator,
    pub(super) jobs: Receiver<Job>,
    rank: usize,
    limit: Duration,
    /// When each rank was last heard of.
    heard: Vec<Instant>,
    spoken: Instant,
    notices: Vec<Sent<'static, u8, StaticScope>>,
    /// Ranks that have nothing more to say.
    done: Vec<bool>,
    failure: Option<Failure>,
}

impl Line {
    pub(super) fn new(world: SimpleCommunicator, jobs: Receiver<Job>, limit: Duration) -> Self {
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Self {
            world,
            jobs,
            rank,
            limit,
            heard: vec![Instant::now(); size],
            spoken: Instant::now(),
            notices: Vec::new(),
            done: vec![false; size],
            failure: None,
        }
    }

    /// Does what comes until the ranks have parted; MPI may then be shut down.
    pub(super) fn serve(mut self) {
        loop {
            match self.next() {
                job if self.failure.is_some() => self.refuse(job),
                Job::Bytes(exchange, reply) => self.exchange(&exchange, &reply),
                Job::Numbers(exchange, reply) => self.exchange(&exchange, &reply),
                Job::Limit(limit) => self.limit = limit,
                Job::Check(reply) => drop(reply.send(Ok(()))),
                Job::End(limit, reply) => {
                    let missing = self.part(limit);
                    let parted = missing.is_empty();
                    let _ = reply.send(missing);
                    if parted {
                        return;
                    }
                    self.broken();
                }
                job => self.refuse(job),
            }
        }
    }

    /// The next thing to do.
    fn next(&mut self) -> Job {
        loop {
            match self.jobs.recv_timeout(LOOK) {
                Ok(job) => return job,
                Err(RecvTimeoutError::Timeout) => self.listen(),
                // Nobody will ask again: the process ends.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Answers everything with the failure. There is no way back: requests may be open, and MPI must not be shut down.
    fn broken(&mut self) -> ! {
        loop {
            let job = self.next();
            self.refuse(job);
        }
    }

    /// Does what can be done of a job after a failure.
    fn refuse(&mut self, job: Job) {
        let error = || self.failure.as_ref().map_or_else(ended, Failure::error);
        match job {
            Job::Bytes(_, reply) => drop(reply.send(Err(error()))),
            Job::Numbers(_, reply) => drop(reply.send(Err(error()))),
            Job::Limit(_) => {}
            Job::Check(reply) => drop(reply.send(Err(error()))),
            Job::Fail(failure, reply) => {
                self.fail(failure);
                let _ = reply.send(());
            }
            Job::End(limit, reply) => drop(reply.send(self.part(limit))),
            Job::Abort(code) => self.world.abort(code),
        }
    }

    /// Tells all others why the group ends, unless they know a reason already.
    fn fail(&mut self, failure: Failure) {
        if self.failure.is_some() {
            return;
        }
        let mut text = failure.message.clone();
        if text.len() > NOTICE_BYTES {
            text.truncate(text.floor_char_boundary(NOTICE_BYTES));
            text.push('…');
        }
        let bytes = [
            &[FAILED][..],
            &(failure.kind as u32).to_le_bytes(),
            text.as_bytes(),
        ]
        .concat();
        self.failure = Some(failure);
        self.tell(bytes.leak());
        self.linger(LAST_WORDS, |line| line.notices.is_empty());
    }

    /// Says that this rank is done, and waits for the others to say so; those that did not in time.
    fn part(&mut self, limit: Duration) -> Vec<usize> {
        if !std::mem::replace(&mut self.done[self.rank], true) {
            self.tell(&[DONE]);
        }
        self.linger(limit, |line| {
            line.notices.is_empty() && line.done.iter().all(|done| *done)
        });
        (0..self.done.len()).filter(|&rank| !self.done[rank]).collect()
    }

    /// Listens until something is so, or the limit has passed.
    fn linger(&mut self, limit: Duration, enough: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        loop {
            self.listen();
            if enough(self) || started.elapsed() > limit {
                return;
            }
            nap(started);
        }
    }

    /// Sends a notice to all others.
    fn tell(&mut self, notice: &'static [u8]) {
        self.spoken = Instant::now();
        for rank in (0..self.done.len()).filter(|&rank| rank != self.rank) {
            let process = self.world.process_at_rank(rank as i32);
            let request = process.immediate_send_with_tag(StaticScope, notice, NOTICE);
            self.notices.push((rank, request));
        }
    }

    /// Takes what the others have said, and gives a sign of life when it is time.
    fn listen(&mut self) {
        while let Some(found) = self.world.any_process().immediate_matched_probe_with_tag(NOTICE) {
            let (bytes, status) = found.matched_receive_vec::<u8>();
            let rank = status.source_rank() as usize;
            self.heard[rank] = Instant::now();
            match bytes.as_slice() {
                [DONE] => self.done[rank] = true,
                [FAILED, a, b, c, d, text @ ..] => {
                    let kind = Failure::kind_of(u32::from_le_bytes([*a, *b, *c, *d]));
                    let message = String::from_utf8_lossy(text).into_owned();
                    self.failure.get_or_insert(Failure { kind, message });
                }
                _ => {}
            }
        }
        self.notices = unfinished(std::mem::take(&mut self.notices), |_| {});
        // A rank that takes nothing gets nothing more, or what waits for it would grow without end.
        if self.spoken.elapsed() > BEAT && self.notices.is_empty() && !self.done[self.rank] {
            self.tell(&[ALIVE]);
        }
    }

    /// Meets all ranks in a call and exchanges values with them.
    fn exchange<T: Equivalence + Clone + Default>(
        &mut self,
        job: &Exchange<T>,
        reply: &Sender<Result<Brought<T>>>,
    ) {
        let answer = |failure: &Failure| drop(reply.send(Err(failure.error())));
        let words = self.meet(job, &answer);
        let mut values = vec![T::default(); job.lengths.iter().sum()];
        mpi::request::scope(|scope| {
            let mut open: Vec<Sent<'_, T, _>> = Vec::new();
            let mut rest = values.as_mut_slice();
            for (rank, &length) in job.lengths.iter().enumerate() {
                let (part, after) = rest.split_at_mut(length);
                rest = after;
                if rank == self.rank {
                    part.clone_from_slice(&job.values[job.to[rank].clone()]);
                    continue;
                }
                let process = self.world.process_at_rank(rank as i32);
                for piece in part.chunks_mut(MESSAGE) {
                    open.push((rank, process.immediate_receive_into_with_tag(scope, piece, DATA)));
                }
            }
            for rank in self.others() {
                let process = self.world.process_at_rank(rank as i32);
                for piece in job.values[job.to[rank].clone()].chunks(MESSAGE) {
                    open.push((rank, process.immediate_send_with_tag(scope, piece, DATA)));
                }
            }
            self.complete(open, &job.call, true, &answer);
        });
        let _ = reply.send(Ok(Brought { words, values }));
    }

    /// Tells all ranks in which call this one is, and hears the same of them; their words.
    fn meet<T>(&mut self, job: &Exchange<T>, answer: &dyn Fn(&Failure)) -> Vec<u32> {
        let own = hello(&job.call, job.word);
        let mut hellos = vec![own; self.done.len()];
        mpi::request::scope(|scope| {
            let mut open: Vec<Sent<'_, u8, _>> = Vec::new();
            for (rank, hello) in hellos
                .iter_mut()
                .enumerate()
                .filter(|(rank, _)| *rank != self.rank)
            {
                let process = self.world.process_at_rank(rank as i32);
                open.push((
                    rank,
                    process.immediate_receive_into_with_tag(scope, &mut hello[..], HELLO),
                ));
            }
            for rank in self.others() {
                let process = self.world.process_at_rank(rank as i32);
                open.push((rank, process.immediate_send_with_tag(scope, &own[..], HELLO)));
            }
            self.complete(open, &job.call, job.bounded, answer);
        });
        if let Some(rank) = hellos.iter().position(|hello| hello[4..] != hellos[0][4..]) {
            let message = format!(
                "the ranks are not in the same place: rank 0 calls {} and rank {rank} {}",
                call_of(&hellos[0]),
                call_of(&hellos[rank])
            );
            self.fail(Failure::new(message));
            if let Some(failure) = &self.failure {
                answer(failure);
            }
            self.broken();
        }
        let word = |hello: &[u8; HELLO_BYTES]| u32::from_le_bytes([hello[0], hello[1], hello[2], hello[3]]);
        hellos.iter().map(word).collect()
    }

    /// The other ranks, the next one first, so that not all send to the same one.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, size) = (self.rank, self.done.len());
        (1..size).map(move |distance| (rank + distance) % size)
    }

    /// Waits until all messages have been sent and received. Where that does not happen, the failure is the answer, and this
    /// never returns.
    fn complete<'a, T, S: Scope<'a>>(
        &mut self,
        mut open: Vec<Sent<'a, T, S>>,
        call: &Call,
        bounded: bool,
        answer: &dyn Fn(&Failure),
    ) {
        let started = Instant::now();
        loop {
            open = unfinished(open, |rank| self.heard[rank] = Instant::now());
            if open.is_empty() {
                return;
            }
            self.listen();
            if self.failure.is_none() && bounded && started.elapsed() > self.limit {
                let mut missing: Vec<usize> = open.iter().map(|(rank, _)| *rank).collect();
                missing.sort_unstable();
                missing.dedup();
                let message = format!(
                    "rank {} waited {:?} in {call} for the ranks {missing:?}",
                    self.rank, self.limit
                );
                self.fail(Failure::new(message));
            }
            if self.failure.is_none() && !bounded && self.heard[0].elapsed() > self.limit {
                let message = format!(
                    "rank 0 has given rank {} no sign of life for {:?}",
                    self.rank, self.limit
                );
                self.fail(Failure::new(message));
            }
            if let Some(failure) = &self.failure {
                answer(failure);
                self.broken();
            }
            nap(started);
        }
    }
}

/// The messages that are still on their way; says whose have arrived.
fn unfinished<'a, T, S: Scope<'a>>(
    open: Vec<Sent<'a, T, S>>,
    mut arrived: impl FnMut(usize),
) -> Vec<Sent<'a, T, S>> {
    open.into_iter()
        .filter_map(|(rank, request)| match request.test() {
            Ok(_) => {
                arrived(rank);
                None
            }
            Err(request) => Some((rank, request)),
        })
        .collect()
}

fn hello(call: &Call, word: u32) -> [u8; HELLO_BYTES] {
    let text = call.to_string();
    let digest = text.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
    let mut hello = [0; HELLO_BYTES];
    hello[..4].copy_from_slice(&word.to_le_bytes());
    hello[4..12].copy_from_slice(&digest.to_le_bytes());
    for (byte, from) in hello[12..].iter_mut().zip(text.bytes()) {
        *byte = from;
    }
    hello
}

fn call_of(hello: &[u8; HELLO_BYTES]) -> String {
    String::from_utf8_lossy(&hello[12..])
        .trim_end_matches('\0')
        .to_owned()
}

fn ended() -> Error {
    Error::new(ErrorKind::Distributed, "the ranks have parted already")
}
