//! What `bge convert`, `bge repair` and `bge split` write, and that the one leads to the next.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::case::{GOOD, bge, copy, fixture};
use crate::preparing::beir;

fn run(at: &Path, args: &[&str]) -> Output {
    let output = bge(at).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    output
}

fn json(at: &Path, args: &[&str]) -> Value {
    serde_json::from_slice(&run(at, args).stdout).unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_beir_folder_is_converted_validated_split_and_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    beir(&at.join("beir"));
    copy(&fixture("models/bert"), &at.join("model"));
    let output = run(at, &["convert", "beir", "--output", "new/rows.jsonl"]);
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(out.contains("41 records: 40 rows with 40 positives"), "{out}");
    assert!(out.contains("corpus: beir/corpus.jsonl.gz"), "{out}");
    assert!(err.contains("convert.unknown_document"), "{err}");
    assert!(err.contains("beir/qrels/train.tsv:42"), "{err}");
    assert_eq!(lines(&at.join("new/rows.jsonl.quarantine")).len(), 1);
    // The quarantine is no training data.
    run(at, &["validate", "new", "--train_group_size", "2"]);
    let split = [
        "split",
        "new",
        "--train",
        "train.jsonl",
        "--dev",
        "dev.jsonl",
        "--dev_share",
        "0.25",
        "--json",
    ];
    let report = json(at, &split);
    assert_eq!((&report["train"], &report["dev"]), (&30.into(), &10.into()));
    let (train, dev) = (lines(&at.join("train.jsonl")), lines(&at.join("dev.jsonl")));
    assert_eq!((train.len(), dev.len()), (30, 10));
    assert!(dev.iter().all(|row| !train.contains(row)));
    let output = run(
        at,
        &[
            "finetune",
            "encoder_only.base",
            "--model_name_or_path",
            "model",
            "--train_data",
            "train.jsonl",
            "--output_dir",
            "out",
            "--train_group_size",
            "1",
            "--per_device_train_batch_size",
            "4",
            "--max_steps",
            "2",
        ],
    );
    assert!(at.join("out/model.safetensors").exists());
    let err = String::from_utf8(output.stderr).unwrap();
    let plan = err.lines().find(|line| line.starts_with("plan: about "));
    assert!(
        plan.is_some_and(|line| line.contains(", 2 steps; ") && line.ends_with("by the lengths of the data")),
        "{err}"
    );
    if cfg!(target_os = "linux") {
        assert!(
            err.contains("memory: ") && err.contains(" at the most, "),
            "{err}"
        );
    }
}

#[test]
fn a_repair_reads_packed_files_and_folders_and_says_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("in")).unwrap();
    fs::write(
        at.join("in/a.jsonl"),
        "{\"query\": \"q\", \"pos\": \"p\", \"neg\": [\"n\", \" \", \"n\"]}\nnonsense\n",
    )
    .unwrap();
    let packed = fs::File::create(at.join("in/b.jsonl.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    packed.write_all(GOOD.repeat(2).as_bytes()).unwrap();
    packed.finish().unwrap();
    let output = run(at, &["repair", "in", "--output=out.jsonl"]);
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(
        out.contains("6 rows: 3 kept, 1 of them mended; 2 dropped as repeated, 1 in the quarantine"),
        "{out}"
    );
    assert!(out.contains("1  data.neg_blank"), "{out}");
    assert!(
        err.contains("in/a.jsonl:1: negatives without text were removed"),
        "{err}"
    );
    assert!(err.contains("in/b.jsonl.gz:3: "), "{err}");
    let first = r#"{"query":"q","pos":["p"],"neg":["n"]}"#;
    let rows = lines(&at.join("out.jsonl"));
    assert_eq!(rows[0], first);
    // Sound rows keep their bytes.
    assert_eq!(rows[1..], GOOD.lines().collect::<Vec<_>>());
    let aside = lines(&at.join("out.jsonl.quarantine"));
    assert!(aside.len() == 1 && aside[0].contains("nonsense"), "{aside:?}");

    // What was repaired is sound: nothing is left to mend, and the quarantine of the run before does not stay.
    run(at, &["validate", "out.jsonl", "--train_group_size", "2"]);
    fs::copy(at.join("out.jsonl"), at.join("clean.jsonl")).unwrap();
    fs::write(
        at.join("settings.toml"),
        "overwrite = true\noutput_file = 'out.jsonl'\n",
    )
    .unwrap();
    let report = json(
        at,
        &["repair", "--json", "clean.jsonl", "--config", "settings.toml"],
    );
    assert_eq!((&report["kept"], &report["mended"]), (&3.into(), &0.into()));
    assert!(report["quarantine_file"].is_null(), "{report}");
    assert!(!at.join("out.jsonl.quarantine").exists());
    assert_eq!(lines(&at.join("out.jsonl")), rows);
}

#[test]
fn rows_are_split_by_length_under_upstreams_flags_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copy(&fixture("models/bert"), &at.join("model"));
    let long = "bread ".repeat(30);
    let rows = [
        "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": []}".to_owned(),
        format!("{{\"query\": \"a\", \"pos\": [\"b\", \"{long}\"], \"neg\": [\"c\"], \"type\": \"normal\"}}"),
        "broken".to_owned(),
    ];
    fs::create_dir(at.join("data")).unwrap();
    fs::write(at.join("data/x.jsonl"), rows.join("\n")).unwrap();
    let base = [
        "split",
        "--by_length",
        "--input_path",
        "data",
        "--output_dir",
        "out",
        "--cache_dir",
        ".cache",
        "--log_name",
        ".log",
        "--length_list",
        "0",
        "20",
        "10",
        "--model_name_or_path",
        "model",
        "--num_proc",
        "16",
    ];
    // The second file is cut off: then nothing is written of the first.
    let cut = at.join("data/y.jsonl.gz");
    fs::write(&cut, b"\x1f\x8b\x08").unwrap();
    let output = bge(at).args(base).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cut off"));
    assert!(!at.join("out").exists());
    fs::remove_file(cut).unwrap();

    run(at, &base);
    assert_eq!(lines(&at.join("out/x_len-0-10.jsonl")), rows[..1]);
    assert_eq!(lines(&at.join("out/x_len-20-inf.jsonl")), rows[1..2]);
    assert!(
        !at.join("out/x_len-10-20.jsonl").exists(),
        "an empty range has no file"
    );
    assert!(lines(&at.join("out/x.quarantine"))[0].contains("broken"));
    let log: Value = serde_json::from_str(&lines(&at.join("out/.log"))[0]).unwrap();
    let keys: Vec<&String> = log.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "file_name",
            "size",
            "avg_length",
            "file_path",
            "start_time",
            "end_time",
            "split_info"
        ]
    );
    assert_eq!((&log["file_name"], &log["size"]), (&"x.jsonl".into(), &2.into()));
    assert_eq!(
        log["split_info"],
        serde_json::json!({"len-0-10": 1, "len-10-20": 0, "len-20-inf": 1})
    );
    assert!(log["avg_length"].as_f64().unwrap() > 15.0);

    // What is there stays, unless it may be replaced; the log grows.
    fs::write(at.join("out/x_len-0-10.jsonl"), "mine").unwrap();
    let out = String::from_utf8(run(at, &base).stdout).unwrap();
    assert!(out.contains("left as it is: out/x_len-0-10.jsonl"), "{out}");
    assert_eq!(lines(&at.join("out/x_len-0-10.jsonl")), ["mine"]);
    let report = json(at, &[&base[..], &["--overwrite", "--json"]].concat());
    assert_eq!(report["files"][0]["written"].as_array().unwrap().len(), 2);
    assert_eq!(lines(&at.join("out/x_len-0-10.jsonl")), rows[..1]);
    assert_eq!(lines(&at.join("out/.log")).len(), 3);
}

