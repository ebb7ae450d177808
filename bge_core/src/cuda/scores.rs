//! The scores of queries against the passages of others on a GPU: a block of rows at a time, of which one number a query stays.

use super::encoder::Encoder;
use super::gpu::{Arg, Extra, Matrix, Memory, Product, memory_of, read_values};
use crate::error::Result;

/// Scores per block: 64 MB, which the planner knows. In tests there are so few that there are several blocks.
const BLOCK: usize = if cfg!(test) { 64 } else { 1 << 24 };

/// Vectors of a batch, f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// `[n, D]`.
    pub(crate) queries: &'a [f32],
    /// `[P, D]`.
    pub(crate) passages: &'a [f32],
    /// D.
    pub(crate) width: usize,
    /// Passages of a query, which do not count among the others.
    pub(crate) group_size: usize,
    /// The number of the first query, whose passages begin at this many groups.
    pub(crate) first_query: usize,
}

/// The same in the memory of a GPU, with room for a block of scores.
struct Scores<'a> {
    encoder: &'a Encoder,
    rows: Rows<'a>,
    queries: Memory,
    passages: Memory,
    block: Memory,
    /// n, P, and the rows of a block.
    size: [usize; 3],
}

const FLOAT: usize = size_of::<f32>();

impl<'a> Scores<'a> {
    fn new(encoder: &'a Encoder, rows: Rows<'a>) -> Result<Self> {
        let gpu = &encoder.ops.gpu;
        let of = |floats: &[f32]| floats.len() / rows.width.max(1);
        let (n, columns) = (of(rows.queries), of(rows.passages));
        let step = (BLOCK / columns.max(1)).clamp(1, n.max(1));
        Ok(Self {
            encoder,
            rows,
            queries: memory_of(gpu, rows.queries)?,
            passages: memory_of(gpu, rows.passages)?,
            block: encoder.ops.floats(step * columns)?,
            size: [n, columns, step],
        })
    }

    /// A block's scores, and the arguments that say to a kernel what they are.
    fn of(&self, first: usize, count: usize) -> Result<[Arg; 4]> {
        let [_, columns, _] = self.size;
        let width = self.rows.width;
        self.product(
            [count, columns, width],
            Matrix::new(self.queries.at(first * width * FLOAT), width),
            Matrix::new(self.passages.address(), width).t(),
            Matrix::new(self.block.address(), columns),
            false,
        )?;
        Ok([
            (&self.block).into(),
            (columns as u32).into(),
            (self.rows.group_size as u32).into(),
            ((self.rows.first_query + first) as u32).into(),
        ])
    }

    /// Hands each block's first row and number of rows to `work`.
    fn blocks(&self, work: impl FnMut((usize, usize)) -> Result<()>) -> Result<()> {
        let [n, _, step] = self.size;
        let starts = (0..n).step_by(step);
        starts
            .map(|first| (first, step.min(n - first)))
            .try_for_each(work)
    }

    fn product(&self, size: [usize; 3], a: Matrix, b: Matrix, out: Matrix, add: bool) -> Result<()> {
        self.encoder.ops.gpu.product(Product {
            size,
            a,
            b,
            out,
            wide: true,
            exact: true,
            add,
            extra: Extra::Nothing,
        })?;
        Ok(())
    }
}

impl Encoder {
    /// Each query's log-sum-exp of its scores with the passages of others, and the highest of these scores.
    pub(crate) fn others(&self, rows: Rows) -> Result<[Vec<f32>; 2]> {
        let (gpu, scores) = (&self.ops.gpu, Scores::new(self, rows)?);
        let n = scores.size[0];
        let (sums, maxima) = (self.ops.floats(n)?, self.ops.floats(n)?);
        scores.blocks(|(first, count)| {
            let [block, columns, group, query] = scores.of(first, count)?;
            let places = [&sums, &maxima].map(|memory| Arg::Place(memory.at(first * FLOAT)));
            let args = [block, columns, group, query, places[0], places[1]];
            gpu.launch("others_forward", [count, 1], &args)
        })?;
        Ok([
            read_values(gpu, sums.address(), n)?,
            read_values(gpu, maxima.address(), n)?,
        ])
    }

    /// The gradients of queries and passages from that of the log-sum-exps `sums`.
    pub(crate) fn others_backward(
        &self,
        rows: Rows,
        sums: &[f32],
        gradient: &[f32],
    ) -> Result<[Vec<f32>; 2]> {
        let (gpu, scores) = (&self.ops.gpu, Scores::new(self, rows)?);
        let ([n, columns, _], width) = (scores.size, rows.width);
        let (sums, gradient) = (memory_of(gpu, sums)?, memory_of(gpu, gradient)?);
        let (to_queries, to_passages) = (self.ops.floats(n * width)?, self.ops.floats(columns * width)?);
        gpu.zero(to_passages.address(), to_passages.bytes())?;
        scores.blocks(|(first, count)| {
            let [block, of_columns, group, query] = scores.of(first, count)?;
            let places = [&sums, &gradient].map(|memory| Arg::Place(memory.at(first * FLOAT)));
            let args = [block, of_columns, group, query, places[0], places[1]];
            gpu.launch("others_backward", [count, 1], &args)?;
            let block = Matrix::new(scores.block.address(), columns);
            let matrix = |memory: &Memory, row: usize| Matrix::new(memory.at(row * width * FLOAT), width);
            scores.product(
                [count, width, columns],
                block,
                matrix(&scores.passages, 0),
                matrix(&to_queries, first),
                false,
            )?;
            scores.product(
                [columns, width, count],
                block.t(),
                matrix(&scores.queries, first),
                matrix(&to_passages, 0),
                true,
            )
        })?;
        Ok([
            read_values(gpu, to_queries.address(), n * width)?,
            read_values(gpu, to_passages.address(), columns * width)?,
        ])
    }
}
