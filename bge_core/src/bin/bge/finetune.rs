//! `bge finetune MODULE`: trains an embedder or a reranker.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bge_core::config::{FinetuneConfig, Module};
use bge_core::planner::{peak_memory, size_text};
use bge_core::train::{Stopper, Trainer};
use bge_core::{Error, ErrorKind, Issue, Severity};
use serde_json::json;

use crate::command::{Failure, Outcome, Settings, print, refused, say, settings};
use crate::launch;
use crate::plan;
use crate::progress::TrainProgress;
use crate::ranks::Ranks;

fn usage_text() -> String {
    let modules = Module::TRAINED.map(Module::as_str).join("|");
    format!(
        "usage: bge finetune {modules} --model_name_or_path FOLDER --train_data FILE... --output_dir FOLDER [FLAGS]\n"
    )
}

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let on_gpus = || Ok(plan::on_gpus(&read(args)?.1.arguments.training.devices));
    launch::run(on_gpus, |ranks| train(args, ranks))
}

/// The module and its settings.
fn read(args: &[String]) -> Outcome<(Module, Settings<FinetuneConfig>)> {
    let usage = |message: String| Failure::Usage(vec![Issue::new("config.usage", Severity::Error, message)]);
    let Some((module, rest)) = args.split_first() else {
        return Err(usage(format!("name a module\n{}", usage_text())));
    };
    let (module, rest) = if module == "--help" || module == "-h" {
        (Module::EncoderOnlyBase, args)
    } else {
        let module = Module::from_path(module).map_err(|_| {
            let hint = if rest.iter().any(|word| word.contains("FlagEmbedding.")) {
                "; a command line with its launcher is rewritten by `bge config render --format flags`, and explained by `bge config check`"
            } else {
                ""
            };
            usage(format!(
                "{module:?} is not a module; this version trains {}{hint}",
                Module::trained()
            ))
        })?;
        (
            module.available().map_err(|error| usage(error.to_string()))?,
            rest,
        )
    };
    Ok((module, settings::<FinetuneConfig>(&usage_text(), rest, module)?))
}

fn train(args: &[String], ranks: Option<&Ranks>) -> Outcome<()> {
    let (module, mut settings) = read(args)?;
    if let Some(ranks) = ranks {
        ranks.fit(&mut settings.arguments)?;
    }
    let config = settings.arguments.check_for(module).map_err(refused)?;
    let mut trainer = match ranks {
        Some(ranks) => Trainer::of_rank(config, ranks.line())?,
        None => Trainer::new(config)?,
    };
    trainer.stop_on(stopper()?);
    // The peak that is measured is the process's, not that of GPUs.
    let planned = trainer.forecast().filter(|forecast| !forecast.on_gpus);
    let planned = planned.map(|forecast| forecast.bytes);
    trainer.forecast().into_iter().for_each(say);
    let mut progress = TrainProgress::new();
    let report = trainer.run(&mut [&mut progress]);
    let report = report.map_err(|error| resumable(error, &trainer))?;
    let peak = peak_memory();
    if settings.json {
        let result = json!({
            "output_dir": report.folder,
            "stopped": report.stopped,
            "global_step": report.state.global_step,
            "max_steps": report.state.max_steps,
            "best_metric": report.state.best_metric,
            "tokens_per_second": report.tokens_per_second,
            "step_secs": report.step_secs,
            "planned_bytes": planned,
            "peak_bytes": peak,
        });
        print(&format!("{result}\n"));
    }
    if let (Some(planned), Some(peak)) = (planned, peak) {
        say(format!(
            "memory: {} at the most, {} planned",
            size_text(peak),
            size_text(planned)
        ));
    }
    if report.stopped {
        say(format!(
            "stopped after step {} of {}; go on with --resume_from_checkpoint {}",
            report.state.global_step,
            report.state.max_steps,
            report.folder.display()
        ));
        return Err(Failure::Code(1));
    }
    say(format!(
        "done: {} ({:.0} tokens/s)",
        report.folder.display(),
        report.tokens_per_second
    ));
    Ok(())
}

/// Says where to go on after a rank was lost.
fn resumable(error: Error, trainer: &Trainer) -> Error {
    match trainer.newest_checkpoint() {
        Some(place) if error.kind() == ErrorKind::Distributed => {
            let message = format!("{error}; go on with --resume_from_checkpoint {}", place.display());
            Error::new(ErrorKind::Distributed, message)
        }
        _ => error,
    }
}

/// Listens to Ctrl-C and SIGTERM; the second Ctrl-C ends at once.
pub(crate) fn stopper() -> Result<Stopper, Error> {
    let flag = Arc::new(AtomicBool::new(false));
    let failed = |error| Error::new(ErrorKind::Internal, "cannot listen to signals").with_source(error);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag)).map_err(failed)?;
        signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(failed)?;
    }
    Ok(Stopper::on(flag))
}
