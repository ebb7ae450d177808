//! Nearest vectors by inner product: an exact search of our own, FAISS behind the same contract, vectors on disk.
//!
//! # The contract
//!
//! Every index proposes candidates in its own arithmetic. Their scores are then computed again in f64, as the sum of
//! `query[i] * row[i]` in the order of `i` over the stored numbers, and sorted by score, the greatest first, equal ones by
//! id, the lowest first. For an exact index the list is *the* list of the `k` best by this order: the same bits on every
//! processor, thread count and batch size.

#[cfg(target_arch = "x86_64")]
mod amx;
mod bounds;
mod candidates;
mod exact;
#[cfg(feature = "faiss")]
mod faiss;
#[cfg(target_arch = "x86_64")]
mod few;
#[cfg(any(feature = "cuda", test))]
mod gpu;
#[cfg(target_arch = "x86_64")]
mod integers;
mod kernel;
mod rescore;
mod scan;
mod sparse;
mod spec;
mod store;

pub use exact::Exact;
#[cfg(feature = "faiss")]
pub use faiss::Faiss;
pub use sparse::{SparseHits, SparseIndex, SparseTexts, TokenWeights};
pub use spec::{FaissOptions, IndexSpec, open_index};
pub use store::{VectorLayout, VectorStore, VectorType, VectorWriter};

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result, bail};

/// One found row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Index of the row.
    pub id: u32,
    /// Inner product of the query with it, see the [contract](self).
    pub score: f64,
}

/// Finds the rows with the greatest inner product.
pub trait SearchIndex {
    /// Number of rows.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of a row.
    fn dim(&self) -> usize;

    /// The `k` best rows for each query, `queries` being `[count, dim]`; all rows where there are fewer than `k`.
    ///
    /// Pass as many queries at once as there are: the blocks are chosen inside. Fails when a query is not finite.
    fn search(&mut self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>>;
}

/// The rows that are searched, `[len, dim]`.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// In memory.
    Memory {
        /// One row after the other.
        data: &'a [f32],
        /// Numbers of a row.
        dim: usize,
    },
    /// In a file.
    Stored(&'a VectorStore),
}

impl Rows<'_> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory { data, dim } => data.len().checked_div(*dim).unwrap_or(0),
            Self::Stored(store) => store.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of a row.
    pub fn dim(&self) -> usize {
        match self {
            Self::Memory { dim, .. } => *dim,
            Self::Stored(store) => store.dim(),
        }
    }

    /// Rows within one block of [`store::BLOCK_ROWS`], copied only where they are stored in another form.
    fn slice<'s>(&'s self, range: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        match self {
            Self::Memory { data, dim } => data.get(range.start * dim..range.end * dim).unwrap_or_default(),
            Self::Stored(store) => store.slice(range, scratch),
        }
    }

    /// The bytes of rows within one block, where they are stored in f16.
    #[cfg(any(feature = "cuda", test))]
    fn halves(&self, range: Range<usize>) -> Option<&[u8]> {
        match self {
            Self::Memory { .. } => None,
            Self::Stored(store) => store.halves(range),
        }
    }

    /// Fails when the rows are not whole, or more than ids can count.
    fn check(&self) -> Result<()> {
        if let Self::Memory { data, dim } = self
            && (*dim == 0 || !data.len().is_multiple_of(*dim))
        {
            bail!(
                InvalidArgument,
                "{} numbers are not whole rows of {dim}",
                data.len()
            );
        }
        if u32::try_from(self.len()).is_err() {
            bail!(
                Unsupported,
                "a search takes at most 4294967295 rows, not {}",
                self.len()
            );
        }
        Ok(())
    }
}

/// Fails when `queries` are not whole rows of `dim` finite numbers.
fn check_queries(queries: &[f32], dim: usize) -> Result<()> {
    if !queries.len().is_multiple_of(dim) {
        bail!(
            InvalidArgument,
            "{} numbers are not whole queries of {dim}",
            queries.len()
        );
    }
    match queries.iter().position(|x| !x.is_finite()) {
        Some(bad) => Err(not_finite(
            "query",
            bad / dim,
            queries.get(bad).copied().unwrap_or(f32::NAN),
        )),
        None => Ok(()),
    }
}

/// The error for a vector that has no place in a ranking; `row` is counted from 0.
fn not_finite(what: &str, row: usize, x: f32) -> Error {
    Error::new(
        ErrorKind::NotFinite,
        format!(
            "the vector of {what} {} holds {x}; the model is damaged or its training diverged",
            row + 1
        ),
    )
}
