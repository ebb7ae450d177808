//! The built-in exact search: a blocked product whose scores are filtered in registers.
//!
//! Queries are packed into panels that stay in the cache; a few rows at a time are taken as they lie in memory or in the
//! mapped file and multiplied with all panels of a block. A score that cannot be among the best any more is never
//! written. What passes is kept with its error bound ([`bounds`](super::bounds)), and scored in f64 in the end, or when it
//! becomes too much (a corpus of copies).

use std::ops::Range;

use rayon::prelude::*;

use super::bounds::{Bound, norm, scale};
use super::candidates::{Candidates, Judge, Query};
use super::kernel::{Level, Tile, tile};
use super::store::BLOCK_ROWS;
use super::{Hit, Rows, SearchIndex, check_queries, not_finite};
use crate::error::{Result, bail};

/// Bytes of packed queries that stay in the cache of a core beside the rows that pass through.
const CACHE: usize = 800 << 10;
/// Queries whose candidates are in memory at once.
const MOST_QUERIES: usize = 1 << 13;
/// Blocks after which the memory of stored rows is given back, if they are more than this.
const RESIDENT: usize = 128 << 20;

/// Exact search over all rows; needs nothing installed.
///
/// Rows in memory or mapped from disk are read where they are; beside them it needs a number for each 256 rows, and some
/// kilobytes for each query in progress. The work is spread over the threads of the current rayon pool.
#[derive(Debug)]
pub struct Exact<'a> {
    rows: Rows<'a>,
    /// For each block of rows the greatest norm.
    norms: Vec<f64>,
    places: Option<Vec<u32>>,
    level: Level,
}

impl<'a> Exact<'a> {
    /// Reads all rows once, and fails at the first that is not finite.
    pub fn new(rows: Rows<'a>) -> Result<Self> {
        Ok(Self {
            norms: block_norms(&rows)?,
            rows,
            places: None,
            level: Level::detect(),
        })
    }

    /// Sorts rows of equal score by these places, the lowest first, instead of by id.
    ///
    /// `places` is a permutation of the ids, one for each row.
    pub fn with_places(mut self, places: Vec<u32>) -> Result<Self> {
        if places.len() != self.rows.len() {
            bail!(
                InvalidArgument,
                "{} places for {} rows",
                places.len(),
                self.rows.len()
            );
        }
        self.places = Some(places);
        Ok(self)
    }

    /// Candidates of the queries of one block in some of the rows.
    fn scan(&self, judge: &Judge, queries: &[Query], blocks: Range<usize>) -> Vec<Candidates> {
        let dim = self.rows.dim();
        let panels = pack(self.level, queries, dim);
        let mut candidates: Vec<Candidates> = queries.iter().map(|_| Candidates::new()).collect();
        let mut errors = vec![0.0; queries.len()];
        let mut thresholds = vec![f32::INFINITY; panels.iter().map(|panel| panel.width).sum()];
        let mut out = Tile::new();
        let mut scratch = Vec::new();
        for block in blocks {
            let range = block_range(block, self.rows.len());
            let most = self.norms.get(block).copied().unwrap_or(f64::INFINITY);
            for (((query, candidates), error_of), threshold) in queries
                .iter()
                .zip(&candidates)
                .zip(&mut errors)
                .zip(&mut thresholds)
            {
                *error_of = query.bound.error(most);
                *threshold = candidates.threshold(*error_of);
            }
            let rows = self.rows.slice(range.clone(), &mut scratch);
            let step = self.level.rows() * dim;
            for (index, here) in rows.chunks(step).enumerate() {
                let next = rows.get((index + 1) * step..).unwrap_or_default();
                let share = step.div_ceil(panels.len());
                for (number, panel) in panels.iter().enumerate() {
                    let next = next.get(number * share..).unwrap_or_default();
                    let next = next.get(..share).unwrap_or(next);
                    let limits = &thresholds[panel.first..panel.first + panel.width];
                    if !tile(self.level, here, next, &panel.numbers, limits, &mut out) {
                        continue;
                    }
                    for (r, bits) in out.passes.iter().enumerate().take(here.len() / dim) {
                        let id = (range.start + index * self.level.rows() + r) as u32;
                        let mut bits = *bits;
                        while bits != 0 {
                            let lane = bits.trailing_zeros() as usize;
                            bits &= bits - 1;
                            let q = panel.first + lane;
                            let score = out.scores[r * panel.width + lane];
                            if judge.offer(&queries[q], &mut candidates[q], id, score, errors[q]) {
                                thresholds[q] = candidates[q].threshold(errors[q]);
                            }
                        }
                    }
                }
            }
            release(&self.rows, block, range);
        }
        candidates
    }

