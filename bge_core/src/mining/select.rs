//! From the hits of a row to its negatives: what is left out, by which rule, and what is drawn.
//!
//! The rules are those of sentence-transformers' `mine_hard_negatives` in their order: `absolute_margin`,
//! `relative_margin`, `max_score`, `min_score`. Of several positives the one with the lowest score counts. The window of
//! ranks is FlagEmbedding's (`hn_mine.py`): counted before anything is left out.

use super::heads::HeadScores;
use crate::config::{MineArguments, SamplingStrategy};
use crate::random::{Draws, Stream, key};
use crate::search::Hit;

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is a negative of the row.
    Chosen,
    /// It passed every rule and was not drawn.
    NotSampled,
    /// Its rank is before the range.
    OutsideRange,
    /// It is a positive of the same query, on this line or another.
    Positive,
    /// It differs from a positive of the same query in case and white space only.
    PositiveVariant,
    /// It is the query, or differs from it in case and white space only.
    Query,
    /// It fails `absolute_margin`.
    AbsoluteMargin,
    /// It fails `relative_margin`.
    RelativeMargin,
    /// It fails `max_score`.
    MaxScore,
    /// It fails `min_score`.
    MinScore,
    /// It is a negative of the row, drawn from the whole corpus to fill the list.
    Filled,
}

impl Verdict {
    /// Every verdict, in the order of declaration.
    pub const ALL: [Self; 11] = [
        Self::Chosen,
        Self::NotSampled,
        Self::OutsideRange,
        Self::Positive,
        Self::PositiveVariant,
        Self::Query,
        Self::AbsoluteMargin,
        Self::RelativeMargin,
        Self::MaxScore,
        Self::MinScore,
        Self::Filled,
    ];

    /// The word in the ledger and in the report.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::NotSampled => "not_sampled",
            Self::OutsideRange => "outside_range",
            Self::Positive => "positive",
            Self::PositiveVariant => "positive_variant",
            Self::Query => "query",
            Self::AbsoluteMargin => "absolute_margin",
            Self::RelativeMargin => "relative_margin",
            Self::MaxScore => "max_score",
            Self::MinScore => "min_score",
            Self::Filled => "filled",
        }
    }

    /// Whether the candidate is no negative because of what it says, whatever its score.
    pub(super) const fn is_known(self) -> bool {
        matches!(self, Self::Positive | Self::PositiveVariant | Self::Query)
    }
}

/// One text that was looked at for a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// The number of the text.
    pub(super) text: u32,
    /// Its place among the hits, counted from 0; none for a filled one.
    pub(super) rank: Option<u32>,
    /// The embedder's score; none for a filled one.
    pub(super) score: Option<f64>,
    /// The cross-encoder's.
    pub(super) reranked: Option<f64>,
    /// What each head says, where there are several.
    pub(super) heads: Option<HeadScores>,
    pub(super) verdict: Verdict,
}

impl Candidate {
    /// The score that decides.
    pub(super) fn deciding(&self) -> f64 {
        self.reranked.or(self.score).unwrap_or(f64::NEG_INFINITY)
    }
}

/// The settings of a selection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rules {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) number: usize,
    pub(super) strategy: SamplingStrategy,
    pub(super) seed: u64,
    pub(super) fill: bool,
    pub(super) absolute_margin: Option<f64>,
    pub(super) relative_margin: Option<f64>,
    pub(super) max_score: Option<f64>,
    pub(super) min_score: Option<f64>,
}

impl Rules {
    pub(super) fn new(arguments: &MineArguments) -> Result<Self, String> {
        let (start, end) = arguments.ranks()?;
        Ok(Self {
            start,
            end,
            number: arguments.negative_number,
            strategy: arguments.sampling_strategy,
            seed: arguments.seed,
            fill: arguments.fill_negatives,
            absolute_margin: arguments.absolute_margin,
            relative_margin: arguments.relative_margin,
            max_score: arguments.max_score,
            min_score: arguments.min_score,
        })
    }
}

/// What a row must not get: its positives, their variants, and its query.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    /// The texts that are positives of the query, in order.
    pub(super) positives: &'a [u32],
    /// The fingerprints of their plain forms.
    pub(super) plains: Vec<u64>,
    /// The fingerprint of the query's plain form.
    pub(super) query: u64,
}

