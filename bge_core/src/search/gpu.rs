//! The built-in exact search on a GPU: it multiplies, and only scores that may be among the best come back.
//!
//! Rows pass over the GPU in stretches, each once for all queries of a call, so that a corpus may be larger than the GPU's memory.
//! What is left of a stretch's scores is judged as on the processor ([`candidates`](super::candidates)): bounds, the last
//! scores and their order are the same, and so are the lists. Products are of f32, never of TF32, whose error has another bound.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::bounds::Bound;
use super::candidates::{Candidates, Judge, Query, Scout};
use super::exact::{block_norms, block_range, release, release_all};
use super::kernel::Level;
use super::store::BLOCK_ROWS;
use super::{Hit, Rows, SearchIndex, check_queries};
use crate::cuda::gpu::{Arg, Extra, Gpu, Matrix, Memory, Plain, Product, memory_of, read_values};
use crate::cuda::kernels::THREADS;
#[cfg(feature = "cuda")]
use crate::cuda::{Device, gpu::Storage, kernels::Variant};
use crate::error::{Error, ErrorKind, Result};

/// How much is on the GPU at once.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Queries of a pass over the rows.
    queries: usize,
    /// Rows of a stretch.
    rows: usize,
    /// Numbers of a stretch, unless a block of rows has more.
    numbers: usize,
    /// Scores of a product, unless a stretch has more rows.
    scores: usize,
    /// Scores of one query that a block of threads looks through.
    part: usize,
    /// Scores that come to the host at once; at least a part.
    reached: usize,
}

impl Default for Limits {
    /// Up to 736 MiB, whatever the corpus is.
    fn default() -> Self {
        Self {
            queries: 1 << 14,
            rows: 1 << 16,
            numbers: 1 << 26,
            scores: 1 << 26,
            part: 1 << 12,
            reached: 1 << 22,
        }
    }
}

impl Limits {
    /// Half as much, for a GPU with less room; nothing where that is too little to be worth its launches.
    fn less(self) -> Option<Self> {
        /// Of the scores: then all is about 12 MiB.
        const LEAST: usize = 1 << 20;
        (self.scores > LEAST).then(|| Self {
            queries: self.queries.div_ceil(2),
            rows: self.rows,
            numbers: self.numbers / 2,
            scores: self.scores / 2,
            part: self.part,
            reached: self.reached.div_ceil(2).max(self.part),
        })
    }
}

/// Exact search over all rows by a GPU, with the lists of [`Exact`](super::Exact).
#[derive(Debug)]
pub(super) struct ExactOnGpu<'a> {
    rows: Rows<'a>,
    /// For each block of rows the greatest norm.
    norms: Vec<f64>,
    gpu: Arc<dyn Gpu>,
    limits: Limits,
}

/// Memory of the GPU for a pass over the rows.
struct Pass {
    /// The scaled queries, `[queries, dim]`.
    queries: Memory,
    /// A stretch of rows, `[rows, dim]`.
    rows: Memory,
    /// The same in f16, where it is stored so.
    halves: Option<Memory>,
    /// Scores of some queries with the stretch, `[queries, rows]`.
    scores: Memory,
    /// Columns and scores of those that reach a threshold.
    reached: Memory,
}

/// Some of the queries with their candidates.
struct Batch<'b, 'q> {
    /// Index of the first one in the pass.
    first: usize,
    queries: &'b [Query<'q>],
    candidates: &'b mut [Candidates],
}

/// Says what the way out is where a GPU fails.
fn told(error: Error) -> Error {
    let what = match error.kind() {
        ErrorKind::OutOfMemory => "the GPU has no room for the search, however little is on it at once",
        _ => "the search cannot use the GPU",
    };
    let message = format!("{what}; leave out `use_gpu_for_searching` to search on the processor");
    Error::new(error.kind(), message).with_source(error)
}

/// Fails when there is no GPU of this number.
#[cfg(feature = "cuda")]
pub(super) fn check(number: usize) -> Result<()> {
    use crate::error::bail;
    let count = Device::count().map_err(told)?;
    if number >= count {
        bail!(
            Device,
            "there is no `cuda:{number}` to search on: {count} CUDA devices were found; name another, or leave out \
             `use_gpu_for_searching`"
        );
    }
    Ok(())
}

