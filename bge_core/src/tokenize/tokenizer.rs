//! The tokenizer of a model folder.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::NormalizerWrapper;

use super::batch::TokenBatch;
use super::folder::{Folder, explain_missing};
use super::{cut, vocabulary};
use crate::error::{Error, ErrorKind, Result, bail};

/// Turns texts into token ids, special tokens included, never padded.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    frame: Frame,
    special: SpecialTokens,
    truncates_left: bool,
    /// See [`cut::words_stand_alone`].
    words_stand_alone: bool,
    max_len: Option<usize>,
    files: Vec<PathBuf>,
    path: PathBuf,
}

/// The ids of the tokens that have a role; none where the vocabulary lacks one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// First token of a text.
    pub cls: Option<u32>,
    /// Last token of a text.
    pub sep: Option<u32>,
    /// Padding, where a format needs it.
    pub pad: Option<u32>,
    /// Stands for what the vocabulary cannot spell.
    pub unk: Option<u32>,
    /// The blank of masked language modelling.
    pub mask: Option<u32>,
    /// Begin of sequence; BERT has none.
    pub bos: Option<u32>,
    /// End of sequence; BERT has none.
    pub eos: Option<u32>,
}

impl SpecialTokens {
    /// The ids that are no words to BGE-M3: of `cls`, `eos`, `pad` and `unk`, as many as there are. Where there is no `eos`, as in
    /// BERT's vocabulary, `sep` ends a text.
    pub fn without_words(self) -> Vec<u32> {
        [self.cls, self.eos.or(self.sep), self.pad, self.unk]
            .into_iter()
            .flatten()
            .collect()
    }

    /// All roles, in the order of the fields.
    pub(super) fn all(self) -> [Option<u32>; 7] {
        let Self {
            cls,
            sep,
            pad,
            unk,
            mask,
            bos,
            eos,
        } = self;
        [cls, sep, pad, unk, mask, bos, eos]
    }
}

/// What stands around the tokens of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    before: Vec<u32>,
    after: Vec<u32>,
    /// Segments of `before`, the text and `after`, where one is not 0.
    type_ids: Option<(Vec<u32>, u32, Vec<u32>)>,
}

impl Frame {
    fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// Reads the frame off a framed text.
    fn of(tokenizer: &tokenizers::Tokenizer) -> Result<Self> {
        for probe in ["a", "1", ".", "中"] {
            let encoding = tokenizer.encode(probe, true).map_err(cannot_encode)?;
            let (ids, types) = (encoding.get_ids(), encoding.get_type_ids());
            let own: Vec<usize> = (0..ids.len())
                .filter(|&i| encoding.get_special_tokens_mask()[i] == 0)
                .collect();
            let (Some(&first), Some(&last)) = (own.first(), own.last()) else {
                continue;
            };
            if own.len() != last + 1 - first {
                bail!(
                    Unsupported,
                    "it puts special tokens inside a text; bge knows them only before and after"
                );
            }
            let segments = types.iter().any(|&segment| segment != 0);
            return Ok(Self {
                before: ids[..first].to_vec(),
                after: ids[last + 1..].to_vec(),
                type_ids: segments
                    .then(|| (types[..first].to_vec(), types[first], types[last + 1..].to_vec())),
            });
        }
        bail!(
            Tokenizer,
            "it makes no tokens of any text; the file is damaged or holds no vocabulary"
        )
    }
}

