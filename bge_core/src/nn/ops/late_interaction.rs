//! `ColBERT`'s late interaction (Khattab and Zaharia 2020): each token of a query looks for its nearest token in a passage.
//!
//! `S(q, p) = mean_i max_j q_i · p_j`. One pair of texts is one small product at a time; of it only the places of the maxima
//! are kept, so that neither direction holds the scores of all tokens.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Mat, product_of_text};

/// Rows of token vectors and where texts begin.
#[derive(Clone, Copy)]
pub(crate) struct TokenVectors<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) width: usize,
    /// `n + 1` borders of the texts, in rows.
    pub(crate) offsets: &'a [u32],
    /// Rows at the start of each text that play no part: 1 where its `cls` token is among them.
    pub(crate) skip: usize,
}

impl<'a> TokenVectors<'a> {
    pub(crate) fn texts(self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The rows of a text that count.
    fn range(self, text: usize) -> Range<usize> {
        let (first, end) = (self.offsets[text] as usize, self.offsets[text + 1] as usize);
        (first + self.skip).min(end)..end
    }

    fn row(self, row: usize) -> &'a [f32] {
        &self.rows[row * self.width..][..self.width]
    }
}

/// Which passages a query is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// All.
    All,
    /// The passages `i * group ..` of query `i`.
    Own(usize),
}

impl Columns {
    /// How many passages a query is compared with, of `passages`.
    pub(crate) fn count(self, passages: usize) -> usize {
        match self {
            Self::All => passages,
            Self::Own(group) => group,
        }
    }

    /// The passage of a query's column.
    pub(crate) fn passage(self, query: usize, column: usize) -> usize {
        match self {
            Self::All => column,
            Self::Own(group) => query * group + column,
        }
    }
}

/// The scores of all pairs, and where each maximum was.
pub(crate) struct Found {
    /// `[Q, columns]`.
    pub(crate) scores: Vec<f32>,
    /// Of each pair: the passage's row for each token of the query.
    nearest: Vec<Vec<u32>>,
}

/// Compares each query with its passages.
pub(crate) fn forward(queries: TokenVectors, passages: TokenVectors, columns: Columns) -> Found {
    let count = columns.count(passages.texts());
    let pairs: Vec<(f32, Vec<u32>)> = (0..queries.texts() * count)
        .into_par_iter()
        .map(|pair| {
            let query = pair / count;
            compare(
                queries,
                query,
                passages,
                columns.passage(query, pair - query * count),
            )
        })
        .collect();
    let (scores, nearest) = pairs.into_iter().unzip();
    Found { scores, nearest }
}

fn compare(queries: TokenVectors, query: usize, passages: TokenVectors, passage: usize) -> (f32, Vec<u32>) {
    let (rows, others) = (queries.range(query), passages.range(passage));
    if rows.is_empty() || others.is_empty() {
        return (0.0, Vec::new());
    }
    let width = queries.width;
    let mut products = vec![0.0_f32; rows.len() * others.len()];
    product_of_text(
        &mut products,
        others.len(),
        false,
        Mat::new(&queries.rows[rows.start * width..], rows.len(), width),
        Mat::new(&passages.rows[others.start * width..], others.len(), width).t(),
    );
    let mut sum = 0.0;
    let nearest = products.chunks_exact(others.len()).map(|products| {
        let mut best = (0, products[0]);
        for (at, &product) in products.iter().enumerate() {
            if product > best.1 {
                best = (at, product);
            }
        }
        sum += best.1;
        (others.start + best.0) as u32
    });
    let nearest = nearest.collect();
    (sum / rows.len() as f32, nearest)
}

/// The gradients of the query rows and the passage rows, from those of the scores.
pub(crate) fn backward(
    queries: TokenVectors,
    passages: TokenVectors,
    columns: Columns,
    found: &Found,
    d_scores: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let (width, count) = (queries.width, columns.count(passages.texts()));
    let share = |query: usize, pair: usize| d_scores[pair] / queries.range(query).len().max(1) as f32;
    let mut d_queries = vec![0.0_f32; queries.rows.len()];
    by_text(&mut d_queries, queries).for_each(|(query, rows)| {
        for column in 0..count {
            let pair = query * count + column;
            let share = share(query, pair);
            for (&nearest, row) in found.nearest[pair]
                .iter()
                .zip(rows.chunks_exact_mut(width).skip(queries.skip))
            {
                add_scaled(row, share, passages.row(nearest as usize));
            }
        }
    });
    let mut d_passages = vec![0.0_f32; passages.rows.len()];
    by_text(&mut d_passages, passages).for_each(|(passage, rows)| {
        let first = passages.offsets[passage] as usize;
        let compared = match columns {
            Columns::All => 0..queries.texts(),
            Columns::Own(group) => passage / group..passage / group + 1,
        };
        for query in compared {
            let column = passage - columns.passage(query, 0);
            let pair = query * count + column;
            let share = share(query, pair);
            for (&nearest, row) in found.nearest[pair].iter().zip(queries.range(query)) {
                let target = &mut rows[(nearest as usize - first) * width..][..width];
                add_scaled(target, share, queries.row(row));
            }
        }
    });
    (d_queries, d_passages)
}

