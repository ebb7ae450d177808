//! A quickstart that was stopped: it goes on, and throws away nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::case::bge;

/// Runs the quickstart until it says this, and kills it.
fn until(at: &Path, said: &str) -> String {
    let mut command = bge(at);
    command
        .arg("quickstart")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut all = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        all += &line.unwrap();
        all.push('\n');
        if all.contains(said) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(all.contains(said), "{all}");
    all
}

#[test]
fn a_quickstart_that_was_stopped_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let first = until(folder.path(), "[1/");
    assert!(!first.contains("skipped"), "{first}");
    until(folder.path(), "validate: current, skipped");
}

#[test]
fn a_quickstart_leaves_a_changed_pipeline_and_what_it_made_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("bge-quickstart");
    fs::create_dir_all(root.join("work")).unwrap();
    let files = [".bge-quickstart", "pipeline.toml", "work/report.html"];
    for name in files {
        fs::write(root.join(name), "mine").unwrap();
    }
    let output = bge(folder.path()).arg("quickstart").output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    let way_out = "pipeline ./bge-quickstart/pipeline.toml";
    assert!(err.contains(way_out) && err.contains("--output_dir"), "{err}");
    for name in files {
        assert_eq!(fs::read_to_string(root.join(name)).unwrap(), "mine", "{name}");
    }
}
