//! A BERT tokenizer from the older `vocab.txt`: one token per line, its number is the line's.

use serde_json::{Map, Value, json};

use super::folder::Folder;
use crate::error::{Error, ErrorKind, Result};

/// The `tokenizer.json` that a `vocab.txt` and its settings amount to.
pub(super) fn tokenizer_json(folder: &Folder) -> Result<Value> {
    let path = folder.file("vocab.txt");
    let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, "read", error))?;
    let fail = |message: String| Error::new(ErrorKind::Tokenizer, message).with_path(&path);
    let text =
        String::from_utf8(bytes).map_err(|error| fail("is not valid UTF-8".into()).with_source(error))?;
    let mut ids = Map::new();
    for (id, token) in text.lines().enumerate() {
        // As in transformers, the last of two equal lines wins.
        ids.insert(token.to_owned(), id.into());
    }
    let special = |role: &str, default: &str| -> Result<(String, Value)> {
        let token = folder.special_token(role).unwrap_or(default);
        match ids.get(token) {
            Some(id) => Ok((token.to_owned(), id.clone())),
            None => Err(fail(format!(
                "lacks the token `{token}`; it is not the vocabulary of a BERT model"
            ))),
        }
    };
    let unk = special("unk_token", "[UNK]")?;
    let cls = special("cls_token", "[CLS]")?;
    let sep = special("sep_token", "[SEP]")?;
    let mut added = vec![
        special("pad_token", "[PAD]")?,
        unk.clone(),
        cls.clone(),
        sep.clone(),
    ];
    added.extend(special("mask_token", "[MASK]"));
    added.sort_by_key(|(_, id)| id.as_u64());
    let added: Vec<Value> = added
        .iter()
        .map(|(token, id)| {
            json!({"id": id, "content": token, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let mut tokens = Map::new();
    for (token, id) in [&cls, &sep] {
        tokens.insert(
            token.clone(),
            json!({"id": token, "ids": [id], "tokens": [token]}),
        );
    }
    let piece = |token: &str, segment: u32| json!({"SpecialToken": {"id": token, "type_id": segment}});
    let sequence = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let single = [piece(&cls.0, 0), sequence("A", 0), piece(&sep.0, 0)];
    let pair = [&single[..], &[sequence("B", 1), piece(&sep.0, 1)]].concat();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unk.0, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids},
    }))
}