/// The rows of each text with its number, in parallel.
fn by_text<'a>(
    rows: &'a mut [f32],
    vectors: TokenVectors<'a>,
) -> impl ParallelIterator<Item = (usize, &'a mut [f32])> {
    let mut rest = rows;
    let mut parts = Vec::with_capacity(vectors.texts());
    for pair in vectors.offsets.windows(2) {
        let (part, left) = rest.split_at_mut((pair[1] - pair[0]) as usize * vectors.width);
        parts.push(part);
        rest = left;
    }
    parts.into_par_iter().enumerate()
}

fn add_scaled(target: &mut [f32], scale: f32, row: &[f32]) {
    for (target, x) in target.iter_mut().zip(row) {
        *target += scale * x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    fn random(seed: u64, rows: usize, width: usize) -> Vec<f32> {
        let mut draws = Draws::new(seed);
        (0..rows * width).map(|_| draws.normal() as f32).collect()
    }

    fn score(q: &[f32], p: &[f32], width: usize) -> f64 {
        let rows = |x: &[f32]| -> Vec<Vec<f64>> {
            let rows = x.chunks_exact(width).skip(1);
            rows.map(|row| row.iter().map(|&x| f64::from(x)).collect())
                .collect()
        };
        let (q, p) = (rows(q), rows(p));
        let best = |q: &Vec<f64>| {
            let products = p.iter().map(|p| p.iter().zip(q).map(|(a, b)| a * b).sum::<f64>());
            products.fold(f64::NEG_INFINITY, f64::max)
        };
        q.iter().map(best).sum::<f64>() / q.len() as f64
    }

    #[test]
    fn scores_and_gradients_agree_with_the_formula_and_finite_differences() {
        let (width, q_offsets, p_offsets) = (5, [0_u32, 4, 9], [0_u32, 3, 10, 12, 18]);
        let (mut q, mut p) = (random(1, 9, width), random(2, 18, width));
        for columns in [Columns::All, Columns::Own(2)] {
            let count = columns.count(4);
            let weights = random(3, 2, count);
            let total = |q: &[f32], p: &[f32]| -> f64 {
                let part = |x: &'_ [f32], offsets: &[u32], text: usize| {
                    x[offsets[text] as usize * width..offsets[text + 1] as usize * width].to_vec()
                };
                let mut sum = 0.0;
                for query in 0..2 {
                    for column in 0..count {
                        let passage = columns.passage(query, column);
                        let score = score(&part(q, &q_offsets, query), &part(p, &p_offsets, passage), width);
                        sum += score * f64::from(weights[query * count + column]);
                    }
                }
                sum
            };
            let vectors = |rows, offsets| TokenVectors {
                rows,
                width,
                offsets,
                skip: 1,
            };
            let (queries, passages) = (
                vectors(q.as_slice(), &q_offsets),
                vectors(p.as_slice(), &p_offsets),
            );
            let found = forward(queries, passages, columns);
            let sum: f64 = found
                .scores
                .iter()
                .zip(&weights)
                .map(|(s, w)| f64::from(s * w))
                .sum();
            assert!((sum - total(&q, &p)).abs() < 1e-5);
            let (dq, dp) = backward(queries, passages, columns, &found, &weights);
            let step = 1e-3_f32;
            for (which, gradient) in [(0, dq), (1, dp)] {
                for at in 0..gradient.len() {
                    let mut moved = |by: f32| {
                        let x = if which == 0 { &mut q } else { &mut p };
                        let old = x[at];
                        x[at] = old + by;
                        let value = total(&q, &p);
                        let x = if which == 0 { &mut q } else { &mut p };
                        x[at] = old;
                        value
                    };
                    let slope = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                    assert!(
                        (slope - f64::from(gradient[at])).abs() < 2e-3,
                        "{which} {at}: {slope} against {}",
                        gradient[at]
                    );
                }
            }
        }
    }

    #[test]
    fn a_text_without_tokens_of_its_own_scores_nothing() {
        let (q, p) = (random(1, 3, 2), random(2, 1, 2));
        let queries = TokenVectors {
            rows: &q,
            width: 2,
            offsets: &[0, 3],
            skip: 1,
        };
        let passages = TokenVectors {
            rows: &p,
            width: 2,
            offsets: &[0, 1],
            skip: 1,
        };
        let found = forward(queries, passages, Columns::All);
        assert_eq!(found.scores, [0.0]);
        let (dq, dp) = backward(queries, passages, Columns::All, &found, &[1.0]);
        assert!(dq.iter().chain(&dp).all(|x| *x == 0.0));
    }
}
