//! Small requests of many threads, encoded together.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::embedder::Embedder;
use super::vectors::Vectors;
use crate::config::TextRole;
use crate::error::{Error, ErrorKind, Result};
use crate::tokenize::TokenBatch;

/// When waiting requests are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Texts of one batch; a larger request is a batch of its own.
    pub max_batch: usize,
    /// How long the first request of an idle queue waits for others. While a batch is computed the next one gathers by
    /// itself, so that zero is a good choice under load.
    pub max_wait: Duration,
}

impl Default for QueueLimits {
    /// 32 texts, half a millisecond.
    fn default() -> Self {
        Self {
            max_batch: 32,
            max_wait: Duration::from_micros(500),
        }
    }
}

/// An embedder that joins the requests of several threads into one batch.
///
/// There is no thread of its own: of the callers that wait, one gathers and computes for all. Each caller tokenizes its
/// own texts, so that what is wrong with them is its own error. A text's vector does not depend on its batch, and so not
/// on who else called.
///
/// ```no_run
/// use bge_core::config::{EmbedArguments, TextRole};
/// use bge_core::inference::{EncodeQueue, QueueLimits};
///
/// let embedder = bge_core::Embedder::from_finetuned("tuned", &EmbedArguments::default())?;
/// let queue = EncodeQueue::new(embedder, QueueLimits::default());
/// std::thread::scope(|threads| {
///     for query in ["what melts ice?", "why is the sky blue?"] {
///         let queue = &queue;
///         threads.spawn(move || queue.encode(TextRole::Query, &[query]));
///     }
/// });
/// # Ok::<(), bge_core::Error>(())
/// ```
pub struct EncodeQueue {
    embedder: Embedder,
    limits: QueueLimits,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Request>,
    /// Texts of all waiting requests.
    texts: usize,
    /// Whether a caller gathers or computes.
    led: bool,
    batches: u64,
}

struct Request {
    tokens: TokenBatch,
    arrived: Instant,
    answer: Arc<Mutex<Option<Result<Vectors>>>>,
}

impl fmt::Debug for EncodeQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodeQueue")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A panic elsewhere leaves nothing half-done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EncodeQueue {
    /// A queue in front of an embedder.
    pub fn new(embedder: Embedder, limits: QueueLimits) -> Self {
        Self {
            embedder,
            limits,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The embedder behind it.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// How many batches were computed.
    pub fn batches(&self) -> u64 {
        lock(&self.state).batches
    }

    /// Vectors of texts in a role, the same as [`Embedder::encode_role`]'s.
    pub fn encode<S: AsRef<str> + Sync>(&self, role: TextRole, texts: &[S]) -> Result<Vectors> {
        let tokens = self.embedder.tokenize(role, texts)?;
        if tokens.is_empty() {
            return self.embedder.encode_tokens(&tokens, |_| {});
        }
        let answer = Arc::new(Mutex::new(None));
        let mut state = lock(&self.state);
        state.texts += tokens.len();
        state.waiting.push(Request {
            tokens,
            arrived: Instant::now(),
            answer: Arc::clone(&answer),
        });
        if state.led && state.texts >= self.limits.max_batch {
            self.changed.notify_all();
        }
        loop {
            if let Some(answer) = lock(&answer).take() {
                return answer;
            }
            state = if state.led {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.lead(state)
            };
        }
    }

    /// Gathers the oldest requests, computes them and hands out the answers.
    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.led = true;
        if let Some(first) = state.waiting.first().map(|request| request.arrived) {
            let mut left = self.limits.max_wait.saturating_sub(first.elapsed());
            while state.texts < self.limits.max_batch && !left.is_zero() {
                let woken = self.changed.wait_timeout(state, left);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                left = self.limits.max_wait.saturating_sub(first.elapsed());
            }
        }
        let mut texts = 0;
        let fits = state.waiting.iter().take_while(|request| {
            texts += request.tokens.len();
            texts <= self.limits.max_batch
        });
        let count = fits.count().max(1).min(state.waiting.len());
        let taken: Vec<Request> = state.waiting.drain(..count).collect();
        let texts: usize = taken.iter().map(|request| request.tokens.len()).sum();
        state.texts -= texts;
        state.batches += 1;
        drop(state);
        // Also when computing panics: the others get an error, and one of them leads on.
        let mut turn = Turn { queue: self, taken };
        self.compute(&mut turn.taken);
        drop(turn);
        lock(&self.state)
    }

    fn compute(&self, requests: &mut Vec<Request>) {
        let joined = join(requests).and_then(|tokens| self.embedder.encode_tokens(&tokens, |_| {}));
        match joined {
            Ok(vectors) => {
                let mut rows = vectors.data.as_slice();
                for request in requests.drain(..) {
                    let (own, rest) = rows.split_at(request.tokens.len() * vectors.dim);
                    rows = rest;
                    let own = Vectors {
                        data: own.to_vec(),
                        dim: vectors.dim,
                    };
                    *lock(&request.answer) = Some(Ok(own));
                }
            }
            // What one request cannot have must not cost the others their answers.
            Err(_) => {
                for request in requests.drain(..) {
                    let own = self.embedder.encode_tokens(&request.tokens, |_| {});
                    *lock(&request.answer) = Some(own);
                }
            }
        }
    }
}

/// The end of a leader's turn, however it comes.
struct Turn<'a> {
    queue: &'a EncodeQueue,
    taken: Vec<Request>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        for request in self.taken.drain(..) {
            let message = "the batch that this text was encoded in failed; this is a bug in bge";
            *lock(&request.answer) = Some(Err(Error::new(ErrorKind::Internal, message)));
        }
        lock(&self.queue.state).led = false;
        self.queue.changed.notify_all();
    }
}

/// All texts of some requests as one batch.
fn join(requests: &[Request]) -> Result<TokenBatch> {
    if let [only] = requests {
        return Ok(only.tokens.clone());
    }
    let rows: Vec<&[u32]> = requests
        .iter()
        .flat_map(|request| request.tokens.rows())
        .collect();
    let mut joined = TokenBatch::from_rows(&rows)?;
    if requests.iter().any(|request| request.tokens.type_ids.is_some()) {
        let types = requests
            .iter()
            .flat_map(|request| match &request.tokens.type_ids {
                Some(types) => types.clone(),
                None => vec![0; request.tokens.total_tokens()],
            });
        joined.type_ids = Some(types.collect());
    }
    Ok(joined)
}
