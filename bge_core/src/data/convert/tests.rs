//! What each kind of file becomes, wherever it is cut.

use serde_json::{Value, json};

use super::{ColumnNames, ConvertOptions, ConvertReport, Converted, Converter, Role};
use crate::data::{ValidationOptions, ValidationSession, Verdict};

fn convert_by(
    files: &[(&str, &[u8])],
    options: &ConvertOptions,
    chunk: usize,
) -> (Vec<Value>, Vec<Value>, ConvertReport) {
    let (mut converter, mut out) = (Converter::new(options.clone()), Converted::default());
    for (name, bytes) in files {
        converter
            .start_file(name, Role::of(name).unwrap(), &mut out)
            .unwrap();
        bytes
            .chunks(chunk)
            .for_each(|piece| converter.push(piece, &mut out));
    }
    let report = converter.finish(&mut out);
    let lines = |bytes: &[u8]| -> Vec<Value> {
        let text = std::str::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    (lines(&out.rows), lines(&out.quarantine), report)
}

fn convert(name: &str, text: &str, group: bool) -> (Vec<Value>, Vec<Value>, ConvertReport) {
    let options = ConvertOptions {
        group,
        ..ConvertOptions::default()
    };
    convert_by(&[(name, text.as_bytes())], &options, 1 << 20)
}

fn total(report: &ConvertReport, code: &str) -> u64 {
    let found = report.issues.iter().find(|group| group.code == code);
    found.map_or(0, |group| group.total)
}

fn message(report: &ConvertReport, code: &str) -> String {
    let found = report.issues.iter().find(|group| group.code == code);
    found.unwrap_or_else(|| panic!("{report:#?}")).first[0].to_string()
}

const QRELS: &str = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq1\td3\t2\nq9\td1\t1\nq2\td8\t1\nq2\td2\t1\nq3\td2\t0\nbad\n";
const QUERIES: &str = "{\"_id\":\"q3\",\"text\":\"only wrong\"}\n{\"_id\":\"q2\",\"text\":\"two\"}\nnonsense\n{\"_id\":\"q1\",\"text\":\"one\"}\n{\"_id\":\"q7\",\"text\":\"not judged\"}\n";
const CORPUS: &str = "{\"_id\":\"d1\",\"title\":\"T\",\"text\":\"first\"}\n{\"_id\":\"d2\",\"title\":\"\",\"text\":\"second\"}\n{\"_id\":\"d3\",\"text\":\"third\"}\n{\"_id\":\"d3\",\"text\":\"another third\"}\n{\"_id\":\"d4\",\"text\":\"not judged\"}\n";

fn beir() -> [(&'static str, &'static [u8]); 3] {
    [
        ("b/qrels/train.tsv", QRELS.as_bytes()),
        ("b/queries.jsonl", QUERIES.as_bytes()),
        ("b/corpus.jsonl", CORPUS.as_bytes()),
    ]
}

#[test]
fn a_beir_folder_becomes_one_row_for_each_query_and_what_is_missing_is_counted() {
    let (rows, aside, report) = convert_by(&beir(), &ConvertOptions::default(), 1 << 20);
    assert_eq!(
        rows,
        [
            json!({"query": "two", "pos": ["second"], "neg": []}),
            json!({"query": "one", "pos": ["T first", "third"], "neg": ["second"]}),
        ]
    );
    assert_eq!((report.written, report.positives, report.negatives), (2, 3, 1));
    assert_eq!(total(&report, "convert.unknown_query"), 1);
    assert_eq!(total(&report, "convert.unknown_document"), 1);
    assert_eq!(total(&report, "convert.no_positive"), 1);
    assert_eq!(total(&report, "convert.repeated_id"), 1);
    assert_eq!(total(&report, "convert.row"), 2);
    assert!(message(&report, "convert.unknown_document").starts_with("b/qrels/train.tsv:6: "));
    let places: Vec<_> = aside
        .iter()
        .map(|row| (row["file"].clone(), row["line"].clone()))
        .collect();
    let expected = [
        ("b/qrels/train.tsv", 9),
        ("b/queries.jsonl", 3),
        ("b/qrels/train.tsv", 5),
        ("b/qrels/train.tsv", 6),
        ("b/qrels/train.tsv", 8),
    ];
    assert_eq!(places, expected.map(|(file, line)| (json!(file), json!(line))));
    assert_eq!(aside[3]["text"], "q2\td8\t1");
    assert!(!report.has_errors());
}

#[test]
fn a_judged_document_without_a_text_is_set_aside_and_a_header_may_be_quoted() {
    let qrels = "\"query-id\"\t\"corpus-id\"\t\"score\"\nq1\td1\t1\nq1\td4\t1\nq2\td4\t1\n";
    let corpus = [CORPUS, "{\"_id\":\"d4\",\"title\":\"\",\"text\":\" \"}\n"].concat();
    let corpus = corpus.replace("{\"_id\":\"d4\",\"text\":\"not judged\"}\n", "");
    let [_, queries, _] = beir();
    let files = [
        ("b/qrels/train.tsv", qrels.as_bytes()),
        queries,
        ("b/corpus.jsonl", corpus.as_bytes()),
    ];
    let (rows, aside, report) = convert_by(&files, &ConvertOptions::default(), 1 << 20);
    assert_eq!(rows, [json!({"query": "one", "pos": ["T first"], "neg": []})]);
    let said: Vec<_> = aside.iter().map(|row| (&row["line"], &row["reason"])).collect();
    let reason = json!("the document `d4` has no text");
    assert_eq!(said[1..], [(&json!(3), &reason), (&json!(4), &reason)]);
    assert_eq!((report.rows, report.written, report.merged), (4, 1, 0));
}

#[test]
fn what_a_beir_folder_becomes_is_ready_to_train_on() {
    let lines = |what: &str, many: usize| -> String {
        let line = |at: usize| format!("{{\"_id\":\"{what}{at}\",\"text\":\"the {what} number {at}\"}}\n");
        (0..many).map(line).collect()
    };
    let (queries, corpus) = (lines("q", 40), lines("d", 80));
    let judge = |at: usize| format!("q{at}\td{}\t1\nq{at}\td{}\t0\n", at, at + 40);
    let qrels: String = (0..40).map(judge).collect();
    let (mut converter, mut out) = (Converter::new(ConvertOptions::default()), Converted::default());
    for (role, text) in [
        (Role::Judgments, &qrels),
        (Role::Queries, &queries),
        (Role::Corpus, &corpus),
    ] {
        converter.start_file("f", role, &mut out).unwrap();
        converter.push(text.as_bytes(), &mut out);
    }
    let report = converter.finish(&mut out);
    assert_eq!((report.written, report.quarantined, report.rows), (40, 0, 80));
    let mut options = ValidationOptions::default();
    options.data.train_group_size = 2;
    let mut session = ValidationSession::new(options).unwrap();
    session.push(&out.rows);
    let report = session.finish();
    assert_eq!((report.rows, report.verdict), (40, Verdict::Ready), "{report}");
}

#[test]
fn a_beir_folder_without_one_of_its_files_or_in_a_wrong_order_says_so() {
    let (rows, _, report) = convert_by(&beir()[..2], &ConvertOptions::default(), 9);
    assert!(rows.is_empty() && report.has_errors());
    assert!(message(&report, "convert.file_missing").contains("corpus.jsonl"));
    let (mut converter, mut out) = (Converter::new(ConvertOptions::default()), Converted::default());
    converter
        .start_file("corpus.jsonl", Role::Corpus, &mut out)
        .unwrap();
    let error = converter
        .start_file("queries.jsonl", Role::Queries, &mut out)
        .unwrap_err();
    assert!(error.to_string().contains("judgments come first"), "{error}");
}

const TABLE: &str = "\u{feff}Question,Answer,negative_1,negative_2,Score,id\r\n\
    \"a \"\"quoted\"\" one\",\"two\r\nlines\",n1,n2,,7\r\n\
    \r\n\
    plain,\"with, comma\",,,0.5,8\r\n\
    short,row\r\n\
    ,no query,n,,,9\r\n\
    no positive,,n,,,9\r\n\
    bad score,p,,,high,9\r\n\
    margin,p,n,,3.5,9\r\n\
    last,p,n,,,10";

#[test]
fn a_table_is_read_by_its_header_with_quotes_and_line_breaks() {
    let (rows, aside, report) = convert("faq.csv", TABLE, false);
    assert_eq!(
        rows,
        [
            json!({"query": "a \"quoted\" one", "pos": ["two\r\nlines"], "neg": ["n1", "n2"]}),
            json!({"query": "plain", "pos": ["with, comma"], "neg": [], "pos_scores": [0.5], "neg_scores": []}),
            json!({"query": "margin", "pos": ["p"], "neg": ["n"]}),
            json!({"query": "last", "pos": ["p"], "neg": ["n"]}),
        ]
    );
    let places: Vec<u64> = aside.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [6, 7, 8, 9]);
    assert_eq!(aside[0]["text"], "short,row");
    assert!(
        aside[0]["reason"]
            .as_str()
            .unwrap()
            .contains("2 cells, the header has 6")
    );
    assert_eq!(aside[3]["reason"], "`Score` must be a number, found \"high\"");
    assert_eq!((report.rows, report.written, report.quarantined), (8, 4, 4));
    assert!(message(&report, "convert.score_unused").starts_with("faq.csv:10: "));
    assert!(message(&report, "convert.column_unused").contains("`id`"));
}

