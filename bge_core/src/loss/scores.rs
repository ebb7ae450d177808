//! Scores of queries against passages, reduced to what the losses need.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::ops;
use super::others::{Here, MASKED, Others, OthersLogSumExp, Own};

/// What the losses know of `n` queries: the scores of their own groups, and all other passages in one number.
#[derive(Clone, Debug)]
pub struct Scores {
    /// `[n, G]`: own group, the positive first.
    pub own: Tensor,
    /// `[n, 1]`: log-sum-exp of the scores of all other queries' passages; none where there are no others.
    pub others: Option<Tensor>,
    /// `[n, 1]`: the highest of those scores, without a graph.
    pub best_other: Option<Tensor>,
}

impl Scores {
    /// Scores `queries` `[n, D]`, already divided by the temperature, against `passages` `[m * G, D]`.
    ///
    /// Query `i` owns the passages `(first_query + i) * G ..` of the list, so `m` may be more than `n`: the queries may be one
    /// device's share of a larger batch. `in_batch` says whether the other groups count as negatives.
    pub fn new(
        queries: &Tensor,
        passages: &Tensor,
        group_size: usize,
        first_query: usize,
        in_batch: bool,
    ) -> Result<Self> {
        let own = Own {
            group_size,
            first_query,
        };
        let here: Arc<dyn Others> = Arc::new(Here);
        Self::at(&here, queries, passages, own, in_batch)
    }

    /// The same where `others` goes through the scores of the other passages.
    pub(super) fn at(
        others: &Arc<dyn Others>,
        queries: &Tensor,
        passages: &Tensor,
        whose: Own,
        in_batch: bool,
    ) -> Result<Self> {
        let Own {
            group_size,
            first_query,
        } = whose;
        let (n, width) = queries.dims2()?;
        let groups = passages.dim(0)? / group_size;
        let own = passages
            .narrow(0, first_query * group_size, n * group_size)?
            .reshape((n, group_size, width))?;
        let own = queries.unsqueeze(1)?.matmul(&own.transpose(1, 2)?)?.squeeze(1)?;
        if !in_batch || groups < 2 {
            return Ok(Self {
                own,
                others: None,
                best_other: None,
            });
        }
        let (others, best) = OthersLogSumExp::apply(others, queries, passages, whose)?;
        Ok(Self {
            own,
            others: Some(others),
            best_other: Some(best),
        })
    }

    /// Takes scores that are there already: `[n, n * G]`, where query `i` owns the columns `i * G ..`, or without in-batch
    /// negatives `[n, G]`.
    pub(super) fn of_matrix(scores: &Tensor, group_size: usize, in_batch: bool) -> Result<Self> {
        let (n, columns) = scores.dims2()?;
        if !in_batch || columns == group_size {
            return Ok(Self {
                own: scores.clone(),
                others: None,
                best_other: None,
            });
        }
        let device = scores.device();
        let owned: Vec<u32> = (0..n * group_size).map(|column| column as u32).collect();
        let owned = Tensor::from_vec(owned, (n, group_size), device)?;
        let mut mask = vec![0.0_f32; n * columns];
        for (query, row) in mask.chunks_exact_mut(columns).enumerate() {
            row[query * group_size..(query + 1) * group_size].fill(MASKED);
        }
        let masked = (scores + Tensor::from_vec(mask, (n, columns), device)?)?;
        Ok(Self {
            own: scores.contiguous()?.gather(&owned, 1)?,
            best_other: Some(masked.detach().max_keepdim(1)?),
            others: Some(ops::log_sum_exp(&masked)?),
        })
    }

    /// Share of queries whose positive scores above every other passage; a tie is a miss.
    pub(super) fn accuracy(&self) -> Result<Tensor> {
        let own = self.own.detach();
        let group = own.dim(1)?;
        let mut rivals = Vec::new();
        if group > 1 {
            rivals.push(own.narrow(1, 1, group - 1)?);
        }
        rivals.extend(self.best_other.clone());
        let positive = own.narrow(1, 0, 1)?;
        if rivals.is_empty() {
            return positive.ones_like()?.mean_all();
        }
        let rival = Tensor::cat(&rivals, 1)?.max_keepdim(1)?;
        positive.gt(&rival)?.to_dtype(own.dtype())?.mean_all()
    }
}
