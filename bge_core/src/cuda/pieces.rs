//! Lists that the host makes of a batch for the kernels: tiles of texts, and tokens sorted by the row of a table they take.

/// Tokens that one block adds up for a row of a table; fixed, so that the order of additions is.
const PIECE: usize = 64;

/// Marks a target that is a place among the partial sums (`PARTIAL` of the kernels).
const PARTIAL: u32 = 1 << 31;

/// The tiles of `rows` rows of all texts: (first token of the text, its length, first row of the tile within it).
pub(crate) fn tiles(offsets: &[u32], rows: usize) -> Vec<u32> {
    let mut tiles = Vec::new();
    for pair in offsets.windows(2) {
        let length = pair[1] - pair[0];
        for first in (0..length).step_by(rows.max(1)) {
            tiles.extend([pair[0], length, first]);
        }
    }
    tiles
}

/// The plan of adding up the gradient of a table.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pieces {
    /// Tokens, sorted by their row, and those of a row in order.
    pub(crate) order: Vec<u32>,
    /// (first place in `order`, end, row of the table or place among the partial sums).
    pub(crate) parts: Vec<u32>,
    /// Rows with several pieces: (first partial sum, end, row).
    pub(crate) rows: Vec<u32>,
    /// Number of partial sums.
    pub(crate) partials: usize,
}

impl Pieces {
    /// The plan for tokens that take these rows.
    pub(crate) fn new(rows: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by_key(|&token| rows[token as usize]);
        let mut plan = Self::default();
        let mut first = 0;
        for same in order.chunk_by(|&a, &b| rows[a as usize] == rows[b as usize]) {
            let row = rows[same[0] as usize];
            let end = first + same.len();
            if same.len() <= PIECE {
                plan.parts.extend([first as u32, end as u32, row]);
            } else {
                let before = plan.partials as u32;
                for start in (first..end).step_by(PIECE) {
                    let target = PARTIAL | plan.partials as u32;
                    plan.parts
                        .extend([start as u32, (start + PIECE).min(end) as u32, target]);
                    plan.partials += 1;
                }
                plan.rows.extend([before, plan.partials as u32, row]);
            }
            first = end;
        }
        plan.order = order;
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_of_every_text() {
        assert_eq!(tiles(&[0, 1, 70], 64), [0, 1, 0, 1, 69, 0, 1, 69, 64]);
        assert_eq!(tiles(&[0], 64), [0_u32; 0]);
    }

    #[test]
    fn a_row_of_many_tokens_is_cut_and_one_of_few_is_not() {
        let plan = Pieces::new(&[5, 2, 5]);
        assert_eq!((plan.order, plan.parts), (vec![1, 0, 2], vec![0, 1, 2, 1, 3, 5]));
        let plan = Pieces::new(&[0; 130]);
        assert_eq!(
            plan.parts,
            [0, 64, PARTIAL, 64, 128, PARTIAL | 1, 128, 130, PARTIAL | 2]
        );
        assert_eq!((plan.rows, plan.partials), (vec![0, 3, 0], 3));
        assert_eq!(Pieces::new(&[]), Pieces::default());
    }
}