impl Known<'_> {
    /// What a text is to the row, by itself.
    pub(super) fn verdict(&self, text: u32, plain: u64) -> Option<Verdict> {
        if self.positives.binary_search(&text).is_ok() {
            Some(Verdict::Positive)
        } else if plain == self.query {
            Some(Verdict::Query)
        } else if self.plains.contains(&plain) {
            Some(Verdict::PositiveVariant)
        } else {
            None
        }
    }
}

/// Looks at the hits of a row without their scores; `plain` is the fingerprint of a text's plain form.
pub(super) fn look(
    hits: &[Hit],
    known: &Known<'_>,
    rules: &Rules,
    plain: impl Fn(u32) -> u64,
) -> Vec<Candidate> {
    let verdict = |rank: usize, text: u32| match known.verdict(text, plain(text)) {
        Some(verdict) => verdict,
        None if rank < rules.start => Verdict::OutsideRange,
        None => Verdict::NotSampled,
    };
    let hits = hits.iter().take(rules.end).enumerate();
    hits.map(|(rank, hit)| Candidate {
        text: hit.id,
        rank: Some(rank as u32),
        score: Some(hit.score),
        reranked: None,
        heads: None,
        verdict: verdict(rank, hit.id),
    })
    .collect()
}

/// Holds the candidates in the range against the rules about scores; `positive` is the lowest score of a positive.
pub(super) fn judge(candidates: &mut [Candidate], positive: Option<f64>, rules: &Rules) {
    for candidate in candidates.iter_mut().filter(|c| c.verdict == Verdict::NotSampled) {
        if let Some(verdict) = broken_rule(candidate.deciding(), positive, rules) {
            candidate.verdict = verdict;
        }
    }
}

/// The first rule that a score breaks.
pub(super) fn broken_rule(score: f64, positive: Option<f64>, rules: &Rules) -> Option<Verdict> {
    let against = |margin: Option<f64>| margin.zip(positive);
    if let Some((margin, positive)) = against(rules.absolute_margin)
        && score + margin > positive
    {
        return Some(Verdict::AbsoluteMargin);
    }
    if let Some((margin, positive)) = against(rules.relative_margin)
        && score > positive - positive.abs() * margin
    {
        return Some(Verdict::RelativeMargin);
    }
    if rules.max_score.is_some_and(|max| score > max) {
        return Some(Verdict::MaxScore);
    }
    if rules.min_score.is_some_and(|min| score < min) {
        return Some(Verdict::MinScore);
    }
    None
}

/// Chooses negatives among the candidates that are left, and returns the draws of the row where they stand.
pub(super) fn choose(candidates: &mut [Candidate], rules: &Rules, row: usize) -> Draws {
    let mut draws = Draws::new(key(rules.seed, Stream::Negatives, row as u64));
    let mut open: Vec<usize> = (0..candidates.len())
        .filter(|&index| {
            candidates
                .get(index)
                .is_some_and(|c| c.verdict == Verdict::NotSampled)
        })
        .collect();
    match rules.strategy {
        SamplingStrategy::Top => {
            // Stable: equal scores stay in the order of their ranks.
            open.sort_by(|a, b| {
                let score = |index: &usize| {
                    candidates
                        .get(*index)
                        .map_or(f64::NEG_INFINITY, Candidate::deciding)
                };
                score(b).total_cmp(&score(a))
            });
            open.truncate(rules.number);
        }
        SamplingStrategy::Random => {
            // Knuth, The Art of Computer Programming, volume 2, algorithm 3.4.2 S.
            let (mut left, mut needed) = (open.len(), rules.number);
            open.retain(|_| {
                let keep = needed > 0 && draws.below(left) < needed;
                left -= 1;
                needed -= usize::from(keep);
                keep
            });
        }
    }
    for index in open {
        if let Some(candidate) = candidates.get_mut(index) {
            candidate.verdict = Verdict::Chosen;
        }
    }
    draws
}

