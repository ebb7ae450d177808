//! Reading only the start of a long text, where the tokens are the same as those of the whole.

use serde_json::Value;

/// Bytes of text that are tried first for every token that fits; English has 5 to 6 with its spaces.
const BYTES_PER_TOKEN: usize = 8;

/// Whether every word, as spaces divide them, becomes the same tokens whatever stands around it.
///
/// Decided from `tokenizer.json`'s parts: everything not known to work word by word counts as not.
pub(super) fn words_stand_alone<'a>(
    normalizer: &Value,
    pre_tokenizer: &Value,
    mut added_tokens: impl Iterator<Item = &'a str>,
) -> bool {
    is_local(normalizer) && splits_at_spaces(pre_tokenizer) && !added_tokens.any(|token| token.contains(' '))
}

fn parts<'a>(of: &'a Value, key: &str) -> &'a [Value] {
    of[key].as_array().map_or(&[], Vec::as_slice)
}

fn is_local(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        None => normalizer.is_null(),
        Some("Sequence") => parts(normalizer, "normalizers").iter().all(is_local),
        // Runs of spaces, as in the files of BGE-M3.
        Some("Replace") => normalizer["pattern"]["Regex"] == " {2,}",
        Some(kind) => matches!(
            kind,
            "BertNormalizer"
                | "Lowercase"
                | "NFC"
                | "NFD"
                | "NFKC"
                | "NFKD"
                | "Nmt"
                | "Precompiled"
                | "Strip"
                | "StripAccents"
        ),
    }
}

fn splits_at_spaces(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("Sequence") => parts(pre_tokenizer, "pretokenizers")
            .first()
            .is_some_and(splits_at_spaces),
        Some("Metaspace") => pre_tokenizer["split"] == true,
        Some(kind) => matches!(kind, "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit"),
        None => false,
    }
}

/// Ever longer starts of a text that end with a whole word; the last is the whole text.
pub(super) fn starts(text: &str, tokens: usize) -> impl Iterator<Item = &str> {
    let mut bytes = tokens.saturating_mul(BYTES_PER_TOKEN).saturating_add(64);
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let start = whole_words(text, bytes);
        done = start.len() == text.len();
        bytes = start.len().saturating_mul(4);
        Some(start)
    })
}

/// The shortest start of at least `bytes` bytes that ends with a visible character and is followed by a space.
fn whole_words(text: &str, bytes: usize) -> &str {
    let raw = text.as_bytes();
    // Not after what a normaliser may turn into a space, which would join the one that is cut off.
    let visible = |c: char| c.is_ascii_graphic() || c.is_alphanumeric();
    (bytes.max(1)..raw.len())
        .filter(|&i| raw[i] == b' ')
        .map(|end| &text[..end])
        .find(|start| start.ends_with(visible))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_start_ends_with_a_whole_word() {
        assert_eq!(whole_words("one two  three", 2), "one");
        assert_eq!(whole_words("one two  three", 3), "one");
        assert_eq!(whole_words("one two  three", 4), "one two");
        assert_eq!(whole_words("one two  three", 8), "one two  three");
        assert_eq!(whole_words("", 0), "");
        assert_eq!(whole_words(" a b", 0), " a");
        assert_eq!(
            whole_words("one\u{a0} two\u{200b} three four", 2),
            "one\u{a0} two\u{200b} three"
        );
        // A byte of a multi-byte character is never a space.
        assert_eq!(whole_words("中文 中文", 1), "中文");
    }

    #[test]
    fn starts_grow_to_the_whole_text() {
        let text = "word ".repeat(100_000);
        let lengths: Vec<usize> = starts(&text, 10).map(str::len).collect();
        assert!(lengths.len() > 3 && lengths.is_sorted(), "{lengths:?}");
        assert_eq!(lengths[0], 144);
        assert_eq!(lengths.last(), Some(&text.len()));
        assert_eq!(starts("", 10).collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn only_known_parts_count_as_word_by_word() {
        let bert = json!({"type": "BertNormalizer", "lowercase": true});
        let split = json!({"type": "BertPreTokenizer"});
        let metaspace = |split: bool| json!({"type": "Metaspace", "split": split});
        let none = || std::iter::empty();
        assert!(words_stand_alone(&bert, &split, none()));
        assert!(words_stand_alone(&Value::Null, &metaspace(true), none()));
        let m3 = json!({"type": "Sequence", "normalizers": [
            {"type": "Precompiled"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u{2581}"}
        ]});
        assert!(words_stand_alone(&m3, &metaspace(true), none()));
        assert!(!words_stand_alone(&m3, &metaspace(false), none()));
        assert!(!words_stand_alone(&bert, &Value::Null, none()));
        assert!(!words_stand_alone(&bert, &json!({"type": "ByteLevel"}), none()));
        let replace = json!({"type": "Replace", "pattern": {"String": "a b"}, "content": "c"});
        assert!(!words_stand_alone(&replace, &split, none()));
        assert!(!words_stand_alone(&json!({"type": "Prepend"}), &split, none()));
        assert!(!words_stand_alone(&bert, &split, ["two words"].into_iter()));
    }
}
