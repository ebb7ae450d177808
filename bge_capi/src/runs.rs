//! Work that is one call: mine, score, evaluate, merge, and all of it from one file.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::path::Path;

use bge_core::config::PipelineConfig;
use bge_core::distillation::{ScoreEvent, score_file};
use bge_core::evaluation::{MeasureEvent, ReportContext, measure_models, merge_models};
use bge_core::mining::{MineEvent, mine};
use bge_core::pipeline::{Audience, PipelineEvent, run as run_stages};
use bge_core::train::{Control, Stopper, TrainEvent};
use bge_core::{Error, ErrorKind, Issue, files};
use serde_json::{Map, Value, json};

use crate::config::{bge_config, other_kind};
use crate::error::{ErrorOut, Outcome, bge_error, json_text, required};
use crate::event::{Listener, bge_event_fn, bge_event_kind};
use crate::guard::guard;
use crate::handle::{bge_text, give_text};
use crate::log;
use crate::settings::Settings;
use crate::status::bge_status;
use crate::text::bge_str;
use crate::trainer;

/// Sets the threads of the CPU, which is possible once in a process.
pub(crate) fn use_threads(threads: Option<usize>) -> Outcome {
    let Some(threads) = threads else {
        return Ok(());
    };
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    let have = rayon::current_num_threads();
    if built.is_err() && have != threads {
        let message = format!(
            "the process works with {have} threads already; set {threads} before the first call that loads or runs a model"
        );
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_field("threads")
            .into());
    }
    Ok(())
}

/// Runs work that gives a JSON report, which the host may leave.
fn work(
    config: Option<&bge_config>,
    (on_event, user_data): (bge_event_fn, *mut c_void),
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: ErrorOut<'_>,
    body: impl FnOnce(&Settings, &Listener) -> Outcome<String>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let listener = Listener {
            call: on_event,
            user_data,
        };
        let report = body(config.settings()?, &listener)?;
        if let Some(out) = out {
            give_text(out, report);
        }
        Ok(())
    })
}

fn flow(go_on: bool) -> ControlFlow<()> {
    if go_on {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(())
    }
}

fn warn(issues: &[Issue], stage: &str, listener: &Listener) {
    for issue in issues {
        listener.note(stage, issue);
    }
}

/// Mines hard negatives as settings of kind BGE_CONFIG_KIND_MINE say, and gives the report as JSON (`out` may be NULL).
/// Stopped by `on_event`, it fails with BGE_STATUS_CANCELLED, and the same call goes on where it was.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_mine(
    config: Option<&bge_config>,
    on_event: bge_event_fn,
    user_data: *mut c_void,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    work(config, (on_event, user_data), out, error, |settings, listener| {
        let Settings::Mine(arguments) = settings else {
            return Err(other_kind("BGE_CONFIG_KIND_MINE"));
        };
        let config = arguments.clone().check().map_err(bge_error::refused)?;
        warn(config.warnings(), "mine", listener);
        use_threads(config.embed.threads)?;
        let report = mine(&config, &mut |event| {
            flow(match event {
                MineEvent::Note(issue) => listener.note("mine", issue),
                MineEvent::Progress { stage, done, total } => {
                    listener.progress(stage.as_str(), done as u64, total as u64)
                }
            })
        })?;
        json_text(&report)
    })
}

/// Adds a teacher's scores to training rows as settings of kind BGE_CONFIG_KIND_SCORE say, and gives the report as JSON
/// (`out` may be NULL). Stopped by `on_event`, it fails with BGE_STATUS_CANCELLED, and the same call goes on where it
/// was.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_score(
    config: Option<&bge_config>,
    on_event: bge_event_fn,
    user_data: *mut c_void,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    work(config, (on_event, user_data), out, error, |settings, listener| {
        let Settings::Score(arguments) = settings else {
            return Err(other_kind("BGE_CONFIG_KIND_SCORE"));
        };
        let config = arguments.clone().check().map_err(bge_error::refused)?;
        warn(config.warnings(), "score", listener);
        use_threads(config.rerank.threads)?;
        let report = score_file(&config, |event| {
            flow(match event {
                ScoreEvent::Note(issue) => listener.note("score", issue),
                ScoreEvent::Begin { pairs, resumed, .. } => listener.progress("score", resumed, pairs),
                ScoreEvent::Scored { done, pairs } => listener.progress("score", done, pairs),
                _ => true,
            })
        })?;
        json_text(&report)
    })
}

