//! The loss of a cross-encoder: the scores of a query's own passages, against the positive and against a teacher.

use crate::error::{Result, bail};

/// The loss of some groups and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct RankingLoss {
    /// The sum over the groups.
    pub sum: f64,
    /// Groups whose first score is above all others.
    pub correct: usize,
    /// The gradient of `sum` for each score.
    pub d_scores: Vec<f64>,
}

/// Cross-entropy of each group's softmax with its first passage, plus, with `teacher` scores, the cross-entropy
/// with their softmax: `AbsRerankerModel.forward` of FlagEmbedding, summed instead of averaged.
///
/// `scores` are `Q` groups of `group_size`, positives first; `teacher` has the same order.
pub fn ranking_loss(scores: &[f32], group_size: usize, teacher: Option<&[f32]>) -> Result<RankingLoss> {
    if group_size == 0 || !scores.len().is_multiple_of(group_size) {
        bail!(
            InvalidArgument,
            "{} scores cannot be cut into groups of {group_size}",
            scores.len()
        );
    }
    if let Some(teacher) = teacher.filter(|teacher| teacher.len() != scores.len()) {
        bail!(
            InvalidArgument,
            "{} teacher scores do not fit {} passages",
            teacher.len(),
            scores.len()
        );
    }
    let mut loss = RankingLoss {
        sum: 0.0,
        correct: 0,
        d_scores: Vec::with_capacity(scores.len()),
    };
    for (index, group) in scores.chunks_exact(group_size).enumerate() {
        let (log_sum, shares) = softmax(group);
        let positive = f64::from(group[0]);
        loss.sum += log_sum - positive;
        loss.correct += usize::from(group[1..].iter().all(|other| *other < group[0]));
        let first = loss.d_scores.len();
        loss.d_scores.extend_from_slice(&shares);
        loss.d_scores[first] -= 1.0;
        let Some(teacher) = teacher else { continue };
        let (_, targets) = softmax(&teacher[index * group_size..][..group_size]);
        for (at, (target, score)) in targets.iter().zip(group).enumerate() {
            // log_softmax is `score - log_sum`; the targets sum to 1.
            loss.sum += target * (log_sum - f64::from(*score));
            loss.d_scores[first + at] += shares[at] - target;
        }
    }
    Ok(loss)
}

/// (logarithm of the sum of exponentials, softmax), in f64.
fn softmax(scores: &[f32]) -> (f64, Vec<f64>) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = f64::from(most);
    let mut shares: Vec<f64> = scores
        .iter()
        .map(|score| (f64::from(*score) - most).exp())
        .collect();
    let sum: f64 = shares.iter().sum();
    for share in &mut shares {
        *share /= sum;
    }
    (most + sum.ln(), shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_agrees_with_finite_differences() {
        let scores = [0.3_f32, -1.2, 2.0, 0.1, 0.1, -3.0];
        let teacher = [2.0_f32, 1.0, -1.0, 0.5, 0.25, 0.0];
        for teacher in [None, Some(&teacher[..])] {
            let loss = ranking_loss(&scores, 3, teacher).unwrap();
            for at in 0..scores.len() {
                let moved = |by: f32| {
                    let mut scores = scores;
                    scores[at] += by;
                    ranking_loss(&scores, 3, teacher).unwrap().sum
                };
                let slope = (moved(1.0 / 1024.0) - moved(-1.0 / 1024.0)) * 512.0;
                assert!((slope - loss.d_scores[at]).abs() < 1e-4, "{at}: {slope}");
            }
        }
    }

    #[test]
    fn a_tie_is_not_a_win_and_huge_scores_stay_finite() {
        assert_eq!(ranking_loss(&[1.0, 1.0], 2, None).unwrap().correct, 0);
        let loss = ranking_loss(&[-3e38, 3e38], 2, Some(&[3e38, -3e38])).unwrap();
        assert!(loss.sum.is_finite() && loss.d_scores.iter().all(|x| x.is_finite()));
        assert!(ranking_loss(&[f32::NAN, 0.0], 2, None).unwrap().sum.is_nan());
        assert!(ranking_loss(&[1.0, 2.0, 3.0], 2, None).is_err());
        assert!(ranking_loss(&[1.0, 2.0], 2, Some(&[1.0])).is_err());
    }
}
