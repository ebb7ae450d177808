//! `bge rerank`: pairs of query and passage to scores.

use std::time::Instant;

use bge_core::config::{Module, RerankConfig};
use bge_core::distillation::rerank_file;

use crate::command::{Outcome, checked, settings, use_threads};
use crate::score::{shown, tell};

const USAGE: &str =
    "usage: bge rerank --reranker_name_or_path FOLDER --input_file PAIRS --output_file FILE [FLAGS]\n";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings::<RerankConfig>(USAGE, args, Module::EncoderOnlyBase)?;
    let config = checked(settings.arguments.check())?;
    use_threads(config.rerank.threads)?;
    let started = Instant::now();
    let report = rerank_file(&config, shown("pairs")?)?;
    tell(&report, started.elapsed().as_secs_f64(), settings.json);
    Ok(())
}
