//! Who started this process: one of several that a launcher runs together, by the variables that it set.

use std::fmt;
use std::str::FromStr;

use crate::error::{Result, bail};

/// What starts the processes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`, and what sets the same variables, such as a `PyTorchJob` of Kubernetes.
    Torchrun,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// Another `mpirun`, such as MPICH's.
    Pmi,
    /// `srun`.
    Slurm,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "mpirun (Open MPI)",
            Self::Pmi => "mpirun (MPICH) or srun",
            Self::Slurm => "srun",
        })
    }
}

/// This process among those of its launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// What started it.
    pub launcher: Launcher,
    /// Its number, from 0.
    pub rank: usize,
    /// The number of processes.
    pub world_size: usize,
    /// Its number among the processes of its host, from 0; 0 where the launcher does not say.
    pub local_rank: usize,
}

/// Which variables a launcher sets.
struct Variables {
    launcher: Launcher,
    rank: &'static str,
    /// The first one that is there counts.
    world_size: &'static [&'static str],
    /// The first one that is there counts.
    local_rank: &'static [&'static str],
    /// What has to be there too, for a name of the above to be the launcher's.
    marks: &'static [&'static str],
}

/// The innermost launcher comes first: torchrun runs under mpirun and srun, mpirun under srun, and each leaves its variables
/// to what it starts. A `PyTorchJob` sets torchrun's variables for its container, in which anything may run.
const LAUNCHERS: &[Variables] = &[
    Variables {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        world_size: &["WORLD_SIZE"],
        local_rank: &["LOCAL_RANK"],
        marks: &["TORCHELASTIC_RUN_ID"],
    },
    Variables {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: &["OMPI_COMM_WORLD_SIZE"],
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        marks: &[],
    },
    Variables {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        world_size: &["WORLD_SIZE"],
        local_rank: &["LOCAL_RANK"],
        marks: &["MASTER_ADDR"],
    },
    // srun sets these as well, with `--mpi=pmi2`.
    Variables {
        launcher: Launcher::Pmi,
        rank: "PMI_RANK",
        world_size: &["PMI_SIZE"],
        local_rank: &["MPI_LOCALRANKID", "SLURM_LOCALID"],
        marks: &[],
    },
    // A batch script and a shell of salloc know the tasks of their job too; only a step runs them. The step's own number
    // comes first, as a step may be smaller than its job.
    Variables {
        launcher: Launcher::Slurm,
        rank: "SLURM_PROCID",
        world_size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        local_rank: &["SLURM_LOCALID"],
        marks: &["SLURM_STEP_ID"],
    },
];

impl Launched {
    /// What the variables say; `None` where no launcher has set any.
    ///
    /// ```
    /// use bge_core::distributed::{Launched, Launcher};
    ///
    /// let found = Launched::detect(|name| match name {
    ///     "OMPI_COMM_WORLD_RANK" => Some("1".to_owned()),
    ///     "OMPI_COMM_WORLD_SIZE" => Some("2".to_owned()),
    ///     _ => None,
    /// });
    /// let Launched { launcher, rank, world_size, .. } = found.unwrap().unwrap();
    /// assert_eq!((launcher, rank, world_size), (Launcher::OpenMpi, 1, 2));
    /// ```
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
        for known in LAUNCHERS {
            let Some(world_size) = known.world_size.iter().copied().find(set) else {
                continue;
            };
            if set(&known.rank) && known.marks.iter().all(&set) {
                let local_rank = known.local_rank.iter().copied().find(set);
                let launched = Self {
                    launcher: known.launcher,
                    rank: number(&variable, known.rank)?,
                    world_size: number(&variable, world_size)?,
                    local_rank: local_rank.map_or(Ok(0), |name| number(&variable, name))?,
                };
                if launched.rank >= launched.world_size {
                    bail!(
                        InvalidConfig,
                        "the environment names rank {} ({}) of {} processes ({world_size}); unset both to run alone",
                        launched.rank,
                        known.rank,
                        launched.world_size
                    );
                }
                return Ok(Some(launched));
            }
        }
        Ok(None)
    }

    /// What the environment of this process says.
    pub fn from_env() -> Result<Option<Self>> {
        Self::detect(|name| std::env::var(name).ok())
    }
}

