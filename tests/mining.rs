//! Mining hard negatives: the same window as FlagEmbedding, rules, resume, and what is written.

mod heads;
mod runs;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bge_core::config::{Arguments, Checked, Loader, MineConfig, PoolingMethod, RerankArguments};
use bge_core::inference::Reranker;
use bge_core::mining::{MineEvent, MineReport, Stage, mine};
use bge_core::{Embedder, ErrorKind, Result};
use serde_json::{Value, json};

use bge_tests::{fixture, json as read_json};

/// Settings for a run in a folder that holds `in.jsonl`.
fn config(at: &Path, more: &[&str]) -> Checked<MineConfig> {
    let place = |name: &str| at.join(name).display().to_string();
    let model = fixture("parity/models/bert").display().to_string();
    let (input, output) = (place("in.jsonl"), place("out.jsonl"));
    let mut flags = vec![
        "--embedder_name_or_path",
        &model,
        "--input_file",
        &input,
        "--output_file",
        &output,
    ];
    let more: Vec<String> = more
        .iter()
        .map(|word| word.strip_prefix('@').map_or_else(|| (*word).to_owned(), place))
        .collect();
    flags.extend(more.iter().map(String::as_str));
    let parsed = Loader::<MineConfig>::new().flags(&flags).finish();
    parsed
        .unwrap_or_else(|issues| panic!("{issues:?}"))
        .arguments
        .check()
        .unwrap_or_else(|issues| panic!("{issues:?}"))
}

