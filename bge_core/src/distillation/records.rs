//! The records of a file that is larger than memory, one after another.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::data::lines::{Found, LineSplitter};
use crate::error::{Error, ErrorKind, Result};

const CHUNK: usize = 1 << 20;

/// One record: its line number and its bytes.
pub(super) type Record = (u64, Vec<u8>);

/// Reads JSON lines, or the elements of a JSON array, in order. Blank lines do not count.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    file: File,
    splitter: LineSplitter,
    ready: VecDeque<Result<Record>>,
    chunk: Vec<u8>,
    ended: bool,
}

impl Records {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error| Error::io(path, "read this file", error);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            let message = "this is not a file; it is read more than once, so a pipe will not do";
            return Err(Error::new(ErrorKind::InvalidData, message).with_path(path));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file: File::open(path).map_err(failed)?,
            splitter: LineSplitter::default(),
            ready: VecDeque::new(),
            chunk: vec![0; CHUNK],
            ended: false,
        })
    }

    /// The next record, none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return record.map(Some).map_err(|error| error.with_path(&self.path));
            }
            if self.ended {
                return Ok(None);
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<()> {
        let Self {
            path,
            file,
            splitter,
            ready,
            chunk,
            ended,
        } = self;
        let read = match file.read(chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            read => read.map_err(|error| Error::io(path, "read this file", error))?,
        };
        let take = |found: Found<'_>| {
            ready.push_back(match found {
                Found::Record(line) => Ok((line.number, line.bytes.to_vec())),
                Found::TooLong(line) => Err(bad("the row is longer than 64 MiB; split it", line.number)),
                Found::BadArray { line, message } => Err(bad(message, line)),
            });
        };
        if read == 0 {
            *ended = true;
            splitter.finish(take);
        } else {
            splitter.push(chunk.get(..read).unwrap_or_default(), take);
        }
        Ok(())
    }
}

fn bad(message: &str, line: u64) -> Error {
    Error::new(ErrorKind::InvalidData, message).with_line(line)
}
