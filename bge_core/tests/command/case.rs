//! One bad input: what is prepared, what is run, and what must be said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder under `tests/fixtures/parity`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("tests/fixtures/parity").join(name)
}

/// Copies the files and folders of a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// The binary, offline and with one thread.
pub(crate) fn bge(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bge"));
    command
        .current_dir(folder)
        .env("HF_HUB_OFFLINE", "1")
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null());
    command
}

type Prepare = Box<dyn Fn(&Path) + Send + Sync>;

pub(crate) struct Case {
    name: String,
    args: Vec<String>,
    code: i32,
    says: Vec<String>,
    prepare: Prepare,
}

/// Two good rows.
pub(crate) const GOOD: &str = "{\"query\": \"ship\", \"pos\": [\"a sail\"], \"neg\": [\"bread\", \"oven\"]}\n\
    {\"query\": \"loaf\", \"pos\": [\"bread\"], \"neg\": [\"sail\", \"rope\"]}\n";

/// A short training that works: model `model`, data `data.jsonl`, output `out`.
pub(crate) fn finetune(more: &[&str]) -> Vec<String> {
    let words = [
        "finetune",
        "encoder_only.base",
        "--model_name_or_path",
        "model",
        "--train_data",
        "data.jsonl",
        "--output_dir",
        "out",
        "--train_group_size",
        "2",
        "--per_device_train_batch_size",
        "2",
        "--max_steps",
        "2",
    ];
    let words = words.iter().chain(more);
    words.map(|&word| word.to_owned()).collect()
}

/// Words as arguments.
pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl Case {
    /// `says` must all be in the message: the place first, then the way out.
    pub(crate) fn new(
        name: &str,
        args: Vec<String>,
        code: i32,
        says: &[&str],
        prepare: impl Fn(&Path) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            args,
            code,
            says: says.iter().map(|&part| part.to_owned()).collect(),
            prepare: Box::new(prepare),
        }
    }

    /// Runs the case in a folder of its own with a good model and good data.
    pub(crate) fn check(&self) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        copy(&fixture("models/bert"), &at.join("model"));
        fs::write(at.join("data.jsonl"), GOOD).unwrap();
        (self.prepare)(at);
        let before = files(at);
        let output = bge(at).args(&self.args).output().unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        let fail = |why: &str| Err(format!("--- {}: {why}\n{out}{err}", self.name));
        if output.status.code() != Some(self.code) {
            return fail(&format!("ended with {}, not {}", output.status, self.code));
        }
        if (out + &err).contains("panicked") {
            return Err(format!("--- {}: panicked\n{err}", self.name));
        }
        if !err.contains("error") || err.len() > 4000 {
            return Err(format!("--- {}: not one clear error\n{err}", self.name));
        }
        for part in &self.says {
            if !err.contains(part) {
                return Err(format!("--- {}: does not say {part:?}\n{err}", self.name));
            }
        }
        let new: Vec<String> = files(at)
            .into_iter()
            .filter(|file| !before.contains(file))
            .collect();
        if !new.is_empty() {
            return Err(format!("--- {}: left {new:?}\n{err}", self.name));
        }
        Ok(())
    }
}

/// All files and folders below a folder.
fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        }
        found.push(path.display().to_string());
    }
    found
}
