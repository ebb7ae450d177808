//! Bad input about BGE-M3's heads: of `mine`, `evaluate` and `rerank`.

use std::fs;
use std::path::Path;

use crate::case::{Case, copy, fixture, words};

fn mine(name: &str, code: i32, more: &[&str], says: &[&str]) -> Case {
    Case::new(
        &format!("heads: mine, {name}"),
        crate::mining::mine(more),
        code,
        says,
        |_| {},
    )
}

/// An evaluation of `model`, which is a BGE-M3 with this weights file if there is one.
fn evaluate(name: &str, code: i32, more: &[&str], weights: Option<&'static str>, says: &[&str]) -> Case {
    let base = [
        "evaluate",
        "--embedder_name_or_path",
        "model",
        "--dataset",
        "beir",
    ];
    let args = words(&[&base[..], more].concat());
    Case::new(&format!("heads: evaluate, {name}"), args, code, says, move |at| {
        prepare(at, weights);
    })
}

/// Pairs scored by `model`, which is a BGE-M3 with this weights file.
fn rerank(name: &str, weights: &'static str, says: &[&str]) -> Case {
    let line = "rerank --m3 --reranker_name_or_path model --input_file pairs.jsonl --output_file out.jsonl";
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    Case::new(&format!("heads: rerank, {name}"), args, 1, says, move |at| {
        prepare(at, Some(weights));
    })
}

fn prepare(at: &Path, weights: Option<&str>) {
    let beir = at.join("beir");
    fs::create_dir_all(beir.join("qrels")).unwrap();
    fs::write(
        beir.join("corpus.jsonl"),
        "{\"_id\": \"d\", \"text\": \"sail\"}\n",
    )
    .unwrap();
    fs::write(
        beir.join("queries.jsonl"),
        "{\"_id\": \"q\", \"text\": \"ship\"}\n",
    )
    .unwrap();
    for split in ["test", "dev"] {
        let path = beir.join(format!("qrels/{split}.tsv"));
        fs::write(path, "query-id\tcorpus-id\tscore\nq\td\t1\n").unwrap();
    }
    fs::write(
        at.join("pairs.jsonl"),
        "{\"query\": \"ship\", \"passage\": \"sail\"}\n",
    )
    .unwrap();
    if let Some(weights) = weights {
        fs::remove_dir_all(at.join("model")).unwrap();
        copy(&fixture("../m3/models/m3"), &at.join("model"));
        fs::write(at.join("model/mode_weights.json"), weights).unwrap();
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let file = "mode_weights.json";
    let good = r#"{"dense": 1, "sparse": 1, "colbert": 1}"#;
    vec![
        mine(
            "an unknown mode",
            2,
            &["--retrieval_mode", "bm25"],
            &["retrieval_mode", "dense, sparse"],
        ),
        mine(
            "an unknown fusion",
            2,
            &["--fusion", "max"],
            &["fusion", "weights"],
        ),
        mine(
            "a model without heads",
            2,
            &["--retrieval_mode", "sparse"],
            &["retrieval_mode", "sparse_linear"],
        ),
        mine(
            "a model without token vectors",
            2,
            &["--colbert_rescoring"],
            &["colbert_linear"],
        ),
        mine(
            "two weights",
            2,
            &["--weights_for_different_modes", "1", "2"],
            &["three numbers"],
        ),
        mine("rank 0", 2, &["--rrf_k", "0"], &["rrf_k"]),
        evaluate(
            "weights of a plain model",
            2,
            &["--weights_for_different_modes", "1", "1", "1"],
            None,
            &["sparse_linear"],
        ),
        evaluate(
            "tuning a plain model",
            2,
            &["--tune_weights", "beir"],
            None,
            &["tune_weights", "sparse_linear"],
        ),
        evaluate(
            "tuning on the test set",
            2,
            &["--tune_weights", "beir/", "--tune_split", "test"],
            None,
            &["flatter"],
        ),
        evaluate(
            "tuning on nothing",
            1,
            &["--tune_weights", "gone"],
            Some(good),
            &["gone"],
        ),
        evaluate("broken weights", 1, &[], Some("{"), &[file]),
        evaluate(
            "negative weights",
            1,
            &[],
            Some(r#"{"dense": 1, "sparse": -1, "colbert": 1}"#),
            &[file, "from 0"],
        ),
        evaluate(
            "other keys",
            1,
            &[],
            Some(r#"{"dense": 1, "sparse": 1, "late": 1}"#),
            &[file, "late"],
        ),
        rerank(
            "weights that are no numbers",
            r#"{"dense": NaN, "sparse": 1, "colbert": 1}"#,
            &[file],
        ),
        rerank(
            "weights of nothing",
            r#"{"dense": 0, "sparse": 0, "colbert": 0}"#,
            &[file, "not all 0"],
        ),
    ]
}
