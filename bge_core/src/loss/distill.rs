//! Learning a teacher's preferences inside a group: `kl_div` and `m3_kd_loss`.

use candle_core::{D, Result, Tensor};

use super::ops;
use super::scores::Scores;

/// `-sum(teacher * log_softmax(own scores))`, mean over queries; a scalar.
///
/// `teacher` is `[n, G]` and sums to 1 per row. This is cross-entropy: the divergence plus the teacher's entropy, a constant.
/// Other queries' passages play no part.
pub(super) fn kl_div(scores: &Scores, teacher: &Tensor) -> Result<Tensor> {
    (ops::log_softmax(&scores.own)? * teacher)?
        .sum(D::Minus1)?
        .mean_all()?
        .neg()
}

/// The M3 distillation loss (Chen et al. 2024, as FlagEmbedding has it): every member of the group in turn is the label,
/// weighted by the teacher, against the later members and all other passages in sight; a scalar.
///
/// Upstream masks the earlier members with the lowest float before each softmax. Here the log-sum-exp grows
/// from the last member to the first, so that nothing is masked and nothing the size of the batch is copied.
pub(super) fn m3_kd(scores: &Scores, teacher: &Tensor) -> Result<Tensor> {
    let group = scores.own.dim(1)?;
    let mut sum = scores.others.clone();
    let mut terms = Vec::with_capacity(group);
    for member in (0..group).rev() {
        let own = scores.own.narrow(1, member, 1)?;
        let all = match sum {
            Some(sum) => ops::log_add_exp(&sum, &own)?,
            None => own.clone(),
        };
        terms.push(((&all - own)? * teacher.narrow(1, member, 1)?)?);
        sum = Some(all);
    }
    Tensor::cat(&terms, 1)?.sum(D::Minus1)?.mean_all()
}
