//! `bge evaluate`: retrieval metrics on a BEIR folder, and the comparison with a baseline.

use std::collections::BTreeMap;
use std::path::Path;

use bge_core::config::{EmbedArguments, EvaluateConfig, Module, TextRole};
use bge_core::evaluation::{
    BeirFolder, CompareOptions, Evaluation, EvaluationOptions, ReportContext, Role, compare, comparison_html,
    comparison_table, evaluate, evaluation_html, evaluation_table,
};
use bge_core::inference::Embedder;
use bge_core::{Error, files};

use crate::command::{Outcome, print, refused, say, settings, use_threads};
use crate::encode::open;
use crate::progress;

const USAGE: &str = "usage: bge evaluate --embedder_name_or_path FOLDER --dataset FOLDER [--baseline FOLDER] [--report FILE.html] [FLAGS]\n";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<EvaluateConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    for warning in &settings.warnings {
        say(warning);
    }
    let config = settings.arguments.check().map_err(refused)?;
    for warning in config.warnings() {
        say(warning);
    }
    use_threads(config.embed.threads)?;
    let ask = &config.evaluate;
    let folder = BeirFolder::open(&ask.dataset, &ask.split)?;
    for issue in &folder.issues {
        say(issue);
    }
    let options = EvaluationOptions {
        k_values: ask.k_values.clone(),
        search_top_k: ask.search_top_k,
        ignore_identical_ids: ask.ignore_identical_ids,
    };
    let after = measure(&open(&config.embed)?, &folder, &options)?;
    let mut context = ReportContext {
        provenance: provenance(&config.embed, &ask.dataset),
        ..ReportContext::default()
    };
    let (text, value, html) = match &ask.baseline {
        None => {
            let html = evaluation_html(&folder, &after, &context);
            (
                evaluation_table(&after.report),
                serde_json::to_string(&after.report),
                html,
            )
        }
        Some(baseline) => {
            context.provenance.insert("baseline".to_owned(), baseline.clone());
            let base = EmbedArguments {
                embedder_name_or_path: baseline.clone(),
                ..config.embed.clone()
            };
            let before = measure(&open(&base)?, &folder, &options)?;
            let options = CompareOptions {
                seed: ask.seed,
                before: baseline.clone(),
                after: config.embed.embedder_name_or_path.clone(),
                ..CompareOptions::default()
            };
            let comparison = compare(&folder, &before, &after, &options)?;
            let html = comparison_html(&comparison, &context);
            (
                comparison_table(&comparison),
                serde_json::to_string(&comparison),
                html,
            )
        }
    };
    let value = value.map_err(|error| {
        Error::new(
            bge_core::ErrorKind::Internal,
            "a result cannot be written as JSON",
        )
        .with_source(error)
    })?;
    if let Some(report) = &ask.report {
        write(report, &html)?;
    }
    if let Some(file) = &ask.output_file {
        write(file, &format!("{value}\n"))?;
    }
    print(&if settings.json { format!("{value}\n") } else { text });
    Ok(())
}

/// Encodes and scores a folder with a model.
pub(crate) fn measure(
    embedder: &Embedder,
    folder: &BeirFolder,
    options: &EvaluationOptions,
) -> Result<Evaluation, Error> {
    evaluate(folder, options, |role, texts| {
        let role = match role {
            Role::Query => TextRole::Query,
            Role::Passage => TextRole::Passage,
        };
        let tokens = embedder.tokenize(role, texts)?;
        let bar = progress::bar(texts.len() as u64, "texts");
        let vectors = embedder.encode_tokens(&tokens, |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        vectors
    })
}

fn provenance(embed: &EmbedArguments, dataset: &str) -> BTreeMap<String, String> {
    [
        ("bge", env!("CARGO_PKG_VERSION")),
        ("model", &embed.embedder_name_or_path),
        ("dataset", dataset),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

fn write(path: &str, text: &str) -> Result<(), Error> {
    files::write_whole(Path::new(path), |file| {
        std::io::Write::write_all(file, text.as_bytes())
    })
}
