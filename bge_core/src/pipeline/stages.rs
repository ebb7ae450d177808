//! The stages: what each reads and writes, the command that does the same, and running it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::manifest::{Manifest, to_value};
use super::{Audience, PipelineEvent, report};
use crate::config::{
    Arguments, EvaluateConfig, FieldDoc, FinetuneConfig, MergeConfig, MineConfig, Module, PipelineConfig,
    ScoreConfig, config_error, quote, to_flags,
};
use crate::data::preflight::validate_files;
use crate::data::session::{TokenCounter, ValidationOptions};
use crate::distillation::{ScoreEvent, score_file};
use crate::error::{Error, ErrorKind, Result};
use crate::evaluation::{MeasureEvent, measure_models, merge_models};
use crate::files;
use crate::issue::Issue;
use crate::mining::{MineEvent, mine};
use crate::models::{hub, write_json};
use crate::tokenize::Tokenizer;
use crate::train::{Stopper, Trainer};

/// A stage that is ready to run.
pub(super) struct Plan {
    /// Its record so far: settings and inputs.
    pub(super) manifest: Manifest,
    /// The command that does the same.
    pub(super) command: String,
}

/// Reads what a stage depends on.
pub(super) fn plan(config: &PipelineConfig, stage: &'static str, done: &[Manifest]) -> Result<Plan> {
    match stage {
        "validate" => of(stage, "validate", config.validate.as_ref(), |config| {
            let mut inputs = config.data.train_data.clone();
            inputs.extend(config.data.eval_dataset.clone());
            inputs.push(tokenizer_of(config));
            inputs
        }),
        "mine" => of(stage, "mine", config.mine.as_ref(), |config| {
            let mut inputs = vec![
                config.mine.input_file.clone(),
                config.embed.embedder_name_or_path.clone(),
            ];
            inputs.extend(config.mine.candidate_pool.clone());
            inputs.extend(config.mine.reranker_name_or_path.clone());
            inputs
        }),
        "score" => of(stage, "score", config.score.as_ref(), |config| {
            vec![
                config.files.input_file.clone(),
                config.rerank.reranker_name_or_path.clone(),
            ]
        }),
        "finetune_reranker" => {
            let command = "finetune reranker.encoder_only.base";
            of(stage, command, config.finetune_reranker.as_ref(), training_inputs)
        }
        "finetune" => of(
            stage,
            "finetune encoder_only.base",
            config.finetune.as_ref(),
            training_inputs,
        ),
        "merge" => of(stage, "merge", config.merge.as_ref(), |config| {
            let mut inputs = config.merge.model_names_or_paths.clone();
            inputs.extend(config.merge.dataset.clone());
            inputs.extend(config.merge.general_dataset.iter().cloned());
            inputs
        }),
        _ => {
            let mut plan = of(stage, "evaluate", config.evaluate.as_ref(), |config| {
                let mut inputs = vec![
                    config.embed.embedder_name_or_path.clone(),
                    config.evaluate.dataset.clone(),
                ];
                inputs.extend(config.evaluate.baseline.clone());
                inputs.extend(config.evaluate.tune_weights.clone());
                inputs.extend(config.evaluate.general_dataset.iter().cloned());
                inputs
            })?;
            // The report tells of all stages, so it depends on what they found.
            let found = done.iter().map(|manifest| (&manifest.stage, &manifest.result));
            let text = to_value(&found.collect::<Vec<_>>())?.to_string();
            let inputs = &mut plan.manifest.inputs;
            inputs.insert("earlier stages".to_owned(), files::hash_bytes(text.as_bytes()));
            Ok(plan)
        }
    }
}

fn training_inputs(config: &FinetuneConfig) -> Vec<String> {
    let mut inputs = config.data.train_data.clone();
    inputs.push(config.model.model_name_or_path.clone());
    inputs.extend(config.data.eval_dataset.clone());
    inputs
}

/// The module that a stage trains.
fn module_of(stage: &str) -> Module {
    match stage {
        "finetune_reranker" => Module::RerankerEncoderOnlyBase,
        _ => Module::EncoderOnlyBase,
    }
}

fn of<A: Arguments>(
    stage: &str,
    command: &str,
    config: Option<&A>,
    inputs: impl Fn(&A) -> Vec<String>,
) -> Result<Plan> {
    let Some(config) = config else {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("{stage} has no settings"),
        ));
    };
    let fields: Vec<&'static str> = A::fields().iter().map(|field: &FieldDoc| field.name).collect();
    let flags = to_flags(config, module_of(stage));
    let words = flags
        .iter()
        .filter(|words| words.first().is_none_or(|name| !name.starts_with("--token")))
        .flatten()
        .map(|word| quote(word));
    let words: Vec<String> = words.collect();
    Ok(Plan {
        manifest: Manifest::begin(stage, config, &fields, &inputs(config))?,
        command: format!("{command} {}", words.join(" ")),
    })
}