#[test]
fn quotes_that_may_be_characters_are_doubted_with_their_line() {
    let tabs =
        "query\tpos\nq0\tp0\nq1\t\"opened only\nq2\tp2\nq3\tend\" tail\n\"a \"\"b\"\"\"\tc\nq\t5\" disk\n";
    let (rows, _, report) = convert("f.tsv", tabs, false);
    assert_eq!((rows.len(), total(&report, "convert.quotes")), (4, 1));
    let first = message(&report, "convert.quotes");
    assert!(
        first.starts_with("f.tsv:3: ") && first.contains("`quotes` off"),
        "{first}"
    );
    let commas = "query,pos\n\"q\"x,p\n\"two\nlines\",\"p\"\r\n";
    let (_, _, report) = convert("f.csv", commas, false);
    assert_eq!(total(&report, "convert.quotes"), 1);
    assert!(message(&report, "convert.quotes").contains("text follows a closing quote"));
    let options = ConvertOptions {
        quotes: false,
        ..ConvertOptions::default()
    };
    let (_, _, report) = convert_by(&[("f.tsv", tabs.as_bytes())], &options, 5);
    assert_eq!(total(&report, "convert.quotes"), 0);
}

#[test]
fn a_cell_with_a_json_list_gives_its_elements_and_one_that_python_printed_is_doubted() {
    let table = "query;pos;neg;pos_scores;neg_scores\na;\"[\"\"p1\"\", \"\"p2\"\"]\";[];[2, 1];[]\nb;['p1', 'p2'];[1] says so;0.5;1\n";
    let (rows, _, report) = convert("f.csv", table, false);
    assert_eq!(
        rows,
        [
            json!({"query": "a", "pos": ["p1", "p2"], "neg": [], "pos_scores": [2, 1], "neg_scores": []}),
            json!({"query": "b", "pos": ["['p1', 'p2']"], "neg": ["[1] says so"], "pos_scores": [0.5], "neg_scores": [1]}),
        ]
    );
    assert_eq!(total(&report, "convert.list"), 1);
    assert!(message(&report, "convert.list").starts_with("f.csv:3: "));
}

