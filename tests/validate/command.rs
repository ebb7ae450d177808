//! `bge validate` as a command.

use super::*;

#[path = "../../bge_core/src/bin/bge/validate.rs"]
mod validate;

fn run(args: &[&str]) -> (i32, String, String) {
    let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = validate::run(&args, &|_| Ok(None), &mut out, &mut err);
    (
        code,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

#[test]
fn the_command_takes_paths_anywhere_and_ends_with_the_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = write("good.jsonl", GOOD);
    let bad = write("bad.jsonl", "{\n");
    for args in [
        &["--train_group_size", "2", &good][..],
        &[&good, "--train_group_size=2"],
        &["--same_dataset_within_batch", &good, "--train_group_size", "2"],
        &[
            "--same_dataset_within_batch",
            "True",
            &good,
            "--train_group_size",
            "2",
        ],
        &["--train_group_size", "2", "--train_data", &good],
        &["--train_group_size", "2", "--", &good],
    ] {
        let (code, out, err) = run(args);
        assert_eq!(code, 0, "{args:?}: {err}");
        assert!(out.starts_with("1 row in 1 file"), "{out}");
        assert!(err.contains("MB/s"), "{err}");
    }
    let (code, out, _) = run(&[&good, &bad, "--json"]);
    assert_eq!(code, 1);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["verdict"], "errors");
    assert_eq!(report["issues"][0]["first"][0]["line"], 1);
    let settings = write(
        "run.toml",
        "[data]\ntrain_group_size = 2\nquery_instruction_format = '{}{}{}'\n",
    );
    for args in [
        &[][..],
        &["--json"],
        &[&good, "--no_such_flag", "1"],
        &[&good, "--train_group_size", "0"],
        &[&good, "--config", &settings],
        &[&good, "--config", "no.toml"],
    ] {
        let (code, _, err) = run(args);
        assert_eq!(code, 2, "{args:?}");
        assert!(!err.is_empty());
    }
    let (code, _, err) = run(&["no such file.jsonl"]);
    assert_eq!(code, 1);
    assert!(err.contains("no such file.jsonl"), "{err}");
}

#[test]
fn the_search_for_leaks_reads_the_folders_that_evaluate_reads() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("train.jsonl");
    fs::write(&data, GOOD).unwrap();
    let check = |layout: &str, queries: &str, qrels: &str, judgments: &str| {
        let at = folder.path().join(layout);
        fs::create_dir_all(at.join(qrels).parent().unwrap()).unwrap();
        let corpus = "{\"_id\": \"1\", \"title\": null, \"text\": \"good positive\"}\n";
        fs::write(at.join("corpus.jsonl"), corpus).unwrap();
        let texts = "{\"_id\": \"a\", \"text\": \"good query\"}\n{\"_id\": \"b\", \"text\": \"x\"}\n";
        fs::write(at.join(queries), texts).unwrap();
        fs::write(at.join(qrels), judgments).unwrap();
        let (data, at) = (data.display().to_string(), at.display().to_string());
        run(&[&data, "--train_group_size", "2", "--eval_dataset", &at])
    };
    let beir = ("queries.jsonl", "qrels/test.tsv");
    let custom = ("test_queries.jsonl", "test_qrels.jsonl");
    for (layout, (queries, qrels), judgments) in [
        ("trec", beir, "a 0 1 1\n"),
        ("blanks", beir, "query-id\tcorpus-id\tscore\na \t1\t1\nb\t1\t0\n"),
        (
            "custom",
            custom,
            "{\"qid\": \"a\", \"docid\": \"1\", \"relevance\": 1}\n",
        ),
    ] {
        let (code, out, err) = check(layout, queries, qrels, judgments);
        assert_eq!(code, 0, "{layout}: {err}");
        let found = "1 query and 1 document; 1 row with a query of it, 1 row with a document of it";
        assert!(out.contains(found), "{layout}: {out}");
    }
    let (code, _, err) = check("strangers", beir.0, beir.1, "c\t1\t1\n");
    assert_eq!(code, 1);
    assert!(
        err.contains("test.tsv") && err.contains("are the ids the same?"),
        "{err}"
    );
    let (code, _, err) = check("broken", beir.0, beir.1, "a\t1\t1\na\t1\n");
    assert_eq!(code, 1);
    assert!(err.contains("test.tsv:2") && err.contains("2 columns"), "{err}");
}

#[test]
fn evaluation_data_is_read_in_beirs_layout() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let data = write("train.jsonl", GOOD);
    write(
        "corpus.jsonl",
        "{\"_id\": \"1\", \"title\": \"good\", \"text\": \"positive\"}\n",
    );
    write(
        "queries.jsonl",
        "{\"_id\": \"a\", \"text\": \"good query\"}\n{\"_id\": \"b\", \"text\": \"x\"}\n",
    );
    write("qrels/test.tsv", "query-id\tcorpus-id\tscore\na\t1\t1\n");
    write("qrels/dev.tsv", "query-id\tcorpus-id\tscore\nb\t1\t1\n");
    let at = folder.path().display().to_string();
    let (code, out, err) = run(&[&data, "--train_group_size", "2", "--eval_dataset", &at]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("1 row with a query of it, 1 row with a document of it"),
        "{out}"
    );
    let (_, out, _) = run(&[
        &data,
        "--train_group_size",
        "2",
        "--eval_dataset",
        &at,
        "--eval_split",
        "dev",
    ]);
    assert!(out.contains("0 rows with a query of it"), "{out}");
    let (code, _, err) = run(&[&data, "--eval_dataset", &at, "--eval_split", "none"]);
    assert!(
        code == 1 && err.contains("splits that are there: dev, test"),
        "{err}"
    );
}