/// Runs a stage and writes its record.
pub(super) fn execute(
    config: &PipelineConfig,
    plan: Plan,
    done: &[Manifest],
    place: &Path,
    audience: &mut Audience<'_>,
) -> Result<Manifest> {
    let manifest = plan.manifest;
    let missing = || Error::new(ErrorKind::Internal, "a stage has no settings");
    let (outputs, result) = match manifest.stage.as_str() {
        "validate" => {
            let output = PathBuf::from(&config.shared.output_dir).join("validation.json");
            validate(config.validate.clone().ok_or_else(missing)?, &output, audience)?
        }
        "mine" => run_mine(config.mine.clone().ok_or_else(missing)?, audience)?,
        "score" => run_score(config.score.clone().ok_or_else(missing)?, audience)?,
        "finetune_reranker" => {
            let config = config.finetune_reranker.clone().ok_or_else(missing)?;
            finetune(config, &manifest, place, audience)?
        }
        "finetune" => finetune(
            config.finetune.clone().ok_or_else(missing)?,
            &manifest,
            place,
            audience,
        )?,
        "merge" => merge(config.merge.clone().ok_or_else(missing)?, audience)?,
        _ => evaluate(
            config,
            config.evaluate.clone().ok_or_else(missing)?,
            done,
            audience,
        )?,
    };
    let manifest = manifest.finish(&outputs, result)?;
    manifest.write(place)?;
    Ok(manifest)
}

/// What a stage wrote, and what it found.
type Made = (Vec<String>, Value);

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err passes")]
fn refused(issues: Vec<Issue>) -> Error {
    config_error(&issues)
}

fn tokenizer_of(config: &FinetuneConfig) -> String {
    let model = &config.model;
    model
        .tokenizer_name
        .as_ref()
        .unwrap_or(&model.model_name_or_path)
        .clone()
}

fn validate(config: FinetuneConfig, output: &Path, audience: &mut Audience<'_>) -> Result<Made> {
    let folder = hub::resolve_model(
        &tokenizer_of(&config),
        &hub::HubOptions::new(config.model.cache_dir.as_ref(), config.model.token.as_ref()),
    )?;
    let tokenizer = Tokenizer::open(folder)?;
    let count = |text: &str| tokenizer.count(text).unwrap_or(0);
    let options = ValidationOptions {
        data: config.data,
        training: config.training,
        ..ValidationOptions::default()
    };
    let listener = &mut audience.listener;
    let report = validate_files(options, Some(&count as TokenCounter<'_>), |at| {
        listener(PipelineEvent::Progress {
            done: at.progress.bytes as usize,
            total: at.total_bytes as usize,
        });
        true
    })?;
    let mut first = None;
    for group in &report.issues {
        if let Some(issue) = group.summary() {
            listener(PipelineEvent::Note(&issue));
            if group.severity == crate::issue::Severity::Error {
                first.get_or_insert(issue);
            }
        }
    }
    write_json(output, &report)?;
    if report.has_errors() {
        let shown = first.map_or_else(String::new, |issue| format!(", the first: {issue}"));
        let message = format!(
            "the training data has errors{shown}; all of them are in {}",
            output.display()
        );
        return Err(Error::new(ErrorKind::InvalidData, message));
    }
    let headline = report.to_string();
    let headline = headline.lines().next().unwrap_or_default().to_owned();
    Ok((
        vec![output.display().to_string()],
        json!({ "headline": headline }),
    ))
}

fn run_mine(config: MineConfig, audience: &mut Audience<'_>) -> Result<Made> {
    let config = config.check().map_err(refused)?;
    let stopper = audience.stopper.clone();
    let listener = &mut audience.listener;
    let found = mine(&config, &mut |event| {
        match event {
            MineEvent::Note(issue) => listener(PipelineEvent::Note(issue)),
            MineEvent::Progress { done, total, .. } => listener(PipelineEvent::Progress { done, total }),
        }
        flow(&stopper)
    })?;
    let ask = &config.mine;
    let outputs = std::iter::once(&ask.output_file)
        .chain(&ask.ledger)
        .chain(&ask.false_negatives);
    let result = json!({
        "summary": format!("{} rows, {} negatives from {} texts, {} rows short", found.rows, found.negatives, found.corpus, found.short_rows),
        "rows": found.rows,
        "negatives": found.negatives,
        "filled": found.filled,
        "short_rows": found.short_rows,
        "suspected": found.suspected,
        "dropped": to_value(&found.dropped)?,
    });
    Ok((outputs.cloned().collect(), result))
}

