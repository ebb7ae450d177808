//! A finished BGE-M3: texts to vectors, lexical weights and token vectors, and the scores of pairs by all three.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{D, Tensor};

use super::embedder::Embedder;
use super::mode_weights::ModeWeights;
use super::schedule::{in_batches, scale_to_one};
use super::vectors::Vectors;
use crate::config::{EmbedArguments, TextRole};
use crate::error::{Error, ErrorKind, Result};
use crate::issue::Issue;
use crate::models::{Batch, Heads, Keep, M3, ModelFolder, hub, normalize_rows, pool};
use crate::nn::ops::late_interaction::{self, Columns, TokenVectors};
use crate::nn::ops::lexical;
use crate::nn::read;
use crate::tokenize::{TokenBatch, Tokenizer};

/// The weight of each token id of a text, above 0; special tokens have none.
pub type LexicalWeights = BTreeMap<u32, f32>;

/// Which of the three representations are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct M3Outputs {
    /// One vector a text (`return_dense`).
    pub dense: bool,
    /// The weights of its tokens (`return_sparse`).
    pub sparse: bool,
    /// One vector a token (`return_colbert_vecs`).
    pub colbert: bool,
}

impl M3Outputs {
    /// All three.
    pub const ALL: Self = Self {
        dense: true,
        sparse: true,
        colbert: true,
    };
}

/// What texts became; what was not asked for is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct M3Vectors {
    /// One row a text.
    pub dense_vecs: Option<Vectors>,
    /// The weights of each text.
    pub lexical_weights: Option<Vec<LexicalWeights>>,
    /// For each text a row a token, the first token left out.
    pub colbert_vecs: Option<Vec<Vectors>>,
}

/// What the texts of a batch became, in their order; empty what was not asked for.
#[derive(Default)]
struct Made {
    dense: Option<Vec<f32>>,
    lexical: Vec<LexicalWeights>,
    colbert: Vec<Vectors>,
}

/// The scores of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct M3Scores {
    /// The product of the two vectors.
    pub dense: f32,
    /// The product of the weights of the tokens they share.
    pub sparse: f32,
    /// The mean over the query's tokens of the best product with one of the passage's.
    pub colbert: f32,
}

impl M3Scores {
    /// Upstream's `sparse+dense`.
    pub fn sparse_dense(&self, weights: ModeWeights) -> f32 {
        (self.sparse * weights.sparse + self.dense * weights.dense) / (weights.sparse + weights.dense)
    }

    /// Upstream's `colbert+sparse+dense`.
    pub fn colbert_sparse_dense(&self, weights: ModeWeights) -> f32 {
        let ModeWeights {
            dense,
            sparse,
            colbert,
        } = weights;
        (self.colbert * colbert + self.sparse * sparse + self.dense * dense) / (dense + sparse + colbert)
    }
}

/// BGE-M3 with its tokenizer and its way from texts to three representations (`BGEM3FlagModel`). Safe to share between
/// threads.
#[derive(Clone, Debug)]
pub struct M3Embedder {
    embedder: Embedder,
    model: M3,
    special: Vec<u32>,
    folder: PathBuf,
}

impl M3Embedder {
    /// Opens the model that `arguments` name, a folder or a name on the hub.
    pub fn open(arguments: &EmbedArguments) -> Result<Self> {
        let options = hub::HubOptions::new(arguments.cache_dir.as_ref(), arguments.token.as_ref());
        let folder = hub::resolve_model(&arguments.embedder_name_or_path, &options)?;
        Self::from_finetuned(folder, arguments)
    }

