//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Reads a text file; the error says what is wrong with it.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = read_bytes(path)?;
    String::from_utf8(bytes).map_err(|error| {
        let message = format!(
            "byte {} is not UTF-8; save the file as UTF-8",
            error.utf8_error().valid_up_to()
        );
        Error::new(ErrorKind::InvalidData, message).with_path(path)
    })
}

/// Reads a file; a folder in its place is named as such.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    if path.is_dir() {
        return Err(Error::new(ErrorKind::InvalidData, "this is a folder, not a file").with_path(path));
    }
    fs::read(path).map_err(|error| Error::io(path, "read this file", error))
}

/// Adds parts up to one content hash (BLAKE3); the borders of the parts count.
#[cfg(feature = "model")]
#[derive(Clone, Debug, Default)]
pub struct Digest(blake3::Hasher);

#[cfg(feature = "model")]
impl Digest {
    /// Adds bytes as one part.
    pub fn add(&mut self, part: &[u8]) -> &mut Self {
        self.0.update(part);
        self.end_part(part.len() as u64)
    }

    /// Adds the content of a file as one part, read in pieces.
    pub fn add_file(&mut self, path: &Path) -> Result<&mut Self> {
        let failed = |error| Error::io(path, "read this file", error);
        if path.is_dir() {
            return Err(Error::new(ErrorKind::InvalidData, "this is a folder, not a file").with_path(path));
        }
        let mut file = File::open(path).map_err(failed)?;
        let mut piece = vec![0; 1 << 20];
        let mut length = 0;
        loop {
            let read = match std::io::Read::read(&mut file, &mut piece) {
                Ok(0) => return Ok(self.end_part(length)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
                read => read.map_err(failed)?,
            };
            self.0.update(piece.get(..read).unwrap_or_default());
            length += read as u64;
        }
    }

    /// The hash of all parts so far: 64 hexadecimal digits.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }

    /// The first 128 bits of the hash of all parts so far.
    pub(crate) fn short(&self) -> [u8; 16] {
        let mut short = [0; 16];
        self.0.finalize_xof().fill(&mut short);
        short
    }

    /// The length behind a part keeps `ab`, `c` apart from `a`, `bc`.
    fn end_part(&mut self, length: u64) -> &mut Self {
        self.0.update(&length.to_le_bytes());
        self
    }
}

/// The content hash of some bytes: 64 hexadecimal digits.
#[cfg(feature = "model")]
pub fn hash_bytes(bytes: &[u8]) -> String {
    Digest::default().add(bytes).finish()
}

/// The content hash of a file, the same as [`hash_bytes`] of what it holds.
#[cfg(feature = "model")]
pub fn hash_file(path: &Path) -> Result<String> {
    Ok(Digest::default().add_file(path)?.finish())
}

/// Writes a file beside its place, makes sure that it is on disk, and moves it there.
pub fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    write_beside(
        &path.with_file_name(format!(".{name}.{}.part", std::process::id())),
        path,
        write,
    )
}

/// As [`write_whole`] with a name for the unfinished file that the caller has to itself, so that a killed run's is overwritten.
pub(crate) fn write_beside(
    beside: &Path,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let result = (|| {
        let mut file = BufWriter::new(File::create(beside)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(beside, path)
    })();
    result.map_err(|error| {
        let _ = fs::remove_file(beside);
        Error::io(path, "write this file", error)
    })
}

/// Removes what killed runs left half-written of a file, the `.NAME.PID.part` of [`write_whole`].
///
/// Only for a caller that holds a lock under which no other process writes this file.
#[cfg(feature = "model")]
pub(crate) fn remove_leftovers(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let head = format!(".{name}.");
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(parent) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let middle = found
            .to_str()
            .and_then(|found| found.strip_prefix(&head)?.strip_suffix(".part"));
        if middle.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())) {
            let path = entry.path();
            fs::remove_file(&path)
                .map_err(|error| Error::io(&path, "remove what an interrupted run left", error))?;
        }
    }
    Ok(())
}

/// A file under construction: it gets its name only when it is complete, and vanishes otherwise.
#[derive(Debug)]
pub struct NewFile {
    /// `None` once it is closed.
    file: Option<BufWriter<File>>,
    beside: PathBuf,
    place: PathBuf,
    done: bool,
    /// Dropped after the file is removed.
    _made: MadeFolders,
}

