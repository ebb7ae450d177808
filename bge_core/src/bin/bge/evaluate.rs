//! `bge evaluate`: retrieval metrics on a BEIR folder, and the comparison with a baseline.

use std::collections::BTreeMap;
use std::path::Path;

use bge_core::config::{EvaluateConfig, Module};
use bge_core::evaluation::{MeasureEvent, ReportContext, measure_models};
use bge_core::{Error, files};

use crate::command::{Outcome, checked, print, say, settings, use_threads};
use crate::progress::Counter;

const USAGE: &str = "usage: bge evaluate --embedder_name_or_path FOLDER --dataset FOLDER [--baseline FOLDER] [--general_dataset FOLDER...] [--report FILE.html] [FLAGS]\n";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<EvaluateConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    let config = checked(settings.arguments.check())?;
    use_threads(config.embed.threads)?;
    let mut counter = Counter::new("texts");
    let report = measure_models(&config, &mut |event| listen(&mut counter, event))?;
    counter.clear();
    let ask = &config.evaluate;
    if let Some(path) = &ask.report {
        let context = ReportContext {
            provenance: provenance(&config),
            ..ReportContext::default()
        };
        write(path, &report.html(&context))?;
    }
    let value = report.json()?;
    if let Some(file) = &ask.output_file {
        write(file, &format!("{value}\n"))?;
    }
    print(&if settings.json {
        format!("{value}\n")
    } else {
        report.table()
    });
    Ok(())
}

/// Shows what is heard while models are measured.
pub(crate) fn listen(counter: &mut Counter, event: MeasureEvent<'_>) {
    match event {
        MeasureEvent::Note(note) => say(note),
        MeasureEvent::Encoded { done, total } => counter.at(done, total),
    }
}

fn provenance(config: &EvaluateConfig) -> BTreeMap<String, String> {
    let mut provenance: BTreeMap<String, String> = [
        ("bge", env!("CARGO_PKG_VERSION")),
        ("model", &config.embed.embedder_name_or_path),
        ("dataset", &config.evaluate.dataset),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    if let Some(baseline) = &config.evaluate.baseline {
        provenance.insert("baseline".to_owned(), baseline.clone());
    }
    if !config.evaluate.general_dataset.is_empty() {
        let general = config.evaluate.general_dataset.join(", ");
        provenance.insert("general data".to_owned(), general);
    }
    provenance
}

fn write(path: &str, text: &str) -> Result<(), Error> {
    files::write_whole(Path::new(path), |file| {
        std::io::Write::write_all(file, text.as_bytes())
    })
}
