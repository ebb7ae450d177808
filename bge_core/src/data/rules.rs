//! The rules of one row, one function each. What would break or mis-train is an error, what is suspicious a warning.

use std::borrow::Cow;
use std::fmt;

use super::codes;
use super::findings::IssueLog;
use super::lines::Position;
use super::record::{Broken, BrokenKind, RecordView, Slot, SlotList, whole};
use super::task::TaskType;
use crate::issue::Severity::{self, Error, Info, Warning};

/// The settings that decide how bad a finding is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// `knowledge_distillation`.
    pub distillation: bool,
    /// `same_dataset_within_batch`.
    pub same_dataset: bool,
}

/// What is known of a text before the rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// See [`super::duplicates::fingerprint`].
    pub fingerprint: u64,
    /// Unicode characters.
    pub characters: u64,
    /// Empty or white space.
    pub blank: bool,
}

impl Measured {
    /// Measures a text.
    pub fn of(text: &str) -> Self {
        Self {
            fingerprint: super::duplicates::fingerprint(text.as_bytes()),
            characters: bytecount::num_chars(text.as_bytes()) as u64,
            blank: text.trim_start().is_empty(),
        }
    }
}

/// One row with what was measured on it. Lists hold the elements of the right type only, with their position.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The row as written.
    pub view: &'a RecordView<'a>,
    /// The query, if it is a text.
    pub query: Option<Measured>,
    /// The positives.
    pub pos: &'a [Measured],
    /// The negatives.
    pub neg: &'a [Measured],
    /// The type of the file's first row; `None` on that row itself.
    pub first_type: Option<Option<&'a str>>,
}

/// Where findings of one row go.
#[derive(Debug)]
pub struct Findings<'a> {
    /// The log of all files.
    pub log: &'a mut IssueLog,
    /// The file.
    pub path: &'a str,
    /// Where the row begins.
    pub at: Position,
}

impl Findings<'_> {
    fn add(&mut self, code: &'static str, severity: Severity, field: &str, message: fmt::Arguments<'_>) {
        self.log.add(
            code,
            severity,
            Some(self.path),
            Some(self.at),
            Some(field),
            message,
        );
    }
}

/// All rules, in the order in which a reader would fix them.
pub const ALL: [fn(&Row<'_>, Mode, &mut Findings<'_>); 12] = [
    key_repeated,
    query_is_a_text,
    pos_is_a_list_of_texts,
    neg_is_a_list_of_texts,
    texts_are_not_null_words,
    passages_occur_once,
    query_is_no_passage,
    scores_fit,
    sizes_are_counts,
    optional_texts_are_texts,
    type_is_one_and_known,
    misspelt_columns,
];

/// The finding on a line that is no JSON object.
pub fn broken(broken: &Broken, findings: &mut Findings<'_>) {
    let code = match broken.kind {
        BrokenKind::Utf8 => codes::INVALID_UTF8,
        BrokenKind::NotFinite => codes::SCORE_NOT_FINITE,
        BrokenKind::NotObject => codes::NOT_OBJECT,
        BrokenKind::Truncated | BrokenKind::Syntax => codes::BROKEN_JSON,
    };
    let at = Position {
        line: findings.at.line + broken.line_offset,
        ..findings.at
    };
    let message = format_args!("{} (column {})", broken.message, broken.column);
    findings
        .log
        .add(code, Error, Some(findings.path), Some(at), None, message);
}

fn key_repeated(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    if let Some(key) = row.view.repeated_key {
        out.add(
            codes::KEY_REPEATED,
            Error,
            key,
            format_args!("occurs twice in the row; keep one"),
        );
    }
}

