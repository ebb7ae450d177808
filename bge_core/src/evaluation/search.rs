//! Exact nearest documents by inner product, in blocks, the same bits on every machine and thread count.
//!
//! A product is summed in sixteen fixed lanes without fused multiply-add, so the order of additions, and with it
//! every score and every tie, does not depend on the width of the machine's registers.

use pulp::Arch;
use rayon::prelude::*;

use crate::error::{Error, ErrorKind, Result, bail};

/// One found document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Index of the document.
    pub document: u32,
    /// Inner product of the query with it.
    pub score: f32,
}

/// Queries that are compared with one block of documents while it is in the cache.
const QUERY_BLOCK: usize = 16;
/// Documents of a block.
const DOCUMENT_BLOCK: usize = 256;
/// Partial sums of a product.
const LANES: usize = 16;

/// The `k` documents with the greatest inner product for each query, best first.
///
/// `queries` and `documents` are rows of `dim` numbers. Equal scores put the greater id first, as
/// [`rank`](super::rank) does. `skip` names for each query a document that must not be found (the query itself).
/// Fails when a vector is not finite: such a model has no ranking.
pub fn top_k(
    queries: &[f32],
    documents: &[f32],
    dim: usize,
    document_ids: &[String],
    skip: &[Option<u32>],
    k: usize,
) -> Result<Vec<Vec<Hit>>> {
    let rows = |data: &[f32], what: &str| -> Result<usize> {
        if dim == 0 || !data.len().is_multiple_of(dim) {
            bail!(
                Internal,
                "{} numbers are not rows of {dim} for {what}",
                data.len()
            );
        }
        if let Some(bad) = data.iter().position(|x| !x.is_finite()) {
            return Err(Error::new(
                ErrorKind::NotFinite,
                format!(
                    "the vector of {what} {} holds {}; the model is damaged or its training diverged",
                    bad / dim + 1,
                    data.get(bad).copied().unwrap_or(f32::NAN)
                ),
            ));
        }
        Ok(data.len() / dim)
    };
    let query_count = rows(queries, "query")?;
    let document_count = rows(documents, "document")?;
    if document_count != document_ids.len() || query_count != skip.len() {
        bail!(
            Internal,
            "{document_count} vectors for {} documents and {query_count} for {} queries",
            document_ids.len(),
            skip.len()
        );
    }
    if u32::try_from(document_count).is_err() {
        bail!(
            Unsupported,
            "exact search takes at most 4294967295 documents, not {document_count}"
        );
    }
    let order = TieOrder::new(document_ids);
    let found = queries
        .par_chunks(QUERY_BLOCK * dim)
        .zip(skip.par_chunks(QUERY_BLOCK))
        .flat_map_iter(|(queries, skip)| search_block(queries, documents, dim, &order, skip, k))
        .collect();
    Ok(found)
}

/// Position of each document among the sorted ids, and back.
struct TieOrder {
    place: Vec<u32>,
    document: Vec<u32>,
}

impl TieOrder {
    fn new(ids: &[String]) -> Self {
        let mut document: Vec<u32> = (0..ids.len() as u32).collect();
        document.sort_by_key(|index| ids.get(*index as usize));
        let mut place = vec![0; ids.len()];
        for (position, index) in document.iter().enumerate() {
            if let Some(slot) = place.get_mut(*index as usize) {
                *slot = position as u32;
            }
        }
        Self { place, document }
    }
}

/// Score and place in one integer that sorts as (score, id) does.
fn pack(score: f32, place: u32) -> u64 {
    let bits = (score + 0.0).to_bits(); // -0.0 becomes 0.0: they are equal scores
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ordered) << 32 | u64::from(place)
}

fn unpack(key: u64) -> (f32, u32) {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 1 {
        ordered & !(1 << 31)
    } else {
        !ordered
    };
    (f32::from_bits(bits), key as u32)
}

/// The greatest `k` keys seen so far, kept by cutting a buffer of twice the size.
struct Best {
    k: usize,
    keys: Vec<u64>,
    floor: u64,
}

impl Best {
    fn new(k: usize) -> Self {
        Self {
            k,
            keys: Vec::with_capacity(2 * k),
            floor: 0,
        }
    }

    fn offer(&mut self, key: u64) {
        if key < self.floor || self.k == 0 {
            return;
        }
        self.keys.push(key);
        if self.keys.len() >= 2 * self.k.max(8) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.keys.len() > self.k {
            let (_, least, _) = self.keys.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.floor = *least;
            self.keys.truncate(self.k);
        }
    }

    fn finish(mut self) -> Vec<u64> {
        self.cut();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys
    }
}

