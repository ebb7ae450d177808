//! Bad input of `mine`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::case::{Case, bge, copy, fixture, words};

/// A run that works: model `model`, rows `data.jsonl`, output `out.jsonl`.
pub(crate) fn mine(more: &[&str]) -> Vec<String> {
    let base = [
        "mine",
        "--embedder_name_or_path",
        "model",
        "--input_file",
        "data.jsonl",
        "--output_file",
        "out.jsonl",
    ];
    words(&[&base[..], more].concat())
}

fn setting(name: &str, more: &[&str], says: &[&str]) -> Case {
    Case::new(&format!("mine: {name}"), mine(more), 2, says, |_| {})
}

/// Rows with this content.
fn rows(name: &str, content: &[u8], says: &[&str]) -> Case {
    let content = content.to_vec();
    Case::new(&format!("mine: {name}"), mine(&[]), 1, says, move |at: &Path| {
        fs::write(at.join("data.jsonl"), &content).unwrap();
    })
}

/// A pool with this content.
fn pool(name: &str, content: &[u8], says: &[&str]) -> Case {
    let content = content.to_vec();
    let args = mine(&["--candidate_pool", "pool.jsonl"]);
    Case::new(&format!("mine: {name}"), args, 1, says, move |at: &Path| {
        fs::write(at.join("pool.jsonl"), &content).unwrap();
    })
}

fn place(name: &str, more: &[&str], says: &[&str]) -> Case {
    Case::new(&format!("mine: {name}"), mine(more), 1, says, |_| {})
}

