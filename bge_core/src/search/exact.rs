//! The built-in exact search: a blocked product whose scores are filtered in registers.
//!
//! Queries are packed into panels that stay in the cache; a strip of rows at a time is taken as it lies in memory or in the
//! mapped file and multiplied with all panels of a block. A score that cannot be among the best any more is never
//! written. What passes is kept with its error bound ([`bounds`](super::bounds)), and scored in f64 in the end, or when it
//! becomes too much (a corpus of copies).
//!
//! Where the processor has a matrix unit, it proposes in bfloat16 ([`amx`](super::amx)); with 256-bit vectors, whole numbers of 16 bits
//! do ([`integers`](super::integers)). The vector unit takes over in f32 where these cannot tell the rows apart.

use std::ops::Range;

use rayon::prelude::*;

use super::bounds::norm;
use super::candidates::{Candidates, Judge, Query, Scout};
use super::kernel::Level;
use super::scan::scan;
use super::store::BLOCK_ROWS;
use super::{Hit, Rows, SearchIndex, check_queries, not_finite};
#[cfg(target_arch = "x86_64")]
use super::{amx, integers};
use crate::error::{Result, bail};

/// Bytes of packed queries that stay in the cache of a core beside the rows that pass through.
const CACHE: usize = 800 << 10;
/// The same for the matrix unit: processors that have it have larger caches.
#[cfg(target_arch = "x86_64")]
const MATRIX_CACHE: usize = 1400 << 10;
/// The same for whole numbers: panels come from a cache that the cores share, once for each strip of rows.
#[cfg(target_arch = "x86_64")]
const SHARED_CACHE: usize = 8 << 20;
/// Queries whose candidates are in memory at once.
const MOST_QUERIES: usize = 1 << 13;
/// Queries of a group are a multiple of this: of the narrowest panel, or half a panel of the matrix unit.
const LANES: usize = 16;
/// Fewer queries than these are not worth rounding the rows to whole numbers, which takes as long as 27 save (measured).
#[cfg(target_arch = "x86_64")]
const WORTH_INTEGERS: usize = 32;
/// The same for bfloat16.
#[cfg(target_arch = "x86_64")]
const WORTH_BFLOAT16: usize = 64;
/// Queries of a group at least where rows are rounded for each group.
#[cfg(target_arch = "x86_64")]
const MANY: usize = 128;
/// Vectors shorter than this do not become infinite in bfloat16.
#[cfg(target_arch = "x86_64")]
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
    /// Who proposes, where the numbers allow it.
    scout: Scout,
}

/// The best one of this machine.
fn scout(level: Level) -> Scout {
    match level {
        #[cfg(target_arch = "x86_64")]
        _ if amx::detect() => Scout::Matrix,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => Scout::Integers,
        _ => Scout::Nobody,
    }
}

impl<'a> Exact<'a> {
    /// Reads all rows once, and fails at the first that is not finite.
    pub fn new(rows: Rows<'a>) -> Result<Self> {
        let level = Level::detect();
        Ok(Self {
            norms: block_norms(&rows)?,
            rows,
            places: None,
            level,
            scout: scout(level),
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

    /// Who proposes for these queries.
    #[cfg(target_arch = "x86_64")]
    fn scout_for(&self, queries: &[Query]) -> Scout {
        let mut norms = queries
            .iter()
            .map(|query| query.norm)
            .chain(self.norms.iter().copied());
        let serves = match self.scout {
            Scout::Matrix => queries.len() >= WORTH_BFLOAT16 && norms.all(|norm| norm < FITS_BFLOAT16),
            Scout::Integers => {
                queries.len() >= WORTH_INTEGERS
                    && self.rows.dim() <= integers::MOST_DIM
                    && norms.all(integers::fits)
            }
            Scout::Nobody => false,
        };
        if serves { self.scout } else { Scout::Nobody }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn scout_for(&self, _: &[Query]) -> Scout {
        Scout::Nobody
    }

    /// The lists of some queries: blocks of queries times parts of the rows, as many as there are threads.
    fn search_some(&self, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
        let dim = self.rows.dim();
        let most = self.norms.iter().copied().fold(0.0, f64::max);
        let queries = Query::all(queries, dim, most);
        let judge = Judge {
            scout: self.scout_for(&queries),
            rows: self.rows,
            norms: &self.norms,
            places: self.places.as_deref(),
            k,
            level: self.level,
        };
        let threads = rayon::current_num_threads();
        let (widest, bytes, cache, fewest) = match judge.scout {
            Scout::Nobody => (self.level.width(usize::MAX), size_of::<f32>(), CACHE, 1),
            #[cfg(target_arch = "x86_64")]
            Scout::Matrix => (amx::STRIP, size_of::<u16>(), MATRIX_CACHE, 1),
            #[cfg(target_arch = "x86_64")]
            Scout::Integers => (integers::WIDTH, size_of::<i16>(), SHARED_CACHE, MANY),
        };
        let room = (cache / (widest * dim * bytes)).max(1);
        // A group for each thread before rows are parted: every part has candidates of its own to settle.
        let panels = queries.len().div_ceil(widest);
        let groups = panels
            .div_ceil(room)
            .next_multiple_of(threads)
            .min(panels)
            .min(queries.len().div_ceil(fewest));
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
                        let own = (i * part).min(blocks)..((i + 1) * part).min(blocks);
                        scan(&judge, queries, own)
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
    fn vectors_of_any_length_have_their_place() {
        let (dim, k) = (12, 10);
        for length in [0.0, 1e-40, 1e-36, 1e-18, 1e-12, 1.0, 1e12, 1e18, 1e36] {
            let mut draws = Draws::new(3);
            // A block of rows of another length than the rest, and one of zeros.
            let rows: Vec<f32> = (0..1100 * dim)
                .map(|i| {
                    let length = [1.0, length, 0.0, 1.0, length][i / dim / BLOCK_ROWS];
                    (length * draws.normal()) as f32
                })
                .collect();
            let queries: Vec<f32> = (0..80 * dim)
                .map(|i| (draws.normal() * if i < 40 * dim { 1.0 } else { length }) as f32)
                .collect();
            let expected: Vec<_> = queries.chunks(dim).map(|query| naive(&rows, query, k)).collect();
            let mut index = Exact::new(Rows::Memory { data: &rows, dim }).unwrap();
            assert!(index.search(&queries, k).unwrap() == expected, "length {length}");
            index.scout = Scout::Nobody;
            assert!(
                index.search(&queries, k).unwrap() == expected,
                "length {length}, f32"
            );
        }
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
            let (rows, queries) = (vectors(count, noise), vectors(67, 1.0));
            let expected: Vec<_> = queries.chunks(dim).map(|query| naive(&rows, query, k)).collect();
            let mut index = Exact::new(Rows::Memory { data: &rows, dim }).unwrap();
            assert!(index.search(&queries, k).unwrap() == expected, "rows of {dim}");
            #[cfg(target_arch = "x86_64")]
            if integers::detect() {
                index.scout = Scout::Integers;
                assert!(
                    index.search(&queries, k).unwrap() == expected,
                    "integers, rows of {dim}"
                );
            }
            index.scout = Scout::Nobody;
            for level in Level::all() {
                index.level = level;
                assert!(
                    index.search(&queries, k).unwrap() == expected,
                    "{level:?}, rows of {dim}"
                );
            }
        }
    }
}
