//! The built-in exact search.

use rayon::prelude::*;

use super::store::BLOCK_ROWS;
use super::{Hit, Rows, SearchIndex, check_queries, not_finite};
use crate::error::Result;

/// Exact search over all rows; needs nothing installed.
#[derive(Debug)]
pub struct Exact<'a> {
    rows: Rows<'a>,
}

impl<'a> Exact<'a> {
    /// Checks the rows: each must be finite.
    pub fn new(rows: Rows<'a>) -> Result<Self> {
        rows.check()?;
        let mut scratch = Vec::new();
        for start in (0..rows.len()).step_by(BLOCK_ROWS) {
            let block = rows.slice(start..rows.len().min(start + BLOCK_ROWS), &mut scratch);
            if let Some(bad) = block.iter().position(|x| !x.is_finite()) {
                return Err(not_finite("row", start + bad / rows.dim(), block[bad]));
            }
        }
        Ok(Self { rows })
    }

    fn best(&self, query: &[f32], k: usize) -> Vec<Hit> {
        let mut scratch = Vec::new();
        let mut hits = Vec::with_capacity(self.rows.len());
        for start in (0..self.rows.len()).step_by(BLOCK_ROWS) {
            let end = self.rows.len().min(start + BLOCK_ROWS);
            let block = self.rows.slice(start..end, &mut scratch);
            for (row, id) in block.chunks_exact(query.len()).zip(start as u32..) {
                let score = query
                    .iter()
                    .zip(row)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum();
                hits.push(Hit { id, score });
            }
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        hits.truncate(k);
        hits
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
        Ok(queries
            .par_chunks(self.dim())
            .map(|query| self.best(query, k))
            .collect())
    }
}
