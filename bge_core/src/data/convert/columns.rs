//! Which column is what, and a row put together from its cells.

use serde_json::{Map, Number, Value};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Query,
    Positive,
    Negative,
    PositiveScore,
    NegativeScore,
    /// A score of the pair, or a list with one of each passage.
    Score,
    /// Of a pair, 0 and 1 say whether it belongs together, and what is between them is a score. Of more passages, as a score.
    Label,
    /// A list of query, positive and negatives.
    Texts,
    /// A list of a query and positives.
    Set,
    /// A text that training rows have, too, under this name.
    Kept(&'static str),
    Unused,
}

/// The names of columns, where they are none of those that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnNames {
    /// The column of queries.
    pub query: Option<String>,
    /// The columns of positives.
    pub positives: Vec<String>,
    /// The columns of negatives.
    pub negatives: Vec<String>,
    /// The column of scores.
    pub score: Option<String>,
}

/// The names that are known, for messages.
pub(super) const KNOWN: &str = "anchor, query or question; positive, pos or answer; negative, neg or negative_1, negative_2, ...; score or label";

impl ColumnNames {
    /// What a column of this name holds.
    pub(super) fn role(&self, name: &str) -> Column {
        let name = name.trim();
        if self.query.as_deref() == Some(name) {
            return Column::Query;
        }
        if self.positives.iter().any(|own| own == name) {
            return Column::Positive;
        }
        if self.negatives.iter().any(|own| own == name) {
            return Column::Negative;
        }
        if self.score.as_deref() == Some(name) {
            return Column::Score;
        }
        let found = known(name);
        // A name that was given stands for all that are known.
        let replaced = match found {
            Column::Query => self.query.is_some(),
            Column::Positive => !self.positives.is_empty(),
            Column::Negative => !self.negatives.is_empty(),
            Column::Score | Column::Label => self.score.is_some(),
            _ => false,
        };
        if replaced { Column::Unused } else { found }
    }
}

fn known(name: &str) -> Column {
    let name: String = name
        .chars()
        .map(|c| match c {
            ' ' | '-' => '_',
            c => c.to_ascii_lowercase(),
        })
        .collect();
    match name.as_str() {
        "sentence1" | "sentence_1" => return Column::Query,
        "sentence2" | "sentence_2" => return Column::Positive,
        _ => {}
    }
    let stem = name
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches('_');
    match stem {
        "query" | "anchor" | "question" => Column::Query,
        "pos" | "positive" | "positives" | "answer" | "answers" => Column::Positive,
        "neg" | "negative" | "negatives" | "hard_negative" | "hard_negatives" => Column::Negative,
        "pos_score" | "pos_scores" | "positive_score" | "positive_scores" => Column::PositiveScore,
        "neg_score" | "neg_scores" | "negative_score" | "negative_scores" => Column::NegativeScore,
        "score" | "scores" | "similarity" | "similarity_score" => Column::Score,
        "label" | "labels" => Column::Label,
        "texts" => Column::Texts,
        "set" => Column::Set,
        "prompt" => Column::Kept("prompt"),
        "query_prompt" => Column::Kept("query_prompt"),
        "passage_prompt" => Column::Kept("passage_prompt"),
        "type" => Column::Kept("type"),
        "category" => Column::Kept("category"),
        _ => Column::Unused,
    }
}

/// A passage with its teacher's score, if it has one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Passage {
    pub(super) text: String,
    pub(super) score: Option<f64>,
}

impl Passage {
    pub(super) fn plain(text: String) -> Self {
        Self { text, score: None }
    }
}

/// A row of training data.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) query: String,
    pub(super) pos: Vec<Passage>,
    pub(super) neg: Vec<Passage>,
    pub(super) kept: Map<String, Value>,
    /// Scores that no passage could take.
    pub(super) score_unused: bool,
    /// The score of a pair, which is a positive whatever its score.
    pub(super) pair_score: Option<f64>,
}

/// The cells of a row, by what they are. Empty texts are `None`: they keep their place beside the scores.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) queries: Vec<String>,
    pub(super) pos: Vec<Option<String>>,
    pub(super) neg: Vec<Option<String>>,
    pub(super) pos_scores: Vec<Option<f64>>,
    pub(super) neg_scores: Vec<Option<f64>>,
    pub(super) scores: Vec<f64>,
    /// Whether `scores` came from a label.
    pub(super) is_label: bool,
    pub(super) kept: Map<String, Value>,
}

/// A text that says something.
pub(super) fn said(text: &str) -> Option<String> {
    (!text.trim().is_empty()).then(|| text.to_owned())
}