#[test]
fn tabs_semicolons_and_names_of_ones_own() {
    for (delimiter, name) in [('\t', "f.tsv"), (';', "f.csv"), ('|', "f.csv")] {
        let text =
            "query,pos,neg_1,pos_score,neg_score_1\na,b,c,2,-0.25\n".replace(',', &delimiter.to_string());
        let expected =
            json!({"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [2], "neg_scores": [-0.25]});
        assert_eq!(convert(name, &text, false).0, [expected], "{delimiter:?}");
    }
    let options = ConvertOptions {
        columns: ColumnNames {
            query: Some("Frage".into()),
            positives: vec!["Antwort".into(), "Auch".into()],
            negatives: vec!["Falsch".into()],
            score: None,
        },
        quotes: false,
        ..ConvertOptions::default()
    };
    let text = "Frage\tAntwort\tquery\tFalsch\tAuch\n\"Was\" ist\t\"das\t?\tn\tp2\n";
    let (rows, _, report) = convert_by(&[("f.tab", text.as_bytes())], &options, 3);
    assert_eq!(
        rows,
        [json!({"query": "\"Was\" ist", "pos": ["\"das", "p2"], "neg": ["n"]})]
    );
    assert!(message(&report, "convert.column_unused").contains("`query`"));
}

#[test]
fn a_table_whose_header_names_no_rows_is_an_error_with_the_way_out() {
    for (text, says) in [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "no column of query and of positives among `a`, `b`"),
        ("query,title\nx,y\n", "no column of positives"),
        (
            "query,anchor,pos\nx,y,z\n",
            "`query` and `anchor` both mean the query",
        ),
        (
            "query,pos,score,label\nx,y,1,1\n",
            "`score` and `label` both mean the score",
        ),
    ] {
        let (rows, aside, report) = convert("f.csv", text, false);
        assert!(
            rows.is_empty() && aside.is_empty() && report.has_errors(),
            "{text:?}"
        );
        let message = message(&report, "convert.columns");
        assert!(
            message.contains(says) && message.starts_with("f.csv:"),
            "{message}"
        );
    }
}

#[test]
fn pairs_triplets_and_tuples_of_sentence_transformers() {
    let lines = [
        r#"{"anchor": "a", "positive": "p", "negative": "n"}"#,
        r#"{"query": "b", "positive": "p", "negative_1": "n1", "negative_2": "n2", "label": [3, 1, 0.5]}"#,
        r#"{"sentence1": "c", "sentence2": "p", "score": 0.75}"#,
        r#"["d", "p", "n1", "n2"]"#,
        r#"["e", "p", 0.25]"#,
        r#"{"texts": ["f", "p"], "label": 1}"#,
        r#"{"set": ["g", "p1", "p2"]}"#,
        r#"{"query": "h", "pos": ["p", "p"], "neg": ["p", "n"], "prompt": "say: ", "id": 3}"#,
        r#"{"anchor": "i", "positive": "p", "label": 0}"#,
        r#"{"query": "j", "query": "k", "positive": "p"}"#,
        r#"{"query": 3, "positive": "p"}"#,
        r#"{"text": "p"}"#,
        r#"["alone"]"#,
        r#"{"query": "l", "#,
    ];
    let expected = [
        json!({"query": "a", "pos": ["p"], "neg": ["n"]}),
        json!({"query": "b", "pos": ["p"], "neg": ["n1", "n2"], "pos_scores": [3], "neg_scores": [1, 0.5]}),
        json!({"query": "c", "pos": ["p"], "neg": [], "pos_scores": [0.75], "neg_scores": []}),
        json!({"query": "d", "pos": ["p"], "neg": ["n1", "n2"]}),
        json!({"query": "e", "pos": ["p"], "neg": [], "pos_scores": [0.25], "neg_scores": []}),
        json!({"query": "f", "pos": ["p"], "neg": []}),
        json!({"query": "g", "pos": ["p1", "p2"], "neg": []}),
        json!({"query": "h", "pos": ["p"], "neg": ["n"], "prompt": "say: "}),
    ];
    let (rows, aside, report) = convert("f.jsonl", &lines.join("\n"), false);
    // A label of 1 says of a pair what every row says, and is no score.
    assert_eq!(rows, expected);
    let places: Vec<u64> = aside.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [9, 10, 11, 12, 13, 14]);
    assert_eq!((report.rows, report.quarantined), (14, 6));
    let array = format!("[{}]", lines[..9].join(",\n"));
    assert_eq!(convert("f.json", &array, false).0, rows, "as one array");
    // A list first: the file is lines of lists, unless a bracket opens a list of rows.
    let lists = "[\"a\", \"p\"]\n[\"b\", \"q\", \"n\"]\n";
    let two = [
        json!({"query": "a", "pos": ["p"], "neg": []}),
        json!({"query": "b", "pos": ["q"], "neg": ["n"]}),
    ];
    assert_eq!(convert("f.jsonl", lists, false).0, two);
    assert_eq!(
        convert("f.json", "[[\"a\", \"p\"],\n[\"b\", \"q\", \"n\"]]", false).0,
        two
    );
    assert_eq!(
        convert("f.json", "[\n[\"a\", \"p\"], [\"b\", \"q\", \"n\"]]", false).0,
        two
    );
}

