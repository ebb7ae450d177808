//! FAISS behind the contract: it proposes, and the scores are computed again in f64.
//!
//! The lists of `Flat` are the lists of [`Exact`](super::Exact). Other indexes find what they find: what they do not
//! propose is missing, and a list may be shorter than `k`.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;

use ::faiss::index::autotune::ParameterSpace;
use ::faiss::index::io::{read_index, write_index};
use ::faiss::index::{IndexImpl, index_factory};
use ::faiss::{Index, MetricType};
use rayon::prelude::*;

use super::bounds::{Bound, norm, scale};
use super::exact::block_norms;
use super::kernel::Level;
use super::rescore::rescore;
use super::spec::FaissOptions;
use super::{Hit, Rows, SearchIndex, check_queries};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files::sync;

/// Rows handed to FAISS at once.
const ADDED: usize = 1 << 14;
/// Queries handed to FAISS at once.
const SEARCHED: usize = 1 << 10;
/// Rows that an index is trained with unless the caller says.
const TRAINED: usize = 1 << 16;
/// Results that FAISS may hold for one call.
const MOST_RESULTS: usize = 1 << 24;

/// An index made by FAISS, with inner product as its metric.
pub struct Faiss<'a> {
    rows: Rows<'a>,
    index: IndexImpl,
    margin: Option<usize>,
    /// Greatest norm of a row.
    most: f64,
    /// Whether FAISS compares every row, so that its lists can be proved.
    exact: bool,
}

impl std::fmt::Debug for Faiss<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faiss")
            .field("rows", &self.rows.len())
            .field("dim", &self.rows.dim())
            .field("exact", &self.exact)
            .finish_non_exhaustive()
    }
}

impl<'a> Faiss<'a> {
    /// Makes the index of a factory string, trains it if it must be, and adds all rows.
    ///
    /// Fails on a row that is not finite, on a factory string that FAISS does not take for this length of rows, when
    /// there are too few rows to train with, and on a parameter that the index does not have.
    pub fn build(rows: Rows<'a>, factory: &str, options: &FaissOptions) -> Result<Self> {
        let most = block_norms(&rows)?.into_iter().fold(0.0, f64::max);
        let dim = rows.dim();
        let failed = |error: ::faiss::error::Error| {
            let message = format!(
                "FAISS cannot make the index `{factory}` of {} rows of {dim}",
                rows.len()
            );
            Error::new(ErrorKind::InvalidArgument, message).with_source(error)
        };
        let width = u32::try_from(dim).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, format!("rows of {dim} are too long")).with_source(error)
        })?;
        let mut index = index_factory(width, factory, MetricType::InnerProduct).map_err(failed)?;
        let mut scratch = Vec::new();
        if !index.is_trained() {
            let sample = sample(&rows, options.train_rows.unwrap_or(TRAINED))?;
            index.train(&sample).map_err(failed)?;
        }
        for start in (0..rows.len()).step_by(ADDED) {
            let range = start..rows.len().min(start + ADDED);
            let block = match &rows {
                Rows::Memory { data, dim } => {
                    data.get(range.start * dim..range.end * dim).unwrap_or_default()
                }
                Rows::Stored(store) => {
                    store.block(range, &mut scratch)?;
                    &scratch
                }
            };
            index.add(block).map_err(failed)?;
        }
        let exact = factory.trim() == "Flat";
        Self::with_index(rows, index, options, most, exact)
    }

    /// Reads an index that [`save`](Self::save) or FAISS wrote, over the rows it was made of.
    ///
    /// Fails when the file is no index, or one of other dimensions, another number of rows or another metric. Whether the
    /// rows are those of the index cannot be seen; a file from a stranger is read by FAISS's own code.
    pub fn load(rows: Rows<'a>, path: &Path, options: &FaissOptions) -> Result<Self> {
        let most = block_norms(&rows)?.into_iter().fold(0.0, f64::max);
        let damaged = |message: String| Error::new(ErrorKind::InvalidData, message).with_path(path);
        if !path.is_file() {
            let error = std::io::ErrorKind::NotFound.into();
            return Err(Error::io(path, "read this index", error));
        }
        let index = read_index(name(path)?).map_err(|error| {
            damaged("this is not an index of FAISS, or it is damaged".to_owned()).with_source(error)
        })?;
        let (dim, len) = (index.d() as usize, index.ntotal() as usize);
        if (dim, len) != (rows.dim(), rows.len()) {
            return Err(damaged(format!(
                "this index holds {len} rows of {dim}, not the {} of {} to be searched; delete it to have it made anew",
                rows.len(),
                rows.dim()
            )));
        }
        if index.metric_type() != MetricType::InnerProduct {
            return Err(damaged(
                "this index compares by distance, not by inner product".to_owned(),
            ));
        }
        // What kind of index it is cannot be asked for: its lists are not widened.
        Self::with_index(rows, index, options, most, false)
    }

    fn with_index(
        rows: Rows<'a>,
        index: IndexImpl,
        options: &FaissOptions,
        most: f64,
        exact: bool,
    ) -> Result<Self> {
        let parameters = [("nprobe", options.nprobe), ("efSearch", options.ef_search)];
        for (name, value) in parameters {
            let Some(value) = value else { continue };
            let failed = |error| {
                let message = format!("the index has no {name}, or it cannot be {value}");
                Error::new(ErrorKind::InvalidArgument, message).with_source(error)
            };
            if value == 0 {
                bail!(InvalidArgument, "{name} must be at least 1");
            }
            let space = ParameterSpace::new().map_err(failed)?;
            space
                .set_index_parameter(&index, name, value as f64)
                .map_err(failed)?;
        }
        Ok(Self {
            rows,
            index,
            margin: options.margin,
            most,
            exact,
        })
    }

    /// Writes the index to a file that FAISS reads; whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = path.with_file_name(format!(".{file}.{}.part", std::process::id()));
        let written = write_index(&self.index, name(&beside)?).map_err(|error| {
            Error::new(ErrorKind::Io, "FAISS cannot write this index")
                .with_path(path)
                .with_source(error)
        });
        let moved = written.and_then(|()| {
            sync(&beside)?;
            fs::rename(&beside, path).map_err(|error| Error::io(path, "move the finished file here", error))
        });
        if moved.is_err() {
            let _ = fs::remove_file(&beside);
        }
        moved
    }

    /// Proposals of FAISS for scaled queries: for each query up to `count` ids, and the least score of a full list.
    fn propose(&mut self, queries: &[f32], count: usize) -> Result<Vec<(Vec<u32>, Option<f32>)>> {
        let failed = |error| Error::new(ErrorKind::Internal, "FAISS failed to search").with_source(error);
        let found = self.index.search(queries, count).map_err(failed)?;
        let lists = found.labels.chunks(count).zip(found.distances.chunks(count));
        lists
            .map(|(labels, scores)| {
                let mut ids = Vec::with_capacity(count);
                for label in labels.iter().filter_map(|label| label.get()) {
                    match u32::try_from(label) {
                        Ok(id) if (id as usize) < self.rows.len() => ids.push(id),
                        _ => bail!(
                            InvalidData,
                            "the index names row {label} of {}; it was made of other rows",
                            self.rows.len()
                        ),
                    }
                }
                let full = ids.len() == count;
                Ok((ids, scores.last().copied().filter(|_| full)))
            })
            .collect()
    }

    /// The lists of some queries, and which of them are not proved.
    fn search_some(&mut self, queries: &[f32], k: usize, count: usize) -> Result<Vec<(Vec<Hit>, bool)>> {
        let dim = self.rows.dim();
        let norms: Vec<f64> = queries
            .chunks_exact(dim)
            .map(|query| norm(query).unwrap_or(0.0))
            .collect();
        let scales: Vec<f64> = norms.iter().map(|norm| scale(*norm, self.most)).collect();
        let scaled: Vec<f32> = queries
            .chunks_exact(dim)
            .zip(&scales)
            .flat_map(|(query, scale)| query.iter().map(move |x| (f64::from(*x) * scale) as f32))
            .collect();
        let proposals = self.propose(&scaled, count)?;
        let level = Level::detect();
        let (rows, most, exact) = (self.rows, self.most, self.exact && count < self.rows.len());
        let lists = queries.par_chunks(dim).zip(proposals).zip(norms).zip(scales);
        Ok(lists
            .map(|(((query, (mut ids, least)), norm), scale)| {
                ids.sort_unstable();
                ids.dedup();
                let mut hits = Vec::with_capacity(ids.len());
                rescore(level, &rows, query, &ids, &mut hits);
                hits.sort_unstable_by(order);
                hits.truncate(k);
                // What was not proposed scores at most this.
                let error = Bound::new(dim, norm * scale).error(most);
                let rest = least.map_or(f64::INFINITY, |least| f64::from(least) + error);
                let proved = hits.last().is_some_and(|last| last.score * scale > rest);
                (hits, exact && !proved)
            })
            .collect())
    }
}

