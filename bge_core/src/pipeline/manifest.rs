//! What a stage was made from and what it made: the file that lets a later run skip it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Arguments;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::models::write_json;

/// A stage's record. Two runs of the same stage on the same inputs write the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The stage.
    pub stage: String,
    /// The version that ran it.
    pub bge: String,
    /// Its settings by name, without access tokens.
    pub settings: Map<String, Value>,
    /// The hash of every file or folder it read.
    pub inputs: BTreeMap<String, String>,
    /// The hash of every file or folder it wrote; empty until it is done.
    pub outputs: BTreeMap<String, String>,
    /// What it found, for the report.
    pub result: Value,
}

impl Manifest {
    /// The record of a stage that is about to run.
    ///
    /// Names that are no path on this machine (models of the hub) stand for themselves.
    pub(super) fn begin(
        stage: &str,
        settings: &impl Arguments,
        fields: &[&'static str],
        inputs: &[String],
    ) -> Result<Self> {
        let settings = fields
            .iter()
            .filter(|name| **name != "token")
            .filter_map(|name| Some(((*name).to_owned(), settings.get(name)?)))
            .collect();
        let mut hashes = BTreeMap::new();
        for input in inputs {
            let path = Path::new(input);
            let hash = if path.exists() {
                hash_tree(path)?
            } else {
                String::new()
            };
            hashes.insert(input.clone(), hash);
        }
        Ok(Self {
            stage: stage.to_owned(),
            bge: env!("CARGO_PKG_VERSION").to_owned(),
            settings,
            inputs: hashes,
            outputs: BTreeMap::new(),
            result: Value::Null,
        })
    }

    /// Whether `self`, just begun, would make what `earlier` made, and all of that is still there unchanged.
    pub(super) fn is_current(&self, earlier: &Self) -> Result<bool> {
        if !self.begins_as(earlier) || earlier.outputs.is_empty() {
            return Ok(false);
        }
        for (path, hash) in &earlier.outputs {
            let path = Path::new(path);
            if !path.exists() || hash_tree(path)? != *hash {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether both start from the same inputs, settings and version.
    pub(super) fn begins_as(&self, other: &Self) -> bool {
        (&self.stage, &self.bge, &self.settings, &self.inputs)
            == (&other.stage, &other.bge, &other.settings, &other.inputs)
    }

    /// Adds what the stage made.
    pub(super) fn finish(mut self, outputs: &[String], result: Value) -> Result<Self> {
        for output in outputs {
            self.outputs.insert(output.clone(), hash_tree(Path::new(output))?);
        }
        self.result = result;
        Ok(self)
    }

    /// Reads a record; `None` where there is none. One that cannot be read counts as none: the stage runs again.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

/// The hash of a file, or of a folder's files and their names.
///
/// Of a model folder the checkpoints of its run are left out: they are on the way to it, not part of it.
pub(super) fn hash_tree(path: &Path) -> Result<String> {
    if path.is_file() {
        return files::hash_file(path);
    }
    let mut text = String::new();
    for file in tree(path)? {
        let name = file.strip_prefix(path).unwrap_or(&file);
        text.push_str(&format!("{}\0{}\n", name.display(), files::hash_file(&file)?));
    }
    Ok(files::hash_bytes(text.as_bytes()))
}

/// All files under a folder in order, without hidden ones, checkpoints and BGE-M3's weights of scores.
fn tree(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io(folder, "list this folder", error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Weights of scores are chosen after the stage that makes the folder, and change none of its vectors.
        let beside = name.starts_with("checkpoint-") || name == crate::inference::MODE_WEIGHTS_FILE;
        if name.starts_with('.') || beside {
            continue;
        }
        if path.is_dir() {
            found.extend(tree(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A value as JSON.
pub(super) fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| {
        Error::new(ErrorKind::Internal, "a result cannot be written as JSON").with_source(error)
    })
}