    /// Opens a folder with `sparse_linear` and `colbert_linear` beside the encoder, as `.pt` or `.safetensors`.
    ///
    /// Instructions, pooling and lengths are chosen as [`Embedder::from_finetuned`] chooses them. A folder that lacks a head
    /// opens; asking for what the head makes is then an error.
    pub fn from_finetuned(folder: impl AsRef<Path>, arguments: &EmbedArguments) -> Result<Self> {
        let folder = ModelFolder::open(folder.as_ref())?;
        let tokenizer = Tokenizer::open(&folder.path)?;
        let special = tokenizer.special_tokens().without_words();
        let model = M3::open(&folder)?;
        #[cfg(feature = "cuda")]
        let model = {
            let half = [arguments.use_fp16, arguments.use_bf16];
            let mut model = model;
            let placements = crate::models::Placement::of(&arguments.devices, half, false);
            model.encoder_mut().move_to_cuda(&placements)?;
            model
        };
        if let (Some(dim), Some(width)) = (arguments.truncate_dim, model.colbert_dim())
            && dim > width
        {
            let message = format!("{dim} is more than the {width} numbers of a token's vector");
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_field("truncate_dim"));
        }
        Ok(Self {
            embedder: Embedder::with_model(&folder, model.encoder().clone(), tokenizer, arguments)?,
            model,
            special,
            folder: folder.path,
        })
    }

    /// The same model as an embedder of one vector a text.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// What was assumed where neither the settings nor the folder said it.
    pub fn notes(&self) -> &[Issue] {
        self.embedder.notes()
    }

    /// How much each score counts by the folder's [`MODE_WEIGHTS_FILE`](super::MODE_WEIGHTS_FILE); all the same without one.
    pub fn mode_weights(&self) -> Result<ModeWeights> {
        Ok(ModeWeights::read(&self.folder)?.unwrap_or_default())
    }

    /// Which heads the folder has.
    pub fn heads(&self) -> Heads {
        self.model.heads()
    }

    /// What queries become.
    pub fn encode_queries<S: AsRef<str> + Sync>(&self, texts: &[S], outputs: M3Outputs) -> Result<M3Vectors> {
        self.encode_role(TextRole::Query, texts, outputs)
    }

    /// What passages become.
    pub fn encode_corpus<S: AsRef<str> + Sync>(&self, texts: &[S], outputs: M3Outputs) -> Result<M3Vectors> {
        self.encode_role(TextRole::Passage, texts, outputs)
    }

    /// What texts in a role become.
    pub fn encode_role<S: AsRef<str> + Sync>(
        &self,
        role: TextRole,
        texts: &[S],
        outputs: M3Outputs,
    ) -> Result<M3Vectors> {
        self.encode_tokens(&self.embedder.tokenize(role, texts)?, outputs, |_| {})
    }

    /// What tokenized texts become; `progress` hears how many are done. A text's numbers do not depend on the texts around it.
    pub fn encode_tokens(
        &self,
        tokens: &TokenBatch,
        outputs: M3Outputs,
        progress: impl FnMut(usize),
    ) -> Result<M3Vectors> {
        self.expect_heads(outputs)?;
        let wanted = Heads {
            sparse: outputs.sparse,
            colbert: outputs.colbert,
        };
        let (count, dim, shape) = (tokens.len(), self.embedder.dim(), self.embedder.shape);
        let mut out = M3Vectors {
            dense_vecs: outputs.dense.then(|| Vectors {
                data: vec![0.0; count * dim],
                dim,
            }),
            lexical_weights: outputs.sparse.then(|| vec![LexicalWeights::new(); count]),
            colbert_vecs: outputs.colbert.then(|| vec![Vectors::default(); count]),
        };
        let (encoder, limits) = (self.model.encoder(), self.embedder.limits);
        let run = |batch: &Batch, texts: &[usize]| self.run(batch, texts, tokens, outputs.dense, wanted);
        in_batches(encoder, tokens, limits, progress, run, |made, texts| {
            if let (Some(dense), Some(pooled)) = (&mut out.dense_vecs, made.dense) {
                let width = pooled.len() / texts.len();
                for (row, &text) in pooled.chunks_exact(width).zip(texts) {
                    let target = &mut dense.data[text * dim..(text + 1) * dim];
                    target.copy_from_slice(&row[..dim]);
                    if shape.normalize {
                        scale_to_one(target);
                    }
                }
            }
            for (all, &text) in made.lexical.into_iter().zip(texts) {
                if let Some(weights) = &mut out.lexical_weights {
                    weights[text] = all;
                }
            }
            for (all, &text) in made.colbert.into_iter().zip(texts) {
                if let Some(vectors) = &mut out.colbert_vecs {
                    vectors[text] = all;
                }
            }
        })?;
        Ok(out)
    }

    /// What the texts of one batch become.
    fn run(
        &self,
        batch: &Batch,
        texts: &[usize],
        tokens: &TokenBatch,
        dense: bool,
        wanted: Heads,
    ) -> Result<Made> {
        let shape = self.embedder.shape;
        let (hidden, _) = self.model.encoder().forward(batch, Keep::Nothing, None)?;
        let heads = self.model.run_heads(&hidden, wanted)?;
        let mut made = Made::default();
        if dense {
            let pooled = pool(shape.pooling, &hidden, batch.offsets())?;
            made.dense = Some(read(&pooled)?.to_vec());
        }
        if let Some(weights) = &heads.weights {
            let of_text = |(text, first, end): (usize, usize, usize)| {
                let terms = lexical::terms(tokens.row(text), &weights[first..end], first, &self.special);
                terms.into_iter().map(|term| (term.id, term.weight)).collect()
            };
            made.lexical = rows_of(batch, texts).map(of_text).collect();
        }
        if let Some(vectors) = &heads.vectors {
            let vectors = self.cut(vectors)?;
            let dim = vectors.dim(D::Minus1)?;
            if shape.normalize {
                normalize_rows(&vectors)?;
            }
            let vectors = read(&vectors)?;
            let of_text = |(_, first, end): (usize, usize, usize)| Vectors {
                data: vectors[(first + 1).min(end) * dim..end * dim].to_vec(),
                dim,
            };
            made.colbert = rows_of(batch, texts).map(of_text).collect();
        }
        Ok(made)
    }

    /// Token vectors cut to `truncate_dim`.
    fn cut(&self, vectors: &Tensor) -> Result<Tensor> {
        let width = vectors.dim(D::Minus1)?;
        let dim = self.embedder.shape.truncate_dim.unwrap_or(width).min(width);
        Ok(vectors.narrow(1, 0, dim)?.contiguous()?)
    }

    fn expect_heads(&self, outputs: M3Outputs) -> Result<()> {
        let has = self.model.heads();
        for (wanted, has, head, field) in [
            (outputs.sparse, has.sparse, "sparse_linear", "return_sparse"),
            (
                outputs.colbert,
                has.colbert,
                "colbert_linear",
                "return_colbert_vecs",
            ),
        ] {
            if wanted && !has {
                let message = format!(
                    "the model folder has neither {head}.pt nor {head}.safetensors, so it has no such head; train one with \
                     `bge finetune encoder_only.m3 --unified_finetuning True`"
                );
                return Err(Error::new(ErrorKind::ModelFormat, message).with_field(field));
            }
        }
        Ok(())
    }

    /// The scores of pairs of a query and a passage (`compute_score`).
    pub fn compute_score<S: AsRef<str> + Sync>(&self, pairs: &[(S, S)]) -> Result<Vec<M3Scores>> {
        let queries: Vec<&str> = pairs.iter().map(|(query, _)| query.as_ref()).collect();
        let passages: Vec<&str> = pairs.iter().map(|(_, passage)| passage.as_ref()).collect();
        let queries = self.encode_queries(&queries, M3Outputs::ALL)?;
        let passages = self.encode_corpus(&passages, M3Outputs::ALL)?;
        let (Some(qd), Some(qs), Some(qc)) = (
            &queries.dense_vecs,
            &queries.lexical_weights,
            &queries.colbert_vecs,
        ) else {
            return Ok(Vec::new());
        };
        let (Some(pd), Some(ps), Some(pc)) = (
            &passages.dense_vecs,
            &passages.lexical_weights,
            &passages.colbert_vecs,
        ) else {
            return Ok(Vec::new());
        };
        let all = qd
            .rows()
            .zip(pd.rows())
            .zip(qs.iter().zip(ps))
            .zip(qc.iter().zip(pc));
        Ok(all
            .map(|(((qd, pd), (qs, ps)), (qc, pc))| M3Scores {
                dense: qd.iter().zip(pd).map(|(q, p)| q * p).sum(),
                sparse: lexical_matching_score(qs, ps),
                colbert: colbert_score(qc, pc),
            })
            .collect())
    }

    /// Lexical weights by the text of the tokens (`convert_id_to_token`), in the order of their ids.
    ///
    /// Unlike upstream, tokens that read the same stay apart.
    pub fn tokens_of(&self, weights: &LexicalWeights) -> Vec<(String, f32)> {
        let tokenizer = self.embedder.tokenizer();
        weights
            .iter()
            .map(|(&id, &weight)| (tokenizer.token(id).unwrap_or_else(|| id.to_string()), weight))
            .collect()
    }
}