impl Cells {
    /// Keeps a text of a column that training rows have, too.
    pub(super) fn keep(&mut self, name: &str, text: String) -> Result<(), String> {
        match self.kept.insert(name.to_owned(), Value::String(text)) {
            None => Ok(()),
            Some(_) => Err(format!(
                "two columns are the row's `{name}`; rename or remove one of them"
            )),
        }
    }

    /// The row, or why it is none.
    pub(super) fn row(mut self) -> Result<Row, String> {
        if self.queries.len() > 1 {
            return Err("it has two queries; rename or remove one of them".into());
        }
        let query = self.queries.pop().and_then(|query| said(&query));
        let query = query.ok_or("the query is empty")?;
        let (mut score_unused, mut pair_score) = (false, None);
        let is_pair = self.pos.len() == 1 && self.neg.is_empty();
        match self.scores.as_slice() {
            [] => {}
            [label] if self.is_label && is_pair && *label == 0.0 => {
                self.neg = std::mem::take(&mut self.pos);
            }
            [label] if self.is_label && is_pair && *label == 1.0 => {}
            [label] if self.is_label && is_pair && !(0.0..1.0).contains(label) => {
                return Err(format!(
                    "the label {label} is neither 0 nor 1 nor a score between them; NLI's classes must be mapped first: \
                     entailment to 1, neutral and contradiction to 0"
                ));
            }
            [score] if is_pair => {
                self.pos_scores = vec![Some(*score)];
                pair_score = Some(*score);
            }
            // One of each passage, in their order.
            scores if scores.len() == self.pos.len() + self.neg.len() => {
                let (pos, neg) = scores.split_at(self.pos.len());
                self.pos_scores = pos.iter().copied().map(Some).collect();
                self.neg_scores = neg.iter().copied().map(Some).collect();
            }
            _ => score_unused = true,
        }
        let mut join = |texts: Vec<Option<String>>, mut scores: Vec<Option<f64>>| -> Vec<Passage> {
            if scores.len() != texts.len() {
                score_unused |= scores.iter().any(Option::is_some);
                scores = vec![None; texts.len()];
            }
            let pairs = texts.into_iter().zip(scores);
            pairs
                .filter_map(|(text, score)| text.map(|text| Passage { text, score }))
                .collect()
        };
        let pos = join(self.pos, self.pos_scores);
        let neg = join(self.neg, self.neg_scores);
        if pos.is_empty() && neg.is_empty() {
            return Err("it has no positive with text".into());
        }
        Ok(Row {
            query,
            pos,
            neg,
            kept: self.kept,
            score_unused,
            pair_score,
        })
    }
}

impl Row {
    /// Drops what is there twice, and negatives that are positives.
    pub(super) fn tidy(&mut self) {
        let mut seen = std::collections::HashSet::new();
        for list in [&mut self.pos, &mut self.neg] {
            list.retain(|passage| seen.insert(passage.text.clone()));
        }
    }

    /// Writes the row; says whether scores were left out because some passages have none.
    pub(super) fn write(self, out: &mut Vec<u8>) -> bool {
        let scores = |list: &[Passage]| -> Vec<Option<f64>> { list.iter().map(|one| one.score).collect() };
        let (pos_scores, neg_scores) = (scores(&self.pos), scores(&self.neg));
        let all = || pos_scores.iter().chain(&neg_scores);
        let scored = all().all(Option::is_some);
        let lost = !scored && all().any(Option::is_some);
        let texts = |list: Vec<Passage>| -> Value {
            list.into_iter()
                .map(|passage| Value::String(passage.text))
                .collect()
        };
        let numbers =
            |list: &[Option<f64>]| -> Value { list.iter().flatten().map(|score| number(*score)).collect() };
        let mut row = Map::new();
        row.insert("query".into(), Value::String(self.query));
        row.insert("pos".into(), texts(self.pos));
        row.insert("neg".into(), texts(self.neg));
        if scored {
            row.insert("pos_scores".into(), numbers(&pos_scores));
            row.insert("neg_scores".into(), numbers(&neg_scores));
        }
        row.extend(self.kept);
        out.extend_from_slice(Value::Object(row).to_string().as_bytes());
        out.push(b'\n');
        lost
    }
}

/// Whole numbers without a point.
fn number(score: f64) -> Value {
    if score.fract() == 0.0 && score.abs() < 1e15 {
        return Value::from(score as i64);
    }
    Number::from_f64(score).map_or(Value::Null, Value::Number)
}
