//! Floats of a GPU that travel in 16 bits: rounded into a room of their own, summed there, and widened to where they were.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::NumberType;
use crate::cuda::gpu::{Arg, Gpu, Memory};
use crate::cuda::kernels::THREADS;
use crate::error::Result;

/// The room in which one stretch of floats at a time is on its way.
#[derive(Debug)]
pub(super) struct Halves {
    gpu: Arc<dyn Gpu>,
    travels: NumberType,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// As large as the largest stretch was.
    room: Option<Memory>,
    /// Where the floats are that are on their way, and how many.
    away: Option<(u64, usize)>,
}

impl Halves {
    /// Room for numbers of this type, taken when it is needed.
    pub(super) fn new(gpu: &Arc<dyn Gpu>, travels: NumberType) -> Self {
        Self {
            gpu: Arc::clone(gpu),
            travels,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only this rank's thread comes here, and it does not go on after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rounds `count` floats at a place; where their numbers of 16 bits are.
    pub(super) fn send(&self, at: u64, count: usize) -> Result<u64> {
        let state = &mut *self.state();
        let bytes = count * self.travels.bytes();
        if state.room.as_ref().is_none_or(|room| room.bytes() < bytes) {
            state.room = None; // there need not be memory for both
            state.room = Some(self.gpu.alloc(bytes)?);
        }
        let to = state.room.as_ref().map_or(0, Memory::address);
        self.launch("narrow_halves", count, at, to)?;
        state.away = Some((at, count));
        Ok(to)
    }

    /// Widens what is on its way, if anything is, to where it came from.
    pub(super) fn take(&self) -> Result<()> {
        let away = self.state().away;
        away.map_or(Ok(()), |(_, count)| self.take_part(0, count))
    }

    /// The same with `count` numbers from one on, which are all that is wanted.
    pub(super) fn take_part(&self, first: usize, count: usize) -> Result<()> {
        let state = &mut *self.state();
        if let (Some(room), Some((at, _))) = (&state.room, state.away.take()) {
            let from = room.at(first * self.travels.bytes());
            let to = at + (first * size_of::<f32>()) as u64;
            self.launch("widen_halves", count, from, to)?;
        }
        Ok(())
    }

    fn launch(&self, kernel: &'static str, count: usize, from: u64, to: u64) -> Result<()> {
        let brain = u32::from(self.travels == NumberType::Bf16);
        let args = [
            Arg::Place(from),
            Arg::U64(count as u64),
            brain.into(),
            Arg::Place(to),
        ];
        self.gpu.launch(kernel, [count.div_ceil(THREADS), 1], &args)
    }
}
