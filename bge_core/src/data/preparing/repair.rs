//! `bge repair`: one file of sound rows, and a quarantine for the others.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Watch;
use super::input::Inputs;
use super::output::{Maybe, guard, quarantine_of};
use crate::config::{Checked, RepairConfig};
use crate::data::repair::{Repair, RepairOptions, RepairReport, Repaired};
use crate::data::source::find_packed_too;
use crate::error::Result;
use crate::issue::Issue;

/// What a repair of files did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repairing {
    /// Rows and their fates.
    #[serde(flatten)]
    pub report: RepairReport,
    /// Where the rows are; `None` where none is left, and nothing was written.
    pub output_file: Option<PathBuf>,
    /// Where the rows are that could not be mended, if there are any.
    pub quarantine_file: Option<PathBuf>,
    /// Files that were not read, and the like.
    #[serde(skip)]
    pub notes: Vec<Issue>,
}

/// Repairs files into one.
pub fn repair_files(config: &Checked<RepairConfig>, watch: Watch<'_>) -> Result<Repairing> {
    let repair = &config.repair;
    let sources = find_packed_too(&repair.input_path)?;
    let files: Vec<PathBuf> = sources.files.into_iter().map(|file| file.path).collect();
    let output = Path::new(&repair.output_file);
    let aside = quarantine_of(&repair.output_file, repair.quarantine_file.as_deref());
    guard("output_file", output, &files, repair.overwrite)?;
    guard("quarantine_file", &aside, &files, repair.overwrite)?;
    let (mut rows, mut aside) = (Maybe::new(output.to_path_buf()), Maybe::new(aside));
    let mut work = Repair::new(RepairOptions {
        drop_repeated_rows: repair.drop_repeated_rows,
        require_negatives: repair.require_negatives,
        ..RepairOptions::default()
    });
    let mut out = Repaired::default();
    let mut drain = |out: &mut Repaired| {
        rows.drain(&mut out.cleaned)?;
        aside.drain(&mut out.quarantine)
    };
    let mut inputs = Inputs::new(&files, 1, watch);
    for file in &files {
        work.start_file(&file.display().to_string(), &mut out);
        inputs.read(file, |bytes| {
            work.push(bytes, &mut out);
            drain(&mut out)
        })?;
    }
    let report = work.finish(&mut out);
    drain(&mut out)?;
    let mut done = Repairing {
        report,
        output_file: None,
        quarantine_file: None,
        notes: sources.notes,
    };
    if done.report.kept > 0 {
        done.quarantine_file = aside.finish()?;
        done.output_file = rows.finish()?;
    }
    Ok(done)
}
