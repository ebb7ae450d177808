//! Repairs training data in one pass: what can be mended is mended, what cannot goes to a quarantine with its reason.
//!
//! A row with nothing to mend keeps its bytes. Whatever comes out has no error that a row can have by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::codes;
use super::duplicates::{Seen, fingerprint};
use super::findings::{IssueGroup, IssueLog};
use super::lines::{DEFAULT_LIMIT, Found, Line, LineSplitter, Position};
use super::record::{RecordView, Slot};
use crate::issue::Severity;

/// Findings of each kind that are kept with their places.
const FIRST: usize = 10;

/// The columns that make a row; two rows with all of them the same are one said twice.
const WHAT_TRAINS: [&str; 10] = [
    "query",
    "pos",
    "neg",
    "pos_scores",
    "neg_scores",
    "prompt",
    "query_prompt",
    "passage_prompt",
    "type",
    "category",
];

/// What a repair does beyond the rows themselves.
#[derive(Clone, Copy, Debug)]
pub struct RepairOptions {
    /// Drop rows that say no more than an earlier one: the same texts, scores, prompts and type.
    pub drop_repeated_rows: bool,
    /// Put rows without negatives into the quarantine; for data where the other rows have some.
    pub require_negatives: bool,
    /// Longest record in bytes.
    pub max_line_bytes: usize,
    /// Different rows that the search for repeated ones remembers.
    pub max_fingerprints: usize,
}

impl Default for RepairOptions {
    fn default() -> Self {
        Self {
            drop_repeated_rows: true,
            require_negatives: false,
            max_line_bytes: DEFAULT_LIMIT,
            max_fingerprints: 4_000_000,
        }
    }
}

/// What comes out, in JSON lines; whoever pushes empties both as often as he likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The rows to train on.
    pub cleaned: Vec<u8>,
    /// `{"file", "line", "reason", "text"}` of every row that could not be mended, in arrays with its number as "element".
    pub quarantine: Vec<u8>,
}

/// How many rows met which fate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Rows read, broken ones included.
    pub rows: u64,
    /// Rows that were written, mended or not.
    pub kept: u64,
    /// Rows that were mended.
    pub mended: u64,
    /// Rows that were dropped because an earlier one says the same.
    pub repeated: u64,
    /// Rows in the quarantine.
    pub quarantined: u64,
    /// Whether there were more rows than the search for repeated ones remembers.
    pub duplicates_bounded: bool,
    /// Mended rows by the code of what was wrong, see [`super::codes`].
    pub fixes: BTreeMap<&'static str, u64>,
    /// What was mended, dropped and set aside, with the first places of each kind; comes with the end.
    pub issues: Vec<IssueGroup>,
}

/// A repair under way.
///
/// ```
/// use bge_core::data::repair::{Repair, RepairOptions, Repaired};
///
/// let (mut repair, mut out) = (Repair::new(RepairOptions::default()), Repaired::default());
/// repair.start_file("train.jsonl", &mut out);
/// repair.push(b"{\"query\": \"q\", \"pos\": [\"p\", \" \"], \"neg\": []}\n{\"query\": ", &mut out);
/// let report = repair.finish(&mut out);
/// assert_eq!(out.cleaned, b"{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[]}\n");
/// assert_eq!((report.kept, report.mended, report.quarantined), (1, 1, 1));
/// ```
#[derive(Debug)]
pub struct Repair {
    splitter: LineSplitter,
    open: bool,
    bench: Bench,
}

/// Everything but the splitter, which hands records to it.
#[derive(Debug)]
struct Bench {
    options: RepairOptions,
    file: String,
    seen: Seen<()>,
    report: RepairReport,
    issues: IssueLog,
}

impl Repair {
    /// Starts a repair.
    pub fn new(options: RepairOptions) -> Self {
        Self {
            splitter: LineSplitter::new(options.max_line_bytes),
            open: false,
            bench: Bench {
                options,
                file: "input".into(),
                seen: Seen::new(options.max_fingerprints),
                report: RepairReport::default(),
                issues: IssueLog::new(FIRST),
            },
        }
    }