#[test]
fn a_label_that_is_a_class_is_set_aside_and_one_between_0_and_1_is_a_score() {
    let table = "sentence1,sentence2,label\na,b,0\nc,d,1.0\ne,f,2\ng,h,-1\ni,j,0.25\n";
    let (rows, aside, report) = convert("nli.csv", table, false);
    assert_eq!(
        rows,
        [
            json!({"query": "c", "pos": ["d"], "neg": []}),
            json!({"query": "i", "pos": ["j"], "neg": [], "pos_scores": [0.25], "neg_scores": []}),
        ]
    );
    let places: Vec<u64> = aside.iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [2, 4, 5]);
    let reason = aside[1]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the label 2 ") && reason.contains("entailment to 1"),
        "{reason}"
    );
    assert_eq!(report.quarantined, 3);
}

#[test]
fn pairs_with_scores_are_said_to_be_positives_once_for_each_file() {
    let (first, second) = (
        "sentence1,sentence2,score\na,b,5\nc,d,0.0\n",
        "[\"e\", \"f\", 0.5]\n",
    );
    let files = [("a.csv", first.as_bytes()), ("b.jsonl", second.as_bytes())];
    let (rows, _, report) = convert_by(&files, &ConvertOptions::default(), 7);
    assert_eq!((rows.len(), total(&report, "convert.pair_scores")), (3, 2));
    let message = message(&report, "convert.pair_scores");
    assert!(
        message.starts_with("a.csv:2: ") && message.contains("2 pairs with scores from 0 to 5"),
        "{message}"
    );
    let whole = r#"{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [0]}"#;
    assert_eq!(
        total(&convert("c.jsonl", whole, false).2, "convert.pair_scores"),
        0
    );
}

