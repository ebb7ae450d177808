//! A finished embedder: `from_finetuned`, `encode_queries`, `encode_corpus`.

use std::path::Path;

use super::encoder::Encoder;
use super::schedule::{BatchLimits, VectorShape};
use super::vectors::Vectors;
use crate::config::{EmbedArguments, PoolingMethod, TextRole};
use crate::data::template::Template;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::issue::{Issue, Severity};
use crate::models::{Bert, EncoderConfig, ModelFolder, hub};
use crate::tokenize::{TokenBatch, Tokenizer};

/// A loaded model with its tokenizer and its way from texts to vectors. Safe to share between threads.
#[derive(Clone, Debug)]
pub struct Embedder {
    model: Encoder,
    tokenizer: Tokenizer,
    pub(super) shape: VectorShape,
    pub(super) limits: BatchLimits,
    query: Side,
    passage: Side,
    notes: Vec<Issue>,
}

/// What is done to a text before it is encoded.
#[derive(Clone, Debug)]
struct Side {
    prefix: Option<(Template, String)>,
    /// How a text's own instruction is joined, if the format has a place for texts.
    format: Option<Template>,
    max_length: usize,
}

impl Side {
    fn text<'a>(&self, text: &'a str) -> std::borrow::Cow<'a, str> {
        match &self.prefix {
            Some((template, instruction)) => template.fill(instruction, text).into(),
            None => text.into(),
        }
    }
}

impl Embedder {
    /// Opens the model that `arguments` name, a folder or a name on the hub; see [`Embedder::from_finetuned`].
    pub fn open(arguments: &EmbedArguments) -> Result<Self> {
        let options = hub::HubOptions::new(arguments.cache_dir.as_ref(), arguments.token.as_ref());
        let folder = hub::resolve_model(&arguments.embedder_name_or_path, &options)?;
        Self::from_finetuned(folder, arguments)
    }

    /// Opens a model folder: a fine-tuned one, a checkpoint, or any BERT or XLM-RoBERTa embedder in Hugging Face's layout.
    ///
    /// Pooling, instructions and lengths are those of `arguments`, and where these say nothing, those of the folder;
    /// without any word on pooling it is `cls`, BGE's. See [`Embedder::notes`] for what was assumed.
    pub fn from_finetuned(folder: impl AsRef<Path>, arguments: &EmbedArguments) -> Result<Self> {
        let folder = ModelFolder::open_to_run(folder.as_ref())?;
        let tokenizer = Tokenizer::open(&folder.path)?;
        let model = Encoder::open(&folder)?;
        Self::assemble(&folder, model, tokenizer, arguments)
    }

    /// An embedder around a model in memory; `folder` says all that the weights do not.
    pub(crate) fn with_model(
        folder: &ModelFolder,
        model: Bert,
        tokenizer: Tokenizer,
        arguments: &EmbedArguments,
    ) -> Result<Self> {
        Self::assemble(folder, Encoder::Bert(model), tokenizer, arguments)
    }

    fn assemble(
        folder: &ModelFolder,
        model: Encoder,
        tokenizer: Tokenizer,
        arguments: &EmbedArguments,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        let model = {
            let half = [arguments.use_fp16, arguments.use_bf16];
            let mut model = model;
            model.place(&crate::models::Placement::of(&arguments.devices, half, false))?;
            model
        };
        let mut notes = Vec::new();
        let mut note = |message: String| notes.push(Issue::new("model.assumed", Severity::Info, message));
        check_vocabulary_rows(&tokenizer, model.config().vocab_size, &folder.path)?;
        let pooling = arguments.pooling_method.or(folder.pooling).unwrap_or_else(|| {
            note("the folder does not say how to pool; using cls (set pooling_method)".to_owned());
            PoolingMethod::Cls
        });
        if let Some(own) = folder.pooling.filter(|own| *own != pooling) {
            note(format!(
                "pooling by {pooling} as asked, although the folder says {own}"
            ));
        }
        let limit = folder.max_tokens();
        let mut side = |name: &str,
                        instruction: Option<&String>,
                        format: Option<&String>,
                        prompt: Option<&String>,
                        max: usize|
         -> Result<Side> {
            let template = || Template::parse(format.map_or("{}{}", String::as_str));
            let prefix = match (instruction, prompt) {
                (Some(instruction), _) => Some((template()?, instruction.clone())),
                (None, Some(prompt)) => {
                    note(format!("{name} texts get the folder's own prompt {prompt:?}"));
                    Some((Template::parse("{}{}")?, prompt.clone()))
                }
                (None, None) => None,
            };
            Ok(Side {
                prefix,
                format: template().ok(),
                max_length: max.min(limit),
            })
        };
        let query = side(
            "query",
            arguments.query_instruction_for_retrieval.as_ref(),
            arguments.query_instruction_format_for_retrieval.as_ref(),
            folder.query_prompt.as_ref(),
            arguments.embedder_query_max_length,
        )?;
        let passage = side(
            "passage",
            arguments.passage_instruction_for_retrieval.as_ref(),
            arguments.passage_instruction_format.as_ref(),
            folder.passage_prompt.as_ref(),
            arguments.embedder_passage_max_length,
        )?;
        if let Some(dim) = arguments.truncate_dim
            && (dim == 0 || dim > model.config().hidden_size)
        {
            let message = format!(
                "{dim} is not between 1 and the width {}",
                model.config().hidden_size
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_field("truncate_dim"));
        }
        let shape = VectorShape {
            pooling,
            truncate_dim: arguments.truncate_dim,
            normalize: arguments.normalize_embeddings,
        };
        let limits = BatchLimits {
            texts: arguments.batch_size,
            groups: BatchLimits::groups(&arguments.devices),
            ..BatchLimits::default()
        };
        Ok(Self {
            model,
            tokenizer,
            shape,
            limits,
            query,
            passage,
            notes,
        })
    }

