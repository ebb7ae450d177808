//! `bge split`: train and dev without leaks, or files by length.

use bge_core::config::{SplitArguments, SplitConfig};
use bge_core::data::preparing::{LengthFile, Splitting, split_by_length, split_files};
use bge_core::models::hub::{HubOptions, resolve_model};
use bge_core::tokenize::Tokenizer;
use bge_core::{Error, ErrorKind};
use rayon::prelude::*;
use serde_json::json;

use crate::command::{Outcome, checked, print, say, settings_of_files};
use crate::finetune::stopper;
use crate::progress::over_files;

const USAGE: &str = "\
usage: bge split FILE_OR_FOLDER... --train FILE.jsonl --dev FILE.jsonl [--dev_share 0.05] [--seed 42] [FLAGS]
       bge split --by_length --input_path FILE_OR_FOLDER --output_dir FOLDER [--length_list 0 500 ...] [FLAGS]

Without --by_length no query and no positive is on both sides: rows that share one stay together. With it, the flags are those
of split_data_by_length.py, and each file becomes one for each range of its rows' longest text. Inputs may be packed as .gz.
";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings_of_files::<SplitConfig>(USAGE, args, "input_path")?;
    let config = checked(settings.arguments.check())?;
    let stopper = stopper()?;
    let mut watch = over_files(&stopper);
    if config.split.by_length {
        let count = counter(&config.split)?;
        let (files, notes) = split_by_length(&config, &count, &mut watch)?;
        notes.iter().for_each(say);
        warn_of_arrays(files.iter().map(|file| file.broken_arrays).sum());
        if settings.json {
            print(&format!("{}\n", json!({ "files": files })));
        } else {
            files.iter().for_each(tell);
        }
        return Ok(());
    }
    let done = split_files(&config, &mut watch)?;
    done.notes.iter().for_each(say);
    if done.report.unreadable > 0 {
        say(format!(
            "warning: {} rows cannot be trained on and are on neither side; `bge validate` names them, `bge repair` sets them aside",
            done.report.unreadable
        ));
    }
    warn_of_arrays(done.report.broken_arrays);
    if settings.json {
        print(&format!("{}\n", json!(done)));
    } else {
        print(&summary(&done));
    }
    Ok(())
}

fn warn_of_arrays(broken: u64) {
    if broken > 0 {
        say(format!(
            "warning: places where an array is damaged or joined: {broken}; rows around them are read, and `bge validate` names them"
        ));
    }
}

/// Counts tokens with the model's tokenizer, on as many threads as asked for and there.
fn counter(split: &SplitArguments) -> Outcome<impl Fn(&[&str]) -> Vec<usize> + use<>> {
    let options = HubOptions::new(split.cache_dir.as_ref(), split.token.as_ref());
    let tokenizer = Tokenizer::open(resolve_model(&split.model_name_or_path, &options)?)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(split.num_proc.min(cores));
    let pool = pool
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot start threads").with_source(error))?;
    Ok(move |texts: &[&str]| {
        let count = |text: &&str| tokenizer.count(text).unwrap_or(0);
        pool.install(|| texts.par_iter().map(count).collect())
    })
}

fn tell(file: &LengthFile) {
    let log = &file.log;
    let mut text = format!(
        "{}: {} rows, {:.1} tokens in the longest text of a row on average\n",
        log.file_path, log.size, log.avg_length
    );
    for (range, rows) in &log.split_info {
        text.push_str(&format!("  {:>8}  {range}\n", rows.to_string()));
    }
    for place in &file.skipped {
        text.push_str(&format!(
            "  left as it is: {} (--overwrite replaces it)\n",
            place.display()
        ));
    }
    if let Some(place) = &file.quarantine_file {
        text.push_str(&format!(
            "  in no range: {} rows below the first length, {} that cannot be read: {}\n",
            file.below,
            file.unreadable,
            place.display()
        ));
    }
    print(&text);
}

fn summary(done: &Splitting) -> String {
    let report = &done.report;
    format!(
        "{} rows in {} groups that share texts, the largest of {}\ntrain: {} rows, {}\ndev: {} rows, {}\n",
        report.train + report.dev,
        report.groups,
        report.largest_group,
        report.train,
        done.train_file.display(),
        report.dev,
        done.dev_file.display()
    )
}