fn run(at: &Path, more: &[&str]) -> Result<MineReport> {
    mine(&config(at, more), &mut |_| ControlFlow::Continue(()))
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn write_rows(at: &Path, name: &str, rows: &[Value]) {
    let text: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(at.join(name), text.concat()).unwrap();
}

/// Words that the tiny models' tokenizer knows, so that texts differ.
fn words() -> Vec<String> {
    let rows = lines(&fixture("parity/data/plain.jsonl"));
    let all: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| {
            row["pos"][0]
                .as_str()
                .unwrap()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    all.into_iter().collect()
}

/// `count` different texts of five words.
fn some_texts(count: usize, seed: usize) -> Vec<String> {
    let words = words();
    (0..count)
        .map(|i| {
            let word = |k: usize| {
                words[(i * (7 + 3 * k) + seed * 11 + i / words.len() * (k + 1) + k * k) % words.len()]
                    .as_str()
            };
            format!("{} {i}", (0..5).map(word).collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// Forty rows with a positive each and negatives.
fn forty_rows() -> Vec<Value> {
    let (queries, passages) = (some_texts(40, 1), some_texts(120, 2));
    (0..40)
        .map(|i| json!({"query": queries[i], "pos": [passages[3 * i]], "neg": [passages[3 * i + 1], passages[3 * i + 2]]}))
        .collect()
}

fn everything(at: &Path) -> Vec<Vec<u8>> {
    ["out.jsonl", "ledger.jsonl", "suspects.jsonl"]
        .iter()
        .map(|name| fs::read(at.join(name)).unwrap())
        .collect()
}

const ALL_FILES: &[&str] = &[
    "--ledger",
    "@ledger.jsonl",
    "--false_negatives",
    "@suspects.jsonl",
];

#[test]
fn the_window_before_sampling_is_that_of_hn_mine() {
    let golden = read_json(&fixture("mining/window.json"));
    for case in golden["cases"].as_array().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::copy(fixture("mining/rows.jsonl"), at.join("in.jsonl")).unwrap();
        fs::copy(fixture("mining/pool.jsonl"), at.join("pool.jsonl")).unwrap();
        // A window is all that is chosen when as many are asked for as it holds.
        let mut flags = vec![
            "--negative_number",
            "1000",
            "--range_for_sampling",
            case["range"].as_str().unwrap(),
        ];
        if case["pool"].as_bool().unwrap() {
            flags.extend(["--candidate_pool", "@pool.jsonl"]);
        }
        if let Some(instruction) = case["instruction"].as_str() {
            flags.extend(["--query_instruction_for_retrieval", instruction]);
        }
        run(at, &flags).unwrap();
        let rows = lines(&at.join("out.jsonl"));
        let windows = case["windows"].as_array().unwrap();
        assert_eq!(rows.len(), windows.len());
        for (row, window) in rows.iter().zip(windows) {
            assert_eq!(
                texts(&row["neg"]),
                texts(window),
                "{} {}",
                case["name"],
                row["query"]
            );
        }
    }
}

#[test]
fn sampling_draws_from_the_window_and_the_same_command_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    let range = ["--range_for_sampling", "2-60", "--negative_number", "7"];
    let flags = [&range[..], ALL_FILES].concat();
    let report = run(
        at,
        &[&flags[..], &["--batch_size", "3", "--search_batch_size", "1"]].concat(),
    )
    .unwrap();
    assert_eq!((report.rows, report.negatives, report.short_rows), (40, 280, 0));
    let first = everything(at);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    pool.install(|| run(at, &flags)).unwrap();
    assert!(first == everything(at), "threads and batches change nothing");
    run(at, &[&flags[..], &["--seed", "43"]].concat()).unwrap();
    assert_ne!(first[0], everything(at)[0]);
    run(at, &["--range_for_sampling", "2-60", "--negative_number", "1000"]).unwrap();
    let windows = lines(&at.join("out.jsonl"));
    fs::write(at.join("out.jsonl"), &first[0]).unwrap();
    for (row, window) in lines(&at.join("out.jsonl")).iter().zip(&windows) {
        let (chosen, window) = (texts(&row["neg"]), texts(&window["neg"]));
        assert_eq!(chosen.len(), 7);
        let places: Vec<usize> = chosen
            .iter()
            .map(|text| window.iter().position(|w| w == text).unwrap())
            .collect();
        assert!(
            places.windows(2).all(|pair| pair[0] < pair[1]),
            "the hardest first: {places:?}"
        );
    }
    assert_eq!(
        fs::read_dir(at).unwrap().count(),
        4,
        "nothing is left beside the results"
    );
}

#[test]
fn positives_of_other_lines_and_variants_are_never_negatives() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut rows = forty_rows();
    let text = |row: &Value| row["pos"][0].as_str().unwrap().to_owned();
    let (first, second, query) = (
        text(&rows[0]),
        text(&rows[1]),
        rows[0]["query"].as_str().unwrap().to_owned(),
    );
    // Line 2 asks what line 1 asks, in other case; line 3 has variants of these positives and of the query as negatives.
    rows[1]["query"] = format!(" {}", query.to_uppercase()).into();
    rows[2]["neg"] = json!([
        first.to_uppercase(),
        format!("{second}  "),
        query,
        query.to_uppercase()
    ]);
    write_rows(at, "in.jsonl", &rows);
    let report = run(
        at,
        &[
            "--range_for_sampling",
            "0-1000",
            "--negative_number",
            "1000",
            "--sampling_strategy",
            "top",
        ],
    )
    .unwrap();
    assert_eq!(report.queries, 39);
    let out = lines(&at.join("out.jsonl"));
    for row in &out[..2] {
        for negative in texts(&row["neg"]) {
            let same = |other: &str| negative.trim().eq_ignore_ascii_case(other);
            assert!(!same(&first) && !same(&second) && !same(&query), "{negative}");
        }
    }
    // The lines that ask something else may have them.
    assert!(texts(&out[5]["neg"]).contains(&first));
    // Both rows leave out two positives, their two variants, and the query twice; the others their one positive.
    assert_eq!(report.dropped.positive, 2 * 2 + 38);
    assert_eq!(
        (report.dropped.positive_variant, report.dropped.query),
        (2 * 2, 2 * 2)
    );
}

#[test]
fn other_keys_survive_and_old_scores_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut rows = forty_rows();
    rows[0]["neg_scores"] = json!([1.0, 2.0]);
    rows[0]["pos_scores"] = json!([3.0]);
    rows[0]["type"] = "normal".into();
    rows[1].as_object_mut().unwrap().remove("neg");
    rows[1]["id"] = json!({"a": [1, 2.50]});
    write_rows(at, "in.jsonl", &rows);
    let report = run(at, &["--range_for_sampling", "0-20", "--negative_number", "3"]).unwrap();
    assert_eq!(report.stale_scores, 1);
    let out = lines(&at.join("out.jsonl"));
    let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&out[0]), ["query", "pos", "neg", "type"]);
    assert_eq!(keys(&out[1]), ["query", "pos", "id", "neg"]);
    assert_eq!(out[1]["id"], rows[1]["id"]);
    assert!(out.iter().all(|row| texts(&row["neg"]).len() == 3));
}