fn number(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<usize> {
    let value = variable(name).unwrap_or_default();
    match usize::from_str(value.trim()) {
        Ok(number) => Ok(number),
        Err(_) => bail!(
            InvalidConfig,
            "the environment variable {name} is {value:?}, which is no number of processes; unset it to run alone"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `NAME=VALUE` pairs as an environment.
    fn detect(variables: &str) -> Result<Option<Launched>> {
        let pairs: Vec<(&str, &str)> = variables
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        Launched::detect(|name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_launcher_is_known_by_its_variables() {
        let torchrun =
            "RANK=3 LOCAL_RANK=1 WORLD_SIZE=4 MASTER_ADDR=a MASTER_PORT=29500 TORCHELASTIC_RUN_ID=none";
        let pytorch_job = "RANK=1 WORLD_SIZE=2 MASTER_ADDR=job-master-0 MASTER_PORT=23456 PYTHONUNBUFFERED=0";
        let slurm = "SLURM_NTASKS=8 SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_STEP_ID=0 SLURM_JOB_ID=7";
        let open_mpi = "OMPI_COMM_WORLD_RANK=9 OMPI_COMM_WORLD_SIZE=12 OMPI_COMM_WORLD_LOCAL_RANK=2";
        for (variables, launcher, [rank, world_size, local_rank]) in [
            (torchrun, Launcher::Torchrun, [3, 4, 1]),
            (pytorch_job, Launcher::Torchrun, [1, 2, 0]),
            (open_mpi, Launcher::OpenMpi, [9, 12, 2]),
            ("PMI_RANK=1 PMI_SIZE=3", Launcher::Pmi, [1, 3, 0]),
            (
                "PMI_RANK=1 PMI_SIZE=3 MPI_LOCALRANKID=1",
                Launcher::Pmi,
                [1, 3, 1],
            ),
            (slurm, Launcher::Slurm, [5, 8, 1]),
        ] {
            let expected = Launched {
                launcher,
                rank,
                world_size,
                local_rank,
            };
            assert_eq!(detect(variables).unwrap(), Some(expected), "{variables}");
        }
    }

    #[test]
    fn variables_that_no_launcher_sets_together_mean_nothing() {
        for variables in [
            "",
            "RANK=3 WORLD_SIZE=4",
            "RANK= WORLD_SIZE=4 MASTER_ADDR=a",
            "WORLD_SIZE=4 MASTER_ADDR=a",
            "OMPI_COMM_WORLD_SIZE=2",
            // A batch script: 8 tasks are allocated, this is none of them.
            "SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_JOB_ID=7",
        ] {
            assert_eq!(detect(variables).unwrap(), None, "{variables}");
        }
    }

    #[test]
    fn the_innermost_launcher_counts() {
        let slurm = "SLURM_NTASKS=2 SLURM_PROCID=1 SLURM_STEP_ID=0";
        let mpirun = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=3";
        let job = "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a";
        for (variables, launcher, world_size) in [
            (format!("{slurm} {mpirun}"), Launcher::OpenMpi, 3),
            (format!("{slurm} {job}"), Launcher::Torchrun, 2),
            // mpirun in the container of a job, and torchrun under mpirun.
            (format!("{job} {mpirun}"), Launcher::OpenMpi, 3),
            (
                format!("{job} {mpirun} TORCHELASTIC_RUN_ID=x"),
                Launcher::Torchrun,
                2,
            ),
            // A step of one task in a job of two.
            (format!("{slurm} SLURM_STEP_NUM_TASKS=1"), Launcher::Slurm, 1),
        ] {
            let found = detect(&variables.replace("PROCID=1", "PROCID=0"))
                .unwrap()
                .unwrap();
            assert_eq!(
                (found.launcher, found.world_size),
                (launcher, world_size),
                "{variables}"
            );
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_errors_that_name_the_variable() {
        for (variables, name) in [
            (
                "OMPI_COMM_WORLD_RANK=one OMPI_COMM_WORLD_SIZE=2",
                "OMPI_COMM_WORLD_RANK",
            ),
            ("PMI_RANK=2 PMI_SIZE=2", "PMI_RANK"),
            ("RANK=0 WORLD_SIZE=-1 MASTER_ADDR=a", "WORLD_SIZE"),
            ("SLURM_NTASKS=0 SLURM_PROCID=0 SLURM_STEP_ID=0", "SLURM_NTASKS"),
        ] {
            let error = detect(variables).unwrap_err();
            assert!(error.message().contains(name), "{error}");
        }
    }
}