fn search_block(
    queries: &[f32],
    documents: &[f32],
    dim: usize,
    order: &TieOrder,
    skip: &[Option<u32>],
    k: usize,
) -> Vec<Vec<Hit>> {
    let arch = Arch::new();
    let count = documents.len() / dim;
    let mut best: Vec<Best> = skip.iter().map(|_| Best::new(k.min(count))).collect();
    let mut scores = vec![0.0; QUERY_BLOCK * DOCUMENT_BLOCK];
    for (block, documents) in documents.chunks(DOCUMENT_BLOCK * dim).enumerate() {
        let width = documents.len() / dim;
        arch.dispatch(|| dot_block(queries, documents, dim, &mut scores));
        let first = block * DOCUMENT_BLOCK;
        for ((scores, best), skip) in scores.chunks(width).zip(&mut best).zip(skip) {
            let places = order.place.iter().skip(first);
            for (index, (score, place)) in scores.iter().zip(places).enumerate() {
                if *skip != Some((first + index) as u32) {
                    best.offer(pack(*score, *place));
                }
            }
        }
    }
    best.into_iter()
        .map(|best| {
            let hit = |key| {
                let (score, place) = unpack(key);
                let document = order.document.get(place as usize).copied().unwrap_or_default();
                Hit { document, score }
            };
            best.finish().into_iter().map(hit).collect()
        })
        .collect()
}

/// Inner products of all rows of `queries` with all rows of `documents` into `scores` `[queries, documents]`.
#[allow(
    clippy::inline_always,
    reason = "only inlined code is compiled for the registers that dispatch found"
)]
#[inline(always)]
fn dot_block(queries: &[f32], documents: &[f32], dim: usize, scores: &mut [f32]) {
    let width = documents.len() / dim;
    for (query, scores) in queries.chunks_exact(dim).zip(scores.chunks_mut(width)) {
        for (document, score) in documents.chunks_exact(dim).zip(scores) {
            *score = dot(query, document);
        }
    }
}

/// Inner product in sixteen lanes, added pairwise at the end.
#[allow(
    clippy::inline_always,
    reason = "only inlined code is compiled for the registers that dispatch found"
)]
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draws, Stream, key};

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|i| i.to_string()).collect()
    }

    #[test]
    fn the_packed_order_is_score_then_id() {
        let scores = [f32::MIN, -1.0, -1e-40, 0.0, 1e-40, 0.5, 0.500_000_1, f32::MAX];
        for pair in scores.windows(2) {
            assert!(pack(pair[0], u32::MAX) < pack(pair[1], 0));
        }
        assert_eq!(pack(-0.0, 3), pack(0.0, 3));
        assert!(pack(0.5, 2) < pack(0.5, 3));
        for score in scores {
            assert_eq!(unpack(pack(score, 7)), (score, 7));
        }
    }

    #[test]
    fn blocks_find_what_a_full_sort_finds() {
        let (queries, documents, dim) = (37, 700, 19);
        let mut draws = Draws::new(key(3, Stream::Init, 0));
        // Coarse values, so that there are many equal scores.
        let mut numbers =
            |n: usize| -> Vec<f32> { (0..n * dim).map(|_| draws.below(3) as f32 - 1.0).collect() };
        let (q, d) = (numbers(queries), numbers(documents));
        let ids = ids(documents);
        let skip: Vec<Option<u32>> = (0..queries).map(|i| (i % 2 == 0).then_some(i as u32)).collect();
        for k in [0, 1, 10, 300, 5000] {
            let found = top_k(&q, &d, dim, &ids, &skip, k).unwrap();
            assert_eq!(found.len(), queries);
            for (index, (query, hits)) in q.chunks(dim).zip(&found).enumerate() {
                let mut all: Vec<(String, f32)> = d
                    .chunks(dim)
                    .enumerate()
                    .filter(|(document, _)| skip[index] != Some(*document as u32))
                    .map(|(i, document)| {
                        (
                            i.to_string(),
                            query.iter().zip(document).map(|(a, b)| a * b).sum(),
                        )
                    })
                    .collect();
                super::super::rank(&mut all);
                all.truncate(k);
                let hits: Vec<(String, f32)> = hits
                    .iter()
                    .map(|hit| (hit.document.to_string(), hit.score))
                    .collect();
                assert_eq!(hits, all);
            }
        }
    }

    #[test]
    fn a_vector_that_is_not_finite_is_refused_by_its_row() {
        let error = top_k(&[1.0, 0.0], &[0.0, 1.0, f32::NAN, 0.0], 2, &ids(2), &[None], 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFinite);
        assert!(error.to_string().contains("document 2"), "{error}");
    }
}
