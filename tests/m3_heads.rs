//! BGE-M3's heads in an evaluation, the weights of their common score, and the trained sparse head of bge-m3.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bge_core::config::{EvaluateConfig, Loader, PoolingMethod, RerankArguments};
use bge_core::distillation::open_teacher;
use bge_core::evaluation::{BeirFolder, MetricKey, Mode, ModelsReport, measure_models, score_run};
use bge_core::inference::{M3Embedder, MODE_WEIGHTS_FILE, ModeWeights};
use bge_core::models::{M3, ModelFolder, SentenceSettings, save_m3};
use bge_core::tokenize::Tokenizer;
use bge_core::{Error, ErrorKind, Result};
use bge_tests::{beir, copy, fixture, json};
use candle_core::{Device, Tensor};
use serde_json::Value;

fn config(model: &Path, data: &Path, more: &[&str]) -> std::result::Result<EvaluateConfig, String> {
    let mut flags = vec![
        "--embedder_name_or_path".to_owned(),
        model.display().to_string(),
        "--dataset".to_owned(),
        data.display().to_string(),
        "--k_values".to_owned(),
        "1".to_owned(),
        "10".to_owned(),
    ];
    flags.extend(more.iter().map(|word| (*word).to_owned()));
    let said = |issues: Vec<bge_core::Issue>| issues.iter().map(ToString::to_string).collect::<String>();
    let parsed = Loader::<EvaluateConfig>::new()
        .flags(&flags)
        .finish()
        .map_err(said)?;
    let checked = parsed.arguments.check().map_err(said)?;
    Ok(EvaluateConfig::clone(&checked))
}

fn evaluate(model: &Path, data: &Path, more: &[&str]) -> Result<ModelsReport> {
    measure_models(&config(model, data, more).unwrap(), &mut |_| {})
}

/// The metrics of a score that is given for every pair of query and document.
fn by_hand(folder: &BeirFolder, score: impl Fn(usize, usize) -> Option<f32>) -> f64 {
    let key: MetricKey = "ndcg_at_10".parse().unwrap();
    let (mut sum, queries) = (0.0, folder.query_ids.len());
    for (query, id) in folder.query_ids.iter().enumerate() {
        let found: BTreeMap<String, f32> = folder
            .document_ids
            .iter()
            .enumerate()
            .filter_map(|(document, id)| Some((id.clone(), score(query, document)?)))
            .collect();
        let run = BTreeMap::from([(id.clone(), found)]);
        let judged = BTreeMap::from([(id.clone(), folder.judgments[query].clone())]);
        let values = score_run(&run, &judged, &[10]);
        sum += values[id].iter().find(|(other, _)| *other == key).unwrap().1;
    }
    sum / queries as f64
}

