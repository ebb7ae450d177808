//! A training group: one query, one drawn positive, drawn negatives, and their teacher scores.
//!
//! Every draw depends on (seed, epoch, row) alone, so it is the same whatever rank, batch or thread makes it.

use std::borrow::Cow;

use super::record::TrainingRecord;
use super::template::Instructions;
use crate::error::{Error, ErrorKind, Result};
use crate::random::{Draws, Stream, key};

/// What one row gives to a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainGroup {
    /// The row, counted through all datasets.
    pub row: u64,
    /// The query with its instruction.
    pub query: String,
    /// The passages with theirs: the positive, then the negatives.
    pub passages: Vec<String>,
    /// The teacher's scores of the passages, in their order.
    pub teacher_scores: Option<Vec<f32>>,
}

/// How groups of one batch are drawn.
#[derive(Clone, Copy, Debug)]
pub struct DrawRules<'a> {
    /// Passages per query, at least 1.
    pub group_size: usize,
    /// Formats and instructions.
    pub instructions: &'a Instructions,
    /// Whether passages are formatted as queries (symmetric tasks).
    pub passages_are_queries: bool,
    /// Whether teacher scores are needed.
    pub scored: bool,
    /// Share of positives whose text is shuffled.
    pub shuffle_ratio: f64,
    /// Seed of all data draws of the run.
    pub seed: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
}

/// What to do about a reranker's row without negatives.
pub(super) const RERANKER_NEGATIVES: &str =
    "a reranker has no in-batch negatives; mine some for it, or leave the row out";

/// Draws the group of a row; an error has no path and line, the caller adds them.
///
/// One positive is drawn. Of more negatives than needed a subset is drawn; of exactly as many all are taken in the order of
/// the file; fewer are repeated in shuffled whole copies, so that each occurs.
pub fn draw(record: &TrainingRecord<'_>, row: u64, rules: &DrawRules<'_>) -> Result<TrainGroup> {
    let draws = |stream| Draws::new(key(key(rules.seed, stream, rules.epoch), stream, row));
    let mut random = draws(Stream::Group);
    if record.pos.is_empty() {
        return Err(Error::new(ErrorKind::InvalidData, "has no positive").with_field("pos"));
    }
    let positive = random.below(record.pos.len());
    let needed = rules.group_size.saturating_sub(1);
    let negatives = draw_negatives(record.neg.len(), needed, &mut random).ok_or_else(|| {
        let way_out = if rules.instructions.pairs() {
            RERANKER_NEGATIVES
        } else {
            "mine negatives, or set train_group_size 1 to use in-batch negatives only"
        };
        let message = format!("the row has no negatives, but {needed} are needed; {way_out}");
        Error::new(ErrorKind::InvalidData, message).with_field("neg")
    })?;

    let [query_prompt, passage_prompt] = rules.instructions.prompts([
        record.prompt.as_deref(),
        record.query_prompt.as_deref(),
        record.passage_prompt.as_deref(),
    ]);
    let passage = |text: &str| {
        rules
            .instructions
            .passage(text, passage_prompt, rules.passages_are_queries)
    };
    let mut passages = Vec::with_capacity(needed + 1);
    let text = record.pos.get(positive).map(Cow::as_ref).unwrap_or_default();
    passages.push(passage(&shuffle_text(
        text,
        rules.shuffle_ratio,
        &mut draws(Stream::TextShuffle),
    )));
    passages.extend(
        negatives
            .iter()
            .filter_map(|&index| record.neg.get(index))
            .map(|text| passage(text)),
    );

    let teacher_scores = rules
        .scored
        .then(|| teacher_scores(record, positive, &negatives))
        .transpose()?;
    Ok(TrainGroup {
        row,
        query: rules.instructions.query(&record.query, query_prompt),
        passages,
        teacher_scores,
    })
}

/// Indices of `needed` out of `count` negatives, or `None` if some are needed and there are none.
fn draw_negatives(count: usize, needed: usize, random: &mut Draws) -> Option<Vec<usize>> {
    if needed == 0 {
        return Some(Vec::new());
    }
    if count == 0 {
        return None;
    }
    if count == needed {
        return Some((0..count).collect());
    }
    let mut drawn = Vec::with_capacity(needed);
    while drawn.len() < needed {
        let mut copy: Vec<usize> = (0..count).collect();
        let take = count.min(needed - drawn.len());
        for at in 0..take {
            copy.swap(at, at + random.below(count - at));
        }
        drawn.extend_from_slice(copy.get(..take).unwrap_or_default());
    }
    Some(drawn)
}

/// With probability `ratio`, a text of more than 100 characters is cut into thirds that change places.
///
/// The chunk length is `len / 3 + 1` characters and the chunks are joined with spaces, as in FlagEmbedding.
fn shuffle_text<'a>(text: &'a str, ratio: f64, random: &mut Draws) -> Cow<'a, str> {
    if ratio <= 0.0 || random.unit() >= ratio {
        return Cow::Borrowed(text);
    }
    let characters = text.chars().count();
    if characters <= 100 {
        return Cow::Borrowed(text);
    }
    let length = characters / 3 + 1;
    let cut = |nth: usize| text.char_indices().nth(nth).map_or(text.len(), |(at, _)| at);
    let (one, two) = (cut(length), cut(2 * length));
    let mut chunks = [&text[..one], &text[one..two], &text[two..]];
    random.shuffle(&mut chunks);
    Cow::Owned(chunks.join(" "))
}

