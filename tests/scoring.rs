//! Teacher scores against FlagEmbedding's reranker, and what interrupted runs and odd files do to them.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bge_core::config::{EmbedArguments, RerankArguments, RerankConfig, ScoreConfig};
use bge_core::distillation::{ScoreEvent, ScoreReport, open_teacher, rerank_file, score_file};
use bge_core::tokenize::{PairLimits, Tokenizer};
use bge_core::{Embedder, ErrorKind, Reranker, Result};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scoring")
}

fn model(name: &str) -> String {
    fixtures().join("models").join(name).display().to_string()
}

/// A folder of the parity fixtures: an encoder without a head.
fn encoder(name: &str) -> String {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity/models");
    models.join(name).display().to_string()
}

struct Case {
    arguments: RerankArguments,
    ids: Vec<Vec<u32>>,
    types: Option<Vec<Vec<u32>>>,
    scores: Vec<f64>,
    rows: Vec<Value>,
}

fn golden() -> (Vec<(String, String)>, Vec<Case>) {
    let text = fs::read_to_string(fixtures().join("scores.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let pairs = serde_json::from_value(golden["pairs"].clone()).unwrap();
    let read = |case: &Value| {
        let mut arguments = RerankArguments {
            reranker_name_or_path: model(case["model"].as_str().unwrap()),
            ..RerankArguments::default()
        };
        set(&mut arguments, case["arguments"].as_object().unwrap());
        Case {
            arguments,
            ids: serde_json::from_value(case["ids"].clone()).unwrap(),
            types: serde_json::from_value(case["types"].clone()).unwrap(),
            scores: serde_json::from_value(case["scores"].clone()).unwrap(),
            rows: case["rows"].as_array().unwrap().clone(),
        }
    };
    let cases = golden["cases"].as_array().unwrap();
    (pairs, cases.iter().map(read).collect())
}

/// Settings under the names of `FlagReranker`'s arguments.
fn set(arguments: &mut RerankArguments, values: &Map<String, Value>) {
    use bge_core::config::Arguments;
    for (name, value) in values {
        let name = RerankArguments::alias(name).unwrap_or(name);
        arguments.set(name, value).unwrap();
    }
}

fn assert_close(ours: f64, theirs: f64, what: &str) {
    assert!((ours - theirs).abs() < 2e-5, "{what}: {ours} is not {theirs}");
}

#[test]
fn pairs_have_the_tokens_of_transformers() {
    let (pairs, cases) = golden();
    for case in cases {
        let tokenizer = Tokenizer::open(&case.arguments.reranker_name_or_path).unwrap();
        let settings = &case.arguments;
        if settings.query_instruction_for_rerank.is_some() {
            continue; // the reranker's part
        }
        let limits = PairLimits::new(
            settings.reranker_query_max_length,
            settings.reranker_max_length,
            64,
        );
        let tokens = tokenizer.encode_pairs(&pairs, limits).unwrap();
        for (i, expected) in case.ids.iter().enumerate() {
            assert_eq!(tokens.row(i), expected, "{settings:?} {:?}", pairs[i]);
        }
        let types = case.types.map(|rows| rows.concat());
        assert_eq!(tokens.type_ids, types);
    }
}

#[test]
fn tokens_with_instructions_are_the_peers_too() {
    let (pairs, cases) = golden();
    for case in cases {
        let reranker =
            Reranker::from_finetuned(&case.arguments.reranker_name_or_path, &case.arguments).unwrap();
        let tokens = reranker.tokenize(&pairs).unwrap();
        assert_eq!(tokens.rows().collect::<Vec<_>>(), case.ids);
    }
}

#[test]
fn scores_are_those_of_the_peers_reranker_in_any_batch() {
    let (pairs, cases) = golden();
    assert!(cases.len() >= 6 && pairs.len() >= 12);
    for case in cases {
        let folder = &case.arguments.reranker_name_or_path;
        let reranker = Reranker::from_finetuned(folder, &case.arguments).unwrap();
        let scores = reranker.compute_score(&pairs).unwrap();
        for (i, (&ours, &theirs)) in scores.iter().zip(&case.scores).enumerate() {
            assert_close(ours.into(), theirs, &format!("pair {i} of {:?}", case.arguments));
            let alone = reranker.compute_score(&pairs[i..=i]).unwrap();
            assert_eq!(alone[0], ours, "a score depends on its batch");
        }
        let small = RerankArguments {
            reranker_batch_size: 2,
            devices: vec!["cpu".into(); 2],
            ..case.arguments.clone()
        };
        let in_twos = Reranker::from_finetuned(folder, &small).unwrap();
        assert_eq!(in_twos.compute_score(&pairs).unwrap(), scores);
        assert!(reranker.compute_score::<&str, &str>(&[]).unwrap().is_empty());
    }
}

#[test]
fn a_query_beyond_the_limit_stays_whole_while_the_model_has_room() {
    let tokenizer = Tokenizer::open(model("bert")).unwrap();
    let long = "ship ".repeat(50);
    let pair = [(long.as_str(), "rope rope")];
    let lengths = |query: usize, total: usize, positions: usize| {
        let limits = PairLimits {
            query,
            passage: total,
            total,
            positions,
        };
        tokenizer.encode_pairs(&pair, limits).unwrap().row(0).len()
    };
    assert_eq!(lengths(30, 34, 64), 34); // one token of the passage is left
    assert_eq!(lengths(31, 33, 64), 36); // none would be left: whole, as transformers 4 leaves it
    assert_eq!(lengths(50, 20, 64), 55);
    assert_eq!(lengths(50, 20, 54), 54); // the model's positions are the last word
    assert_eq!(lengths(50, 20, 30), 29); // without a passage it is a single text
    assert_eq!(lengths(50, 20, 4), 3);
    assert!(
        tokenizer
            .encode_pairs(&pair, PairLimits::new(None, 512, 3))
            .is_err()
    );
    assert_eq!(tokenizer.pair_special_count().unwrap(), 3);
}

fn score_config(arguments: &RerankArguments, input: &Path, output: &Path) -> ScoreConfig {
    let mut config = ScoreConfig {
        rerank: arguments.clone(),
        ..ScoreConfig::default()
    };
    config.files.input_file = input.display().to_string();
    config.files.output_file = output.display().to_string();
    config
}

fn quiet(_: ScoreEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn bert() -> RerankArguments {
    RerankArguments {
        reranker_name_or_path: model("bert"),
        ..RerankArguments::default()
    }
}

/// Scores some text; the report and the output.
fn score(arguments: &RerankArguments, text: &str) -> Result<(ScoreReport, String)> {
    let folder = TempDir::new().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    fs::write(&input, text).unwrap();
    let report = score_file(&score_config(arguments, &input, &output), quiet);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), if report.is_ok() { 2 } else { 1 }, "{left:?}");
    Ok((report?, fs::read_to_string(output).unwrap()))
}

#[test]
fn rows_get_the_scores_of_the_peers_script() {
    let (_, cases) = golden();
    let rows = fs::read_to_string(fixtures().join("rows.jsonl")).unwrap();
    for case in cases {
        let (report, scored) = score(&case.arguments, &rows).unwrap();
        assert_eq!(report.rows as usize, case.rows.len());
        assert!(report.scored < report.pairs, "the repeated row was scored twice");
        for ((line, before), theirs) in scored.lines().zip(rows.lines()).zip(&case.rows) {
            let mut ours: Map<String, Value> = serde_json::from_str(line).unwrap();
            for field in ["pos_scores", "neg_scores"] {
                let ours = ours.get(field).unwrap().as_array().unwrap();
                let theirs = theirs[field].as_array().unwrap();
                assert_eq!(ours.len(), theirs.len());
                for (ours, theirs) in ours.iter().zip(theirs) {
                    assert_close(ours.as_f64().unwrap(), theirs.as_f64().unwrap(), field);
                }
            }
            // Everything else is what it was, in its order.
            let mut before: Map<String, Value> = serde_json::from_str(before).unwrap();
            for field in ["pos_scores", "neg_scores"] {
                before.shift_remove(field);
                ours.shift_remove(field);
            }
            assert_eq!(
                serde_json::to_string(&ours).unwrap(),
                serde_json::to_string(&before).unwrap()
            );
        }
    }
}

/// Rows for several blocks.
fn many_rows(rows: usize) -> String {
    let line = |i: usize| {
        let passages: Vec<String> = (0..8)
            .map(|j| format!("sail {} of rope {j}", i * 7 % 83))
            .collect();
        json!({"query": format!("ship {i}"), "pos": &passages[..1], "neg": &passages[1..]}).to_string() + "\n"
    };
    (0..rows).map(line).collect()
}

#[test]
fn a_stopped_run_goes_on_and_ends_with_the_same_bytes() {
    let rows = many_rows(300);
    let (report, straight) = score(&bert(), &rows).unwrap();
    assert_eq!((report.pairs, report.resumed), (2400, 0));

    let folder = TempDir::new().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    fs::write(&input, &rows).unwrap();
    let config = score_config(&bert(), &input, &output);
    let mut stops = 0;
    let report = loop {
        let mut blocks = 0;
        let run = score_file(&config, |event| {
            blocks += usize::from(matches!(event, ScoreEvent::Scored { .. }));
            if blocks > 1 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match run {
            Ok(report) => break report,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                assert!(!output.exists());
                stops += 1;
                // What a kill in the middle of a block leaves behind.
                let side = folder.path().join(".out.jsonl.scores");
                let mut bytes = fs::read(&side).unwrap();
                bytes.extend_from_slice(&[1, 0, 0, 0, 9, 0, 0, 0, 5]);
                fs::write(side, bytes).unwrap();
            }
        }
    };
    assert!(stops >= 2, "{stops} stops");
    assert!(report.resumed > 0 && report.resumed <= report.pairs);
    assert!(fs::read_to_string(&output).unwrap() == straight);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn finished_work_of_another_input_or_model_is_not_used() {
    let folder = TempDir::new().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    fs::write(&input, many_rows(200)).unwrap();
    let stop = |arguments: &RerankArguments| {
        score_file(&score_config(arguments, &input, &output), |event| match event {
            ScoreEvent::Scored { .. } => ControlFlow::Break(()),
            ScoreEvent::Begin { resumed, .. } => {
                assert_eq!(resumed, 0);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        })
        .unwrap_err()
    };
    stop(&bert());
    let shorter = RerankArguments {
        reranker_max_length: 20,
        ..bert()
    };
    stop(&shorter);
    stop(&RerankArguments {
        reranker_name_or_path: model("xlmr"),
        ..bert()
    });
    fs::write(&input, many_rows(201)).unwrap();
    stop(&RerankArguments {
        reranker_name_or_path: model("xlmr"),
        ..bert()
    });
}

#[test]
fn arrays_marks_blank_lines_and_missing_negatives_are_read() {
    let plain = "{\"query\": \"ship\", \"pos\": [\"sail\"]}\n";
    let (_, expected) = score(&bert(), plain).unwrap();
    assert!(expected.ends_with("\"neg_scores\": []}\n"), "{expected}");
    for same in [
        plain.trim_end().to_owned(),
        format!("\u{feff}{plain}"),
        format!("\n \r\n{plain}\n"),
        plain.replace('\n', "\r\n"),
        format!("[{plain}]"),
    ] {
        assert_eq!(score(&bert(), &same).unwrap().1, expected, "{same:?}");
    }
    let empty = score(&bert(), "{\"query\": \"ship\", \"pos\": [], \"neg\": []}")
        .unwrap()
        .1;
    assert!(
        empty.contains("\"pos_scores\": [], \"neg_scores\": []"),
        "{empty}"
    );
}

#[test]
fn an_embedder_teaches_by_inner_products() {
    let arguments = RerankArguments {
        reranker_name_or_path: encoder("bert"),
        reranker_model_class: Some("embedder".to_owned()),
        query_instruction_for_rerank: Some("find: ".to_owned()),
        ..RerankArguments::default()
    };
    let teacher = open_teacher(encoder("bert"), &arguments).unwrap();
    assert_eq!(teacher.class, "embedder");
    let pairs = [("ship", "a sail"), ("ship", "bread"), ("oven", "bread")];
    let mut heard = 0;
    let scores = teacher.teacher.scores(&pairs, &mut |done| heard = done).unwrap();
    assert_eq!(heard, 3);
    let embedder = Embedder::from_finetuned(
        encoder("bert"),
        &EmbedArguments {
            query_instruction_for_retrieval: Some("find: ".to_owned()),
            ..EmbedArguments::default()
        },
    )
    .unwrap();
    for (score, (query, passage)) in scores.iter().zip(pairs) {
        let (query, passage) = (
            embedder.encode_queries(&[query]).unwrap(),
            embedder.encode_corpus(&[passage]).unwrap(),
        );
        let product: f32 = query.data.iter().zip(&passage.data).map(|(a, b)| a * b).sum();
        assert!((score - product).abs() < 1e-6 && score.abs() <= 1.00001);
    }
}

#[test]
fn a_folder_that_names_a_pooling_is_an_embedder_and_one_without_a_head_is_refused() {
    let folder = TempDir::new().unwrap();
    for file in fs::read_dir(encoder("bert")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let error = open_teacher(folder.path(), &RerankArguments::default()).unwrap_err();
    assert!(error.message().contains("classification head"), "{error}");
    assert!(
        error.message().contains("--reranker_model_class embedder"),
        "{error}"
    );
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    fs::write(
        folder.path().join("modules.json"),
        r#"[{"idx": 0, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#,
    )
    .unwrap();
    fs::write(
        folder.path().join("1_Pooling/config.json"),
        r#"{"pooling_mode_mean_tokens": true}"#,
    )
    .unwrap();
    let teacher = open_teacher(folder.path(), &RerankArguments::default()).unwrap();
    assert_eq!(teacher.class, "embedder");
    assert!(
        teacher
            .notes
            .iter()
            .any(|note| note.to_string().contains("embedder"))
    );
    let as_cross_encoder = RerankArguments {
        reranker_model_class: Some("encoder-only-base".to_owned()),
        ..RerankArguments::default()
    };
    assert!(open_teacher(folder.path(), &as_cross_encoder).is_err());
}

#[test]
fn decoders_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    for config in [
        json!({"model_type": "gemma2", "architectures": ["CostWiseGemmaForCausalLM"]}),
        json!({"model_type": "new", "architectures": ["NewForCausalLM"]}),
        json!({"model_type": "minicpm"}),
    ] {
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let error = open_teacher(folder.path(), &RerankArguments::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let message = error.to_string();
        assert!(
            message.contains(config["model_type"].as_str().unwrap()),
            "{message}"
        );
        assert!(message.contains("decoder-only-layerwise"), "{message}");
    }
}

#[test]
fn pairs_of_a_file_get_one_score_each() {
    let (pairs, cases) = golden();
    let folder = TempDir::new().unwrap();
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let line = |(query, passage): &(String, String)| {
        json!({"id": 7, "query": query, "passage": passage}).to_string()
    };
    let lines: Vec<String> = pairs.iter().map(line).collect();
    fs::write(&input, lines.join("\n")).unwrap();
    for case in &cases {
        let mut config = RerankConfig {
            rerank: case.arguments.clone(),
            ..RerankConfig::default()
        };
        config.files.input_file = input.display().to_string();
        config.files.output_file = output.display().to_string();
        let report = rerank_file(&config, quiet).unwrap();
        assert_eq!(report.pairs as usize, pairs.len());
        let out = fs::read_to_string(&output).unwrap();
        for ((line, score), theirs) in out.lines().zip(&lines).zip(&case.scores) {
            assert!(line.starts_with(score.trim_end_matches('}')), "{line}");
            let value: Value = serde_json::from_str(line).unwrap();
            assert_close(value["score"].as_f64().unwrap(), *theirs, line);
        }
    }
}
