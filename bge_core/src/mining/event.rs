//! What a mining run tells its caller while it works.

use std::ops::ControlFlow;

use crate::error::{Result, bail};
use crate::issue::Issue;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Encoding the texts that negatives come from.
    Corpus,
    /// Encoding positives that are not among them.
    Positives,
    /// Encoding queries.
    Queries,
    /// Searching, scoring and choosing, row by row.
    Rows,
}

impl Stage {
    /// The stage in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Corpus => "encoding the corpus",
            Self::Positives => "encoding positives outside the pool",
            Self::Queries => "encoding queries",
            Self::Rows => "choosing negatives",
        }
    }
}

/// What a run says.
#[derive(Clone, Copy, Debug)]
pub enum MineEvent<'a> {
    /// Something worth knowing.
    Note(&'a Issue),
    /// How far a stage is. Its first event may already be above 0: that much was there from an earlier run.
    Progress {
        /// The stage.
        stage: Stage,
        /// Texts or rows done.
        done: usize,
        /// Texts or rows there are.
        total: usize,
    },
}

/// Passes events on, and turns the wish to stop into an error.
pub(super) struct Reporter<'a>(pub(super) &'a mut dyn FnMut(MineEvent<'_>) -> ControlFlow<()>);

impl Reporter<'_> {
    pub(super) fn say(&mut self, event: MineEvent<'_>) -> Result<()> {
        match (self.0)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => bail!(Cancelled, "stopped; the same command goes on where it was"),
        }
    }

    pub(super) fn note(&mut self, issue: &Issue) -> Result<()> {
        self.say(MineEvent::Note(issue))
    }

    pub(super) fn progress(&mut self, stage: Stage, done: usize, total: usize) -> Result<()> {
        self.say(MineEvent::Progress { stage, done, total })
    }
}
