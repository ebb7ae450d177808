//! A finished cross-encoder: `from_finetuned`, `compute_score`.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::embedder::check_vocabulary_rows;
use super::encoder::Scorer;
use super::schedule::BatchLimits;
use crate::config::{RerankArguments, check_scoring::LLM_RERANKERS};
use crate::data::template::Template;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::issue::{Issue, Severity};
use crate::models::{EncoderConfig, ModelFolder};
use crate::tokenize::{PairLimits, TokenBatch, Tokenizer};

/// The LLM rerankers of FlagEmbedding's mapping.
const LLM_NAMES: [&str; 3] = [
    "bge-reranker-v2-gemma",
    "bge-reranker-v2-minicpm-layerwise",
    "bge-reranker-v2.5-gemma2-lightweight",
];

/// Beginnings of the `model_type`s of decoders.
const DECODERS: [&str; 12] = [
    "gemma",
    "mistral",
    "mixtral",
    "llama",
    "qwen",
    "minicpm",
    "phi",
    "gpt",
    "opt",
    "falcon",
    "cost_wise",
    "layerwise",
];

/// A loaded cross-encoder with its tokenizer: pairs of query and passage to scores. Safe to share between threads.
#[derive(Clone, Debug)]
pub struct Reranker {
    model: Scorer,
    tokenizer: Tokenizer,
    lengths: PairLimits,
    batch: BatchLimits,
    query: Option<(Template, String)>,
    passage: Option<(Template, String)>,
    normalize: bool,
    notes: Vec<Issue>,
}

impl Reranker {
    /// Opens a model folder: a fine-tuned cross-encoder, a checkpoint, bge-reranker, or any BERT or XLM-RoBERTa with a
    /// classification head of one label in Hugging Face's layout.
    ///
    /// An LLM reranker, a decoder and a folder without a classification head are refused. See [`Reranker::notes`] for
    /// what was adjusted.
    pub fn from_finetuned(folder: impl AsRef<Path>, arguments: &RerankArguments) -> Result<Self> {
        let folder = folder.as_ref();
        refuse_llm_class(arguments)?;
        refuse_decoder(folder)?;
        let model = Scorer::open(&ModelFolder::open_to_run(folder)?)?;
        #[cfg(feature = "cuda")]
        let model = {
            let half = [arguments.use_fp16, arguments.use_bf16];
            let mut model = model;
            model.place(&crate::models::Placement::of(&arguments.devices, half, false))?;
            model
        };
        let tokenizer = Tokenizer::open(folder)?;
        check_vocabulary_rows(&tokenizer, model.config().vocab_size, folder)?;
        let positions = model.config().max_tokens();
        let mut notes = Vec::new();
        if arguments.reranker_max_length > positions {
            let message = format!(
                "reranker_max_length is {}, but the model has positions for {positions} tokens; pairs are cut to these",
                arguments.reranker_max_length
            );
            notes.push(Issue::new("model.assumed", Severity::Info, message));
        }
        let side = |name: &str, instruction: &Option<String>, format: &str| {
            instruction
                .clone()
                .map(|instruction| Ok((Template::parse(format)?, instruction)))
                .transpose()
                .map_err(|error: Error| error.with_field(name))
        };
        Ok(Self {
            lengths: PairLimits::new(
                arguments.reranker_query_max_length,
                arguments.reranker_max_length,
                positions,
            ),
            batch: BatchLimits {
                texts: arguments.reranker_batch_size,
                groups: BatchLimits::groups(&arguments.devices),
                ..BatchLimits::default()
            },
            query: side(
                "query_instruction_format_for_rerank",
                &arguments.query_instruction_for_rerank,
                &arguments.query_instruction_format_for_rerank,
            )?,
            passage: side(
                "passage_instruction_format_for_rerank",
                &arguments.passage_instruction_for_rerank,
                &arguments.passage_instruction_format_for_rerank,
            )?,
            normalize: arguments.normalize,
            model,
            tokenizer,
            notes,
        })
    }

    /// What was adjusted to the model.
    pub fn notes(&self) -> &[Issue] {
        &self.notes
    }

