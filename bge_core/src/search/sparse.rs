//! Texts by the weights of their tokens: an inverted index, exact, with the order of the dense search.
//!
//! For each token id the index lists the texts that have it and its weight there. A score is the sum of the products of the
//! weights of shared tokens, in f64 and in the order of the ids, so it is the same on every machine. Texts without a shared
//! token are no hits.

use rayon::prelude::*;

use super::Hit;
use crate::error::{Result, bail};

/// The weight of each token id of a text, in the order of the ids.
pub type TokenWeights = [(u32, f32)];

/// The texts of an index while they are gathered.
#[derive(Clone, Debug, Default)]
pub struct SparseTexts {
    /// Ends of the texts in `terms`.
    ends: Vec<usize>,
    terms: Vec<(u32, f32)>,
}

impl SparseTexts {
    /// Adds a text. Ids must ascend; a weight that is not finite is an error.
    pub fn push(&mut self, terms: impl IntoIterator<Item = (u32, f32)>) -> Result<()> {
        let start = self.terms.len();
        self.terms.extend(terms);
        let added = self.terms.get(start..).unwrap_or_default();
        if let Some((id, weight)) = added.iter().find(|(_, weight)| !weight.is_finite()) {
            bail!(
                NotFinite,
                "the weight of token {id} in text {} is {weight}; the model is damaged or its training diverged",
                self.ends.len() + 1
            );
        }
        if !added.is_sorted_by(|a, b| a.0 < b.0) {
            bail!(InvalidArgument, "the token ids of a text must ascend");
        }
        self.ends.push(self.terms.len());
        Ok(())
    }

    /// How many texts there are.
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The terms of a text; none where there is no such text.
    pub fn text(&self, text: usize) -> &TokenWeights {
        let start = text
            .checked_sub(1)
            .map_or(Some(0), |before| self.ends.get(before).copied());
        let range = start.zip(self.ends.get(text)).map(|(start, end)| start..*end);
        range.and_then(|range| self.terms.get(range)).unwrap_or_default()
    }
}

/// What a search found for a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseHits {
    /// The best texts, the greatest score first, equal ones by their place.
    pub hits: Vec<Hit>,
    /// The scores of the texts that were asked about, in their order.
    pub scores: Vec<f64>,
}

/// Finds the texts that share the heaviest tokens with a query. Eight bytes for each token of a text.
#[derive(Clone, Debug)]
pub struct SparseIndex {
    /// Where the postings of a token id begin; one more at the end.
    starts: Vec<usize>,
    /// (text, weight), by token, then by text.
    postings: Vec<(u32, f32)>,
    texts: usize,
    /// For each text its place among texts of equal score; without them the number of the text.
    places: Option<Vec<u32>>,
}

