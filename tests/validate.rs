//! The validator: every rule, hostile files, chunk borders, leaks, the command.

use std::fs;

use bge_core::config::{DataArguments, TrainingArguments};
use bge_core::data::leaks::EvaluationTexts;
use bge_core::data::preflight::validate_files;
use bge_core::data::session::{FileRole, ValidationOptions, ValidationSession};
use bge_core::data::{Dataset, DatasetReport, EpochPlan, Verdict, codes};
use bge_core::{ErrorKind, Severity};

mod command;
mod hostile;

const GOOD: &str = r#"{"query": "good query", "pos": ["good positive"], "neg": ["good negative"]}"#;

fn plain() -> ValidationOptions {
    ValidationOptions {
        data: DataArguments {
            train_group_size: 2,
            ..DataArguments::default()
        },
        ..ValidationOptions::default()
    }
}

fn same_dataset() -> ValidationOptions {
    let data = DataArguments {
        same_dataset_within_batch: true,
        ..plain().data
    };
    ValidationOptions { data, ..plain() }
}

fn distilled(options: ValidationOptions) -> ValidationOptions {
    let data = DataArguments {
        knowledge_distillation: true,
        ..options.data
    };
    ValidationOptions { data, ..options }
}

fn role(name: &str) -> FileRole {
    FileRole {
        name: name.into(),
        ..FileRole::default()
    }
}

fn validate(options: ValidationOptions, files: &[&[u8]]) -> DatasetReport {
    let mut session = ValidationSession::new(options).unwrap();
    for (index, bytes) in files.iter().enumerate() {
        session.start_file(role(&format!("file{index}.jsonl")));
        session.push(bytes);
    }
    session.finish()
}

fn json(report: &DatasetReport) -> String {
    serde_json::to_string(report).unwrap()
}

/// Rows of other texts than [`GOOD`], each with its line, so that one bad line is found among good ones.
fn among_good(line: &[u8]) -> Vec<u8> {
    let mut bytes = GOOD.as_bytes().to_vec();
    bytes.push(b'\n');
    bytes.extend_from_slice(line);
    bytes.extend_from_slice(
        b"\n{\"query\": \"last\", \"pos\": [\"last positive\"], \"neg\": [\"last negative\"]}\n",
    );
    bytes
}

#[test]
fn in_an_array_on_one_line_a_finding_names_its_element() {
    let good = GOOD.replace("good", "fine");
    let array = format!("[{GOOD}, {good}, {{}}, {GOOD}, {{\"query\": \"q\", \"pos\": [\"p\"]}}]");
    let report = validate(plain(), &[array.as_bytes(), GOOD.as_bytes()]);
    let places = |code: &str| -> Vec<String> {
        let group = report.issues.iter().find(|group| group.code == code);
        let first = &group.unwrap_or_else(|| panic!("{code}: {report}")).first;
        first.iter().map(ToString::to_string).collect()
    };
    assert!(places(codes::QUERY_MISSING)[0].starts_with("file0.jsonl:1: element 3: error"));
    // Rows without negatives are judged at the end.
    let without: Vec<bool> = places(codes::NEG_EMPTY)
        .iter()
        .map(|said| said.contains("element"))
        .collect();
    assert_eq!(without, [true, true]);
    let repeated = places(codes::QUERY_REPEATED);
    assert!(
        repeated[0].starts_with("file0.jsonl:1: element 4: ")
            && repeated[0].contains("the query of element 1;"),
        "{repeated:?}"
    );
    assert!(
        repeated[1].starts_with("file1.jsonl:1: warning")
            && repeated[1].contains("of file0.jsonl, element 1;"),
        "{repeated:?}"
    );
    assert!(
        report.to_string().contains("file0.jsonl:1: element 3: "),
        "{report}"
    );
    assert!(json(&report).contains("\"line\":1,\"element\":3,"));
}

