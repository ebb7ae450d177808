//! Evaluation data on disk: documents, queries and judgments in BEIR's layout or in FlagEmbedding's custom one.
//!
//! ```text
//! corpus.jsonl       {"_id": "d1", "title": "optional", "text": "..."}
//! queries.jsonl      {"_id": "q1", "text": "..."}
//! qrels/test.tsv     query-id <tab> corpus-id <tab> score
//! ```
//!
//! or `corpus.jsonl`, `test_queries.jsonl` and `test_qrels.jsonl` (`{"qid", "docid", "relevance"}`). Every file may
//! be gzipped (`.gz`), every id may be called `_id` or `id`, and a document's text is its title, a space and its
//! text, stripped, as in BEIR and MTEB.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::findings::{Findings, first_error};
use crate::data::beir::{parse_judgment, parse_text, shorten};
use crate::data::beir_folder::BeirFiles;
use crate::data::text_lines::for_each_line;
use crate::error::Result;
use crate::issue::{Issue, Severity};

/// Documents, and the queries of one split with their judgments.
///
/// Only queries with at least one relevant document (score above 0) are kept: the others have no right answer, so
/// no metric is defined for them. [`BeirFolder::issues`] says how many were left out.
#[derive(Clone, Debug)]
pub struct BeirFolder {
    /// The folder.
    pub path: PathBuf,
    /// The split, `test` for example.
    pub split: String,
    /// Ids of the documents, in the order of the file.
    pub document_ids: Vec<String>,
    /// Title and text of each document, joined by a space and stripped.
    pub document_texts: Vec<String>,
    /// Ids of the judged queries, in the order of the file.
    pub query_ids: Vec<String>,
    /// Their texts.
    pub query_texts: Vec<String>,
    /// For each query, document id to score. Documents missing from the corpus stay in: they count as never found.
    pub judgments: Vec<BTreeMap<String, f64>>,
    /// Warnings, one for each kind of finding, with counts and examples.
    pub issues: Vec<Issue>,
}

impl BeirFolder {
    /// Reads the folder, or fails with the first error and the number of further ones.
    pub fn open(path: impl AsRef<Path>, split: &str) -> Result<Self> {
        let (folder, issues) = Self::check(path, split)?;
        match folder {
            Some(folder) => Ok(folder),
            None => Err(first_error(&issues)),
        }
    }

    /// Reads the folder and lists everything that is wrong with it, up to a hundred errors.
    ///
    /// The folder is `None` when there is an error among the findings. `Err` is for what makes reading impossible:
    /// a missing file, a damaged archive, text that is not UTF-8.
    pub fn check(path: impl AsRef<Path>, split: &str) -> Result<(Option<Self>, Vec<Issue>)> {
        let path = path.as_ref();
        let files = BeirFiles::locate(path, split)?;
        let mut findings = Findings::default();
        let documents = read_texts(&files.corpus, true, &mut findings)?;
        let queries = read_texts(&files.queries, false, &mut findings)?;
        let judged = read_judgments(&files.judgments, &mut findings)?;
        let folder = join(path, split, &files, documents, queries, judged, &mut findings);
        let issues = findings.finish();
        let broken = issues.iter().any(|issue| issue.severity == Severity::Error);
        Ok(match folder {
            Some(mut folder) if !broken => {
                folder.issues.clone_from(&issues);
                (Some(folder), issues)
            }
            _ => (None, issues),
        })
    }

    /// The judged score of a document for a query with these judgments; 0 where it was not judged.
    pub(super) fn relevance(&self, judgments: &BTreeMap<String, f64>, document: u32) -> f64 {
        let id = self.document_ids.get(document as usize);
        id.and_then(|id| judgments.get(id)).copied().unwrap_or(0.0)
    }

    /// The index of each document id.
    pub(super) fn document_places(&self) -> BTreeMap<&str, u32> {
        self.document_ids
            .iter()
            .enumerate()
            .map(|(index, id)| (id.as_str(), index as u32))
            .collect()
    }

