//! The models that the settings name, measured on the folders that they name: the whole of `bge evaluate`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::beir::BeirFolder;
use super::compare::{CompareOptions, Comparison, compare};
use super::heads::{HeadScores, HeadsReport, TunedWeights, measure_heads};
use super::report::{ReportContext, comparison_html_with, evaluation_html_with};
use super::retrieval::{Evaluation, EvaluationOptions, Role, evaluate};
use super::table::{comparison_table, evaluation_table, heads_table};
use crate::config::{EmbedArguments, EvaluateConfig, TextRole};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::{Embedder, M3Embedder, ModeWeights, WeightsSource};
use crate::issue::Issue;
use crate::models::{has_heads, hub};

/// What is heard while models are measured.
#[derive(Clone, Copy, Debug)]
pub enum MeasureEvent<'a> {
    /// Something worth knowing about a model or a folder.
    Note(&'a Issue),
    /// Texts encoded of a model's folder.
    Encoded {
        /// How many so far.
        done: usize,
        /// Of how many.
        total: usize,
    },
}

/// Hears what happens while models are measured.
pub type Listener<'a> = dyn FnMut(MeasureEvent<'_>) + 'a;

/// What `bge evaluate` found: one model, or two side by side, and what the second kept on general data.
#[derive(Clone, Debug)]
pub struct ModelsReport {
    folder: BeirFolder,
    /// The evaluation of the model.
    pub evaluation: Evaluation,
    /// The baseline against the model, where there is a baseline.
    pub comparison: Option<Comparison>,
    /// The same on each folder of `general_dataset`: did fine-tuning cost what it was not asked to change?
    pub general: Vec<Comparison>,
    /// What each head of BGE-M3 and their means reach, where the model's folder has both heads.
    pub heads: Option<HeadsReport>,
    /// The same of the baseline, with the same weights.
    pub heads_before: Option<HeadsReport>,
    /// The weights that were chosen, where that was asked for.
    pub tuned: Option<TunedWeights>,
}

/// A model, opened for what its folder holds.
enum Opened {
    Dense(Box<Embedder>),
    Heads(Box<M3Embedder>),
}

/// Opens the model of `name`, and says where it lies.
fn open(config: &EvaluateConfig, name: &str, listener: &mut Listener<'_>) -> Result<(Opened, PathBuf)> {
    let arguments = EmbedArguments {
        embedder_name_or_path: name.to_owned(),
        ..config.embed.clone()
    };
    let options = hub::HubOptions::new(arguments.cache_dir.as_ref(), arguments.token.as_ref());
    let folder = hub::resolve_model(name, &options)?;
    let opened = match arguments.embedder_model_class.as_deref() {
        Some("encoder-only-base") => Opened::Dense(Box::new(Embedder::from_finetuned(&folder, &arguments)?)),
        _ if has_heads(&folder) => Opened::Heads(Box::new(M3Embedder::from_finetuned(&folder, &arguments)?)),
        _ => Opened::Dense(Box::new(Embedder::from_finetuned(&folder, &arguments)?)),
    };
    let notes = match &opened {
        Opened::Dense(embedder) => embedder.notes(),
        Opened::Heads(embedder) => embedder.notes(),
    };
    for note in notes {
        listener(MeasureEvent::Note(note));
    }
    Ok((opened, folder))
}

/// Opens and measures the models of `config`: the model, its baseline, both again on the general data.
///
/// Nothing is written. Fails where a model or a folder cannot be read or does not fit.
pub fn measure_models(config: &EvaluateConfig, listener: &mut Listener<'_>) -> Result<ModelsReport> {
    let ask = &config.evaluate;
    let options = EvaluationOptions {
        k_values: ask.k_values.clone(),
        search_top_k: ask.search_top_k,
        ignore_identical_ids: ask.ignore_identical_ids,
    };
    let open_folder = |path: &str, split: &str, listener: &mut Listener<'_>| -> Result<BeirFolder> {
        let folder = BeirFolder::open(path, split)?;
        for issue in &folder.issues {
            listener(MeasureEvent::Note(issue));
        }
        Ok(folder)
    };
    let folder = open_folder(&ask.dataset, &ask.split, listener)?;
    let general: Vec<BeirFolder> = ask
        .general_dataset
        .iter()
        .map(|path| open_folder(path, &ask.general_split, listener))
        .collect::<Result<_>>()?;
    let tune_folder = match &ask.tune_weights {
        Some(path) => Some(open_folder(path, &ask.tune_split, listener)?),
        None => None,
    };
    let window = ask.head_window;
    let measure_all = |opened: &Opened, listener: &mut Listener<'_>| -> Result<_> {
        let (mut all, heads) = match opened {
            Opened::Dense(embedder) => (vec![measure(embedder, &folder, &options, listener)?], None),
            Opened::Heads(embedder) => {
                let (evaluation, heads) = measure_heads(embedder, &folder, &options, window, listener)?;
                (vec![evaluation], Some(heads))
            }
        };
        let embedder = match opened {
            Opened::Dense(embedder) => embedder,
            Opened::Heads(embedder) => embedder.embedder(),
        };
        for folder in &general {
            all.push(measure(embedder, folder, &options, listener)?);
        }
        Ok((all, heads))
    };
    let name = &config.embed.embedder_name_or_path;
    let (opened, place) = open(config, name, listener)?;
    let weights = match &opened {
        Opened::Heads(_) => Some(ModeWeights::choose(&ask.weights_for_different_modes, &place)?),
        Opened::Dense(_) => {
            refuse_head_settings(config, &place)?;
            None
        }
    };
    let (after, heads) = measure_all(&opened, listener)?;
    let tuned = match (&opened, &tune_folder) {
        (Opened::Heads(embedder), Some(folder)) => {
            let (_, heads) = measure_heads(embedder, folder, &options, window, listener)?;
            Some(heads.tune(folder))
        }
        _ => None,
    };
    drop(opened);
    let weights = match &tuned {
        Some(tuned) => Some((tuned.weights, WeightsSource::Tuned)),
        None => weights,
    };
    let report = |heads: Option<HeadScores>, evaluation: Option<&Evaluation>| {
        let (heads, evaluation, weights) = (heads?, evaluation?, weights?);
        Some(heads.report(&folder, evaluation, &options.k_values, weights))
    };
    let heads = report(heads, after.first());
    let (mut comparisons, mut heads_before) = (Vec::new(), None);
    if let Some(baseline) = &ask.baseline {
        let (opened, _) = open(config, baseline, listener)?;
        let (before, scores) = measure_all(&opened, listener)?;
        heads_before = report(scores, before.first());
        let options = CompareOptions {
            seed: ask.seed,
            before: baseline.clone(),
            after: name.clone(),
            ..CompareOptions::default()
        };
        for ((folder, before), after) in std::iter::once(&folder).chain(&general).zip(&before).zip(&after) {
            comparisons.push(compare(folder, before, after, &options)?);
        }
    }
    if let Some(tuned) = &tuned {
        let failed = |error: serde_json::Error| {
            Error::new(ErrorKind::Internal, "weights cannot be written as JSON").with_source(error)
        };
        let mut tuned_on = serde_json::to_value(tuned).map_err(failed)?;
        if let Some(object) = tuned_on.as_object_mut() {
            object.remove("weights");
        }
        tuned.weights.write(&place, tuned_on)?;
    }
    let mut comparisons = comparisons.into_iter();
    let comparison = comparisons.next();
    let evaluation = after.into_iter().next().ok_or_else(nothing_measured)?;
    Ok(ModelsReport {
        folder,
        evaluation,
        comparison,
        general: comparisons.collect(),
        heads,
        heads_before,
        tuned,
    })
}

