//! Mining with BGE-M3's heads: what finds a candidate, what orders it, and that nothing depends on how it was run.

use std::collections::BTreeMap;

use bge_core::inference::{M3Embedder, M3Scores, ModeWeights};

use super::*;

fn m3(at: &Path, more: &[&str]) -> Result<MineReport> {
    let mut config = MineConfig::clone(&config(at, more));
    config.embed.embedder_name_or_path = fixture("m3/models/m3").display().to_string();
    mine(&config.check().unwrap(), &mut |_| ControlFlow::Continue(()))
}

fn refused(at: &Path, more: &[&str]) -> String {
    let said = |issues: Vec<bge_core::Issue>| issues.iter().map(ToString::to_string).collect::<String>();
    let place = at.join("in.jsonl").display().to_string();
    let output = at.join("out.jsonl").display().to_string();
    let model = fixture("m3/models/m3").display().to_string();
    let mut flags = vec![
        "--embedder_name_or_path",
        &model,
        "--input_file",
        &place,
        "--output_file",
        &output,
    ];
    flags.extend(more);
    match Loader::<MineConfig>::new().flags(&flags).finish() {
        Err(issues) => said(issues),
        Ok(parsed) => said(parsed.arguments.check().unwrap_err()),
    }
}

const WINDOW: &[&str] = &[
    "--range_for_sampling",
    "0-12",
    "--negative_number",
    "4",
    "--weights_for_different_modes",
    "0.5",
    "0.2",
    "0.3",
];

/// The scores of all pairs, by `compute_score`: for each query the texts in order with their scores.
fn scores(at: &Path, rows: &[Value]) -> Vec<Vec<M3Scores>> {
    let texts: Vec<String> = rows
        .iter()
        .flat_map(|row| [texts(&row["pos"]), texts(&row["neg"])].concat())
        .collect();
    let model = M3Embedder::from_finetuned(fixture("m3/models/m3"), &config(at, &[]).embed).unwrap();
    rows.iter()
        .map(|row| {
            let query = row["query"].as_str().unwrap();
            let pairs: Vec<(&str, &str)> = texts.iter().map(|text| (query, text.as_str())).collect();
            model.compute_score(&pairs).unwrap()
        })
        .collect()
}

#[test]
fn windows_and_ledger_are_those_of_compute_score() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let rows: Vec<Value> = forty_rows().into_iter().take(12).collect();
    write_rows(at, "in.jsonl", &rows);
    let all = scores(at, &rows);
    let weights = ModeWeights {
        dense: 0.5,
        sparse: 0.2,
        colbert: 0.3,
    };
    let top = |score: &dyn Fn(usize) -> f64, count: usize| -> Vec<usize> {
        let mut order: Vec<usize> = (0..all[0].len()).collect();
        order.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
        order.truncate(count);
        order
    };
    for mode in ["dense", "sparse", "fused"] {
        for late in [false, true] {
            let mut flags = [WINDOW, ALL_FILES, &["--retrieval_mode", mode]].concat();
            if late {
                flags.extend(["--colbert_rescoring", "True"]);
            }
            m3(at, &flags).unwrap();
            let mut ledger: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
            for line in lines(&at.join("ledger.jsonl")).into_iter().skip(1) {
                ledger
                    .entry(line["row"].as_u64().unwrap())
                    .or_default()
                    .push(line);
            }
            for (row, scores) in all.iter().enumerate() {
                let none = Vec::new();
                let lines = ledger.get(&(row as u64)).unwrap_or(&none);
                let dense = |text: usize| f64::from(scores[text].dense);
                let sparse = |text: usize| f64::from(scores[text].sparse);
                let by_dense = top(&dense, 12);
                let by_sparse: Vec<usize> = top(&sparse, 12)
                    .into_iter()
                    .filter(|text| sparse(*text) > 0.0)
                    .collect();
                // Sparse search finds nothing for a query that shares no token with a text.
                let expected = if mode == "sparse" { by_sparse.len() } else { 12 };
                assert_eq!(lines.len(), expected, "{mode} {late}");
                let mut places: Vec<u64> = lines.iter().map(|line| line["rank"].as_u64().unwrap()).collect();
                places.dedup();
                assert_eq!(places, (0..lines.len() as u64).collect::<Vec<_>>());
                let mut last = f64::INFINITY;
                for line in lines {
                    let text = line["corpus_index"].as_u64().unwrap() as usize;
                    let score = line["score"].as_f64().unwrap();
                    assert!(score <= last, "{mode} {late}");
                    last = score;
                    if mode == "dense" && !late {
                        assert!(line.get("found_by").is_none());
                        assert!((score - dense(text)).abs() < 1e-5);
                        continue;
                    }
                    let has = (mode != "sparse", mode != "dense", late);
                    let want = match has {
                        (false, true, false) => sparse(text),
                        _ => weights.mean([
                            has.0.then(|| dense(text)),
                            has.1.then(|| sparse(text)),
                            has.2.then(|| f64::from(scores[text].colbert)),
                        ]),
                    };
                    assert!((score - want).abs() < 1e-5, "{mode} {late}: {score} {want}");
                    let found: Vec<String> = texts(&line["found_by"]);
                    assert!(!found.is_empty());
                    if found.contains(&"sparse".to_owned()) {
                        assert!(mode != "dense" && by_sparse.contains(&text));
                    }
                    if found.contains(&"dense".to_owned()) {
                        assert!(mode != "sparse" && by_dense.contains(&text));
                    }
                    assert_eq!(line.get("colbert_score").is_some(), late);
                }
            }
        }
    }
}