    /// The sizes of the model, and its whole `config.json`.
    pub fn config(&self) -> &EncoderConfig {
        self.model.config()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The scores of (query, passage) pairs in their order: logits, or with `normalize` their sigmoid.
    ///
    /// A pair's score does not depend on the pairs around it.
    pub fn compute_score<Q, P>(&self, pairs: &[(Q, P)]) -> Result<Vec<f32>>
    where
        Q: AsRef<str> + Sync,
        P: AsRef<str> + Sync,
    {
        self.score_tokens(&self.tokenize(pairs)?, |_| {})
    }

    /// The tokens of pairs, with instructions and cut, as they will be scored.
    pub fn tokenize<Q, P>(&self, pairs: &[(Q, P)]) -> Result<TokenBatch>
    where
        Q: AsRef<str> + Sync,
        P: AsRef<str> + Sync,
    {
        let mut tokens = if self.query.is_none() && self.passage.is_none() {
            self.tokenizer.encode_pairs(pairs, self.lengths)?
        } else {
            let filled: Vec<(Cow<'_, str>, Cow<'_, str>)> = pairs
                .iter()
                .map(|(query, passage)| {
                    (
                        fill(self.query.as_ref(), query.as_ref()),
                        fill(self.passage.as_ref(), passage.as_ref()),
                    )
                })
                .collect();
            self.tokenizer.encode_pairs(&filled, self.lengths)?
        };
        // A model without segments is not told them, as its tokenizer in transformers does not.
        if self.model.config().type_vocab_size < 2 {
            tokens.type_ids = None;
        }
        Ok(tokens)
    }

    /// The scores of tokenized pairs; `progress` hears how many are done.
    pub fn score_tokens(&self, tokens: &TokenBatch, progress: impl FnMut(usize)) -> Result<Vec<f32>> {
        let mut scores = self.model.scores(tokens, self.batch, progress)?;
        if self.normalize {
            for score in &mut scores {
                *score = sigmoid(*score);
            }
        }
        Ok(scores)
    }
}

fn fill<'a>(prefix: Option<&(Template, String)>, text: &'a str) -> Cow<'a, str> {
    match prefix {
        Some((template, instruction)) => template.fill(instruction, text).into(),
        None => text.into(),
    }
}

/// Computed in f64, as upstream.
fn sigmoid(score: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(score)).exp())) as f32
}

/// Refuses the names and classes of LLM rerankers, before anything is fetched or read.
pub(crate) fn refuse_llm_class(arguments: &RerankArguments) -> Result<()> {
    if let Some(class) = arguments.reranker_model_class.as_deref()
        && LLM_RERANKERS.contains(&class)
    {
        return Err(llm(&format!("`{class}`")).with_field("reranker_model_class"));
    }
    let name = arguments.reranker_name_or_path.trim_end_matches('/');
    let last = name.rsplit('/').next().unwrap_or(name);
    if LLM_NAMES.iter().any(|known| known.eq_ignore_ascii_case(last)) {
        return Err(llm(&format!("`{last}`")).with_field("reranker_name_or_path"));
    }
    Ok(())
}

/// Refuses a folder whose `config.json` says that it holds a decoder.
pub(crate) fn refuse_decoder(folder: &Path) -> Result<()> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Ok(()); // The model folder says what is missing.
    }
    let Ok(config) = serde_json::from_str::<Value>(&files::read_text(&path)?) else {
        return Ok(());
    };
    let kind = config["model_type"].as_str().unwrap_or_default();
    let class = config["architectures"][0].as_str().unwrap_or_default();
    let decoder = DECODERS
        .iter()
        .any(|known| kind.to_ascii_lowercase().starts_with(known));
    if decoder || class.ends_with("ForCausalLM") {
        return Err(llm(&format!("`{kind}`")).with_path(path).with_field("model_type"));
    }
    Ok(())
}

fn llm(what: &str) -> Error {
    let message = format!(
        "{what} is a decoder; LLM rerankers ({}) are not run by this version, so use a cross-encoder such as \
         BAAI/bge-reranker-v2-m3",
        LLM_RERANKERS.join(", ")
    );
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_and_classes_of_llm_rerankers_are_refused() {
        for (name, class) in [
            ("BAAI/bge-reranker-v2-gemma", None),
            ("models/bge-reranker-v2.5-gemma2-lightweight/", None),
            ("folder", Some("decoder-only-layerwise")),
        ] {
            let arguments = RerankArguments {
                reranker_name_or_path: name.to_owned(),
                reranker_model_class: class.map(str::to_owned),
                ..RerankArguments::default()
            };
            let error = refuse_llm_class(&arguments).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains("decoder-only-lightweight"), "{error}");
        }
        assert!(refuse_llm_class(&RerankArguments::default()).is_ok());
    }

    #[test]
    fn the_sigmoid_keeps_its_ends() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!((sigmoid(-200.0), sigmoid(200.0)), (0.0, 1.0));
    }
}
