//! Files that are written: nothing is lost by them, and they are whole or not there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::files::NewFile;

/// Refuses an output that exists, unless it may be replaced, and one that is an input.
pub(super) fn guard(field: &str, place: &Path, inputs: &[PathBuf], overwrite: bool) -> Result<()> {
    let refused = |message: &str| {
        let error = Error::new(ErrorKind::InvalidConfig, message);
        Err(error.with_path(place).with_field(field))
    };
    if place.is_dir() {
        return refused("this is a folder; give the name of a file");
    }
    let Ok(real) = fs::canonicalize(place) else {
        return Ok(());
    };
    if inputs
        .iter()
        .any(|input| fs::canonicalize(input).is_ok_and(|input| input == real))
    {
        return refused("it is an input file, which would be overwritten; give another name");
    }
    if !overwrite {
        return refused("the file exists; give another name, or --overwrite to replace it");
    }
    Ok(())
}

/// The one spelling of a place, which need not exist.
pub(super) fn real(place: &Path) -> PathBuf {
    let place = std::path::absolute(place).unwrap_or_else(|_| place.to_path_buf());
    fs::canonicalize(&place).unwrap_or_else(|_| match (place.parent(), place.file_name()) {
        (Some(folder), Some(name)) => real(folder).join(name),
        _ => place.clone(),
    })
}

/// Where a quarantine goes that nobody gave a name.
pub(super) fn quarantine_of(output: &str, given: Option<&str>) -> PathBuf {
    given.map_or_else(|| PathBuf::from(format!("{output}.quarantine")), PathBuf::from)
}

/// A file that exists only if there is something to put into it.
#[derive(Debug)]
pub(super) struct Maybe {
    place: PathBuf,
    file: Option<NewFile>,
}

impl Maybe {
    pub(super) fn new(place: PathBuf) -> Self {
        Self { place, file: None }
    }

    /// Moves the bytes to the file.
    pub(super) fn drain(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(NewFile::start(&self.place)?),
        };
        file.write(bytes)?;
        bytes.clear();
        Ok(())
    }

    /// Holds no handle any longer; nothing more can be put in.
    pub(super) fn close(&mut self) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), NewFile::close)
    }

    /// Gives the file its name, and says it. Without content, an older file of this name, which would tell of another run, is
    /// removed.
    pub(super) fn finish(self) -> Result<Option<PathBuf>> {
        let Self { place, file } = self;
        if let Some(file) = file {
            file.finish()?;
            return Ok(Some(place));
        }
        match fs::remove_file(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(&place, "remove the file of an earlier run", error))
            }
            _ => Ok(None),
        }
    }
}
