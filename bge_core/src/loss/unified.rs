//! BGE-M3's loss over its three heads (Chen et al. 2024; upstream `encoder_only/m3/modeling.py`), with its gradient.
//!
//! The heads give three matrices of scores: `D` of the texts' vectors, `S` of the tokens they share, `C` of late interaction.
//! The loss is a function of these small matrices alone, so candle's graph holds nothing else; what leads from tokens to
//! scores brings its own backward (`nn/ops/lexical.rs`, `nn/ops/late_interaction.rs`).

use candle_core::{D, DType, Tensor, Var};

use super::scores::Scores;
use super::{LossConfig, LossPart, ops, terms};
use crate::error::{Result, bail};
use crate::nn::ops::late_interaction::{self, Columns, TokenVectors};
use crate::nn::ops::lexical::{self, Term};
use crate::nn::read;

/// Weight of the sparse score in the common one.
const SPARSE_IN_ENSEMBLE: f64 = 0.3;
/// Weight of the sparse head's losses.
const SPARSE_LOSS: f64 = 0.1;

/// The tokens of all texts of a batch, queries first, and what the heads made of them.
#[derive(Clone, Copy, Debug)]
pub struct UnifiedInputs<'a> {
    /// `[Q + Q * G, D]`: pooled vectors, not normalised.
    pub dense: &'a Tensor,
    /// `[T]`: token ids.
    pub ids: &'a [u32],
    /// Borders of the texts in the tokens: `Q + Q * G + 1` numbers from 0 to `T`.
    pub offsets: &'a [u32],
    /// `[T]`: lexical weights, 0 and above.
    pub weights: &'a [f32],
    /// `[T, C]`: token vectors, normalised where the settings say so.
    pub vectors: &'a Tensor,
    /// Ids that are no words: `cls`, `eos`, `pad`, `unk`.
    pub special: &'a [u32],
    /// Q.
    pub queries: usize,
    /// G: passages per query, the positive first.
    pub group_size: usize,
    /// Whether a query sees only the passages of its own group.
    pub no_in_batch_neg: bool,
    /// `[Q, G]`: the teacher's raw scores.
    pub teacher_scores: Option<&'a Tensor>,
    /// Whether the common score teaches the three heads (`use_self_distill`).
    pub self_distill: bool,
    /// Whether the dense loss of its own, `L(D)`, is left out, because the caller computes it against the passages of all ranks.
    pub without_dense: bool,
}

impl UnifiedInputs<'_> {
    /// What the dense loss of its own counts in the whole.
    pub const fn dense_weight(self_distill: bool) -> f64 {
        if self_distill { 0.125 } else { 0.25 }
    }
}

/// The loss of a batch and its gradients.
#[derive(Clone, Debug)]
pub struct UnifiedLoss {
    /// The loss.
    pub total: f64,
    /// Its terms, for the log.
    pub parts: Vec<LossPart>,
    /// Share of queries whose positive scores best by the common score.
    pub accuracy: f64,
    /// `[Q + Q * G, D]`.
    pub d_dense: Tensor,
    /// `[T]`.
    pub d_weights: Vec<f32>,
    /// `[T, C]`, of the vectors as they came in.
    pub d_vectors: Vec<f32>,
}

/// The loss and `scale` times its gradient.
///
/// With `E = D + 0.3 S + C` and the contrastive and distillation terms `L` of [`super::contrastive`] on each matrix, it is
/// `(L(D) + L(E) + 0.1 L(S) + L(C)) / 4`; self-distillation adds a third of `K(D) + 0.1 K(S) + K(C)`, the cross-entropies
/// against `softmax(E)`, and halves the sum. Unlike upstream, batches without in-batch negatives use the group's own `E`
/// (there its loss is always 0), and a passage's padding plays no part in `C`.
pub fn unified(config: &LossConfig, inputs: &UnifiedInputs<'_>, scale: f64) -> Result<UnifiedLoss> {
    let (queries, group) = (inputs.queries, inputs.group_size);
    let texts = queries + queries * group;
    if queries == 0 || group == 0 || inputs.offsets.len() != texts + 1 || inputs.dense.dim(0)? != texts {
        bail!(
            InvalidArgument,
            "{queries} queries in groups of {group} need {texts} texts, got {} borders and vectors of shape {:?}",
            inputs.offsets.len(),
            inputs.dense.dims()
        );
    }
    let columns = if inputs.no_in_batch_neg {
        Columns::Own(group)
    } else {
        Columns::All
    };
    let count = columns.count(queries * group);
    let device = inputs.dense.device();
    let heat = 1.0 / config.temperature;

    let dense = Var::from_tensor(inputs.dense)?;
    let dense_scores = dense_scores(config, &dense, inputs, columns)?;

    let bags: Vec<Vec<Term>> = inputs
        .offsets
        .windows(2)
        .map(|pair| {
            let range = pair[0] as usize..pair[1] as usize;
            lexical::terms(
                &inputs.ids[range.clone()],
                &inputs.weights[range],
                pair[0] as usize,
                inputs.special,
            )
        })
        .collect();
    let pairs = || (0..queries).flat_map(|query| (0..count).map(move |column| (query, column)));
    let passage = |query, column| &bags[queries + columns.passage(query, column)];
    let products = pairs().map(|(query, column)| lexical::product(&bags[query], passage(query, column)));
    let sparse = Var::from_slice(&products.collect::<Vec<_>>(), (queries, count), device)?;

    let rows = read(inputs.vectors)?;
    let (width, first) = (inputs.vectors.dim(D::Minus1)?, inputs.offsets[queries]);
    let passage_offsets: Vec<u32> = inputs.offsets[queries..].iter().map(|at| at - first).collect();
    let (query_rows, passage_rows) = rows.split_at(first as usize * width);
    let query_vectors = TokenVectors {
        rows: query_rows,
        width,
        offsets: &inputs.offsets[..=queries],
        skip: 1,
    };
    let passage_vectors = TokenVectors {
        rows: passage_rows,
        width,
        offsets: &passage_offsets,
        skip: 1,
    };
    let found = late_interaction::forward(query_vectors, passage_vectors, columns);
    let colbert = Var::from_slice(&found.scores, (queries, count), device)?;

    let matrices = [
        dense_scores,
        (sparse.as_tensor() * heat)?,
        (colbert.as_tensor() * heat)?,
    ];
    let (total, parts, accuracy) = of_scores(config, inputs, &matrices)?;
    let loss = f64::from(total.to_scalar::<f32>()?);
    let store = (total * scale)?.backward()?;
    let gradient = |of: &Var| -> Result<Tensor> {
        Ok(match store.get(of.as_tensor()) {
            Some(gradient) => gradient.contiguous()?,
            None => of.as_tensor().zeros_like()?, // one candidate makes a loss that is constant
        })
    };

    let mut d_weights = vec![0.0_f32; inputs.weights.len()];
    let d_sparse = gradient(&sparse)?;
    for ((query, column), &gradient) in pairs().zip(read(&d_sparse)?.iter()) {
        lexical::for_shared(&bags[query], passage(query, column), |q, p| {
            d_weights[q.row as usize] += gradient * p.weight;
            d_weights[p.row as usize] += gradient * q.weight;
        });
    }
    let d_colbert = gradient(&colbert)?;
    let (mut d_vectors, d_passages) = late_interaction::backward(
        query_vectors,
        passage_vectors,
        columns,
        &found,
        &read(&d_colbert)?,
    );
    d_vectors.extend(d_passages);
    Ok(UnifiedLoss {
        total: loss,
        parts,
        accuracy,
        d_dense: gradient(&dense)?,
        d_weights,
        d_vectors,
    })
}

