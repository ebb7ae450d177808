//! The way of a group of queries through the rows, block by block: scouted less exactly first, where that is faster, or scored in f32.

use std::ops::Range;

use super::bounds::Bound;
use super::candidates::{Candidates, Judge, Query};
use super::exact::{block_range, release};
use super::kernel::{Level, Tile, tile};
#[cfg(target_arch = "x86_64")]
use super::{amx, candidates::Scout, integers, store::BLOCK_ROWS};

/// Queries of the widest panel.
const WIDEST: usize = 48;
/// Pairs of whole numbers of a strip of rows: half of a second-level cache of 512 KiB.
#[cfg(target_arch = "x86_64")]
const STRIP: usize = 64 << 10;

/// Candidates of some queries in some of the blocks of rows.
pub(super) fn scan<'g>(
    judge: &'g Judge<'g>,
    queries: &'g [Query<'g>],
    blocks: Range<usize>,
) -> Vec<Candidates> {
    let dim = judge.rows.dim();
    let bound = |query: &Query| Bound::new(dim, query.norm);
    #[cfg(target_arch = "x86_64")]
    if let Some(scout) = Scouting::of(judge.scout) {
        let (mut group, stopped) = scout.scan(judge, queries, blocks.clone());
        if stopped < blocks.end {
            group.turn_to(bound);
            group.scan_with_vectors(stopped..blocks.end);
        }
        return group.candidates;
    }
    let mut group = Group::new(judge, queries, bound);
    group.scan_with_vectors(blocks);
    group.candidates
}

/// What a scout works with.
#[cfg(target_arch = "x86_64")]
enum Scouting {
    Matrix(amx::Unit),
    Integers,
}

#[cfg(target_arch = "x86_64")]
impl Scouting {
    /// None where the processor or the system refuses.
    fn of(scout: Scout) -> Option<Self> {
        match scout {
            Scout::Nobody => None,
            Scout::Matrix => amx::Unit::new().map(Self::Matrix),
            Scout::Integers => Some(Self::Integers),
        }
    }

    /// Goes as far as [`Group::scout`].
    fn scan<'g>(
        &self,
        judge: &'g Judge<'g>,
        queries: &'g [Query<'g>],
        blocks: Range<usize>,
    ) -> (Group<'g>, usize) {
        let dim = judge.rows.dim();
        let mut group = Group::new(judge, queries, |query| match self {
            Self::Matrix(_) => Bound::with_bfloat16(dim, query.norm),
            Self::Integers => Bound::with_integers(dim, query.norm),
        });
        let stopped = match self {
            Self::Matrix(unit) => group.scan_with_matrices(unit, blocks),
            Self::Integers => group.scan_with_integers(blocks),
        };
        (group, stopped)
    }
}

/// Some queries on their way through the rows.
struct Group<'g> {
    judge: &'g Judge<'g>,
    queries: &'g [Query<'g>],
    candidates: Vec<Candidates>,
    /// For each query how far its scores with the rows of the block can be from the truth.
    errors: Vec<f64>,
    /// For each query, and those of zeros that fill a panel up, the f32 score to reach.
    thresholds: Vec<f32>,
}

