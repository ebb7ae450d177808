//! The lines of BEIR's files: texts with ids, and judgments.

use serde_json::{Map, Value};

/// At most `most` characters of a text, with an ellipsis where it was cut.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default().trim_end()),
        None => text.to_owned(),
    }
}

fn parse_object(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("each line must be a JSON object".to_owned()),
        Err(error) => Err(format!("not valid JSON at column {}", error.column())),
    }
}

/// An id under one of several names: text, or a whole number written out.
fn take_id(object: &Map<String, Value>, names: &[&str]) -> Result<String, String> {
    let found = names
        .iter()
        .find_map(|name| object.get(*name).map(|value| (name, value)));
    match found {
        None => Err(format!("`{}` is missing", names.join("` or `"))),
        Some((_, Value::String(id))) if !id.is_empty() => Ok(id.clone()),
        Some((_, Value::Number(id))) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        Some((name, _)) => Err(format!("`{name}` must be text that is not empty")),
    }
}

/// A document as one text: its title, a space and its text, stripped.
pub(crate) fn join_title(title: &str, text: &str) -> String {
    format!("{title} {text}").trim().to_owned()
}

/// Id and text of a line of a corpus or of queries; a document's title stands before its text.
pub(crate) fn parse_text(line: &str, with_title: bool) -> Result<(String, String), String> {
    let object = parse_object(line)?;
    let id = take_id(&object, &["_id", "id"])?;
    let Some(Value::String(text)) = object.get("text") else {
        return Err("`text` is missing or not text".to_owned());
    };
    if !with_title {
        return Ok((id, text.clone()));
    }
    let joined = match object.get("title") {
        None | Some(Value::Null) => text.trim().to_owned(),
        Some(Value::String(title)) => join_title(title, text),
        Some(_) => return Err("`title` must be text".to_owned()),
    };
    Ok((id, joined))
}

/// The query, document and score of a judgment, in JSON or in columns; `None` for the header on the first line.
pub(crate) fn parse_judgment(line: &str, first: bool) -> Result<Option<(String, String, f64)>, String> {
    if line.trim_start().starts_with('{') {
        return parse_json_judgment(line).map(Some);
    }
    match parse_tsv_judgment(line) {
        Err(_) if first && looks_like_header(line) => Ok(None),
        parsed => parsed.map(Some),
    }
}

/// A header names its columns: its last one is a word, in quotes or not.
fn looks_like_header(line: &str) -> bool {
    line.split(['\t', ' ']).next_back().is_some_and(|last| {
        last.trim()
            .trim_start_matches('"')
            .starts_with(|c: char| c.is_alphabetic())
    })
}

/// `query document score`, or TREC's `query iteration document score`.
fn parse_tsv_judgment(line: &str) -> Result<(String, String, f64), String> {
    let columns: Vec<&str> = if line.contains('\t') {
        line.split('\t').map(str::trim).collect()
    } else {
        line.split_whitespace().collect()
    };
    let (query, document, score) = match columns.as_slice() {
        [query, document, score] | [query, _, document, score] => (*query, *document, *score),
        other => {
            return Err(format!(
                "{} columns instead of three: query-id, corpus-id and score with tabs between",
                other.len()
            ));
        }
    };
    if query.is_empty() || document.is_empty() {
        return Err("an id is empty".to_owned());
    }
    match score.parse::<f64>() {
        Ok(score) if score.is_finite() => Ok((query.to_owned(), document.to_owned(), score)),
        _ => Err(format!("the score `{}` is not a number", shorten(score, 40))),
    }
}

/// A judgment as a JSON object.
fn parse_json_judgment(line: &str) -> Result<(String, String, f64), String> {
    let object = parse_object(line)?;
    let query = take_id(&object, &["qid", "query-id", "query_id"])?;
    let document = take_id(&object, &["docid", "corpus-id", "corpus_id", "doc_id"])?;
    let score = object.get("relevance").or_else(|| object.get("score"));
    match score.and_then(Value::as_f64) {
        Some(score) if score.is_finite() => Ok((query, document, score)),
        _ => Err("`relevance` must be a number".to_owned()),
    }
}
