//! Ranks that are threads of this process. They meet: each one brings something, and when the last one has come, each takes
//! what all have brought.
//!
//! Every collective is made of such meetings. Nothing travels, but numbers are rounded as if they did, so that processes come to the
//! same. There is one lock and one signal, and what can go wrong is noticed there:
//! different calls, a rank that ended, failed or panicked, one that does not come in time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use super::call::Call;
use super::failure::{Failure, of_rank};
use super::{Communicator, block, check_lengths, check_own, check_root, even};
use crate::config::NumberType;
use crate::error::{Error, ErrorKind, Result, bail};

/// What a rank brings to a meeting.
#[derive(Clone, Debug)]
enum Data {
    Floats(Vec<f32>),
    Numbers(Vec<f64>),
    Word(u32),
}

/// Something brought to the meeting by one rank.
#[derive(Debug)]
struct Post {
    call: Call,
    data: Data,
}

/// What all have brought, by rank.
type Meeting = Arc<Vec<Post>>;

#[derive(Debug)]
struct State {
    /// Finished meetings.
    meetings: u64,
    posts: Vec<Option<Post>>,
    /// The last finished meeting; the next one cannot finish before every rank has taken it.
    last: Meeting,
    /// Ranks that are gone.
    gone: Vec<bool>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Group {
    size: usize,
    limit: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and a state that is half changed does not exist.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, failure: Failure) {
        self.lock().failure.get_or_insert(failure);
        self.changed.notify_all();
    }
}

/// Threads as ranks.
#[derive(Debug)]
pub struct ThreadGroup;

impl ThreadGroup {
    /// The lines of `size` ranks, in their order. A rank that waits for longer than `limit` in a call ends the group.
    pub fn create(size: usize, limit: Duration) -> Result<Vec<ThreadRank>> {
        if size == 0 {
            bail!(InvalidArgument, "a group needs at least one rank");
        }
        let state = State {
            meetings: 0,
            posts: (0..size).map(|_| None).collect(),
            last: Arc::default(),
            gone: vec![false; size],
            failure: None,
        };
        let group = Arc::new(Group {
            size,
            limit,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        Ok((0..size)
            .map(|rank| ThreadRank {
                rank,
                group: Arc::clone(&group),
            })
            .collect())
    }

    /// Runs `work` on a thread for each of `size` ranks; the results are in the order of the ranks.
    ///
    /// The error is that of the rank that failed first.
    pub fn run<T: Send>(
        size: usize,
        limit: Duration,
        work: impl Fn(&ThreadRank) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let mut ranks = Self::create(size, limit)?;
        let lead = ranks.remove(0);
        let group = Arc::clone(&lead.group);
        let mut results: Vec<Option<T>> = ranks.iter().map(|_| None).collect();
        let peers: Vec<_> = ranks.into_iter().zip(&mut results).collect();
        // A rank that is gone is an error of its own, so that it says first why it goes.
        let run = &|rank: &ThreadRank| work(rank).inspect_err(|error| rank.fail(&of_rank(rank.rank, error)));
        let first = together(
            &|error| group.fail(Failure::of(error)),
            peers,
            |(rank, result)| {
                *result = Some(run(&rank)?);
                Ok(())
            },
            move || run(&lead),
        )?;
        Ok(std::iter::once(first)
            .chain(results.into_iter().flatten())
            .collect())
    }
}

/// Runs `follow` on a thread for each peer and `lead` on this one, and returns when all have ended.
///
/// Where one fails or panics, `fail` is told and must end the others. The result is the error of the one that failed, and
/// `lead`'s own where several did.
pub fn together<P: Send, T>(
    fail: &(dyn Fn(&Error) + Sync),
    peers: Vec<P>,
    follow: impl Fn(P) -> Result<()> + Sync,
    lead: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let follow = &follow;
    std::thread::scope(|scope| {
        let threads: Vec<_> = peers
            .into_iter()
            .enumerate()
            .map(|(at, peer)| {
                let run = move || {
                    let guard = Guard { fail, rank: at + 1 };
                    let result = follow(peer);
                    std::mem::forget(guard);
                    if let Err(error) = &result {
                        fail(&of_rank(at + 1, error));
                    }
                    result
                };
                let name = format!("rank {}", at + 1);
                std::thread::Builder::new().name(name).spawn_scoped(scope, run)
            })
            .collect();
        let guard = Guard { fail, rank: 0 };
        let all: std::io::Result<Vec<_>> = threads.into_iter().collect();
        let result = match all {
            Ok(threads) => {
                let result = lead();
                if let Err(error) = &result {
                    fail(&of_rank(0, error));
                }
                let ends: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
                first_error(result, ends)
            }
            Err(error) => {
                let error = Error::new(ErrorKind::Distributed, "cannot start a thread").with_source(error);
                fail(&error);
                Err(error)
            }
        };
        std::mem::forget(guard);
        result
    })
}

/// Ends the group where a rank's thread unwinds.
struct Guard<'a> {
    fail: &'a (dyn Fn(&Error) + Sync),
    rank: usize,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let message = format!("rank {} panicked", self.rank);
        (self.fail)(&Error::new(ErrorKind::Distributed, message));
    }
}

