//! `bge merge`: the weighted mean of models, such as a base and its fine-tuned one.

use std::fmt::Write as _;
use std::path::Path;

use bge_core::config::{MergeConfig, Module};
use bge_core::evaluation::{best_trial, choose_weights};
use bge_core::models::{Merger, hub};
use bge_core::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::command::{Outcome, print, refused, say, settings, use_threads};
use crate::evaluate::listen;
use crate::progress::Counter;

const USAGE: &str = "\
usage: bge merge --model_names_or_paths BASE TUNED --weights 0.5 0.5 --output_path FOLDER
       bge merge --model_names_or_paths BASE TUNED --dataset FOLDER [--general_dataset FOLDER...] --output_path FOLDER
";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<MergeConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    for warning in &settings.warnings {
        say(warning);
    }
    let config = settings.arguments.check().map_err(refused)?;
    for warning in config.warnings() {
        say(warning);
    }
    let ask = &config.merge;
    use_threads(ask.threads)?;
    let options = hub::HubOptions {
        cache_dir: ask.cache_dir.clone().map(Into::into),
        token: ask.token.clone(),
        ..hub::HubOptions::default()
    };
    let folders = ask
        .model_names_or_paths
        .iter()
        .map(|name| hub::resolve_model(name, &options))
        .collect::<Result<Vec<_>, Error>>()?;
    let output = Path::new(&ask.output_path);
    if output.exists() {
        let message = "the folder exists already; name another one or remove it";
        let error = Error::new(ErrorKind::InvalidConfig, message);
        return Err(error.with_path(output).with_field("output_path").into());
    }
    let merger = Merger::open(&folders)?;
    let (weights, choice) = if ask.weights.is_empty() {
        let mut counter = Counter::new("texts");
        let trials = choose_weights(&merger, ask, &mut |event| listen(&mut counter, event))?;
        counter.clear();
        let best =
            best_trial(&trials).ok_or_else(|| Error::new(ErrorKind::Internal, "no weights were tried"))?;
        if !settings.json {
            let mut table = String::from("weights      nDCG@10 of each set\n");
            for trial in &trials {
                let mark = if trial == best { "  chosen" } else { "" };
                let scores: Vec<String> = trial.ndcg_at_10.iter().map(|x| format!("{x:.4}")).collect();
                // Writing to a string does not fail.
                let [a, b] = trial.weights;
                let _ = writeln!(table, "{a:.2} {b:.2}    {}{mark}", scores.join("  "));
            }
            print(&table);
        }
        (best.weights.to_vec(), json!(trials))
    } else {
        (ask.weights.clone(), Value::Null)
    };
    merger.save(&weights, output, &choice)?;
    if settings.json {
        let value = json!({ "output_path": output, "weights": weights, "choice": choice });
        print(&format!("{value}\n"));
    } else {
        say(format!("done: {}", output.display()));
    }
    Ok(())
}
