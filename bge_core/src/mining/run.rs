//! A whole mining run: what it opens, in which order, and what its results are the results of.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::corpus::Corpus;
use super::encode::{Encoder, Texts};
use super::event::{MineEvent, Reporter};
use super::heads::Finder;
use super::index;
use super::ledger::push;
use super::miner::Miner;
use super::places::check_places;
use super::report::MineReport;
use super::select::Rules;
use super::work::{Parts, Work};
use crate::config::{Arguments, Checked, MineConfig, RerankArguments};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files::{self, Digest};
use crate::inference::{Embedder, M3Embedder, ModeWeights, Reranker};
use crate::issue::{Issue, Severity};
use crate::models::{fingerprint, hub};
use crate::search::Rows;

/// Rows that are searched at once, at least.
const SEARCHED: usize = 2048;
/// The same where a GPU searches, which is given the corpus anew each time.
const SEARCHED_ON_GPU: usize = 1 << 14;
/// Hits in memory at once, at most, unless a single row has more.
const HITS: usize = 1 << 22;

/// Mines hard negatives: reads `input_file`, writes `output_file`, the ledger and the suspected false negatives.
///
/// What is written depends on nothing but the settings, the model and the texts: not on threads, batch sizes, or how often
/// the run was interrupted. `heard` may stop the run by [`ControlFlow::Break`]; the same call then goes on where it was.
///
/// Errors: bad rows and texts with file and line, a place that cannot be written, a model that cannot be opened,
/// `Cancelled` when told to stop.
pub fn mine(
    config: &Checked<MineConfig>,
    heard: &mut dyn FnMut(MineEvent<'_>) -> ControlFlow<()>,
) -> Result<MineReport> {
    let mut report = Reporter(heard);
    check_places(&config.mine)?;
    let output = Path::new(&config.mine.output_file);
    let mut work = Work::open(output)?;
    let mine = &config.mine;
    for path in std::iter::once(&mine.output_file)
        .chain(&mine.ledger)
        .chain(&mine.false_negatives)
    {
        files::remove_leftovers(Path::new(path))?;
    }
    let outcome = run(config, &mut work, &mut report);
    match &outcome {
        Ok(_) => work.leave(),
        // These will not go away by trying again, so there is nothing to keep for it.
        Err(error) if matches!(error.kind(), ErrorKind::NotFinite | ErrorKind::InvalidData) => {}
        Err(_) if work.has_vectors() => work.stay(),
        Err(_) => {}
    }
    outcome
}

fn run(config: &Checked<MineConfig>, work: &mut Work, report: &mut Reporter<'_>) -> Result<MineReport> {
    let mine = &config.mine;
    let bad = |reason: String| Error::new(ErrorKind::InvalidConfig, reason).with_field("range_for_sampling");
    let rules = Rules::new(mine).map_err(bad)?;
    let spec = index::spec(mine, &config.embed.devices);
    spec.check()?;
    let corpus = Corpus::open(mine, work.path())?;
    let hub = hub::HubOptions::new(config.embed.cache_dir.as_ref(), config.embed.token.as_ref());
    let folder = hub::resolve_model(&config.embed.embedder_name_or_path, &hub)?;
    let (with_heads, weights) = if mine.uses_heads() {
        let (weights, _) = ModeWeights::choose(&mine.weights_for_different_modes, &folder)?;
        (
            Some(M3Embedder::from_finetuned(&folder, &config.embed)?),
            Some(weights),
        )
    } else {
        (None, None)
    };
    let embedder = match &with_heads {
        Some(heads) => heads.embedder().clone(),
        None => Embedder::from_finetuned(&folder, &config.embed)?,
    };
    for note in embedder.notes() {
        report.note(note)?;
    }
    let model = fingerprint(&folder)?;
    let (reranker, reranker_hash) = match &mine.reranker_name_or_path {
        Some(name) => {
            let folder = hub::resolve_model(name, &hub)?;
            let reranker = open_reranker(&folder, config)?;
            for note in reranker.notes() {
                report.note(note)?;
            }
            (Some(reranker), Some(fingerprint(&folder)?))
        }
        None => (None, None),
    };
    if corpus.candidates() < rules.start + rules.number {
        let message = format!(
            "the corpus has {} texts, and the range begins at rank {}: rows get at most {} negatives from it",
            corpus.candidates(),
            rules.start,
            corpus.candidates().saturating_sub(rules.start)
        );
        report.note(&Issue::new("mining.small_corpus", Severity::Warning, message))?;
    }
    if corpus.pool_lacks_positives() {
        let message = "no positive of the input is in the candidate pool, so passages that answer a query may become its \
                       negatives; is the pool the corpus that the rows were made from?";
        report.note(&Issue::new("mining.strange_pool", Severity::Warning, message))?;
    }

    let finder = match (&with_heads, weights) {
        (Some(heads), Some(weights)) => Some(Finder::open(heads, &corpus, mine, weights, report)?),
        _ => None,
    };
    let encoder = Encoder {
        embedder: &embedder,
        arguments: &config.embed,
        dtype: mine.embedding_dtype,
        model: &model,
        folder: mine
            .corpus_embd_save_dir
            .as_ref()
            .map_or_else(|| work.path().to_path_buf(), Into::into),
        corpus: &corpus,
    };
    // What is compared with the embedder's scores of positives; a cross-encoder scores them from their texts.
    let compares = mine.has_margin() || mine.ledger.is_some() || mine.false_negatives.is_some();
    let by_vectors = compares && reranker.is_none();
    let Some((stored, mut reused)) = encoder.vectors(Texts::Candidates, report)? else {
        let message = "there is no text that negatives could come from; all texts are blank";
        return Err(Error::new(ErrorKind::InvalidData, message).with_path(corpus.input_path()));
    };
    let outside = if by_vectors {
        encoder.vectors(Texts::Positives, report)?
    } else {
        None
    };
    let Some((queries, reused_queries)) = encoder.vectors(Texts::Queries, report)? else {
        bail!(Internal, "a corpus without queries was opened");
    };
    reused += reused_queries + outside.as_ref().map_or(0, |(_, there)| *there);

    let key = run_key(config, &corpus, &model, reranker_hash.as_deref(), weights);
    let names = [
        Some("output"),
        mine.ledger.as_ref().map(|_| "ledger"),
        mine.false_negatives.as_ref().map(|_| "suspects"),
    ];
    let first = MineReport {
        rows: corpus.rows(),
        queries: corpus.queries(),
        corpus: corpus.candidates(),
        repeated_texts: corpus.repeated,
        blank_texts: corpus.blank,
        ..MineReport::default()
    };
    let mut parts = Parts::open(work, &key, names, first)?;
    let miner = Miner {
        corpus: &corpus,
        rules,
        stored: &stored,
        outside: outside.as_ref().map(|(store, _)| store),
        queries: &queries,
        reranker: reranker.as_ref(),
        finder: finder.as_ref(),
        compares,
        suspects: mine.false_negatives.is_some(),
        ledger: mine.ledger.is_some(),
    };
    if parts.progress.rows == 0 {
        let mut head = Vec::new();
        let mut line = header(config, &corpus, &model, reranker_hash.as_deref());
        if let Some(weights) = weights {
            line.insert("mode_weights".to_owned(), json!(weights));
        }
        push(&mut head, line);
        parts.append(LEDGER, &head)?;
    }
    let mut index = index::open(Rows::Stored(&stored), &spec, mine, &stored.layout().key)?;
    let least = if spec.use_gpu { SEARCHED_ON_GPU } else { SEARCHED };
    miner.all(
        &mut *index,
        mine.search_batch_size.max(least).min((HITS / rules.end).max(1)),
        &mut parts,
        report,
    )?;

    for (part, place) in [(LEDGER, &mine.ledger), (SUSPECTS, &mine.false_negatives)] {
        if let Some(place) = place {
            parts.publish(part, Path::new(place))?;
        }
    }
    parts.publish(OUTPUT, Path::new(&mine.output_file))?;
    Ok(MineReport {
        reused_vectors: reused,
        ..parts.progress.report
    })
}

const OUTPUT: usize = 0;
const LEDGER: usize = 1;
const SUSPECTS: usize = 2;

/// The cross-encoder with the settings of a run. Scores go from 0 to 1, as in sentence-transformers.
fn open_reranker(folder: &Path, config: &MineConfig) -> Result<Reranker> {
    let arguments = RerankArguments {
        reranker_batch_size: config.mine.reranker_batch_size,
        reranker_max_length: config.mine.reranker_max_length,
        reranker_query_max_length: config.mine.reranker_query_max_length,
        normalize: true,
        ..RerankArguments::default()
    };
    Reranker::from_finetuned(folder, &arguments)
}

/// Settings that decide nothing that is written, or that are in the key by their content.
const ELSEWHERE: [&str; 21] = [
    "embedder_name_or_path",
    "cache_dir",
    "token",
    "batch_size",
    "devices",
    "threads",
    "use_fp16",
    "use_bf16",
    "trust_remote_code",
    "input_file",
    "output_file",
    "candidate_pool",
    "ledger",
    "false_negatives",
    "reranker_name_or_path",
    "reranker_batch_size",
    "use_gpu_for_searching",
    "search_batch_size",
    "index_file",
    "corpus_embd_save_dir",
    "embedder_model_class",
];

/// Settings of several heads, which decide nothing where dense search works alone.
const OF_HEADS: [&str; 5] = [
    "retrieval_mode",
    "colbert_rescoring",
    "fusion",
    "weights_for_different_modes",
    "rrf_k",
];

/// The settings that decide what is written.
fn deciding_settings(config: &MineConfig) -> Map<String, Value> {
    let mut settings = config.to_json();
    settings.retain(|name, value| !ELSEWHERE.contains(&name.as_str()) && !value.is_null());
    if !config.mine.uses_heads() {
        settings.retain(|name, _| !OF_HEADS.contains(&name.as_str()));
    }
    settings
}

/// A hash of everything that decides the bytes that are written.
fn run_key(
    config: &MineConfig,
    corpus: &Corpus,
    model: &str,
    reranker: Option<&str>,
    weights: Option<ModeWeights>,
) -> String {
    let weights = weights.map_or_else(String::new, |weights| json!(weights).to_string());
    let hashes = corpus.hashes();
    let mine = &config.mine;
    let asked = format!("{} {}", mine.ledger.is_some(), mine.false_negatives.is_some());
    let settings = Value::Object(deciding_settings(config)).to_string();
    let mut digest = Digest::default();
    for part in [
        env!("CARGO_PKG_VERSION"),
        model,
        reranker.unwrap_or_default(),
        &hashes.candidates,
        &hashes.rows,
        &asked,
        &settings,
        &weights,
    ] {
        digest.add(part.as_bytes());
    }
    digest.finish()
}

/// The first line of the ledger.
fn header(config: &MineConfig, corpus: &Corpus, model: &str, reranker: Option<&str>) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("bge".to_owned(), env!("CARGO_PKG_VERSION").into());
    line.insert(
        "embedder".to_owned(),
        config.embed.embedder_name_or_path.as_str().into(),
    );
    line.insert("embedder_hash".to_owned(), model.into());
    line.insert("reranker".to_owned(), json!(config.mine.reranker_name_or_path));
    line.insert("reranker_hash".to_owned(), json!(reranker));
    line.insert("rows".to_owned(), corpus.rows().into());
    line.insert("corpus_texts".to_owned(), corpus.candidates().into());
    line.insert(
        "corpus_hash".to_owned(),
        corpus.hashes().candidates.as_str().into(),
    );
    line.insert("seed".to_owned(), config.mine.seed.into());
    line.insert("settings".to_owned(), Value::Object(deciding_settings(config)));
    line
}
