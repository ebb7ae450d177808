//! The candidates of one query: what may still be among the best, and what is known to be.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::bounds::{Bound, below, norm, scale};
use super::kernel::Level;
use super::rescore::rescore;
use super::store::BLOCK_ROWS;
use super::{Hit, Rows};

/// A query as the kernel sees it.
pub(super) struct Query<'q> {
    /// Its numbers, `[dim]`.
    pub numbers: &'q [f32],
    /// The power of two that the kernel's numbers are multiplied by.
    pub scale: f64,
    /// Norm of the scaled query.
    pub norm: f64,
}

impl<'q> Query<'q> {
    /// The queries of `[count, dim]`, against rows of which `most` is the greatest norm.
    pub(super) fn all(queries: &'q [f32], dim: usize, most: f64) -> Vec<Self> {
        queries
            .par_chunks(dim)
            .map(|numbers| {
                let norm = norm(numbers).unwrap_or(f64::INFINITY);
                let scale = scale(norm, most);
                Self {
                    numbers,
                    scale,
                    norm: norm * scale,
                }
            })
            .collect()
    }

    /// Its scaled numbers.
    pub(super) fn scaled(&self) -> impl Iterator<Item = f32> {
        self.numbers.iter().map(|x| (f64::from(*x) * self.scale) as f32)
    }
}

/// A row whose score is known up to an error.
#[derive(Clone, Copy)]
struct Pending {
    /// The scaled score is at least this.
    least: f32,
    id: u32,
}

/// The candidates of one query in some of the rows.
pub(super) struct Candidates {
    /// Scored in f64, the best first, at most `k`.
    best: Vec<Hit>,
    /// Not scored in f64 yet.
    pending: Vec<Pending>,
    /// The scaled score of the `k`-th best row is at least this.
    floor: f64,
    /// How far the scores of the pending rows can be from the truth.
    bound: Bound,
    /// Rows that were scored in f64 before the end, because they could not be told apart.
    settled: usize,
}

impl Candidates {
    pub(super) fn new(bound: Bound) -> Self {
        Self {
            bound,
            settled: 0,
            best: Vec::new(),
            pending: Vec::new(),
            floor: f64::NEG_INFINITY,
        }
    }

    /// How far the score of a row can be from the truth, of a block with this greatest norm.
    pub(super) fn error(&self, norm: f64) -> f64 {
        self.bound.error(norm)
    }

    /// Rows that were scored in f64 before the end, because they could not be told apart.
    pub(super) fn settled(&self) -> usize {
        self.settled
    }

    /// The f32 score that a row must reach to be among the best, where scores are as far from the truth as `error`.
    pub(super) fn threshold(&self, error: f64) -> f32 {
        below(self.floor - error)
    }
}

/// Who looks through the rows first, less exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scout {
    /// Nobody: the vector unit scores in f32.
    Nobody,
    /// The matrix unit, in bfloat16.
    #[cfg(target_arch = "x86_64")]
    Matrix,
    /// The vector unit, in whole numbers of 16 bits.
    #[cfg(target_arch = "x86_64")]
    Integers,
}

/// What all queries of a search share.
pub(super) struct Judge<'s> {
    /// Who proposes.
    pub scout: Scout,
    /// The rows.
    pub rows: Rows<'s>,
    /// For each block of rows the greatest norm.
    pub norms: &'s [f64],
    /// For each row its place among rows of equal score; without them the ids.
    pub places: Option<&'s [u32]>,
    /// Rows asked for, at least 1 and at most all.
    pub k: usize,
    /// Instructions to use.
    pub level: Level,
}

impl Judge<'_> {
    /// The greatest norm of a block.
    pub(super) fn norm_of(&self, block: usize) -> f64 {
        self.norms.get(block).copied().unwrap_or(f64::INFINITY)
    }

    /// Candidates that are kept before they are cut.
    fn room(&self) -> usize {
        (2 * self.k).max(64)
    }

    /// Takes a row that reached the threshold; says whether the threshold has changed.
    #[inline]
    pub(super) fn offer(
        &self,
        query: &Query,
        candidates: &mut Candidates,
        id: u32,
        score: f32,
        error: f64,
    ) -> bool {
        let least = below(f64::from(score) - error);
        candidates.pending.push(Pending { least, id });
        if candidates.pending.len() + candidates.best.len() < self.room() + self.k {
            return false;
        }
        self.cut(query, candidates);
        true
    }

    /// Drops what cannot be among the best any more; scores in f64 where that leaves too much.
    fn cut(&self, query: &Query, candidates: &mut Candidates) {
        let Candidates {
            best,
            pending,
            floor,
            bound,
            ..
        } = candidates;
        let mut least: Vec<f32> = pending.iter().map(|row| row.least).collect();
        least.extend(best.iter().map(|hit| below(hit.score * query.scale)));
        if least.len() >= self.k {
            let (_, kth, _) = least.select_nth_unstable_by(self.k - 1, |a, b| b.total_cmp(a));
            *floor = floor.max(f64::from(*kth));
        }
        let (floor, bound) = (*floor, *bound);
        let error = |id: u32| bound.error(self.norm_of(id as usize / BLOCK_ROWS));
        pending.retain(|row| f64::from(row.least) + 2.0 * error(row.id) >= floor);
        if pending.len() + best.len() >= self.room() / 2 + self.k {
            candidates.settled += candidates.pending.len();
            self.settle(query, candidates);
        }
    }

    /// Settles what is pending; from now on, scores are as near to the truth as `bound` says.
    pub(super) fn turn_to(&self, query: &Query, candidates: &mut Candidates, bound: Bound) {
        self.cut(query, candidates);
        self.settle(query, candidates);
        candidates.bound = bound;
    }

    /// Scores all candidates in f64 and keeps the best.
    fn settle(&self, query: &Query, candidates: &mut Candidates) {
        let mut ids: Vec<u32> = candidates.pending.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        rescore(self.level, &self.rows, query.numbers, &ids, &mut candidates.best);
        candidates.pending.clear();
        candidates.best.sort_unstable_by(|a, b| self.order(a, b));
        candidates.best.truncate(self.k);
        if let Some(last) = candidates.best.get(self.k - 1) {
            candidates.floor = candidates.floor.max(last.score * query.scale);
        }
    }

    /// The best first.
    fn order(&self, a: &Hit, b: &Hit) -> Ordering {
        let place = |hit: &Hit| match self.places {
            Some(places) => places.get(hit.id as usize).copied().unwrap_or(u32::MAX),
            None => hit.id,
        };
        // No score is a NaN, and none is -0.0: sums start at 0.0.
        b.score.total_cmp(&a.score).then_with(|| place(a).cmp(&place(b)))
    }

    /// The list of the query from its candidates in all parts of the rows.
    pub(super) fn finish(&self, query: &Query, parts: Vec<Candidates>) -> Vec<Hit> {
        let mut best = Vec::new();
        for mut part in parts {
            self.cut(query, &mut part);
            self.settle(query, &mut part);
            best.append(&mut part.best);
        }
        best.sort_unstable_by(|a, b| self.order(a, b));
        best.truncate(self.k);
        best
    }
}