#[test]
fn what_the_validator_passes_the_trainer_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let lines: &[&[u8]] = &[
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"pos_scores\": null, \"prompt\": null, \"type\": null}",
        b"  {\"neg\": [\"n\", \"m\"], \"pos\": [\"p\", \"o\"], \"query\": \"q\\u00e9\\n\", \"id\": {\"a\": [1, {}]}}  \r",
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"pos_scores\": [1], \"neg_scores\": [2]}",
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"pos_scores\": \"bad\"}",
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"batch_size\": 4.0}",
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": []}",
        b"{\"query\": \"q\", \"pos\": \"p\", \"neg\": [\"n\"]}",
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [1]}",
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"category\": 1}",
        b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"]",
        b"\xef\xbf{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"]}",
    ];
    for line in lines {
        let bytes = among_good(line);
        fs::write(&path, &bytes).unwrap();
        let options = plain();
        let data = DataArguments {
            train_data: vec![path.display().to_string()],
            ..options.data.clone()
        };
        let passes = !validate(options, &[&bytes]).has_errors();
        let reads = Dataset::open(&data, &TrainingArguments::default()).and_then(|dataset| {
            let plan = EpochPlan::new(dataset.plan_input(1, 0))?;
            dataset
                .training_batch(&plan.batch(0, 0)?)
                .map(|groups| groups.len())
        });
        assert_eq!(
            passes,
            reads.is_ok(),
            "{}: {reads:?}",
            String::from_utf8_lossy(line)
        );
        if let Err(error) = reads {
            assert_eq!(error.line(), Some(2), "{error}");
        }
    }
}

#[test]
fn distillation_makes_scores_an_error() {
    let whole = r#"{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [0.5]}"#;
    for (line, code) in [
        (
            r#"{"query": "r", "pos": ["p"], "neg": ["n"]}"#,
            codes::SCORES_MISSING,
        ),
        (
            r#"{"query": "r", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}"#,
            codes::SCORES_MISSING,
        ),
        (
            r#"{"query": "r", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [1, 2]}"#,
            codes::SCORES_MISCOUNTED,
        ),
        (
            r#"{"query": "r", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": []}"#,
            codes::SCORES_MISCOUNTED,
        ),
        (
            r#"{"query": "r", "pos": ["p"], "neg": ["n"], "pos_scores": ["1"], "neg_scores": [1]}"#,
            codes::WRONG_TYPE,
        ),
        (
            r#"{"query": "r", "pos": ["p"], "neg": ["n"], "pos_scores": [1e39], "neg_scores": [1]}"#,
            codes::SCORE_NOT_FINITE,
        ),
    ] {
        let report = validate(distilled(plain()), &[format!("{whole}\n{line}").as_bytes()]);
        let group = report
            .issue(code)
            .unwrap_or_else(|| panic!("{line}: {:?}", report.issues));
        assert_eq!(
            (group.severity, group.first[0].line),
            (Severity::Error, Some(2)),
            "{line}"
        );
        let way_out = group.first[0].message.contains("`bge score`");
        assert_eq!(way_out, code == codes::SCORES_MISSING, "{line}");
    }
    assert!(!validate(distilled(plain()), &[whole.as_bytes()]).has_errors());
}

#[test]
fn in_same_dataset_mode_a_whole_file_may_lack_scores_but_not_some_rows() {
    let scored = r#"{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [2]}"#;
    let report = validate(distilled(same_dataset()), &[scored.as_bytes(), GOOD.as_bytes()]);
    assert!(!report.has_errors(), "{report}");
    assert_eq!(
        report.issue(codes::SCORES_MISSING).unwrap().severity,
        Severity::Info
    );
    let distilled_sets: Vec<bool> = report.training.datasets.iter().map(|set| set.distilled).collect();
    assert_eq!(distilled_sets, [true, false]);
    let report = validate(
        distilled(same_dataset()),
        &[format!("{scored}\n{GOOD}").as_bytes()],
    );
    let group = report.issue(codes::SCORES_PARTIAL).unwrap();
    assert_eq!(
        (group.severity, group.total, group.first[0].line),
        (Severity::Error, 1, Some(2))
    );
}

