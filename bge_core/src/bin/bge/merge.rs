//! `bge merge`: the weighted mean of models, such as a base and its fine-tuned one.

use std::fmt::Write as _;

use bge_core::config::{MergeConfig, Module};
use bge_core::evaluation::{MergeReport, merge_models};
use serde_json::json;

use crate::command::{Outcome, checked, print, say, settings, use_threads};
use crate::evaluate::listen;
use crate::progress::Counter;

const USAGE: &str = "\
usage: bge merge --model_names_or_paths BASE TUNED --weights 0.5 0.5 --output_path FOLDER
       bge merge --model_names_or_paths BASE TUNED --dataset FOLDER [--general_dataset FOLDER...] --output_path FOLDER
";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<MergeConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    let config = checked(settings.arguments.check())?;
    use_threads(config.merge.threads)?;
    let mut counter = Counter::new("texts");
    let report = merge_models(&config, &mut |event| listen(&mut counter, event))?;
    counter.clear();
    if settings.json {
        print(&format!("{}\n", json!(report)));
        return Ok(());
    }
    if !report.choice.is_empty() {
        print(&table(&report));
    }
    say(format!("done: {}", report.output_path.display()));
    Ok(())
}

/// What was tried, a line each.
fn table(report: &MergeReport) -> String {
    let mut table = String::from("weights      nDCG@10 of each set\n");
    for trial in &report.choice {
        let mark = if trial.weights[..] == report.weights {
            "  chosen"
        } else {
            ""
        };
        let scores: Vec<String> = trial.ndcg_at_10.iter().map(|x| format!("{x:.4}")).collect();
        let [a, b] = trial.weights;
        // Writing to a string does not fail.
        let _ = writeln!(table, "{a:.2} {b:.2}    {}{mark}", scores.join("  "));
    }
    table
}
