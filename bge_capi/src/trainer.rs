//! A training run: made from settings, run on the calling thread, stopped from any.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::{Mutex, TryLockError};

use bge_core::train::{Control, Stopper, TrainEvent, TrainReport, Trainer};
use serde_json::{Value, json};

use crate::config::{bge_config, other_kind};
use crate::error::{bge_error, json_text, required};
use crate::event::{Listener, bge_event_fn, bge_event_kind};
use crate::guard::{give, guard};
use crate::handle::{Health, bge_text, give_text};
use crate::log;
use crate::settings::Settings;
use crate::status::bge_status;

/// A prepared run. Any thread may stop it while one runs it.
#[derive(Debug)]
pub struct bge_trainer {
    trainer: Mutex<Trainer>,
    stopper: Stopper,
    health: Health,
}

/// Tells the host of a training event; `false` means stop.
pub(crate) fn tell(listener: &Listener, event: &TrainEvent<'_>) -> bool {
    let say = |kind, at: (usize, usize), details: &Value| {
        listener.tell(kind, "train", (at.0 as u64, at.1 as u64), details)
    };
    match event {
        TrainEvent::Note(issue) => listener.note("train", issue),
        TrainEvent::Begin(state) => say(
            bge_event_kind::Begin,
            (state.global_step, state.max_steps),
            &json!({ "global_step": state.global_step, "max_steps": state.max_steps }),
        ),
        TrainEvent::Step { state, report, secs } => say(
            bge_event_kind::Step,
            (state.global_step, state.max_steps),
            &json!({
                "global_step": state.global_step, "max_steps": state.max_steps, "epoch": state.epoch,
                "loss": report.loss, "accuracy": report.accuracy, "grad_norm": report.grad_norm,
                "learning_rate": report.learning_rate, "tokens": report.tokens, "secs": secs,
            }),
        ),
        TrainEvent::Log(entry) => say(bge_event_kind::Log, (0, 0), &json!(entry)),
        TrainEvent::Evaluated { state, report } => say(
            bge_event_kind::Evaluated,
            (state.global_step, state.max_steps),
            &json!(report),
        ),
        TrainEvent::Saved(folder) => say(bge_event_kind::Saved, (0, 0), &json!({ "path": folder })),
        _ => true,
    }
}

fn report(report: &TrainReport) -> Value {
    json!({
        "output_dir": report.folder,
        "stopped": report.stopped,
        "global_step": report.state.global_step,
        "max_steps": report.state.max_steps,
        "best_metric": report.state.best_metric,
        "tokens_per_second": report.tokens_per_second,
        "step_secs": report.step_secs,
    })
}

/// Opens model, tokenizer and data of settings of kind FINETUNE or FINETUNE_RERANKER, and checks that they fit together.
/// Nothing is written yet.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_trainer_new(
    config: Option<&bge_config>,
    out: Option<&mut MaybeUninit<*mut bge_trainer>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let out = required(out, "out")?;
        let Settings::Finetune(arguments, module) = config.settings()? else {
            return Err(other_kind(
                "BGE_CONFIG_KIND_FINETUNE or BGE_CONFIG_KIND_FINETUNE_RERANKER",
            ));
        };
        let checked = arguments.clone().check_for(*module).map_err(bge_error::refused)?;
        checked.warnings().iter().for_each(log::note);
        let trainer = Trainer::new(checked)?;
        let trainer = bge_trainer {
            stopper: trainer.stopper(),
            trainer: Mutex::new(trainer),
            health: Health::default(),
        };
        give(out, trainer);
        Ok(())
    })
}

/// Trains to the end, or until `on_event` (NULL if nobody listens) answers false or bge_trainer_stop is called, and gives
/// the report as JSON (`out` may be NULL). A stopped run writes a checkpoint, is no error, and says `"stopped": true`.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_trainer_run(
    trainer: Option<&bge_trainer>,
    on_event: bge_event_fn,
    user_data: *mut c_void,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let trainer = required(trainer, "trainer")?;
        let _entered = trainer.health.enter("trainer")?;
        let mut run = match trainer.trainer.try_lock() {
            Ok(run) => run,
            Err(TryLockError::Poisoned(_)) => {
                return Err(bge_error::new(bge_status::Poisoned, "an earlier run panicked"));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(bge_error::argument("trainer", "it is running already"));
            }
        };
        let listener = Listener {
            call: on_event,
            user_data,
        };
        let mut hear = |event: &TrainEvent<'_>| {
            if tell(&listener, event) {
                Control::Continue
            } else {
                Control::Stop
            }
        };
        let done = run.run(&mut [&mut hear])?;
        if let Some(out) = out {
            give_text(out, json_text(&report(&done))?);
        }
        Ok(())
    })
}

/// Asks a run to end after its present step, with a checkpoint. From any thread, before or during the run; NULL is fine.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_trainer_stop(trainer: Option<&bge_trainer>) {
    if let Some(trainer) = trainer {
        trainer.stopper.stop();
    }
}

/// Frees a trainer that is not running. NULL is fine.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_trainer_free(trainer: Option<Box<bge_trainer>>) {
    drop(trainer);
}
