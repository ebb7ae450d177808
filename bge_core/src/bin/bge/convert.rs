//! `bge convert`: training rows from BEIR folders, tables and sentence-transformers' data.

use bge_core::config::ConvertConfig;
use bge_core::data::ShowIssues;
use bge_core::data::preparing::{Conversion, convert_files};
use bge_core::{Error, ErrorKind};
use serde_json::json;

use crate::command::{Outcome, checked, print, say, settings_of_files};
use crate::finetune::stopper;
use crate::progress::over_files;

const USAGE: &str = "\
usage: bge convert INPUT... --output FILE.jsonl [--format beir|csv|tsv|sentence-transformers] [FLAGS]

Makes training rows of one folder in BEIR's layout (--split names its judgments), or of tables and JSON rows, files or folders.
What the input is shows in its names; --format says it where they do not. Inputs may be packed as .gz. What cannot be used goes
to the quarantine, each record with its file, line and reason. Ends with 1 if a file cannot be used; then nothing is written.
";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings_of_files::<ConvertConfig>(USAGE, args, "input_path")?;
    let config = checked(settings.arguments.check())?;
    let stopper = stopper()?;
    let done = convert_files(&config, &mut over_files(&stopper))?;
    if settings.json {
        print(&format!("{}\n", json!(done)));
    } else {
        say(format!("{}", ShowIssues(&done.report.issues)).trim_end());
        print(&summary(&done));
    }
    if done.output_file.is_some() {
        return Ok(());
    }
    let message = if done.report.has_errors() {
        "not all of the input can be used, for the reasons above; nothing was written"
    } else if done.report.rows == 0 {
        "the input has no rows; nothing was written"
    } else {
        "nothing could be converted, for the reasons above; nothing was written"
    };
    Err(Error::new(ErrorKind::InvalidData, message).into())
}

fn summary(done: &Conversion) -> String {
    let report = &done.report;
    let mut text = String::new();
    for (role, file) in &done.files {
        text.push_str(&format!("{role}: {}\n", file.display()));
    }
    text.push_str(&format!(
        "{} records: {} rows with {} positives and {} negatives; {} joined to others, {} in the quarantine\n",
        report.rows, report.written, report.positives, report.negatives, report.merged, report.quarantined
    ));
    if let Some(file) = &done.output_file {
        text.push_str(&format!("rows: {}\n", file.display()));
    }
    if let Some(file) = &done.quarantine_file {
        text.push_str(&format!("quarantine: {}\n", file.display()));
    }
    text
}