#[test]
fn margins_hold_candidates_against_the_lowest_positive() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut rows = forty_rows();
    let other = rows[9]["pos"][0].clone();
    rows[3]["pos"].as_array_mut().unwrap().push(other);
    write_rows(at, "in.jsonl", &rows);
    let model = Embedder::from_finetuned(fixture("parity/models/bert"), &config(at, &[]).embed).unwrap();
    let score = |query: &str, text: &str| -> f64 {
        let (q, p) = (
            model.encode_queries(&[query]).unwrap(),
            model.encode_corpus(&[text]).unwrap(),
        );
        q.row(0)
            .iter()
            .zip(p.row(0))
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    for (flags, keeps) in [
        (
            ["--absolute_margin", "0.01"],
            (|s, p, _| s + 0.01 <= p) as fn(f64, f64, f64) -> bool,
        ),
        (["--relative_margin", "0.02"], |s, p: f64, _| {
            s <= p - p.abs() * 0.02
        }),
        (["--max_score", "0.9"], |s, _, _| s <= 0.9),
        (["--min_score", "0.9"], |s, _, _| s >= 0.9),
    ] {
        let window = [
            &flags[..],
            &["--range_for_sampling", "0-120", "--negative_number", "1000"],
        ]
        .concat();
        let report = run(at, &[&window[..], ALL_FILES].concat()).unwrap();
        for (row, mined) in rows.iter().zip(lines(&at.join("out.jsonl"))).step_by(3) {
            let query = row["query"].as_str().unwrap();
            let positive = texts(&row["pos"])
                .iter()
                .map(|text| score(query, text))
                .fold(f64::INFINITY, f64::min);
            let all: BTreeSet<String> = rows
                .iter()
                .flat_map(|row| [texts(&row["pos"]), texts(&row["neg"])].concat())
                .collect();
            let own = texts(&row["pos"]);
            let negatives: BTreeSet<String> = texts(&mined["neg"]).into_iter().collect();
            for text in all.iter().filter(|text| !own.contains(text)) {
                let score = score(query, text);
                let near = [positive - 0.01, positive * 0.98, 0.9]
                    .iter()
                    .any(|limit| (score - limit).abs() < 1e-6);
                assert!(
                    near || keeps(score, positive, 0.0) == negatives.contains(text),
                    "{flags:?} {score} {positive}"
                );
            }
        }
        let dropped = report.dropped;
        let by_rule =
            dropped.absolute_margin + dropped.relative_margin + dropped.max_score + dropped.min_score;
        assert!(by_rule > 0, "{flags:?}: {dropped:?}");
        // Every candidate is in the ledger once, behind the header.
        let ledger = lines(&at.join("ledger.jsonl"));
        assert_eq!(ledger.len(), 1 + 40 * 120);
        assert_eq!(
            (&ledger[0]["seed"], &ledger[0]["corpus_texts"]),
            (&json!(42), &json!(120))
        );
        let told = |verdict: &str| ledger.iter().filter(|line| line["verdict"] == verdict).count() as u64;
        assert_eq!(told("chosen"), report.negatives);
        assert_eq!(told("absolute_margin"), dropped.absolute_margin);
        assert_eq!(told("positive"), dropped.positive);
        let suspects = lines(&at.join("suspects.jsonl"));
        assert_eq!(suspects.len() as u64, report.suspected);
        assert!(
            suspects
                .iter()
                .all(|line| line["label"].is_null() && line["candidate"].is_string())
        );
        let outranks = |line: &Value| line["score"].as_f64() > line["positive_score"].as_f64();
        assert!(
            suspects
                .iter()
                .all(|line| line["reason"] != "outranks_positive" || outranks(line))
        );
    }
}

#[test]
fn a_pool_without_the_positives_still_has_margins_and_ids() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let rows = forty_rows();
    write_rows(at, "in.jsonl", &rows);
    let mut pool: Vec<Value> = some_texts(60, 5)
        .into_iter()
        .enumerate()
        .map(|(i, text)| json!({"_id": format!("d{i}"), "title": "T", "text": text}))
        .collect();
    let positive = rows[0]["pos"][0].as_str().unwrap();
    let (title, text) = positive.split_once(' ').unwrap();
    pool[7] = json!({"_id": "d7", "title": title, "text": text});
    fs::create_dir(at.join("beir")).unwrap();
    write_rows(&at.join("beir"), "corpus.jsonl", &pool);
    let flags = [
        "--candidate_pool",
        "@beir",
        "--range_for_sampling",
        "0-60",
        "--negative_number",
        "60",
        "--absolute_margin",
        "0",
    ];
    let report = run(at, &[&flags[..], ALL_FILES].concat()).unwrap();
    assert_eq!((report.corpus, report.dropped.positive), (60, 1));
    let ledger = lines(&at.join("ledger.jsonl"));
    assert!(
        ledger[1..]
            .iter()
            .all(|line| line["corpus_id"] == format!("d{}", line["corpus_index"]))
    );
    for line in &ledger[1..] {
        let (score, positive) = (
            line["score"].as_f64().unwrap(),
            line["positive_score"].as_f64().unwrap(),
        );
        assert_eq!(
            line["verdict"] == "absolute_margin",
            score > positive && line["verdict"] != "positive"
        );
    }
}