#[test]
fn a_format_is_found_out_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("in")).unwrap();
    fs::write(at.join("in/faq.csv"), "question;answer\na, b;c\n").unwrap();
    fs::write(at.join("in/faq.tsv"), "question\tanswer\nd\te, f\n").unwrap();
    fs::write(at.join("in/pairs.jsonl"), "[\"g\", \"h\", \"i\"]\n").unwrap();
    fs::write(at.join("in/readme.md"), "no data").unwrap();
    run(at, &["convert", "in", "--output", "all.jsonl"]);
    let rows = [
        r#"{"query":"a, b","pos":["c"],"neg":[]}"#,
        r#"{"query":"d","pos":["e, f"],"neg":[]}"#,
        r#"{"query":"g","pos":["h"],"neg":["i"]}"#,
    ];
    assert_eq!(lines(&at.join("all.jsonl")), rows);
    for (format, row) in [("csv", 0), ("tsv", 1), ("sentence-transformers", 2)] {
        let name = format!("{format}.jsonl");
        run(at, &["convert", "in", "--format", format, "--output", &name]);
        assert_eq!(lines(&at.join(&name)), rows[row..=row], "{format}");
    }
    fs::rename(at.join("in/faq.tsv"), at.join("table.txt")).unwrap();
    let report = json(
        at,
        &[
            "convert",
            "--json",
            "table.txt",
            "--format",
            "tsv",
            "--output",
            "t.jsonl",
        ],
    );
    assert_eq!(report["written"], 1);
    assert_eq!(report["files"][0][0], "table");
}

#[test]
fn a_run_that_is_told_to_stop_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Enough to be in the middle of it when the signal comes.
    let mut big = std::io::BufWriter::new(fs::File::create(at.join("data.jsonl")).unwrap());
    for row in 0..500_000 {
        writeln!(
            big,
            "{{\"query\": \"q{row}\", \"pos\": [\"p{row}\"], \"neg\": [\"n\"]}}"
        )
        .unwrap();
    }
    drop(big);
    for args in [
        &["repair", "data.jsonl", "--output", "new/out.jsonl"][..],
        &[
            "split",
            "data.jsonl",
            "--train",
            "new/t.jsonl",
            "--dev",
            "new/d.jsonl",
        ],
        &["convert", "data.jsonl", "--output", "new/out.jsonl"],
    ] {
        let mut child = bge(at)
            .args(args)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !at.join("new").exists() && started.elapsed() < Duration::from_mins(1) {
            assert!(
                child.try_wait().unwrap().is_none(),
                "{args:?} ended before it wrote"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        let sent = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("stopped before the end"), "{said}");
        assert!(!at.join("new").exists(), "{args:?} left something");
    }
}
