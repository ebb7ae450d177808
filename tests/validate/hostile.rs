//! Hostile lines, one by one.

use super::*;

#[test]
fn hostile_lines_each_give_their_finding_on_their_line() {
    use Severity::{Error, Warning};
    let cases: &[(&[u8], &str, Severity)] = &[
        // Broken JSON.
        (b"{", codes::BROKEN_JSON, Error),
        (b"}", codes::BROKEN_JSON, Error),
        (b"{\"query\": \"q\", \"pos\": [\"p\"]", codes::BROKEN_JSON, Error),
        (b"{\"query\": \"q\" \"pos\": [\"p\"]}", codes::BROKEN_JSON, Error),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"],}",
            codes::BROKEN_JSON,
            Error,
        ),
        (b"{'query': 'q', 'pos': ['p']}", codes::BROKEN_JSON, Error),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"]} trailing",
            codes::BROKEN_JSON,
            Error,
        ),
        (
            b"{\"query\": \"a\tb\", \"pos\": [\"p\"]}",
            codes::BROKEN_JSON,
            Error,
        ),
        (
            b"{\"query\": \"\\x41\", \"pos\": [\"p\"]}",
            codes::BROKEN_JSON,
            Error,
        ),
        (
            b"{\"query\": \"\\ud800\", \"pos\": [\"p\"]}",
            codes::BROKEN_JSON,
            Error,
        ),
        (
            b"{\"query\": undefined, \"pos\": [\"p\"]}",
            codes::BROKEN_JSON,
            Error,
        ),
        (b"{\"query\": True, \"pos\": [\"p\"]}", codes::BROKEN_JSON, Error),
        (b"query,pos,neg", codes::BROKEN_JSON, Error),
        (b"<html>", codes::BROKEN_JSON, Error),
        (b"\0\0\0\0", codes::BROKEN_JSON, Error),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [01]}",
            codes::BROKEN_JSON,
            Error,
        ),
        (b"// a comment", codes::BROKEN_JSON, Error),
        (
            b"{\"a\":{\"a\":{\"a\":{\"a\":[[[[[[[[[[[[[[",
            codes::BROKEN_JSON,
            Error,
        ),
        // Not an object.
        (b"[]", codes::NOT_OBJECT, Error),
        (b"[\"q\", [\"p\"], [\"n\"]]", codes::NOT_OBJECT, Error),
        (b"null", codes::NOT_OBJECT, Error),
        (b"true", codes::NOT_OBJECT, Error),
        (b"17", codes::NOT_OBJECT, Error),
        (b"-1.5e3", codes::NOT_OBJECT, Error),
        (b"\"query\"", codes::NOT_OBJECT, Error),
        // Bytes.
        (
            b"{\"query\": \"caf\xe9\", \"pos\": [\"p\"]}",
            codes::INVALID_UTF8,
            Error,
        ),
        (b"\xff\xfe{\0\"\0", codes::INVALID_UTF8, Error),
        (
            b"{\"query\": \"\xed\xa0\x80\", \"pos\": [\"p\"]}",
            codes::INVALID_UTF8,
            Error,
        ),
        (
            b"{\"query\": \"\xc0\xaf\", \"pos\": [\"p\"]}",
            codes::INVALID_UTF8,
            Error,
        ),
        (
            "{\"query\": \"caf\u{fffd}\", \"pos\": [\"p\"], \"neg\": [\"n\"]}".as_bytes(),
            codes::REPLACEMENT_CHARACTER,
            Warning,
        ),
        // As Python writes it.
        (
            br#"{"query": "q", "pos": ["p"], "neg": ["n", "caf\ufffd"]}"#,
            codes::REPLACEMENT_CHARACTER,
            Warning,
        ),
        (
            br#"{"query": "q", "pos": ["p"], "neg": ["n"], "prompt": "caf\ufffd"}"#,
            codes::REPLACEMENT_CHARACTER,
            Warning,
        ),
        // The query.
        (b"{}", codes::QUERY_MISSING, Error),
        (
            b"{\"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::QUERY_MISSING,
            Error,
        ),
        (
            b"{\"Query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::QUERY_MISSING,
            Error,
        ),
        (
            b"{\"query\": null, \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::QUERY_MISSING,
            Error,
        ),
        (
            b"{\"query\": \"\", \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::QUERY_BLANK,
            Error,
        ),
        (
            "{\"query\": \" \\n\u{a0}\u{3000}\", \"pos\": [\"p\"], \"neg\": [\"n\"]}".as_bytes(),
            codes::QUERY_BLANK,
            Error,
        ),
        (
            b"{\"query\": [\"q\"], \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": 5, \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": {\"text\": \"q\"}, \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"a\", \"query\": \"b\", \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::KEY_REPEATED,
            Error,
        ),
        (
            b"{\"query\": \"None\", \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::TEXT_IS_NULL_WORD,
            Warning,
        ),
        (
            b"{\"query\": \"good query\", \"pos\": [\"p\"], \"neg\": [\"n\"]}",
            codes::QUERY_REPEATED,
            Warning,
        ),
        // Positives.
        (b"{\"query\": \"q\", \"neg\": [\"n\"]}", codes::POS_MISSING, Error),
        (
            b"{\"query\": \"q\", \"pos\": null, \"neg\": [\"n\"]}",
            codes::POS_MISSING,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [], \"neg\": [\"n\"]}",
            codes::POS_MISSING,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": \"p\", \"neg\": [\"n\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [null], \"neg\": [\"n\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [[\"p\"]], \"neg\": [\"n\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\", 7], \"neg\": [\"n\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"\"], \"neg\": [\"n\"]}",
            codes::POS_BLANK,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\", \"p\"], \"neg\": [\"n\"]}",
            codes::POS_REPEATED,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"q\"], \"neg\": [\"n\"]}",
            codes::QUERY_IS_POS,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"nan\"], \"neg\": [\"n\"]}",
            codes::TEXT_IS_NULL_WORD,
            Warning,
        ),
        // Negatives.
        (b"{\"query\": \"q\", \"pos\": [\"p\"]}", codes::NEG_EMPTY, Error),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": null}",
            codes::NEG_EMPTY,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": []}",
            codes::NEG_EMPTY,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": \"n\"}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [false]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\" \"]}",
            codes::NEG_BLANK,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"p\"]}",
            codes::POS_IS_NEG,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\", \"m\", \"n\"]}",
            codes::NEG_REPEATED,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"q\"]}",
            codes::QUERY_IS_NEG,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"negatives\": []}",
            codes::UNKNOWN_COLUMN,
            Warning,
        ),
        // Scores, without distillation.
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"pos_scores\": [1, 2]}",
            codes::SCORES_MISCOUNTED,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"neg_scores\": \"1\"}",
            codes::WRONG_TYPE,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"neg_scores\": [1e300]}",
            codes::SCORE_NOT_FINITE,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"neg_scores\": [NaN]}",
            codes::SCORE_NOT_FINITE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"neg_scores\": [-Infinity]}",
            codes::SCORE_NOT_FINITE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"neg_scores\": [1e999]}",
            codes::SCORE_NOT_FINITE,
            Error,
        ),
        // Other columns.
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"prompt\": 1}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"type\": [\"x\"]}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"type\": \"normal\"}",
            codes::TYPE_MIXED,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"batch_size\": \"8\"}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"batch_size\": -8}",
            codes::WRONG_TYPE,
            Error,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"batch_size\": 0}",
            codes::BATCH_SIZE,
            Warning,
        ),
        (
            b"{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"], \"train_group_size\": 1e99}",
            codes::WRONG_TYPE,
            Error,
        ),
    ];
    assert!(cases.len() >= 60);
    for (line, code, severity) in cases {
        let shown = String::from_utf8_lossy(line);
        let report = validate(plain(), &[&among_good(line)]);
        let found = report
            .issues
            .iter()
            .find(|group| group.code == *code && group.severity == *severity);
        let group = found.unwrap_or_else(|| panic!("{shown}: no {code} in {:#?}", report.issues));
        assert_eq!(group.first[0].line, Some(2), "{shown}: {group:?}");
        assert_eq!(group.total, 1, "{shown}: {group:?}");
        assert_eq!(report.has_errors(), report.count(Severity::Error) > 0);
        if *severity == Error {
            assert!(report.has_errors(), "{shown}");
        } else {
            assert_eq!(report.count(Error), 0, "{shown}: {:#?}", report.issues);
        }
        assert!(report.to_string().contains("file0.jsonl:2: "), "{shown}");
    }
}