fn run_score(config: ScoreConfig, audience: &mut Audience<'_>) -> Result<Made> {
    let config = config.check().map_err(refused)?;
    let stopper = audience.stopper.clone();
    let listener = &mut audience.listener;
    let found = score_file(&config, |event| {
        match event {
            ScoreEvent::Note(issue) => listener(PipelineEvent::Note(issue)),
            ScoreEvent::Begin { .. } => {}
            ScoreEvent::Scored { done, pairs } => listener(PipelineEvent::Progress {
                done: done as usize,
                total: pairs as usize,
            }),
        }
        flow(&stopper)
    })?;
    let result = json!({
        "summary": format!("{} rows, {} pairs by {}", found.rows, found.pairs, found.teacher),
        "rows": found.rows,
        "pairs": found.pairs,
    });
    Ok((vec![config.files.output_file.clone()], result))
}

fn flow(stopper: &Stopper) -> ControlFlow<()> {
    if stopper.stopped() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// Trains; a run that was interrupted goes on at its last checkpoint if it began the same way.
fn finetune(
    mut config: FinetuneConfig,
    manifest: &Manifest,
    place: &Path,
    audience: &mut Audience<'_>,
) -> Result<Made> {
    let output = config.training.output_dir.clone();
    let folder = Path::new(&output);
    let begun = place.with_file_name(format!("{}.begun.json", manifest.stage));
    let same = Manifest::read(&begun).is_some_and(|earlier| manifest.begins_as(&earlier));
    let ours = place.exists() || begun.exists();
    if folder.exists() && !ours && !config.training.overwrite_output_dir {
        let message =
            "this folder exists, and no pipeline made it; name another one, or set overwrite_output_dir";
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_path(folder)
            .with_field("output_dir"));
    }
    config.training.overwrite_output_dir = true;
    if same && crate::train::has_checkpoint(folder) {
        config.training.resume_from_checkpoint = Some("True".to_owned());
    }
    let config = config.check_for(module_of(&manifest.stage)).map_err(refused)?;
    let mut trainer = Trainer::new(config)?;
    // Only now, as nothing can be wrong with settings, model and data any more, is an earlier model given up.
    if !same {
        if folder.exists() {
            std::fs::remove_dir_all(folder)
                .map_err(|error| Error::io(folder, "remove the model of an earlier run", error))?;
        }
        manifest.write(&begun)?;
    }
    if folder.exists() {
        crate::files::sweep(folder)?;
    }
    trainer.stop_on(audience.stopper.clone());
    let report = trainer.run(&mut [&mut *audience.training])?;
    if report.stopped {
        let message = format!(
            "stopped after step {} of {}; run the pipeline again to go on",
            report.state.global_step, report.state.max_steps
        );
        return Err(Error::new(ErrorKind::Cancelled, message));
    }
    let log = &report.state.log_history;
    let last = |name: &str| log.iter().rev().find_map(|entry| entry.get(name)).cloned();
    let result = json!({
        "global_step": report.state.global_step,
        "loss": last("loss"),
        "log_history": log,
    });
    Ok((vec![output], result))
}

fn merge(config: MergeConfig, audience: &mut Audience<'_>) -> Result<Made> {
    let config = config.check().map_err(refused)?;
    let output = Path::new(&config.merge.output_path);
    if output.join("merge.json").exists() {
        std::fs::remove_dir_all(output)
            .map_err(|error| Error::io(output, "remove the earlier merge", error))?;
    }
    let report = merge_models(&config, &mut |event| hear(audience, event))?;
    let result = json!({ "weights": report.weights, "choice": report.choice });
    Ok((vec![config.merge.output_path.clone()], result))
}

fn evaluate(
    pipeline: &PipelineConfig,
    config: EvaluateConfig,
    done: &[Manifest],
    audience: &mut Audience<'_>,
) -> Result<Made> {
    let config = config.check().map_err(refused)?;
    let models = measure_models(&config, &mut |event| hear(audience, event))?;
    let value = models.json()?;
    let mut outputs = Vec::new();
    if let Some(path) = &config.evaluate.output_file {
        write_json(Path::new(path), &value)?;
        outputs.push(path.clone());
    }
    if let Some(path) = &config.evaluate.report {
        let html = models.html(&report::context(pipeline, done));
        files::write_whole(Path::new(path), |file| {
            std::io::Write::write_all(file, html.as_bytes())
        })?;
        outputs.push(path.clone());
    }
    let headline = models
        .comparison
        .as_ref()
        .map(|comparison| comparison.verdict.headline.clone());
    let result =
        json!({ "headline": headline, "table": models.table(), "metrics": models.evaluation.report.metrics });
    Ok((outputs, result))
}

fn hear(audience: &mut Audience<'_>, event: MeasureEvent<'_>) {
    (audience.listener)(match event {
        MeasureEvent::Note(issue) => PipelineEvent::Note(issue),
        MeasureEvent::Encoded { done, total } => PipelineEvent::Progress { done, total },
    });
}
