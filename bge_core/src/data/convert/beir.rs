//! The join of judgments, queries and documents: only what is judged is remembered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::columns::{Passage, Row};
use super::sink::{Place, Sink};
use super::{Converted, Role};
use crate::data::beir::{parse_judgment, parse_text, shorten};
use crate::data::codes;
use crate::issue::Severity;

#[derive(Debug)]
struct Judgment {
    query: u32,
    document: u32,
    score: f64,
    file: Arc<str>,
    line: u64,
}

/// Ids that are judged, and their texts where they were found.
#[derive(Debug, Default)]
struct Texts {
    places: HashMap<String, u32>,
    ids: Vec<String>,
    found: Vec<Option<String>>,
    /// Those with a text, in the order of the file.
    order: Vec<u32>,
}

impl Texts {
    fn place(&mut self, id: String) -> u32 {
        match self.places.entry(id) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let place = self.ids.len() as u32;
                self.ids.push(entry.key().clone());
                self.found.push(None);
                *entry.insert(place)
            }
        }
    }

    fn id(&self, place: u32) -> &str {
        self.ids.get(place as usize).map_or("", String::as_str)
    }

    fn text(&self, place: u32) -> Option<&str> {
        self.found.get(place as usize)?.as_deref()
    }
}

#[derive(Debug, Default)]
pub(super) struct Beir {
    judgments: Vec<Judgment>,
    queries: Texts,
    documents: Texts,
    /// Which kinds of files there were.
    seen: [bool; 3],
    /// Whether the next line is the first of its file.
    first: bool,
}

