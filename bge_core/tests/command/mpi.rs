//! `bge finetune` under mpirun: the weights of thread ranks, one voice, and how a lost rank ends all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::case::{bge, finetune};
use crate::signal::{STEPS, prepare, wait_for_steps};

const MPIRUN: &[&str] = &["--allow-run-as-root", "--oversubscribe"];

/// Starts `bge finetune` on groups of ranks, each with flags of its own.
fn start(at: &Path, groups: &[(usize, &[&str])]) -> Child {
    let mut command = Command::new("mpirun");
    command.args(MPIRUN).current_dir(at).env("RAYON_NUM_THREADS", "1");
    for (place, (ranks, more)) in groups.iter().enumerate() {
        if place > 0 {
            command.arg(":");
        }
        command
            .args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_bge")])
            .args(finetune(more));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun is there")
}

fn run(at: &Path, groups: &[(usize, &[&str])]) -> (Output, String) {
    let output = start(at, groups).wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, err)
}

const SHORT: &[&str] = &[
    "--max_steps",
    "6",
    "--save_steps",
    "3",
    "--logging_steps",
    "1",
    "--train_group_size",
    "4",
    "--negatives_cross_device",
    "--gradient_accumulation_steps",
    "2",
    "--learning_rate",
    "1e-3",
    "--per_device_train_batch_size",
    "3",
];

/// All files below a folder with their bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_path_buf();
                found.push((name, fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn assert_equal_folders(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    assert!(a.len() > 10, "{:?}", names(&a));
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        assert!(a == b, "{} differs", name.display());
    }
}

#[test]
fn processes_train_the_bytes_of_threads_and_only_rank_0_speaks() {
    for ranks in [2, 4] {
        let (threads, processes) = (prepare(), prepare());
        let count = ranks.to_string();
        let flags = [SHORT, &["--nproc_per_node", &count]].concat();
        let output = bge(threads.path()).args(finetune(&flags)).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );

        let (output, err) = run(processes.path(), &[(ranks, &[SHORT, &["--json"]].concat())]);
        assert!(output.status.success(), "{err}");
        assert_equal_folders(&threads.path().join("out"), &processes.path().join("out"));
        for line in ["done: ", "wrote out/checkpoint-3", "step 6  loss"] {
            assert_eq!(err.matches(line).count(), 1, "{line}: {err}");
        }
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["global_step"], 6);

        // From a checkpoint, too; the flag may say what the launcher does.
        let again = [&flags[..], &["--resume_from_checkpoint", "out/checkpoint-3"]].concat();
        let (output, err) = run(processes.path(), &[(ranks, &again)]);
        assert!(output.status.success(), "{err}");
        assert_equal_folders(&threads.path().join("out"), &processes.path().join("out"));
    }
}

#[test]
fn a_world_of_one_under_mpirun_is_a_run_without_ranks() {
    let (alone, launched) = (prepare(), prepare());
    let output = bge(alone.path()).args(finetune(SHORT)).output().unwrap();
    assert!(output.status.success());
    let (output, err) = run(launched.path(), &[(1, SHORT)]);
    assert!(output.status.success(), "{err}");
    assert_equal_folders(&alone.path().join("out"), &launched.path().join("out"));
}

#[test]
fn what_any_rank_finds_wrong_is_said_once_and_ends_all() {
    let other_data = [SHORT, &["--train_data", "missing.jsonl"]].concat();
    let other_rate = [SHORT, &["--learning_rate", "1e-4"]].concat();
    let unknown = [SHORT, &["--no_such_flag", "1"]].concat();
    let more_ranks = [SHORT, &["--nproc_per_node", "3"]].concat();
    for (name, groups, code, says) in [
        ("all, in a flag", vec![(2, &unknown[..])], 2, "no_such_flag"),
        (
            "all, in a number",
            vec![(2, &more_ranks[..])],
            2,
            "started 2 processes",
        ),
        (
            "rank 1 alone, in a flag",
            vec![(1, SHORT), (1, &unknown)],
            2,
            "no_such_flag",
        ),
        (
            "rank 1 alone, in a file",
            vec![(1, SHORT), (1, &other_data)],
            1,
            "missing.jsonl",
        ),
        (
            "rank 2 differs",
            vec![(2, SHORT), (1, &other_rate)],
            2,
            "rank 2 has other settings than rank 0",
        ),
    ] {
        let folder = prepare();
        let started = Instant::now();
        let (output, err) = run(folder.path(), &groups);
        assert!(started.elapsed() < Duration::from_secs(30), "{name}: {err}");
        let lines = err.lines().filter(|line| line.contains(says)).count();
        assert_eq!(lines, 1, "{name}: {err}");
        assert_eq!(output.status.code(), Some(code), "{name}: {err}");
        assert!(!folder.path().join("out/model.safetensors").exists(), "{name}");
    }
}