fn teacher_scores(record: &TrainingRecord<'_>, positive: usize, negatives: &[usize]) -> Result<Vec<f32>> {
    let all = |field: &str, scores: &Option<Vec<f32>>, texts: usize| {
        match scores {
        None => Err(Error::new(
            ErrorKind::InvalidData,
            "knowledge_distillation is on, but the row has no scores; score it or leave the scores out of the whole file",
        )
        .with_field(field)),
        Some(scores) if scores.len() != texts => Err(Error::new(
            ErrorKind::InvalidData,
            format!("has {} scores for {texts} texts; give one for each", scores.len()),
        )
        .with_field(field)),
        Some(scores) if scores.iter().any(|score| !score.is_finite()) => {
            Err(Error::new(ErrorKind::InvalidData, "has a score that is not finite").with_field(field))
        }
        Some(_) => Ok(()),
    }
    };
    all("pos_scores", &record.pos_scores, record.pos.len())?;
    if !negatives.is_empty() {
        all("neg_scores", &record.neg_scores, record.neg.len())?;
    }
    let score = |scores: &Option<Vec<f32>>, index: usize| scores.as_ref().and_then(|s| s.get(index)).copied();
    Ok(score(&record.pos_scores, positive)
        .into_iter()
        .chain(
            negatives
                .iter()
                .filter_map(|&index| score(&record.neg_scores, index)),
        )
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::DataArguments;

    fn record(pos: usize, neg: usize) -> TrainingRecord<'static> {
        TrainingRecord {
            query: "q".into(),
            pos: (0..pos).map(|i| format!("p{i}").into()).collect(),
            neg: (0..neg).map(|i| format!("n{i}").into()).collect(),
            pos_scores: Some((0..pos).map(|i| 100.0 + i as f32).collect()),
            neg_scores: Some((0..neg).map(|i| i as f32).collect()),
            ..TrainingRecord::default()
        }
    }

    fn rules(instructions: &Instructions, group_size: usize) -> DrawRules<'_> {
        DrawRules {
            group_size,
            instructions,
            passages_are_queries: false,
            scored: true,
            shuffle_ratio: 0.0,
            seed: 42,
            epoch: 0,
        }
    }

    #[test]
    fn scores_follow_their_passages() {
        let instructions = Instructions::new(&DataArguments::default()).unwrap();
        for row in 0..200 {
            let group = draw(&record(3, 10), row, &rules(&instructions, 5)).unwrap();
            assert_eq!(group.passages.iter().collect::<BTreeSet<_>>().len(), 5);
            for (passage, score) in group.passages.iter().zip(group.teacher_scores.unwrap()) {
                let number: f32 = passage[1..].parse().unwrap();
                let expected = if passage.starts_with('p') {
                    100.0 + number
                } else {
                    number
                };
                assert_eq!(score, expected);
            }
        }
    }

    #[test]
    fn all_negatives_once_keep_the_order_of_the_file() {
        let instructions = Instructions::new(&DataArguments::default()).unwrap();
        let group = draw(&record(1, 7), 3, &rules(&instructions, 8)).unwrap();
        assert_eq!(group.passages, ["p0", "n0", "n1", "n2", "n3", "n4", "n5", "n6"]);
    }

    #[test]
    fn repeated_negatives_miss_none() {
        let instructions = Instructions::new(&DataArguments::default()).unwrap();
        for row in 0..100 {
            let group = draw(&record(1, 5), row, &rules(&instructions, 13)).unwrap();
            for n in 0..5 {
                let times = group.passages.iter().filter(|p| **p == format!("n{n}")).count();
                assert!((2..=3).contains(&times), "{:?}", group.passages);
            }
        }
    }

    #[test]
    fn a_draw_depends_on_seed_epoch_and_row_only() {
        let instructions = Instructions::new(&DataArguments::default()).unwrap();
        let base = rules(&instructions, 4);
        let of = |row, rules: &DrawRules<'_>| draw(&record(4, 30), row, rules).unwrap().passages;
        assert_eq!(of(1, &base), of(1, &base));
        assert_ne!(of(1, &base), of(2, &base));
        assert_ne!(of(1, &base), of(1, &DrawRules { epoch: 1, ..base }));
        assert_ne!(of(1, &base), of(1, &DrawRules { seed: 43, ..base }));
    }

    #[test]
    fn an_empty_neg_gives_pairs_or_is_refused() {
        let instructions = Instructions::new(&DataArguments::default()).unwrap();
        let group = draw(&record(1, 0), 0, &rules(&instructions, 1)).unwrap();
        assert_eq!(group.passages, ["p0"]);
        assert_eq!(group.teacher_scores, Some(vec![100.0]));
        let error = draw(&record(1, 0), 0, &rules(&instructions, 2)).unwrap_err();
        assert!(error.to_string().contains("train_group_size 1"), "{error}");
    }

    #[test]
    fn a_shuffled_text_keeps_its_characters() {
        let long = "0123456789".repeat(10) + "äöü";
        let length = 103 / 3 + 1;
        let mut changed = 0;
        for seed in 0..50 {
            let shuffled = shuffle_text(&long, 1.0, &mut Draws::new(seed));
            assert_eq!(shuffled.chars().count(), 103 + 2);
            assert!(
                shuffled
                    .split(' ')
                    .all(|chunk| long.contains(chunk) && chunk.chars().count() <= length)
            );
            changed += usize::from(shuffled.replace(' ', "") != long);
        }
        assert!(changed > 25);
        assert_eq!(shuffle_text(&long[..100], 1.0, &mut Draws::new(1)), &long[..100]);
        assert_eq!(shuffle_text(&long, 0.0, &mut Draws::new(1)), long);
    }
}
