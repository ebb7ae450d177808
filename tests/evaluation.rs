//! Evaluation on folders: metrics against `pytrec_eval`, comparison, verdicts and reports.

use std::collections::BTreeMap;

use crate::beir::{folder, good};
use bge_core::error::{ErrorKind, Result};
use bge_core::evaluation::{
    BeirFolder, CompareOptions, Comparison, Evaluation, EvaluationOptions, EvaluationReport, MetricKey,
    Outcome, ReportContext, Role, TrainingCurve, compare, comparison_html, comparison_table, evaluate,
    evaluation_html, evaluation_table, score_run,
};
use bge_core::inference::Vectors;
use bge_core::random::Draws;

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
