//! A run that is told to end, a disk that is full, and a run that is killed outright.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::case::{bge, copy, finetune, fixture};

/// A model with dropout and real data in a folder of its own.
pub(crate) fn prepare() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copy(&fixture("models/bert"), &at.join("model"));
    let config = at.join("model/config.json");
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("prob\": 0.0", "prob\": 0.1");
    assert!(text.contains("prob\": 0.1"));
    fs::write(config, text).unwrap();
    fs::copy(fixture("data/plain.jsonl"), at.join("data.jsonl")).unwrap();
    folder
}

pub(crate) const STEPS: &[&str] = &[
    "--max_steps",
    "400",
    "--per_device_train_batch_size",
    "8",
    "--logging_steps",
    "1",
    "--train_group_size",
    "4",
];

fn start(at: &Path, more: &[&str]) -> Child {
    let args = finetune(&[STEPS, more].concat());
    bge(at)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(at: &Path, more: &[&str]) -> String {
    let output = start(at, more).wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{err}");
    err
}

/// Waits until the run has logged a few steps: its log goes to standard error line by line.
pub(crate) fn wait_for_steps(child: &mut Child, steps: usize) -> std::thread::JoinHandle<String> {
    use std::io::{BufRead, BufReader};
    let stderr = child.stderr.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        for line in BufReader::new(stderr).lines() {
            let line = line.unwrap();
            if line.contains("loss") {
                let _ = sender.send(());
            }
            all += &line;
            all.push('\n');
        }
        all
    });
    for _ in 0..steps {
        receiver
            .recv_timeout(Duration::from_mins(1))
            .expect("the run logs its steps");
    }
    reader
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[test]
fn sigterm_ends_a_run_with_a_checkpoint_from_which_it_goes_on_to_the_same_model() {
    let (straight, stopped) = (prepare(), prepare());
    run(straight.path(), &["--save_strategy", "no"]);

    let at = stopped.path();
    let mut child = start(at, &["--save_strategy", "no"]);
    let reader = wait_for_steps(&mut child, 5);
    let sent = Instant::now();
    signal(&child, "-TERM");
    let status = child.wait().unwrap();
    let message = reader.join().unwrap();
    assert!(sent.elapsed() < Duration::from_secs(10), "{message}");
    assert_eq!(status.code(), Some(1), "{message}");
    assert!(message.contains("--resume_from_checkpoint"), "{message}");
    let names: Vec<String> = fs::read_dir(at.join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.len() == 1 && names[0].starts_with("checkpoint-"),
        "{names:?}"
    );

    let message = run(at, &["--save_strategy", "no", "--resume_from_checkpoint", "True"]);
    assert!(message.contains("going on after step"), "{message}");
    for file in ["out/model.safetensors", "out/trainer_state.json"] {
        let read = |at: &Path| fs::read(at.join(file)).unwrap();
        assert!(
            read(straight.path()) == read(at),
            "{file} differs from the straight run's"
        );
    }
}

#[test]
fn a_killed_run_leaves_whole_checkpoints_only_and_goes_on_from_the_newest() {
    let folder = prepare();
    let at = folder.path();
    let mut child = start(at, &["--save_steps", "1", "--save_total_limit", "3"]);
    let reader = wait_for_steps(&mut child, 5);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(reader.join());
    let message = run(at, &["--save_strategy", "no", "--resume_from_checkpoint", "True"]);
    assert!(message.contains("going on after step"), "{message}");
    assert!(at.join("out/model.safetensors").exists());
}

/// Mounts a small file system on a folder until it is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, bytes: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={bytes}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output();
        done.ok()?.status.success().then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_leaves_no_half_checkpoint() {
    let folder = prepare();
    let at = folder.path();
    let place = at.join("small");
    let Some(_disk) = SmallDisk::mount(&place, 1 << 19) else {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    };
    let child = start(at, &["--save_steps", "1", "--output_dir", "small/out"]);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("error: ") && err.contains("small/out"), "{err}");
    assert!(!err.contains("panicked"), "{err}");
    for entry in fs::read_dir(place.join("out")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("checkpoint-"), "{name} was left");
        for file in ["model.safetensors", "optimizer.safetensors", "trainer_state.json"] {
            assert!(path.join(file).exists(), "{name} lacks {file}");
        }
    }
}
