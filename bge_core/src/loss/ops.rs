//! Small reductions composed of operations that record a graph; candle's fused ones lose the gradient silently.

use candle_core::{D, Result, Tensor};

/// Below this length a vector counts as zero (torch's `normalize`).
const SHORTEST: f64 = 1e-12;

/// `x / max(|x|, 1e-12)` for every row of `[N, D]`.
pub(super) fn normalize(x: &Tensor) -> Result<Tensor> {
    // Clamped before the root, whose slope at zero is infinite and would turn a zero row's gradient into NaN.
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
    let length = squares.maximum(SHORTEST * SHORTEST)?.sqrt()?;
    x.broadcast_div(&length)
}

/// `log(sum(exp(x)))` of every row of `[N, K]`, as `[N, 1]`.
pub(super) fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    // The shift cancels, so it needs no gradient.
    let shift = x.detach().max_keepdim(D::Minus1)?;
    x.broadcast_sub(&shift)?
        .exp()?
        .sum_keepdim(D::Minus1)?
        .log()?
        .add(&shift)
}

/// `log(exp(a) + exp(b))`, element by element.
pub(super) fn log_add_exp(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shift = a.detach().maximum(&b.detach())?;
    (a.sub(&shift)?.exp()? + b.sub(&shift)?.exp()?)?
        .log()?
        .add(&shift)
}

/// The logarithm of the softmax of every row of `[N, K]`.
pub(super) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    x.broadcast_sub(&log_sum_exp(x)?)
}

/// The softmax of every row of `[N, K]`.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    log_softmax(x)?.exp()
}
