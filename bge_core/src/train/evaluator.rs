//! Retrieval metrics of the model in training, on a BEIR folder that is tokenized once.

use std::path::Path;

use crate::config::{DataArguments, TrainingArguments};
use crate::data::template::Instructions;
use crate::error::Result;
use crate::evaluation::{BeirFolder, EvaluationOptions, EvaluationReport, Role, evaluate};
use crate::inference::{BatchLimits, VectorShape, encode_tokens};
use crate::models::Bert;
use crate::tokenize::{TokenBatch, Tokenizer};

/// A folder with its texts as tokens, ready to be encoded again and again.
#[derive(Debug)]
pub(crate) struct Evaluator {
    folder: BeirFolder,
    queries: TokenBatch,
    passages: TokenBatch,
    shape: VectorShape,
}

impl Evaluator {
    /// Opens and tokenizes `eval_dataset`, with the instructions and lengths of training.
    pub(crate) fn open(
        path: &Path,
        data: &DataArguments,
        training: &TrainingArguments,
        tokenizer: &Tokenizer,
        [query_max_len, passage_max_len]: [usize; 2],
    ) -> Result<Self> {
        let folder = BeirFolder::open(path, &data.eval_split)?;
        let instructions = Instructions::new(data)?;
        let queries: Vec<String> = folder
            .query_texts
            .iter()
            .map(|text| instructions.query(text, None))
            .collect();
        let passages: Vec<String> = folder
            .document_texts
            .iter()
            .map(|text| instructions.passage(text, None, false))
            .collect();
        Ok(Self {
            queries: tokenizer.encode_batch(&queries, query_max_len)?,
            passages: tokenizer.encode_batch(&passages, passage_max_len)?,
            folder,
            shape: VectorShape {
                pooling: training.sentence_pooling_method,
                truncate_dim: None,
                normalize: training.normalize_embeddings,
            },
        })
    }

    /// The metrics of the model as it is now.
    pub(crate) fn evaluate(&self, model: &Bert) -> Result<EvaluationReport> {
        let evaluation = evaluate(&self.folder, &EvaluationOptions::default(), |role, _| {
            let tokens = match role {
                Role::Query => &self.queries,
                Role::Passage => &self.passages,
            };
            encode_tokens(model, tokens, self.shape, BatchLimits::default(), |_| {})
        })?;
        Ok(evaluation.report)
    }
}