fn query_is_a_text(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    match &row.view.query {
        Slot::Absent => out.add(
            codes::QUERY_MISSING,
            Error,
            "query",
            format_args!(
                "is missing; every row needs one text{}",
                hint(row.view, &["queries", "question", "anchor", "text"])
            ),
        ),
        Slot::Null => out.add(
            codes::QUERY_MISSING,
            Error,
            "query",
            format_args!("is null; every row needs one text"),
        ),
        Slot::Wrong(kind) => {
            out.add(
                codes::WRONG_TYPE,
                Error,
                "query",
                format_args!("must be a text, found {kind}"),
            );
        }
        Slot::Given(_) if row.query.is_some_and(|query| query.blank) => {
            out.add(
                codes::QUERY_BLANK,
                Error,
                "query",
                format_args!("is blank; give a text or remove the row"),
            );
        }
        Slot::Given(_) => {}
    }
}

fn pos_is_a_list_of_texts(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    list_of_texts("pos", &row.view.pos, out);
    match &row.view.pos {
        Slot::Absent | Slot::Null => out.add(
            codes::POS_MISSING,
            Error,
            "pos",
            format_args!(
                "is missing; every row needs a list with at least one text{}",
                hint(
                    row.view,
                    &["positive", "positives", "positive_passages", "pos_text"]
                )
            ),
        ),
        Slot::Given(list) if list.is_empty() => {
            out.add(
                codes::POS_MISSING,
                Error,
                "pos",
                format_args!("is an empty list; give a positive or remove the row"),
            );
        }
        _ if row.pos.iter().any(|text| text.blank) => {
            out.add(
                codes::POS_BLANK,
                Error,
                "pos",
                format_args!("has a blank text; remove it"),
            );
        }
        _ => {}
    }
}

fn neg_is_a_list_of_texts(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    list_of_texts("neg", &row.view.neg, out);
    if row.neg.iter().any(|text| text.blank) {
        out.add(
            codes::NEG_BLANK,
            Warning,
            "neg",
            format_args!("has a blank text, which teaches nothing; remove it"),
        );
    }
}

fn list_of_texts(field: &str, slot: &SlotList<Cow<'_, str>>, out: &mut Findings<'_>) {
    match slot {
        Slot::Wrong("a text") => out.add(
            codes::WRONG_TYPE,
            Error,
            field,
            format_args!("must be a list of texts, found a text; put it in brackets: [\"...\"]"),
        ),
        Slot::Wrong(kind) => {
            out.add(
                codes::WRONG_TYPE,
                Error,
                field,
                format_args!("must be a list of texts, found {kind}"),
            );
        }
        Slot::Given(list) => {
            if let Some((at, kind)) = first_wrong(list) {
                out.add(
                    codes::WRONG_TYPE,
                    Error,
                    field,
                    format_args!("element {at} must be a text, found {kind}"),
                );
            }
        }
        Slot::Absent | Slot::Null => {}
    }
}

/// The first element that is not of the list's type, counted from 1, and what it is.
fn first_wrong<T>(list: &[Slot<T>]) -> Option<(usize, &'static str)> {
    list.iter().enumerate().find_map(|(at, element)| match element {
        Slot::Given(_) => None,
        Slot::Wrong(kind) => Some((at + 1, *kind)),
        Slot::Absent | Slot::Null => Some((at + 1, "null")),
    })
}

/// What pandas and Python write for "nothing" when it ends up in a text column.
fn texts_are_not_null_words(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    let is_word = |text: &str| matches!(text, "None" | "nan" | "NaN" | "null" | "NULL" | "<NA>");
    let mut look = |field: &str, text: &str| {
        if is_word(text) {
            out.add(
                codes::TEXT_IS_NULL_WORD,
                Warning,
                field,
                format_args!("is the word {text:?}; was it a missing value?"),
            );
        }
    };
    if let Some(text) = row.view.query.given() {
        look("query", text);
    }
    if let Some(text) = row.view.prompt.given() {
        look("prompt", text);
    }
    for (field, list) in [("pos", &row.view.pos), ("neg", &row.view.neg)] {
        let texts = list.given().into_iter().flatten().filter_map(Slot::given);
        if let Some(text) = texts.into_iter().find(|text| is_word(text)) {
            look(field, text);
        }
    }
}

