//! Which index the settings ask for.

use super::{Exact, Rows, SearchIndex};
use crate::error::{Result, bail};

/// What a FAISS index is told; the built-in search needs none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaissOptions {
    /// Lists that an IVF index looks into for a query; FAISS's default is 1.
    pub nprobe: Option<usize>,
    /// Candidates that an HNSW index follows for a query; FAISS's default is 16.
    pub ef_search: Option<usize>,
    /// Rows that an index is trained with at most, evenly spread; 65,536 unless given.
    pub train_rows: Option<usize>,
    /// Candidates beyond `k` that are scored again in f64. Unless given, a sixteenth of `k` and 16 for `Flat`, which is
    /// widened where needed, and as many as `k` for others: compressed vectors propose in a wrong order.
    pub margin: Option<usize>,
}

/// Which index to search with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexSpec {
    /// A FAISS factory string, such as `Flat`, `IVF1024,Flat`, `HNSW32` or `IVF256,PQ48`; none is the built-in exact search.
    pub factory: Option<String>,
    /// For FAISS.
    pub options: FaissOptions,
    /// Whether to search on a GPU (`use_gpu_for_searching`).
    pub use_gpu: bool,
}

/// Opens the index that is asked for over these rows; one that must be trained or built is.
///
/// Fails with [`Unsupported`](crate::ErrorKind::Unsupported) for FAISS in a build without the feature `faiss`, and for a
/// GPU; then with what opening the rows or building the index can fail with.
pub fn open_index<'a>(rows: Rows<'a>, spec: &IndexSpec) -> Result<Box<dyn SearchIndex + 'a>> {
    if spec.use_gpu {
        bail!(
            Unsupported,
            "this build searches on the processor only, as neither CUDA nor faiss-gpu is linked; leave out `use_gpu_for_searching`"
        );
    }
    match spec.factory.as_deref().map(str::trim) {
        None | Some("") => Ok(Box::new(Exact::new(rows)?)),
        #[cfg(feature = "faiss")]
        Some(factory) => Ok(Box::new(super::Faiss::build(rows, factory, &spec.options)?)),
        #[cfg(not(feature = "faiss"))]
        Some(factory) => bail!(
            Unsupported,
            "the index `{factory}` needs FAISS: build bge with the feature `faiss`, or leave the factory string out for the built-in exact search"
        ),
    }
}
