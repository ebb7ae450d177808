//! Compiled kernels on disk, so that NVRTC compiles each of them once for a user.
//!
//! A file is named after the hash of everything that decides the code, and begins with the hash of the code. A file that is damaged
//! is as none, and a folder that cannot be written costs a compilation and nothing else.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::files;

/// The user's folder for what can be made again: `$XDG_CACHE_HOME/bge`, or `~/.cache/bge`.
pub(crate) fn folder(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    // As the XDG specification has it, a path that is not absolute means nothing.
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("bge"))
}

/// The code that these words decide: what the folder has of them, or what `make` makes, which is kept.
pub(crate) fn kept(
    folder: Option<&Path>,
    words: &[&str],
    make: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let Some(folder) = folder else {
        return make();
    };
    let path = folder.join(format!("{}.cubin", name(words)));
    if let Some(code) = read(&path) {
        return Ok(code);
    }
    let code = make()?;
    if let Err(error) = write(folder, &path, &code) {
        tracing::debug!("compiled kernels are not kept: {error}");
    }
    Ok(code)
}

/// The hash of the words and their lengths.
fn name(words: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(&(word.len() as u64).to_le_bytes());
        hasher.update(word.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, code) = bytes.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    (blake3::hash(code) == *hash).then(|| code.to_vec())
}

fn write(folder: &Path, path: &Path, code: &[u8]) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|error| crate::Error::io(folder, "create the folder of compiled kernels", error))?;
    files::write_whole(path, |file| {
        file.write_all(blake3::hash(code).as_bytes())?;
        file.write_all(code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    const MADE: &[u8] = b"machine code";

    /// The code, made unless it is there.
    fn get(folder: Option<&Path>, words: &[&str]) -> Vec<u8> {
        kept(folder, words, || Ok(MADE.to_vec())).unwrap()
    }

    /// Whether the code is there.
    fn has(folder: &Path, words: &[&str]) -> bool {
        let never = || Err(Error::new(ErrorKind::Internal, "compiled again"));
        kept(Some(folder), words, never).is_ok_and(|code| code == MADE)
    }

    #[test]
    fn code_is_made_once_for_each_source_and_setting() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep/bge");
        assert_eq!(get(Some(&folder), &["source", "sm_90"]), MADE);
        assert!(has(&folder, &["source", "sm_90"]));
        for other in [
            &["source", "sm_80"][..],
            &["sourcesm_90"],
            &["source", "sm_90", ""],
        ] {
            assert!(!has(&folder, other));
        }
        // What failed is not kept, and nothing but the finished file is.
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_made_again() {
        let place = tempfile::tempdir().unwrap();
        let words = ["source"];
        let path = place.path().join(format!("{}.cubin", name(&words)));
        get(Some(place.path()), &words);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        for damaged in [&whole[..whole.len() - 1], &whole[..10], b"", &flipped] {
            std::fs::write(&path, damaged).unwrap();
            assert!(!has(place.path(), &words));
            assert_eq!(get(Some(place.path()), &words), MADE);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(get(Some(&file.join("bge")), &["source"]), MADE);
        assert_eq!(get(None, &["source"]), MADE);
    }

    #[test]
    fn the_folder_is_the_users_cache() {
        let find = |pairs: &[(&str, &str)]| {
            let found = folder(|name| {
                let found = pairs.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            });
            found.map(|path| path.display().to_string())
        };
        let home = ("HOME", "/home/a");
        assert_eq!(find(&[home, ("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c/bge"));
        for other in ["", "relative"] {
            let found = find(&[home, ("XDG_CACHE_HOME", other)]);
            assert_eq!(found.as_deref(), Some("/home/a/.cache/bge"));
        }
        assert_eq!(find(&[]), None);
    }
}