#[test]
fn every_head_and_the_means_are_measured_as_by_hand() {
    let place = tempfile::tempdir().unwrap();
    let (model, data) = (fixture("m3/models/m3"), place.path().join("data"));
    beir(&data);
    let weights = ModeWeights {
        dense: 0.5,
        sparse: 0.2,
        colbert: 0.3,
    };
    let flags = ["--weights_for_different_modes", "0.5", "0.2", "0.3"];
    let report = evaluate(&model, &data, &flags).unwrap();
    let folder = BeirFolder::open(&data, "test").unwrap();
    let embedder = M3Embedder::from_finetuned(&model, &config(&model, &data, &[]).unwrap().embed).unwrap();
    let pairs: Vec<(&String, &String)> = folder
        .query_texts
        .iter()
        .flat_map(|query| {
            folder
                .document_texts
                .iter()
                .map(move |document| (query, document))
        })
        .collect();
    let scores = embedder.compute_score(&pairs).unwrap();
    let at = |query: usize, document: usize| scores[query * folder.document_ids.len() + document];
    let heads = report.heads.as_ref().unwrap();
    assert_eq!(heads.weights, weights);
    let key: MetricKey = "ndcg_at_10".parse().unwrap();
    let mut different = std::collections::BTreeSet::new();
    for mode in Mode::ALL {
        let want = by_hand(&folder, |query, document| {
            let pair = at(query, document);
            if mode == Mode::Sparse && pair.sparse == 0.0 {
                return None; // without a shared token there is no hit
            }
            Some(match mode {
                Mode::Dense => pair.dense,
                Mode::Sparse => pair.sparse,
                Mode::Colbert => pair.colbert,
                Mode::SparseDense => pair.sparse_dense(weights),
                Mode::ColbertSparseDense => pair.colbert_sparse_dense(weights),
            })
        });
        let got = heads.modes[&mode][&key];
        assert!(
            (got - want).abs() < 1e-6,
            "{}: {got}, by hand {want}",
            mode.as_str()
        );
        different.insert(format!("{got:.4}"));
    }
    assert!(different.len() >= 3, "{different:?}");
    assert_eq!(
        heads.modes[&Mode::Dense][&key],
        report.evaluation.report.metrics[&key]
    );
    let value = report.json().unwrap();
    assert!(value["heads"]["modes"]["colbert+sparse+dense"]["ndcg_at_10"].is_number());
    assert!(report.table().contains("colbert+sparse+dense"));
    assert!(
        report
            .html(&bge_core::evaluation::ReportContext::default())
            .contains("colbert+sparse+dense")
    );

    // A small window bounds the candidates; the heads' own lists stay whole.
    let narrow = evaluate(&model, &data, &[&flags[..], &["--head_window", "1"]].concat()).unwrap();
    let narrow = narrow.heads.unwrap();
    assert_eq!(narrow.modes[&Mode::Sparse], heads.modes[&Mode::Sparse]);
    assert_ne!(narrow.modes[&Mode::Colbert], heads.modes[&Mode::Colbert]);
    // Beside itself as the baseline, before is after.
    let name = model.display().to_string();
    let both = evaluate(&model, &data, &["--baseline", &name]).unwrap();
    assert_eq!(both.heads, both.heads_before);
    assert!(both.table().contains("nDCG@10 before"));
}

#[test]
fn weights_are_chosen_on_a_development_set_and_are_the_default_from_then_on() {
    let place = tempfile::tempdir().unwrap();
    let (model, data) = (place.path().join("model"), place.path().join("data"));
    copy(&fixture("m3/models/m3"), &model);
    beir(&data);
    fs::copy(data.join("qrels/test.tsv"), data.join("qrels/dev.tsv")).unwrap();
    let place_of_data = data.display().to_string();
    let before = bge_core::models::fingerprint(&model).unwrap();
    let report = evaluate(&model, &data, &["--tune_weights", &place_of_data]).unwrap();
    let tuned = report.tuned.unwrap();
    assert!(tuned.ndcg_at_10 >= tuned.ndcg_at_10_before);
    let heads = report.heads.unwrap();
    let key: MetricKey = "ndcg_at_10".parse().unwrap();
    assert_eq!(heads.weights, tuned.weights);
    // The development set is the test set here, so the value is the same.
    assert_eq!(heads.modes[&Mode::ColbertSparseDense][&key], tuned.ndcg_at_10);
    for mode in [Mode::Dense, Mode::Sparse, Mode::Colbert] {
        assert!(tuned.ndcg_at_10 >= heads.modes[&mode][&key] - 1e-9);
    }
    let first = fs::read(model.join(MODE_WEIGHTS_FILE)).unwrap();
    let written: Value = json(&model.join(MODE_WEIGHTS_FILE));
    assert_eq!(written["tuned_on"]["split"], "dev");
    evaluate(&model, &data, &["--tune_weights", &place_of_data]).unwrap();
    assert_eq!(first, fs::read(model.join(MODE_WEIGHTS_FILE)).unwrap());
    assert_eq!(before, bge_core::models::fingerprint(&model).unwrap());

    let again = evaluate(&model, &data, &[]).unwrap().heads.unwrap();
    assert_eq!(again.weights, tuned.weights);
    assert_eq!(again.modes, heads.modes);
    let arguments = RerankArguments {
        m3: true,
        ..RerankArguments::default()
    };
    let score = |folder: &Path, weights: &[f64]| {
        let arguments = RerankArguments {
            weights_for_different_modes: weights.to_vec(),
            ..arguments.clone()
        };
        let teacher = open_teacher(folder, &arguments).unwrap().teacher;
        teacher
            .scores(&[("apple", "Apple and bread")], &mut |_| {})
            .unwrap()
    };
    let named = tuned.weights.all().map(f64::from);
    assert_eq!(score(&model, &[]), score(&model, &named));
    assert_eq!(
        score(&fixture("m3/models/m3"), &[]),
        score(&model, &[1.0, 1.0, 1.0])
    );
}

