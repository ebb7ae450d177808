//! Runs that are stopped, repeated, rescored and refused.

use super::*;

/// Stops a run at one of its events.
fn stopped_at(at: &Path, flags: &[&str], event: usize) -> bool {
    let mut seen = 0;
    let outcome = mine(&config(at, flags), &mut |_: MineEvent<'_>| {
        seen += 1;
        if seen > event {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    match outcome {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
            true
        }
    }
}

#[test]
fn a_run_that_is_stopped_anywhere_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    let flags = [
        &[
            "--range_for_sampling",
            "2-60",
            "--relative_margin",
            "0.01",
            "--batch_size",
            "16",
        ][..],
        ALL_FILES,
    ]
    .concat();
    run(at, &flags).unwrap();
    let whole = everything(at);
    for name in ["out.jsonl", "ledger.jsonl", "suspects.jsonl"] {
        fs::remove_file(at.join(name)).unwrap();
    }
    // Every run gets one event further than the one before, on what that one left.
    let mut stops = 0;
    while stopped_at(at, &flags, stops) {
        stops += 1;
        assert!(!at.join("out.jsonl").exists());
    }
    assert!(stops > 5, "{stops}");
    assert!(whole == everything(at));
    assert_eq!(fs::read_dir(at).unwrap().count(), 4);
}

#[test]
fn kept_vectors_are_used_again_while_model_texts_and_settings_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    let keep = [
        "--corpus_embd_save_dir",
        "@vectors",
        "--range_for_sampling",
        "0-30",
    ];
    let first = run(at, &keep).unwrap();
    assert_eq!(first.reused_vectors, 0);
    let bytes = fs::read(at.join("out.jsonl")).unwrap();
    let again = run(at, &keep).unwrap();
    assert_eq!(again.reused_vectors, 120 + 40);
    assert_eq!(bytes, fs::read(at.join("out.jsonl")).unwrap());
    // Another length of passages leaves the queries as they are; another pooling changes both.
    let shorter = run(at, &[&keep[..], &["--embedder_passage_max_length", "5"]].concat()).unwrap();
    assert_eq!(shorter.reused_vectors, 40);
    let mean = run(at, &[&keep[..], &["--pooling_method", "mean"]].concat()).unwrap();
    assert_eq!(mean.reused_vectors, 0);
    let mut rows = forty_rows();
    rows[0]["query"] = "another".into();
    write_rows(at, "in.jsonl", &rows);
    assert_eq!(run(at, &keep).unwrap().reused_vectors, 120);
    // Damaged vectors are made anew.
    for entry in fs::read_dir(at.join("vectors")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    assert_eq!(run(at, &keep).unwrap().reused_vectors, 0);
    let half = run(at, &[&keep[..], &["--embedding_dtype", "f16"]].concat()).unwrap();
    assert_eq!((half.reused_vectors, half.rows), (0, 40));
}

#[test]
fn what_cannot_work_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_rows(at, "in.jsonl", &forty_rows());
    let before = fs::read_dir(at).unwrap().count();
    for (flags, says) in [
        (vec!["--candidate_pool", "@none.jsonl"], "none.jsonl"),
        (vec!["--candidate_pool", "@."], "corpus.jsonl"),
        (vec!["--output_file", "@./in.jsonl"], "a file that is read"),
        (vec!["--ledger", "@no/ledger.jsonl"], "no such folder"),
        (vec!["--ledger", "@"], "this is a folder"),
        (vec!["--output_file", "/proc/out.jsonl"], "/proc/out.jsonl"),
        (vec!["--embedder_name_or_path", "@nowhere"], "nowhere"),
    ] {
        let error = run(at, &flags).unwrap_err().to_string();
        assert!(error.contains(says), "{flags:?}: {error}");
        assert_eq!(fs::read_dir(at).unwrap().count(), before, "{flags:?}");
    }
    let mut stages = Vec::new();
    mine(&config(at, &[]), &mut |event| {
        if let MineEvent::Progress { stage, .. } = event
            && stages.last() != Some(&stage)
        {
            stages.push(stage);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(stages, [Stage::Corpus, Stage::Queries, Stage::Rows]);
}

#[test]
fn a_cross_encoder_takes_the_place_of_the_embedder_in_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let rows = forty_rows();
    write_rows(at, "in.jsonl", &rows[..12]);
    let judge = fixture("scoring/models/bert").display().to_string();
    let flags = [
        "--range_for_sampling",
        "3-20",
        "--negative_number",
        "5",
        "--sampling_strategy",
        "top",
        "--relative_margin",
        "0.02",
    ];
    let flags = [&flags[..], &["--reranker_name_or_path", &judge], ALL_FILES].concat();
    let report = run(at, &[&flags[..], &["--reranker_batch_size", "2"]].concat()).unwrap();
    let first = everything(at);
    run(at, &flags).unwrap();
    assert!(first == everything(at), "batches change nothing");
    assert!(
        report.dropped.relative_margin > 0 && report.negatives > 0,
        "{report:?}"
    );
    let arguments = RerankArguments {
        normalize: true,
        ..RerankArguments::default()
    };
    let reranker = Reranker::from_finetuned(&judge, &arguments).unwrap();
    let out = lines(&at.join("out.jsonl"));
    for (row, mined) in rows.iter().zip(&out) {
        let query = row["query"].as_str().unwrap();
        let score = |text: &str| f64::from(reranker.compute_score(&[(query, text)]).unwrap()[0]);
        let scores: Vec<f64> = texts(&mined["neg"]).iter().map(|text| score(text)).collect();
        assert!(
            scores.windows(2).all(|pair| pair[0] >= pair[1]),
            "the highest first: {scores:?}"
        );
        let positive = score(row["pos"][0].as_str().unwrap());
        assert!(
            scores
                .iter()
                .all(|score| *score <= positive - positive.abs() * 0.02)
        );
    }
    let ledger = lines(&at.join("ledger.jsonl"));
    assert!(ledger[0]["reranker_hash"].is_string());
    for line in ledger[1..]
        .iter()
        .filter(|line| line["verdict"] == "relative_margin")
    {
        let (score, positive) = (
            line["reranker_score"].as_f64().unwrap(),
            line["positive_score"].as_f64().unwrap(),
        );
        assert!(score > positive - positive.abs() * 0.02);
    }
    // Candidates before the range are suspects too, though they are never chosen.
    let suspects = lines(&at.join("suspects.jsonl"));
    assert!(suspects.iter().any(|line| line["verdict"] == "outside_range"));
    // A run that is stopped while it rescores goes on there.
    fs::remove_file(at.join("out.jsonl")).unwrap();
    let mut stops = 0;
    while stopped_at(at, &flags, stops) {
        stops += 1;
    }
    assert!(stops > 3 && first == everything(at));
}