impl Tokenizer {
    /// Opens the tokenizer of a model folder.
    ///
    /// Reads `tokenizer.json`, or for BERT models `vocab.txt`. Truncation and padding stored in it are dropped: lengths are given with
    /// every call. As in transformers, a BERT tokenizer takes its lower-casing, accents and Chinese characters from
    /// `tokenizer_config.json`, which also gives the side that a long text loses.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref();
        Self::open_folder(path).map_err(|error| error.with_path(path))
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let folder = Folder::open(path)?;
        let json = folder.file("tokenizer.json");
        let mut inner = if folder.has("tokenizer.json") {
            let bytes = std::fs::read(&json).map_err(|error| Error::io(&json, "read", error))?;
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| {
                Error::new(
                    ErrorKind::Tokenizer,
                    "is not a readable tokenizer.json; fetch it again",
                )
                .with_path(&json)
                .with_source(error)
            })?
        } else {
            if !(folder.has("vocab.txt") && folder.is_bert()) {
                explain_missing(&folder)?;
            }
            let built = vocabulary::tokenizer_json(&folder)?.to_string();
            tokenizers::Tokenizer::from_bytes(built).map_err(|error| {
                Error::new(
                    ErrorKind::Tokenizer,
                    "cannot build a tokenizer from this vocabulary",
                )
                .with_path(folder.file("vocab.txt"))
                .with_source(error)
            })?
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(cannot_encode)?;
        if folder.is_bert() && matches!(inner.get_normalizer(), Some(NormalizerWrapper::BertNormalizer(_))) {
            let normalizer = folder.bert_normalizer()?;
            inner.with_normalizer(Some(normalizer)).map_err(cannot_encode)?;
        }

        let part = |json: serde_json::Result<Value>| json.unwrap_or(Value::Bool(false));
        let added = inner.get_added_tokens_decoder();
        let words_stand_alone = cut::words_stand_alone(
            &part(serde_json::to_value(inner.get_normalizer())),
            &part(serde_json::to_value(inner.get_pre_tokenizer())),
            added.values().map(|token| token.content.as_str()),
        );
        Ok(Self {
            frame: Frame::of(&inner)?,
            special: special_tokens(&inner, &folder),
            truncates_left: folder.truncates_left()?,
            words_stand_alone,
            max_len: folder.max_len(),
            files: folder.files(),
            path: folder.path().to_path_buf(),
            inner,
        })
    }

    /// The ids of one text with its special tokens, at most `max_len` in all.
    ///
    /// Refuses a `max_len` below the number of special tokens.
    pub fn encode(&self, text: &str, max_len: usize) -> Result<Vec<u32>> {
        let room = self.room(max_len)?;
        self.framed(text, room)
    }

    /// The ids of many texts, in their order, encoded in parallel; otherwise as [`Tokenizer::encode`].
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S], max_len: usize) -> Result<TokenBatch> {
        let room = self.room(max_len)?;
        let rows: Vec<Vec<u32>> = texts
            .par_iter()
            .map(|text| self.framed(text.as_ref(), room))
            .collect::<Result<_>>()?;
        let mut batch = TokenBatch::from_rows(&rows)?;
        if let Some((before, own, after)) = &self.frame.type_ids {
            let mut type_ids = Vec::with_capacity(batch.ids.len());
            for row in &rows {
                type_ids.extend_from_slice(before);
                type_ids.resize(type_ids.len() + row.len() - self.frame.len(), *own);
                type_ids.extend_from_slice(after);
            }
            batch.type_ids = type_ids.iter().any(|&segment| segment != 0).then_some(type_ids);
        }
        Ok(batch)
    }

    /// The number of tokens of a whole text with its special tokens.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.own(text)?.get_ids().len() + self.frame.len())
    }

    /// The ids of the tokens with a role.
    pub fn special_tokens(&self) -> SpecialTokens {
        self.special
    }

    /// The number of special tokens around every text.
    pub fn special_count(&self) -> usize {
        self.frame.len()
    }

    /// One more than the highest id; a model's embedding table needs at least as many rows.
    pub fn vocab_size(&self) -> usize {
        let highest = self.inner.get_vocab(true).into_values().max();
        highest.map_or(0, |id| id as usize + 1)
    }

    /// The id of a token, spelled as in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, spelled as in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The length that the tokenizer's own settings name (`model_max_length`).
    pub fn max_len(&self) -> Option<usize> {
        self.max_len
    }

    /// The tokenizer's files in its folder, for a checkpoint to carry along byte for byte.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The folder it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens of its own that a text may have.
    fn room(&self, max_len: usize) -> Result<usize> {
        match max_len.checked_sub(self.frame.len()) {
            Some(room) => Ok(room),
            None => bail!(
                InvalidArgument,
                "a maximum length of {max_len} tokens leaves no room for the {} special tokens around a text; allow more",
                self.frame.len()
            ),
        }
    }

    fn framed(&self, text: &str, room: usize) -> Result<Vec<u32>> {
        let Frame { before, after, .. } = &self.frame;
        Ok([before, self.bare(text, room)?.as_slice(), after].concat())
    }

    /// The ids of a text without special tokens, at most `room`.
    pub(super) fn bare(&self, text: &str, room: usize) -> Result<Vec<u32>> {
        let encoding = if self.words_stand_alone && !self.truncates_left {
            self.start(text, room)?
        } else {
            self.own(text)?
        };
        Ok(self.cut(encoding.get_ids(), room).to_vec())
    }

    /// At most `room` of some ids: the first ones, or the last ones where this tokenizer truncates on the left.
    pub(super) fn cut<'a>(&self, ids: &'a [u32], room: usize) -> &'a [u32] {
        match ids.len().checked_sub(room) {
            Some(excess) if self.truncates_left => &ids[excess..],
            Some(_) => &ids[..room],
            None => ids,
        }
    }

    /// Ids with the special tokens of a single text around them, and the segments of all.
    pub(super) fn single(&self, own: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let Frame {
            before,
            after,
            type_ids,
        } = &self.frame;
        let ids = [before, own, after].concat();
        let types = match type_ids {
            Some((before, segment, after)) => [before, &vec![*segment; own.len()][..], after].concat(),
            None => vec![0; ids.len()],
        };
        (ids, types)
    }

    /// The ids of the text that some ids spell; specials stay what they are.
    pub(super) fn respelled(&self, ids: &[u32]) -> Result<Vec<u32>> {
        let text = self.inner.decode(ids, false).map_err(cannot_encode)?;
        Ok(self.own(&text)?.get_ids().to_vec())
    }

    /// The encoding of two short texts with special tokens, from which their frame is read.
    pub(super) fn probe(&self, first: &str, second: &str) -> Result<tokenizers::Encoding> {
        self.inner.encode((first, second), true).map_err(cannot_encode)
    }

    /// At least `room` tokens from the start of a text, or all of them.
    fn start(&self, text: &str, room: usize) -> Result<tokenizers::Encoding> {
        for start in cut::starts(text, room) {
            let encoding = self.own(start)?;
            if encoding.get_ids().len() >= room || start.len() == text.len() {
                return Ok(encoding);
            }
        }
        self.own(text)
    }

    /// The tokens of a text without special ones.
    fn own(&self, text: &str) -> Result<tokenizers::Encoding> {
        self.inner.encode_fast(text, false).map_err(cannot_encode)
    }
}

/// Finds the special tokens by the names the folder gives them, or by the usual ones.
fn special_tokens(tokenizer: &tokenizers::Tokenizer, folder: &Folder) -> SpecialTokens {
    let find = |role: &str, usual: &[&str]| {
        let named = folder.special_token(role).into_iter();
        named
            .chain(usual.iter().copied())
            .find_map(|token| tokenizer.token_to_id(token))
    };
    SpecialTokens {
        cls: find("cls_token", &["[CLS]", "<s>"]),
        sep: find("sep_token", &["[SEP]", "</s>"]),
        pad: find("pad_token", &["[PAD]", "<pad>"]),
        unk: find("unk_token", &["[UNK]", "<unk>"]),
        mask: find("mask_token", &["[MASK]", "<mask>"]),
        bos: find("bos_token", &["<s>"]),
        eos: find("eos_token", &["</s>"]),
    }
}

/// What the library could not do.
fn cannot_encode(error: tokenizers::Error) -> Error {
    Error::new(ErrorKind::Tokenizer, "the tokenizer refused a text or a setting").with_source(error)
}