    /// Ends the file before and starts the next one.
    pub fn start_file(&mut self, name: &str, out: &mut Repaired) {
        self.end_file(out);
        name.clone_into(&mut self.bench.file);
        self.open = true;
    }

    /// Takes the next bytes of the file, cut anywhere.
    pub fn push(&mut self, bytes: &[u8], out: &mut Repaired) {
        self.open = true;
        let Self { splitter, bench, .. } = self;
        splitter.push(bytes, |found| bench.take(found, out));
    }

    /// Rows and fates so far.
    pub fn report(&self) -> &RepairReport {
        &self.bench.report
    }

    /// Ends the last file.
    pub fn finish(mut self, out: &mut Repaired) -> RepairReport {
        self.end_file(out);
        let Bench {
            mut report,
            seen,
            issues,
            ..
        } = self.bench;
        report.duplicates_bounded = seen.is_full();
        report.issues = issues.groups().cloned().collect();
        report
    }

    fn end_file(&mut self, out: &mut Repaired) {
        if std::mem::take(&mut self.open) {
            let Self { splitter, bench, .. } = self;
            splitter.finish(|found| bench.take(found, out));
            *splitter = LineSplitter::new(bench.options.max_line_bytes);
        }
    }
}

impl Bench {
    fn take(&mut self, found: Found<'_>, out: &mut Repaired) {
        match found {
            Found::Record(line) => self.take_record(&line, out),
            Found::TooLong(line) => {
                self.report.rows += 1;
                let reason = format!("the record has {} bytes", line.length);
                self.set_aside(line.position(), &reason, line.bytes, out);
            }
            // What is damaged between the elements is no row, and may have been one.
            Found::BadArray { line, message } => {
                self.note(codes::BROKEN_ARRAY, Severity::Warning, line.into(), message);
            }
        }
    }

    fn take_record(&mut self, line: &Line<'_>, out: &mut Repaired) {
        self.report.rows += 1;
        let (row, fixes) = match mend(line.bytes, self.options.require_negatives) {
            Ok(mended) => mended,
            Err(reason) => return self.set_aside(line.position(), &reason, line.bytes, out),
        };
        if self.options.drop_repeated_rows && !self.seen.is_full() {
            let says_something = |value: &&Value| value.as_array().is_none_or(|list| !list.is_empty());
            let said = json!(WHAT_TRAINS.map(|key| row.get(key).filter(says_something)));
            if self
                .seen
                .see(fingerprint(said.to_string().as_bytes()), ())
                .is_some()
            {
                self.report.repeated += 1;
                let message = "the row was dropped: an earlier one says the same";
                self.note(codes::REPAIR_REPEATED, Severity::Info, line.position(), message);
                return;
            }
        }
        self.report.kept += 1;
        if fixes.is_empty() && !line.bytes.contains(&b'\n') {
            out.cleaned.extend_from_slice(line.bytes);
        } else {
            self.report.mended += u64::from(!fixes.is_empty());
            for code in fixes {
                *self.report.fixes.entry(code).or_default() += 1;
                self.note(code, Severity::Info, line.position(), done_about(code));
            }
            write(&row, line.bytes, &mut out.cleaned);
        }
        out.cleaned.push(b'\n');
    }

    fn set_aside(&mut self, at: Position, reason: &str, bytes: &[u8], out: &mut Repaired) {
        self.report.quarantined += 1;
        self.note(codes::REPAIR_QUARANTINED, Severity::Warning, at, reason);
        quarantine(&mut out.quarantine, &self.file, at, reason, bytes);
    }

    fn note(&mut self, code: &'static str, severity: Severity, at: Position, message: &str) {
        let (file, at) = (Some(self.file.as_str()), Some(at));
        self.issues
            .add(code, severity, file, at, None, format_args!("{message}"));
    }
}

