//! `bge repair`: mends training rows, and sets aside what cannot be mended.

use bge_core::config::RepairConfig;
use bge_core::data::ShowIssues;
use bge_core::data::preparing::{Repairing, repair_files};
use bge_core::{Error, ErrorKind};
use serde_json::json;

use crate::command::{Outcome, checked, print, say, settings_of_files};
use crate::finetune::stopper;
use crate::progress::over_files;

const USAGE: &str = "\
usage: bge repair FILE_OR_FOLDER... --output FILE.jsonl [--quarantine FILE] [FLAGS]

Writes the rows that are sound or can be mended. A row with nothing to mend keeps its bytes; the others go to the quarantine,
each with its file, line and reason, or are dropped where an earlier row says the same. Inputs may be packed as .gz.
";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let settings = settings_of_files::<RepairConfig>(USAGE, args, "input_path")?;
    let config = checked(settings.arguments.check())?;
    let stopper = stopper()?;
    let done = repair_files(&config, &mut over_files(&stopper))?;
    done.notes.iter().for_each(say);
    if settings.json {
        print(&format!("{}\n", json!(done)));
    } else {
        say(format!("{}", ShowIssues(&done.report.issues)).trim_end());
        print(&summary(&done));
    }
    if done.output_file.is_some() {
        return Ok(());
    }
    let message = if done.report.rows == 0 {
        "the input has no rows; nothing was written"
    } else {
        "no row can be mended; nothing was written, and the first places are named above"
    };
    Err(Error::new(ErrorKind::InvalidData, message).into())
}

fn summary(done: &Repairing) -> String {
    let report = &done.report;
    let mut text = format!(
        "{} rows: {} kept, {} of them mended; {} dropped as repeated, {} in the quarantine\n",
        report.rows, report.kept, report.mended, report.repeated, report.quarantined
    );
    for (code, rows) in &report.fixes {
        text.push_str(&format!("  {rows:>8}  {code}\n"));
    }
    if report.duplicates_bounded {
        text.push_str("there are more rows than the search for repeated ones remembers; some may be left\n");
    }
    if let Some(file) = &done.output_file {
        text.push_str(&format!("rows: {}\n", file.display()));
    }
    if let Some(file) = &done.quarantine_file {
        text.push_str(&format!("quarantine: {}\n", file.display()));
    }
    text
}
