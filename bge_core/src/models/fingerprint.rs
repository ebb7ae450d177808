//! One hash that changes with anything in a model folder that decides what the model computes.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::files::Digest;

/// The content hash of a model folder: 64 hexadecimal digits, the same wherever the folder lies.
///
/// Counts every `.json`, `.safetensors`, `.txt`, `.model` and `.pt` file of the folder and of sentence-transformers' `N_Name` folders, by name
/// and content: configuration, weights, heads, tokenizer, pooling, prompts. What a trainer leaves beside them (its state, its
/// optimizer, checkpoints) and documentation do not count, nor do BGE-M3's `mode_weights.json`, which decides no vector: what
/// depends on it names the weights itself.
pub fn fingerprint(folder: impl AsRef<Path>) -> Result<String> {
    let folder = folder.as_ref();
    if !folder.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, "there is no such model folder").with_path(folder));
    }
    let mut names = Vec::new();
    for name in entries(folder)? {
        let path = folder.join(&name);
        if path.is_dir() {
            if is_module(&name) {
                names.extend(entries(&path)?.into_iter().map(|file| format!("{name}/{file}")));
            }
        } else {
            names.push(name);
        }
    }
    names.retain(|name| counts(name) && folder.join(name).is_file());
    names.sort_unstable();
    let mut digest = Digest::default();
    for name in names {
        digest.add(name.as_bytes()).add_file(&folder.join(&name))?;
    }
    Ok(digest.finish())
}

/// The names in a folder that are text.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io(folder, "list this folder", error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// Whether a folder is one of sentence-transformers' modules, as `1_Pooling`.
fn is_module(name: &str) -> bool {
    let number = name.split_once('_').map_or("", |(number, _)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn counts(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let kind = file.rsplit_once('.').map_or("", |(_, kind)| kind);
    let beside = [
        "trainer_state.json",
        "training_args.bin",
        "mode_weights.json",
        "README.txt",
        "LICENSE.txt",
    ];
    matches!(kind, "json" | "safetensors" | "txt" | "model" | "pt")
        && !file.starts_with('.')
        && !file.starts_with("optimizer.")
        && !file.starts_with("scheduler.")
        && !beside.contains(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_the_vectors_changes_the_fingerprint_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let write = |name: &str, content: &str| {
            let path = at.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
            fingerprint(at).unwrap()
        };
        let first = write("config.json", "{}");
        let mut seen = vec![first];
        for name in [
            "model.safetensors",
            "tokenizer.json",
            "vocab.txt",
            "1_Pooling/config.json",
        ] {
            for content in ["a", "b"] {
                let now = write(name, content);
                assert!(!seen.contains(&now), "{name}");
                seen.push(now);
            }
        }
        let last = seen.pop().unwrap();
        for name in [
            "README.md",
            "trainer_state.json",
            "mode_weights.json",
            "optimizer.safetensors",
            "checkpoint-3/config.json",
            ".gitattributes",
        ] {
            assert_eq!(write(name, "x"), last, "{name}");
        }
        assert!(fingerprint(at.join("gone")).is_err());
    }
}
