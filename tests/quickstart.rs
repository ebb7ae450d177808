//! What `bge quickstart` carries is whole and fits together.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bge_core::config::{DataArguments, EmbedArguments};
use bge_core::data::preflight::validate_files;
use bge_core::data::session::ValidationOptions;
use bge_core::evaluation::BeirFolder;
use bge_core::inference::Embedder;
use bge_core::tokenize::Tokenizer;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../bge_core/quickstart")
        .join(name)
}

fn size(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => size(&entry.path()),
        metadata => metadata.len(),
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
fn a_published_crate_can_carry_model_and_data() {
    // The registry takes packages of up to 10 MiB; half-precision weights hardly pack.
    assert!(size(&folder("model")) <= 9_200_000);
    assert!(size(&folder("data")) <= 1_200_000);
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