/// What a repair does about a finding.
fn done_about(code: &str) -> &'static str {
    match code {
        codes::POS_BLANK => "positives without text were removed",
        codes::NEG_BLANK => "negatives without text were removed",
        codes::POS_IS_NEG => "negatives that are positives were removed",
        codes::QUERY_IS_POS => "the query was removed from its positives",
        codes::QUERY_IS_NEG => "the query was removed from its negatives",
        codes::POS_REPEATED => "positives that occur twice were kept once",
        codes::NEG_REPEATED => "negatives that occur twice were kept once",
        codes::SCORES_MISCOUNTED => "scores were removed, as they do not belong to the texts one to one",
        codes::SCORE_NOT_FINITE => "scores were removed, as one is too large for 32 bits",
        codes::BATCH_SIZE => "`batch_size` was removed, as it is no count",
        codes::GROUP_SIZE => "`train_group_size` was removed, as it is no count",
        _ => "values of a wrong type were put right or removed",
    }
}

/// Writes a row on one line. What stays as it is keeps its bytes: a number of another's column may have more digits than an `f64`.
fn write(row: &Map<String, Value>, bytes: &[u8], out: &mut Vec<u8>) {
    let written: BTreeMap<String, &RawValue> = serde_json::from_slice(bytes).unwrap_or_default();
    for (at, (key, value)) in row.iter().enumerate() {
        let as_it_was = written.get(key).map(|raw| raw.get()).filter(|raw| {
            !raw.contains('\n') && serde_json::from_str::<Value>(raw).is_ok_and(|raw| raw == *value)
        });
        let value = as_it_was.map_or_else(|| value.to_string(), str::to_owned);
        out.push(if at == 0 { b'{' } else { b',' });
        out.extend_from_slice(format!("{}:{value}", json!(key)).as_bytes());
    }
    out.push(b'}');
}

/// Writes a row that could not be used, with its place and the reason.
pub(super) fn quarantine(out: &mut Vec<u8>, file: &str, at: Position, reason: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut row = json!({ "file": file, "line": at.line, "reason": reason, "text": text });
    if let (Some(element), Value::Object(row)) = (at.element, &mut row) {
        row.shift_insert(2, "element".to_owned(), element.into());
    }
    out.extend_from_slice(row.to_string().as_bytes());
    out.push(b'\n');
}

/// The codes of what was mended in a row.
type Fixes = BTreeSet<&'static str>;

/// The row without what can be mended, or why it cannot be used.
fn mend(bytes: &[u8], require_negatives: bool) -> Result<(Map<String, Value>, Fixes), String> {
    let view = RecordView::parse(bytes)
        .map_err(|broken| format!("{} (column {})", broken.message, broken.column))?;
    if let Some(key) = view.repeated_key {
        return Err(format!("`{key}` occurs twice in the row"));
    }
    let query = match &view.query {
        Slot::Given(text) if !text.trim().is_empty() => text.as_ref(),
        Slot::Given(_) => return Err("`query` is empty".into()),
        Slot::Wrong(kind) => return Err(format!("`query` must be a text, found {kind}")),
        Slot::Absent | Slot::Null => return Err("`query` is missing".into()),
    };
    let mut row: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| format!("the JSON cannot be read: {error}"))?;
    let mut fixes = Fixes::new();
    for (texts, scores) in [("pos", "pos_scores"), ("neg", "neg_scores")] {
        clean_list(&mut row, texts, scores, query, &mut fixes);
    }
    let count = |row: &Map<String, Value>, key| row.get(key).and_then(Value::as_array).map_or(0, Vec::len);
    if count(&row, "pos") == 0 {
        return Err("`pos` has no text to train on".into());
    }
    if require_negatives && count(&row, "neg") == 0 {
        return Err("`neg` is empty, but other rows have negatives".into());
    }
    let finite = |value: &Value| value.as_f64().is_some_and(|score| (score as f32).is_finite());
    let problem = |texts, scores: &str| match row.get(scores) {
        None | Some(Value::Null) => None,
        Some(Value::Array(values))
            if values.len() == count(&row, texts) && values.iter().all(Value::is_number) =>
        {
            (!values.iter().all(finite)).then_some(codes::SCORE_NOT_FINITE)
        }
        Some(_) => Some(codes::SCORES_MISCOUNTED),
    };
    if let Some(code) = problem("pos", "pos_scores").or_else(|| problem("neg", "neg_scores")) {
        // Scores that belong to no text would teach the wrong thing; without them the row trains as any other.
        row.shift_remove("pos_scores");
        row.shift_remove("neg_scores");
        fixes.insert(code);
    }
    for key in ["prompt", "query_prompt", "passage_prompt", "type", "category"] {
        if row
            .get(key)
            .is_some_and(|value| !value.is_string() && !value.is_null())
        {
            row.shift_remove(key);
            fixes.insert(codes::WRONG_TYPE);
        }
    }
    for (key, code) in [
        ("batch_size", codes::BATCH_SIZE),
        ("train_group_size", codes::GROUP_SIZE),
    ] {
        let sane = |value: &Value| {
            value.is_null()
                || value
                    .as_f64()
                    .and_then(super::record::whole)
                    .is_some_and(|n| n > 0)
        };
        if row.get(key).is_some_and(|value| !sane(value)) {
            row.shift_remove(key);
            fixes.insert(code);
        }
    }
    Ok((row, fixes))
}