impl SearchIndex for Faiss<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn search(&mut self, queries: &[f32], k: usize) -> Result<Vec<Vec<Hit>>> {
        let (dim, len) = (self.dim(), self.len());
        check_queries(queries, dim)?;
        let k = k.min(len);
        if k == 0 {
            return Ok(vec![Vec::new(); queries.len() / dim]);
        }
        let margin = self.margin.unwrap_or(if self.exact { 16 + k / 16 } else { k });
        let mut lists = Vec::with_capacity(queries.len() / dim);
        for queries in queries.chunks(SEARCHED * dim) {
            let mut count = k.saturating_add(margin).min(len);
            let mut open: Vec<usize> = (0..queries.len() / dim).collect();
            let mut found = vec![Vec::new(); open.len()];
            while !open.is_empty() {
                let mut left = Vec::new();
                for some in open.chunks((MOST_RESULTS / count).max(1)) {
                    let asked: Vec<f32> = some
                        .iter()
                        .filter_map(|i| queries.get(i * dim..(i + 1) * dim))
                        .flatten()
                        .copied()
                        .collect();
                    for (i, (hits, unproved)) in some.iter().zip(self.search_some(&asked, k, count)?) {
                        if unproved {
                            left.push(*i);
                        } else if let Some(slot) = found.get_mut(*i) {
                            *slot = hits;
                        }
                    }
                }
                open = left;
                count = count.saturating_mul(4).min(len);
            }
            lists.append(&mut found);
        }
        Ok(lists)
    }
}

/// The best first; equal scores by id.
fn order(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

fn name(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "FAISS takes only file names in UTF-8; choose another one",
        )
        .with_path(path)
    })
}

/// Up to `count` rows, evenly spread, `[count, dim]`.
fn sample(rows: &Rows, count: usize) -> Result<Vec<f32>> {
    let count = count.min(rows.len());
    let mut sample = Vec::with_capacity(count * rows.dim());
    let mut scratch = Vec::new();
    for i in 0..count {
        let row = (i as u128 * rows.len() as u128 / count as u128) as usize;
        sample.extend_from_slice(rows.slice(row..row + 1, &mut scratch));
    }
    if sample.is_empty() {
        bail!(InvalidArgument, "there are no rows to train an index with");
    }
    Ok(sample)
}