pub(crate) fn cases() -> Vec<Case> {
    const GOOD: &[u8] = b"{\"query\": \"a\", \"pos\": [\"b\"]}\n";
    vec![
        setting(
            "an empty range",
            &["--range_for_sampling", "210-10"],
            &["range_for_sampling", "210-10", "empty"],
        ),
        setting(
            "a range of one rank twice",
            &["--range_for_sampling", "5-5"],
            &["range_for_sampling", "empty"],
        ),
        setting(
            "a range of letters",
            &["--range_for_sampling", "a-b"],
            &["range_for_sampling", "as in 10-210"],
        ),
        setting(
            "a negative range",
            &["--range_for_sampling", "-5-10"],
            &["range_for_sampling", "as in 10-210"],
        ),
        setting(
            "a range without an end",
            &["--range_for_sampling", "10"],
            &["range_for_sampling", "as in 10-210"],
        ),
        setting(
            "a huge range",
            &["--range_for_sampling", "0-99999999999"],
            &["range_for_sampling"],
        ),
        setting(
            "no negatives",
            &["--negative_number", "0"],
            &["negative_number", "from 1"],
        ),
        setting(
            "a negative number",
            &["--negative_number", "-3"],
            &["negative_number", "-3"],
        ),
        setting(
            "a margin that is no number",
            &["--absolute_margin", "nan"],
            &["absolute_margin", "finite"],
        ),
        setting(
            "a margin above 1",
            &["--relative_margin", "95"],
            &["relative_margin", "0.05"],
        ),
        setting(
            "limits that cross",
            &["--min_score", "0.8", "--max_score", "0.2"],
            &["min_score", "0.8"],
        ),
        setting(
            "an unknown strategy",
            &["--sampling_strategy", "best"],
            &["sampling_strategy", "random, top"],
        ),
        setting(
            "a batch of nothing",
            &["--search_batch_size", "0"],
            &["search_batch_size"],
        ),
        setting(
            "an index that no GPU searches",
            &["--use_gpu_for_searching", "--index_factory", "Flat"],
            &["use_gpu_for_searching", "leave the flag out"],
        ),
        setting(
            "probes without an index",
            &["--nprobe", "4"],
            &["nprobe", "index_factory"],
        ),
        setting(
            "output over input",
            &["--output_file", "./data.jsonl"],
            &["output_file", "input_file"],
        ),
        setting(
            "two results in one file",
            &["--ledger", "out.jsonl"],
            &["ledger", "output_file"],
        ),
        setting(
            "examples",
            &["--examples_for_task", "x"],
            &["examples_for_task", "decoder_only.icl"],
        ),
        setting("no input", &["--input_file", ""], &["input_file", "required"]),
        setting(
            "an empty pool name",
            &["--candidate_pool", ""],
            &["candidate_pool"],
        ),
        rows("no rows", b"", &["data.jsonl", "no rows"]),
        rows("blank lines only", b"\n \n", &["data.jsonl", "no rows"]),
        rows(
            "broken JSON",
            &[GOOD, b"{\"query\": \"a\", \"pos\": ["].concat(),
            &["data.jsonl:2", "one whole object"],
        ),
        rows(
            "a list as a line",
            &[GOOD, b"[1]\n"].concat(),
            &["data.jsonl:2", "object"],
        ),
        rows(
            "no query",
            &[GOOD, b"\n{\"pos\": [\"b\"]}\n"].concat(),
            &["data.jsonl:3", "query"],
        ),
        rows(
            "a query of spaces",
            b"{\"query\": \" \", \"pos\": [\"b\"]}\n",
            &["data.jsonl:1", "query", "blank"],
        ),
        rows(
            "no positive",
            b"{\"query\": \"a\", \"pos\": []}\n",
            &["data.jsonl:1", "pos"],
        ),
        rows(
            "pos is a string",
            b"{\"query\": \"a\", \"pos\": \"b\"}\n",
            &["data.jsonl:1", "pos"],
        ),
        rows(
            "a negative is null",
            b"{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [null]}\n",
            &["data.jsonl:1", "neg"],
        ),
        rows(
            "two queries in a row",
            b"{\"query\": \"a\", \"query\": \"b\", \"pos\": [\"b\"]}\n",
            &["data.jsonl:1", "twice"],
        ),
        rows(
            "not UTF-8",
            b"{\"query\": \"\xff\", \"pos\": [\"b\"]}\n",
            &["data.jsonl:1", "UTF-8"],
        ),
        rows(
            "an open array",
            b"[{\"query\": \"a\", \"pos\": [\"b\"]},\n",
            &["data.jsonl:2", "array"],
        ),
        pool("an empty pool", b"", &["pool.jsonl", "no text"]),
        pool(
            "a pool of blanks",
            b"{\"text\": \" \"}\n",
            &["pool.jsonl", "no text"],
        ),
        pool(
            "a pool without text",
            b"{\"text\": \"a\"}\n{\"contents\": \"b\"}\n",
            &["pool.jsonl:2", "`text`"],
        ),
        pool(
            "a number as text",
            b"{\"text\": 5}\n",
            &["pool.jsonl:1", "`text`"],
        ),
        pool(
            "a pool of broken JSON",
            b"{\"text\": \"a\"}\n{\"text\": \"b\n",
            &["pool.jsonl:2"],
        ),
        place("no such input", &["--input_file", "gone.jsonl"], &["gone.jsonl"]),
        place(
            "the input is a folder",
            &["--input_file", "model"],
            &["model", "folder"],
        ),
        place(
            "no such pool",
            &["--candidate_pool", "gone.jsonl"],
            &["gone.jsonl"],
        ),
        place(
            "a folder without a corpus as pool",
            &["--candidate_pool", "model"],
            &["model", "corpus.jsonl"],
        ),
        place(
            "an output below nothing",
            &["--output_file", "no/out.jsonl"],
            &["no/out.jsonl", "no such folder"],
        ),
        place(
            "an output below a file",
            &["--output_file", "data.jsonl/out.jsonl"],
            &["data.jsonl/out.jsonl"],
        ),
        place(
            "an output that is a folder",
            &["--output_file", "model"],
            &["model", "folder"],
        ),
        place(
            "an output where nobody may write",
            &["--output_file", "/proc/out.jsonl"],
            &["/proc/out.jsonl"],
        ),
        place(
            "a link to the input as output",
            &["--output_file", "model/../data.jsonl"],
            &["output_file", "read"],
        ),
        place(
            "no such model",
            &["--embedder_name_or_path", "./nowhere"],
            &["nowhere"],
        ),
        place(
            "an embedder as cross-encoder",
            &["--reranker_name_or_path", "model"],
            &["model"],
        ),
        Case::new(
            "mine: weights of NaN",
            mine(&[]),
            1,
            &["model.safetensors"],
            |at| {
                let path = at.join("model/model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                let end = bytes.len();
                bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                fs::write(path, bytes).unwrap();
            },
        ),
    ]
}

#[test]
fn a_killed_run_ends_with_the_bytes_of_an_undisturbed_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copy(&fixture("models/bert"), &at.join("model"));
    let source = fs::read_to_string(fixture("data/plain.jsonl")).unwrap();
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let texts: Vec<String> = source
        .lines()
        .map(|line| row(line)["pos"][0].as_str().unwrap().to_owned())
        .collect();
    let mut rows = String::new();
    for i in 0..400 {
        let text = |k: usize| &texts[(i * k + i / texts.len()) % texts.len()];
        let _ = writeln!(
            rows,
            "{{\"query\": \"{} {i}\", \"pos\": [\"{} {i}\"], \"neg\": [\"{} {} {i}\"]}}",
            text(3),
            text(1),
            text(5),
            text(7)
        );
    }
    fs::write(at.join("data.jsonl"), rows).unwrap();
    let args = mine(&[
        "--ledger",
        "ledger.jsonl",
        "--false_negatives",
        "suspects.jsonl",
        "--relative_margin",
        "0.01",
    ]);
    let results = ["out.jsonl", "ledger.jsonl", "suspects.jsonl"];
    let start = || {
        let mut command = bge(at);
        command.args(&args).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let read = || results.map(|name| fs::read(at.join(name)).unwrap());
    let begun = Instant::now();
    let output = start().wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let whole = begun.elapsed();
    let expected = read();
    for name in results {
        fs::remove_file(at.join(name)).unwrap();
    }
    let mut killed = 0;
    for round in 0..20_u32 {
        let mut child = start();
        // A fixed scatter over the time of a whole run.
        std::thread::sleep(whole * (round * 7 % 20 + 1) / 25);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
        }
        if at.join("out.jsonl").exists() {
            assert!(read() == expected, "after {killed} kills");
            for name in results {
                let _ = fs::remove_file(at.join(name));
            }
        }
    }
    assert!(killed >= 5, "{killed} kills in {whole:?}");
    let output = start().wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(read() == expected);
    let left: Vec<_> = fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2 + results.len(), "{left:?}");
    assert!(whole < Duration::from_mins(2));
}