#[test]
fn what_cannot_be_done_with_heads_is_one_error() {
    let place = tempfile::tempdir().unwrap();
    let (model, data) = (place.path().join("model"), place.path().join("data"));
    beir(&data);
    copy(&fixture("m3/models/m3"), &model);
    let data_name = data.display().to_string();
    for (flags, expected) in [
        (vec!["--weights_for_different_modes", "1", "2"], "three numbers"),
        (
            vec!["--weights_for_different_modes", "1", "-2", "1"],
            "three numbers",
        ),
        (
            vec!["--weights_for_different_modes", "0", "0", "0"],
            "three numbers",
        ),
        (vec!["--weights_for_different_modes", "NaN", "0", "1"], "finite"),
        (vec!["--head_window", "0"], "head_window"),
        (vec!["--tune_weights", " "], "empty"),
        (
            vec!["--tune_weights", &data_name, "--tune_split", "test"],
            "flatter",
        ),
        (
            vec!["--tune_weights", &data_name, "--tune_split", "../x"],
            "tune_split",
        ),
        (
            vec![
                "--tune_weights",
                "d",
                "--weights_for_different_modes",
                "1",
                "1",
                "1",
            ],
            "either given or chosen",
        ),
    ] {
        let said = config(&model, &data, &flags).unwrap_err();
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    let plain = fixture("parity/models/xlmr");
    for flags in [
        &["--tune_weights", "d2"][..],
        &["--weights_for_different_modes", "1", "1", "1"],
    ] {
        let flags: Vec<&str> = flags
            .iter()
            .map(|word| if *word == "d2" { &data_name } else { *word })
            .collect();
        fs::copy(data.join("qrels/test.tsv"), data.join("qrels/dev.tsv")).unwrap();
        let error: Error = evaluate(&plain, &data, &flags).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("sparse_linear"), "{error}");
    }
    fs::write(
        model.join(MODE_WEIGHTS_FILE),
        r#"{"dense": 1, "sparse": -1, "colbert": 1}"#,
    )
    .unwrap();
    let error = evaluate(&model, &data, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelFormat);
    assert!(error.to_string().contains(MODE_WEIGHTS_FILE), "{error}");
    assert!(evaluate(&model, &data, &["--weights_for_different_modes", "1", "1", "1"]).is_ok());
    let as_dense = evaluate(&model, &data, &["--embedder_model_class", "encoder-only-base"]).unwrap();
    assert!(as_dense.heads.is_none());
}