#[test]
fn columns_of_training_rows_are_kept_under_their_own_names_where_they_are_texts() {
    let lines = [
        r#"{"anchor": "a", "positive": "p", "category": 3}"#,
        r#"{"anchor": "b", "positive": "p", "Prompt": "say", "query_prompt": "ask", "passage_prompt": "read"}"#,
        r#"{"anchor": "c", "positive": "p", "type": "x", "Type": "y"}"#,
    ];
    let (rows, aside, report) = convert("f.jsonl", &lines.join("\n"), false);
    let prompts = json!({"query": "b", "pos": ["p"], "neg": [], "prompt": "say", "query_prompt": "ask", "passage_prompt": "read"});
    assert_eq!(rows, [json!({"query": "a", "pos": ["p"], "neg": []}), prompts]);
    assert!(message(&report, "convert.column_unused").contains("the column is not used, as it holds"));
    assert_eq!(
        aside[0]["reason"],
        "two columns are the row's `type`; rename or remove one of them"
    );
    let (rows, _, report) = convert("f.csv", "anchor,positive,Query Prompt\na,p,ask\n", false);
    assert_eq!(rows[0]["query_prompt"], "ask");
    assert_eq!(total(&report, "convert.column_unused"), 0);
}

#[test]
fn a_row_whose_positives_are_an_empty_list_has_a_place_for_them() {
    let text = "{\"query\": \"q\", \"pos\": [], \"neg\": [\"n\"]}\n{\"query\": \"q\", \"pos\": [\"p\"]}\n{\"query\": \"r\", \"pos\": []}\n";
    let (rows, aside, _) = convert("f.jsonl", text, false);
    assert_eq!((rows.len(), aside.len()), (1, 2));
    let reason = aside[0]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("it has no positive: its text or list is empty"),
        "{reason}"
    );
    assert_eq!(aside[1]["reason"], "it has no positive with text");
    let joined = [json!({"query": "q", "pos": ["p"], "neg": ["n"]})];
    assert_eq!(convert("f.jsonl", text, true).0, joined);
}

#[test]
fn rows_of_a_query_are_joined_where_that_is_wanted() {
    let text = "anchor,positive,negative,label\na,p1,n1,\nb,p,,\na,p2,p1,\na,p3,,0\nc,p,,0\n";
    let (rows, aside, report) = convert("f.csv", text, true);
    assert_eq!(
        rows,
        [
            json!({"query": "a", "pos": ["p1", "p2"], "neg": ["n1", "p3"]}),
            json!({"query": "b", "pos": ["p"], "neg": []}),
        ]
    );
    assert_eq!(
        (report.rows, report.merged, report.written, report.quarantined),
        (5, 2, 2, 1)
    );
    assert_eq!(
        (&aside[0]["line"], &aside[0]["file"]),
        (&json!(6), &json!("f.csv"))
    );
    assert_eq!(total(&report, "convert.no_positive"), 1);
    // Scores of some rows only are no scores of the joined one.
    let partly = "query,pos,score\na,p1,0.5\na,p2,\n";
    let (rows, _, report) = convert("f.csv", partly, true);
    assert_eq!(rows, [json!({"query": "a", "pos": ["p1", "p2"], "neg": []})]);
    assert_eq!(report.scores_unused, 1);
}

#[test]
fn joining_stays_within_its_memory_and_says_when_it_had_to_let_go() {
    let text = (0..2000).fold(String::new(), |text, at| {
        text + &format!("[\"q{}\", \"p{at}\"]\n", at % 1000)
    });
    let whole = convert("f.jsonl", &text, true);
    assert_eq!((whole.2.written, whole.2.groups_bounded), (1000, false));
    let options = ConvertOptions {
        group: true,
        max_group_bytes: 100_000,
        ..ConvertOptions::default()
    };
    let (rows, _, report) = convert_by(&[("f.jsonl", text.as_bytes())], &options, 100);
    assert!(report.groups_bounded && report.written > 1000, "{report:?}");
    let positives: usize = rows.iter().map(|row| row["pos"].as_array().unwrap().len()).sum();
    assert_eq!(positives, 2000, "nothing is lost");
    assert!(message(&report, "convert.groups_bounded").contains("sort the data by query"));
}