#[test]
fn threads_and_batches_change_nothing_and_settings_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    let flags = [
        WINDOW,
        ALL_FILES,
        &["--retrieval_mode", "fused", "--colbert_rescoring", "True"],
    ]
    .concat();
    let report = m3(at, &[&flags[..], &["--batch_size", "3"]].concat()).unwrap();
    assert_eq!((report.rows, report.short_rows), (40, 0));
    let first = everything(at);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    pool.install(|| m3(at, &flags)).unwrap();
    assert!(first == everything(at));
    let groups = [&flags[..], &["--batch_size", "5", "--devices", "cpu", "cpu"]].concat();
    fs::remove_file(at.join("out.jsonl")).unwrap();
    m3(at, &groups).unwrap();
    assert!(first == everything(at));
    // Stopped in the middle and run again, it writes the same.
    fs::remove_file(at.join("out.jsonl")).unwrap();
    let mut config = MineConfig::clone(&config(at, &flags));
    config.embed.embedder_name_or_path = fixture("m3/models/m3").display().to_string();
    let mut events = 0;
    let stopped = mine(&config.check().unwrap(), &mut |_| {
        events += 1;
        if events < 9 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
    m3(at, &flags).unwrap();
    assert!(first == everything(at));
    let header = &lines(&at.join("ledger.jsonl"))[0];
    assert_eq!(header["settings"]["retrieval_mode"], "fused");
    assert!(header["mode_weights"]["colbert"].is_number());
    let ranks = [
        ALL_FILES,
        &[
            "--retrieval_mode",
            "fused",
            "--fusion",
            "rrf",
            "--range_for_sampling",
            "0-9",
        ],
    ]
    .concat();
    m3(at, &ranks).unwrap();
    for line in lines(&at.join("ledger.jsonl")).iter().skip(1) {
        let lists = texts(&line["found_by"]).len() as f64;
        let score = line["score"].as_f64().unwrap();
        assert!(
            score > 0.0 && score <= lists / 61.0 + 1e-12,
            "{score} of {lists} lists"
        );
        assert!(line["positive_score"].is_null());
    }
    // Margins hold positives outside of the pool against candidates by the same score.
    let pool: Vec<Value> = some_texts(60, 5)
        .into_iter()
        .map(|text| json!({"text": text}))
        .collect();
    write_rows(at, "pool.jsonl", &pool);
    let margins = ["--candidate_pool", "@pool.jsonl", "--absolute_margin", "0"];
    let report = m3(at, &[&flags[..], &margins].concat()).unwrap();
    assert!(report.dropped.absolute_margin > 0);
    for line in lines(&at.join("ledger.jsonl")).iter().skip(1) {
        let above = line["score"].as_f64() > line["positive_score"].as_f64();
        assert_eq!(above, line["verdict"] == "absolute_margin");
    }
}

#[test]
fn what_heads_cannot_do_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    for (flags, expected) in [
        (&["--retrieval_mode", "bm25"][..], "retrieval_mode"),
        (&["--fusion", "max"], "fusion"),
        (&["--rrf_k", "0"], "rrf_k"),
        (&["--weights_for_different_modes", "1", "1"], "three numbers"),
        (
            &["--weights_for_different_modes", "1", "-1", "1"],
            "three numbers",
        ),
        (
            &[
                "--retrieval_mode",
                "fused",
                "--fusion",
                "rrf",
                "--absolute_margin",
                "0.1",
            ],
            "margins have no meaning",
        ),
        (
            &[
                "--retrieval_mode",
                "sparse",
                "--embedder_model_class",
                "encoder-only-base",
            ],
            "no other head",
        ),
    ] {
        let said = refused(at, flags);
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    for flags in [
        &["--retrieval_mode", "sparse"][..],
        &["--colbert_rescoring", "True"],
    ] {
        let error = run(at, flags).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("_linear"), "{error}");
        assert!(!at.join("out.jsonl").exists());
    }
}

#[test]
fn every_stage_of_a_fresh_run_begins_at_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    let mut config = MineConfig::clone(&config(at, &[WINDOW, &["--retrieval_mode", "fused"]].concat()));
    config.embed.embedder_name_or_path = fixture("m3/models/m3").display().to_string();
    let mut begun: Vec<(Stage, usize)> = Vec::new();
    mine(&config.check().unwrap(), &mut |event| {
        if let MineEvent::Progress { stage, done, .. } = event
            && begun.last().is_none_or(|(last, _)| *last != stage)
        {
            begun.push((stage, done));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(begun.len() > 3, "{begun:?}");
    assert!(begun.iter().all(|(_, done)| *done == 0), "{begun:?}");
}
