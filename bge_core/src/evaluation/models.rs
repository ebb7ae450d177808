//! The models that the settings name, measured on the folders that they name: the whole of `bge evaluate`.

use serde_json::{Value, json};

use super::beir::BeirFolder;
use super::compare::{CompareOptions, Comparison, compare};
use super::report::{ReportContext, comparison_html_with, evaluation_html};
use super::retrieval::{Evaluation, EvaluationOptions, Role, evaluate};
use super::table::{comparison_table, evaluation_table};
use crate::config::{EmbedArguments, EvaluateConfig, TextRole};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::Embedder;
use crate::issue::Issue;

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
    let measure_all = |name: &str, listener: &mut Listener<'_>| -> Result<Vec<Evaluation>> {
        let arguments = EmbedArguments {
            embedder_name_or_path: name.to_owned(),
            ..config.embed.clone()
        };
        let embedder = Embedder::open(&arguments)?;
        for note in embedder.notes() {
            listener(MeasureEvent::Note(note));
        }
        std::iter::once(&folder)
            .chain(&general)
            .map(|folder| measure(&embedder, folder, &options, listener))
            .collect()
    };
    let name = &config.embed.embedder_name_or_path;
    let after = measure_all(name, listener)?;
    let mut comparisons = Vec::new();
    if let Some(baseline) = &ask.baseline {
        let before = measure_all(baseline, listener)?;
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
    let mut comparisons = comparisons.into_iter();
    let comparison = comparisons.next();
    let evaluation = after.into_iter().next().ok_or_else(nothing_measured)?;
    Ok(ModelsReport {
        folder,
        evaluation,
        comparison,
        general: comparisons.collect(),
    })
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
        let Some(comparison) = &self.comparison else {
            return evaluation_table(&self.evaluation.report);
        };
        let mut text = comparison_table(comparison);
        for general in &self.general {
            text.push_str("\ngeneral data: ");
            text.push_str(&comparison_table(general));
        }
        text
    }

    /// The result as one JSON object: the comparison (with `general`, where it was asked for) or the evaluation.
    pub fn json(&self) -> Result<Value> {
        let failed = |error: serde_json::Error| {
            Error::new(ErrorKind::Internal, "a result cannot be written as JSON").with_source(error)
        };
        let Some(comparison) = &self.comparison else {
            return serde_json::to_value(&self.evaluation.report).map_err(failed);
        };
        let mut value = serde_json::to_value(comparison).map_err(failed)?;
        if let (Some(object), false) = (value.as_object_mut(), self.general.is_empty()) {
            object.insert("general".to_owned(), json!(self.general));
        }
        Ok(value)
    }

    /// The result as one self-contained HTML page.
    pub fn html(&self, context: &ReportContext) -> String {
        match &self.comparison {
            Some(comparison) => comparison_html_with(comparison, &self.general, context),
            None => evaluation_html(&self.folder, &self.evaluation, context),
        }
    }
}
