//! The built-in exact search: a blocked product whose scores are filtered in registers.
//!
//! Queries are packed into panels that stay in the cache; a strip of rows at a time is taken as it lies in memory or in the
//! mapped file and multiplied with all panels of a block. A score that cannot be among the best any more is never
//! written. What passes is kept with its error bound ([`bounds`](super::bounds)), and scored in f64 in the end, or when it
//! becomes too much (a corpus of copies).
//!
//! Where the processor has a matrix unit, it proposes ([`amx`](super::amx)), and the vector unit takes over where bfloat16
//! cannot tell the rows apart.

use std::ops::Range;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::bounds::{Bound, norm};
use super::candidates::{Candidates, Judge, Query};
use super::kernel::{Level, Tile, tile};
use super::store::BLOCK_ROWS;
use super::{Hit, Rows, SearchIndex, check_queries, not_finite};
use crate::error::{Result, bail};

/// Bytes of packed queries that stay in the cache of a core beside the rows that pass through.
const CACHE: usize = 800 << 10;
/// The same for the matrix unit: processors that have it have larger caches.
const MATRIX_CACHE: usize = 1400 << 10;
/// Queries whose candidates are in memory at once.
const MOST_QUERIES: usize = 1 << 13;
/// Queries of a panel of the matrix unit.
const MATRIX_WIDTH: usize = 32;
/// Queries of a group are a multiple of this: of the narrowest panel, or half a panel of the matrix unit.
const LANES: usize = 16;
/// Vectors shorter than this do not become infinite in bfloat16.
const FITS_BFLOAT16: f64 = 1e37;
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
    /// Whether the matrix unit proposes.
    matrix: bool,
}