/// Measures retrieval as settings of kind BGE_CONFIG_KIND_EVALUATE say, and gives the report as JSON (`out` may be NULL);
/// the settings report and output_file write it to files too. It cannot be stopped: the answer of `on_event` has no
/// effect.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_evaluate(
    config: Option<&bge_config>,
    on_event: bge_event_fn,
    user_data: *mut c_void,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    work(config, (on_event, user_data), out, error, |settings, listener| {
        let Settings::Evaluate(arguments) = settings else {
            return Err(other_kind("BGE_CONFIG_KIND_EVALUATE"));
        };
        let config = arguments.clone().check().map_err(bge_error::refused)?;
        warn(config.warnings(), "evaluate", listener);
        use_threads(config.embed.threads)?;
        let report = measure_models(&config, &mut |event| measured(listener, "evaluate", event))?;
        let write = |path: &str, text: &str| {
            files::write_whole(Path::new(path), |file| {
                std::io::Write::write_all(file, text.as_bytes())
            })
        };
        if let Some(path) = &config.evaluate.report {
            write(path, &report.html(&ReportContext::default()))?;
        }
        let text = report.json()?.to_string();
        if let Some(path) = &config.evaluate.output_file {
            write(path, &format!("{text}\n"))?;
        }
        Ok(text)
    })
}

fn measured(listener: &Listener, stage: &str, event: MeasureEvent<'_>) {
    match event {
        MeasureEvent::Note(issue) => listener.note(stage, issue),
        MeasureEvent::Encoded { done, total } => listener.progress(stage, done as u64, total as u64),
    };
}

/// Merges models as settings of kind BGE_CONFIG_KIND_MERGE say, and gives the report as JSON (`out` may be NULL). It
/// cannot be stopped: the answer of `on_event` has no effect.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_merge(
    config: Option<&bge_config>,
    on_event: bge_event_fn,
    user_data: *mut c_void,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    work(config, (on_event, user_data), out, error, |settings, listener| {
        let Settings::Merge(arguments) = settings else {
            return Err(other_kind("BGE_CONFIG_KIND_MERGE"));
        };
        let config = arguments.clone().check().map_err(bge_error::refused)?;
        warn(config.warnings(), "merge", listener);
        use_threads(config.merge.threads)?;
        let report = merge_models(&config, &mut |event| measured(listener, "merge", event))?;
        json_text(&report)
    })
}

/// Runs the stages of a pipeline file's text (TOML or JSON): validate, mine, score, train, merge, evaluate. What is
/// current is skipped. Gives the report as JSON (`out` may be NULL). Where `on_event` answers false, the stage ends as it
/// would alone, and the call fails with BGE_STATUS_CANCELLED; the same call goes on where it was.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_pipeline(
    text: bge_str<'_>,
    on_event: bge_event_fn,
    user_data: *mut c_void,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let config = PipelineConfig::parse("pipeline", text.text("text")?).map_err(bge_error::refused)?;
        let listener = Listener {
            call: on_event,
            user_data,
        };
        config.warnings.iter().for_each(log::note);
        let report = run_pipeline(&config, &listener)?;
        if let Some(out) = out {
            give_text(out, report);
        }
        Ok(())
    })
}

fn run_pipeline(config: &PipelineConfig, listener: &Listener) -> Outcome<String> {
    let stopper = Stopper::default();
    let heed = |go_on: bool| {
        if !go_on {
            stopper.stop();
        }
    };
    let mut current = "pipeline";
    let mut stages = |event: PipelineEvent<'_>| {
        let done = |stage: &str, summary: &str, skipped: bool| {
            let details = json!({ "summary": summary, "skipped": skipped });
            listener.tell(bge_event_kind::Done, stage, (0, 0), &details)
        };
        heed(match event {
            PipelineEvent::Begin {
                stage,
                number,
                of,
                command,
            } => {
                current = stage;
                let details = json!({ "command": command });
                listener.tell(bge_event_kind::Begin, stage, (number as u64, of as u64), &details)
            }
            PipelineEvent::Progress { done, total } => listener.progress(current, done as u64, total as u64),
            PipelineEvent::Note(issue) => listener.note(current, issue),
            PipelineEvent::Skipped { stage, summary } => done(stage, summary, true),
            PipelineEvent::Done { stage, summary } => done(stage, summary, false),
        });
    };
    let mut training = |event: &TrainEvent<'_>| {
        let go_on = trainer::tell(listener, event);
        heed(go_on);
        if go_on { Control::Continue } else { Control::Stop }
    };
    let mut audience = Audience {
        listener: &mut stages,
        training: &mut training,
        stopper: stopper.clone(),
    };
    let report = run_stages(config, &mut audience)?;
    let stages: Map<String, Value> = report
        .stages
        .iter()
        .map(|manifest| (manifest.stage.clone(), json!(manifest)))
        .collect();
    json_text(&json!({
        "output_dir": config.shared.output_dir,
        "model": report.model,
        "report": report.report,
        "stages": stages,
    }))
}
