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
    /// Whether to search on a GPU (`use_gpu_for_searching`), which the built-in search does in a build with the feature `cuda`.
    pub use_gpu: bool,
    /// The number of that GPU.
    pub gpu: usize,
}

impl IndexSpec {
    fn factory(&self) -> Option<&str> {
        self.factory
            .as_deref()
            .map(str::trim)
            .filter(|factory| !factory.is_empty())
    }

    /// Fails as [`open_index`] would, where that is known without rows.
    pub fn check(&self) -> Result<()> {
        match self.factory() {
            Some(factory) if self.use_gpu => bail!(
                Unsupported,
                "the index `{factory}` is searched on the processor, as faiss-gpu is not linked; leave the factory string out for the \
                 built-in exact search on a GPU, or leave out `use_gpu_for_searching`"
            ),
            #[cfg(not(feature = "faiss"))]
            Some(factory) => bail!(
                Unsupported,
                "the index `{factory}` needs FAISS: build bge with the feature `faiss`, or leave the factory string out for the built-in exact search"
            ),
            #[cfg(feature = "cuda")]
            None if self.use_gpu => super::gpu::check(self.gpu),
            #[cfg(not(feature = "cuda"))]
            None if self.use_gpu => bail!(
                Unsupported,
                "this build searches on the processor only; for an NVIDIA GPU, build it with `--features bge_core/cuda`, or leave out \
                 `use_gpu_for_searching`"
            ),
            _ => Ok(()),
        }
    }
}

/// Opens the index that is asked for over these rows; one that must be trained or built is.
///
/// Fails with [`Unsupported`](crate::ErrorKind::Unsupported) for FAISS in a build without the feature `faiss` or on a GPU, and
/// for a GPU in a build without `cuda`; with [`Device`](crate::ErrorKind::Device) where there is no such GPU; then with what
/// opening the rows or building the index can fail with.
pub fn open_index<'a>(rows: Rows<'a>, spec: &IndexSpec) -> Result<Box<dyn SearchIndex + 'a>> {
    spec.check()?;
    match spec.factory() {
        #[cfg(feature = "cuda")]
        None if spec.use_gpu => Ok(Box::new(super::gpu::ExactOnGpu::open(rows, spec.gpu)?)),
        #[cfg(feature = "faiss")]
        Some(factory) => Ok(Box::new(super::Faiss::build(rows, factory, &spec.options)?)),
        _ => Ok(Box::new(Exact::new(rows)?)),
    }
}
