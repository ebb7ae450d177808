//! Where a run writes: every place is looked at before the work begins.

use std::path::{Path, PathBuf};

use crate::config::MineArguments;
use crate::error::{Error, ErrorKind, Result};

/// Refuses places that cannot be written, and places of files that are read.
pub(super) fn check_places(arguments: &MineArguments) -> Result<()> {
    let read = [Some(&arguments.input_file), arguments.candidate_pool.as_ref()];
    let read: Vec<PathBuf> = read
        .into_iter()
        .flatten()
        .filter_map(|path| real(Path::new(path)))
        .collect();
    let written = [
        ("output_file", Some(&arguments.output_file)),
        ("ledger", arguments.ledger.as_ref()),
        ("false_negatives", arguments.false_negatives.as_ref()),
    ];
    let mut taken: Vec<PathBuf> = Vec::new();
    for (field, path) in written {
        let Some(path) = path.map(Path::new) else { continue };
        let bad = |message: &str| {
            Err(Error::new(ErrorKind::Io, message)
                .with_path(path)
                .with_field(field))
        };
        if path.is_dir() {
            return bad("this is a folder; name a file");
        }
        let Some(place) = real(path) else {
            let message = "there is no such folder to write into; create it first";
            return Err(Error::new(ErrorKind::NotFound, message)
                .with_path(path)
                .with_field(field));
        };
        if read.contains(&place) {
            return bad("it is a file that is read; name another one");
        }
        if taken.contains(&place) {
            return bad("two results would be written to this file; name another one");
        }
        taken.push(place);
    }
    Ok(())
}

/// The place of a file without links and dots; none where its folder is missing.
fn real(path: &Path) -> Option<PathBuf> {
    if let Ok(place) = path.canonicalize() {
        return Some(place);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder
        .unwrap_or(Path::new("."))
        .canonicalize()
        .ok()
        .filter(|folder| folder.is_dir())?;
    Some(folder.join(path.file_name()?))
}
