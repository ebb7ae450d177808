//! Whoever says how well a passage answers a query: a cross-encoder, or an embedder.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::config::{EmbedArguments, RerankArguments, TextRole};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::{Embedder, M3Embedder, ModeWeights, Reranker, Vectors};
use crate::issue::{Issue, Severity};
use crate::models::ModelFolder;

/// A model that scores pairs of query and passage. A pair's score must not depend on the pairs around it.
pub trait Teacher {
    /// The scores of (query, passage) pairs in their order; `progress` hears how many are done.
    fn scores(&self, pairs: &[(&str, &str)], progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>>;
}

impl Teacher for Reranker {
    /// Logits, or their sigmoid if the reranker was opened with `normalize`.
    fn scores(&self, pairs: &[(&str, &str)], progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        self.score_tokens(&self.tokenize(pairs)?, progress)
    }
}

impl Teacher for Embedder {
    /// Inner products of the vectors of query and passage; each text is encoded once.
    fn scores(&self, pairs: &[(&str, &str)], progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        let queries = Encoded::new(self, TextRole::Query, pairs.iter().map(|pair| pair.0))?;
        progress(pairs.len() / 10);
        let passages = Encoded::new(self, TextRole::Passage, pairs.iter().map(|pair| pair.1))?;
        progress(pairs.len());
        let score = |(query, passage): &(&str, &str)| {
            let products = queries.row(query).iter().zip(passages.row(passage));
            products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
        };
        Ok(pairs.iter().map(score).collect())
    }
}

/// BGE-M3 scoring with all three heads.
struct AllHeads {
    embedder: M3Embedder,
    weights: ModeWeights,
}

/// Pairs scored at once: a passage of 512 tokens has 2 MB of token vectors.
const PAIRS_OF_HEADS: usize = 64;

impl Teacher for AllHeads {
    /// The weighted mean of the scores of the heads (`colbert+sparse+dense`).
    fn scores(&self, pairs: &[(&str, &str)], progress: &mut dyn FnMut(usize)) -> Result<Vec<f32>> {
        let mut scores = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(PAIRS_OF_HEADS) {
            let found = self.embedder.compute_score(pairs)?;
            scores.extend(found.iter().map(|pair| pair.colbert_sparse_dense(self.weights)));
            progress(scores.len());
        }
        Ok(scores)
    }
}

/// The vectors of distinct texts.
struct Encoded<'a> {
    index: BTreeMap<&'a str, usize>,
    vectors: Vectors,
}

impl<'a> Encoded<'a> {
    fn new(embedder: &Embedder, role: TextRole, all: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut index = BTreeMap::new();
        let mut texts = Vec::new();
        for text in all {
            index.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() - 1
            });
        }
        let vectors = embedder.encode_role(role, &texts)?;
        Ok(Self { index, vectors })
    }

    fn row(&self, text: &str) -> &[f32] {
        self.index.get(text).map_or(&[], |&row| self.vectors.row(row))
    }
}

/// An opened teacher with what was assumed about it.
pub struct OpenedTeacher {
    /// The model.
    pub teacher: Box<dyn Teacher>,
    /// `encoder-only-base`, `encoder-only-m3` or `embedder`.
    pub class: &'static str,
    /// What was assumed where neither settings nor folder said it.
    pub notes: Vec<Issue>,
}

impl std::fmt::Debug for OpenedTeacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedTeacher")
            .field("class", &self.class)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// Opens a model folder as a teacher: what `reranker_model_class` says, or what the folder's files tell.