/// Refuses settings that only a model with heads has a use for.
fn refuse_head_settings(config: &EvaluateConfig, folder: &Path) -> Result<()> {
    let ask = &config.evaluate;
    for (field, set) in [
        ("tune_weights", ask.tune_weights.is_some()),
        (
            "weights_for_different_modes",
            !ask.weights_for_different_modes.is_empty(),
        ),
    ] {
        if set {
            let message = "only BGE-M3 has several scores, and this model is opened as an embedder of one vector a text: its \
                           folder needs sparse_linear and colbert_linear (.pt or .safetensors), and its class must not be \
                           encoder-only-base; or leave the flag out";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_path(folder)
                .with_field(field));
        }
    }
    Ok(())
}

fn nothing_measured() -> Error {
    Error::new(ErrorKind::Internal, "no folder was measured")
}

/// Encodes and scores a folder with a model.
pub fn measure(
    embedder: &Embedder,
    folder: &BeirFolder,
    options: &EvaluationOptions,
    listener: &mut Listener<'_>,
) -> Result<Evaluation> {
    evaluate(folder, options, |role, texts| {
        let role = match role {
            Role::Query => TextRole::Query,
            Role::Passage => TextRole::Passage,
        };
        let tokens = embedder.tokenize(role, texts)?;
        let total = texts.len();
        embedder.encode_tokens(&tokens, |done| listener(MeasureEvent::Encoded { done, total }))
    })
}

impl ModelsReport {
    /// The tables for a terminal; those of general data follow under a line of their own.
    pub fn table(&self) -> String {
        let heads = self.heads.as_ref().map_or_else(String::new, |heads| {
            let shown = heads_table(heads, self.heads_before.as_ref(), self.tuned.as_ref());
            format!("\n{shown}")
        });
        let Some(comparison) = &self.comparison else {
            return evaluation_table(&self.evaluation.report) + &heads;
        };
        let mut text = comparison_table(comparison) + &heads;
        for general in &self.general {
            text.push_str("\ngeneral data: ");
            text.push_str(&comparison_table(general));
        }
        text
    }

    /// The result as one JSON object: the comparison (with `general`, where it was asked for) or the evaluation; of BGE-M3
    /// also `heads`, `heads_before` and `tuned`.
    pub fn json(&self) -> Result<Value> {
        let failed = |error: serde_json::Error| {
            Error::new(ErrorKind::Internal, "a result cannot be written as JSON").with_source(error)
        };
        let mut value = match &self.comparison {
            Some(comparison) => serde_json::to_value(comparison).map_err(failed)?,
            None => serde_json::to_value(&self.evaluation.report).map_err(failed)?,
        };
        if let Some(object) = value.as_object_mut() {
            if !self.general.is_empty() {
                object.insert("general".to_owned(), json!(self.general));
            }
            for (key, heads) in [("heads", &self.heads), ("heads_before", &self.heads_before)] {
                if let Some(heads) = heads {
                    object.insert(key.to_owned(), json!(heads));
                }
            }
            if let Some(tuned) = &self.tuned {
                object.insert("tuned".to_owned(), json!(tuned));
            }
        }
        Ok(value)
    }

    /// The result as one self-contained HTML page.
    pub fn html(&self, context: &ReportContext) -> String {
        let heads = self
            .heads
            .as_ref()
            .map(|heads| (heads, self.heads_before.as_ref()));
        match &self.comparison {
            Some(comparison) => comparison_html_with(comparison, &self.general, heads, context),
            None => evaluation_html_with(&self.folder, &self.evaluation, heads, context),
        }
    }
}
