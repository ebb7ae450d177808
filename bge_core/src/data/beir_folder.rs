//! Which files of a BEIR folder are its corpus, queries and judgments.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, bail};

/// The three files of a folder.
pub(crate) struct BeirFiles {
    pub(crate) corpus: PathBuf,
    pub(crate) queries: PathBuf,
    pub(crate) judgments: PathBuf,
}

impl BeirFiles {
    /// Finds the files, or says which splits there are.
    pub(crate) fn locate(path: &Path, split: &str) -> Result<Self> {
        if split.is_empty() || split.contains(['/', '\\']) || split == ".." {
            bail!(
                InvalidArgument,
                "`{split}` is not the name of a split; `test` reads qrels/test.tsv"
            );
        }
        if !path.is_dir() {
            let message = if path.exists() {
                "this is a file; evaluation data is a folder with corpus.jsonl, queries.jsonl and qrels/"
            } else {
                "there is no such folder"
            };
            return Err(Error::new(ErrorKind::NotFound, message).with_path(path));
        }
        let beir = find(path, &[format!("qrels/{split}.tsv")]);
        let custom = find(path, &[format!("{split}_qrels.jsonl")]);
        let (judgments, names) = match (beir, custom) {
            (Some(file), _) => (
                file,
                ["queries.jsonl".to_owned(), format!("{split}_queries.jsonl")],
            ),
            (None, Some(file)) => (
                file,
                [format!("{split}_queries.jsonl"), "queries.jsonl".to_owned()],
            ),
            (None, None) => {
                let splits = splits_of(path);
                let hint = if splits.is_empty() {
                    format!("judgments are expected in qrels/{split}.tsv or {split}_qrels.jsonl")
                } else {
                    format!(
                        "splits that are there: {}; `--split` names one, `--eval_split` in training",
                        splits.join(", ")
                    )
                };
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("no judgments for the split `{split}`; {hint}"),
                )
                .with_path(path));
            }
        };
        let missing = |names: &[String]| {
            Error::new(
                ErrorKind::NotFound,
                format!("no {} (or .gz) in the folder", names.join(" or ")),
            )
            .with_path(path)
        };
        let corpus = ["corpus.jsonl".to_owned()];
        Ok(Self {
            corpus: find(path, &corpus).ok_or_else(|| missing(&corpus))?,
            queries: find(path, &names).ok_or_else(|| missing(&names))?,
            judgments,
        })
    }
}

/// The splits a folder has judgments for.
fn splits_of(path: &Path) -> Vec<String> {
    let names = |folder: PathBuf| -> Vec<String> {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let cut = |name: &str, end: &str| name.trim_end_matches(".gz").strip_suffix(end).map(str::to_owned);
    let mut splits: BTreeSet<String> = names(path.join("qrels"))
        .iter()
        .filter_map(|n| cut(n, ".tsv"))
        .collect();
    splits.extend(
        names(path.to_path_buf())
            .iter()
            .filter_map(|n| cut(n, "_qrels.jsonl")),
    );
    splits.into_iter().collect()
}

/// The first of `names` that exists in `folder`, each tried plain and then with `.gz`.
fn find(folder: &Path, names: &[String]) -> Option<PathBuf> {
    names
        .iter()
        .flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))])
        .find(|path| path.is_file())
}