    /// The lists of some queries: blocks of queries times parts of the rows, as many as there are threads.
    fn search_some(&self, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
        let dim = self.rows.dim();
        let most = self.norms.iter().copied().fold(0.0, f64::max);
        let judge = Judge {
            rows: self.rows,
            norms: &self.norms,
            places: self.places.as_deref(),
            k,
            level: self.level,
        };
        let queries: Vec<Query> = queries
            .par_chunks(dim)
            .map(|numbers| {
                let norm = norm(numbers).unwrap_or(f64::INFINITY);
                let scale = scale(norm, most);
                let bound = Bound::new(dim, norm * scale);
                Query {
                    numbers,
                    scale,
                    bound,
                }
            })
            .collect();
        let threads = rayon::current_num_threads();
        let widest = self.level.width(usize::MAX);
        let room = (CACHE / (widest * dim * size_of::<f32>())).max(1);
        let groups = queries.len().div_ceil(widest).div_ceil(room);
        let groups = if groups > threads {
            groups.next_multiple_of(threads)
        } else {
            groups
        };
        let size = queries.len().div_ceil(groups).next_multiple_of(widest);
        let blocks = self.norms.len();
        let parts = (2 * threads)
            .div_ceil(queries.len().div_ceil(size))
            .min(blocks.div_ceil(8))
            .max(1);
        let parts = if queries.len().div_ceil(size).is_multiple_of(threads) {
            1
        } else {
            parts
        };
        let part = blocks.div_ceil(parts);
        queries
            .par_chunks(size)
            .flat_map(|queries| {
                let found: Vec<Vec<Candidates>> = (0..parts)
                    .into_par_iter()
                    .map(|i| {
                        self.scan(
                            &judge,
                            queries,
                            (i * part).min(blocks)..((i + 1) * part).min(blocks),
                        )
                    })
                    .collect();
                let mut found: Vec<_> = found.into_iter().map(Vec::into_iter).collect();
                let own: Vec<Vec<Candidates>> = queries
                    .iter()
                    .map(|_| found.iter_mut().filter_map(Iterator::next).collect())
                    .collect();
                let lists: Vec<Vec<Hit>> = queries
                    .par_iter()
                    .zip(own)
                    .map(|(query, own)| judge.finish(query, own))
                    .collect();
                lists
            })
            .collect()
    }
}

impl SearchIndex for Exact<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn search(&mut self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>> {
        check_queries(queries, self.dim())?;
        let count = queries.len() / self.dim();
        let k = k.min(self.len());
        if k == 0 || count == 0 {
            return Ok(vec![Vec::new(); count]);
        }
        let mut lists = Vec::with_capacity(count);
        for queries in queries.chunks(MOST_QUERIES * self.dim()) {
            lists.extend(self.search_some(queries, k));
            if let Rows::Stored(store) = self.rows
                && store.size() > RESIDENT
            {
                store.release(0..store.len());
            }
        }
        Ok(lists)
    }
}

/// For each block of rows the greatest norm; fails at the first row that is not finite.
pub(super) fn block_norms(rows: &Rows) -> Result<Vec<f64>> {
    rows.check()?;
    let blocks = 0..rows.len().div_ceil(BLOCK_ROWS);
    let norms = blocks.into_par_iter().map(|block| {
        let range = block_range(block, rows.len());
        let mut scratch = Vec::new();
        let mut most = 0.0_f64;
        let data = rows.slice(range.clone(), &mut scratch);
        for (row, id) in data.chunks_exact(rows.dim()).zip(range.clone()) {
            let Some(norm) = norm(row) else {
                let bad = row.iter().find(|x| !x.is_finite());
                return Err(not_finite("row", id, bad.copied().unwrap_or(f32::NAN)));
            };
            most = most.max(norm);
        }
        release(rows, block, range);
        Ok(most)
    });
    // Collected before it is looked at, so that the first bad row is named whichever thread was faster.
    let norms: Vec<Result<f64>> = norms.collect();
    norms.into_iter().collect()
}

fn block_range(block: usize, rows: usize) -> Range<usize> {
    block * BLOCK_ROWS..((block + 1) * BLOCK_ROWS).min(rows)
}

/// Gives back the memory of stored rows from time to time, if they are many.
fn release(rows: &Rows, block: usize, range: Range<usize>) {
    if let Rows::Stored(store) = rows
        && store.size() > RESIDENT
    {
        let row = store.size() / store.len().max(1);
        let stretch = (RESIDENT / 8 / (row * BLOCK_ROWS).max(1)).max(1);
        if (block + 1).is_multiple_of(stretch) {
            store.release((range.start + BLOCK_ROWS).saturating_sub(stretch * BLOCK_ROWS)..range.end);
        }
    }
}

/// Some queries, packed.
struct Panel {
    /// Index of its first query in the block.
    first: usize,
    /// Queries of it, with those of zeros that fill it up.
    width: usize,
    /// `[dim, width]`, scaled.
    numbers: Vec<f32>,
}

fn pack(level: Level, queries: &[Query], dim: usize) -> Vec<Panel> {
    let mut panels = Vec::new();
    let mut first = 0;
    while first < queries.len() {
        let width = level.width(queries.len() - first);
        let mut numbers = vec![0.0; dim * width];
        for (lane, query) in queries[first..].iter().take(width).enumerate() {
            for (slots, x) in numbers.chunks_exact_mut(width).zip(query.numbers) {
                slots[lane] = (f64::from(*x) * query.scale) as f32;
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
