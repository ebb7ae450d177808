//! `bge mine`: hard negatives for training rows.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bge_core::config::{MineConfig, Module};
use bge_core::mining::{MineEvent, MineReport, Stage, mine};
use bge_core::{Error, ErrorKind};
use indicatif::ProgressBar;
use serde_json::json;

use crate::command::{Outcome, checked, print, say, settings, use_threads};
use crate::finetune::stopper;
use crate::progress;

const USAGE: &str = "\
usage: bge mine --embedder_name_or_path FOLDER --input_file FILE.jsonl --output_file FILE.jsonl [--candidate_pool FILE.jsonl] [FLAGS]
";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<MineConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    let config = checked(settings.arguments.check())?;
    use_threads(config.embed.threads)?;
    let stop = stopper()?;
    let started = Instant::now();
    let mut progress = MineProgress::default();
    let report = mine(&config, &mut |event| {
        progress.show(event);
        if stop.stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    progress.end();
    let secs = started.elapsed().as_secs_f64();
    if settings.json {
        print(&format!("{}\n", as_json(&report, &config, secs)?));
    } else {
        say(report.summary().trim_end());
        say(format!("done in {secs:.1} s: {}", config.mine.output_file));
    }
    Ok(())
}

fn as_json(report: &MineReport, config: &MineConfig, secs: f64) -> Result<serde_json::Value, Error> {
    let failed =
        |error| Error::new(ErrorKind::Internal, "a report cannot be written as JSON").with_source(error);
    let mut value = serde_json::to_value(report).map_err(failed)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("secs".to_owned(), json!(secs));
        map.insert("output_file".to_owned(), json!(config.mine.output_file));
    }
    Ok(value)
}

/// Shows a run: a bar for each stage on a terminal, else a line now and then.
#[derive(Default)]
struct MineProgress {
    shown: Option<(Stage, ProgressBar, Instant)>,
}

impl MineProgress {
    fn show(&mut self, event: MineEvent<'_>) {
        match event {
            MineEvent::Note(issue) => say(issue),
            MineEvent::Progress { stage, done, total } => {
                if self.shown.as_ref().is_none_or(|(shown, ..)| *shown != stage) {
                    self.end();
                    let unit = if stage == Stage::Rows { "rows" } else { "texts" };
                    let there = if done > 0 {
                        format!(", {done} are there already")
                    } else {
                        String::new()
                    };
                    say(format!("{}: {total} {unit}{there}", stage.as_str()));
                    self.shown = Some((stage, progress::bar(total as u64, unit), Instant::now()));
                }
                if let Some((_, bar, last)) = &mut self.shown {
                    bar.set_position(done as u64);
                    if bar.is_hidden() && last.elapsed() > Duration::from_secs(10) {
                        *last = Instant::now();
                        say(format!("{}: {done}/{total}", stage.as_str()));
                    }
                }
            }
        }
    }

    fn end(&mut self) {
        if let Some((_, bar, _)) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}
