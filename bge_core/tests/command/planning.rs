//! `bge config check --plan`: how long a step takes on many devices, and rates that it refuses.

use std::fs;

use serde_json::Value;

use crate::case::{GOOD, bge};

/// The exit code and what is printed as JSON, with these words more.
fn plan(more: &str) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data.jsonl"), GOOD).unwrap();
    let line = "config check --plan --json --model_name_or_path BAAI/bge-small-en-v1.5 --train_data data.jsonl --train_group_size 2 \
                --per_device_train_batch_size 2 --negatives_cross_device True --output_dir out";
    let words = line.split_whitespace().chain(more.split_whitespace());
    let output = bge(folder.path()).args(words).output().unwrap();
    let printed = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), printed)
}

#[test]
fn a_plan_with_rates_is_a_curve_over_the_devices() {
    let curve = |more: &str| -> Vec<(u64, f64)> {
        let (code, printed) = plan(more);
        assert_eq!(code, Some(0), "{printed}");
        let steps = printed["plan"]["curve"].as_array().unwrap().iter();
        steps
            .map(|step| (step["devices"].as_u64().unwrap(), step["step"].as_f64().unwrap()))
            .collect()
    };
    let beside = curve("--tflops 100 --overlap True");
    let devices: Vec<u64> = beside.iter().map(|(devices, _)| *devices).collect();
    assert_eq!(devices, [1, 8, 16, 32, 64, 128, 256, 512]);
    let after = curve("--tflops 1E2 --overlap False");
    assert_eq!(after[0], beside[0], "one device waits for nobody");
    for (after, beside) in after.iter().zip(&beside).skip(1) {
        assert!(after.1 > beside.1, "{after:?} beside {beside:?}");
    }
}

#[test]
fn a_rate_that_cannot_be_is_named() {
    for (more, name) in [
        ("--tflops -1", "--tflops"),
        ("--tflops many", "--tflops"),
        ("--tflops 100 --overlap perhaps", "--overlap"),
        ("--tflops 100 --devices_per_host 0", "--devices_per_host"),
        ("--overlap True", "--tflops"),
    ] {
        let (code, printed) = plan(more);
        assert_eq!(code, Some(2), "{more}");
        let issue = &printed["issues"][0];
        assert_eq!(issue["code"], "config.plan", "{more}");
        assert!(
            issue["message"].as_str().unwrap().contains(name),
            "{more}: {issue}"
        );
    }
}

/// The exit code and the fields of what is said of settings for another machine.
fn said(more: &str) -> (Option<i32>, Vec<String>) {
    let (code, printed) = plan(more);
    assert!(printed["plan"]["memory"].is_object(), "{printed}");
    let issues = printed["issues"].as_array().unwrap();
    let field = |issue: &Value| issue["field"].as_str().unwrap().to_owned();
    (code, issues.iter().map(field).collect())
}

#[test]
fn a_plan_for_other_devices_is_not_measured_by_this_build() {
    for more in [
        "--devices cuda --memory_gib 24 --bf16 True",
        "--tflops 400 --bf16 True",
        "--world_size 8 --zero_stage 3 --communication_data_type bf16",
        "--tflops 400 --fp16 True --world_size 8 --communication_data_type fp16",
    ] {
        assert_eq!(said(more), (Some(0), Vec::new()), "{more}");
    }
    // What holds on any machine is said all the same.
    let fields = |more: &str| said(more).1.join(" ");
    assert_eq!(fields("--bf16 True"), "bf16");
    assert_eq!(fields("--zero_stage 3"), "zero_stage");
    assert_eq!(
        said("--devices cuda:0 cpu"),
        (Some(2), vec!["devices".to_owned()])
    );
}

#[test]
fn a_plan_says_that_it_has_not_seen_the_data() {
    let (code, printed) = plan("--train_data nowhere.jsonl");
    assert_eq!(code, Some(0), "{printed}");
    let issues = printed["issues"].as_array().unwrap();
    let missing = issues
        .iter()
        .find(|issue| issue["code"] == "config.plan")
        .unwrap();
    assert_eq!(
        (&missing["severity"], &missing["field"]),
        (&"warning".into(), &"train_data".into())
    );
    assert!(
        missing["message"]
            .as_str()
            .unwrap()
            .starts_with("\"nowhere.jsonl\" is not there")
    );
    assert_eq!(printed["plan"]["lengths_measured"], false);
}
