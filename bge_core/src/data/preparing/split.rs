//! `bge split`: train and dev without a query or a positive on both sides.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Watch;
use super::input::Inputs;
use super::output::{guard, real};
use crate::config::{Checked, SplitConfig};
use crate::data::source::find_packed_too;
use crate::data::split::{Groups, Sides, SplitOptions, SplitReport};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::files::NewFile;
use crate::issue::Issue;

/// What a split into train and dev did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Splitting {
    /// Rows and groups.
    #[serde(flatten)]
    pub report: SplitReport,
    /// The file with the rows to train on.
    pub train_file: PathBuf,
    /// The file with the rows to measure with.
    pub dev_file: PathBuf,
    /// Files that were not read, and the like.
    #[serde(skip)]
    pub notes: Vec<Issue>,
}

/// Splits files into train and dev, each of which gets at least one row.
pub fn split_files(config: &Checked<SplitConfig>, watch: Watch<'_>) -> Result<Splitting> {
    let split = &config.split;
    let (Some(train), Some(dev)) = (&split.train_file, &split.dev_file) else {
        bail!(InvalidConfig, "a split by length has no train and dev");
    };
    let (train, dev) = (Path::new(train), Path::new(dev));
    let sources = find_packed_too(&split.input_path)?;
    let files: Vec<PathBuf> = sources.files.into_iter().map(|file| file.path).collect();
    guard("train_file", train, &files, split.overwrite)?;
    guard("dev_file", dev, &files, split.overwrite)?;
    if real(train) == real(dev) {
        let error = Error::new(
            ErrorKind::InvalidConfig,
            "it is the file of train; give another name",
        );
        return Err(error.with_path(dev).with_field("dev_file"));
    }
    let mut inputs = Inputs::new(&files, 2, watch);
    let options = SplitOptions {
        dev_share: split.dev_share,
        seed: split.seed,
        negatives_too: split.negatives_too,
    };
    let mut groups = Groups::new(options);
    for file in &files {
        inputs.read(file, |bytes| {
            groups.push(bytes);
            Ok(())
        })?;
        groups.end_file();
    }
    let mut sides = groups.finish();
    let report = sides.report();
    judge(&report, &options)?;
    let (mut train_file, mut dev_file) = (NewFile::start(train)?, NewFile::start(dev)?);
    let mut out = Sides::default();
    let mut drain = |out: &mut Sides| {
        train_file.write(&out.train)?;
        dev_file.write(&out.dev)?;
        out.train.clear();
        out.dev.clear();
        Ok(())
    };
    for file in &files {
        inputs.read(file, |bytes| {
            sides.push(bytes, &mut out);
            drain(&mut out)
        })?;
        sides.end_file(&mut out);
        drain(&mut out)?;
    }
    train_file.finish()?;
    dev_file.finish()?;
    Ok(Splitting {
        report,
        train_file: train.to_path_buf(),
        dev_file: dev.to_path_buf(),
        notes: sources.notes,
    })
}

/// Refuses a split that leaves a side empty, and says why it would.
fn judge(report: &SplitReport, options: &SplitOptions) -> Result<()> {
    let rows = report.train + report.dev;
    if rows > 0 && report.dev > 0 && report.train > 0 {
        return Ok(());
    }
    let (share, unreadable) = (options.dev_share, report.unreadable);
    let message = if rows == 0 && unreadable > 0 {
        format!("none of the {unreadable} rows can be trained on; `bge validate` says why")
    } else if rows == 0 {
        "the input has no rows".to_owned()
    } else if share * (rows as f64) < 1.0 {
        format!("a share of {share} of {rows} rows is none; raise --dev_share")
    } else if report.groups == 1 {
        let way_out = if options.negatives_too {
            "; leave out --negatives_too"
        } else {
            " and cannot be split"
        };
        format!("dev would get no row: all {rows} rows are linked by texts that they share{way_out}")
    } else {
        format!(
            "dev would get no row: each of the {} groups of rows that share texts is larger than a share of {share} of {rows} \
             rows; raise --dev_share",
            report.groups
        )
    };
    Err(Error::new(ErrorKind::InvalidData, message))
}