impl NewFile {
    /// Starts a file that will be `place`; folders on the way are made.
    pub fn start(place: &Path) -> Result<Self> {
        if place.is_dir() {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "this is a folder, not a file").with_path(place),
            );
        }
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let beside = place.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let made = MadeFolders::around(place)?;
        let file = File::create(&beside).map_err(|error| Error::io(place, "write this file", error))?;
        Ok(Self {
            file: Some(BufWriter::new(file)),
            beside,
            place: place.to_path_buf(),
            done: false,
            _made: made,
        })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().ok_or(std::io::ErrorKind::BrokenPipe.into());
        let written = file.and_then(|file| file.write_all(bytes));
        written.map_err(|error| Error::io(&self.place, "write this file", error))
    }

    /// Makes sure that all bytes are on disk and holds no handle any longer; nothing can be written after it.
    pub fn close(&mut self) -> Result<()> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        let closed = file.flush().and_then(|()| file.get_ref().sync_all());
        closed.map_err(|error| Error::io(&self.place, "write this file", error))
    }

    /// Closes the file and gives it its name; an older file there is replaced.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        let moved = fs::rename(&self.beside, &self.place);
        moved.map_err(|error| Error::io(&self.place, "write this file", error))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Folders that were made, the innermost first; those that are empty when this is dropped are removed.
#[derive(Debug)]
pub(crate) struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    /// Makes the folders on the way to a file.
    pub(crate) fn around(place: &Path) -> Result<Self> {
        let folders = place
            .ancestors()
            .skip(1)
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let made = Self(folders.map(Path::to_path_buf).collect());
        if let Some(parent) = made.0.first() {
            fs::create_dir_all(parent).map_err(|error| Error::io(parent, "create this folder", error))?;
        }
        Ok(made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Fails where something is in it, as it should.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A folder under construction: it gets its name only when it is complete, and vanishes otherwise.
#[derive(Debug)]
pub struct NewFolder {
    beside: PathBuf,
    place: PathBuf,
    done: bool,
}

impl NewFolder {
    /// Starts a folder that will be `place`.
    pub fn start(place: &Path) -> Result<Self> {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let beside = place.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let parent = place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| Error::io(parent, "create this folder", error))?;
        if beside.exists() {
            fs::remove_dir_all(&beside).map_err(|error| Error::io(&beside, "remove this folder", error))?;
        }
        fs::create_dir(&beside).map_err(|error| Error::io(&beside, "create this folder", error))?;
        Ok(Self {
            beside,
            place: place.to_path_buf(),
            done: false,
        })
    }

    /// Where to write its files meanwhile.
    pub fn path(&self) -> &Path {
        &self.beside
    }

    /// Makes sure that all files are on disk and gives the folder its name; an older folder there is replaced.
    pub fn finish(mut self) -> Result<()> {
        sync_tree(&self.beside)?;
        let failed = |error| Error::io(&self.place, "move the finished folder here", error);
        if self.place.exists() {
            let old = self.beside.with_extension("old");
            fs::rename(&self.place, &old).map_err(failed)?;
            fs::rename(&self.beside, &self.place).map_err(failed)?;
            fs::remove_dir_all(&old).map_err(|error| Error::io(&old, "remove the replaced folder", error))?;
        } else {
            fs::rename(&self.beside, &self.place).map_err(failed)?;
        }
        self.done = true;
        let parent = self
            .place
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new(".")))
    }
}

