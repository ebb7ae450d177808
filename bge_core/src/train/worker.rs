//! One rank of a run: its model and its share of the data. Rank 0 gives the orders, the others follow.

use rayon::ThreadPool;

use super::batch::Batches;
use super::feed::Feed;
use super::step::{StepReport, Stepper};
use super::zero::Moments;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::issue::Issue;

/// What a rank trains with.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) stepper: Stepper,
    pub(super) feed: Feed,
    /// The rank's own threads, where several ranks share the processor.
    pub(super) pool: Option<ThreadPool>,
}

/// What rank 0 tells the others to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The run is at its end.
    End = 0,
    /// An optimizer step.
    Step = 1,
    /// The weights that are shared out go to rank 0.
    Weights = 2,
    /// The optimizer that is shared out goes to rank 0.
    Moments = 3,
    /// Ranks on GPUs find out how they reach each other.
    Meet = 4,
    /// The run was stopped before its end.
    Stop = 5,
}

impl Order {
    fn from_word(word: u32) -> Result<Self> {
        match word {
            0 => Ok(Self::End),
            1 => Ok(Self::Step),
            2 => Ok(Self::Weights),
            3 => Ok(Self::Moments),
            4 => Ok(Self::Meet),
            5 => Ok(Self::Stop),
            other => bail!(Internal, "rank 0 gave the unknown order {other}"),
        }
    }
}

impl Worker {
    /// Gives an order, as rank 0.
    pub(super) fn order(&self, order: Order) -> Result<()> {
        self.stepper.ranks().order(order as u32).map(drop)
    }

    /// Does what rank 0 says until it says that the run is over; true if it was stopped before its end.
    pub(super) fn follow(&mut self) -> Result<bool> {
        loop {
            match Order::from_word(self.stepper.ranks().order(0)?)? {
                Order::End => return Ok(false),
                Order::Stop => return Ok(true),
                Order::Step => self.step().map(drop)?,
                Order::Weights => self.stepper.gather()?,
                Order::Moments => self.stepper.moments().map(drop)?,
                Order::Meet => self.stepper.meet().map(drop)?,
            }
        }
    }

    /// What is to be said of how the ranks reach each other, as rank 0.
    pub(super) fn meet(&self) -> Result<Option<Issue>> {
        self.order(Order::Meet)?;
        self.stepper.meet()
    }

    /// Makes the weights of rank 0 whole until the next step, as rank 0.
    pub(super) fn whole(&self) -> Result<()> {
        if self.stepper.shares_weights() {
            self.order(Order::Weights)?;
            self.stepper.gather()?;
        }
        Ok(())
    }

    /// The optimizer's tensors of all ranks, as rank 0.
    pub(super) fn moments(&self) -> Result<Moments<'_>> {
        if self.stepper.shares_optimizer() {
            self.order(Order::Moments)?;
        }
        self.stepper.moments()
    }

    /// The next optimizer step.
    pub(super) fn step(&mut self) -> Result<StepReport> {
        let Some(pool) = self.pool.take() else {
            return self.work();
        };
        let report = pool.install(|| self.work());
        self.pool = Some(pool);
        report
    }

    fn work(&mut self) -> Result<StepReport> {
        let done = self.stepper.steps();
        let report = match self.feed.update(done)? {
            Batches::Texts(batches) => self.stepper.step(&batches),
            Batches::Pairs(batches) => self.stepper.step(&batches),
        };
        report.map_err(|error| {
            if error.kind() == ErrorKind::NotFinite {
                self.feed.name_rows(&error, done)
            } else {
                error
            }
        })
    }
}

/// The threads of each of `ranks` ranks that share the present ones; none for a single rank, which uses these.
pub(super) fn pool(ranks: usize) -> Result<Option<ThreadPool>> {
    if ranks == 1 {
        return Ok(None);
    }
    let threads = (rayon::current_num_threads() / ranks).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let failed = |error| Error::new(ErrorKind::Internal, "cannot start threads").with_source(error);
    pool.map(Some).map_err(failed)
}
