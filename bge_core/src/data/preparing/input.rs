//! Files that are read from front to back, packed or not.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;

use super::{Passed, Watch};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read at once; whoever watches is told as often.
const CHUNK: usize = 1 << 18;

/// Reads files one after another and tells who watches.
pub(super) struct Inputs<'a> {
    passed: Passed,
    watch: Watch<'a>,
    chunk: Vec<u8>,
}

impl<'a> Inputs<'a> {
    /// Starts; each of these files will be read so many times.
    pub(super) fn new(files: &[PathBuf], times: u64, watch: Watch<'a>) -> Self {
        let size = |file: &PathBuf| fs::metadata(file).map_or(0, |metadata| metadata.len());
        Self {
            passed: Passed {
                bytes: 0,
                total: times * files.iter().map(size).sum::<u64>(),
            },
            watch,
            chunk: vec![0; CHUNK],
        }
    }

    /// Reads a file and hands over its bytes, unpacked.
    pub(super) fn read(&mut self, path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let packed = is_packed(path);
        let doing = if packed {
            "read this file; the .gz file may be cut off or damaged"
        } else {
            "read this file"
        };
        let failed = |error| Error::io(path, doing, error);
        let file = File::open(path).map_err(|error| Error::io(path, "open this file", error))?;
        let (read, before) = (Rc::new(Cell::new(0)), self.passed.bytes);
        let file = Counted {
            file,
            read: Rc::clone(&read),
        };
        let mut reader: Box<dyn Read> = if packed {
            Box::new(MultiGzDecoder::new(io::BufReader::new(file)))
        } else {
            Box::new(file)
        };
        loop {
            let length = match reader.read(&mut self.chunk) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            take(self.chunk.get(..length).unwrap_or_default())?;
            self.passed.bytes = before + read.get();
            if (self.watch)(self.passed) == ControlFlow::Break(()) {
                let message = "stopped before the end; nothing was written";
                return Err(Error::new(ErrorKind::Cancelled, message));
            }
        }
        Ok(())
    }
}

/// Whether a file is packed, by its name.
pub(super) fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gz"))
}

/// A file that counts what was read of it.
struct Counted {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(out)?;
        self.read.set(self.read.get() + length as u64);
        Ok(length)
    }
}