impl<'a> ExactOnGpu<'a> {
    /// Reads all rows once, and fails at the first that is not finite, or where the GPU of this number cannot be used.
    #[cfg(feature = "cuda")]
    pub(super) fn open(rows: Rows<'a>, number: usize) -> Result<Self> {
        // The kernels of the search have no widths: those of a small model do.
        let variant = Variant::new(Storage::F32, 96, 3)?;
        let device = Device::open(number, variant, false).map_err(told)?;
        Self::new(rows, Arc::new(device), Limits::default())
    }

    /// The GPU's storage type is f32.
    fn new(rows: Rows<'a>, gpu: Arc<dyn Gpu>, limits: Limits) -> Result<Self> {
        let norms = block_norms(&rows)?;
        Ok(Self {
            rows,
            norms,
            gpu,
            limits,
        })
    }

    /// Rows of the longest stretch: whole blocks.
    fn longest(&self) -> usize {
        let rows = (self.limits.numbers / self.rows.dim()).min(self.limits.rows);
        (rows / BLOCK_ROWS).max(1) * BLOCK_ROWS
    }

    fn prepare(&self, queries: &[Query]) -> Result<Pass> {
        let dim = self.rows.dim();
        let longest = self.longest().min(self.rows.len());
        let scores = self.limits.scores.min(longest * queries.len()).max(longest);
        let scaled: Vec<f32> = queries.iter().flat_map(Query::scaled).collect();
        let halves = self.rows.halves(0..1).is_some();
        Ok(Pass {
            queries: memory_of(&self.gpu, &scaled)?,
            rows: self.gpu.alloc(longest * dim * size_of::<f32>())?,
            halves: halves
                .then(|| self.gpu.alloc(longest * dim * size_of::<u16>()))
                .transpose()?,
            scores: self.gpu.alloc(scores * size_of::<f32>())?,
            reached: self.gpu.alloc(self.limits.reached * 2 * size_of::<u32>())?,
        })
    }

    /// Brings a stretch of rows to the GPU.
    fn bring(&self, pass: &Pass, range: Range<usize>) -> Result<()> {
        let dim = self.rows.dim();
        let mut scratch = Vec::new();
        for block in range.start / BLOCK_ROWS..range.end.div_ceil(BLOCK_ROWS) {
            let here = block_range(block, self.rows.len());
            let at = (here.start - range.start) * dim;
            if let (Some(halves), Some(bytes)) = (&pass.halves, self.rows.halves(here.clone())) {
                self.gpu.upload(halves.at(at * size_of::<u16>()), bytes)?;
            } else {
                let rows = f32::bytes(self.rows.slice(here.clone(), &mut scratch));
                self.gpu.upload(pass.rows.at(at * size_of::<f32>()), rows)?;
            }
            release(&self.rows, block, here);
        }
        if let Some(halves) = &pass.halves {
            let count = range.len() * dim;
            // f16, not bf16.
            let args = [
                halves.into(),
                (count as u64).into(),
                0_u32.into(),
                (&pass.rows).into(),
            ];
            self.gpu
                .launch("widen_halves", [count.div_ceil(THREADS), 1], &args)?;
        }
        Ok(())
    }

