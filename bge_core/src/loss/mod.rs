//! What training minimises: contrastive cross-entropy and distillation over sentence vectors, or over the scores of pairs.
//!
//! Every loss of FlagEmbedding's embedders is a function of two things per query: the scores of its own group, and the
//! log-sum-exp of all other queries' passages. Only the second is large, and it is never stored ([`scores`]).
//! All arithmetic is in f32 on the vectors' device, and everything records a graph: call
//! `backward()` on [`LossOutput::total`] and read the gradients of the vectors that went in. A cross-encoder's loss is a
//! plain function of a few numbers a query, and brings its gradient itself ([`ranking_loss`]).

mod distill;
#[cfg(any(feature = "cuda", test))]
mod gpu;
mod info_nce;
mod matryoshka;
mod ops;
mod others;
mod ranking;
pub mod scores;
mod unified;

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::config::{KdLossType, TrainingArguments};
use crate::error::{Result, bail};
use crate::issue::Issue;
pub(crate) use others::{Others, place};
pub use ranking::{RankingLoss, ranking_loss};
use scores::Scores;
pub use unified::{UnifiedInputs, UnifiedLoss, unified};

/// The settings of the loss.
#[derive(Clone, Debug, PartialEq)]
pub struct LossConfig {
    /// What every score is divided by, above 0; also where vectors are not normalised.
    pub temperature: f64,
    /// Whether vectors are brought to unit length first, so that scores are cosines.
    pub normalize_embeddings: bool,
    /// Which distillation loss, where a batch carries teacher scores.
    pub kd_loss_type: KdLossType,
    /// Train the leading dimensions too: the loss is the mean over this list (`use_mrl`, `mrl_dims`).
    pub mrl_dims: Option<Vec<usize>>,
}

impl From<&TrainingArguments> for LossConfig {
    fn from(arguments: &TrainingArguments) -> Self {
        Self {
            temperature: arguments.temperature,
            normalize_embeddings: arguments.normalize_embeddings,
            kd_loss_type: arguments.kd_loss_type,
            mrl_dims: arguments.use_mrl.then(|| arguments.mrl_dims.clone()),
        }
    }
}

impl LossConfig {
    /// Checks the settings for vectors of `width` dimensions; call it once before training.
    ///
    /// The findings are warnings; settings that cannot work are an error.
    pub fn check(&self, width: usize) -> Result<Vec<Issue>> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            bail!(
                InvalidConfig,
                "`temperature` is {}; it must be a number above 0, usually 0.01 to 0.05",
                self.temperature
            );
        }
        matryoshka::check(self.mrl_dims.as_deref(), width)
    }
}

/// One batch of sentence vectors, pooled and not yet normalised.
#[derive(Clone, Copy, Debug)]
pub struct LossInputs<'a> {
    /// `[Q, D]`.
    pub queries: &'a Tensor,
    /// `[Q * G, D]`: passage `i * G + j` belongs to query `i`, and `j = 0` is its positive.
    pub passages: &'a Tensor,
    /// G: passages per query, the positive among them.
    pub group_size: usize,
    /// Whether a query sees only the passages of its own group.
    pub no_in_batch_neg: bool,
    /// `[Q, G]`: the teacher's raw scores; no gradient flows into them.
    pub teacher_scores: Option<&'a Tensor>,
}

/// The loss of a batch.
#[derive(Clone, Debug)]
pub struct LossOutput {
    /// What to call `backward()` on; a scalar.
    pub total: Tensor,
    /// What the total is made of, for the log; without a graph.
    pub parts: Vec<LossPart>,
    /// Share of queries whose positive scores above every other passage in sight; a scalar without a graph. With several
    /// Matryoshka dimensions, that of the widest.
    pub accuracy: Tensor,
}

/// One term of the loss.
#[derive(Clone, Debug)]
pub struct LossPart {
    /// `ce` (cross-entropy with the positive as label), `kd` (`kl_div`) or `m3_kd`; of [`unified`], the head.
    pub name: &'static str,
    /// The leading dimensions it was computed on; none without Matryoshka.
    pub dim: Option<usize>,
    /// A scalar.
    pub value: Tensor,
}

/// The contrastive loss of a batch, as FlagEmbedding computes it (`abc/finetune/embedder/AbsModeling.py`).
///
/// Without teacher scores it is the cross-entropy of the positive against all other passages in sight: all of the
/// batch, or the own group with `no_in_batch_neg`. Teacher scores add `kl_div`, or replace it by `m3_kd_loss`.
/// Unlike upstream, `m3_kd_loss` works on a batch without in-batch negatives of more than one query; its targets
/// and negatives are then those of the own group.
///
/// Shapes that do not fit are an error. A NaN or an infinity in the vectors makes the total not finite.
pub fn contrastive(config: &LossConfig, inputs: &LossInputs<'_>) -> Result<LossOutput> {
    let queries = inputs.queries.dims2()?.0;
    check_passages(inputs, queries)?;
    contrastive_share(config, inputs, 0)
}

