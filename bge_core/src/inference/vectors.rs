//! Vectors of some texts, in the order of the texts.

/// One row of `dim` numbers for each text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// The rows, one after the other.
    pub data: Vec<f32>,
    /// Numbers in a row.
    pub dim: usize,
}

impl Vectors {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.dim).unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dim.max(1))
    }

    /// One row; empty when there is none at `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        self.data
            .get(index * self.dim..(index + 1) * self.dim)
            .unwrap_or_default()
    }
}
