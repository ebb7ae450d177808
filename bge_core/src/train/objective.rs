//! What is trained: the model, and how a micro-batch becomes its gradient.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;

use super::batch::MicroBatch;
use super::embed::{Embedding, Measured, Turn};
use super::heads::HeadsLearning;
use super::rank::Ranking;
use crate::config::TrainingArguments;
use crate::distributed::Communicator;
use crate::error::{Result, bail};
use crate::loss::LossConfig;
use crate::models::{
    Bert, CrossEncoder, Keep, M3, SentenceSettings, read_cross_encoder_weights, read_m3_weights,
    read_weights, save_cross_encoder, save_m3, save_model,
};
use crate::nn::{Gradients, ParamStore, Watcher};

/// A model with what it learns.
#[derive(Debug)]
pub(crate) enum Objective {
    /// Vectors of texts.
    Embedder { model: Bert, learning: Embedding },
    /// Vectors of texts and of tokens, and the tokens' weights.
    M3 { model: M3, learning: HeadsLearning },
    /// Scores of pairs.
    Reranker { model: CrossEncoder, learning: Ranking },
}

/// What a saved folder says about its model besides the weights.
#[derive(Clone, Debug)]
pub(crate) enum Card {
    Embedder(SentenceSettings),
    Reranker,
}

impl Objective {
    pub(crate) fn embedder(model: Bert, arguments: &TrainingArguments) -> Self {
        let learning = embedding(arguments);
        Self::Embedder { model, learning }
    }

    /// `special` are the ids that are no words: of `cls`, `eos`, `pad` and `unk`, as many as the tokenizer has.
    pub(crate) fn m3(mut model: M3, arguments: &TrainingArguments, special: Vec<u32>) -> Self {
        if !arguments.unified_finetuning {
            model.freeze_heads();
        }
        if arguments.fix_encoder {
            model.freeze_encoder();
        }
        let learning = HeadsLearning::new(embedding(arguments), arguments, special);
        Self::M3 { model, learning }
    }

    pub(crate) fn reranker(model: CrossEncoder, arguments: &TrainingArguments) -> Self {
        let learning = Ranking {
            sub_batch_size: arguments.sub_batch_size,
            keep: keep(arguments),
        };
        Self::Reranker { model, learning }
    }

    /// The encoder; its weights include those of a head.
    pub(crate) fn encoder(&self) -> &Bert {
        match self {
            Self::Embedder { model, .. } => model,
            Self::M3 { model, .. } => model.encoder(),
            Self::Reranker { model, .. } => model.encoder(),
        }
    }

    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn encoder_mut(&mut self) -> &mut Bert {
        match self {
            Self::Embedder { model, .. } => model,
            Self::M3 { model, .. } => model.encoder_mut(),
            Self::Reranker { model, .. } => model.encoder_mut(),
        }
    }

    /// All weights.
    pub(crate) fn params(&self) -> &ParamStore {
        self.encoder().params()
    }

    /// Tells `watcher` from now on which part of the network runs.
    pub(crate) fn watch(&mut self, watcher: Arc<dyn Watcher>) {
        match self {
            Self::Embedder { model, .. } => model.watch(watcher),
            Self::M3 { model, .. } => model.watch(watcher),
            Self::Reranker { model, .. } => model.watch(watcher),
        }
    }

    /// Keeps the weights whose name matches as they are.
    pub(crate) fn freeze(&mut self, matches: impl Fn(&str) -> bool) {
        match self {
            Self::Embedder { model, .. } => model.freeze(matches),
            Self::M3 { model, .. } => model.freeze(matches),
            Self::Reranker { model, .. } => model.freeze(matches),
        }
    }

    /// Adds the gradient of this rank's share of a micro-batch's loss, and returns the share itself.
    pub(crate) fn accumulate(
        &self,
        ranks: &dyn Communicator,
        batch: MicroBatch<'_>,
        turn: Turn,
        grads: &mut Gradients,
    ) -> Result<Measured> {
        let Turn { weight, dropout, .. } = turn;
        match (self, batch) {
            (Self::Embedder { model, learning }, MicroBatch::Texts(batch)) => {
                learning.accumulate(ranks, model, batch, weight, dropout, grads)
            }
            (Self::M3 { model, learning }, MicroBatch::Texts(batch)) => {
                learning.accumulate(ranks, model, batch, turn, grads)
            }
            (Self::Reranker { model, learning }, MicroBatch::Pairs(batch)) => {
                learning.accumulate(ranks, model, batch, weight, dropout, grads)
            }
            (Self::Embedder { .. } | Self::M3 { .. }, MicroBatch::Pairs(_)) => {
                bail!(InvalidArgument, "an embedder learns from texts, not from pairs")
            }
            (Self::Reranker { .. }, MicroBatch::Texts(_)) => {
                bail!(InvalidArgument, "a reranker learns from pairs, not from texts")
            }
        }
    }

    /// The settings to look at when numbers are not finite.
    pub(crate) fn suspects(&self) -> &'static str {
        match self {
            Self::Embedder { .. } | Self::M3 { .. } => "--temperature and the data",
            Self::Reranker { .. } => "the data",
        }
    }

    /// Writes the model and its tokenizer's files into an existing folder.
    pub(crate) fn save(&self, folder: &Path, card: &Card, tokenizer_files: &[PathBuf]) -> Result<()> {
        let files = tokenizer_files.iter().map(PathBuf::as_path);
        match (self, card) {
            (Self::Embedder { model, .. }, Card::Embedder(sentence)) => {
                save_model(folder, model, sentence, files)
            }
            (Self::M3 { model, .. }, Card::Embedder(sentence)) => save_m3(folder, model, sentence, files),
            (Self::Reranker { model, .. }, _) => save_cross_encoder(folder, model, files),
            (Self::Embedder { .. } | Self::M3 { .. }, Card::Reranker) => {
                bail!(Internal, "an embedder needs its pooling")
            }
        }
    }

    /// The weights of a folder, as the model names them.
    pub(crate) fn read(&self, folder: &Path) -> Result<BTreeMap<String, Tensor>> {
        match self {
            Self::Embedder { .. } => read_weights(folder),
            Self::M3 { .. } => read_m3_weights(folder),
            Self::Reranker { model, .. } => read_cross_encoder_weights(folder, model.config()),
        }
    }
}

fn embedding(arguments: &TrainingArguments) -> Embedding {
    Embedding {
        pooling: arguments.sentence_pooling_method,
        loss: LossConfig::from(arguments),
        sub_batch_size: arguments.sub_batch_size,
        keep: keep(arguments),
        cross_device: arguments.negatives_cross_device,
    }
}

fn keep(arguments: &TrainingArguments) -> Keep {
    if arguments.gradient_checkpointing {
        Keep::Inputs
    } else {
        Keep::All
    }
}
