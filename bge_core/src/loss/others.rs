//! The log-sum-exp over other queries' passages, without ever holding all scores.
//!
//! The score matrix is the one large thing of a contrastive loss: 1,024 queries with groups of 8 make 32 MB, and composed
//! operations would keep half a dozen copies until `backward()`, for every Matryoshka dimension. Here the forward pass goes
//! through it in blocks of rows and keeps one number per row; the backward pass makes the blocks again. That is done on the GPU
//! that the model computes on ([`place`]), or here.

use std::fmt;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, bail};

/// Scores per block: 16 MB of f32.
const BLOCK: usize = 1 << 22;

/// Stands for the score of a passage that does not count; finite, so that no difference is NaN.
pub(super) const MASKED: f32 = -1e30;

/// Which passages are a query's own: query `i` is `first_query + i` of the batch, and has `group_size`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(super) group_size: usize,
    pub(super) first_query: usize,
}

/// Who goes through the scores of queries `[n, D]` and passages `[P, D]`, both f32 and contiguous.
pub(crate) trait Others: fmt::Debug + Send + Sync {
    /// The log-sum-exp of each query's scores with passages that are not its own, and the highest of them, `[n, 1]` each.
    fn forward(&self, queries: &Tensor, passages: &Tensor, own: Own) -> Result<[Tensor; 2]>;

    /// The gradients of queries and passages from that of the log-sum-exps, `value`.
    fn backward(
        &self,
        queries: &Tensor,
        passages: &Tensor,
        own: Own,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 2]>;
}

/// Where the scores of a model's vectors are gone through: where it computes.
pub(crate) fn place(model: &crate::models::Bert) -> Arc<dyn Others> {
    #[cfg(any(feature = "cuda", test))]
    if let Some(encoder) = model.gpu() {
        return Arc::new(super::gpu::OnGpu(Arc::clone(encoder)));
    }
    let _ = model; // which a build without GPUs does not ask
    Arc::new(Here)
}

/// The processor.
#[derive(Debug)]
pub(super) struct Here;

/// `others_i = log(sum(exp(q_i * p_j)))` over the passages `j` that are not of query i's own group.
pub(super) struct OthersLogSumExp {
    others: Arc<dyn Others>,
    own: Own,
    /// The result `[n, 1]`, computed before candle asks for it.
    value: Tensor,
}

impl OthersLogSumExp {
    /// The log-sum-exp `[n, 1]`, with a graph, and the highest of the scores `[n, 1]`, without.
    pub(super) fn apply(
        others: &Arc<dyn Others>,
        queries: &Tensor,
        passages: &Tensor,
        own: Own,
    ) -> Result<(Tensor, Tensor)> {
        let queries = queries.contiguous()?;
        let passages = passages.contiguous()?;
        let [value, best] = others.forward(&queries, &passages, own)?;
        let op = Self {
            others: Arc::clone(others),
            own,
            value,
        };
        Ok((queries.apply_op2(&passages, op)?, best))
    }
}

impl Others for Here {
    fn forward(&self, queries: &Tensor, passages: &Tensor, own: Own) -> Result<[Tensor; 2]> {
        let mut values = Vec::new();
        let mut maxima = Vec::new();
        for block in blocks(queries, passages)? {
            let scores = block.scores(queries, passages, own)?;
            let best = scores.max_keepdim(1)?;
            let sum = scores.broadcast_sub(&best)?.exp()?.sum_keepdim(1)?;
            values.push((sum.log()? + &best)?);
            maxima.push(best);
        }
        Ok([Tensor::cat(&values, 0)?, Tensor::cat(&maxima, 0)?])
    }

    fn backward(
        &self,
        queries: &Tensor,
        passages: &Tensor,
        own: Own,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 2]> {
        let mut to_queries = Vec::new();
        let mut to_passages = passages.detach().zeros_like()?.to_dtype(DType::F32)?;
        for block in blocks(queries, passages)? {
            let scores = block.scores(queries, passages, own)?;
            let weights = scores
                .broadcast_sub(&block.of(value)?)?
                .exp()?
                .broadcast_mul(&block.of(gradient)?)?;
            to_queries.push(weights.matmul(&passages.detach())?);
            to_passages = (to_passages + weights.t()?.matmul(&block.of(queries)?)?)?;
        }
        Ok([Tensor::cat(&to_queries, 0)?, to_passages])
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
    fn scores(&self, queries: &Tensor, passages: &Tensor, own: Own) -> Result<Tensor> {
        let (device, group_size) = (queries.device(), own.group_size);
        let groups = passages.dim(0)? / group_size;
        let scores = self.of(queries)?.matmul(&passages.detach().t()?)?;
        let first = (own.first_query + self.start) as u32;
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
        let [to_queries, to_passages] = self
            .others
            .backward(queries, passages, self.own, value, gradient)?;
        Ok((Some(to_queries), Some(to_passages)))
    }
}
