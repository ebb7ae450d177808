//! Token ids of many texts in one flat list, without padding.

use std::ops::Range;

use crate::error::{Result, bail};

/// The tokens of some texts, one after the other.
///
/// Text `i` has the ids `ids[offsets[i]..offsets[i + 1]]`; `offsets` is what attention kernels call `cu_seqlens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// All ids.
    pub ids: Vec<u32>,
    /// Segment of every id; absent where all are 0.
    pub type_ids: Option<Vec<u32>>,
    /// Where every text starts, and the end: one more than there are texts.
    pub offsets: Vec<u32>,
}

impl Default for TokenBatch {
    /// No texts.
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            type_ids: None,
            offsets: vec![0],
        }
    }
}

impl TokenBatch {
    /// A batch of rows of ids, all of segment 0. Refuses more than 4,294,967,295 tokens.
    pub fn from_rows<R: AsRef<[u32]>>(rows: &[R]) -> Result<Self> {
        let total: usize = rows.iter().map(|row| row.as_ref().len()).sum();
        if u32::try_from(total).is_err() {
            bail!(
                InvalidArgument,
                "{total} tokens do not fit in one batch; encode fewer texts at once"
            );
        }
        let mut batch = Self {
            ids: Vec::with_capacity(total),
            type_ids: None,
            offsets: Vec::with_capacity(rows.len() + 1),
        };
        batch.offsets.push(0);
        for row in rows {
            batch.ids.extend_from_slice(row.as_ref());
            batch.offsets.push(batch.ids.len() as u32);
        }
        Ok(batch)
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of tokens of all texts.
    pub fn total_tokens(&self) -> usize {
        self.ids.len()
    }

    /// The number of tokens of every text.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.offsets.windows(2).map(|ends| (ends[1] - ends[0]) as usize)
    }

    /// The number of tokens of the longest text; 0 without texts.
    pub fn max_len(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    /// Where the ids of text `i` are.
    ///
    /// # Panics
    /// If there is no text `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// The ids of text `i`.
    ///
    /// # Panics
    /// If there is no text `i`.
    pub fn row(&self, i: usize) -> &[u32] {
        &self.ids[self.range(i)]
    }

    /// The ids of every text.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u32]> + '_ {
        (0..self.len()).map(|i| self.row(i))
    }

    /// The texts at `indices`, in that order; an index may come twice.
    ///
    /// # Panics
    /// If an index is out of range.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let gather = |all: &[u32]| -> Vec<u32> {
            let rows = indices.iter().map(|&i| &all[self.range(i)]);
            rows.flatten().copied().collect()
        };
        let mut end = 0;
        let ends = indices.iter().map(|&i| {
            end += self.range(i).len() as u32;
            end
        });
        let offsets = std::iter::once(0).chain(ends).collect();
        Self {
            ids: gather(&self.ids),
            type_ids: self.type_ids.as_deref().map(gather),
            offsets,
        }
    }

    /// The texts of a range.
    ///
    /// # Panics
    /// If the range reaches past the last text.
    #[must_use]
    pub fn slice(&self, texts: Range<usize>) -> Self {
        let offsets = &self.offsets[texts.start..=texts.end];
        let first = offsets[0];
        let tokens = first as usize..offsets[offsets.len() - 1] as usize;
        Self {
            ids: self.ids[tokens.clone()].to_vec(),
            type_ids: self.type_ids.as_ref().map(|all| all[tokens].to_vec()),
            offsets: offsets.iter().map(|offset| offset - first).collect(),
        }
    }

    /// The batch in pieces of `texts` texts, the last may have fewer; `texts` of 0 counts as 1.
    pub fn chunks(&self, texts: usize) -> impl ExactSizeIterator<Item = Self> + '_ {
        let step = texts.max(1);
        (0..self.len())
            .step_by(step)
            .map(move |start| self.slice(start..self.len().min(start + step)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> TokenBatch {
        let mut batch = TokenBatch::from_rows(&[vec![1, 2, 3], vec![], vec![4], vec![5, 6]]).unwrap();
        batch.type_ids = Some(vec![0, 0, 1, 0, 1, 1]);
        batch
    }

    #[test]
    fn rows_are_found_by_offsets() {
        let batch = batch();
        assert_eq!(batch.offsets, [0, 3, 3, 4, 6]);
        assert_eq!((batch.len(), batch.total_tokens(), batch.max_len()), (4, 6, 3));
        assert_eq!(batch.row(2), [4]);
        let rows: Vec<&[u32]> = batch.rows().collect();
        assert_eq!(rows, [&[1, 2, 3][..], &[], &[4], &[5, 6]]);
    }

    #[test]
    fn parts_carry_their_ids_and_segments() {
        let batch = batch();
        let part = batch.select(&[3, 0, 3]);
        assert_eq!(part.ids, [5, 6, 1, 2, 3, 5, 6]);
        assert_eq!(part.type_ids.as_deref(), Some(&[1, 1, 0, 0, 1, 1, 1][..]));
        assert_eq!(part.offsets, [0, 2, 5, 7]);
        assert_eq!(batch.select(&[1, 2, 3]), batch.slice(1..4));
        assert_eq!(batch.slice(0..4), batch);
        assert_eq!(batch.slice(4..4).len(), 0);
        assert_eq!(batch.select(&[]).len(), 0);
    }

    #[test]
    fn chunks_hold_every_text_once() {
        let batch = batch();
        let sizes = |k| batch.chunks(k).map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(sizes(3), [3, 1]);
        assert_eq!(sizes(4), [4]);
        assert_eq!(sizes(9), [4]);
        assert_eq!(sizes(0), [1; 4]);
        let rows: Vec<Vec<u32>> = batch
            .chunks(3)
            .flat_map(|chunk| chunk.rows().map(<[u32]>::to_vec).collect::<Vec<_>>())
            .collect();
        assert_eq!(rows, batch.rows().collect::<Vec<_>>());
        assert_eq!(TokenBatch::default().chunks(2).len(), 0);
        assert_eq!(TokenBatch::default().max_len(), 0);
    }
}
