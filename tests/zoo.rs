//! ModernBERT and DeBERTa-v2 against transformers, in an embedder and in a reranker.

use std::path::{Path, PathBuf};

use bge_core::config::{EmbedArguments, FinetuneConfig, PoolingMethod, RerankArguments};
use bge_core::distillation::open_teacher;
use bge_core::tokenize::TokenBatch;
use bge_core::{Embedder, ErrorKind, Reranker, Trainer};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo")
}

fn golden() -> Vec<(PathBuf, Vec<Value>)> {
    let text = std::fs::read_to_string(fixtures().join("zoo.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let models = golden.as_object().unwrap().iter();
    models
        .map(|(name, cases)| {
            let folder = fixtures().join("models").join(name);
            (folder, cases.as_array().unwrap().clone())
        })
        .collect()
}

fn tokens(cases: &[Value]) -> TokenBatch {
    let rows: Vec<Vec<u32>> = cases
        .iter()
        .map(|case| serde_json::from_value(case["ids"].clone()).unwrap())
        .collect();
    TokenBatch::from_rows(&rows).unwrap()
}

#[test]
fn vectors_are_those_of_transformers() {
    for (folder, cases) in golden() {
        for (pooling, name) in [(PoolingMethod::Cls, "cls"), (PoolingMethod::Mean, "mean")] {
            let arguments = EmbedArguments {
                pooling_method: Some(pooling),
                normalize_embeddings: false,
                ..EmbedArguments::default()
            };
            let embedder = Embedder::from_finetuned(&folder, &arguments).unwrap();
            let vectors = embedder.encode_tokens(&tokens(&cases), |_| {}).unwrap();
            for (case, ours) in cases.iter().zip(vectors.rows()) {
                let theirs: Vec<f32> = serde_json::from_value(case[name].clone()).unwrap();
                assert_eq!(ours.len(), theirs.len());
                let far = ours
                    .iter()
                    .zip(&theirs)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                let length = case["ids"].as_array().unwrap().len();
                assert!(
                    far < 2e-5,
                    "{} {name} of {length} tokens: {far}",
                    folder.display()
                );
            }
        }
    }
}

#[test]
fn scores_are_those_of_transformers() {
    for (folder, cases) in golden() {
        let reranker = Reranker::from_finetuned(&folder, &RerankArguments::default()).unwrap();
        let scores = reranker.score_tokens(&tokens(&cases), |_| {}).unwrap();
        for (case, ours) in cases.iter().zip(scores) {
            let theirs = case["score"].as_f64().unwrap() as f32;
            assert!(
                (ours - theirs).abs() < 2e-5,
                "{}: {ours} is not {theirs}",
                folder.display()
            );
        }
    }
}

#[test]
fn texts_go_through_and_their_neighbours_do_not_matter() {
    for (folder, _) in golden() {
        let teacher = open_teacher(&folder, &RerankArguments::default()).unwrap();
        assert_eq!(teacher.class, "encoder-only-base");
        let long = "a ship with rope and sail ".repeat(30);
        let pairs = [("ship", "a sail"), ("oven", long.as_str()), ("ship", "bread")];
        let scores = teacher.teacher.scores(&pairs, &mut |_| {}).unwrap();
        for (pair, score) in pairs.iter().zip(&scores) {
            let alone = teacher.teacher.scores(&[*pair], &mut |_| {}).unwrap();
            assert_eq!(alone[0], *score);
        }
        let embedder = Embedder::from_finetuned(&folder, &EmbedArguments::default()).unwrap();
        let vectors = embedder.encode_queries(&["ship", &long]).unwrap();
        let norm: f32 = vectors.row(1).iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
}

#[test]
fn training_them_is_refused_and_a_damaged_folder_is_an_error() {
    let (folder, _) = golden().remove(0);
    let place = tempfile::TempDir::new().unwrap();
    let data = place.path().join("data.jsonl");
    std::fs::write(
        &data,
        "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\"]}\n".repeat(4),
    )
    .unwrap();
    let flags = [
        "--model_name_or_path".to_owned(),
        folder.display().to_string(),
        "--train_data".to_owned(),
        data.display().to_string(),
        "--output_dir".to_owned(),
        place.path().join("out").display().to_string(),
    ];
    let config = FinetuneConfig::from_flags(&flags)
        .unwrap()
        .arguments
        .check()
        .unwrap();
    let error = Trainer::new(config).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("modernbert"), "{error}");

    let copy = place.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(copy.join("config.json")).unwrap();
    for (from, to) in [
        ("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5"),
        ("\"hidden_size\": 16", "\"hidden_size\": 20"),
        ("\"attention_bias\": false", "\"attention_bias\": true"),
        (
            "\"classifier_activation\": \"gelu\"",
            "\"classifier_activation\": \"relu\"",
        ),
        ("\"vocab_size\": 176", "\"vocab_size\": \"x\""),
    ] {
        assert!(config.contains(from), "{from}");
        std::fs::write(copy.join("config.json"), config.replace(from, to)).unwrap();
        let error = Reranker::from_finetuned(&copy, &RerankArguments::default()).unwrap_err();
        assert!(error.path().is_some(), "{to}: {error}");
    }
}