    /// Multiplies some queries with the stretch that is on the GPU, and takes what reaches their thresholds.
    fn scan(&self, judge: &Judge, pass: &Pass, range: Range<usize>, batch: &mut Batch) -> Result<()> {
        let (dim, columns) = (self.rows.dim(), range.len());
        let queries_at = pass.queries.at(batch.first * dim * size_of::<f32>());
        self.gpu.product(Product {
            size: [batch.queries.len(), columns, dim],
            a: Matrix::new(queries_at, dim),
            b: Matrix::new(pass.rows.address(), dim).t(),
            out: Matrix::new(pass.scores.address(), columns),
            wide: false,
            exact: true,
            add: false,
            extra: Extra::Nothing,
        })?;
        let blocks = range.start / BLOCK_ROWS..range.end.div_ceil(BLOCK_ROWS);
        let norm = self.norms[blocks].iter().copied().fold(0.0, f64::max);
        let thresholds: Vec<f32> = batch
            .candidates
            .iter()
            .map(|candidates| candidates.threshold(candidates.error(norm)))
            .collect();
        let parts = columns.div_ceil(self.limits.part);
        let all = parts * batch.queries.len();
        let thresholds = memory_of(&self.gpu, &thresholds)?;
        let counts = self.gpu.alloc(all * size_of::<u32>())?;
        let what: [Arg; 4] = [
            (&pass.scores).into(),
            (&thresholds).into(),
            (columns as u32).into(),
            (self.limits.part as u32).into(),
        ];
        let args = [&what[..], &[(&counts).into()]].concat();
        self.gpu.launch("count_reached", [all, 1], &args)?;
        let mut starts = vec![0_u32];
        let mut sum = 0;
        for count in read_values::<u32>(&self.gpu, counts.address(), all)? {
            sum += count;
            starts.push(sum);
        }
        let starts_memory = memory_of(&self.gpu, &starts)?;
        let mut from = 0;
        while from < all {
            // As many parts as have room; one always has.
            let room = starts[from] as usize + self.limits.reached;
            let to = starts.partition_point(|&start| start as usize <= room) - 1;
            let count = (starts[to] - starts[from]) as usize;
            if count > 0 {
                let more = [
                    (&starts_memory).into(),
                    (from as u32).into(),
                    (&pass.reached).into(),
                ];
                let args = [&what[..], &more].concat();
                self.gpu.launch("take_reached", [to - from, 1], &args)?;
                let found = read_values::<u32>(&self.gpu, pass.reached.address(), 2 * count)?;
                let place = |part: usize| 2 * (starts[part.clamp(from, to)] - starts[from]) as usize;
                let own = |query: usize| &found[place(query * parts)..place((query + 1) * parts)];
                batch
                    .candidates
                    .par_iter_mut()
                    .zip(batch.queries)
                    .enumerate()
                    .for_each(|(i, (candidates, query))| {
                        self.take(judge, query, candidates, range.start, own(i));
                    });
            }
            from = to;
        }
        Ok(())
    }

    /// Takes what the GPU found for a query in the rows from `first` on: pairs of column and score.
    fn take(&self, judge: &Judge, query: &Query, candidates: &mut Candidates, first: usize, found: &[u32]) {
        for &[column, score] in found.as_chunks().0 {
            let (id, score) = (first + column as usize, f32::from_bits(score));
            // That of the row's own block, by which a candidate is dropped later.
            let error = candidates.error(self.norms[id / BLOCK_ROWS]);
            if score >= candidates.threshold(error) {
                judge.offer(query, candidates, id as u32, score, error);
            }
        }
    }

    /// The lists of some queries by one pass over the rows.
    fn search_some(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>> {
        let (dim, len) = (self.rows.dim(), self.rows.len());
        let judge = Judge {
            scout: Scout::Nobody,
            rows: self.rows,
            norms: &self.norms,
            places: None,
            k,
            level: Level::detect(),
        };
        let queries = Query::all(queries, dim, self.norms.iter().copied().fold(0.0, f64::max));
        let mut candidates: Vec<Candidates> = queries
            .iter()
            .map(|query| Candidates::new(Bound::with_losses(dim, query.norm)))
            .collect();
        let pass = self.prepare(&queries)?;
        let mut start = 0;
        while start < len {
            // All scores of the first rows are candidates, so these are few; then every stretch is as long as what was before.
            let rows = start.max(k.next_multiple_of(BLOCK_ROWS)).min(self.longest());
            let range = start..len.min(start + rows);
            self.bring(&pass, range.clone())?;
            let size = (self.limits.scores / range.len()).max(1);
            let batches = queries.chunks(size).zip(candidates.chunks_mut(size));
            for (number, (queries, candidates)) in batches.enumerate() {
                let mut batch = Batch {
                    first: number * size,
                    queries,
                    candidates,
                };
                self.scan(&judge, &pass, range.clone(), &mut batch)?;
            }
            start = range.end;
        }
        let lists = queries.par_iter().zip(candidates);
        Ok(lists
            .map(|(query, candidates)| judge.finish(query, vec![candidates]))
            .collect())
    }
}

impl SearchIndex for ExactOnGpu<'_> {
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
        while lists.len() < count {
            let rest = &queries[lists.len() * self.dim()..];
            let some = &rest[..rest.len().min(self.limits.queries * self.dim())];
            match self.search_some(some, k) {
                Ok(found) => lists.extend(found),
                Err(error) => {
                    // What else is on the GPU, such as the model, leaves the room for less: all passes from here on make do with it.
                    let less = self.limits.less();
                    let Some(less) = less.filter(|_| error.kind() == ErrorKind::OutOfMemory) else {
                        return Err(told(error));
                    };
                    tracing::info!(scores = less.scores, "the GPU has less room for the search");
                    self.limits = less;
                }
            }
            release_all(&self.rows);
        }
        Ok(lists)
    }
}

#[cfg(test)]
mod checks;