    /// What was assumed where neither the settings nor the folder said it.
    pub fn notes(&self) -> &[Issue] {
        &self.notes
    }

    /// Numbers in a vector.
    pub fn dim(&self) -> usize {
        let width = self.model.config().hidden_size;
        self.shape.truncate_dim.map_or(width, |dim| dim.min(width))
    }

    /// The sizes of the model, and its whole `config.json`.
    pub fn config(&self) -> &EncoderConfig {
        self.model.config()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Vectors of queries: with the query instruction, cut to the query length.
    pub fn encode_queries<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vectors> {
        self.encode_role(TextRole::Query, texts)
    }

    /// Vectors of passages: with the passage instruction, cut to the passage length.
    pub fn encode_corpus<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vectors> {
        self.encode_role(TextRole::Passage, texts)
    }

    /// Vectors of plain texts: without instruction, cut to the passage length.
    pub fn encode<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vectors> {
        self.encode_role(TextRole::None, texts)
    }

    /// Vectors of texts in a role.
    pub fn encode_role<S: AsRef<str> + Sync>(&self, role: TextRole, texts: &[S]) -> Result<Vectors> {
        self.encode_tokens(&self.tokenize(role, texts)?, |_| {})
    }

    /// The tokens of texts in a role, as they will be encoded.
    pub fn tokenize<S: AsRef<str> + Sync>(&self, role: TextRole, texts: &[S]) -> Result<TokenBatch> {
        let side = match role {
            TextRole::Query => &self.query,
            TextRole::Passage => &self.passage,
            TextRole::None => return self.tokenizer.encode_batch(texts, self.passage.max_length),
        };
        if side.prefix.is_none() {
            return self.tokenizer.encode_batch(texts, side.max_length);
        }
        let texts: Vec<_> = texts.iter().map(|text| side.text(text.as_ref())).collect();
        self.tokenizer.encode_batch(&texts, side.max_length)
    }

    /// The tokens of queries; one with an instruction of its own (a row's `prompt`) gets that instead of the model's.
    pub fn tokenize_prompted<S: AsRef<str> + Sync>(&self, queries: &[(Option<S>, S)]) -> Result<TokenBatch> {
        let text = |(prompt, query): &(Option<S>, S)| match (prompt, &self.query.format) {
            (Some(prompt), Some(format)) => Ok(format.fill(prompt.as_ref(), query.as_ref())),
            (Some(_), None) => bail!(
                InvalidConfig,
                "the query format has no place for the text; use {{}}{{}}"
            ),
            (None, _) => Ok(self.query.text(query.as_ref()).into_owned()),
        };
        let texts = queries.iter().map(text).collect::<Result<Vec<String>>>()?;
        self.tokenizer.encode_batch(&texts, self.query.max_length)
    }

    /// Vectors of tokenized texts; `progress` hears how many are done.
    pub fn encode_tokens(&self, tokens: &TokenBatch, progress: impl FnMut(usize)) -> Result<Vectors> {
        self.model.encode(tokens, self.shape, self.limits, progress)
    }
}

/// Refuses a tokenizer whose ids the model has no embeddings for.
pub(crate) fn check_vocabulary(tokenizer: &Tokenizer, model: &Bert, folder: &Path) -> Result<()> {
    check_vocabulary_rows(tokenizer, model.config().vocab_size, folder)
}

/// Refuses a tokenizer with more ids than the `rows` of a model's embedding table.
pub(super) fn check_vocabulary_rows(tokenizer: &Tokenizer, rows: usize, folder: &Path) -> Result<()> {
    let has = tokenizer.vocab_size();
    if has > rows {
        let error = Error::new(
            ErrorKind::ModelFormat,
            format!("the tokenizer has {has} tokens, but the model only {rows}; they do not belong together"),
        );
        return Err(error.with_path(folder));
    }
    if has == 0 {
        bail!(Tokenizer, "the tokenizer has no tokens");
    }
    Ok(())
}
