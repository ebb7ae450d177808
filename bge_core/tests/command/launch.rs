//! Processes of a launcher that this build cannot make ranks of: one of them says so, and none trains.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::case::{GOOD, bge, copy, finetune, fixture, words};

fn prepare() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("models/bert"), &folder.path().join("model"));
    fs::write(folder.path().join("data.jsonl"), GOOD).unwrap();
    folder
}

/// Runs a command as process `rank` of `world` of a launcher that sets these variables.
fn run(at: &Path, args: &[String], variables: &[(&str, &str)]) -> (Output, String) {
    let output = bge(at)
        .args(args)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr.clone()).unwrap();
    (output, err)
}

const TORCHRUN: &[(&str, &str)] = &[
    ("WORLD_SIZE", "2"),
    ("MASTER_ADDR", "localhost"),
    ("TORCHELASTIC_RUN_ID", "x"),
];
const SLURM: &[(&str, &str)] = &[
    ("SLURM_NTASKS", "2"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_JOB_ID", "7"),
];
const OPEN_MPI: &[(&str, &str)] = &[("OMPI_COMM_WORLD_SIZE", "2")];

#[test]
fn a_launcher_that_is_not_served_is_refused_once_and_trains_nothing() {
    let mut launchers = vec![("torchrun", TORCHRUN, "RANK")];
    if cfg!(not(feature = "mpi")) {
        launchers.push(("srun", SLURM, "SLURM_PROCID"));
        launchers.push(("mpirun (Open MPI)", OPEN_MPI, "OMPI_COMM_WORLD_RANK"));
    }
    for (name, variables, rank) in launchers {
        let folder = prepare();
        for (number, speaks) in [("0", true), ("1", false)] {
            let variables = [variables, &[(rank, number)]].concat();
            let (output, err) = run(folder.path(), &finetune(&[]), &variables);
            assert_eq!(output.status.code(), Some(2), "{err}");
            assert!(output.stdout.is_empty());
            if speaks {
                assert!(err.starts_with("error: ") && err.lines().count() == 1, "{err}");
                for part in [name, "started 2 processes", "--nproc_per_node 2"] {
                    assert!(err.contains(part), "{part}: {err}");
                }
            } else {
                assert_eq!(err, "", "rank {number} of {name} speaks");
            }
        }
        assert!(!folder.path().join("out").exists());
    }
}

#[test]
fn what_is_one_process_is_refused_under_any_launcher() {
    let folder = prepare();
    for command in [&["pipeline", "pipeline.toml"][..], &["quickstart"]] {
        let variables = [OPEN_MPI, &[("OMPI_COMM_WORLD_RANK", "0")]].concat();
        let (output, err) = run(folder.path(), &words(command), &variables);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains("without the launcher"), "{err}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_world_of_one_process_trains_as_without_a_launcher() {
    let folder = prepare();
    let variables = [
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("MASTER_ADDR", "a"),
        ("TORCHELASTIC_RUN_ID", "x"),
    ];
    let (output, err) = run(folder.path(), &finetune(&[]), &variables);
    assert!(output.status.success(), "{err}");
    assert!(folder.path().join("out/model.safetensors").exists());
}

#[test]
fn variables_that_contradict_each_other_are_named() {
    let folder = prepare();
    let variables = [("RANK", "2"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a")];
    let (output, err) = run(folder.path(), &finetune(&[]), &variables);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("RANK") && err.contains("unset"), "{err}");
}