/// The texts of a batch with their rows: (number of the text, first row, end).
fn rows_of<'a>(batch: &'a Batch, texts: &'a [usize]) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
    let borders = batch.offsets().windows(2);
    texts
        .iter()
        .zip(borders)
        .map(|(&text, pair)| (text, pair[0] as usize, pair[1] as usize))
}

/// The product of the weights of the tokens that two texts share (`compute_lexical_matching_score`).
pub fn lexical_matching_score(a: &LexicalWeights, b: &LexicalWeights) -> f32 {
    a.iter()
        .filter_map(|(id, weight)| Some(weight * b.get(id)?))
        .sum()
}

/// Late interaction of two texts' token vectors (`colbert_score`); 0 where one has none or their widths differ.
pub fn colbert_score(query: &Vectors, passage: &Vectors) -> f32 {
    if query.dim != passage.dim || query.is_empty() || passage.is_empty() {
        return 0.0;
    }
    let (q, p) = ([0, query.len() as u32], [0, passage.len() as u32]);
    let found = late_interaction::forward(token_vectors(query, &q), token_vectors(passage, &p), Columns::All);
    found.scores.first().copied().unwrap_or(0.0)
}

fn token_vectors<'a>(vectors: &'a Vectors, offsets: &'a [u32]) -> TokenVectors<'a> {
    TokenVectors {
        rows: &vectors.data,
        width: vectors.dim,
        offsets,
        skip: 0,
    }
}
