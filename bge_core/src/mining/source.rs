//! A file of JSON rows that stays on disk: its rows are found once, and parts of it are read again by offset.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::data::beir::join_title;
use crate::data::lines::{DEFAULT_LIMIT, Found, Line, LineSplitter};
use crate::error::{Error, ErrorKind, Result};
use crate::files;

/// Bytes that are read at once while rows are looked for.
const CHUNK: usize = 1 << 20;

/// Where a piece of JSON stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl Place {
    /// The place of `part`, which is a part of the bytes of `line`.
    pub(super) fn of(part: &str, line: &Line<'_>) -> Self {
        let inside = part.as_ptr().addr().saturating_sub(line.bytes.as_ptr().addr());
        Self {
            offset: line.offset + inside as u64,
            length: part.len() as u32,
        }
    }

    /// The place of a whole row.
    pub(super) const fn of_line(line: &Line<'_>) -> Self {
        Self {
            offset: line.offset,
            length: line.bytes.len() as u32,
        }
    }
}

/// One open file of rows.
#[derive(Debug)]
pub(super) struct Source {
    /// The file as the user named it.
    path: PathBuf,
    file: File,
}

impl Source {
    /// Opens a file; one that ends in `.gz` is unpacked to the place `plain` first.
    pub(super) fn open(path: &Path, plain: &Path) -> Result<Self> {
        if path.is_dir() {
            let message = "this is a folder, not a file of JSON rows";
            return Err(Error::new(ErrorKind::InvalidData, message).with_path(path));
        }
        let open = |error| Error::io(path, "open this file", error);
        let mut file = File::open(path).map_err(open)?;
        if path.extension().is_some_and(|extension| extension == "gz") {
            unpack(file, path, plain)?;
            file = File::open(plain).map_err(|error| Error::io(plain, "open this file", error))?;
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// The file as the user named it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every row that is not blank to `each`, and stops at the first error, which gets path and line.
    pub(super) fn scan(&self, mut each: impl FnMut(&Line<'_>) -> Result<()>) -> Result<()> {
        let mut splitter = LineSplitter::default();
        let mut failed: Option<Error> = None;
        let mut look = |found: Found<'_>| {
            if failed.is_some() {
                return;
            }
            let bad = |message: String, line| Error::new(ErrorKind::InvalidData, message).with_line(line);
            failed = match found {
                Found::Record(line) => each(&line).err().map(|error| error.with_line(line.number)),
                Found::TooLong(line) => {
                    let message = format!(
                        "the row has {} bytes, more than {DEFAULT_LIMIT}; is the file one object per line?",
                        line.length
                    );
                    Some(bad(message, line.number))
                }
                Found::BadArray { line, message } => Some(bad(message.to_owned(), line)),
            };
        };
        let mut offset = 0;
        let mut chunk = vec![0; CHUNK];
        let mut done = false;
        while !done {
            let read = read_some(&self.file, &mut chunk, offset)
                .map_err(|error| Error::io(&self.path, "read this file", error))?;
            splitter.push(chunk.get(..read).unwrap_or_default(), &mut look);
            offset += read as u64;
            done = read == 0;
        }
        splitter.finish(&mut look);
        failed.map_or(Ok(()), |error| Err(error.with_path(&self.path)))
    }

    /// The bytes of a place.
    pub(super) fn bytes(&self, place: Place) -> Result<Vec<u8>> {
        let mut bytes = vec![0; place.length as usize];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = read_some(&self.file, rest, place.offset + filled as u64)
                .map_err(|error| Error::io(&self.path, "read this file", error))?;
            if read == 0 {
                return Err(self.changed());
            }
            filled += read;
        }
        Ok(bytes)
    }

    /// The text of a place that holds a JSON string.
    pub(super) fn text(&self, place: Place) -> Result<String> {
        let bytes = self.bytes(place)?;
        serde_json::from_slice(&bytes).map_err(|error| self.changed().with_source(error))
    }

    /// The text of a place that holds a document.
    pub(super) fn document(&self, place: Place) -> Result<String> {
        let bytes = self.bytes(place)?;
        let document = RawObject::parse(&bytes).and_then(|object| object.document());
        document.map_err(|error| self.changed().with_source(error))
    }

    /// The error for a file that is not what it was when its rows were found.
    pub(super) fn changed(&self) -> Error {
        let message = "the file changed during the run; start again when it is complete";
        Error::new(ErrorKind::InvalidData, message).with_path(&self.path)
    }
}

/// Reads what one call gives, without moving a cursor that other threads share.
#[cfg(unix)]
fn read_some(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

/// Reads what one call gives.
#[cfg(windows)]
fn read_some(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

fn unpack(packed: File, path: &Path, plain: &Path) -> Result<()> {
    let mut reader = MultiGzDecoder::new(packed);
    let mut chunk = vec![0; CHUNK];
    let mut damage = None;
    files::write_whole(plain, |file| {
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(read) => file.write_all(chunk.get(..read).unwrap_or_default())?,
                Err(error) => {
                    damage = Some(error);
                    return Ok(());
                }
            }
        }
    })?;
    match damage {
        Some(error) => Err(Error::io(
            path,
            "unpack this file; it may be cut off or damaged",
            error,
        )),
        None => Ok(()),
    }
}

/// A JSON object as it is written: its keys in order, its values as text.
pub(super) struct RawObject<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'a> RawObject<'a> {
    /// Reads one object. Callers have parsed the same bytes before, so that an error is all but impossible.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::new(ErrorKind::InvalidData, "the row is not a JSON object").with_source(error)
        })
    }

    /// The value of a key as text.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.get())
    }

    /// A document as one text, its title before it, as in training rows and evaluation.
    pub(super) fn document(&self) -> Result<String> {
        let read = |key: &str| {
            let raw = self.get(key).filter(|raw| *raw != "null");
            raw.map(serde_json::from_str::<String>)
                .transpose()
                .map_err(|_| Error::new(ErrorKind::InvalidData, "must be a text").with_field(key))
        };
        let text = read("text")?.ok_or_else(|| {
            let message = "is missing; every line of a candidate pool needs one text";
            Error::new(ErrorKind::InvalidData, message).with_field("text")
        })?;
        Ok(match read("title")? {
            Some(title) if !title.trim().is_empty() => join_title(&title, &text),
            _ => text,
        })
    }

    /// The elements of a list as text; none for a missing key or `null`.
    pub(super) fn list(&self, key: &str) -> Vec<&'a str> {
        let elements: Option<Vec<&RawValue>> = self.get(key).and_then(|list| serde_json::from_str(list).ok());
        elements
            .unwrap_or_default()
            .into_iter()
            .map(RawValue::get)
            .collect()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        reader.deserialize_map(Pairs).map(RawObject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_again_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let rows = "\u{feff}\n{\"a\": 1, \"pos\": [\"x\\n\u{e9}\", \"y\"]}\r\n{\"pos\":[ \"z\" ]}";
        std::fs::write(&path, rows).unwrap();
        let source = Source::open(&path, &folder.path().join("plain")).unwrap();
        let (mut places, mut lines) = (Vec::new(), Vec::new());
        source
            .scan(|line| {
                lines.push(line.number);
                for text in RawObject::parse(line.bytes)?.list("pos") {
                    places.push(Place::of(text, line));
                }
                Ok(())
            })
            .unwrap();
        let texts: Vec<String> = places.iter().map(|place| source.text(*place).unwrap()).collect();
        assert_eq!(texts, ["x\n\u{e9}", "y", "z"]);
        assert_eq!(lines, [2, 3]);
        std::fs::write(&path, "{}").unwrap();
        let error = source.text(places[0]).unwrap_err();
        assert!(error.to_string().contains("changed during the run"), "{error}");
    }

    #[test]
    fn an_error_names_file_and_line_and_ends_the_scan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        std::fs::write(&path, "[{},\n{},\n{}").unwrap();
        let source = Source::open(&path, &folder.path().join("plain")).unwrap();
        let mut seen = 0;
        let error = source
            .scan(|_| {
                seen += 1;
                Ok(())
            })
            .unwrap_err();
        assert_eq!((seen, error.line()), (3, Some(3)));
        let error = source
            .scan(|line| match line.number {
                2 => Err(Error::new(ErrorKind::InvalidData, "no")),
                _ => Ok(()),
            })
            .unwrap_err();
        assert!(error.to_string().ends_with("rows.json:2: no"), "{error}");
    }

    #[test]
    fn a_packed_file_is_read_like_a_plain_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl.gz");
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(b"{\"pos\": [\"a\"]}\n").unwrap();
        let packed = packer.finish().unwrap();
        std::fs::write(&path, &packed).unwrap();
        let mut rows = 0;
        let source = Source::open(&path, &folder.path().join("plain")).unwrap();
        source
            .scan(|_| {
                rows += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(rows, 1);
        std::fs::write(&path, packed.get(..packed.len() - 9).unwrap()).unwrap();
        let error = Source::open(&path, &folder.path().join("plain")).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }
}
