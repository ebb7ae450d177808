//! `bge score`: a teacher's scores for training rows.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bge_core::config::{Module, ScoreConfig};
use bge_core::distillation::{ScoreEvent, ScoreReport, score_file};

use crate::command::{Outcome, checked, print, say, settings, use_threads};
use crate::finetune::stopper;
use crate::progress;

const USAGE: &str =
    "usage: bge score --reranker_name_or_path FOLDER --input_file FILE --output_file FILE [FLAGS]\n";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<ScoreConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    let config = checked(settings.arguments.check())?;
    use_threads(config.rerank.threads)?;
    let started = Instant::now();
    let report = score_file(&config, shown("pairs")?)?;
    tell(&report, started.elapsed().as_secs_f64(), settings.json);
    Ok(())
}

/// Shows events: a bar on a terminal, a line every ten seconds elsewhere. Ctrl-C and SIGTERM end the run after its block.
pub(crate) fn shown(unit: &str) -> Outcome<impl FnMut(ScoreEvent<'_>) -> ControlFlow<()>> {
    let stopper = stopper()?;
    let bar = progress::bar(0, unit);
    let terminal = std::io::stderr().is_terminal();
    let mut last_line = Instant::now();
    Ok(move |event: ScoreEvent<'_>| {
        match event {
            ScoreEvent::Note(issue) => bar.suspend(|| say(issue)),
            ScoreEvent::Begin { pairs, resumed, .. } => {
                if resumed > 0 {
                    bar.suspend(|| say(format!("going on after {resumed} of {pairs} pairs")));
                }
                bar.set_length(pairs);
                bar.set_position(resumed);
            }
            ScoreEvent::Scored { done, pairs } => {
                bar.set_position(done);
                if !terminal && last_line.elapsed() > Duration::from_secs(10) {
                    last_line = Instant::now();
                    say(format!("{done}/{pairs} pairs"));
                }
                if done == pairs {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
        if stopper.stopped() {
            bar.finish_and_clear();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
}

/// The result of a run: one line, or one JSON object.
pub(crate) fn tell(report: &ScoreReport, secs: f64, json: bool) {
    let mut result = serde_json::to_value(report).unwrap_or_default();
    let rate = report.scored as f64 / secs.max(1e-9);
    if json {
        result["secs"] = secs.into();
        result["pairs_per_second"] = rate.into();
        print(&format!("{result}\n"));
    } else {
        say(format!(
            "{} rows, {} pairs ({} scored, {} from an earlier run) in {secs:.2} s ({rate:.0} pairs/s): {}",
            report.rows,
            report.pairs,
            report.scored,
            report.resumed,
            report.output_file.display()
        ));
    }
}
