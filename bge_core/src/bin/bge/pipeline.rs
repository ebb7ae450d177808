//! `bge pipeline FILE`: validate, mine, score, train, merge and evaluate from one file; what is current is skipped.

use std::path::Path;
use std::time::Instant;

use bge_core::config::{PipelineArguments, PipelineConfig, flag_help, take_switch};
use bge_core::pipeline::{Audience, PipelineEvent, PipelineReport, run as run_stages};
use bge_core::{Issue, Severity, files};
use serde_json::json;

use crate::command::{Failure, Outcome, print, refused, say};
use crate::finetune::stopper;
use crate::launch;
use crate::progress::{Counter, TrainProgress};

const USAGE: &str = "\
usage: bge pipeline FILE [--json]

Runs the stages that FILE (TOML or JSON) has a section for, in this order: [validate] [mine] [finetune_reranker] [score]
[finetune] [merge] [evaluate]. Each reads what the one before it wrote. A section holds flags of its command; an empty one takes the defaults.
Above the sections stands what all of them share. A rerun skips what is current and goes on where a crash left it.

  --json
          The result as one JSON object on standard output.

shared:
";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let mut args = args.to_vec();
    if take_switch(&mut args, "--help") || args.iter().any(|arg| arg == "-h") {
        return Err(Failure::Code(print(&format!(
            "{USAGE}{}",
            flag_help::<PipelineArguments>("pipeline").replace("  --", "  ")
        ))));
    }
    launch::alone("pipeline")?;
    let json = take_switch(&mut args, "--json");
    let usage = |message: String| Failure::Usage(vec![Issue::new("config.usage", Severity::Error, message)]);
    let file = match args.as_slice() {
        [file] if !file.starts_with('-') => file,
        [] => return Err(usage(format!("name a pipeline file\n{USAGE}"))),
        more => {
            let message = format!(
                "expected one file, got {}; settings of a pipeline stand in its file",
                more.join(" ")
            );
            return Err(usage(message));
        }
    };
    let text = files::read_text(Path::new(file)).map_err(|error| {
        Failure::Usage(vec![Issue::new(
            "config.file",
            Severity::Error,
            error.to_string(),
        )])
    })?;
    let config = PipelineConfig::parse(file, &text).map_err(refused)?;
    let (report, _) = show(&config, None)?;
    if json {
        let stages: serde_json::Map<String, serde_json::Value> = report
            .stages
            .iter()
            .map(|manifest| (manifest.stage.clone(), json!(manifest)))
            .collect();
        let value = json!({
            "output_dir": config.shared.output_dir,
            "model": report.model,
            "report": report.report,
            "stages": stages,
        });
        print(&format!("{value}\n"));
    } else {
        if let Some(table) = &report.table {
            print(&format!("\n{table}"));
        }
        say(format!("done: {}", report.model.display()));
        if let Some(page) = &report.report {
            say(format!("report: {}", page.display()));
        }
    }
    Ok(())
}

/// The stages that ran or were skipped, with the seconds of each.
pub(crate) type Stages = Vec<(&'static str, f64)>;

/// Tells of a stage and the command that does the same, before it runs.
pub(crate) type Teller<'a> = &'a dyn Fn(&str, &str);

/// Runs a pipeline with a line for each stage on standard error.
pub(crate) fn show(config: &PipelineConfig, teller: Option<Teller<'_>>) -> Outcome<(PipelineReport, Stages)> {
    for warning in &config.warnings {
        say(warning);
    }
    let mut counter = Counter::new("");
    let mut started = Instant::now();
    let mut head = String::new();
    let mut stages = Stages::new();
    let mut listener = |event: PipelineEvent<'_>| match event {
        PipelineEvent::Begin {
            stage,
            number,
            of,
            command,
        } => {
            started = Instant::now();
            head = format!("[{number}/{of}] {stage}");
            if let Some(teller) = teller {
                teller(stage, command);
            }
        }
        PipelineEvent::Progress { done, total } => counter.at(done, total),
        PipelineEvent::Note(issue) => say(issue),
        PipelineEvent::Skipped { stage, summary } => {
            stages.push((stage, 0.0));
            say(format!("{head}: current, skipped ({summary})"));
        }
        PipelineEvent::Done { stage, summary } => {
            counter.clear();
            let secs = started.elapsed().as_secs_f64();
            stages.push((stage, secs));
            say(format!("{head}: {summary} ({secs:.1} s)"));
        }
    };
    let mut training = TrainProgress::new();
    let mut audience = Audience {
        listener: &mut listener,
        training: &mut training,
        stopper: stopper()?,
    };
    let report = run_stages(config, &mut audience)?;
    Ok((report, stages))
}
