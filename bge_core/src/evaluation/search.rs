//! The documents nearest to each query, in the order of `trec_eval`.

use crate::error::{Error, ErrorKind, Result, bail};
use crate::search::{Exact, Rows, SearchIndex};

/// One found document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Index of the document.
    pub document: u32,
    /// Inner product of the query with it: computed in f64, which also decides the order.
    pub score: f32,
}

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
    let rows = Rows::Memory { data: documents, dim };
    let mut index = Exact::new(rows)?.with_places(places(document_ids))?;
    // One more, where one may have to go.
    let lists = index.search(
        queries,
        k.saturating_add(usize::from(skip.iter().any(Option::is_some))),
    )?;
    let found = lists.into_iter().zip(skip).map(|(list, skip)| {
        let hits = list.into_iter().filter(|hit| Some(hit.id) != *skip).take(k);
        hits.map(|hit| Hit {
            document: hit.id,
            score: hit.score as f32,
        })
        .collect()
    });
    Ok(found.collect())
}

/// Place of each document among equal scores: the greater id first.
pub(super) fn places(ids: &[String]) -> Vec<u32> {
    let mut documents: Vec<u32> = (0..ids.len() as u32).collect();
    documents.sort_by(|a, b| ids.get(*b as usize).cmp(&ids.get(*a as usize)));
    let mut places = vec![0; ids.len()];
    for (place, document) in documents.iter().enumerate() {
        if let Some(slot) = places.get_mut(*document as usize) {
            *slot = place as u32;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Draws, Stream, key};

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|i| i.to_string()).collect()
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