fn passages_occur_once(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    let sorted = |texts: &[Measured]| {
        let mut prints: Vec<u64> = texts.iter().map(|text| text.fingerprint).collect();
        prints.sort_unstable();
        prints
    };
    let repeated = |prints: &[u64]| {
        prints
            .iter()
            .zip(prints.iter().skip(1))
            .filter(|(one, two)| one == two)
            .count()
    };
    let negatives = sorted(row.neg);
    let twice = repeated(&negatives);
    if twice > 0 {
        out.add(
            codes::NEG_REPEATED,
            Warning,
            "neg",
            format_args!("{twice} texts occur again in the list; keep each once"),
        );
    }
    if row.pos.len() > 1 {
        let twice = repeated(&sorted(row.pos));
        if twice > 0 {
            out.add(
                codes::POS_REPEATED,
                Warning,
                "pos",
                format_args!("{twice} texts occur again in the list; keep each once"),
            );
        }
    }
    let both = row
        .pos
        .iter()
        .filter(|text| negatives.binary_search(&text.fingerprint).is_ok())
        .count();
    if both > 0 {
        out.add(
            codes::POS_IS_NEG,
            Error,
            "neg",
            format_args!(
                "{both} positive text{} of this row too; remove from neg",
                if both == 1 {
                    " is a negative"
                } else {
                    "s are negatives"
                }
            ),
        );
    }
}

fn query_is_no_passage(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    let Some(query) = row.query.filter(|query| !query.blank) else {
        return;
    };
    let among = |texts: &[Measured]| texts.iter().any(|text| text.fingerprint == query.fingerprint);
    if among(row.pos) {
        out.add(
            codes::QUERY_IS_POS,
            Warning,
            "pos",
            format_args!("has the query itself, which teaches nothing; remove it"),
        );
    }
    if among(row.neg) {
        out.add(
            codes::QUERY_IS_NEG,
            Warning,
            "neg",
            format_args!("has the query itself; remove it"),
        );
    }
}

/// Score lists: needed with distillation, otherwise only looked at.
fn scores_fit(row: &Row<'_>, mode: Mode, out: &mut Findings<'_>) {
    let severity = if mode.distillation { Error } else { Warning };
    let texts = |slot: &SlotList<Cow<'_, str>>| slot.given().map_or(0, Vec::len);
    let lists = [
        ("pos_scores", &row.view.pos_scores, "pos", texts(&row.view.pos)),
        ("neg_scores", &row.view.neg_scores, "neg", texts(&row.view.neg)),
    ];
    let any = lists.iter().any(|(_, scores, ..)| !scores.is_absent());
    for (field, scores, of, texts) in lists {
        match scores {
            // In same-dataset mode a whole file may do without scores: that is judged per file.
            Slot::Absent | Slot::Null => {
                if mode.distillation && texts > 0 && (any || !mode.same_dataset) {
                    let message = format_args!(
                        "is missing, but knowledge_distillation needs a score for each text of {of}; `bge score` writes them"
                    );
                    out.add(codes::SCORES_MISSING, Error, field, message);
                }
            }
            Slot::Wrong(kind) => {
                out.add(
                    codes::WRONG_TYPE,
                    severity,
                    field,
                    format_args!("must be a list of numbers, found {kind}"),
                );
            }
            Slot::Given(list) => {
                if let Some((at, kind)) = first_wrong(list) {
                    out.add(
                        codes::WRONG_TYPE,
                        severity,
                        field,
                        format_args!("element {at} must be a number, found {kind}"),
                    );
                }
                if list.len() != texts {
                    let message = format_args!("has {} scores for {texts} texts of {of}", list.len());
                    out.add(codes::SCORES_MISCOUNTED, severity, field, message);
                }
                let finite = |score: &f64| (*score as f32).is_finite();
                if list.iter().filter_map(Slot::given).any(|score| !finite(score)) {
                    let message = format_args!("has a score that is not finite in 32 bits");
                    out.add(codes::SCORE_NOT_FINITE, severity, field, message);
                }
            }
        }
    }
}

