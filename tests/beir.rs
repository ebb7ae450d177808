//! BEIR folders: what is read, what is refused, and how both are said.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use bge_core::error::ErrorKind;
use bge_core::evaluation::BeirFolder;
use tempfile::TempDir;

const CORPUS: &str = r#"{"_id": "d1", "title": "Cats", "text": "purr "}
{"_id": "d2", "title": "", "text": "dogs bark"}
{"id": 3, "text": "birds sing"}
"#;
const QUERIES: &str = r#"{"_id": "q1", "text": "who purrs"}
{"_id": "q2", "text": "who barks"}
{"_id": "unjudged", "text": "nobody asks"}
"#;
const QRELS: &str = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td2\t2\n";

/// A folder with the given files; names may have folders in them.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        write(dir.path(), name, text.as_bytes());
    }
    dir
}

pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub(crate) fn good() -> TempDir {
    folder(&[
        ("corpus.jsonl", CORPUS),
        ("queries.jsonl", QUERIES),
        ("qrels/test.tsv", QRELS),
    ])
}

pub(crate) fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_beir_folder_gives_joined_texts_and_only_judged_queries() {
    let dir = good();
    let read = BeirFolder::open(dir.path(), "test").unwrap();
    assert_eq!(read.document_ids, ["d1", "d2", "3"]);
    assert_eq!(read.document_texts, ["Cats purr", "dogs bark", "birds sing"]);
    assert_eq!(read.query_ids, ["q1", "q2"]);
    assert_eq!(
        read.judgments[0],
        BTreeMap::from([("d1".to_owned(), 1.0), ("d2".to_owned(), 0.0)])
    );
    assert!(read.issues.is_empty(), "{:?}", read.issues);
}

#[test]
fn gzip_windows_line_ends_marks_and_trec_columns_read_the_same() {
    let plain = BeirFolder::open(good().path(), "test").unwrap();
    let dir = TempDir::new().unwrap();
    write(
        dir.path(),
        "corpus.jsonl.gz",
        &gzip(&format!("\u{feff}{}", CORPUS.replace('\n', "\r\n\r\n"))),
    );
    write(dir.path(), "queries.jsonl.gz", &gzip(QUERIES.trim_end()));
    write(
        dir.path(),
        "qrels/test.tsv.gz",
        &gzip("q1 0 d1 1.0\nq1 0 d2 0\nq2 0 d2 2\n"),
    );
    let read = BeirFolder::open(dir.path(), "test").unwrap();
    assert_eq!(read.document_texts, plain.document_texts);
    assert_eq!(read.query_texts, plain.query_texts);
    assert_eq!(read.judgments, plain.judgments);
}

#[test]
fn flagembeddings_custom_layout_is_read() {
    let dir = folder(&[
        ("corpus.jsonl", CORPUS),
        ("test_queries.jsonl", QUERIES),
        (
            "test_qrels.jsonl",
            "{\"qid\":\"q1\",\"docid\":\"d1\",\"relevance\":1}\n{\"qid\":\"q2\",\"docid\":\"3\",\"relevance\":1}\n",
        ),
    ]);
    let read = BeirFolder::open(dir.path(), "test").unwrap();
    assert_eq!(read.query_ids, ["q1", "q2"]);
    assert_eq!(read.judgments[1], BTreeMap::from([("3".to_owned(), 1.0)]));
}

#[test]
fn every_broken_line_is_one_error_with_its_place() {
    let cases = [
        ("corpus.jsonl", "{\"_id\": \"d1\", \"text\": \"a\"\n", 1, "JSON"),
        (
            "corpus.jsonl",
            "{\"_id\":\"d1\",\"text\":\"a\"}\n[1]\n",
            2,
            "object",
        ),
        ("corpus.jsonl", "\n{\"text\":\"a\"}\n", 2, "`_id` or `id`"),
        ("corpus.jsonl", "{\"_id\":\"\",\"text\":\"a\"}\n", 1, "not empty"),
        ("corpus.jsonl", "{\"_id\":1.5,\"text\":\"a\"}\n", 1, "`_id`"),
        ("corpus.jsonl", "{\"_id\":\"d1\"}\n", 1, "`text`"),
        ("corpus.jsonl", "{\"_id\":\"d1\",\"text\":null}\n", 1, "`text`"),
        (
            "corpus.jsonl",
            "{\"_id\":\"d1\",\"title\":7,\"text\":\"a\"}\n",
            1,
            "`title`",
        ),
        (
            "corpus.jsonl",
            "{\"_id\":\"d1\",\"text\":\"a\"}\n{\"_id\":\"d1\",\"text\":\"b\"}\n",
            2,
            "line 1",
        ),
        (
            "queries.jsonl",
            "{\"_id\":\"q1\",\"text\":[\"a\"]}\n",
            1,
            "`text`",
        ),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\n",
            2,
            "2 columns",
        ),
        (
            "qrels/test.tsv",
            "q1\td1\thigh\nq1\td1\t1\nq2\td2\tlow\n",
            3,
            "`low`",
        ),
        ("qrels/test.tsv", "q1\td1\tnan\nq1\td1\tinf\n", 2, "not a number"),
        ("qrels/test.tsv", "q1\t\t1\n", 1, "empty"),
        (
            "qrels/test.tsv",
            "q1\td1\t1\nq1\td1\t0\n",
            2,
            "judged 1 on line 1",
        ),
    ];
    for (name, text, line, wanted) in cases {
        let dir = good();
        write(dir.path(), name, text.as_bytes());
        let error = BeirFolder::open(dir.path(), "test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{text}: {error}");
        assert_eq!(error.line(), Some(line), "{text}: {error}");
        assert!(error.path().unwrap().ends_with(name), "{error}");
        assert!(error.message().contains(wanted), "{text}: {error}");
    }
}