/// Texts to fill a list of negatives with: uniform draws from the corpus without repetition, never one that the row knows
/// or that was looked at before: it was chosen already, or left out for a reason.
pub(super) fn fill(
    candidates: &[Candidate],
    known: &Known<'_>,
    rules: &Rules,
    texts: usize,
    draws: &mut Draws,
    plain: impl Fn(u32) -> u64,
) -> Vec<Candidate> {
    let chosen = candidates.iter().filter(|c| c.verdict == Verdict::Chosen).count();
    let missing = rules.number.saturating_sub(chosen);
    let mut taken: Vec<u32> = candidates.iter().map(|c| c.text).collect();
    taken.sort_unstable();
    let fits = |text: u32, filled: &[Candidate]| {
        taken.binary_search(&text).is_err()
            && known.verdict(text, plain(text)).is_none()
            && !filled.iter().any(|c| c.text == text)
    };
    let new = |text: u32| Candidate {
        text,
        rank: None,
        score: None,
        reranked: None,
        heads: None,
        verdict: Verdict::Filled,
    };
    let mut filled: Vec<Candidate> = Vec::new();
    // In a large corpus nearly every draw fits. In a small one the texts that fit are listed and drawn from.
    for _ in 0..missing.saturating_mul(8) {
        if filled.len() == missing || texts == 0 {
            return filled;
        }
        let text = draws.below(texts) as u32;
        if fits(text, &filled) {
            filled.push(new(text));
        }
    }
    let mut rest: Vec<u32> = (0..texts as u32).filter(|text| fits(*text, &filled)).collect();
    while filled.len() < missing && !rest.is_empty() {
        let index = draws.below(rest.len());
        filled.push(new(rest.swap_remove(index)));
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            start: 0,
            end: 100,
            number: 3,
            strategy: SamplingStrategy::Top,
            seed: 42,
            fill: false,
            absolute_margin: None,
            relative_margin: None,
            max_score: None,
            min_score: None,
        }
    }

    fn known(positives: &[u32]) -> Known<'_> {
        let plains = positives.iter().map(|text| u64::from(*text)).collect();
        Known {
            positives,
            plains,
            query: 999,
        }
    }

    fn hits(scores: &[f64]) -> Vec<Hit> {
        (0..)
            .zip(scores)
            .map(|(id, score)| Hit { id, score: *score })
            .collect()
    }

    fn verdicts(candidates: &[Candidate]) -> Vec<Verdict> {
        candidates.iter().map(|c| c.verdict).collect()
    }

    #[test]
    fn the_window_is_counted_before_anything_is_left_out() {
        let rules = Rules {
            start: 2,
            end: 6,
            ..rules()
        };
        // 12 is a variant of the positive 3, 13 of the query.
        let plain = |text: u32| match text {
            12 => 3,
            13 => 999,
            text => u64::from(text),
        };
        let mut found = hits(&[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]);
        found[4].id = 12;
        found[5].id = 13;
        let looked = look(&found, &known(&[1, 3]), &rules, plain);
        use Verdict::{NotSampled, OutsideRange, Positive, PositiveVariant, Query};
        assert_eq!(
            verdicts(&looked),
            [
                OutsideRange,
                Positive,
                NotSampled,
                Positive,
                PositiveVariant,
                Query
            ]
        );
    }

    #[test]
    fn rules_are_those_of_sentence_transformers() {
        use Verdict::{AbsoluteMargin, MaxScore, MinScore, RelativeMargin};
        let cases = [
            // The score at the margin itself passes, as there.
            (
                0.5,
                Some(0.6),
                Rules {
                    absolute_margin: Some(0.125),
                    ..rules()
                },
                Some(AbsoluteMargin),
            ),
            (
                0.5,
                Some(0.625),
                Rules {
                    absolute_margin: Some(0.125),
                    ..rules()
                },
                None,
            ),
            (
                0.95,
                Some(1.0),
                Rules {
                    relative_margin: Some(0.05),
                    ..rules()
                },
                None,
            ),
            (
                0.96,
                Some(1.0),
                Rules {
                    relative_margin: Some(0.05),
                    ..rules()
                },
                Some(RelativeMargin),
            ),
            // A negative positive score lowers the limit too.
            (
                -1.02,
                Some(-1.0),
                Rules {
                    relative_margin: Some(0.05),
                    ..rules()
                },
                Some(RelativeMargin),
            ),
            (
                -1.06,
                Some(-1.0),
                Rules {
                    relative_margin: Some(0.05),
                    ..rules()
                },
                None,
            ),
            (
                0.8,
                None,
                Rules {
                    max_score: Some(0.8),
                    ..rules()
                },
                None,
            ),
            (
                0.81,
                None,
                Rules {
                    max_score: Some(0.8),
                    ..rules()
                },
                Some(MaxScore),
            ),
            (
                0.2,
                None,
                Rules {
                    min_score: Some(0.2),
                    ..rules()
                },
                None,
            ),
            (
                0.19,
                None,
                Rules {
                    min_score: Some(0.2),
                    ..rules()
                },
                Some(MinScore),
            ),
            (
                0.9,
                Some(0.9),
                Rules {
                    absolute_margin: Some(0.1),
                    max_score: Some(0.5),
                    ..rules()
                },
                Some(AbsoluteMargin),
            ),
        ];
        for (score, positive, rules, expected) in cases {
            assert_eq!(
                broken_rule(score, positive, &rules),
                expected,
                "{score} {positive:?} {rules:?}"
            );
        }
    }

    #[test]
    fn a_cross_encoder_decides_rules_and_order() {
        let rules = Rules {
            max_score: Some(2.0),
            number: 2,
            ..rules()
        };
        let mut looked = look(&hits(&[0.9, 0.8, 0.7, 0.6]), &known(&[]), &rules, u64::from);
        for (candidate, score) in looked.iter_mut().zip([-1.0, 5.0, 1.0, 0.0]) {
            candidate.reranked = Some(score);
        }
        judge(&mut looked, None, &rules);
        choose(&mut looked, &rules, 0);
        use Verdict::{Chosen, MaxScore, NotSampled};
        assert_eq!(verdicts(&looked), [NotSampled, MaxScore, Chosen, Chosen]);
    }

    #[test]
    fn draws_depend_on_seed_and_row_only_and_are_uniform() {
        let mut counts = [0_u32; 12];
        for row in 0..6000 {
            let rules = Rules {
                strategy: SamplingStrategy::Random,
                ..rules()
            };
            let mut looked = look(&hits(&[0.5; 12]), &known(&[]), &rules, u64::from);
            let mut again = looked.clone();
            choose(&mut looked, &rules, row);
            choose(&mut again, &rules, row);
            assert_eq!(looked, again);
            let chosen = looked.iter().filter(|c| c.verdict == Verdict::Chosen);
            let chosen: Vec<u32> = chosen.map(|c| c.text).collect();
            assert_eq!(chosen.len(), 3);
            for text in chosen {
                counts[text as usize] += 1;
            }
        }
        assert!(
            counts.iter().all(|count| (1350..1650).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn a_short_list_is_filled_without_repetition_and_never_with_what_is_known() {
        let rules = Rules {
            number: 6,
            end: 3,
            max_score: Some(0.85),
            ..rules()
        };
        let positives = [0, 4];
        for texts in [3, 8, 10, 500] {
            let mut looked = look(&hits(&[0.9, 0.8, 0.9]), &known(&positives), &rules, u64::from);
            judge(&mut looked, None, &rules);
            let mut draws = choose(&mut looked, &rules, 1);
            let plain = |text: u32| if text == 5 { 999 } else { u64::from(text) };
            let filled = fill(&looked, &known(&positives), &rules, texts, &mut draws, plain);
            let mut numbers: Vec<u32> = filled.iter().map(|c| c.text).collect();
            numbers.sort_unstable();
            let before = numbers.len();
            numbers.dedup();
            assert_eq!(numbers.len(), before);
            // 1 is chosen, 0 and 4 are positives, 2 fails a rule, 5 is the query.
            assert!(
                numbers
                    .iter()
                    .all(|text| ![0, 1, 2, 4, 5].contains(text) && (*text as usize) < texts)
            );
            assert_eq!(
                before,
                [0, 3, 5, 5][[3, 8, 10, 500].iter().position(|n| *n == texts).unwrap()]
            );
        }
    }
}