/// Leaves only texts that say something, once each, and the scores that belong to them.
fn clean_list(row: &mut Map<String, Value>, key: &str, scores: &str, query: &str, fixes: &mut Fixes) {
    let positives: BTreeSet<String> = match row.get("pos") {
        Some(Value::Array(texts)) if key == "neg" => texts
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => BTreeSet::new(),
    };
    let is_pos = key == "pos";
    let texts = match row.get(key) {
        None | Some(Value::Null) => return,
        Some(Value::String(text)) => {
            fixes.insert(codes::WRONG_TYPE);
            vec![Value::String(text.clone())]
        }
        Some(Value::Array(texts)) => texts.clone(),
        Some(_) => {
            fixes.insert(codes::WRONG_TYPE);
            Vec::new()
        }
    };
    let others = texts.iter().any(|text| {
        text.as_str()
            .is_some_and(|text| text != query && !text.trim().is_empty())
    });
    let mut seen = BTreeSet::new();
    let mut why = |text: &Value| {
        let Some(text) = text.as_str() else {
            return Some(codes::WRONG_TYPE);
        };
        if text.trim().is_empty() {
            Some(if is_pos {
                codes::POS_BLANK
            } else {
                codes::NEG_BLANK
            })
        } else if positives.contains(text) {
            Some(codes::POS_IS_NEG)
        } else if text == query && (!is_pos || others) {
            Some(if is_pos {
                codes::QUERY_IS_POS
            } else {
                codes::QUERY_IS_NEG
            })
        } else if !seen.insert(text.to_owned()) {
            Some(if is_pos {
                codes::POS_REPEATED
            } else {
                codes::NEG_REPEATED
            })
        } else {
            None
        }
    };
    let reasons: Vec<Option<&'static str>> = texts.iter().map(&mut why).collect();
    let keep = |values: Vec<Value>| -> Vec<Value> {
        let pairs = values.into_iter().zip(&reasons);
        pairs
            .filter(|(_, reason)| reason.is_none())
            .map(|(value, _)| value)
            .collect()
    };
    if let Some(Value::Array(values)) = row
        .get(scores)
        .filter(|values| values.as_array().is_some_and(|v| v.len() == texts.len()))
    {
        let kept = keep(values.clone());
        row.insert(scores.to_owned(), Value::Array(kept));
    }
    fixes.extend(reasons.iter().flatten());
    let kept = keep(texts);
    row.insert(key.to_owned(), Value::Array(kept));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ValidationOptions, ValidationSession};

    fn repair(text: &str, options: RepairOptions, chunk: usize) -> (Repaired, RepairReport) {
        let (mut repair, mut out) = (Repair::new(options), Repaired::default());
        repair.start_file("f", &mut out);
        for piece in text.as_bytes().chunks(chunk.max(1)) {
            repair.push(piece, &mut out);
        }
        let report = repair.finish(&mut out);
        (out, report)
    }

    const BAD: &str = concat!(
        "\u{feff}{\"query\":\"good\",  \"pos\":[\"p\"],\"neg\":[\"n\"], \"id\": 7}\r\n",
        "{\"query\":\"q\",\"pos\":\"one\",\"neg\":[\"one\",\"n\",\"n\",\"\",null,\"q\"],\"neg_scores\":[1,2,3,4,5,6],\"pos_scores\":[9]}\n",
        "\n{\"query\":\"good\",\"neg\":[\"n\"],\"pos\":[\"p\"]}\n",
        "{\"query\":\"s\",\"pos\":[\"p\",\"r\"],\"neg\":[\"n\"],\"pos_scores\":[1],\"neg_scores\":[1]}\n",
        "{\"query\":\" \",\"pos\":[\"p\"]}\n{\"query\":\"x\",\"pos\":[\"\"]}\n[1]\nnonsense\n{\"query\":\"y\",\"pos\":[\"p\"],\"query\":\"z\"}\n",
        "{\"query\":\"t\",\"pos\":[\"p\"],\"neg\":[\"n\"],\"batch_size\":0.5,\"prompt\":3}",
    );

    #[test]
    fn what_can_be_mended_is_and_the_rest_is_set_aside_with_its_reason() {
        let (out, report) = repair(BAD, RepairOptions::default(), usize::MAX);
        let lines: Vec<&str> = std::str::from_utf8(&out.cleaned).unwrap().lines().collect();
        assert_eq!(lines[0], r#"{"query":"good",  "pos":["p"],"neg":["n"], "id": 7}"#);
        assert_eq!(
            lines[1],
            r#"{"query":"q","pos":["one"],"neg":["n"],"neg_scores":[2],"pos_scores":[9]}"#
        );
        assert_eq!(lines[2], r#"{"query":"s","pos":["p","r"],"neg":["n"]}"#);
        assert_eq!(lines[3], r#"{"query":"t","pos":["p"],"neg":["n"]}"#);
        assert_eq!(lines.len(), 4);
        assert_eq!((report.rows, report.kept, report.mended), (10, 4, 3));
        assert_eq!((report.repeated, report.quarantined), (1, 5));
        let aside: Vec<Value> = std::str::from_utf8(&out.quarantine)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(aside[0]["line"], 6);
        let said: Vec<String> = report
            .issues
            .iter()
            .map(|group| format!("{} {} {}", group.code, group.total, group.first[0]))
            .collect();
        let says = |part: &str| said.iter().any(|text| text.contains(part));
        assert!(says("repair.quarantined 5 f:6: warning"), "{said:#?}");
        assert!(says("repair.repeated_row 1 f:4: info"), "{said:#?}");
        assert!(says("data.pos_is_neg 1 f:2: info"), "{said:#?}");
        assert!(says("data.scores_miscounted 1 f:5: info"), "{said:#?}");
        let mended = report
            .issues
            .iter()
            .filter(|group| group.code.starts_with("data."));
        assert!(
            mended.eq(report
                .issues
                .iter()
                .filter(|group| report.fixes.get(group.code) == Some(&group.total)))
        );
        assert_eq!(aside[3]["text"], "nonsense");
        assert!(
            aside
                .iter()
                .all(|row| !row["reason"].as_str().unwrap().is_empty())
        );
    }

    #[test]
    fn rows_that_differ_in_anything_that_trains_are_all_kept() {
        let rows = [
            r#"{"query":"q","pos":["p"],"neg":["n1"]}"#,
            r#"{"query":"q","pos":["p"],"neg":["n2"]}"#,
            r#"{"query":"q","pos":["p"],"neg":["n1"],"pos_scores":[1],"neg_scores":[0]}"#,
            r#"{"query":"q","pos":["p"],"neg":["n1"],"query_prompt":"ask: "}"#,
            r#"{"query":"q","pos":["p"],"neg":["n1"],"type":"symmetric_sts"}"#,
            r#"{"query":"q","pos":["p"],"neg":[]}"#,
        ];
        let again = [
            r#"{"query":"q","pos":["p"],"neg":["n1"],"id":7}"#,
            r#"{"query":"q","pos":["p"]}"#,
        ];
        let text = [rows.join("\n"), again.join("\n")].join("\n");
        let (out, report) = repair(&text, RepairOptions::default(), usize::MAX);
        assert_eq!(String::from_utf8(out.cleaned).unwrap(), rows.join("\n") + "\n");
        assert_eq!((report.kept, report.repeated), (6, 2));
    }

    #[test]
    fn a_score_too_large_for_32_bits_is_removed() {
        let text = r#"{"query":"q","pos":["p"],"neg":["n"],"pos_scores":[1e39],"neg_scores":[1]}"#;
        let (out, report) = repair(text, RepairOptions::default(), usize::MAX);
        assert_eq!(
            out.cleaned,
            b"{\"query\":\"q\",\"pos\":[\"p\"],\"neg\":[\"n\"]}\n"
        );
        assert_eq!(report.fixes, BTreeMap::from([(codes::SCORE_NOT_FINITE, 1)]));
    }

    #[test]
    fn a_mended_row_keeps_its_other_columns_as_they_are_written() {
        let text = "[{\"id\": 123456789012345678901234567890, \"query\": \"q\\u0041\", \"pos\": [\"p\", \"\"], \"more\": {\n}}]";
        let (out, _) = repair(text, RepairOptions::default(), usize::MAX);
        assert_eq!(
            String::from_utf8(out.cleaned).unwrap(),
            "{\"id\":123456789012345678901234567890,\"query\":\"q\\u0041\",\"pos\":[\"p\"],\"more\":{}}\n"
        );
    }

    #[test]
    fn chunk_borders_do_not_matter_and_a_second_repair_finds_nothing() {
        let whole = repair(BAD, RepairOptions::default(), usize::MAX);
        for chunk in [1, 2, 3, 7, 64] {
            assert_eq!(repair(BAD, RepairOptions::default(), chunk), whole);
        }
        let text = String::from_utf8(whole.0.cleaned.clone()).unwrap();
        let (again, report) = repair(&text, RepairOptions::default(), usize::MAX);
        assert_eq!(again.cleaned, whole.0.cleaned);
        assert_eq!((report.mended, report.quarantined, report.repeated), (0, 0, 0));
    }

    #[test]
    fn in_an_array_a_place_has_the_number_of_its_element() {
        let (out, report) = repair(
            "[{\"query\":\"a\",\"pos\":[\"p\"]},{},[]]",
            RepairOptions::default(),
            64,
        );
        let aside = String::from_utf8(out.quarantine).unwrap();
        assert!(aside.contains("\"line\":1,\"element\":2,\"reason\""), "{aside}");
        let first = &report.issues[0].first;
        assert_eq!(
            first[1].to_string(),
            "f:1: element 3: warning[repair.quarantined]: must be a JSON object, found a list (column 2)"
        );
    }

    #[test]
    fn joined_arrays_are_repaired_whole_and_said_to_be_joined() {
        let row = |name: &str| format!("{{\"query\":\"{name}\",\"pos\":[\"p\"],\"neg\":[\"n\"]}}");
        let rows = ["a", "b", "c", "d"].map(row);
        let joined = format!("[{}]\n[{},{}]\n{}\n", rows[0], rows[1], rows[2], rows[3]);
        let (out, report) = repair(&joined, RepairOptions::default(), 3);
        assert_eq!(out.cleaned, (rows.join("\n") + "\n").into_bytes());
        assert_eq!((report.rows, report.kept), (4, 4));
        let [group] = &report.issues[..] else {
            panic!("{report:?}")
        };
        assert_eq!((group.code, group.total), (codes::BROKEN_ARRAY, 2));
        assert_eq!(group.first[0].line, Some(2));
    }

    #[test]
    fn repaired_data_validates_without_errors() {
        let options = RepairOptions {
            require_negatives: true,
            ..RepairOptions::default()
        };
        for text in [
            BAD,
            "[{\"query\":\"a\",\n\"pos\":[\"b\"],\"neg\":[\"c\"]}, {\"query\":\"d\"}",
            "\u{feff}",
            "",
        ] {
            let (out, report) = repair(text, options, 5);
            assert_eq!(
                report.kept,
                out.cleaned.split_inclusive(|byte| *byte == b'\n').count() as u64
            );
            if report.kept > 0 {
                let mut session = ValidationSession::new(ValidationOptions::default()).unwrap();
                session.push(&out.cleaned);
                let report = session.finish();
                assert!(!report.has_errors(), "{report}");
            }
        }
    }
}
