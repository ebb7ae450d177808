//! `bge score` and `bge rerank`: bad rows, bad teachers, bad places, and runs that are killed at any moment.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::case::{Case, GOOD, bge, copy, fixture, words};

const ROW: &str = "{\"query\": \"ship\", \"pos\": [\"a sail\"], \"neg\": [\"bread\"]}\n";

fn score(more: &[&str]) -> Vec<String> {
    let base = [
        "score",
        "--reranker_name_or_path",
        "teacher",
        "--input_file",
        "data.jsonl",
        "--output_file",
        "out.jsonl",
    ];
    words(&[&base, more].concat())
}

fn teacher(at: &Path) {
    copy(&fixture("../scoring/models/bert"), &at.join("teacher"));
}

/// A good teacher and data that are not good.
fn data(name: &str, says: &[&str], text: impl AsRef<[u8]>) -> Case {
    let text = text.as_ref().to_vec();
    Case::new(name, score(&[]), 1, says, move |at| {
        teacher(at);
        fs::write(at.join("data.jsonl"), &text).unwrap();
    })
}

/// Good data and settings that are refused.
fn flags(name: &str, more: &[&str], says: &[&str]) -> Case {
    Case::new(name, score(more), 2, says, teacher)
}

/// Good data and a teacher that is not good.
fn model(name: &str, says: &[&str], prepare: impl Fn(&Path) + Send + Sync + 'static) -> Case {
    Case::new(name, score(&[]), 1, says, move |at| {
        teacher(at);
        prepare(at);
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        data("score: no rows", &["data.jsonl", "no rows"], ""),
        data("score: only blank lines", &["data.jsonl", "no rows"], "\n \n"),
        data(
            "score: a broken line after good ones",
            &["data.jsonl:3", "JSON"],
            format!("{ROW}{ROW}{{\"query\": \"x\", \"pos\n"),
        ),
        data("score: no object", &["data.jsonl:1", "object"], "[[1]]"),
        data(
            "score: no query",
            &["data.jsonl:2", "`query`", "missing"],
            format!("{ROW}{{\"pos\": [\"a\"]}}"),
        ),
        data(
            "score: a blank query",
            &["data.jsonl:1", "`query`", "blank"],
            ROW.replace("ship", " \\t "),
        ),
        data(
            "score: a number as query",
            &["data.jsonl:1", "`query`", "number"],
            ROW.replace("\"ship\"", "3"),
        ),
        data(
            "score: no pos",
            &["data.jsonl:1", "`pos`", "missing"],
            ROW.replace("\"pos\"", "\"po\""),
        ),
        data(
            "score: a text as pos",
            &["data.jsonl:1", "`pos`", "list"],
            ROW.replace("[\"a sail\"]", "\"a sail\""),
        ),
        data(
            "score: null in neg",
            &["data.jsonl:1", "`neg`", "null"],
            ROW.replace("\"bread\"", "null"),
        ),
        data(
            "score: not UTF-8",
            &["data.jsonl:1"],
            b"{\"query\": \"\xff\xfe\", \"pos\": [\"a\"]}\n",
        ),
        data(
            "score: half a character",
            &["data.jsonl:1"],
            "{\"query\": \"\\ud800\", \"pos\": [\"a\"]}\n",
        ),
        data(
            "score: an array that is cut off",
            &["data.jsonl", "array"],
            format!("[{ROW},"),
        ),
        data(
            "score: nested without end",
            &["data.jsonl:1", "JSON"],
            format!("{{\"query\": \"q\", \"pos\": {}", "[".repeat(100_000)),
        ),
        flags(
            "score: output is input",
            &["--output_file", "data.jsonl"],
            &["output_file", "input"],
        ),
        flags(
            "score: output is input by another name",
            &["--output_file", "./data.jsonl"],
            &["output_file", "input"],
        ),
        flags(
            "score: output is a folder",
            &["--output_file", "teacher"],
            &["output_file", "folder"],
        ),
        flags(
            "score: no folder for the output",
            &["--output_file", "gone/out.jsonl"],
            &["output_file", "folder"],
        ),
        flags(
            "score: an LLM reranker",
            &["--reranker_model_class", "decoder-only-layerwise"],
            &["decoder-only-layerwise", "LLM"],
        ),
        flags(
            "score: an unknown class",
            &["--reranker_model_class", "colbert"],
            &["reranker_model_class", "encoder-only-base"],
        ),
        flags(
            "score: prompt",
            &["--prompt", "Is it?"],
            &["prompt", "decoder-only-base"],
        ),
        flags(
            "score: cutoff_layers",
            &["--cutoff_layers", "8", "16"],
            &["cutoff_layers", "decoder-only-layerwise"],
        ),
        flags(
            "score: compress_ratio",
            &["--compress_ratio", "2"],
            &["compress_ratio", "decoder-only-lightweight"],
        ),
        flags(
            "score: compress_layers",
            &["--compress_layers", "8"],
            &["compress_layers", "LLM"],
        ),
        flags(
            "score: an adapter",
            &["--reranker_peft_path", "adapter"],
            &["reranker_peft_path", "LLM"],
        ),
        flags("score: a device", &["--devices", "cuda:0"], &["devices", "cpu"]),
        flags(
            "score: remote code",
            &["--trust_remote_code", "True"],
            &["trust_remote_code"],
        ),
        flags(
            "score: a length of 2",
            &["--reranker_max_length", "2"],
            &["reranker_max_length"],
        ),
        flags(
            "score: a batch of 0",
            &["--reranker_batch_size", "0"],
            &["reranker_batch_size"],
        ),
        flags(
            "score: a format without a place",
            &[
                "--query_instruction_format_for_rerank",
                "q",
                "--query_instruction_for_rerank",
                "i",
            ],
            &["query_instruction_format_for_rerank"],
        ),
        flags(
            "score: an unknown flag",
            &["--reranker_max_lenght", "12"],
            &["reranker_max_length"],
        ),
        model("score: no model", &["teacher", "no folder `teacher`"], |at| {
            fs::remove_dir_all(at.join("teacher")).unwrap();
        }),
        model("score: no weights", &["teacher", "model.safetensors"], |at| {
            fs::remove_file(at.join("teacher/model.safetensors")).unwrap();
        }),
        model("score: no tokenizer", &["tokenizer.json"], |at| {
            fs::remove_file(at.join("teacher/tokenizer.json")).unwrap();
        }),
        model(
            "score: an encoder without a head",
            &["classification head", "embedder"],
            |at| {
                fs::remove_dir_all(at.join("teacher")).unwrap();
                copy(&at.join("model"), &at.join("teacher"));
            },
        ),
        model(
            "score: a decoder",
            &["config.json", "qwen2", "decoder-only-base"],
            |at| {
                let text = "{\"model_type\": \"qwen2\", \"architectures\": [\"Qwen2ForCausalLM\"]}";
                fs::write(at.join("teacher/config.json"), text).unwrap();
            },
        ),
        model("score: weights of NaN", &["NaN"], |at| {
            let path = at.join("teacher/model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
            fs::write(path, bytes).unwrap();
        }),
    ];
    cases.push(Case::new(
        "score: an LLM reranker by name",
        score(&["--reranker_name_or_path", "BAAI/bge-reranker-v2-gemma"]),
        1,
        &["bge-reranker-v2-gemma", "LLM"],
        teacher,
    ));
    cases.push(Case::new(
        "score: nothing is asked",
        words(&["score"]),
        2,
        &["reranker_name_or_path", "input_file", "output_file"],
        |_| {},
    ));
    cases.push(Case::new(
        "score: the input is a folder",
        score(&["--input_file", "model"]),
        1,
        &["model", "not a file"],
        teacher,
    ));
    cases.push(Case::new(
        "score: the input is not there",
        score(&["--input_file", "gone.jsonl"]),
        1,
        &["gone.jsonl"],
        teacher,
    ));
    let rerank = |more: &[&str]| {
        let mut args = score(more);
        "rerank".clone_into(&mut args[0]);
        args
    };
    cases.push(Case::new(
        "rerank: training rows",
        rerank(&[]),
        1,
        &["data.jsonl:1", "`passage`", "missing"],
        teacher,
    ));
    cases.push(Case::new(
        "rerank: a list as passage",
        rerank(&[]),
        1,
        &["data.jsonl:2", "`passage`", "list"],
        |at| {
            teacher(at);
            let rows = "{\"query\": \"a\", \"passage\": \"b\"}\n{\"query\": \"a\", \"passage\": [\"b\"]}\n";
            fs::write(at.join("data.jsonl"), rows).unwrap();
        },
    ));
    cases
}

/// Rows for some blocks of work.
fn rows() -> String {
    let line = |i: usize| {
        let passage = |j: usize| format!("\"{} {} {j}\"", "sail and rope ".repeat(i % 7), i * 31 % 97);
        let neg: Vec<String> = (0..9).map(passage).collect();
        format!(
            "{{\"query\": \"ship {i}\", \"id\": {i}, \"pos\": [{}], \"neg\": [{}]}}\n",
            passage(9),
            neg.join(", ")
        )
    };
    (0..900).map(line).collect()
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_and_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    teacher(at);
    fs::write(at.join("data.jsonl"), rows()).unwrap();
    let run = |output: &str| {
        let args = score(&["--output_file", output]);
        let mut command = bge(at);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let started = Instant::now();
    assert!(run("straight.jsonl").status().unwrap().success());
    let whole = started.elapsed();
    let straight = fs::read(at.join("straight.jsonl")).unwrap();
    let kept = || fs::metadata(at.join(".out.jsonl.scores")).map_or(0, |file| file.len());
    let (mut kills, mut most) = (0, 0);
    for part in [12, 20, 7, 3, 15, 9, 18, 5, 11, 4, 8, 25] {
        let mut child = run("out.jsonl").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(whole.as_millis() as u64 * part / 100));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        most = most.max(kept());
        assert!(!at.join("out.jsonl").exists() || fs::read(at.join("out.jsonl")).unwrap() == straight);
    }
    assert!(kills >= 2 && most > 1000, "{kills} kills, {most} bytes of work");
    assert!(run("out.jsonl").status().unwrap().success());
    assert!(
        fs::read(at.join("out.jsonl")).unwrap() == straight,
        "other bytes after {kills} kills"
    );
    let mut left: Vec<_> = fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["data.jsonl", "out.jsonl", "straight.jsonl", "teacher"]);
}

#[test]
fn sigterm_ends_a_run_cleanly_and_a_second_run_beside_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    teacher(at);
    fs::write(at.join("data.jsonl"), rows().repeat(4)).unwrap();
    let start = || {
        bge(at)
            .args(score(&[]))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let first = start();
    let side = at.join(".out.jsonl.scores");
    let deadline = Instant::now() + Duration::from_mins(1);
    while fs::metadata(&side).map_or(0, |file| file.len()) < 3000 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = start().wait_with_output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another run"), "{said}");
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &first.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let first = first.wait_with_output().unwrap();
    let said = String::from_utf8(first.stderr).unwrap();
    assert_eq!(first.status.code(), Some(1), "{said}");
    assert!(
        said.contains("goes on from there") && !at.join("out.jsonl").exists(),
        "{said}"
    );
    let last = start().wait_with_output().unwrap();
    let said = String::from_utf8(last.stderr).unwrap();
    assert!(last.status.success() && said.contains("going on after"), "{said}");
}

#[test]
fn scores_go_to_the_output_and_the_summary_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    teacher(at);
    fs::write(at.join("data.jsonl"), GOOD).unwrap();
    fs::write(
        at.join("settings.toml"),
        "normalize = true\nreranker_max_length = 40\n",
    )
    .unwrap();
    let output = bge(at)
        .args(score(&["--json", "--config", "settings.toml"]))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("normalize"), "{said}");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&result["rows"], &result["pairs"]), (&2.into(), &6.into()));
    for line in fs::read_to_string(at.join("out.jsonl")).unwrap().lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let scores = row["neg_scores"].as_array().unwrap();
        assert!(
            scores.len() == 2
                && scores
                    .iter()
                    .all(|score| (0.0..=1.0).contains(&score.as_f64().unwrap()))
        );
    }
    let help = bge(at).args(["score", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in [
        "--reranker_name_or_path",
        "--compress_ratio",
        "--query_instruction_format_for_rerank",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}