    /// The name of the folder, for titles.
    pub fn name(&self) -> String {
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        path.file_name().map_or_else(
            || self.path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }
}

/// Ids and texts of a corpus or queries file, in order, with the line of each.
#[derive(Default)]
struct Texts {
    ids: Vec<String>,
    contents: Vec<String>,
    index: BTreeMap<String, (usize, u64)>,
}

fn read_texts(file: &Path, with_title: bool, findings: &mut Findings) -> Result<Texts> {
    let mut texts = Texts::default();
    for_each_line(file, |line, text| {
        match parse_text(text, with_title) {
            Err(message) => findings.error("evaluation.line", file, line, message),
            Ok((id, text)) => match texts.index.entry(id.clone()) {
                Entry::Occupied(entry) => {
                    let (index, first) = *entry.get();
                    if texts.contents.get(index) == Some(&text) {
                        findings.warn(
                            "evaluation.repeated_id",
                            "lines repeat an earlier one",
                            file,
                            line,
                            &id,
                        );
                    } else {
                        let message = format!(
                            "the id `{}` already names another text on line {first}; ids must be unique",
                            shorten(&id, 60)
                        );
                        findings.error("evaluation.duplicate_id", file, line, message);
                    }
                }
                Entry::Vacant(entry) => {
                    if text.is_empty() {
                        findings.warn("evaluation.empty_text", "texts are empty", file, line, &id);
                    }
                    entry.insert((texts.ids.len(), line));
                    texts.ids.push(id);
                    texts.contents.push(text);
                }
            },
        }
        Ok(())
    })?;
    if texts.ids.is_empty() {
        let what = if with_title { "documents" } else { "queries" };
        findings.error(
            "evaluation.empty_file",
            file,
            0,
            format!("the file has no {what}"),
        );
    }
    Ok(texts)
}

/// One judgment and the line it came from.
struct Judgment {
    score: f64,
    line: u64,
}

type Judgments = BTreeMap<String, BTreeMap<String, Judgment>>;

fn read_judgments(file: &Path, findings: &mut Findings) -> Result<Judgments> {
    let mut judgments = Judgments::new();
    let mut first = true;
    for_each_line(file, |line, text| {
        match parse_judgment(text, std::mem::take(&mut first)) {
            Err(message) => findings.error("evaluation.judgment", file, line, message),
            Ok(None) => {}
            Ok(Some((query, document, score))) => match judgments.entry(query).or_default().entry(document) {
                Entry::Vacant(entry) => {
                    entry.insert(Judgment { score, line });
                }
                Entry::Occupied(entry) if entry.get().score == score => {
                    let id = entry.key().clone();
                    findings.warn(
                        "evaluation.repeated_judgment",
                        "judgments repeat an earlier one",
                        file,
                        line,
                        &id,
                    );
                }
                Entry::Occupied(entry) => {
                    let message = format!(
                        "the same query and document were judged {} on line {} and {score} here; keep one",
                        entry.get().score,
                        entry.get().line
                    );
                    findings.error("evaluation.contradicting_judgment", file, line, message);
                }
            },
        }
        Ok(())
    })?;
    if judgments.is_empty() {
        findings.error(
            "evaluation.empty_file",
            file,
            0,
            "the file has no judgments".to_owned(),
        );
    }
    Ok(judgments)
}

/// Keeps the judged queries that have a right answer and reports what does not fit together.
fn join(
    path: &Path,
    split: &str,
    files: &BeirFiles,
    documents: Texts,
    queries: Texts,
    mut judged: Judgments,
    findings: &mut Findings,
) -> Option<BeirFolder> {
    let file = &files.judgments;
    for (query, judgments) in &judged {
        if !queries.index.contains_key(query) {
            let line = judgments
                .values()
                .map(|judgment| judgment.line)
                .min()
                .unwrap_or(0);
            findings.warn(
                "evaluation.unknown_query",
                "judged queries have no text and are left out",
                file,
                line,
                query,
            );
            continue;
        }
        for (document, judgment) in judgments {
            if judgment.score > 0.0 && !documents.index.contains_key(document) {
                findings.warn(
                    "evaluation.unknown_document",
                    "relevant documents are not in the corpus and can never be found",
                    file,
                    judgment.line,
                    document,
                );
            }
        }
        if judgments.values().all(|judgment| judgment.score <= 0.0) {
            let line = judgments
                .values()
                .map(|judgment| judgment.line)
                .min()
                .unwrap_or(0);
            findings.warn(
                "evaluation.no_positive",
                "queries have no relevant document (score above 0) and are left out",
                file,
                line,
                query,
            );
        }
    }
    let mut folder = BeirFolder {
        path: path.to_path_buf(),
        split: split.to_owned(),
        document_ids: documents.ids,
        document_texts: documents.contents,
        query_ids: Vec::new(),
        query_texts: Vec::new(),
        judgments: Vec::new(),
        issues: Vec::new(),
    };
    for (id, text) in queries.ids.into_iter().zip(queries.contents) {
        let Some(judgments) = judged.remove(&id) else {
            continue;
        };
        if judgments.values().any(|judgment| judgment.score > 0.0) {
            folder.query_ids.push(id);
            folder.query_texts.push(text);
            folder.judgments.push(
                judgments
                    .into_iter()
                    .map(|(document, judgment)| (document, judgment.score))
                    .collect(),
            );
        }
    }
    if folder.query_ids.is_empty() {
        let message = format!(
            "no query of the split `{split}` has both a text and a relevant document; check that ids agree with {}",
            files.queries.file_name().unwrap_or_default().to_string_lossy()
        );
        findings.error("evaluation.nothing_to_evaluate", file, 0, message);
        return None;
    }
    Some(folder)
}