impl Beir {
    /// Begins a file; says why it cannot come now.
    pub(super) fn start(&mut self, role: Role) -> Result<(), &'static str> {
        let [_, queries, corpus] = self.seen;
        let (at, late) = match role {
            Role::Judgments => (0, queries || corpus),
            Role::Queries => (1, corpus),
            _ => (2, false),
        };
        if late {
            return Err(
                "judgments come first, then queries, then the corpus: only what is judged is remembered",
            );
        }
        if let Some(seen) = self.seen.get_mut(at) {
            *seen = true;
        }
        self.first = true;
        Ok(())
    }

    /// Takes a line of a file.
    pub(super) fn take(&mut self, role: Role, line: u64, bytes: &[u8], sink: &mut Sink, out: &mut Converted) {
        let first = std::mem::take(&mut self.first);
        let taken = match std::str::from_utf8(bytes) {
            Err(error) => Err(format!(
                "byte {} is not UTF-8; save the file as UTF-8",
                error.valid_up_to() + 1
            )),
            Ok(text) if role == Role::Judgments => self.judge(text, first, line, sink),
            Ok(text) => self.keep(text, role, line, sink),
        };
        if let Err(reason) = taken {
            sink.report.rows += 1;
            let place = sink.here(line.into());
            sink.set_aside(codes::CONVERT_ROW, &place, &reason, bytes, out);
        }
    }

    fn judge(&mut self, text: &str, first: bool, line: u64, sink: &mut Sink) -> Result<(), String> {
        let Some((query, document, score)) = parse_judgment(text, first)? else {
            return Ok(());
        };
        self.judgments.push(Judgment {
            query: self.queries.place(query),
            document: self.documents.place(document),
            score,
            file: sink.file.clone(),
            line,
        });
        sink.report.rows += 1;
        Ok(())
    }

    fn keep(&mut self, text: &str, role: Role, line: u64, sink: &mut Sink) -> Result<(), String> {
        let is_corpus = role == Role::Corpus;
        let (id, text) = parse_text(text, is_corpus)?;
        let texts = if is_corpus {
            &mut self.documents
        } else {
            &mut self.queries
        };
        let Some(&place) = texts.places.get(&id) else {
            return Ok(());
        };
        let Some(slot) = texts.found.get_mut(place as usize) else {
            return Ok(());
        };
        match slot {
            None => {
                *slot = Some(text);
                texts.order.push(place);
            }
            Some(known) if *known == text => {}
            Some(_) => {
                let message = format!(
                    "the id `{}` already names another text, which is used; ids must be unique",
                    shorten(&id, 60)
                );
                let place = sink.here(line.into());
                sink.note(
                    codes::CONVERT_REPEATED_ID,
                    Severity::Warning,
                    &place,
                    None,
                    &message,
                );
            }
        }
        Ok(())
    }

    /// Writes a row for each query, in the order of their file.
    pub(super) fn finish(mut self, sink: &mut Sink, out: &mut Converted) {
        if self.seen == [false; 3] {
            return;
        }
        for (seen, what) in self
            .seen
            .iter()
            .zip(["judgments (qrels/*.tsv)", "queries.jsonl", "corpus.jsonl"])
        {
            if !seen {
                let message = format!("there is no file with {what}; a BEIR folder has all three");
                let place = Place {
                    file: sink.file.clone(),
                    at: 0.into(),
                };
                sink.note(
                    codes::CONVERT_FILE_MISSING,
                    Severity::Error,
                    &place,
                    None,
                    &message,
                );
            }
        }
        if !self.seen.iter().all(|seen| *seen) {
            return;
        }
        let mut judged: Vec<Vec<Judgment>> = Vec::new();
        judged.resize_with(self.queries.ids.len(), Vec::new);
        for judgment in std::mem::take(&mut self.judgments) {
            let place = Place {
                file: judgment.file.clone(),
                at: judgment.line.into(),
            };
            let (query, document) = (
                self.queries.id(judgment.query),
                self.documents.id(judgment.document),
            );
            let missing = if self.queries.text(judgment.query).is_none() {
                let reason = format!("there is no query `{}`", shorten(query, 60));
                Some((codes::CONVERT_UNKNOWN_QUERY, reason))
            } else {
                let document = shorten(document, 60);
                let reason = match self.documents.text(judgment.document) {
                    None => Some(format!("there is no document `{document}` in the corpus")),
                    Some(text) if text.trim().is_empty() => {
                        Some(format!("the document `{document}` has no text"))
                    }
                    Some(_) => None,
                };
                reason.map(|reason| (codes::CONVERT_UNKNOWN_DOCUMENT, reason))
            };
            if let Some((code, reason)) = missing {
                let text = format!("{query}\t{document}\t{}", judgment.score);
                sink.set_aside(code, &place, &reason, text.as_bytes(), out);
            } else if let Some(list) = judged.get_mut(judgment.query as usize) {
                list.push(judgment);
            }
        }
        for &query in &self.queries.order {
            let judgments = judged
                .get_mut(query as usize)
                .map(std::mem::take)
                .unwrap_or_default();
            self.write(query, &judgments, sink, out);
        }
    }

    fn write(&self, query: u32, judgments: &[Judgment], sink: &mut Sink, out: &mut Converted) {
        let (Some(first), Some(text)) = (judgments.first(), self.queries.text(query)) else {
            return;
        };
        let place = Place {
            file: first.file.clone(),
            at: first.line.into(),
        };
        let passages = |positive: bool| -> Vec<Passage> {
            let wanted = judgments
                .iter()
                .filter(|judgment| (judgment.score > 0.0) == positive);
            wanted
                .filter_map(|judgment| self.documents.text(judgment.document))
                .map(|text| Passage::plain(text.to_owned()))
                .collect()
        };
        let mut row = Row {
            query: text.to_owned(),
            pos: passages(true),
            neg: passages(false),
            ..Row::default()
        };
        sink.report.merged += judgments.len() as u64 - 1;
        if row.query.trim().is_empty() || row.pos.is_empty() {
            let reason = format!(
                "the query `{}` has no text, or no document with a score above 0",
                shorten(self.queries.id(query), 60)
            );
            let mut bytes = Vec::new();
            row.tidy();
            row.write(&mut bytes);
            sink.set_aside(
                codes::CONVERT_NO_POSITIVE,
                &place,
                &reason,
                bytes.trim_ascii_end(),
                out,
            );
            return;
        }
        sink.write(&place, row, None, out);
    }
}
