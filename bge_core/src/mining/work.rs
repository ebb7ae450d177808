//! The hidden folder beside the output: what is done so far, so that a killed run goes on where it was.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::MineReport;
use crate::error::{Error, ErrorKind, Result};
use crate::files;

/// The folder of one output file. Unless told to stay it vanishes with the value that stands for it.
#[derive(Debug)]
pub(super) struct Work {
    path: PathBuf,
    stays: bool,
    _lock: File,
}

impl Work {
    /// Opens or makes the folder for an output, and keeps other runs out of it.
    pub(super) fn open(output: &Path) -> Result<Self> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let path = output.with_file_name(format!(".{name}.mining"));
        let there = path.is_dir();
        let failed = |error| Error::io(output, "make a folder beside this file", error);
        if !there {
            fs::create_dir(&path).map_err(failed)?;
        }
        let lock = File::create(path.join("lock")).map_err(failed)?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            let message = "another run is mining for this file; wait for it, or name another output_file";
            return Err(Error::new(ErrorKind::Io, message).with_path(output));
        }
        // What an earlier run left is not thrown away because this one is wrong about something.
        Ok(Self {
            path,
            stays: there,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether vectors or rows were finished that a later run can use.
    pub(super) fn has_vectors(&self) -> bool {
        let large = |entry: fs::DirEntry| entry.metadata().is_ok_and(|data| data.len() > 4096);
        fs::read_dir(&self.path).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name();
                name.to_string_lossy().contains(".vectors") && large(entry)
            })
        })
    }

    /// From now on there is something in the folder that a later run can use.
    pub(super) const fn stay(&mut self) {
        self.stays = true;
    }

    /// Removes the folder.
    pub(super) const fn leave(&mut self) {
        self.stays = false;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.stays {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The files a run makes; the ledger and the suspects only where they are asked for.
pub(super) const PARTS: usize = 3;

/// How far the rows of a run are done.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct Progress {
    /// A hash of everything that decides the bytes of the parts.
    key: String,
    /// Rows done.
    pub(super) rows: usize,
    /// Bytes of each part up to there.
    bytes: [u64; PARTS],
    pub(super) report: MineReport,
}

/// The parts of a run, which grow row by row.
#[derive(Debug)]
pub(super) struct Parts {
    folder: PathBuf,
    files: [Option<(PathBuf, File)>; PARTS],
    pub(super) progress: Progress,
}

impl Parts {
    /// Goes on with the parts of an interrupted run with the same key, or starts anew.
    pub(super) fn open(
        work: &Work,
        key: &str,
        names: [Option<&str>; PARTS],
        report: MineReport,
    ) -> Result<Self> {
        let folder = work.path().to_path_buf();
        let saved = fs::read(folder.join("progress.json")).ok();
        let saved = saved.and_then(|bytes| serde_json::from_slice::<Progress>(&bytes).ok());
        let fresh = Progress {
            key: key.to_owned(),
            report,
            ..Progress::default()
        };
        let mut progress = saved
            .filter(|saved| saved.key == key)
            .unwrap_or_else(|| fresh.clone());
        let mut files = [None, None, None];
        for (file, name) in files.iter_mut().zip(names) {
            let Some(name) = name else { continue };
            let path = folder.join(name);
            let failed = |error| Error::io(&path, "write this file", error);
            let opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(failed)?;
            *file = Some((path, opened));
        }
        let whole = files.iter().zip(progress.bytes).all(|(file, bytes)| {
            file.as_ref()
                .is_none_or(|(_, file)| file.metadata().is_ok_and(|data| data.len() >= bytes))
        });
        if !whole {
            progress = fresh;
        }
        for (part, bytes) in files.iter_mut().zip(progress.bytes) {
            if let Some((path, file)) = part {
                let cut = file
                    .set_len(bytes)
                    .and_then(|()| file.seek(SeekFrom::Start(bytes)));
                cut.map_err(|error| Error::io(&path, "write this file", error))?;
            }
        }
        Ok(Self {
            folder,
            files,
            progress,
        })
    }

    /// Appends to a part.
    pub(super) fn append(&mut self, part: usize, bytes: &[u8]) -> Result<()> {
        if let Some(Some((path, file))) = self.files.get_mut(part) {
            file.write_all(bytes)
                .map_err(|error| Error::io(&path, "write this file", error))?;
            if let Some(sum) = self.progress.bytes.get_mut(part) {
                *sum += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Makes sure that everything so far is on disk, and notes it.
    pub(super) fn save(&mut self) -> Result<()> {
        for (path, file) in self.files.iter().flatten() {
            file.sync_data()
                .map_err(|error| Error::io(path, "write this file", error))?;
        }
        let text = serde_json::to_vec(&self.progress).map_err(|error| {
            Error::new(ErrorKind::Internal, "progress cannot be written").with_source(error)
        })?;
        files::write_whole(&self.folder.join("progress.json"), |file| file.write_all(&text))
    }

    /// Copies a part to its place, whole or not at all.
    pub(super) fn publish(&self, part: usize, place: &Path) -> Result<()> {
        if let Some(Some((path, _))) = self.files.get(part) {
            let mut read = File::open(path).map_err(|error| Error::io(path, "read this file", error))?;
            files::write_whole(place, |file| std::io::copy(&mut read, file).map(|_| ()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_go_on_where_the_last_save_was() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let names = [Some("output"), None, Some("suspects")];
        let report = MineReport::default();
        {
            let mut work = Work::open(&output).unwrap();
            work.stay();
            assert!(
                Work::open(&output)
                    .unwrap_err()
                    .to_string()
                    .contains("another run")
            );
            let mut parts = Parts::open(&work, "k", names, report.clone()).unwrap();
            parts.append(0, b"one\n").unwrap();
            parts.append(1, b"nobody asked").unwrap();
            parts.append(2, b"s\n").unwrap();
            parts.progress.rows = 1;
            parts.progress.report.negatives = 7;
            parts.save().unwrap();
            parts.append(0, b"lost").unwrap();
        }
        let mut work = Work::open(&output).unwrap();
        let mut parts = Parts::open(&work, "k", names, report.clone()).unwrap();
        assert_eq!((parts.progress.rows, parts.progress.report.negatives), (1, 7));
        parts.append(0, b"two\n").unwrap();
        parts.publish(0, &output).unwrap();
        assert_eq!(fs::read_to_string(&output).unwrap(), "one\ntwo\n");
        let other = Parts::open(&work, "other settings", names, report.clone()).unwrap();
        assert_eq!(other.progress.rows, 0);
        drop(other);
        // Parts that are shorter than what is noted are not trusted.
        let mut parts = Parts::open(&work, "k", names, report).unwrap();
        assert_eq!(parts.progress.rows, 0);
        parts.save().unwrap();
        work.leave();
        drop(work);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
