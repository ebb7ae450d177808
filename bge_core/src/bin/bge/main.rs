//! The `bge` command: prepare data, validate, configure, fine-tune, encode, evaluate, and all of it as a quickstart.

mod command;
mod config;
mod convert;
mod encode;
mod evaluate;
mod finetune;
mod launch;
mod merge;
mod mine;
mod pipeline;
mod plan;
mod progress;
mod quickstart;
#[cfg_attr(not(any(feature = "mpi", feature = "nccl")), path = "no_ranks.rs")]
mod ranks;
mod repair;
mod rerank;
mod score;
mod split;
mod validate;

use std::io::Write;

use bge_core::config::{FinetuneConfig, Module};
use bge_core::models::hub;
use bge_core::tokenize::Tokenizer;

/// Training and encoding free and take large buffers all the time; this allocator keeps them at hand.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
bge fine-tunes and serves BGE text-embedding models.

usage: bge COMMAND [FLAGS]

  quickstart                    see it work: the whole loop in two or three minutes, without a download
  convert INPUT...              BEIR folders, CSV, TSV and sentence-transformers' JSON to training rows
  validate FILE_OR_FOLDER...    check training data before it costs a run
  repair INPUT...               mend training rows; those that cannot be mended go to a quarantine
  split INPUT...                train and dev that share no query and no positive, or a file for each range of lengths
  config   schema|default|check|render
                                show, check and rewrite settings
  mine                          hard negatives for training rows
  score                         a teacher's scores for training rows
  finetune MODULE               train an embedder or a reranker; MODULE is
                                {MODULES}
  encode                        texts to vectors
  rerank                        pairs of query and passage to scores
  evaluate                      retrieval metrics on a BEIR folder, before and after
  merge                         the weighted mean of models, such as a base and its fine-tuned one
  pipeline FILE                 all of it from one file; what is current is skipped

`bge COMMAND --help` lists its flags. They bear FlagEmbedding's names; --config FILE reads them from TOML or JSON.
";

fn usage() -> String {
    USAGE.replace("{MODULES}", &Module::trained())
}

/// `mi_option_purge_delay` of mimalloc's `mi_option_t`, in milliseconds; -1 is never.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> std::process::ExitCode {
    // Handing freed buffers back to the system after 10 ms, the default, costs a step a fifth of its time in page faults.
    #[expect(unsafe_code, reason = "the allocator's settings are a C function")]
    // SAFETY: setting an option is allowed at any time, from any thread.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    std::process::ExitCode::from(run(&args) as u8)
}

fn run(args: &[String]) -> i32 {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let Some((command, rest)) = args.split_first() else {
        let _ = err.write_all(usage().as_bytes());
        return 2;
    };
    match command.as_str() {
        "config" => config::run(rest, &take_plan, &mut out, &mut err),
        "convert" => command::finish(convert::run(rest)),
        "repair" => command::finish(repair::run(rest)),
        "split" => command::finish(split::run(rest)),
        "validate" => validate::run(rest, &token_counter, &mut out, &mut err),
        "finetune" => command::finish(finetune::run(rest)),
        "quickstart" => command::finish(quickstart::run(rest)),
        "mine" => command::finish(mine::run(rest)),
        "score" => command::finish(score::run(rest)),
        "encode" => command::finish(encode::run(rest)),
        "rerank" => command::finish(rerank::run(rest)),
        "evaluate" => command::finish(evaluate::run(rest)),
        "merge" => command::finish(merge::run(rest)),
        "pipeline" => command::finish(pipeline::run(rest)),
        "help" | "--help" | "-h" => command::print(&usage()),
        "version" | "--version" | "-V" => command::print(concat!("bge ", env!("CARGO_PKG_VERSION"), "\n")),
        other => {
            let _ = writeln!(err, "error: there is no command {other:?}\n\n{}", usage());
            2
        }
    }
}

/// Counts tokens with the tokenizer of the model that the settings name.
fn token_counter(config: &FinetuneConfig) -> bge_core::Result<Option<validate::Counter>> {
    let model = &config.model;
    let name = model.tokenizer_name.as_ref().unwrap_or(&model.model_name_or_path);
    if name.is_empty() {
        return Ok(None);
    }
    let options = hub::HubOptions::new(model.cache_dir.as_ref(), model.token.as_ref());
    let folder = hub::resolve_model(name, &options)?;
    let tokenizer = Tokenizer::open(folder)?;
    Ok(Some(Box::new(move |text| tokenizer.count(text).unwrap_or(0))))
}

/// Takes `--plan` and its flags out of the words of `bge config check`.
fn take_plan(words: &mut Vec<String>) -> Result<Option<config::MakePlan>, Vec<bge_core::Issue>> {
    let request = plan::Request::take(words)?;
    Ok(request.map(|request| -> config::MakePlan {
        Box::new(move |module, settings| request.answer(module, settings, &token_counter))
    }))
}
