//! Cross-entropy with the positive as the label (`InfoNCE`, van den Oord et al. 2018).

use candle_core::{Result, Tensor};

use super::ops;
use super::scores::Scores;

/// `-log softmax(scores)[positive]` over all passages in sight, mean over queries; a scalar.
pub(super) fn cross_entropy(scores: &Scores) -> Result<Tensor> {
    let all = match &scores.others {
        Some(others) => Tensor::cat(&[&scores.own, others], 1)?,
        None => scores.own.clone(),
    };
    (ops::log_sum_exp(&all)? - scores.own.narrow(1, 0, 1)?)?.mean_all()
}