#[test]
fn rows_without_negatives_are_judged_with_all_files_in_view() {
    let pair = |n: usize| format!(r#"{{"query": "q{n}", "pos": ["p{n}"], "neg": []}}"#);
    let pairs = format!("{}\n{}", pair(1), pair(2));
    // Everywhere: in-batch negatives, with a warning.
    let report = validate(plain(), &[pairs.as_bytes()]);
    assert!(!report.has_errors() && report.issue(codes::NEG_EMPTY_EVERYWHERE).is_some());
    assert_eq!(report.training.datasets[0].passages_per_query, 1);
    // A file of them beside others: an error in plain mode, a dataset of its own in same-dataset mode.
    assert!(
        validate(plain(), &[pairs.as_bytes(), GOOD.as_bytes()])
            .issue(codes::NEG_EMPTY)
            .is_some()
    );
    let report = validate(same_dataset(), &[pairs.as_bytes(), GOOD.as_bytes()]);
    assert!(!report.has_errors(), "{report}");
    let sizes: Vec<_> = report
        .training
        .datasets
        .iter()
        .map(|set| set.passages_per_query)
        .collect();
    assert_eq!(sizes, [1, 2]);
    // Mixed within a file: an error in both modes, with the first lines and the number of all.
    let mut mixed = GOOD.to_owned();
    (0..100).for_each(|n| mixed.extend(["\n", &pair(n)]));
    for options in [plain(), same_dataset()] {
        let report = validate(options, &[mixed.as_bytes()]);
        let group = report.issue(codes::NEG_EMPTY).unwrap();
        assert_eq!(
            (group.total, group.first.len(), group.first[0].line),
            (100, 10, Some(2))
        );
        assert!(group.first[0].message.contains("train_group_size 1"));
    }
    // Not needed: no complaint.
    let mut one = plain();
    one.data.train_group_size = 1;
    assert_eq!(validate(one, &[mixed.as_bytes()]).count(Severity::Error), 0);
    // Without in-batch negatives nothing is left to compare with.
    let mut session = ValidationSession::new(same_dataset()).unwrap();
    session.start_file(FileRole {
        no_in_batch_neg: true,
        ..role("x")
    });
    session.push(pairs.as_bytes());
    assert!(
        session
            .finish()
            .issue(codes::NEG_EMPTY)
            .is_some_and(|group| group.severity == Severity::Error)
    );
}

#[test]
fn settings_that_make_batches_impossible_are_errors_of_the_data() {
    let row = |extra: &str| format!(r#"{{"query": "q", "pos": ["p"], "neg": ["n"], {extra}}}"#);
    let mut one = same_dataset();
    one.training.per_device_train_batch_size = 1;
    let symmetric = row(r#""type": "symmetric_sts""#);
    let report = validate(one, &[symmetric.as_bytes()]);
    assert_eq!(
        report.issue(codes::BATCH_HALVED_TO_NOTHING).unwrap().severity,
        Severity::Error
    );
    for (extra, code) in [
        (r#""batch_size": 0"#, codes::BATCH_SIZE),
        (r#""train_group_size": 0"#, codes::GROUP_SIZE),
    ] {
        let report = validate(same_dataset(), &[row(extra).as_bytes()]);
        assert_eq!(report.issue(code).unwrap().severity, Severity::Error);
        assert_eq!(report.count(Severity::Error), 1, "{report}");
    }
    let mixed = format!(
        "{}\n{}",
        row(r#""type": "normal""#),
        row(r#""type": "symmetric_sts""#)
    );
    assert!(
        validate(same_dataset(), &[mixed.as_bytes()])
            .issue(codes::TYPE_MIXED)
            .unwrap()
            .severity
            == Severity::Error
    );
    let sizes = format!("{}\n{}", row(r#""batch_size": 4"#), row(r#""batch_size": 2"#));
    let report = validate(same_dataset(), &[sizes.as_bytes()]);
    assert_eq!(report.issue(codes::SIZES_MIXED).unwrap().first[0].line, Some(2));
    assert_eq!(report.training.datasets[0].queries_per_device, 4);
    let unknown = validate(same_dataset(), &[row(r#""type": "sts""#).as_bytes()]);
    assert_eq!(
        unknown.issue(codes::TYPE_UNKNOWN).unwrap().severity,
        Severity::Info
    );
}

#[test]
fn chunk_borders_anywhere_give_the_same_report() {
    let lines = format!(
        "\u{feff}{GOOD}\r\n\r\n{{\"query\": \"ü€😀\", \"pos\": [\"a\\\"b\"], \"neg\": []}}\n{{bad\n[1]\n{GOOD}"
    );
    let array =
        format!("\n[{GOOD},\n {{\"query\": \"]\", \"pos\": [\"ü,\\\\\"],\n \"neg\": [\"n\"]}},,\n x]  z");
    for text in [lines.as_bytes(), array.as_bytes()] {
        let whole = json(&validate(plain(), &[text]));
        for first in 0..=text.len() {
            let second = first + (text.len() - first) / 3;
            let mut session = ValidationSession::new(plain()).unwrap();
            session.start_file(role("file0.jsonl"));
            session.push(&text[..first]);
            session.push(&text[first..second]);
            session.push(&text[second..]);
            assert_eq!(json(&session.finish()), whole, "{first} {second}");
        }
        let mut session = ValidationSession::new(plain()).unwrap();
        session.start_file(role("file0.jsonl"));
        text.chunks(1).for_each(|byte| session.push(byte));
        assert_eq!(json(&session.finish()), whole);
    }
}

#[test]
fn arrays_report_the_line_of_the_element_and_their_own_damage() {
    let report = validate(
        plain(),
        &[b"[\n{\"query\": \"q\",\n \"pos\": [],\n \"neg\": [\"n\"]},\n\n{\"query\":\n oops}\n]"],
    );
    assert_eq!(report.issue(codes::POS_MISSING).unwrap().first[0].line, Some(2));
    assert_eq!(report.issue(codes::BROKEN_JSON).unwrap().first[0].line, Some(7));
    assert!(report.files[0].array);
    for damaged in [&b"["[..], b"[{}", b"[{},]", b"[,{}]", b"[{}] {}", b"[\"", b"[[[["] {
        assert!(
            validate(plain(), &[damaged]).issue(codes::BROKEN_ARRAY).is_some(),
            "{damaged:?}"
        );
    }
}

#[test]
fn marks_of_other_systems_are_noted_once_per_file() {
    let text = format!("\u{feff}{GOOD}\r\n\r\n");
    let report = validate(plain(), &[text.as_bytes()]);
    assert_eq!(report.issue(codes::BYTE_ORDER_MARK).unwrap().total, 1);
    assert_eq!(report.issue(codes::CRLF).unwrap().total, 1);
    assert_eq!(
        (
            report.files[0].crlf_lines,
            report.files[0].blank_lines,
            report.rows
        ),
        (2, 1, 1)
    );
    let empty = validate(plain(), &[b"", b"\n \n"]);
    assert_eq!(empty.issue(codes::FILE_EMPTY).unwrap().total, 2);
}

#[test]
fn over_long_lines_are_not_kept() {
    let mut options = plain();
    options.max_line_bytes = 200;
    let long = format!(
        "{GOOD}\n{{\"query\": \"{}\"}}\n{}\n",
        "x".repeat(1000),
        GOOD.replace("good", "fine")
    );
    let report = validate(options, &[long.as_bytes()]);
    let group = report.issue(codes::LINE_TOO_LONG).unwrap();
    assert_eq!((group.first[0].line, group.severity), (Some(2), Severity::Error));
    assert_eq!((report.rows, report.files[0].broken_rows), (2, 1));
}

#[test]
fn duplicates_are_found_across_files_up_to_the_bound() {
    let other = GOOD.replace("good positive", "other positive");
    let report = validate(plain(), &[GOOD.as_bytes(), other.as_bytes()]);
    let group = report.issue(codes::QUERY_REPEATED).unwrap();
    assert_eq!(group.first[0].path.as_deref(), Some("file1.jsonl"));
    assert!(group.first[0].message.contains("file0.jsonl:1"), "{group:?}");
    assert_eq!((report.distinct_queries, report.distinct_passages), (1, 3));
    let mut bounded = plain();
    bounded.max_fingerprints = 1;
    let report = validate(bounded, &[GOOD.as_bytes(), other.as_bytes()]);
    assert!(report.duplicates_bounded && report.issue(codes::DUPLICATES_BOUNDED).is_some());
}

#[test]
fn shared_positives_are_weighed_by_the_batch() {
    let rows = |shared: usize| -> String {
        (0..100)
            .map(|n| {
                format!(
                    "{{\"query\": \"q{n}\", \"pos\": [\"p{}\"], \"neg\": [\"n\"]}}\n",
                    n % shared
                )
            })
            .collect::<Vec<_>>()
            .concat()
    };
    let classes = validate(plain(), &[rows(10).as_bytes()]);
    // Of 99 others 9 share the positive; 7 others are in the batch.
    let expected = 1.0 - (1.0 - 9.0 / 99.0_f64).powi(7);
    assert!(
        (classes.shared_positive_share - expected).abs() < 1e-9,
        "{}",
        classes.shared_positive_share
    );
    assert_eq!(
        classes.issue(codes::POS_SHARED).unwrap().severity,
        Severity::Warning
    );
    let distinct = validate(plain(), &[rows(100).as_bytes()]);
    assert_eq!(distinct.shared_positive_share, 0.0);
    let mut session = ValidationSession::new(same_dataset()).unwrap();
    session.start_file(FileRole {
        no_in_batch_neg: true,
        ..role("x")
    });
    session.push(rows(10).as_bytes());
    assert_eq!(session.finish().shared_positive_share, 0.0);
}

#[test]
fn texts_of_the_evaluation_data_are_found() {
    let mut texts = EvaluationTexts::default();
    texts.add_query("  Good\tQUERY ");
    texts.add_passage("good positive");
    let mut session = ValidationSession::new(plain()).unwrap().with_evaluation(texts);
    session.push(format!("{GOOD}\n{}", GOOD.replace("good", "fine")).as_bytes());
    let report = session.finish();
    let leak = report.evaluation.clone().unwrap();
    assert_eq!(
        (leak.queries, leak.leaked_queries, leak.leaked_positives),
        (1, 1, 1)
    );
    let group = report.issue(codes::LEAK_QUERY).unwrap();
    assert_eq!(
        (group.first[0].line, group.severity),
        (Some(1), Severity::Warning)
    );
}

#[test]
fn tokens_are_counted_with_instruction_and_the_cut_share_is_told() {
    let mut options = plain();
    options.data.query_instruction_for_retrieval = Some("one two ".into());
    options.data.query_max_len = 4;
    options.data.passage_max_len = 2;
    let count = |text: &str| text.split_whitespace().count();
    let lines =
        format!("{GOOD}\n{{\"query\": \"a b c\", \"pos\": [\"x y z\"], \"neg\": [\"n\"], \"prompt\": \"\"}}");
    let mut session = ValidationSession::new(options)
        .unwrap()
        .with_token_counter(&count);
    session.push(lines.as_bytes());
    let report = session.finish();
    assert_eq!(report.queries.tokens.as_ref().unwrap().most(), 4);
    assert_eq!(report.queries.cut_share, Some(0.0));
    assert_eq!(report.positives.cut_share, Some(0.5));
    assert_eq!(report.negatives.cut_share, Some(0.0));
    assert_eq!(
        report.issue(codes::PROMPT_PARTIAL).unwrap().severity,
        Severity::Warning
    );
}

#[test]
fn tokens_of_large_data_are_sampled_without_bias() {
    let rows: String = (0..4000)
        .map(|n| {
            format!(
                "{{\"query\": \"{}\", \"pos\": [\"p{n}\"], \"neg\": [\"n\"]}}\n",
                "w ".repeat(1 + n % 7)
            )
        })
        .collect::<Vec<_>>()
        .concat();
    let calls = std::cell::Cell::new(0_u64);
    let count = |text: &str| {
        calls.set(calls.get() + 1);
        text.split_whitespace().count()
    };
    let mut options = plain();
    options.token_rows = 100;
    options.data.query_max_len = 3;
    let mut session = ValidationSession::new(options)
        .unwrap()
        .with_token_counter(&count);
    session.push(rows.as_bytes());
    let report = session.finish();
    assert!(calls.get() < 2000, "{}", calls.get());
    let tokens = report.queries.tokens.unwrap();
    assert!((3800..=4200).contains(&tokens.total()), "{}", tokens.total());
    assert!((report.queries.cut_share.unwrap() - 4.0 / 7.0).abs() < 0.03);
}

#[test]
fn merged_reports_equal_one_report_on_all_files() {
    let other = GOOD.replace("good", "fine");
    let broken = format!("{other}\n{{oops");
    let mut merged = validate(plain(), &[GOOD.as_bytes()]);
    let mut session = ValidationSession::new(plain()).unwrap();
    session.start_file(role("file1.jsonl"));
    session.push(broken.as_bytes());
    merged.merge(&session.finish());
    assert_eq!(
        json(&merged),
        json(&validate(plain(), &[GOOD.as_bytes(), broken.as_bytes()]))
    );
    assert_eq!(merged.verdict, Verdict::Errors);
}

#[test]
fn the_outlook_counts_the_steps_that_the_plan_has() {
    let rows = |name: &str, count: usize| -> String {
        (0..count)
            .map(|n| format!("{{\"query\": \"{name} {n}\", \"pos\": [\"{name} p{n}\"], \"neg\": [\"n\"]}}\n"))
            .collect::<Vec<_>>()
            .concat()
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, count) in [("a", 45), ("b", 5), ("c", 130), ("d", 9)] {
        fs::write(folder.path().join(format!("{name}.jsonl")), rows(name, count)).unwrap();
    }
    for same_dataset_within_batch in [false, true] {
        for (small_threshold, world_size) in [(0, 1), (10, 1), (0, 3)] {
            let mut options = plain();
            options.world_size = world_size;
            options.data.train_data = vec![folder.path().display().to_string()];
            options.data.same_dataset_within_batch = same_dataset_within_batch;
            options.data.small_threshold = small_threshold;
            options.training.gradient_accumulation_steps = 2;
            let (data, training) = (options.data.clone(), options.training.clone());
            let report = validate_files(options, None, |_| true).unwrap();
            let dataset = Dataset::open(&data, &training).unwrap();
            let plan = EpochPlan::new(dataset.plan_input(world_size, 0)).unwrap();
            assert_eq!(report.training.batches_per_epoch, plan.steps() as u64);
            assert_eq!(report.training.steps_per_epoch, (plan.steps() as u64).div_ceil(2));
            assert_eq!(report.training.datasets.len(), dataset.layout().datasets.len());
        }
    }
}

#[test]
fn a_stopped_validation_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    fs::write(&path, GOOD).unwrap();
    let mut options = plain();
    options.data.train_data = vec![path.display().to_string()];
    let error = validate_files(options, None, |_| false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