#[test]
fn what_cannot_be_read_at_all_names_the_way_out() {
    let dir = good();
    let refused = |path: &Path, split: &str| BeirFolder::open(path, split).unwrap_err();
    assert!(
        refused(&dir.path().join("none"), "test")
            .to_string()
            .contains("no such folder")
    );
    assert!(
        refused(&dir.path().join("corpus.jsonl"), "test")
            .to_string()
            .contains("is a file")
    );
    let error = refused(dir.path(), "dev");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("splits that are there: test"),
        "{error}"
    );
    for split in ["", "..", "../qrels/test"] {
        assert_eq!(refused(dir.path(), split).kind(), ErrorKind::InvalidArgument);
    }
    write(dir.path(), "corpus.jsonl", b"");
    assert!(refused(dir.path(), "test").to_string().contains("no documents"));
    write(
        dir.path(),
        "corpus.jsonl",
        b"{\"_id\":\"d1\",\"text\":\"\xff\"}\n",
    );
    let error = refused(dir.path(), "test");
    assert!(
        error.to_string().contains("corpus.jsonl:1:") && error.message().contains("UTF-8"),
        "{error}"
    );
    fs::remove_file(dir.path().join("corpus.jsonl")).unwrap();
    assert!(
        refused(dir.path(), "test")
            .to_string()
            .contains("no corpus.jsonl")
    );
    let packed = gzip(&CORPUS.repeat(50));
    write(dir.path(), "corpus.jsonl.gz", &packed[..packed.len() / 2]);
    let error = refused(dir.path(), "test");
    assert!(
        error.line().is_some() && error.message().contains("cut off"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_together_is_counted_in_warnings() {
    let dir = good();
    let qrels = "q1\td1\t1\nq1\tgone\t1\nq1\tgone2\t1\nq2\td2\t0\nghost\td1\t1\nq1\td1\t1\n";
    write(dir.path(), "qrels/test.tsv", qrels.as_bytes());
    write(
        dir.path(),
        "corpus.jsonl",
        format!("{CORPUS}{{\"_id\":\"e\",\"text\":\" \"}}\n").as_bytes(),
    );
    let read = BeirFolder::open(dir.path(), "test").unwrap();
    assert_eq!(read.query_ids, ["q1"]);
    assert_eq!(
        read.judgments[0].len(),
        3,
        "missing documents stay in the denominator"
    );
    let found: BTreeMap<&str, String> = read
        .issues
        .iter()
        .map(|issue| (issue.code, issue.to_string()))
        .collect();
    assert!(
        found["evaluation.unknown_document"].contains("2 relevant documents"),
        "{found:?}"
    );
    assert!(found["evaluation.unknown_query"].contains("`ghost`"));
    assert!(found["evaluation.no_positive"].contains("`q2`"));
    assert!(found["evaluation.repeated_judgment"].contains("1 judgments"));
    assert!(found["evaluation.empty_text"].contains("`e`"));
    write(dir.path(), "qrels/test.tsv", b"ghost\td1\t1\n");
    let error = BeirFolder::open(dir.path(), "test").unwrap_err();
    assert!(error.message().contains("check that ids agree"), "{error}");
}

#[test]
fn hundreds_of_errors_are_reported_in_one_pass() {
    let dir = good();
    write(dir.path(), "corpus.jsonl", "{}\n".repeat(250).as_bytes());
    let (read, issues) = BeirFolder::check(dir.path(), "test").unwrap();
    assert!(read.is_none());
    assert!(issues.iter().any(|issue| issue.code == "evaluation.more_errors"));
    assert!((100..110).contains(&issues.len()), "{}", issues.len());
    let error = BeirFolder::open(dir.path(), "test").unwrap_err();
    assert!(error.message().contains("more errors"), "{error}");
}
