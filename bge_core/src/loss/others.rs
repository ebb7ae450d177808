//! The log-sum-exp over other queries' passages, without ever holding all scores.
//!
//! The score matrix is the one large thing of a contrastive loss: 1,024 queries with groups of 8 make 32 MB, and composed
//! operations would keep half a dozen copies until `backward()`, for every Matryoshka dimension. Here the forward pass goes
//! through it in blocks of rows and keeps one number per row; the backward pass makes the blocks again.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// Scores per block: 16 MB of f32.
const BLOCK: usize = 1 << 22;

/// Stands for the score of a passage that does not count; finite, so that no difference is NaN.
pub(super) const MASKED: f32 = -1e30;

/// `others_i = log(sum(exp(q_i * p_j)))` over the passages `j` that are not of query i's own group.
pub(super) struct OthersLogSumExp {
    group_size: usize,
    first_query: usize,
    /// The result `[n, 1]`, computed before candle asks for it.
    value: Tensor,
}

impl OthersLogSumExp {
    /// The log-sum-exp `[n, 1]`, with a graph, and the highest of the scores `[n, 1]`, without.
    pub(super) fn apply(
        queries: &Tensor,
        passages: &Tensor,
        group_size: usize,
        first_query: usize,
    ) -> Result<(Tensor, Tensor)> {
        let queries = queries.contiguous()?;
        let passages = passages.contiguous()?;
        let mut values = Vec::new();
        let mut maxima = Vec::new();
        for block in blocks(&queries, &passages)? {
            let scores = block.scores(&queries, &passages, group_size, first_query)?;
            let best = scores.max_keepdim(1)?;
            let sum = scores.broadcast_sub(&best)?.exp()?.sum_keepdim(1)?;
            values.push((sum.log()? + &best)?);
            maxima.push(best);
        }
        let op = Self {
            group_size,
            first_query,
            value: Tensor::cat(&values, 0)?,
        };
        Ok((queries.apply_op2(&passages, op)?, Tensor::cat(&maxima, 0)?))
    }
}

/// Some rows of the score matrix.
struct Block {
    start: usize,
    rows: usize,
}

/// Cuts the score matrix into blocks of rows.
fn blocks(queries: &Tensor, passages: &Tensor) -> Result<impl Iterator<Item = Block>> {
    let (n, columns) = (queries.dim(0)?, passages.dim(0)?);
    let step = (BLOCK / columns.max(1)).max(1);
    Ok((0..n).step_by(step).map(move |start| Block {
        start,
        rows: step.min(n - start),
    }))
}

impl Block {
    /// The rows of a tensor that belong to the block, without a graph.
    fn of(&self, x: &Tensor) -> Result<Tensor> {
        x.detach().narrow(0, self.start, self.rows)
    }

    /// The block's scores `[rows, P]`, those of the own group masked; without a graph.
    fn scores(
        &self,
        queries: &Tensor,
        passages: &Tensor,
        group_size: usize,
        first_query: usize,
    ) -> Result<Tensor> {
        let device = queries.device();
        let groups = passages.dim(0)? / group_size;
        let scores = self.of(queries)?.matmul(&passages.detach().t()?)?;
        let first = (first_query + self.start) as u32;
        let rows = Tensor::arange(first, first + self.rows as u32, device)?.unsqueeze(1)?;
        let columns = Tensor::arange(0, groups as u32, device)?
            .unsqueeze(1)?
            .broadcast_as((groups, group_size))?
            .reshape((1, groups * group_size))?;
        let masked = Tensor::new(MASKED, device)?.broadcast_as(scores.shape())?;
        rows.broadcast_eq(&columns)?.where_cond(&masked, &scores)
    }
}

impl CustomOp2 for OthersLogSumExp {
    fn name(&self) -> &'static str {
        "others-log-sum-exp"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Cpu(storage) => Ok((storage.clone(), self.value.shape().clone())),
            _ => bail!("the value is not on the processor"),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, self.value.shape().clone())),
            _ => bail!("the value is not on the GPU"),
        }
    }

    /// The gradient of a log-sum-exp is the softmax: `dq_i = g_i * sum_j w_ij p_j` and `dp_j = sum_i g_i w_ij q_i`.
    fn bwd(
        &self,
        queries: &Tensor,
        passages: &Tensor,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut to_queries = Vec::new();
        let mut to_passages = passages.detach().zeros_like()?.to_dtype(DType::F32)?;
        for block in blocks(queries, passages)? {
            let scores = block.scores(queries, passages, self.group_size, self.first_query)?;
            let weights = scores
                .broadcast_sub(&block.of(value)?)?
                .exp()?
                .broadcast_mul(&block.of(gradient)?)?;
            to_queries.push(weights.matmul(&passages.detach())?);
            to_passages = (to_passages + weights.t()?.matmul(&block.of(queries)?)?)?;
        }
        Ok((Some(Tensor::cat(&to_queries, 0)?), Some(to_passages)))
    }
}
