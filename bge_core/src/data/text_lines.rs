//! Numbered text lines of a file, plain or `.gz`, with every failure at its line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Calls `each(line number, text)` for every line that is not blank; numbers count from 1 and include blank ones.
///
/// A byte order mark and carriage returns at line ends are dropped. Text that is not UTF-8, a damaged `.gz` and
/// errors of the system name the line where reading stopped.
pub(crate) fn for_each_line(path: &Path, mut each: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(|error| Error::io(path, "open the file", error))?;
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    #[cfg(feature = "model")]
    let reader: Box<dyn Read> = if packed {
        Box::new(flate2::read::MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    #[cfg(not(feature = "model"))]
    let reader: Box<dyn Read> = if packed {
        let message = "this build cannot unpack .gz files; unpack it with gunzip";
        return Err(Error::new(ErrorKind::Unsupported, message).with_path(path));
    } else {
        Box::new(file)
    };
    let mut reader = BufReader::with_capacity(1 << 18, reader);
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        bytes.clear();
        number += 1;
        let read = reader.read_until(b'\n', &mut bytes).map_err(|error| {
            let doing = if packed {
                "read the line; the .gz file may be cut off or damaged"
            } else {
                "read the line"
            };
            Error::io(path, doing, error).with_line(number)
        })?;
        if read == 0 {
            return Ok(());
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            Error::new(
                ErrorKind::InvalidData,
                format!(
                    "byte {} of the line is not UTF-8; convert the file to UTF-8",
                    error.valid_up_to() + 1
                ),
            )
            .with_path(path)
            .with_line(number)
        })?;
        let text = if number == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        };
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            each(number, text)?;
        }
    }
}
