//! Texts to vectors on disk, block by block, going on where an interrupted run stopped.

use std::ops::Range;
use std::path::PathBuf;

use super::event::Reporter;
use super::{Stage, corpus::Corpus};
use crate::config::{EmbedArguments, EmbeddingDtype, TextRole};
use crate::error::{Error, ErrorKind, Result};
use crate::files::Digest;
use crate::inference::Embedder;
use crate::search::{VectorLayout, VectorStore, VectorType, VectorWriter};
use crate::tokenize::TokenBatch;

/// Texts in memory at once; a multiple of the blocks of a [`VectorStore`].
const BLOCK: usize = 1024;

/// What makes vectors and where they are kept.
pub(super) struct Encoder<'a> {
    pub(super) embedder: &'a Embedder,
    pub(super) arguments: &'a EmbedArguments,
    pub(super) dtype: EmbeddingDtype,
    /// The content hash of the model folder.
    pub(super) model: &'a str,
    pub(super) folder: PathBuf,
    pub(super) corpus: &'a Corpus,
}

/// Which texts of a run are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Texts {
    Candidates,
    Positives,
    Queries,
}

impl Encoder<'_> {
    /// The vectors of some texts, and how many of them were there already; none where there are no such texts.
    pub(super) fn vectors(
        &self,
        texts: Texts,
        report: &mut Reporter<'_>,
    ) -> Result<Option<(VectorStore, usize)>> {
        let (corpus, hashes) = (self.corpus, self.corpus.hashes());
        let (name, stage, range, hash) = match texts {
            Texts::Candidates => (
                "corpus",
                Stage::Corpus,
                0..corpus.candidates(),
                &hashes.candidates,
            ),
            Texts::Positives => (
                "positives",
                Stage::Positives,
                corpus.candidates()..corpus.len(),
                &hashes.positives,
            ),
            Texts::Queries => (
                "queries",
                Stage::Queries,
                0..corpus.asked().len(),
                &hashes.queries,
            ),
        };
        if range.is_empty() {
            return Ok(None);
        }
        let layout = VectorLayout {
            dtype: match self.dtype {
                EmbeddingDtype::F32 => VectorType::F32,
                EmbeddingDtype::F16 => VectorType::F16,
            },
            dim: self.embedder.dim(),
            key: self.key(texts, hash)?,
        };
        let start = layout.key.first_chunk().copied().map_or(0, u64::from_be_bytes);
        let tag = format!("{start:016x}");
        let path = self.folder.join(format!("{name}-{tag}.vectors"));
        let count = range.len();
        if let Some(store) = VectorStore::open_current(&path, &layout)?.filter(|store| store.len() == count) {
            report.progress(stage, count, count)?;
            return Ok(Some((store, count)));
        }
        let mut writer = VectorWriter::resume(&path, layout)?;
        let there = writer.rows();
        report.progress(stage, there, count)?;
        let mut start = there;
        while start < count {
            let end = count.min(start + BLOCK);
            let tokens = self.tokens(texts, range.start + start..range.start + end)?;
            let mut stopped = Ok(());
            let vectors = self.embedder.encode_tokens(&tokens, |done| {
                if stopped.is_ok() {
                    stopped = report.progress(stage, start + done, count);
                }
            })?;
            writer.push(&vectors.data)?;
            stopped?;
            start = end;
        }
        Ok(Some((writer.finish()?, there)))
    }

    fn tokens(&self, texts: Texts, range: Range<usize>) -> Result<TokenBatch> {
        if texts == Texts::Queries {
            let rows = self.corpus.asked().get(range).unwrap_or_default();
            let queries: Vec<(Option<String>, String)> = rows
                .iter()
                .map(|row| self.corpus.row(*row as usize).map(|row| (row.prompt, row.query)))
                .collect::<Result<_>>()?;
            return self.embedder.tokenize_prompted(&queries);
        }
        let read: Vec<String> = range
            .map(|number| self.corpus.text(number as u32))
            .collect::<Result<_>>()?;
        self.embedder.tokenize(TextRole::Passage, &read)
    }

    /// A hash of everything that decides the vectors: model, texts, settings, and the version that computes them.
    fn key(&self, texts: Texts, hash: &str) -> Result<[u8; 32]> {
        let set = self.arguments;
        let (instruction, format, length) = match texts {
            Texts::Queries => (
                &set.query_instruction_for_retrieval,
                &set.query_instruction_format_for_retrieval,
                set.embedder_query_max_length,
            ),
            _ => (
                &set.passage_instruction_for_retrieval,
                &set.passage_instruction_format,
                set.embedder_passage_max_length,
            ),
        };
        let settings = format!(
            "{:?}",
            (
                set.pooling_method,
                set.normalize_embeddings,
                set.truncate_dim,
                instruction,
                format,
                length
            )
        );
        let mut digest = Digest::default();
        for part in [env!("CARGO_PKG_VERSION"), self.model, hash, &settings] {
            digest.add(part.as_bytes());
        }
        let hex = digest.finish();
        let mut key = [0; 32];
        for (byte, digits) in key.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).ok();
            *byte = digits
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Internal,
                        "a content hash is not made of hexadecimal digits",
                    )
                })?;
        }
        Ok(key)
    }
}
