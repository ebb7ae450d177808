//! Evaluation on folders: reading, metrics against `pytrec_eval`, comparison, verdicts and reports.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use bge_core::error::{ErrorKind, Result};
use bge_core::evaluation::{
    BeirFolder, CompareOptions, Comparison, Evaluation, EvaluationOptions, EvaluationReport, MetricKey,
    Outcome, ReportContext, Role, TrainingCurve, compare, comparison_html, comparison_table, evaluate,
    evaluation_html, evaluation_table, score_run,
};
use bge_core::inference::Vectors;
use bge_core::random::Draws;
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
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        write(dir.path(), name, text.as_bytes());
    }
    dir
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn good() -> TempDir {
    folder(&[
        ("corpus.jsonl", CORPUS),
        ("queries.jsonl", QUERIES),
        ("qrels/test.tsv", QRELS),
    ])
}

fn gzip(text: &str) -> Vec<u8> {
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

#[test]
fn metrics_equal_pytrec_evals_on_every_golden_case() {
    let fixture: serde_json::Value = serde_json::from_str(include_str!("fixtures/metrics.json")).unwrap();
    let k_values: Vec<usize> = serde_json::from_value(fixture["k_values"].clone()).unwrap();
    let mut compared = 0;
    for (name, case) in fixture["cases"].as_object().unwrap() {
        let run: BTreeMap<String, BTreeMap<String, f32>> =
            serde_json::from_value(case["run"].clone()).unwrap();
        let judgments = serde_json::from_value(case["judgments"].clone()).unwrap();
        let scores = score_run(&run, &judgments, &k_values);
        let expected = case["expected"].as_object().unwrap();
        for (query, values) in expected {
            let Some(ours) = scores.get(query) else {
                // A query without a relevant judgment: pytrec_eval says 0, we leave it out.
                assert!(
                    judgments[query].values().all(|score| *score <= 0.0),
                    "{name} {query}"
                );
                assert!(values.as_object().unwrap().values().all(|value| value == 0.0));
                continue;
            };
            let ours: BTreeMap<String, f64> = ours
                .iter()
                .map(|(key, value)| (key.to_string(), *value))
                .collect();
            for (key, value) in values.as_object().unwrap() {
                let difference = (ours[key] - value.as_f64().unwrap()).abs();
                assert!(
                    difference < 1e-12,
                    "{name} {query} {key}: {} is not {value}",
                    ours[key]
                );
                compared += 1;
            }
        }
        for (query, values) in &scores {
            assert!(
                judgments[query].values().any(|score| *score > 0.0),
                "{name} {query}"
            );
            if !run.contains_key(query) {
                assert!(
                    values.iter().all(|(_, value)| *value == 0.0),
                    "{name} {query}: no results, no score"
                );
            }
        }
    }
    assert!(compared > 500, "only {compared} values compared");
}

/// A world of documents with two directions each, and queries that point at one of them.
struct World {
    folder: BeirFolder,
    dim: usize,
    documents: Vec<f32>,
    queries: Vec<f32>,
}

impl World {
    fn new(queries: usize) -> Self {
        let (documents, dim) = (queries * 2 + 10, 16);
        let mut corpus = String::new();
        let (mut asked, mut qrels) = (String::new(), String::new());
        for i in 0..documents {
            writeln(
                &mut corpus,
                &format!("{{\"_id\":\"d{i}\",\"text\":\"document {i}\"}}"),
            );
        }
        for i in 0..queries {
            writeln(
                &mut asked,
                &format!("{{\"_id\":\"q{i}\",\"text\":\"query {i} <script>alert({i})</script> שלום 🦀\"}}"),
            );
            writeln(&mut qrels, &format!("q{i}\td{i}\t1"));
        }
        let dir = folder(&[
            ("corpus.jsonl", &corpus),
            ("queries.jsonl", &asked),
            ("qrels/test.tsv", &qrels),
        ]);
        let folder = BeirFolder::open(dir.path(), "test").unwrap();
        let mut draws = Draws::new(5);
        let mut numbers = |n: usize| -> Vec<f32> { (0..n * dim).map(|_| draws.normal() as f32).collect() };
        let documents = numbers(documents);
        let queries = numbers(queries);
        Self {
            folder,
            dim,
            documents,
            queries,
        }
    }

    /// Evaluates queries that are the right document plus `noise` times a random direction of `seed`.
    fn evaluate(&self, noise: f32, seed: u64) -> Evaluation {
        let mut draws = Draws::new(seed);
        let queries: Vec<f32> = (0..self.queries.len())
            .map(|i| self.documents[i] + noise * self.queries[i] + 0.01 * draws.normal() as f32)
            .collect();
        evaluate(&self.folder, &EvaluationOptions::default(), |role, texts| {
            let data = match role {
                Role::Query => queries.clone(),
                Role::Passage => self.documents.clone(),
            };
            assert_eq!(texts.len() * self.dim, data.len());
            Ok(Vectors { data, dim: self.dim })
        })
        .unwrap()
    }

    fn compare(&self, before: &Evaluation, after: &Evaluation) -> Comparison {
        let options = CompareOptions {
            resamples: 400,
            ..CompareOptions::default()
        };
        compare(&self.folder, before, after, &options).unwrap()
    }
}

fn writeln(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[test]
fn identical_ids_can_be_left_out() {
    let dir = folder(&[
        (
            "corpus.jsonl",
            "{\"_id\":\"a\",\"text\":\"x\"}\n{\"_id\":\"b\",\"text\":\"y\"}\n",
        ),
        ("queries.jsonl", "{\"_id\":\"a\",\"text\":\"x\"}\n"),
        ("qrels/test.tsv", "a\tb\t1\n"),
    ]);
    let read = BeirFolder::open(dir.path(), "test").unwrap();
    let mrr = |ignore_identical_ids| {
        let options = EvaluationOptions {
            ignore_identical_ids,
            ..EvaluationOptions::default()
        };
        let vectors = |role, _: &[String]| {
            let data = if role == Role::Query {
                vec![1.0, 0.0]
            } else {
                vec![1.0, 0.0, 0.6, 0.8]
            };
            Ok(Vectors { data, dim: 2 })
        };
        evaluate(&read, &options, vectors)
            .unwrap()
            .report
            .get("mrr_at_10")
            .unwrap()
    };
    assert_eq!((mrr(false), mrr(true)), (0.5, 1.0));
}

#[test]
fn a_faulty_encoder_is_refused_and_its_own_error_passes_through() {
    let read = BeirFolder::open(good().path(), "test").unwrap();
    let run = |vectors: fn(usize) -> Result<Vectors>| {
        evaluate(&read, &EvaluationOptions::default(), |_, texts| {
            vectors(texts.len())
        })
        .unwrap_err()
    };
    let error = run(|n| {
        Ok(Vectors {
            data: vec![0.0; 3 * (n - 1)],
            dim: 3,
        })
    });
    assert!(
        error.to_string().contains("1 vectors of 3 numbers for 2 texts"),
        "{error}"
    );
    let error = run(|n| {
        Ok(Vectors {
            data: vec![f32::INFINITY; 3 * n],
            dim: 3,
        })
    });
    assert_eq!(error.kind(), ErrorKind::NotFinite);
    let error = run(|_| Err(bge_core::Error::new(ErrorKind::Cancelled, "stopped")));
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let options = EvaluationOptions {
        k_values: vec![0],
        ..EvaluationOptions::default()
    };
    assert!(evaluate(&read, &options, |_, _| Ok(Vectors::default())).is_err());
}

#[test]
fn a_real_gain_is_called_one_and_turned_around_it_is_a_loss() {
    let world = World::new(120);
    let (noisy, clean) = (world.evaluate(1.5, 1), world.evaluate(0.6, 1));
    let gain = world.compare(&noisy, &clean);
    assert_eq!(gain.verdict.outcome, Outcome::Better, "{:?}", gain.verdict);
    let primary = gain.primary().unwrap();
    let interval = primary.estimate.unwrap().change.interval;
    assert!(interval.low > 0.0 && interval.low < primary.change && primary.change < interval.high);
    assert!(gain.similarities_after.positives.mean > gain.similarities_before.positives.mean);
    assert!(gain.similarities_after.overlap < gain.similarities_before.overlap);
    let top = &gain.improved[0];
    let ranks = &top.positives[0];
    assert!(ranks.after.unwrap() < ranks.before.unwrap(), "{top:?}");
    assert_eq!(
        gain.counts.improved + gain.counts.hurt + gain.counts.unchanged,
        120
    );
    let loss = world.compare(&clean, &noisy);
    assert_eq!(loss.verdict.outcome, Outcome::Worse);
    assert_eq!(loss.hurt.len(), 10);
    assert_eq!(loss.hurt[0].id, gain.improved[0].id);
}

#[test]
fn noise_is_not_called_a_gain() {
    let world = World::new(100);
    let first = world.evaluate(1.3, 1);
    let called: Vec<Outcome> = (2..42)
        .map(|seed| world.compare(&first, &world.evaluate(1.3, seed)).verdict.outcome)
        .filter(|outcome| matches!(outcome, Outcome::Better | Outcome::Worse))
        .collect();
    // One in twenty is what the level of the test allows.
    assert!(called.len() <= 3, "{} of 40 calls", called.len());
}

#[test]
fn the_same_model_twice_is_said_to_be_the_same() {
    let world = World::new(30);
    let one = world.evaluate(1.0, 1);
    let comparison = world.compare(&one, &one);
    assert_eq!(comparison.verdict.outcome, Outcome::Same);
    assert!(
        comparison
            .verdict
            .notes
            .iter()
            .any(|note| note.contains("identical")),
        "{:?}",
        comparison.verdict
    );
    assert!(comparison.improved.is_empty() && comparison.hurt.is_empty());
    assert_eq!(comparison.shift.unwrap().identical, 1.0);
}

#[test]
fn ten_queries_prove_nothing_however_good_they_look() {
    let world = World::new(10);
    let comparison = world.compare(&world.evaluate(4.0, 1), &world.evaluate(0.0, 1));
    assert!(comparison.primary().unwrap().change > 0.2);
    assert_eq!(comparison.verdict.outcome, Outcome::NoClearChange);
    assert!(
        comparison.verdict.headline.contains("too few"),
        "{:?}",
        comparison.verdict
    );
}

#[test]
fn a_collapsed_model_is_named() {
    let world = World::new(30);
    let mut flat = world.evaluate(1.0, 1);
    let good = flat.clone();
    for row in flat.document_vectors.data.chunks_mut(world.dim) {
        row[0] += 100.0;
    }
    let comparison = world.compare(&good, &flat);
    assert!(
        comparison
            .verdict
            .notes
            .iter()
            .any(|note| note.contains("collapsed")),
        "{:?}",
        comparison.verdict
    );
}

#[test]
fn different_questions_are_not_compared() {
    let (world, other) = (World::new(30), World::new(31));
    let (one, two) = (world.evaluate(1.0, 1), other.evaluate(1.0, 1));
    let error = compare(&world.folder, &one, &two, &CompareOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn results_survive_json() {
    let world = World::new(40);
    let (before, after) = (world.evaluate(1.5, 1), world.evaluate(0.7, 1));
    let comparison = world.compare(&before, &after);
    let text = serde_json::to_string(&comparison).unwrap();
    assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), comparison);
    let text = serde_json::to_string(&after.report).unwrap();
    assert!(text.contains("\"ndcg_at_10\":"), "{text}");
    assert_eq!(
        serde_json::from_str::<EvaluationReport>(&text).unwrap(),
        after.report
    );
}

#[test]
fn the_comparison_does_not_depend_on_the_number_of_threads() {
    let world = World::new(60);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| world.compare(&world.evaluate(1.5, 1), &world.evaluate(0.7, 1)))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_report_is_one_file_without_scripts_and_shows_hostile_text_as_text() {
    let world = World::new(80);
    let comparison = world.compare(&world.evaluate(1.5, 1), &world.evaluate(0.8, 1));
    let context = ReportContext {
        title: "\"><script>x</script>".to_owned(),
        training: Some(TrainingCurve {
            loss: (1..500)
                .map(|step| (step, if step == 77 { f64::NAN } else { 2.0 / step as f64 }))
                .collect(),
            learning_rate: (1..500).map(|step| (step, 1e-5 * step as f64)).collect(),
            evaluations: vec![(100, 0.5), (200, 0.6), (300, f64::NAN)],
            metric: None,
        }),
        settings: BTreeMap::from([("<b>_x".to_owned(), "a\u{0}b & 'c'".to_owned())]),
        provenance: BTreeMap::new(),
    };
    let page = comparison_html(&comparison, &context);
    for forbidden in [
        "<script", "http://", "https://", "src=", "href=", "url(", "@import", "onload", "NaN", "\u{0}",
    ] {
        assert!(!page.contains(forbidden), "{forbidden} is in the report");
    }
    assert!(page.contains("&lt;script&gt;alert("));
    assert!(page.contains("<h1><bdi>&quot;&gt;&lt;script&gt;x"));
    for wanted in [
        "Better",
        "שלום 🦀",
        "prefers-color-scheme:dark",
        "Content-Security-Policy",
        "role=\"img\"",
    ] {
        assert!(page.contains(wanted), "{wanted} is missing");
    }
    assert_well_formed(&page);
    let single = evaluation_html(&world.folder, &world.evaluate(1.0, 1), &context);
    assert_well_formed(&single);
    assert_eq!(
        page,
        comparison_html(&comparison, &context),
        "the same input gives the same bytes"
    );
}

/// Every element that is opened is closed in order, and every `id` is used once.
fn assert_well_formed(page: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for part in page.split('<').skip(1) {
        let (tag, _) = part
            .split_once('>')
            .unwrap_or_else(|| panic!("an element does not end: {part}"));
        if tag.starts_with('!') {
            continue;
        }
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
        } else if !tag.ends_with('/') && !matches!(name, "meta" | "wbr") {
            open.push(name.to_owned());
        }
        if let Some((_, rest)) = tag.split_once(" id=\"") {
            let id = rest.split('"').next().unwrap();
            assert!(ids.insert(id.to_owned()), "the id {id} is used twice");
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
}

#[test]
fn the_terminal_tables_show_both_sides_and_the_verdict() {
    let world = World::new(60);
    let after = world.evaluate(0.6, 1);
    let comparison = world.compare(&world.evaluate(1.5, 1), &after);
    let table = comparison_table(&comparison);
    let row = table.lines().find(|line| line.starts_with("nDCG@10")).unwrap();
    let change = comparison.primary().unwrap();
    for value in [change.before, change.after] {
        assert!(row.contains(&format!("{value:.4}")), "{table}");
    }
    assert!(row.ends_with('*') && table.contains("Better: nDCG@10"), "{table}");
    let table = evaluation_table(&after.report);
    let ndcg = format!("{:.5}", after.report.get("ndcg_at_10").unwrap());
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("nDCG") && line.contains(&ndcg)),
        "{table}"
    );
    assert!(table.contains("@1000"), "{table}");
}

#[test]
fn a_metric_that_was_not_measured_falls_back_to_its_neighbour() {
    let world = World::new(40);
    let run = |noise| {
        let mut evaluation = world.evaluate(noise, 1);
        evaluation.scores.values.retain(|key, _| key.k == 3);
        evaluation
    };
    let comparison = world.compare(&run(1.5), &run(0.7));
    assert_eq!(
        comparison.options.metric,
        "ndcg_at_3".parse::<MetricKey>().unwrap()
    );
    assert!(comparison.primary().unwrap().estimate.is_some());
}