/// Pseudorandom numbers from 0 to `below`.
fn draws(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = crate::random::mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        (state % below as u64) as usize
    }
}

#[test]
fn chunk_borders_do_not_matter() {
    let objects =
        "[{\"anchor\":\"ä\",\"positive\":\"魚\",\"negative\":\"n\"},\r\n{\"query\": \"x\"}, [\"a\", \"b\"]";
    let lists = "\u{feff}  [ \"a\", \"p\"]\r\n\n[\"b\", \"q\", 2]\nnonsense";
    let mut cases: Vec<Vec<(&str, &[u8])>> = vec![beir().to_vec()];
    for (name, text) in [
        ("f.csv", TABLE),
        (
            "f.csv",
            "query,\"pos\nitive\",pos\n\n\n\"a\n\n\",x,b\n\"open,c\nd,e,f",
        ),
        ("f.json", objects),
        ("f.jsonl", lists),
        ("f.csv", ""),
    ] {
        cases.push(vec![(name, text.as_bytes())]);
    }
    for group in [false, true] {
        let options = ConvertOptions {
            group,
            ..ConvertOptions::default()
        };
        for files in &cases {
            let whole = convert_by(files, &options, usize::MAX);
            for chunk in [1, 2, 3, 5, 7, 16, 61] {
                assert_eq!(convert_by(files, &options, chunk), whole, "by {chunk}");
            }
        }
    }
}

#[test]
fn any_bytes_are_counted_and_never_a_panic() {
    let pieces: &[&[u8]] = &[
        b"query,pos\n",
        b"\"",
        b",",
        b"\n",
        b"\r",
        b"[",
        b"]",
        b"{",
        b"}",
        b":",
        b"\t",
        b"query",
        b"\"a\"",
        b"\xff",
        b"\xef\xbb",
        b"\"anchor\":\"x\"",
        b"\"positive\":[\"y\"]",
        b"0",
        b"1e999",
        b"null",
        "é".as_bytes(),
        b"q1\td1\t1\n",
        b"{\"_id\":\"q1\",\"text\":\"t\"}\n",
    ];
    let names = ["f.csv", "f.jsonl", "qrels/t.tsv", "queries.jsonl", "corpus.jsonl"];
    for seed in 0..4000 {
        let mut draw = draws(seed);
        let bytes: Vec<u8> = (0..draw(30))
            .flat_map(|_| pieces[draw(pieces.len())])
            .copied()
            .collect();
        let options = ConvertOptions {
            group: draw(2) == 0,
            max_group_bytes: 1000,
            quotes: draw(4) > 0,
            max_line_bytes: [16, 1 << 20][draw(2)],
            ..ConvertOptions::default()
        };
        let files: Vec<(&str, &[u8])> = if draw(2) == 0 {
            vec![(names[draw(2)], &bytes)]
        } else {
            names[2..].iter().map(|name| (*name, &bytes[..])).collect()
        };
        let whole = convert_by(&files, &options, usize::MAX);
        assert_eq!(
            convert_by(&files, &options, 1 + draw(9)),
            whole,
            "seed {seed}: {:?}",
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(whole.0.len() as u64, whole.2.written);
        assert_eq!(whole.1.len() as u64, whole.2.quarantined);
    }
}

#[test]
fn a_quote_that_is_not_closed_takes_bounded_memory() {
    let mut text = b"query,pos\na,b\n\"open,".to_vec();
    text.extend((0..200_000).flat_map(|_| b"line,after\n"));
    let options = ConvertOptions {
        max_line_bytes: 10_000,
        ..ConvertOptions::default()
    };
    let (rows, aside, report) = convert_by(&[("f.csv", &text)], &options, 4096);
    assert_eq!((rows.len(), aside.len(), report.rows), (1, 1, 2));
    assert_eq!(aside[0]["line"], 3);
    assert!(
        aside[0]["reason"]
            .as_str()
            .unwrap()
            .contains("a quote that is not closed")
    );
    assert!(aside[0]["text"].as_str().unwrap().len() <= 1000);
}