/// `D`, with a graph to the pooled vectors.
fn dense_scores(
    config: &LossConfig,
    dense: &Var,
    inputs: &UnifiedInputs<'_>,
    columns: Columns,
) -> Result<Tensor> {
    let (queries, group) = (inputs.queries, inputs.group_size);
    let vectors = if config.normalize_embeddings {
        ops::normalize(dense.as_tensor())?
    } else {
        dense.as_tensor().clone()
    };
    let passages = vectors.narrow(0, queries, queries * group)?;
    let vectors = (vectors.narrow(0, 0, queries)? / config.temperature)?;
    Ok(match columns {
        Columns::All => vectors.matmul(&passages.t()?)?,
        Columns::Own(_) => {
            let own = passages.reshape((queries, group, vectors.dim(1)?))?;
            vectors.unsqueeze(1)?.matmul(&own.transpose(1, 2)?)?.squeeze(1)?
        }
    })
}

/// The loss of the three matrices `[D, S, C]`, its parts, and the accuracy of their sum.
fn of_scores(
    config: &LossConfig,
    inputs: &UnifiedInputs<'_>,
    [dense, sparse, colbert]: &[Tensor; 3],
) -> Result<(Tensor, Vec<LossPart>, f64)> {
    let ensemble = ((dense + (sparse * SPARSE_IN_ENSEMBLE)?)? + colbert)?;
    let teacher = inputs
        .teacher_scores
        .map(|scores| -> Result<Tensor> { Ok(ops::softmax(&scores.detach().to_dtype(DType::F32)?)?) })
        .transpose()?;
    let mut parts = Vec::new();
    let mut note = |name: &'static str, value: &Tensor| {
        parts.push(LossPart {
            name,
            dim: None,
            value: value.detach(),
        });
    };
    let mut accuracy = 0.0;
    let mut total: Option<Tensor> = None;
    for (name, matrix, weight) in [
        ("dense", dense, 1.0),
        ("ensemble", &ensemble, 1.0),
        ("sparse", sparse, SPARSE_LOSS),
        ("colbert", colbert, 1.0),
    ] {
        if name == "dense" && inputs.without_dense {
            continue;
        }
        let scores = Scores::of_matrix(matrix, inputs.group_size, !inputs.no_in_batch_neg)?;
        let mut loss: Option<Tensor> = None;
        for (_, term) in terms(&scores, teacher.as_ref(), config.kd_loss_type)? {
            loss = Some(match loss {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
        let Some(loss) = loss else {
            bail!(Internal, "a loss has no terms");
        };
        note(name, &loss);
        if name == "ensemble" {
            accuracy = f64::from(scores.accuracy()?.to_scalar::<f32>()?);
        }
        let loss = (loss * (weight / 4.0))?;
        total = Some(match total {
            Some(total) => (total + loss)?,
            None => loss,
        });
    }
    let Some(mut total) = total else {
        bail!(Internal, "a loss has no heads");
    };
    if inputs.self_distill {
        let target = ops::softmax(&ensemble.detach())?;
        for (name, matrix, weight) in [
            ("self_dense", dense, 1.0),
            ("self_sparse", sparse, SPARSE_LOSS),
            ("self_colbert", colbert, 1.0),
        ] {
            let loss = (ops::log_softmax(matrix)? * &target)?
                .sum(D::Minus1)?
                .mean_all()?
                .neg()?;
            note(name, &loss);
            total = (total + (loss * (weight / 3.0))?)?;
        }
        total = (total / 2.0)?;
    }
    Ok((total, parts, accuracy))
}