/// The leader's own error, or else that of a peer which is no echo of another's.
fn first_error<T>(lead: Result<T>, ends: Vec<std::thread::Result<Result<()>>>) -> Result<T> {
    let is_echo = |error: &Error| error.kind() == ErrorKind::Distributed;
    let mut errors = Vec::new();
    for (at, end) in ends.into_iter().enumerate() {
        match end {
            Ok(Ok(())) => {}
            Ok(Err(error)) => errors.push(error),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                let text = text.unwrap_or_else(|| "without a message".to_owned());
                let message = format!("rank {} panicked: {text}", at + 1);
                return Err(Error::new(ErrorKind::Distributed, message));
            }
        }
    }
    let lead = match lead {
        Ok(value) if errors.is_empty() => return Ok(value),
        Ok(_) => None,
        Err(error) => Some(error),
    };
    let mut all: Vec<Error> = lead.into_iter().chain(errors).collect();
    let at = all.iter().position(|error| !is_echo(error)).unwrap_or(0);
    Err(all.swap_remove(at))
}

/// A rank of a [`ThreadGroup`].
#[derive(Debug)]
pub struct ThreadRank {
    rank: usize,
    group: Arc<Group>,
}

impl ThreadRank {
    /// Brings `data`, waits for all others, and returns what all have brought.
    fn meet(&self, call: Call, data: Data, bounded: bool) -> Result<Meeting> {
        let group = &*self.group;
        let mut state = group.lock();
        let meeting = state.meetings;
        if let Some(failure) = &state.failure {
            return Err(failure.error());
        }
        let shown = call.to_string();
        if let Some(post) = state.posts.get_mut(self.rank) {
            *post = Some(Post { call, data });
        }
        if state.posts.iter().all(Option::is_some) {
            let posts: Vec<Post> = state.posts.iter_mut().filter_map(Option::take).collect();
            let differs = posts.iter().position(|post| post.call != posts[0].call);
            if let Some(at) = differs {
                let message = format!(
                    "the ranks are not in the same place: rank 0 calls {} and rank {at} {}",
                    posts[0].call, posts[at].call
                );
                state.failure.get_or_insert(Failure::new(message));
            }
            state.last = Arc::new(posts);
            state.meetings += 1;
            group.changed.notify_all();
        }
        let deadline = Instant::now().checked_add(group.limit).filter(|_| bounded);
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.error());
            }
            if state.meetings > meeting {
                return Ok(Arc::clone(&state.last));
            }
            let missing = |state: &State| -> Vec<usize> {
                (0..group.size)
                    .filter(|&rank| state.posts[rank].is_none())
                    .collect()
            };
            if let Some(rank) = missing(&state).into_iter().find(|&rank| state.gone[rank]) {
                let message = format!("rank {rank} has ended while rank {} is in {shown}", self.rank);
                state.failure = Some(Failure::new(message));
                group.changed.notify_all();
                continue;
            }
            let Some(deadline) = deadline else {
                state = group.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = format!(
                    "rank {} waited {:?} in {shown} for the ranks {:?}",
                    self.rank,
                    group.limit,
                    missing(&state)
                );
                state.failure = Some(Failure::new(message));
                group.changed.notify_all();
                continue;
            }
            state = group
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn meet_floats(&self, call: Call, values: &[f32], travels: NumberType) -> Result<Meeting> {
        let mut values = values.to_vec();
        travels.round(&mut values);
        self.meet(call, Data::Floats(values), true)
    }
}

/// A rank's floats in a meeting.
fn floats(post: &Post) -> &[f32] {
    match &post.data {
        Data::Floats(values) => values,
        Data::Numbers(_) | Data::Word(_) => &[],
    }
}