impl<'g> Group<'g> {
    fn new(judge: &'g Judge<'g>, queries: &'g [Query<'g>], bound: impl Fn(&Query) -> Bound) -> Self {
        Self {
            judge,
            queries,
            candidates: queries
                .iter()
                .map(|query| Candidates::new(bound(query)))
                .collect(),
            errors: vec![0.0; queries.len()],
            thresholds: vec![f32::INFINITY; queries.len() + WIDEST],
        }
    }

    fn scan_with_vectors(&mut self, blocks: Range<usize>) {
        let (rows, level) = (&self.judge.rows, self.judge.level);
        let dim = rows.dim();
        let panels = pack(level, self.queries, dim);
        let mut out = Tile::new();
        let mut scratch = Vec::new();
        for block in blocks {
            let range = block_range(block, rows.len());
            self.enter(block);
            let numbers = rows.slice(range.clone(), &mut scratch);
            let step = level.rows() * dim;
            let strip = level.strip(dim) * dim;
            for (index, here) in numbers.chunks(strip).enumerate() {
                let next = numbers.get((index + 1) * strip..).unwrap_or_default();
                let tiles = here.len().div_ceil(step);
                let share = strip.div_ceil(panels.len() * tiles);
                for (number, panel) in panels.iter().enumerate() {
                    let lanes = panel.first..panel.first + panel.width;
                    for (place, few) in here.chunks(step).enumerate() {
                        let next = next.get((number * tiles + place) * share..).unwrap_or_default();
                        let next = next.get(..share).unwrap_or(next);
                        let limits = &self.thresholds[lanes.clone()];
                        if tile(level, few, next, &panel.numbers, limits, &mut out) {
                            let first = range.start + (index * strip + place * step) / dim;
                            self.take(&out, first, few.len() / dim, panel.first, panel.width);
                        }
                    }
                }
            }
            release(rows, block, range);
        }
    }

    /// The same in bfloat16, as far as [`Group::scout`] goes.
    #[cfg(target_arch = "x86_64")]
    fn scan_with_matrices(&mut self, unit: &amx::Unit, blocks: Range<usize>) -> usize {
        let rows = &self.judge.rows;
        let dim = rows.dim();
        let strip = amx::packed(dim);
        let panels: Vec<Vec<u16>> = self
            .queries
            .chunks(amx::STRIP)
            .map(|queries| {
                let mut panel = vec![0; strip];
                for (lane, query) in queries.iter().enumerate() {
                    amx::pack_query(lane, query.scaled(), &mut panel);
                }
                panel
            })
            .collect();
        let mut out = Tile::new();
        let (mut scratch, mut packed) = (Vec::new(), Vec::new());
        self.scout(blocks, |group, _, range| {
            amx::pack_rows(rows.slice(range.clone(), &mut scratch), dim, &mut packed);
            for (index, here) in packed.chunks(strip).enumerate() {
                let first = range.start + index * amx::STRIP;
                for (panel, lane) in panels.iter().zip((0..).step_by(amx::STRIP)) {
                    let limits = &group.thresholds[lane..lane + amx::STRIP];
                    if unit.tile(here, panel, limits, &mut out) {
                        group.take(&out, first, range.end - first, lane, amx::STRIP);
                    }
                }
            }
        })
    }

    /// The same in whole numbers.
    #[cfg(target_arch = "x86_64")]
    fn scan_with_integers(&mut self, blocks: Range<usize>) -> usize {
        let judge = self.judge;
        let dim = judge.rows.dim();
        let stretches: Vec<f32> = self
            .queries
            .iter()
            .map(|query| integers::stretch(query.norm))
            .collect();
        let panels: Vec<Vec<i32>> = self
            .queries
            .chunks(integers::WIDTH)
            .zip(stretches.chunks(integers::WIDTH))
            .map(|(queries, stretches)| {
                let mut panel = vec![0; integers::pairs(dim) * integers::WIDTH];
                for (lane, (query, stretch)) in queries.iter().zip(stretches).enumerate() {
                    let numbers: Vec<f32> = query.scaled().collect();
                    integers::pack_query(lane, &numbers, *stretch, &mut panel);
                }
                panel
            })
            .collect();
        // A strip of rows stays in the second-level cache while one panel after the other meets it.
        let step = integers::pairs(dim) * integers::ROWS;
        let tiles = (STRIP / step).max(1);
        let mut factors = vec![0.0; panels.len() * integers::WIDTH];
        let mut out = Tile::new();
        let (mut scratch, mut packed) = (Vec::new(), Vec::new());
        self.scout(blocks, |group, block, range| {
            let stretch = integers::stretch(judge.norm_of(block));
            for (factor, own) in factors.iter_mut().zip(&stretches) {
                *factor = integers::factor(stretch, *own);
            }
            let numbers = judge.rows.slice(range.clone(), &mut scratch);
            integers::pack_rows(numbers, dim, stretch, &mut packed);
            for (index, here) in packed.chunks(tiles * step).enumerate() {
                for (panel, lane) in panels.iter().zip((0..).step_by(integers::WIDTH)) {
                    let lanes = lane..lane + integers::WIDTH;
                    let factors = &factors[lanes.clone()];
                    for (place, few) in here.chunks_exact(step).enumerate() {
                        let limits = &group.thresholds[lanes.clone()];
                        if integers::tile(few, panel, factors, limits, &mut out) {
                            let first = range.start + (index * tiles + place) * integers::ROWS;
                            let count = (range.end - first).min(integers::ROWS);
                            group.take(&out, first, count, lane, integers::WIDTH);
                        }
                    }
                }
            }
        })
    }

    /// Hands each block of rows to a scout; stops where too many rows cannot be told apart, and says at which block.
    #[cfg(target_arch = "x86_64")]
    fn scout(&mut self, blocks: Range<usize>, mut scan: impl FnMut(&mut Self, usize, Range<usize>)) -> usize {
        let rows = &self.judge.rows;
        for block in blocks.clone() {
            if self.is_lost(block - blocks.start) {
                return block;
            }
            let range = block_range(block, rows.len());
            self.enter(block);
            scan(self, block, range.clone());
            release(rows, block, range);
        }
        blocks.end
    }

    /// Sets the thresholds for a block.
    fn enter(&mut self, block: usize) {
        let norm = self.judge.norm_of(block);
        for ((candidates, error), threshold) in self
            .candidates
            .iter()
            .zip(&mut self.errors)
            .zip(&mut self.thresholds)
        {
            *error = candidates.error(norm);
            *threshold = candidates.threshold(*error);
        }
    }

    /// Takes what passes of a tile of `rows` rows from `first` on with `width` queries from `lane` on.
    fn take(&mut self, out: &Tile, first: usize, rows: usize, lane: usize, width: usize) {
        for (r, bits) in out.passes.iter().enumerate().take(rows.min(out.passes.len())) {
            let mut bits = *bits;
            while bits != 0 {
                let at = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let (q, score) = (lane + at, out.scores[r * width + at]);
                let (query, error) = (&self.queries[q], self.errors[q]);
                let candidates = &mut self.candidates[q];
                if self
                    .judge
                    .offer(query, candidates, (first + r) as u32, score, error)
                {
                    self.thresholds[q] = candidates.threshold(error);
                }
            }
        }
    }

    /// Whether scores of this bound cannot tell the rows apart, after so many blocks: too many were scored in f64 before the end.
    ///
    /// One costs as much as about sixteen scored by vectors, so that it is a half of what these would take.
    #[cfg(target_arch = "x86_64")]
    fn is_lost(&self, blocks: usize) -> bool {
        let scanned = blocks * BLOCK_ROWS * self.queries.len();
        let settled = || -> usize { self.candidates.iter().map(Candidates::settled).sum() };
        blocks % 16 == 15 && settled() * 32 > scanned
    }

    /// Goes on with scores of another bound.
    #[cfg(target_arch = "x86_64")]
    fn turn_to(&mut self, bound: impl Fn(&Query) -> Bound) {
        for (query, candidates) in self.queries.iter().zip(&mut self.candidates) {
            self.judge.turn_to(query, candidates, bound(query));
        }
    }
}