fn sizes_are_counts(row: &Row<'_>, mode: Mode, out: &mut Findings<'_>) {
    let columns = [
        ("batch_size", &row.view.batch_size, codes::BATCH_SIZE),
        ("train_group_size", &row.view.train_group_size, codes::GROUP_SIZE),
    ];
    for (field, slot, code) in columns {
        match slot {
            Slot::Absent | Slot::Null => {}
            Slot::Wrong(kind) => {
                out.add(
                    codes::WRONG_TYPE,
                    Error,
                    field,
                    format_args!("must be a whole number, found {kind}"),
                );
            }
            Slot::Given(value) => match whole(*value) {
                None => out.add(
                    codes::WRONG_TYPE,
                    Error,
                    field,
                    format_args!("must be a whole number, found {value}"),
                ),
                Some(0) => {
                    let severity = if mode.same_dataset { Error } else { Warning };
                    out.add(
                        code,
                        severity,
                        field,
                        format_args!("is 0; give at least 1 or leave the column out"),
                    );
                }
                Some(_) => {}
            },
        }
    }
}

fn optional_texts_are_texts(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    for (field, slot) in [
        ("prompt", &row.view.prompt),
        ("query_prompt", &row.view.query_prompt),
        ("passage_prompt", &row.view.passage_prompt),
        ("type", &row.view.task_type),
        ("category", &row.view.category),
    ] {
        if let Slot::Wrong(kind) = slot {
            out.add(
                codes::WRONG_TYPE,
                Error,
                field,
                format_args!("must be a text, found {kind}"),
            );
        }
    }
}

fn type_is_one_and_known(row: &Row<'_>, mode: Mode, out: &mut Findings<'_>) {
    let own = row.view.task_type.given().map(Cow::as_ref);
    match row.first_type {
        None => {
            if let Some(name) = own.filter(|name| !TaskType::is_known(name)) {
                let rules = if TaskType::from_name(name) == TaskType::Normal {
                    "normal"
                } else {
                    "a symmetric task"
                };
                let message = format_args!("{name:?} has no rules of its own and is treated as {rules}");
                out.add(codes::TYPE_UNKNOWN, Info, "type", message);
            }
        }
        Some(first) if first != own => {
            let show = |name: Option<&str>| name.map_or("none".to_owned(), |name| format!("{name:?}"));
            let severity = if mode.same_dataset { Error } else { Warning };
            let message = format_args!(
                "is {}, but the file began with {}; one file, one type",
                show(own),
                show(first)
            );
            out.add(codes::TYPE_MIXED, severity, "type", message);
        }
        Some(_) => {}
    }
}

/// Columns that look like a misspelt known one; all others are merely carried along.
fn misspelt_columns(row: &Row<'_>, _: Mode, out: &mut Findings<'_>) {
    const NEAR: [(&str, &str); 12] = [
        ("negs", "neg"),
        ("negative", "neg"),
        ("negatives", "neg"),
        ("negative_passages", "neg"),
        ("hard_negatives", "neg"),
        ("pos_score", "pos_scores"),
        ("neg_score", "neg_scores"),
        ("positive_scores", "pos_scores"),
        ("negative_scores", "neg_scores"),
        ("instruction", "prompt"),
        ("task_type", "type"),
        ("group_size", "train_group_size"),
    ];
    for key in &row.view.other_keys {
        if let Some((_, meant)) = NEAR.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)) {
            out.add(
                codes::UNKNOWN_COLUMN,
                Warning,
                key,
                format_args!("is not read; was `{meant}` meant?"),
            );
        }
    }
}

/// Says where the missing column may be, when one of the row's other columns looks like it.
fn hint(view: &RecordView<'_>, names: &[&str]) -> String {
    let found = view
        .other_keys
        .iter()
        .find(|key| names.iter().any(|name| name.eq_ignore_ascii_case(key)));
    found.map_or_else(String::new, |key| format!("; rename the column `{key}`"))
}