/// The sum of one block of what all have brought, in the order of the ranks.
fn sum(meeting: &Meeting, first: usize, length: usize, travels: NumberType) -> Vec<f32> {
    let mut posts = meeting.iter().map(|post| &floats(post)[first..first + length]);
    let mut sum = posts.next().map(<[f32]>::to_vec).unwrap_or_default();
    for values in posts {
        sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
    }
    travels.round(&mut sum);
    sum
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.group.size
    }

    fn all_reduce(&self, values: &mut [f32], travels: NumberType) -> Result<()> {
        // Each rank sums one part, and all take all parts.
        let lengths = even(values.len(), self.group.size);
        let meeting = self.meet_floats(Call::AllReduce(values.len(), travels), values, travels)?;
        let (first, length) = block(&lengths, self.rank);
        let part = sum(&meeting, first, length, travels);
        drop(meeting);
        let meeting = self.meet_floats(Call::AllGather(lengths, travels), &part, travels)?;
        let mut rest = values;
        for post in meeting.iter() {
            let part = floats(post);
            let (here, after) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = after;
        }
        Ok(())
    }

    fn reduce_scatter(&self, values: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.group.size, lengths, values.len())?;
        let call = Call::ReduceScatter(lengths.to_vec(), travels);
        let meeting = self.meet_floats(call, values, travels)?;
        let (first, length) = block(lengths, self.rank);
        Ok(sum(&meeting, first, length, travels))
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        check_lengths(self.group.size, lengths, lengths.iter().sum())?;
        check_own(self.rank, own.len(), lengths)?;
        let call = Call::AllGather(lengths.to_vec(), travels);
        let meeting = self.meet_floats(call, own, travels)?;
        Ok(meeting.iter().map(floats).collect::<Vec<_>>().concat())
    }

    fn gather_numbers(&self, own: &[f64]) -> Result<Vec<f64>> {
        let meeting = self.meet(Call::GatherNumbers(own.len()), Data::Numbers(own.to_vec()), true)?;
        Ok(meeting
            .iter()
            .flat_map(|post| match &post.data {
                Data::Numbers(numbers) => numbers.as_slice(),
                Data::Floats(_) | Data::Word(_) => &[],
            })
            .copied()
            .collect())
    }

    fn broadcast(&self, root: usize, values: &mut [f32], travels: NumberType) -> Result<()> {
        check_root(self.group.size, root)?;
        let own = if root == self.rank { &*values } else { &[] };
        let call = Call::Broadcast(root, values.len(), travels);
        let meeting = self.meet_floats(call, own, travels)?;
        values.copy_from_slice(floats(&meeting[root]));
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.meet(Call::Barrier, Data::Word(0), true).map(drop)
    }

    fn order(&self, word: u32) -> Result<u32> {
        // Whoever waits for rank 0 waits as long as it lives; rank 0 itself has nobody to wait for so long.
        let meeting = self.meet(Call::Order, Data::Word(word), self.rank == 0)?;
        match meeting.first().map(|post| &post.data) {
            Some(Data::Word(word)) => Ok(*word),
            _ => bail!(Internal, "an order without a word"),
        }
    }

    fn check(&self) -> Result<()> {
        match &self.group.lock().failure {
            Some(failure) => Err(failure.error()),
            None => Ok(()),
        }
    }

    fn fail(&self, error: &Error) {
        self.group.fail(Failure::of(error));
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.group
                .fail(Failure::new(format!("rank {} panicked", self.rank)));
        }
        self.group.lock().gone[self.rank] = true;
        self.group.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::{every_call, on_threads};
    use super::*;

    #[test]
    fn threads_make_every_call() {
        let lines = ThreadGroup::create(3, Duration::from_mins(1)).unwrap();
        for result in on_threads(lines, |line| Ok(Arc::new(line)), |line| every_call(&**line)) {
            result.unwrap();
        }
    }

    #[test]
    fn ranks_whose_numbers_travel_otherwise_are_not_in_the_same_place() {
        let result = ThreadGroup::run(2, Duration::from_mins(1), |line| {
            let travels = [NumberType::Fp32, NumberType::Bf16][line.rank()];
            line.all_reduce(&mut [1.0; 3], travels)
        });
        let text = result.unwrap_err().to_string();
        let both = "rank 0 calls all_reduce of 3 values and rank 1 all_reduce of 3 values in bf16";
        assert!(text.contains(both), "{text}");
    }
}