/// Some queries, packed.
struct Panel {
    /// Index of its first query in the block.
    first: usize,
    /// Queries of it, with those of zeros that fill it up.
    width: usize,
    /// `[dim, width]`, or `[width, dim]` of a few, scaled.
    numbers: Vec<f32>,
}

fn pack(level: Level, queries: &[Query], dim: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    let mut first = 0;
    while first < queries.len() {
        let width = level.width(queries.len() - first);
        let mut numbers = vec![0.0; dim * width];
        for (lane, query) in queries[first..].iter().take(width).enumerate() {
            let (start, step) = level.lane(lane, width, dim);
            for (slot, x) in numbers.iter_mut().skip(start).step_by(step).zip(query.scaled()) {
                *slot = x;
            }
        }
        panels.push(Panel {
            first,
            width,
            numbers,
        });
        first += width;
    }
    panels
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;
    use crate::random::Draws;
    use crate::search::Rows;
    use crate::search::bounds::norm;
    use crate::search::exact::block_norms;

    #[test]
    fn vectors_take_over_where_a_scout_cannot_tell_rows_apart() {
        let (dim, count) = (16_usize, 20_000_usize);
        let blocks = count.div_ceil(BLOCK_ROWS);
        // A step of bfloat16 is 2^-8 of a number, one of whole numbers about 2^-15 of the longest vector.
        for (scout, close) in [(Scout::Matrix, 1e-3), (Scout::Integers, 1e-6)] {
            let there = match scout {
                Scout::Integers => integers::detect(),
                _ => amx::detect(),
            };
            let Some(scouting) = Scouting::of(scout).filter(|_| there) else {
                continue; // not this processor
            };
            for (noise, takes_over) in [(close, true), (1.0, false)] {
                let mut draws = Draws::new(5);
                let numbers: Vec<f32> = (0..count * dim)
                    .map(|_| (1.0 + noise * draws.normal()) as f32)
                    .collect();
                let rows = Rows::Memory { data: &numbers, dim };
                let norms = block_norms(&rows).unwrap();
                let judge = Judge {
                    scout,
                    rows,
                    norms: &norms,
                    places: None,
                    k: 20,
                    level: Level::detect(),
                };
                let queries = [Query {
                    numbers: &numbers[..dim],
                    scale: 1.0,
                    norm: norm(&numbers[..dim]).unwrap(),
                }];
                let (_, stopped) = scouting.scan(&judge, &queries, 0..blocks);
                assert_eq!(stopped < blocks, takes_over, "{scout:?}, noise {noise}");
            }
        }
    }
}