#[test]
fn a_row_prompt_replaces_the_instruction() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut rows = forty_rows();
    write_rows(at, "in.jsonl", &rows);
    let words = words();
    let prompt = format!("{} {} ", words[0], words[9]);
    let format = ["--query_instruction_format_for_retrieval", "{}: {}"];
    let window = ["--range_for_sampling", "0-40", "--negative_number", "40"];
    run(at, &window).unwrap();
    let plain = fs::read(at.join("out.jsonl")).unwrap();
    run(
        at,
        &[
            &window[..],
            &format,
            &["--query_instruction_for_retrieval", &prompt],
        ]
        .concat(),
    )
    .unwrap();
    let instructed = lines(&at.join("out.jsonl"));
    for row in &mut rows {
        row["prompt"] = prompt.as_str().into();
    }
    write_rows(at, "in.jsonl", &rows);
    run(
        at,
        &[
            &window[..],
            &format,
            &["--query_instruction_for_retrieval", "other words"],
        ]
        .concat(),
    )
    .unwrap();
    let prompted = lines(&at.join("out.jsonl"));
    assert_ne!(fs::read(at.join("out.jsonl")).unwrap(), plain);
    for (a, b) in instructed.iter().zip(&prompted) {
        assert_eq!(a["neg"], b["neg"]);
    }
}

#[test]
fn short_lists_stay_short_unless_they_are_to_be_filled() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    let flags = ["--range_for_sampling", "0-4", "--negative_number", "9"];
    let report = run(at, &flags).unwrap();
    assert_eq!((report.short_rows, report.filled), (40, 0));
    assert!(
        lines(&at.join("out.jsonl"))
            .iter()
            .all(|row| texts(&row["neg"]).len() <= 4)
    );
    let report = run(at, &[&flags[..], &["--fill_negatives"]].concat()).unwrap();
    assert_eq!((report.short_rows, report.negatives + report.filled), (0, 360));
    for row in lines(&at.join("out.jsonl")) {
        let negatives = texts(&row["neg"]);
        let different: BTreeSet<&String> = negatives.iter().collect();
        assert_eq!((negatives.len(), different.len()), (9, 9));
        assert!(!negatives.contains(&texts(&row["pos"])[0]));
    }
    // A corpus that is too small for the list is no endless loop.
    write_rows(at, "in.jsonl", &forty_rows()[..1]);
    let report = run(at, &[&flags[..], &["--fill_negatives"]].concat()).unwrap();
    assert_eq!(
        (
            report.short_rows,
            report.corpus,
            texts(&lines(&at.join("out.jsonl"))[0]["neg"]).len()
        ),
        (1, 3, 2)
    );
}

#[test]
fn the_flags_of_hn_mine_are_read() {
    let words = "--input_file a.jsonl --output_file b.jsonl --candidate_pool c.jsonl --range_for_sampling 2-200 \
                 --negative_number 14 --use_gpu_for_searching False --search_batch_size 32 --embedder_name_or_path m \
                 --embedder_model_class encoder-only-base --normalize_embeddings True --pooling_method mean --use_fp16 True \
                 --devices cpu --query_instruction_for_retrieval find --query_instruction_format_for_retrieval {}\\n{} \
                 --examples_instruction_format {}{} --trust_remote_code False --cache_dir d --embedder_batch_size 3000 \
                 --embedder_query_max_length 64 --embedder_passage_max_length 128";
    let words: Vec<&str> = words.split_whitespace().collect();
    let parsed = Loader::<MineConfig>::new().flags(&words).finish().unwrap();
    assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
    let config = parsed.arguments.check().unwrap();
    let (embed, mine) = (&config.embed, &config.mine);
    assert_eq!(
        (
            mine.ranks().unwrap(),
            mine.negative_number,
            mine.search_batch_size
        ),
        ((2, 200), 14, 32)
    );
    assert_eq!(
        (embed.batch_size, embed.pooling_method),
        (3000, Some(PoolingMethod::Mean))
    );
    assert_eq!(
        embed.query_instruction_format_for_retrieval.as_deref(),
        Some("{}\n{}")
    );
    // What the model's folder says is not overridden by a default, as upstream's `cls` does.
    let defaults = MineConfig::default();
    assert_eq!(
        (defaults.embed.pooling_method, defaults.mine.ranks().unwrap()),
        (None, (10, 210))
    );
    let mut names: Vec<&str> = MineConfig::fields().iter().map(|field| field.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), MineConfig::fields().len());
    assert!(MineConfig::fields().iter().all(|field| field.help.ends_with('.')));
}