#[test]
fn the_trained_sparse_head_of_bge_m3_opens_and_survives_the_pt_file() {
    let place = tempfile::tempdir().unwrap();
    let (folder, saved) = (place.path().join("model"), place.path().join("saved"));
    copy(&fixture("m3/bge-m3-sparse-linear"), &folder);
    let config = r#"{"model_type": "xlm-roberta", "vocab_size": 9, "hidden_size": 1024, "num_hidden_layers": 1,
        "num_attention_heads": 16, "intermediate_size": 4, "max_position_embeddings": 12, "type_vocab_size": 1,
        "layer_norm_eps": 1e-5, "pad_token_id": 1}"#;
    fs::write(folder.join("config.json"), config).unwrap();
    let mut weights = std::collections::HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        weights.insert(
            name.to_owned(),
            Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap(),
        );
    };
    for (name, rows) in [("word", 9), ("position", 12), ("token_type", 1)] {
        add(&format!("embeddings.{name}_embeddings.weight"), &[rows, 1024]);
    }
    for (name, rows, columns) in [
        ("attention.self.query", 1024, 1024),
        ("attention.self.key", 1024, 1024),
        ("attention.self.value", 1024, 1024),
        ("attention.output.dense", 1024, 1024),
        ("intermediate.dense", 4, 1024),
        ("output.dense", 1024, 4),
    ] {
        add(&format!("encoder.layer.0.{name}.weight"), &[rows, columns]);
        add(&format!("encoder.layer.0.{name}.bias"), &[rows]);
    }
    for name in [
        "embeddings",
        "encoder.layer.0.attention.output",
        "encoder.layer.0.output",
    ] {
        for part in ["weight", "bias"] {
            add(&format!("{name}.LayerNorm.{part}"), &[1024]);
        }
    }
    candle_core::safetensors::save(&weights, folder.join("model.safetensors")).unwrap();
    let open = |folder: &Path| M3::open(&ModelFolder::open(folder).unwrap()).unwrap();
    let values = |model: &M3, name: &str| -> Vec<f32> {
        let mut all = model.params().iter().filter(|(other, ..)| *other == name);
        all.next().unwrap().1.flatten_all().unwrap().to_vec1().unwrap()
    };
    let model = open(&folder);
    let weight = values(&model, "sparse_linear.weight");
    // Numbers of the file, read by Python's struct.
    assert_eq!(weight.len(), 1024);
    let units = [weight[0], weight[1], weight[2], weight[1023]].map(|weight| weight * 1_048_576.0);
    assert_eq!(units, [347.0, 920.5, -3558.0, 1638.0]);
    let sum: f64 = weight.iter().map(|x| f64::from(*x)).sum();
    let squares: f64 = weight.iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!(
        (sum - -1.272_416_949_272_155_8).abs() < 1e-9 && (squares - 0.014_884_751_031_736_698).abs() < 1e-12
    );
    assert_eq!(values(&model, "sparse_linear.bias"), [47_392.0 / 1_048_576.0]);
    assert!(model.heads().sparse && !model.heads().colbert);

    // Written as upstream's .pt and read from that alone.
    let settings = SentenceSettings {
        pooling: PoolingMethod::Cls,
        normalize: true,
        max_seq_length: 10,
        query_prompt: String::new(),
        passage_prompt: String::new(),
    };
    fs::create_dir(&saved).unwrap();
    save_m3(&saved, &model, &settings, std::iter::empty()).unwrap();
    fs::remove_file(saved.join("sparse_linear.safetensors")).unwrap();
    assert!(saved.join("sparse_linear.pt").is_file());
    let again = open(&saved);
    for name in ["sparse_linear.weight", "sparse_linear.bias"] {
        assert_eq!(values(&again, name), values(&model, name));
    }
}

/// The tokenizer of 6 MB is not part of the repository; the folder of shared data lies beside it or where `BGE_SHARED` says.
#[test]
fn the_multilingual_tokenizer_gives_the_published_ids() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("BGE_SHARED").map_or(beside, Into::into);
    let data = shared.join("data");
    let (folder, golden) = (
        data.join("tokenizers/xlm-roberta"),
        data.join("golden/tokens.jsonl"),
    );
    if !folder.is_dir() || !golden.is_file() {
        eprintln!("skipped: there is no {} (set BGE_SHARED)", folder.display());
        return;
    }
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let mut count = 0;
    for line in fs::read_to_string(golden).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["tokenizer"] != "xlm-roberta" || !line["pair"].is_null() {
            continue;
        }
        let want: Vec<u32> = serde_json::from_value(line["ids"].clone()).unwrap();
        let got = tokenizer
            .encode_batch(&[line["text"].as_str().unwrap()], 8192)
            .unwrap();
        assert_eq!(got.row(0), want, "{}", line["text"]);
        count += 1;
    }
    assert!(count >= 9, "{count} texts");
}