impl<'a> Exact<'a> {
    /// Reads all rows once, and fails at the first that is not finite.
    pub fn new(rows: Rows<'a>) -> Result<Self> {
        Ok(Self {
            norms: block_norms(&rows)?,
            rows,
            places: None,
            level: Level::detect(),
            #[cfg(target_arch = "x86_64")]
            matrix: amx::detect(),
            #[cfg(not(target_arch = "x86_64"))]
            matrix: false,
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

    /// Candidates of the queries of one group in some of the blocks of rows.
    fn scan(&self, judge: &Judge, queries: &[Query], blocks: Range<usize>) -> Vec<Candidates> {
        let dim = self.rows.dim();
        let bound = |query: &Query| Bound::new(dim, query.norm);
        #[cfg(target_arch = "x86_64")]
        if judge.matrix
            && let Some(unit) = amx::Unit::new()
        {
            let mut group = Group::new(judge, queries, |query| Bound::with_bfloat16(dim, query.norm));
            let stopped = self.scan_with_matrices(&unit, &mut group, blocks.clone());
            if stopped < blocks.end {
                group.turn_to(bound);
                self.scan_with_vectors(&mut group, stopped..blocks.end);
            }
            return group.candidates;
        }
        let mut group = Group::new(judge, queries, bound);
        self.scan_with_vectors(&mut group, blocks);
        group.candidates
    }

    fn scan_with_vectors(&self, group: &mut Group, blocks: Range<usize>) {
        let dim = self.rows.dim();
        let panels = pack(self.level, group.queries, dim);
        let mut out = Tile::new();
        let mut scratch = Vec::new();
        for block in blocks {
            let range = block_range(block, self.rows.len());
            group.enter(self.norm_of(block));
            let rows = self.rows.slice(range.clone(), &mut scratch);
            let step = self.level.rows() * dim;
            let strip = self.level.strip(dim) * dim;
            for (index, here) in rows.chunks(strip).enumerate() {
                let next = rows.get((index + 1) * strip..).unwrap_or_default();
                let tiles = here.len().div_ceil(step);
                let share = strip.div_ceil(panels.len() * tiles);
                for (number, panel) in panels.iter().enumerate() {
                    let lanes = panel.first..panel.first + panel.width;
                    for (place, few) in here.chunks(step).enumerate() {
                        let next = next.get((number * tiles + place) * share..).unwrap_or_default();
                        let next = next.get(..share).unwrap_or(next);
                        let limits = &group.thresholds[lanes.clone()];
                        if tile(self.level, few, next, &panel.numbers, limits, &mut out) {
                            let first = range.start + (index * strip + place * step) / dim;
                            group.take(&out, first, few.len() / dim, panel.first, panel.width);
                        }
                    }
                }
            }
            release(&self.rows, block, range);
        }
    }

    /// The same in bfloat16; stops where too many rows cannot be told apart, and says at which block.
    #[cfg(target_arch = "x86_64")]
    fn scan_with_matrices(&self, unit: &amx::Unit, group: &mut Group, blocks: Range<usize>) -> usize {
        let dim = self.rows.dim();
        let strip = amx::packed(dim);
        let panels: Vec<Vec<u16>> = group
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
        for block in blocks.clone() {
            let range = block_range(block, self.rows.len());
            // A row scored in f64 costs as much as about sixteen scored by vectors: a half of what they would take.
            let scanned = (block - blocks.start) * BLOCK_ROWS * group.queries.len();
            if (block - blocks.start) % 16 == 15 && group.settled() * 32 > scanned {
                return block;
            }
            group.enter(self.norm_of(block));
            amx::pack_rows(self.rows.slice(range.clone(), &mut scratch), dim, &mut packed);
            for (index, here) in packed.chunks(strip).enumerate() {
                let first = range.start + index * amx::STRIP;
                for (panel, lane) in panels.iter().zip((0..).step_by(amx::STRIP)) {
                    let limits = &group.thresholds[lane..lane + amx::STRIP];
                    if unit.tile(here, panel, limits, &mut out) {
                        group.take(&out, first, range.end - first, lane, amx::STRIP);
                    }
                }
            }
            release(&self.rows, block, range);
        }
        blocks.end
    }

    fn norm_of(&self, block: usize) -> f64 {
        self.norms.get(block).copied().unwrap_or(f64::INFINITY)
    }

    /// The lists of some queries: blocks of queries times parts of the rows, as many as there are threads.
    fn search_some(&self, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
        let dim = self.rows.dim();
        let most = self.norms.iter().copied().fold(0.0, f64::max);
        let mut judge = Judge {
            matrix: self.matrix,
            rows: self.rows,
            norms: &self.norms,
            places: self.places.as_deref(),
            k,
            level: self.level,
        };
        let queries = Query::all(queries, dim, most);
        let longest = queries.iter().map(|query| query.norm).fold(most, f64::max);
        judge.matrix &= longest < FITS_BFLOAT16;
        let threads = rayon::current_num_threads();
        let (widest, bytes, cache) = if judge.matrix {
            (MATRIX_WIDTH, size_of::<u16>(), MATRIX_CACHE)
        } else {
            (self.level.width(usize::MAX), size_of::<f32>(), CACHE)
        };
        let room = (cache / (widest * dim * bytes)).max(1);
        // A group for each thread before rows are parted: every part has candidates of its own to settle.
        let panels = queries.len().div_ceil(widest);
        let groups = panels.div_ceil(room).next_multiple_of(threads).min(panels);
        let size = queries.len().div_ceil(groups).next_multiple_of(LANES);
        let blocks = self.norms.len();
        let parts = threads
            .div_ceil(queries.len().div_ceil(size))
            .min(blocks.div_ceil(8))
            .max(1);
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
            release_all(&self.rows);
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

pub(super) fn block_range(block: usize, rows: usize) -> Range<usize> {
    block * BLOCK_ROWS..((block + 1) * BLOCK_ROWS).min(rows)
}

/// Gives back the memory of stored rows from time to time, if they are many.
pub(super) fn release(rows: &Rows, block: usize, range: Range<usize>) {
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

/// Gives back the memory of all stored rows, if they are many.
pub(super) fn release_all(rows: &Rows) {
    if let Rows::Stored(store) = rows
        && store.size() > RESIDENT
    {
        store.release(0..store.len());
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
            thresholds: vec![f32::INFINITY; queries.len() + 2 * MATRIX_WIDTH],
        }
    }

    /// Sets the thresholds for a block of this greatest norm.
    fn enter(&mut self, norm: f64) {
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

    /// Rows that were scored in f64 before the end.
    #[cfg(target_arch = "x86_64")]
    fn settled(&self) -> usize {
        self.candidates.iter().map(Candidates::settled).sum()
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
            for (slots, x) in numbers.chunks_exact_mut(width).zip(query.scaled()) {
                slots[lane] = x;
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
mod tests {
    use super::*;
    use crate::random::Draws;

    fn naive(rows: &[f32], query: &[f32], k: usize) -> Vec<Hit> {
        let mut hits: Vec<Hit> = rows
            .chunks(query.len())
            .zip(0..)
            .map(|(row, id)| {
                let products = query.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b));
                let score = products.fold(0.0, |sum, product| sum + product);
                Hit { id, score }
            })
            .collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        hits.truncate(k);
        hits
    }

    #[test]
    fn every_kind_of_processor_finds_the_same() {
        let (count, k) = (9000, 30);
        for (dim, noise) in [(1, 1.0), (20, 1.0), (20, 1e-3), (33, 1e-6), (70, 0.0), (256, 1.0)] {
            let mut draws = Draws::new(dim as u64);
            let mut vectors = |count: usize, noise: f64| -> Vec<f32> {
                let numbers = (0..count * dim).map(|i| (i % dim % 5) as f64 - 1.5 + noise * draws.normal());
                numbers.map(|x| x as f32).collect()
            };
            let (rows, queries) = (vectors(count, noise), vectors(70, 1.0));
            let expected: Vec<_> = queries.chunks(dim).map(|query| naive(&rows, query, k)).collect();
            let mut index = Exact::new(Rows::Memory { data: &rows, dim }).unwrap();
            assert!(index.search(&queries, k).unwrap() == expected, "rows of {dim}");
            index.matrix = false;
            for level in Level::all() {
                index.level = level;
                assert!(
                    index.search(&queries, k).unwrap() == expected,
                    "{level:?}, rows of {dim}"
                );
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn vectors_take_over_where_bfloat16_cannot_tell_rows_apart() {
        let Some(unit) = amx::Unit::new() else {
            return; // not this processor
        };
        let (dim, count) = (16, 20_000);
        let mut draws = Draws::new(5);
        for (noise, takes_over) in [(1e-3, true), (1.0, false)] {
            let rows: Vec<f32> = (0..count * dim)
                .map(|_| (1.0 + noise * draws.normal()) as f32)
                .collect();
            let index = Exact::new(Rows::Memory { data: &rows, dim }).unwrap();
            let judge = Judge {
                matrix: true,
                rows: index.rows,
                norms: &index.norms,
                places: None,
                k: 20,
                level: index.level,
            };
            let query = Query {
                numbers: &rows[..dim],
                scale: 1.0,
                norm: norm(&rows[..dim]).unwrap(),
            };
            let queries = [query];
            let mut group = Group::new(&judge, &queries, |query| Bound::with_bfloat16(dim, query.norm));
            let blocks = count.div_ceil(BLOCK_ROWS);
            let stopped = index.scan_with_matrices(&unit, &mut group, 0..blocks);
            assert_eq!(stopped < blocks, takes_over, "noise {noise}");
        }
    }
}