/// The process of a rank, by its folder and its environment.
fn process_of(rank: usize, at: &Path) -> u32 {
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let at = fs::canonicalize(at).unwrap();
    let found = fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.ok()?;
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let is_rank = environment
            .split(|byte| *byte == 0)
            .any(|pair| pair == wanted.as_bytes());
        (is_rank && fs::read_link(entry.path().join("cwd")).ok()? == at).then_some(id)
    });
    found.expect("the rank runs")
}

fn send(signal: &str, process: u32) {
    let sent = Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Waits for the end of a run; what it took and said.
fn end_of(mut child: Child, reader: std::thread::JoinHandle<String>) -> (Duration, String) {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_mins(1), "the ranks do not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    (started.elapsed(), reader.join().unwrap())
}

/// mpirun kills what is left and does not wait until it is gone. A process that ended may still wait for its parent to
/// notice, where the first process of a container does not.
fn assert_ended(process: u32) {
    let started = Instant::now();
    loop {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.trim().chars().next());
        if matches!(state, None | Some('Z' | 'X')) {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "a rank is left: {stat}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Goes on from the newest checkpoint, and ends with the bytes of the run that nothing happened to.
fn assert_goes_on(at: &Path, flags: &[&str]) {
    let flags = [flags, &["--resume_from_checkpoint", "True"]].concat();
    let (output, err) = run(at, &[(2, &flags)]);
    assert!(
        output.status.success() && err.contains("going on after step"),
        "{err}"
    );
    let straight = prepare();
    let output = bge(straight.path())
        .args(finetune(
            &[&flags[..flags.len() - 2], &["--nproc_per_node", "2"]].concat(),
        ))
        .output()
        .unwrap();
    assert!(output.status.success());
    let model = |at: &Path| fs::read(at.join("out/model.safetensors")).unwrap();
    assert!(model(at) == model(straight.path()), "the resumed model differs");
}

#[test]
fn a_killed_rank_ends_all_and_the_run_goes_on_from_its_checkpoint() {
    let folder = prepare();
    let at = folder.path();
    let flags = [STEPS, &["--save_steps", "20", "--save_total_limit", "2"]].concat();
    for rank in [1, 0] {
        let flags = if rank == 1 {
            flags.clone()
        } else {
            [&flags[..], &["--overwrite_output_dir"]].concat()
        };
        let mut child = start(at, &[(2, &flags)]);
        let reader = wait_for_steps(&mut child, 50);
        let processes = [process_of(0, at), process_of(1, at)];
        send("-KILL", processes[rank]);
        let (took, err) = end_of(child, reader);
        assert!(took < Duration::from_secs(15), "{took:?}: {err}");
        // mpirun sees it before anyone waits too long.
        let says = format!("process rank {rank} with PID");
        assert_eq!(err.matches(&says).count(), 1, "{err}");
        processes.into_iter().for_each(assert_ended);
    }
    assert_goes_on(at, &flags);
}

#[test]
fn a_rank_that_hangs_ends_all_at_the_limit() {
    let folder = prepare();
    let at = folder.path();
    let flags = [STEPS, &["--save_steps", "20", "--save_total_limit", "2"]].concat();
    let limited = [&flags[..], &["--ddp_timeout", "3"]].concat();
    let mut child = start(at, &[(2, &limited)]);
    let reader = wait_for_steps(&mut child, 50);
    let processes = [process_of(0, at), process_of(1, at)];
    send("-STOP", processes[1]);
    let (took, err) = end_of(child, reader);
    // The limit, the farewell of 10 seconds, and the launcher's own patience.
    assert!(
        took > Duration::from_secs(3) && took < Duration::from_secs(30),
        "{took:?}: {err}"
    );
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    for part in [
        "rank 0 waited 3s in ",
        "for the ranks [1]",
        "--resume_from_checkpoint out/checkpoint-",
    ] {
        assert!(errors[0].contains(part), "{part}: {err}");
    }
    processes.into_iter().for_each(assert_ended);
    assert_goes_on(at, &flags);
}