///
/// Without a class, a folder that names a pooling and no classification head is an embedder, and anything else has to
/// be a cross-encoder. An embedder's vectors have length 1, so its scores lie between -1 and 1; it takes the
/// instructions of the settings, and `reranker_max_length` tokens of a passage (and of a query, unless
/// `reranker_query_max_length` is set).
pub fn open_teacher(folder: impl AsRef<Path>, arguments: &RerankArguments) -> Result<OpenedTeacher> {
    let folder = folder.as_ref();
    let (class, mut notes) = match arguments.reranker_model_class.as_deref() {
        _ if arguments.m3 => (M3, Vec::new()),
        Some(M3) => (M3, Vec::new()),
        Some(EMBEDDER) => (EMBEDDER, Vec::new()),
        Some(_) => (CROSS_ENCODER, Vec::new()),
        None => tell(folder)?,
    };
    if class == CROSS_ENCODER {
        let reranker = Reranker::from_finetuned(folder, arguments).map_err(|error| {
            if error.kind() == ErrorKind::ModelFormat && arguments.reranker_model_class.is_none() {
                return say_embedder(error);
            }
            error
        })?;
        notes.extend_from_slice(reranker.notes());
        return Ok(OpenedTeacher {
            teacher: Box::new(reranker),
            class,
            notes,
        });
    }
    if class == M3 {
        let embedder = M3Embedder::from_finetuned(folder, &embed_arguments(arguments))?;
        notes.extend_from_slice(embedder.notes());
        let (weights, _) = ModeWeights::choose(&arguments.weights_for_different_modes, folder)?;
        return Ok(OpenedTeacher {
            teacher: Box::new(AllHeads { embedder, weights }),
            class,
            notes,
        });
    }
    let embedder = Embedder::from_finetuned(folder, &embed_arguments(arguments))?;
    notes.extend_from_slice(embedder.notes());
    if arguments.normalize {
        let message = "an embedder's scores are inner products of vectors of length 1; `normalize` changes nothing about them";
        notes.push(Issue::new("config.no_effect", Severity::Warning, message).on_field("normalize"));
    }
    Ok(OpenedTeacher {
        teacher: Box::new(embedder),
        class,
        notes,
    })
}

const CROSS_ENCODER: &str = "encoder-only-base";
const EMBEDDER: &str = "embedder";
const M3: &str = "encoder-only-m3";

/// What a folder is, by its files.
fn tell(folder: &Path) -> Result<(&'static str, Vec<Issue>)> {
    crate::inference::refuse_decoder(folder)?;
    let opened = ModelFolder::open_to_run(folder)?;
    let class = opened.config.raw.get("architectures").map(|list| list[0].clone());
    let has_head = class
        .as_ref()
        .and_then(Value::as_str)
        .is_some_and(|class| class.ends_with("ForSequenceClassification"));
    if has_head || opened.pooling.is_none() {
        return Ok((CROSS_ENCODER, Vec::new()));
    }
    let message =
        "the folder is an embedder's: scores are inner products of its vectors (set reranker_model_class)";
    Ok((
        EMBEDDER,
        vec![Issue::new("model.assumed", Severity::Info, message)],
    ))
}

/// Adds the other way out to the error about a missing head.
fn say_embedder(error: Error) -> Error {
    if !error.message().contains("classification head") {
        return error;
    }
    let message = format!(
        "{}, or score with an embedder by `--reranker_model_class embedder`",
        error.message()
    );
    let mut named = Error::new(error.kind(), message);
    if let Some(path) = error.path() {
        named = named.with_path(path);
    }
    named
}

fn embed_arguments(arguments: &RerankArguments) -> EmbedArguments {
    let length = arguments.reranker_max_length;
    EmbedArguments {
        embedder_name_or_path: arguments.reranker_name_or_path.clone(),
        pooling_method: arguments.pooling_method,
        normalize_embeddings: true,
        query_instruction_for_retrieval: arguments.query_instruction_for_rerank.clone(),
        query_instruction_format_for_retrieval: Some(arguments.query_instruction_format_for_rerank.clone()),
        passage_instruction_for_retrieval: arguments.passage_instruction_for_rerank.clone(),
        passage_instruction_format: Some(arguments.passage_instruction_format_for_rerank.clone()),
        embedder_query_max_length: arguments.reranker_query_max_length.unwrap_or(length),
        embedder_passage_max_length: length,
        batch_size: arguments.reranker_batch_size,
        ..EmbedArguments::default()
    }
}

/// Everything about settings and class that decides a score, as text for a content key; the folder may name weights.
pub(super) fn settings_key(arguments: &RerankArguments, class: &str, folder: &Path) -> Result<String> {
    let weights = match class {
        M3 => Some(ModeWeights::choose(&arguments.weights_for_different_modes, folder)?.0),
        _ => None,
    };
    let RerankArguments {
        pooling_method,
        query_instruction_for_rerank,
        query_instruction_format_for_rerank,
        passage_instruction_for_rerank,
        passage_instruction_format_for_rerank,
        reranker_query_max_length,
        reranker_max_length,
        normalize,
        ..
    } = arguments;
    let key = serde_json::json!([
        class,
        pooling_method,
        query_instruction_for_rerank,
        query_instruction_format_for_rerank,
        passage_instruction_for_rerank,
        passage_instruction_format_for_rerank,
        reranker_query_max_length,
        reranker_max_length,
        normalize,
        weights,
    ]);
    Ok(key.to_string())
}
