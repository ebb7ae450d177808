//! `bge convert`, `bge repair` and `bge split`: what they refuse, what they write, and that the one leads to the next.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::case::{Case, GOOD, bge, copy, fixture, words};

const REPAIR: &[&str] = &["repair", "data.jsonl", "--output", "out.jsonl"];
const SPLIT: &[&str] = &["split", "data.jsonl", "--train", "t.jsonl", "--dev", "d.jsonl"];
const CONVERT: &[&str] = &["convert", "data.csv", "--output", "out.jsonl"];
const LENGTHS: &[&str] = &[
    "split",
    "--by_length",
    "data.jsonl",
    "--output_dir",
    "out",
    "--model_name_or_path",
    "model",
];

fn case(name: &str, base: &[&str], more: &[&str], code: i32, says: &[&str]) -> Case {
    Case::new(name, words(&[base, more].concat()), code, says, |_: &Path| {})
}

/// The input of a command has this content.
fn input(name: &str, base: &[&str], file: &'static str, content: &[u8], says: &[&str]) -> Case {
    let content = content.to_vec();
    Case::new(name, words(base), 1, says, move |at: &Path| {
        fs::write(at.join(file), &content).unwrap();
    })
}

/// The command with a file of this name there already.
fn taken(name: &str, base: &[&str], file: &'static str, says: &[&str]) -> Case {
    Case::new(name, words(base), 2, says, move |at: &Path| {
        fs::write(at.join("data.csv"), "query,answer\na,b\n").unwrap();
        fs::write(at.join(file), "mine").unwrap();
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let pack = |text: &str| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    };
    let mut cut = pack(&GOOD.repeat(200));
    cut.truncate(cut.len() / 2);
    let mut cases = vec![
        case(
            "repair without input",
            &["repair"],
            &["--output", "o.jsonl"],
            2,
            &["input_path"],
        ),
        case(
            "repair without output",
            &["repair", "data.jsonl"],
            &[],
            2,
            &["output_file"],
        ),
        case(
            "repair onto its input",
            &["repair", "data.jsonl"],
            &["--output", "data.jsonl", "--overwrite"],
            2,
            &["output_file", "another name"],
        ),
        case(
            "repair onto its input by another path",
            &["repair", "data.jsonl"],
            &["--output", "./data.jsonl", "--overwrite"],
            2,
            &["input file, which would be overwritten"],
        ),
        case(
            "a quarantine that looks like data",
            REPAIR,
            &["--quarantine", "bad.jsonl"],
            2,
            &[
                "quarantine_file",
                "a folder of training data would take it for rows",
            ],
        ),
        case(
            "a quarantine that looks like packed data",
            REPAIR,
            &["--quarantine", "bad.json.gz"],
            2,
            &["quarantine_file"],
        ),
        case(
            "rows under a wrong name",
            &["repair", "data.jsonl", "--output", "out.gz"],
            &[],
            2,
            &[".jsonl"],
        ),
        case(
            "a misspelt flag of repair",
            REPAIR,
            &["--require_negative"],
            2,
            &["require_negatives"],
        ),
        case(
            "a missing file for repair",
            &["repair", "none.jsonl", "--output", "new/out.jsonl"],
            &[],
            1,
            &["none.jsonl"],
        ),
        case(
            "a table for repair",
            &["repair", "data.csv", "--output", "out.jsonl"],
            &[],
            1,
            &["data.csv"],
        ),
        taken(
            "repair onto a table",
            &["repair", "data.csv", "--output", "out.jsonl"],
            "x",
            &["bge convert"],
        ),
        taken(
            "repair over a file",
            REPAIR,
            "out.jsonl",
            &["out.jsonl", "--overwrite"],
        ),
        taken(
            "repair over a quarantine",
            REPAIR,
            "out.jsonl.quarantine",
            &["quarantine", "--overwrite"],
        ),
        input(
            "an empty file for repair",
            REPAIR,
            "data.jsonl",
            b"",
            &["no rows"],
        ),
        input(
            "nothing to mend",
            REPAIR,
            "data.jsonl",
            b"{\n\xff\xfe\n[1]\n",
            &["data.jsonl:1", "no row can be mended"],
        ),
        input(
            "a cut archive",
            &["repair", "data.jsonl.gz", "--output", "new/out.jsonl"],
            "data.jsonl.gz",
            &cut,
            &["data.jsonl.gz", "cut off or damaged"],
        ),
        input(
            "no archive",
            &["repair", "data.jsonl.gz", "--output", "out.jsonl"],
            "data.jsonl.gz",
            b"plain",
            &["damaged"],
        ),
        case(
            "split without files",
            &["split", "data.jsonl"],
            &[],
            2,
            &["train_file", "dev_file"],
        ),
        case(
            "split with one file",
            &["split", "data.jsonl", "--train", "t.jsonl"],
            &[],
            2,
            &["dev_file"],
        ),
        case(
            "train is dev",
            &["split", "data.jsonl", "--train", "t.jsonl", "--dev", "t.jsonl"],
            &[],
            2,
            &["file of train"],
        ),
        case(
            "a share of all",
            SPLIT,
            &["--dev_share", "1"],
            2,
            &["dev_share", "between 0 and 1"],
        ),
        case(
            "a folder without ranges",
            SPLIT,
            &["--output_dir", "out"],
            2,
            &["--by_length"],
        ),
        case(
            "a share of nothing",
            SPLIT,
            &["--dev_share", "0.4"],
            1,
            &["raise --dev_share"],
        ),
        case(
            "one group",
            SPLIT,
            &["--dev_share", "0.9", "--negatives_too"],
            1,
            &[],
        ),
        case(
            "a missing file for split",
            &["split", "none.jsonl", "--train", "t.jsonl", "--dev", "d.jsonl"],
            &[],
            1,
            &["none.jsonl"],
        ),
        input(
            "an empty file for split",
            SPLIT,
            "data.jsonl",
            b"\n",
            &["no rows"],
        ),
        input(
            "unreadable rows for split",
            SPLIT,
            "data.jsonl",
            b"{\n\xff\n",
            &["none of the 2 rows", "bge validate"],
        ),
        taken("split over dev", SPLIT, "d.jsonl", &["d.jsonl", "--overwrite"]),
        case(
            "no folder for ranges",
            &["split", "--by_length", "data.jsonl"],
            &[],
            2,
            &["output_dir"],
        ),
        case(
            "ranges and train",
            LENGTHS,
            &["--train", "t.jsonl"],
            2,
            &["train_file"],
        ),
        case("no lengths", LENGTHS, &["--length_list"], 2, &["length_list"]),
        case(
            "a log elsewhere",
            LENGTHS,
            &["--log_name", "../log"],
            2,
            &["log_name"],
        ),
        case(
            "no tokenizer",
            LENGTHS,
            &["--model_name_or_path", "none"],
            1,
            &["none"],
        ),
        input(
            "an empty file for ranges",
            LENGTHS,
            "data.jsonl",
            b"",
            &["no rows"],
        ),
        taken(
            "a file in place of the folder",
            LENGTHS,
            "out",
            &["output_dir must be a folder"],
        ),
        case("a missing table", CONVERT, &[], 1, &["data.csv"]),
        case(
            "an unknown format",
            CONVERT,
            &["--format", "parquet"],
            2,
            &["sentence-transformers"],
        ),
        case(
            "a folder of nothing",
            &["convert", "model/nothing", "--output", "out.jsonl"],
            &[],
            1,
            &["model/nothing"],
        ),
        case(
            "no BEIR folder",
            &["convert", "model", "--output", "out.jsonl"],
            &["--format", "beir"],
            1,
            &["qrels"],
        ),
        input(
            "an unknown ending",
            &["convert", "data.txt", "--output", "new/o.jsonl"],
            "data.txt",
            b"a,b\n",
            &["--format"],
        ),
        input(
            "an empty table",
            CONVERT,
            "data.csv",
            b"",
            &["empty", "nothing was written"],
        ),
        input(
            "a header alone",
            CONVERT,
            "data.csv",
            b"query,answer\n",
            &["no rows"],
        ),
        input(
            "a table without positives",
            CONVERT,
            "data.csv",
            b"query,color\na,b\n",
            &["`color`", "positive"],
        ),
        input(
            "bytes that are no table",
            CONVERT,
            "data.csv",
            b"query,answer\n\xff\xfe,\xff\n",
            &["data.csv:2", "UTF-8"],
        ),
        taken(
            "convert over a file",
            CONVERT,
            "out.jsonl",
            &["out.jsonl", "--overwrite"],
        ),
    ];
    cases.push(Case::new(
        "a BEIR folder without the split",
        words(&["convert", "beir", "--output", "out.jsonl", "--split", "dev"]),
        1,
        &["splits that are there: train"],
        |at: &Path| beir(&at.join("beir")),
    ));
    cases
}

/// A small folder in BEIR's layout, with a packed corpus.
fn beir(at: &Path) {
    fs::create_dir_all(at.join("qrels")).unwrap();
    let corpus = fs::File::create(at.join("corpus.jsonl.gz")).unwrap();
    let mut corpus = flate2::write::GzEncoder::new(corpus, flate2::Compression::fast());
    let (mut queries, mut qrels) = (String::new(), "query-id\tcorpus-id\tscore\n".to_owned());
    for row in 0..40 {
        writeln!(
            corpus,
            "{{\"_id\": \"d{row}\", \"title\": \"\", \"text\": \"bread {row}\"}}"
        )
        .unwrap();
        queries += &format!("{{\"_id\": \"q{row}\", \"text\": \"loaf {row}\"}}\n");
        qrels += &format!("q{row}\td{row}\t1\n");
    }
    corpus.finish().unwrap();
    qrels += "q1\tnone\t1\n";
    fs::write(at.join("queries.jsonl"), queries).unwrap();
    fs::write(at.join("qrels/train.tsv"), qrels).unwrap();
}

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
    run(
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
        while !at.join("new").exists() && started.elapsed() < Duration::from_secs(60) {
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