/// Removes what a killed run left half-written in a folder: the `.NAME.PID.part` of [`NewFile`] and [`NewFolder`]. What a
/// folder was to be replaced by and was not, `.NAME.PID.old`, gets its name back.
#[cfg(feature = "model")]
pub(crate) fn sweep(folder: &Path) -> Result<()> {
    let failed = |error| Error::io(folder, "list this folder", error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let mut parts = name.strip_prefix('.').unwrap_or_default().rsplitn(3, '.');
        let (Some(ending), Some(process), Some(place)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if !matches!(ending, "part" | "old") || process.parse::<u32>().is_err() {
            continue;
        }
        let place = path.with_file_name(place);
        let mended = if ending == "old" && !place.exists() {
            fs::rename(&path, &place)
        } else if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        mended.map_err(|error| Error::io(&path, "clear up what an interrupted run left", error))?;
    }
    Ok(())
}

impl NewFolder {
    /// Moves everything in the folder into an existing one, over files of the same name there.
    pub fn merge_into(self, place: &Path) -> Result<()> {
        sync_tree(&self.beside)?;
        let failed = |error| Error::io(place, "move the finished files here", error);
        for entry in fs::read_dir(&self.beside).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let target = place.join(entry.file_name());
            if target.is_dir() {
                fs::remove_dir_all(&target).map_err(failed)?;
            }
            fs::rename(entry.path(), target).map_err(failed)?;
        }
        sync(place)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.beside);
        }
    }
}

/// Makes sure that a file or a folder's list of names is on disk.
pub(crate) fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::io(path, "write this to disk", error))
}

fn sync_tree(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|error| Error::io(folder, "list this folder", error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| Error::io(folder, "list this folder", error))?
            .path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            sync(&path)?;
        }
    }
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "model")]
    #[test]
    fn a_hash_tells_contents_and_borders_apart() {
        let mut split = Digest::default();
        assert_ne!(
            split.add(b"ab").add(b"c").finish(),
            Digest::default().add(b"a").add(b"bc").finish()
        );
        assert_ne!(hash_bytes(b""), hash_bytes(b"\0"));
        assert_eq!(hash_bytes(b"").len(), 64);
        let path = std::env::temp_dir().join(format!("bge-hash-{}", std::process::id()));
        let content = vec![7; (1 << 20) + 3];
        fs::write(&path, &content).unwrap();
        assert_eq!(hash_file(&path).unwrap(), hash_bytes(&content));
        fs::remove_file(&path).unwrap();
        assert_eq!(hash_file(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_under_construction_gets_its_name_at_the_end_and_leaves_no_folder_otherwise() {
        let root = std::env::temp_dir().join(format!("bge-new-file-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let place = root.join("a/b/rows.jsonl");
        let mut file = NewFile::start(&place).unwrap();
        file.write(b"half").unwrap();
        assert!(!place.exists());
        drop(file);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        for content in ["one", "two"] {
            let mut file = NewFile::start(&place).unwrap();
            file.write(content.as_bytes()).unwrap();
            file.finish().unwrap();
            assert_eq!(read_text(&place).unwrap(), content);
        }
        drop(NewFile::start(&place).unwrap());
        assert_eq!(read_text(&place).unwrap(), "two");
        assert_eq!(fs::read_dir(root.join("a/b")).unwrap().count(), 1);
        assert_eq!(
            NewFile::start(&root.join("a")).unwrap_err().message(),
            "this is a folder, not a file"
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let root = std::env::temp_dir().join(format!("bge-files-{}", std::process::id()));
        let place = root.join("checkpoint-1");
        let folder = NewFolder::start(&place).unwrap();
        fs::write(folder.path().join("a"), "1").unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        for content in ["1", "2"] {
            let folder = NewFolder::start(&place).unwrap();
            write_whole(&folder.path().join("a"), |file| {
                file.write_all(content.as_bytes())
            })
            .unwrap();
            folder.finish().unwrap();
            assert_eq!(read_text(&place.join("a")).unwrap(), content);
            assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
        }
        assert_eq!(
            read_text(&place).unwrap_err().message(),
            "this is a folder, not a file"
        );
        #[cfg(feature = "model")]
        {
            for name in [".a.12.part", ".a.b.part", ".ab.12.part"] {
                fs::write(place.join(name), "half").unwrap();
            }
            remove_leftovers(&place.join("a")).unwrap();
            assert!(!place.join(".a.12.part").exists());
            for name in [".a.b.part", ".ab.12.part"] {
                fs::remove_file(place.join(name)).unwrap();
            }
        }
        let failing = write_whole(&place.join("a"), |_| Err(std::io::Error::other("full")));
        assert!(failing.is_err());
        assert_eq!(read_text(&place.join("a")).unwrap(), "2");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
        fs::remove_dir_all(root).unwrap();
    }
}
