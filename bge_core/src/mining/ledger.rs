//! What is written about a row: its new line, its candidates in the ledger, and those that look like positives.

use serde_json::{Map, Value, json};

use super::corpus::{Corpus, Row};
use super::select::{Candidate, Rules, Verdict, broken_rule};
use super::source::RawObject;
use crate::error::{Error, ErrorKind, Result};

/// Score columns, which do not belong to other negatives; training takes both or none.
const SCORES: [&str; 2] = ["pos_scores", "neg_scores"];

/// A row with other negatives, and whether it had scores that were taken out.
///
/// `neg` keeps its place, or comes last; every other value is copied as it is written.
pub(super) fn rewrite(bytes: &[u8], negatives: &[String]) -> Result<(Vec<u8>, bool)> {
    let object = RawObject::parse(bytes)?;
    let failed = |error| Error::new(ErrorKind::Internal, "a row cannot be written").with_source(error);
    let texts = serde_json::to_string(negatives).map_err(failed)?;
    let mut line = String::with_capacity(bytes.len() + texts.len());
    let (mut stale, mut placed) = (false, false);
    let mut put = |key: &str, value: &str| -> Result<()> {
        line.push_str(if line.is_empty() { "{" } else { ", " });
        line.push_str(&serde_json::to_string(key).map_err(failed)?);
        line.push_str(": ");
        if value.contains(['\n', '\r']) {
            // An element of an array may stand on several lines; here it has one.
            let value: Value = serde_json::from_str(value).map_err(failed)?;
            line.push_str(&value.to_string());
        } else {
            line.push_str(value);
        }
        Ok(())
    };
    for (key, value) in &object.0 {
        if SCORES.contains(&key.as_str()) {
            stale |= value.get() != "null";
        } else if key == "neg" {
            placed = true;
            put(key, &texts)?;
        } else {
            put(key, value.get())?;
        }
    }
    if !placed {
        put("neg", &texts)?;
    }
    line.push_str("}\n");
    Ok((line.into_bytes(), stale))
}

/// The lines of a row's candidates. `positive` is the lowest deciding score of a positive.
pub(super) fn ledger_lines(
    row: &Row,
    candidates: &[Candidate],
    positive: Option<f64>,
    corpus: &Corpus,
    lines: &mut Vec<u8>,
) -> Result<()> {
    for candidate in candidates {
        let mut line = Map::new();
        line.insert("row".to_owned(), row.index.into());
        line.insert("line".to_owned(), row.line.into());
        line.insert("rank".to_owned(), candidate.rank.into());
        describe(&mut line, candidate, positive, corpus)?;
        line.insert("verdict".to_owned(), candidate.verdict.as_str().into());
        push(lines, line);
    }
    Ok(())
}

/// Why a candidate looks like a positive: the rule that it fails as one that is too close, or that it outranks a positive.
pub(super) fn suspicion(candidate: &Candidate, positive: Option<f64>, rules: &Rules) -> Option<&'static str> {
    if candidate.verdict.is_known() || candidate.verdict == Verdict::Filled {
        return None;
    }
    let score = candidate.deciding();
    match broken_rule(score, positive, rules) {
        Some(verdict) if verdict != Verdict::MinScore => Some(verdict.as_str()),
        _ => positive
            .filter(|positive| score > *positive)
            .map(|_| "outranks_positive"),
    }
}

/// The lines of a row's suspected false negatives, for a person to judge, and how many there are.
pub(super) fn suspect_lines(
    row: &Row,
    candidates: &[Candidate],
    positive: Option<f64>,
    rules: &Rules,
    corpus: &Corpus,
    lines: &mut Vec<u8>,
) -> Result<u64> {
    let mut count = 0;
    for candidate in candidates {
        let Some(reason) = suspicion(candidate, positive, rules) else {
            continue;
        };
        let mut line = Map::new();
        line.insert("query".to_owned(), row.query.as_str().into());
        line.insert("pos".to_owned(), row.pos.clone().into());
        line.insert("candidate".to_owned(), corpus.text(candidate.text)?.into());
        line.insert("reason".to_owned(), reason.into());
        line.insert("verdict".to_owned(), candidate.verdict.as_str().into());
        line.insert("row".to_owned(), row.index.into());
        line.insert("line".to_owned(), row.line.into());
        line.insert("rank".to_owned(), candidate.rank.into());
        describe(&mut line, candidate, positive, corpus)?;
        line.insert("label".to_owned(), Value::Null);
        push(lines, line);
        count += 1;
    }
    Ok(count)
}

fn describe(
    line: &mut Map<String, Value>,
    candidate: &Candidate,
    positive: Option<f64>,
    corpus: &Corpus,
) -> Result<()> {
    line.insert("corpus_index".to_owned(), candidate.text.into());
    if let Some(id) = corpus.id(candidate.text)? {
        line.insert("corpus_id".to_owned(), id.into());
    }
    line.insert("score".to_owned(), json!(candidate.score));
    if candidate.reranked.is_some() {
        line.insert("reranker_score".to_owned(), json!(candidate.reranked));
    }
    if let Some(heads) = &candidate.heads {
        heads.describe(line);
    }
    line.insert("positive_score".to_owned(), json!(positive));
    Ok(())
}

/// Appends an object as a line.
pub(super) fn push(lines: &mut Vec<u8>, line: Map<String, Value>) {
    lines.extend(Value::Object(line).to_string().into_bytes());
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_other_keys_and_their_order() {
        let negatives = ["new".to_owned(), "\u{e9}\n".to_owned()];
        for (row, line, stale) in [
            (
                r#"{"id": 1.0, "query": "q", "neg": ["old"], "pos": ["p\u00e9"], "neg_scores": [1], "type": "normal"}"#,
                "{\"id\": 1.0, \"query\": \"q\", \"neg\": [\"new\", \"\u{e9}\\n\"], \"pos\": [\"p\\u00e9\"], \"type\": \"normal\"}\n",
                true,
            ),
            (
                r#"{"query":"q","pos":["p"],"pos_scores":[2.5],"big":123456789012345678901234567890}"#,
                "{\"query\": \"q\", \"pos\": [\"p\"], \"big\": 123456789012345678901234567890, \"neg\": [\"new\", \"\u{e9}\\n\"]}\n",
                true,
            ),
            (
                "{\"query\":\"q\",\n\"pos\":[\"p\",\n \"r\"],\"pos_scores\":null}",
                "{\"query\": \"q\", \"pos\": [\"p\",\"r\"], \"neg\": [\"new\", \"\u{e9}\\n\"]}\n",
                false,
            ),
        ] {
            let (written, was_stale) = rewrite(row.as_bytes(), &negatives).unwrap();
            let written = String::from_utf8(written).unwrap();
            assert_eq!(
                written.replace("\",\"", "\", \""),
                line.replace("\",\"", "\", \"")
            );
            assert_eq!(was_stale, stale, "{row}");
        }
    }
}
