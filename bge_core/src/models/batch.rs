//! A flat batch as an encoder takes it: token, position and type rows, and the borders of its texts.

use super::config::{EncoderConfig, Family};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::TokenRows;

/// Unpadded texts, one after another (`T` tokens, `n` texts).
#[derive(Clone, Debug)]
pub struct Batch {
    words: Vec<u32>,
    positions: Vec<u32>,
    types: Vec<u32>,
    offsets: Vec<u32>,
    identities: Vec<u64>,
}

impl Batch {
    /// Checks ids and lengths against the model and lays out positions.
    ///
    /// `offsets` are the `n + 1` borders of the texts in `ids` (`cu_seqlens`); `types` may be empty (all 0);
    /// `texts` names each text within the step, which decides its dropout masks.
    pub fn new(
        config: &EncoderConfig,
        ids: &[u32],
        types: &[u32],
        offsets: &[u32],
        texts: impl IntoIterator<Item = u64>,
    ) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidArgument, message);
        if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(invalid(format!(
                "token id {id} is outside the model's vocabulary of {}; tokenizer and model do not belong together",
                config.vocab_size
            )));
        }
        let mut positions = Vec::with_capacity(ids.len());
        let mut identities = Vec::with_capacity(ids.len());
        for (pair, text) in offsets.windows(2).zip(texts) {
            let Some(row) = ids
                .get(pair[0] as usize..pair[1] as usize)
                .filter(|row| !row.is_empty())
            else {
                return Err(invalid("a text has no tokens".to_owned()));
            };
            if row.len() > config.max_tokens() {
                return Err(invalid(format!(
                    "a text has {} tokens, but the model has positions for {}; set a smaller maximum length",
                    row.len(),
                    config.max_tokens()
                )));
            }
            match config.family {
                Family::Bert => positions.extend(0..row.len() as u32),
                Family::Roberta => positions.extend(roberta_positions(row, config.pad_token_id)),
            }
            identities.extend((0..row.len() as u64).map(|position| text << 32 | position));
        }
        if positions.len() != ids.len() {
            return Err(invalid(
                "the borders of the texts do not cover the tokens".to_owned(),
            ));
        }
        let types = if types.is_empty() {
            vec![0; ids.len()]
        } else {
            types.to_vec()
        };
        if types.len() != ids.len() || types.iter().any(|&t| t as usize >= config.type_vocab_size) {
            return Err(invalid("token types do not fit the model".to_owned()));
        }
        Ok(Self {
            words: ids.to_vec(),
            positions,
            types,
            offsets: offsets.to_vec(),
            identities,
        })
    }

    /// The number of texts.
    pub fn texts(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The number of tokens of all texts together.
    pub fn tokens(&self) -> usize {
        self.words.len()
    }

    /// The borders of the texts, `n + 1` numbers from 0 to `T`.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    pub(super) fn rows(&self) -> TokenRows<'_> {
        TokenRows {
            words: &self.words,
            positions: &self.positions,
            types: &self.types,
        }
    }

    pub(super) fn identities(&self) -> &[u64] {
        &self.identities
    }

    /// The identities of the texts' first tokens.
    pub(super) fn first_identities(&self) -> Vec<u64> {
        let firsts = self.offsets.iter().take(self.texts());
        firsts
            .filter_map(|&at| self.identities.get(at as usize).copied())
            .collect()
    }
}

/// Positions count from `pad + 1` and skip tokens that are the padding token, as transformers'
/// `create_position_ids_from_input_ids` does.
fn roberta_positions(row: &[u32], pad: u32) -> impl Iterator<Item = u32> {
    row.iter().scan(pad, move |last, &id| {
        if id == pad {
            return Some(pad);
        }
        *last += 1;
        Some(*last)
    })
}
