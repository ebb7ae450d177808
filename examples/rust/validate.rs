//! Checks training data, as `bge validate` does: `validate [FILE_OR_FOLDER...]`.

#![allow(clippy::print_stdout, reason = "a program that prints")]

use std::process::ExitCode;

use bge_core::Severity;
use bge_core::data::ValidationOptions;
use bge_core::data::preflight::validate_files;
use bge_examples::toy_data;

fn main() -> bge_core::Result<ExitCode> {
    let mut options = ValidationOptions::default();
    options.data.train_data = std::env::args().skip(1).collect();
    if options.data.train_data.is_empty() {
        options.data.train_data = vec![toy_data().display().to_string()];
    }
    // What is right depends on how it will be trained on: the toy rows have three negatives each.
    options.data.train_group_size = 4;

    // The second argument may count tokens; the third hears of the progress and could stop.
    let report = validate_files(options, None, |_| true)?;

    // As text for people ...
    println!("{report}");

    // ... and as values for programs: every finding has a stable code, and the first few of each their places.
    for group in report
        .issues
        .iter()
        .filter(|group| group.severity != Severity::Info)
    {
        println!("{}, {} times, such as", group.code, group.total);
        for issue in &group.first {
            println!("  {issue}");
        }
    }
    Ok(if report.has_errors() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
