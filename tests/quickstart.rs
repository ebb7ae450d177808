//! What `bge quickstart` carries is whole and fits together.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bge_core::config::{DataArguments, EmbedArguments, RerankArguments};
use bge_core::data::preflight::validate_files;
use bge_core::data::session::ValidationOptions;
use bge_core::evaluation::BeirFolder;
use bge_core::inference::{Embedder, Reranker};
use bge_core::tokenize::Tokenizer;
use flate2::Compression;
use flate2::write::GzEncoder;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../bge_core/quickstart")
        .join(name)
}

/// Bytes of all files of a folder, packed as in a crate.
fn packed(path: &Path) -> usize {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let sizes = entries.map(|path| {
        if path.is_dir() {
            return packed(&path);
        }
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        io::copy(&mut File::open(path).unwrap(), &mut packer).unwrap();
        packer.finish().unwrap().len()
    });
    sizes.sum()
}

/// The training data, unpacked.
fn train_data() -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    let packed = File::open(folder("data/train.jsonl.gz")).unwrap();
    io::copy(&mut flate2::read::GzDecoder::new(packed), &mut file).unwrap();
    file
}

#[test]
fn a_published_crate_can_carry_models_and_data() {
    // The registry takes packages of up to 10 MiB; the source and its tests take less than 1 MB.
    let parts = ["model", "teacher", "data"].map(|part| packed(&folder(part)));
    assert!(parts.iter().sum::<usize>() < 9_500_000, "{parts:?}");
}

#[test]
fn the_model_opens_and_fits_its_tokenizer() {
    let path = folder("model");
    let arguments = EmbedArguments::default();
    let embedder = Embedder::from_finetuned(&path, &arguments).unwrap();
    assert_eq!(embedder.notes(), []);
    assert_eq!(embedder.tokenizer().vocab_size(), 5000);
    let vectors = embedder
        .encode(&[
            "Vitamin D prevents rickets.",
            "Vitamin D is good for bones.",
            "Stars are hot.",
        ])
        .unwrap();
    assert_eq!(vectors.dim, 384);
    let dot = |a: usize, b: usize| -> f32 {
        vectors
            .row(a)
            .iter()
            .zip(vectors.row(b))
            .map(|(a, b)| a * b)
            .sum()
    };
    assert!(dot(0, 1) > dot(0, 2) + 0.1, "{} {}", dot(0, 1), dot(0, 2));
}

#[test]
fn the_teacher_tells_an_answer_from_another_text() {
    // It shares the tokenizer of the model, which `bge quickstart` writes beside it.
    let home = tempfile::tempdir().unwrap();
    for (from, name) in [
        ("teacher", "config.json"),
        ("teacher", "model.safetensors"),
        ("model", "tokenizer.json"),
    ] {
        fs::copy(folder(from).join(name), home.path().join(name)).unwrap();
    }
    let teacher = Reranker::from_finetuned(home.path(), &RerankArguments::default()).unwrap();
    let claim = "Vitamin D prevents rickets.";
    let pairs = [
        (
            claim,
            "Rickets in children is prevented by vitamin D supplements.",
        ),
        (
            claim,
            "The expansion of the universe is measured with supernovae.",
        ),
    ];
    let scores = teacher.compute_score(&pairs).unwrap();
    assert!(scores[0] > scores[1] + 1.0, "{scores:?}");
}

#[test]
fn the_evaluation_data_opens_without_issues() {
    let beir = BeirFolder::open(folder("data"), "test").unwrap();
    assert_eq!(beir.issues, []);
    assert_eq!(beir.query_texts.len(), 300);
    assert_eq!(beir.document_texts.len(), 1200);
}

#[test]
fn the_training_data_is_sound_and_shares_no_claim_with_the_test() {
    let file = train_data();
    let tokenizer = Tokenizer::open(folder("model")).unwrap();
    let count = |text: &str| tokenizer.count(text).unwrap();
    let options = ValidationOptions {
        data: DataArguments {
            train_data: vec![file.path().display().to_string()],
            eval_dataset: Some(folder("data").display().to_string()),
            train_group_size: 1,
            ..DataArguments::default()
        },
        ..ValidationOptions::default()
    };
    let report = validate_files(options, Some(&count), |_| true).unwrap();
    assert!(!report.has_errors(), "{report}");
    assert_eq!(report.rows, 805, "{report}");
    let leaks = report
        .issues
        .iter()
        .filter(|issue| issue.code == "data.leak_query");
    assert_eq!(leaks.count(), 0, "{report}");
}