impl SparseIndex {
    /// Turns texts around.
    pub fn new(texts: &SparseTexts) -> Result<Self> {
        if u32::try_from(texts.len()).is_err() {
            bail!(
                Unsupported,
                "a search takes at most 4294967295 texts, not {}",
                texts.len()
            );
        }
        let tokens = texts
            .terms
            .iter()
            .map(|(id, _)| *id as usize + 1)
            .max()
            .unwrap_or(0);
        let mut starts = vec![0; tokens + 1];
        for (id, _) in &texts.terms {
            if let Some(count) = starts.get_mut(*id as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        let mut postings = vec![(0, 0.0); texts.terms.len()];
        for text in 0..texts.len() {
            for (id, weight) in texts.text(text) {
                if let Some(place) = next.get_mut(*id as usize) {
                    if let Some(posting) = postings.get_mut(*place) {
                        *posting = (text as u32, *weight);
                    }
                    *place += 1;
                }
            }
        }
        Ok(Self {
            starts,
            postings,
            texts: texts.len(),
            places: None,
        })
    }

    /// Equal scores come in the order of these places, one for each text.
    #[must_use]
    pub fn with_places(mut self, places: Vec<u32>) -> Self {
        self.places = Some(places);
        self
    }

    /// The texts with this token, and its weight there.
    fn postings(&self, id: u32) -> &TokenWeights {
        let id = id as usize;
        let range = self.starts.get(id).zip(self.starts.get(id + 1));
        range
            .and_then(|(start, end)| self.postings.get(*start..*end))
            .unwrap_or_default()
    }

    /// The `k` best texts for each query, and the scores of the texts that `also` lists for it (nothing or one list a query).
    pub fn search(&self, queries: &[&TokenWeights], k: usize, also: &[Vec<u32>]) -> Vec<SparseHits> {
        queries
            .par_iter()
            .enumerate()
            .map_init(
                || vec![0.0_f64; self.texts],
                |sums, (index, query)| self.one(query, k, also.get(index).map_or(&[], Vec::as_slice), sums),
            )
            .collect()
    }

    /// `sums` is 0 everywhere before and after.
    fn one(&self, query: &TokenWeights, k: usize, also: &[u32], sums: &mut [f64]) -> SparseHits {
        let mut touched = Vec::new();
        for (id, weight) in query {
            for (text, other) in self.postings(*id) {
                if let Some(sum) = sums.get_mut(*text as usize) {
                    if *sum == 0.0 {
                        touched.push(*text);
                    }
                    *sum += f64::from(*weight) * f64::from(*other);
                }
            }
        }
        let sum = |text: &u32| sums.get(*text as usize).copied().unwrap_or(0.0);
        let scores = also.iter().map(sum).collect();
        let hit = |text: &u32| Hit {
            id: *text,
            score: sum(text),
        };
        let mut hits: Vec<Hit> = touched.iter().map(hit).filter(|hit| hit.score > 0.0).collect();
        let place = |hit: &Hit| {
            let places = self.places.as_ref();
            places.map_or(Some(hit.id), |places| places.get(hit.id as usize).copied())
        };
        let order = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then_with(|| place(a).cmp(&place(b)));
        if k < hits.len() {
            hits.select_nth_unstable_by(k, order);
            hits.truncate(k);
        }
        hits.sort_unstable_by(order);
        for text in touched {
            if let Some(sum) = sums.get_mut(text as usize) {
                *sum = 0.0;
            }
        }
        SparseHits { hits, scores }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draws, Stream, key};

    #[test]
    fn the_index_finds_what_a_full_comparison_finds() {
        let mut draws = Draws::new(key(7, Stream::Init, 0));
        // Few ids and coarse weights, so that there are many equal scores.
        let mut text = |tokens: u32| -> Vec<(u32, f32)> {
            (0..tokens)
                .filter_map(|id| {
                    let weight = draws.below(4) as f32;
                    (weight > 0.0 && draws.below(3) == 0).then_some((id, weight))
                })
                .collect()
        };
        let texts: Vec<_> = (0..300).map(|_| text(30)).collect();
        let queries: Vec<_> = (0..20).map(|_| text(40)).collect();
        let mut gathered = SparseTexts::default();
        for text in &texts {
            gathered.push(text.iter().copied()).unwrap();
        }
        assert_eq!((gathered.len(), gathered.text(7)), (300, texts[7].as_slice()));
        assert!(gathered.text(300).is_empty());
        let index = SparseIndex::new(&gathered).unwrap();
        let backwards: Vec<u32> = (0..300).rev().collect();
        let turned = index.clone().with_places(backwards);
        let asked: Vec<&TokenWeights> = queries.iter().map(Vec::as_slice).collect();
        let also: Vec<Vec<u32>> = (0..20).map(|i| vec![i, 299 - i]).collect();
        for k in [0, 1, 7, 1000] {
            let found = index.search(&asked, k, &also);
            let other = turned.search(&asked, k, &[]);
            for ((query, also), (found, other)) in asked.iter().zip(&also).zip(found.iter().zip(&other)) {
                let score = |text: u32| -> f64 {
                    let of = |id: u32| texts[text as usize].iter().find(|term| term.0 == id);
                    query
                        .iter()
                        .filter_map(|(id, weight)| Some(f64::from(*weight) * f64::from(of(*id)?.1)))
                        .sum()
                };
                let mut all: Vec<(u32, f64)> = (0..300).map(|text| (text, score(text))).collect();
                all.retain(|hit| hit.1 > 0.0);
                all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                let pairs = |hits: &[Hit]| hits.iter().map(|hit| (hit.id, hit.score)).collect::<Vec<_>>();
                assert_eq!(pairs(&found.hits), all[..k.min(all.len())]);
                all.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
                assert_eq!(pairs(&other.hits), all[..k.min(all.len())]);
                assert_eq!(
                    found.scores,
                    also.iter().map(|text| score(*text)).collect::<Vec<_>>()
                );
            }
        }
        assert_eq!(index.search(&[&[]], 5, &[]), [SparseHits::default()]);
    }

    #[test]
    fn weights_that_are_not_finite_and_ids_out_of_order_are_refused() {
        let mut texts = SparseTexts::default();
        assert!(
            texts
                .push([(3, f32::INFINITY)])
                .unwrap_err()
                .to_string()
                .contains("token 3")
        );
        assert!(SparseTexts::default().push([(3, 1.0), (3, 1.0)]).is_err());
        let none = SparseIndex::new(&SparseTexts::default()).unwrap();
        assert!(
            none.search(&[&[(1, 1.0)]], 3, &[])
                .iter()
                .all(|found| found.hits.is_empty())
        );
    }
}
