//! Processes that a launcher started: ranks where this build knows how, and otherwise one clear refusal.

use std::time::Duration;

use bge_core::distributed::{Launched, Launcher};
use bge_core::{Error, ErrorKind};

use crate::command::{Failure, Outcome};
use crate::ranks::Ranks;

/// How long the others leave rank 0 to speak: most launchers end all at the first process that fails.
const SPEECH: Duration = Duration::from_secs(2);

/// Runs `work` alone, or as a rank among the processes of a launcher; under torchrun where it is to run `on_gpus`.
pub(crate) fn run(
    #[cfg_attr(
        not(feature = "nccl"),
        expect(unused_variables, reason = "this build refuses torchrun")
    )]
    on_gpus: impl FnOnce() -> Outcome<bool>,
    work: impl FnOnce(Option<&Ranks>) -> Outcome<()>,
) -> Outcome<()> {
    match launched()? {
        None => work(None),
        #[cfg(feature = "nccl")]
        Some(launched) if trains(&launched, on_gpus)? => {
            let start = bge_core::distributed::Torchrun::start;
            Ranks::run(&launched, start, |ranks| work(Some(ranks)))
        }
        #[cfg(feature = "mpi")]
        Some(launched) if launched.launcher != Launcher::Torchrun => {
            let start = bge_core::distributed::Mpi::start;
            Ranks::run(&launched, start, |ranks| work(Some(ranks)))
        }
        Some(launched) => Err(refusal(&launched, &way_out(&launched))),
    }
}

/// Whether torchrun's processes are ranks of this run; rank 0 alone says what is wrong with its settings.
#[cfg(feature = "nccl")]
fn trains(launched: &Launched, on_gpus: impl FnOnce() -> Outcome<bool>) -> Outcome<bool> {
    if launched.launcher != Launcher::Torchrun {
        return Ok(false);
    }
    crate::command::set_silent(launched.rank > 0);
    on_gpus()
}

/// Refuses to do the whole work once in every process of a launcher.
pub(crate) fn alone(command: &str) -> Outcome<()> {
    match launched()? {
        None => Ok(()),
        Some(launched) => {
            let reason = format!("`bge {command}` is one process; start it without the launcher");
            Err(refusal(&launched, &reason))
        }
    }
}

/// This process among those of a launcher; `None` where it runs alone.
fn launched() -> Outcome<Option<Launched>> {
    Ok(Launched::from_env()?.filter(|launched| launched.world_size > 1))
}

fn way_out(launched: &Launched) -> String {
    let size = launched.world_size;
    let build = if cfg!(feature = "mpi") {
        ""
    } else {
        " of a bge that was built with `--features mpi`"
    };
    let gpus = if cfg!(feature = "nccl") && launched.launcher == Launcher::Torchrun {
        "train on GPUs with `--devices cuda`, or "
    } else {
        ""
    };
    format!(
        "{gpus}give `--nproc_per_node {size}` without a launcher, for {size} ranks on one machine, or start it with \
         `mpirun -n {size}`{build}"
    )
}

/// An error that rank 0 alone shows.
fn refusal(launched: &Launched, reason: &str) -> Failure {
    let Launched {
        launcher,
        rank,
        world_size,
        ..
    } = launched;
    if *rank > 0 {
        std::thread::sleep(SPEECH);
        return Failure::Code(2);
    }
    let message =
        format!("{launcher} started {world_size} processes, each of which would do the whole work: {reason}");
    Failure::Work(Error::new(ErrorKind::InvalidConfig, message))
}
