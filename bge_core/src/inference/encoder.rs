//! The networks that an embedder and a reranker run: our own, and with the feature `zoo` candle-transformers'.

use super::schedule::{BatchLimits, VectorShape, encode_tokens, in_batches};
use super::vectors::Vectors;
use crate::error::{Error, Result};
use crate::models::{Batch, Bert, CrossEncoder, EncoderConfig, ModelFolder, read_weights};
use crate::tokenize::TokenBatch;

/// Token ids to vectors.
#[cfg_attr(
    feature = "zoo",
    expect(
        clippy::large_enum_variant,
        reason = "there is one, and it is not moved about"
    )
)]
#[derive(Clone, Debug)]
pub(super) enum Encoder {
    Bert(Bert),
    #[cfg(feature = "zoo")]
    Zoo(std::sync::Arc<crate::models::zoo::ZooModel>),
}

/// Token ids of pairs to scores.
#[cfg_attr(
    feature = "zoo",
    expect(
        clippy::large_enum_variant,
        reason = "there is one, and it is not moved about"
    )
)]
#[derive(Clone, Debug)]
pub(super) enum Scorer {
    CrossEncoder(CrossEncoder),
    #[cfg(feature = "zoo")]
    Zoo(std::sync::Arc<crate::models::zoo::ZooModel>),
}

/// The network of the zoo that a folder holds; none if it is not the zoo's.
#[cfg(feature = "zoo")]
fn zoo(folder: &ModelFolder) -> Result<Option<std::sync::Arc<crate::models::zoo::ZooModel>>> {
    use crate::models::zoo::{ZooModel, is_zoo};
    if !is_zoo(&folder.config.raw) {
        return Ok(None);
    }
    Ok(Some(ZooModel::open(&folder.path, folder.config.clone())?.into()))
}

impl Encoder {
    pub(super) fn open(folder: &ModelFolder) -> Result<Self> {
        #[cfg(feature = "zoo")]
        if let Some(zoo) = zoo(folder)? {
            return Ok(Self::Zoo(zoo));
        }
        let weights = read_weights(&folder.path)?;
        let bert = Bert::new(folder.config.clone(), weights);
        bert.map(Self::Bert)
            .map_err(|error| error.with_path(&folder.path))
    }

    /// Computes where the settings say; one that computes on GPUs stays there.
    #[cfg(feature = "cuda")]
    pub(super) fn place(&mut self, placements: &[crate::models::Placement]) -> Result<()> {
        match (self, placements) {
            (_, []) => Ok(()),
            (Self::Bert(bert), _) if bert.gpu_count() == 0 => bert.move_to_cuda(placements),
            (Self::Bert(_), _) => Ok(()),
            #[cfg(feature = "zoo")]
            (Self::Zoo(_), _) => crate::error::bail!(
                Unsupported,
                "this architecture does not run on a GPU; use `--devices cpu`"
            ),
        }
    }

    pub(super) fn config(&self) -> &EncoderConfig {
        match self {
            Self::Bert(bert) => bert.config(),
            #[cfg(feature = "zoo")]
            Self::Zoo(zoo) => zoo.config(),
        }
    }

    pub(super) fn encode(
        &self,
        tokens: &TokenBatch,
        shape: VectorShape,
        limits: BatchLimits,
        progress: impl FnMut(usize),
    ) -> Result<Vectors> {
        match self {
            Self::Bert(bert) => encode_tokens(bert, tokens, shape, limits, progress),
            #[cfg(feature = "zoo")]
            Self::Zoo(zoo) => {
                let pool = |ids: &[u32], types: &[u32]| {
                    let hidden = zoo.hidden(ids, types)?;
                    crate::models::pool(shape.pooling, &hidden, &[0, ids.len() as u32])
                };
                let width = zoo.config().hidden_size;
                super::schedule::one_by_one(tokens, width, shape, progress, pool)
            }
        }
    }
}

impl Scorer {
    pub(super) fn open(folder: &ModelFolder) -> Result<Self> {
        #[cfg(feature = "zoo")]
        if let Some(zoo) = zoo(folder)? {
            if !zoo.has_head() {
                let message = "there is no classification head: this is not a cross-encoder but an encoder";
                let error = Error::new(crate::error::ErrorKind::ModelFormat, message);
                return Err(error.with_path(&folder.path));
            }
            return Ok(Self::Zoo(zoo));
        }
        CrossEncoder::open(&folder.path)
            .map(Self::CrossEncoder)
            .map_err(|error: Error| error.with_path(&folder.path))
    }

    /// Computes where the settings say.
    #[cfg(feature = "cuda")]
    pub(super) fn place(&mut self, placements: &[crate::models::Placement]) -> Result<()> {
        match (self, placements) {
            (_, []) => Ok(()),
            (Self::CrossEncoder(model), _) => model.encoder_mut().move_to_cuda(placements),
            #[cfg(feature = "zoo")]
            (Self::Zoo(_), _) => crate::error::bail!(
                Unsupported,
                "this architecture does not run on a GPU; use `--devices cpu`"
            ),
        }
    }

    pub(super) fn config(&self) -> &EncoderConfig {
        match self {
            Self::CrossEncoder(model) => model.config(),
            #[cfg(feature = "zoo")]
            Self::Zoo(zoo) => zoo.config(),
        }
    }

    /// Logits of pairs in their order.
    pub(super) fn scores(
        &self,
        tokens: &TokenBatch,
        limits: BatchLimits,
        progress: impl FnMut(usize),
    ) -> Result<Vec<f32>> {
        let mut scores = vec![0.0_f32; tokens.len()];
        match self {
            Self::CrossEncoder(model) => {
                let run = |batch: &Batch, _: &[usize]| model.scores(batch);
                in_batches(model.encoder(), tokens, limits, progress, run, |made, pairs| {
                    for (score, &pair) in made.into_iter().zip(pairs) {
                        scores[pair] = score;
                    }
                })?;
            }
            #[cfg(feature = "zoo")]
            Self::Zoo(zoo) => {
                let mut progress = progress;
                for (pair, score) in scores.iter_mut().enumerate() {
                    let types = tokens.type_ids.as_ref().map(|types| &types[tokens.range(pair)]);
                    *score = zoo.score(tokens.row(pair), types.unwrap_or_default())?;
                    progress(pair + 1);
                }
            }
        }
        Ok(scores)
    }
}
