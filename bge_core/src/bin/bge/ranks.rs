//! Processes as ranks: rank 0 speaks, and all end together, with one exit code.

use std::sync::Arc;
use std::time::Duration;

use bge_core::config::FinetuneConfig;
use bge_core::distributed::{Communicator, Launched, Process};
use bge_core::{Error, ErrorKind, Issue, Severity};

use crate::command::{Failure, Outcome, finish, say, set_silent};

/// How long a rank waits to be ended by another.
const END: Duration = Duration::from_secs(10);

/// The other ranks, as this one reaches them.
pub(crate) struct Ranks(Arc<dyn Process>);

impl Ranks {
    /// Runs `work` in every process and ends them together: the first failure is the outcome of all, and rank 0 tells of it.
    pub(crate) fn run<P: Process + 'static>(
        launched: &Launched,
        start: impl FnOnce(&Launched) -> Result<P, Error>,
        work: impl FnOnce(&Self) -> Outcome<()>,
    ) -> Outcome<()> {
        set_silent(launched.rank > 0);
        let ranks = Self(Arc::new(start(launched)?));
        let outcome = ranks.agree(work(&ranks));
        match outcome {
            Ok(()) | Err(Failure::Code(_)) => outcome,
            Err(failure) => Err(Failure::Code(ranks.end(failure))),
        }
    }

    /// The outcome of rank 0 where every rank did its work.
    fn agree(&self, outcome: Outcome<()>) -> Outcome<()> {
        let code = match outcome {
            Ok(()) => 0,
            Err(Failure::Code(code)) => code,
            Err(failure) => return Err(failure),
        };
        let code = self.0.order(code as u32)?;
        self.0.end()?;
        match code {
            0 => Ok(()),
            code => Err(Failure::Code(code as i32)),
        }
    }

    /// Tells the others of a failure, and everyone of the first one; ends all processes.
    fn end(&self, failure: Failure) -> i32 {
        let rank = self.0.rank();
        let (kind, text) = match &failure {
            Failure::Work(error) => (error.kind(), error.to_string()),
            Failure::Usage(issues) => {
                let lines: Vec<String> = issues.iter().map(ToString::to_string).collect();
                (ErrorKind::InvalidConfig, lines.join("; "))
            }
            Failure::Code(code) => return *code,
        };
        // The others know already of an error that came from training, or from them.
        self.0
            .fail(&Error::new(kind, format!("rank {rank} failed: {text}")));
        let code = finish(Err(failure));
        let missing = self.0.farewell();
        if rank > 0 && missing.contains(&0) {
            set_silent(false);
            say(format!("error: rank {rank}: {text}"));
        }
        let first = (0..self.0.world_size()).find(|rank| !missing.contains(rank));
        if first != Some(rank) {
            std::thread::sleep(END);
        }
        self.0.abort(code);
        code
    }

    /// This rank's line to the others.
    pub(crate) fn line(&self) -> Arc<dyn Communicator> {
        Arc::clone(&self.0) as Arc<dyn Communicator>
    }

    /// Makes settings those of as many ranks as there are processes.
    pub(crate) fn fit(&self, config: &mut FinetuneConfig) -> Outcome<()> {
        let size = self.0.world_size();
        let asked = config.training.nproc_per_node.unwrap_or(size);
        if asked != size {
            let message =
                format!("the launcher started {size} processes, each of which is a rank; leave the flag out");
            let issue = Issue::new("config.conflict", Severity::Error, message).on_field("nproc_per_node");
            return Err(Failure::Usage(vec![issue]));
        }
        config.training.nproc_per_node = Some(size);
        self.0
            .set_limit(Duration::from_secs(config.training.ddp_timeout as u64));
        Ok(())
    }
}