/// The same for one rank's queries among the passages of all: query `i` owns the passages `(first_query + i) * G ..`.
///
/// The loss is the mean over the queries given. Weighted by their numbers, the losses of all ranks and their gradients add up
/// to those of the joined batch.
pub fn contrastive_share(
    config: &LossConfig,
    inputs: &LossInputs<'_>,
    first_query: usize,
) -> Result<LossOutput> {
    let here: Arc<dyn Others> = Arc::new(others::Here);
    contrastive_at(&here, config, inputs, first_query)
}

/// The same where `others` goes through the scores of other queries' passages.
pub(crate) fn contrastive_at(
    others: &Arc<dyn Others>,
    config: &LossConfig,
    inputs: &LossInputs<'_>,
    first_query: usize,
) -> Result<LossOutput> {
    let width = check_shapes(inputs, first_query)?;
    let teacher = inputs
        .teacher_scores
        .map(|scores| -> Result<Tensor> { Ok(ops::softmax(&scores.detach().to_dtype(DType::F32)?)?) })
        .transpose()?;
    let queries = inputs.queries.to_dtype(DType::F32)?;
    let passages = inputs.passages.to_dtype(DType::F32)?;

    let dims = matryoshka::dims(config.mrl_dims.as_deref(), width);
    let widest = dims.iter().copied().max().unwrap_or(width);
    let mut total = None;
    let mut parts = Vec::new();
    let mut accuracy = None;
    for &dim in &dims {
        let vectors = |all: &Tensor| -> candle_core::Result<Tensor> {
            let leading = all.narrow(1, 0, dim)?;
            if config.normalize_embeddings {
                ops::normalize(&leading)
            } else {
                Ok(leading)
            }
        };
        // Dividing the queries by the temperature divides the scores, at 1/P of the work.
        let queries = (vectors(&queries)? / config.temperature)?;
        let passages = vectors(&passages)?;
        let in_batch = !inputs.no_in_batch_neg;
        let own = others::Own {
            group_size: inputs.group_size,
            first_query,
        };
        let scores = Scores::at(others, &queries, &passages, own, in_batch)?;
        let mut loss = None;
        for (name, term) in terms(&scores, teacher.as_ref(), config.kd_loss_type)? {
            parts.push(LossPart {
                name,
                dim: config.mrl_dims.is_some().then_some(dim),
                value: term.detach(),
            });
            loss = Some(match loss {
                None => term,
                Some(sum) => (sum + term)?,
            });
        }
        if dim == widest && accuracy.is_none() {
            accuracy = Some(scores.accuracy()?);
        }
        total = match (total.take(), loss) {
            (Some(total), Some(loss)) => Some((total + loss)?),
            (total, loss) => total.or(loss),
        };
    }
    let (Some(total), Some(accuracy)) = (total, accuracy) else {
        bail!(
            InvalidConfig,
            "`mrl_dims` is empty; name at least one dimension or drop `use_mrl`"
        );
    };
    Ok(LossOutput {
        total: (total / dims.len() as f64)?,
        parts,
        accuracy,
    })
}

/// What is added up for one matrix of scores; `teacher` is `[n, G]` and sums to 1 per row.
fn terms(scores: &Scores, teacher: Option<&Tensor>, kind: KdLossType) -> Result<Vec<(&'static str, Tensor)>> {
    Ok(match (teacher, kind) {
        (None, _) => vec![("ce", info_nce::cross_entropy(scores)?)],
        (Some(teacher), KdLossType::KlDiv) => vec![
            ("kd", distill::kl_div(scores, teacher)?),
            ("ce", info_nce::cross_entropy(scores)?),
        ],
        (Some(teacher), KdLossType::M3KdLoss) => vec![("m3_kd", distill::m3_kd(scores, teacher)?)],
    })
}

/// Refuses passages that are not the groups of `queries` queries.
fn check_passages(inputs: &LossInputs<'_>, queries: usize) -> Result<()> {
    let expected = [queries * inputs.group_size, inputs.queries.dims2()?.1];
    if inputs.passages.dims() != expected {
        bail!(
            InvalidArgument,
            "queries of shape {:?} in groups of {} need passages of shape {expected:?}, got {:?}",
            inputs.queries.dims(),
            inputs.group_size,
            inputs.passages.dims()
        );
    }
    Ok(())
}

/// Refuses shapes that do not fit each other; returns the width D.
fn check_shapes(inputs: &LossInputs<'_>, first_query: usize) -> Result<usize> {
    let (queries, width) = inputs.queries.dims2()?;
    let groups = inputs
        .passages
        .dim(0)?
        .checked_div(inputs.group_size)
        .unwrap_or(0);
    if queries == 0 || width == 0 || inputs.group_size == 0 {
        bail!(
            InvalidArgument,
            "queries of shape {:?} in groups of {} have no loss",
            inputs.queries.dims(),
            inputs.group_size
        );
    }
    check_passages(inputs, groups.max(first_query + queries))?;
    if let Some(teacher) = inputs.teacher_scores
        && teacher.dims() != [queries, inputs.group_size]
    {
        bail!(
            InvalidArgument,
            "{queries} groups of {} need as many teacher scores, got the shape {:?}",
            inputs.group_size,
            teacher.dims()
        );
    }
    Ok(width)
}
