//! The tokenizer against an independent one, and what folders can get wrong.

use std::fs;
use std::path::{Path, PathBuf};

use bge_core::ErrorKind;
use bge_core::random::{Draws, Stream, key};
use bge_core::tokenize::{TokenBatch, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizer")
}

fn open() -> Tokenizer {
    Tokenizer::open(fixture()).unwrap()
}

/// A folder with some of the fixture's files.
fn folder(files: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in files {
        fs::copy(fixture().join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// A folder whose `tokenizer_config.json` has some more settings.
fn configured(files: &[&str], settings: &Value) -> TempDir {
    let folder = folder(files);
    let text = fs::read(fixture().join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

/// A folder whose `tokenizer.json` was changed.
fn changed(change: impl Fn(&mut Value)) -> TempDir {
    let folder = folder(&["tokenizer_config.json"]);
    let text = fs::read(fixture().join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&text).unwrap();
    change(&mut json);
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    folder
}

fn fails(folder: &TempDir) -> (ErrorKind, String) {
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert!(error.path().is_some(), "{error}");
    (error.kind(), error.to_string())
}

#[test]
fn tokens_are_those_of_an_independent_bert_tokenizer() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("fixtures/tokens.json")).unwrap();
    assert!(cases.len() > 30);
    for file in ["tokenizer.json", "vocab.txt"] {
        for case in &cases {
            let side = if case["left"] == true { "left" } else { "right" };
            let settings = json!({"do_lower_case": case["lower"], "truncation_side": side});
            let tokenizer = Tokenizer::open(configured(&[file], &settings).path()).unwrap();
            let text = case["text"].as_str().unwrap();
            for (max_len, expected) in case["ids"].as_object().unwrap() {
                let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
                let ids = tokenizer.encode(text, max_len.parse().unwrap()).unwrap();
                assert_eq!(ids, expected, "{file} {max_len} {case}");
            }
        }
    }
}

#[test]
fn stored_truncation_and_padding_do_not_apply() {
    // The fixture cuts at 6 and pads to 16.
    let tokenizer = open();
    assert_eq!(tokenizer.encode("city", 512).unwrap().len(), 3);
    assert_eq!(tokenizer.encode(&"city ".repeat(50), 512).unwrap().len(), 52);
    assert_eq!(tokenizer.count(&"city ".repeat(5000)).unwrap(), 5002);
}

#[test]
fn a_batch_is_flat_and_in_order() {
    let tokenizer = open();
    let texts: Vec<String> = (0..500).map(|i| "river bank ".repeat(i % 7)).collect();
    let batch = tokenizer.encode_batch(&texts, 9).unwrap();
    assert_eq!(batch.len(), 500);
    assert_eq!(batch.max_len(), 9);
    assert_eq!(batch.type_ids, None);
    for (i, (row, text)) in batch.rows().zip(&texts).enumerate() {
        assert_eq!(row, tokenizer.encode(text, 9).unwrap(), "text {i}");
    }
    assert_eq!(batch.row(0), tokenizer.encode("", 9).unwrap());
    assert_eq!(
        tokenizer.encode_batch::<&str>(&[], 9).unwrap(),
        TokenBatch::default()
    );
}

#[test]
fn a_length_without_room_is_refused_in_words() {
    let tokenizer = open();
    assert_eq!(tokenizer.encode("city river", 2).unwrap().len(), 2);
    for max_len in [0, 1] {
        let error = tokenizer.encode_batch(&["city"], max_len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("2 special tokens"), "{error}");
    }
}

#[test]
fn special_tokens_are_found_by_name() {
    let tokenizer = open();
    let special = tokenizer.special_tokens();
    assert_eq!(
        [special.pad, special.unk, special.cls, special.sep, special.mask],
        [Some(0), Some(1), Some(2), Some(3), Some(4)]
    );
    assert_eq!((special.bos, special.eos), (None, None));
    assert_eq!((tokenizer.special_count(), tokenizer.max_len()), (2, Some(512)));
    assert_eq!(tokenizer.vocab_size(), 171);
    assert_eq!(tokenizer.token(2).as_deref(), Some("[CLS]"));
    assert_eq!(tokenizer.id("france"), Some(127));
    assert_eq!(tokenizer.id("frankreich"), None);
}

#[test]
fn long_texts_are_cut_early_with_the_same_tokens() {
    // Byte-level splitting is not known to go word by word, so it reads the whole text; `[MASK]` eats the space before it.
    let early = changed(|json| json["added_tokens"][4]["lstrip"] = true.into());
    let early = Tokenizer::open(early.path()).unwrap();
    let whole = changed(|json| {
        json["added_tokens"][4]["lstrip"] = true.into();
        let never = json!({"type": "Replace", "pattern": {"String": "\u{10ffff}"}, "content": ""});
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [never, json["normalizer"]]});
    });
    let whole = Tokenizer::open(whole.path()).unwrap();
    let words = [
        "the",
        " ",
        "city",
        "\n",
        "中文",
        "[MASK]",
        " ",
        "e\u{301}",
        "\u{a0}",
        "unresettable",
        "\u{301}",
        ",",
        "\0",
        "\u{600}",
        " ",
        "x",
        "  ",
    ];
    for seed in 0..25 {
        let mut draws = Draws::new(key(seed, Stream::Init, 0));
        let text: String = (0..3000).map(|_| words[draws.below(words.len())]).collect();
        for max_len in [2, 3, 20, 200, 100_000] {
            let (a, b) = (
                early.encode(&text, max_len).unwrap(),
                whole.encode(&text, max_len).unwrap(),
            );
            assert_eq!(a, b, "seed {seed}, {max_len} tokens");
        }
    }
}

#[test]
fn a_megabyte_is_one_text() {
    let tokenizer = open();
    let blank = " ".repeat(1 << 20);
    let word = "x".repeat(1 << 20);
    let mixed = "city\0 ".repeat((1 << 20) / 6);
    let batch = tokenizer.encode_batch(&[&blank, &word, &mixed], 128).unwrap();
    let lengths: Vec<usize> = batch.lengths().collect();
    assert_eq!(lengths, [2, 3, 128]);
}

#[test]
fn segments_appear_only_where_one_is_not_zero() {
    let with = changed(|json| {
        let single = json["post_processor"]["single"].as_array_mut().unwrap();
        single[1]["Sequence"]["type_id"] = 1.into();
        single[2]["SpecialToken"]["type_id"] = 1.into();
    });
    let with = Tokenizer::open(with.path()).unwrap();
    let batch = with.encode_batch(&["city river", ""], 8).unwrap();
    assert_eq!(batch.type_ids, Some(vec![0, 1, 1, 1, 0, 1]));
    assert_eq!(open().encode_batch(&["city"], 8).unwrap().type_ids, None);
}

#[test]
fn a_checkpoint_can_carry_the_files_along() {
    let names = |tokenizer: &Tokenizer| -> Vec<String> {
        let files = tokenizer.files().iter();
        files
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(
        names(&open()),
        ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    );
    let copy = TempDir::new().unwrap();
    for file in open().files() {
        fs::copy(file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    let copy = Tokenizer::open(copy.path()).unwrap();
    assert_eq!(
        copy.encode("the city", 8).unwrap(),
        open().encode("the city", 8).unwrap()
    );
}

#[test]
fn folders_without_a_tokenizer_say_what_to_do() {
    let empty = TempDir::new().unwrap();
    assert!(fails(&empty).1.contains("copy it from the base model"));

    fs::write(empty.path().join("sentencepiece.bpe.model"), "binary").unwrap();
    assert!(fails(&empty).1.contains("save_pretrained"));

    let foreign = folder(&["vocab.txt"]);
    assert!(fails(&foreign).1.contains("nothing says that it is BERT's"));
    fs::write(foreign.path().join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    assert!(Tokenizer::open(foreign.path()).is_ok());

    let error = Tokenizer::open("no/such/folder").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(Tokenizer::open(fixture().join("vocab.txt")).is_err());
}

#[test]
fn damaged_files_are_named() {
    let good = fs::read(fixture().join("tokenizer.json")).unwrap();
    for bytes in [
        &good[..good.len() / 2],
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{\"model\": 3}",
    ] {
        let folder = folder(&["tokenizer_config.json"]);
        fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
        let (kind, message) = fails(&folder);
        assert_eq!(kind, ErrorKind::Tokenizer);
        assert!(message.contains("tokenizer.json"), "{message}");
    }

    let directory = folder(&[]);
    fs::create_dir(directory.path().join("tokenizer.json")).unwrap();
    assert_eq!(fails(&directory).0, ErrorKind::Io);

    for config in [
        "{",
        "[]",
        r#"{"truncation_side": "middle"}"#,
        r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": "yes"}"#,
    ] {
        let folder = folder(&["tokenizer.json"]);
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let (kind, message) = fails(&folder);
        assert_eq!(kind, ErrorKind::Tokenizer);
        assert!(message.contains("tokenizer_config.json"), "{message}");
    }

    let vocabulary = folder(&["tokenizer_config.json"]);
    fs::write(vocabulary.path().join("vocab.txt"), "[PAD]\n[UNK]\nthe\n").unwrap();
    assert!(fails(&vocabulary).1.contains("[CLS]"));
    fs::write(vocabulary.path().join("vocab.txt"), b"[PAD]\n\xff\n").unwrap();
    assert!(fails(&vocabulary).1.contains("UTF-8"));
}

#[test]
fn a_tokenizer_that_makes_nothing_is_refused() {
    let empty = changed(|json| {
        json["model"]["vocab"] = json!({});
        json["added_tokens"] = json!([]);
    });
    assert_eq!(fails(&empty).0, ErrorKind::Tokenizer);
    let inside = changed(|json| {
        let single = json["post_processor"]["single"].as_array_mut().unwrap();
        let (text, end) = (single[1].clone(), single[2].clone());
        single.extend([text, end]);
    });
    assert_eq!(fails(&inside).0, ErrorKind::Unsupported);
}
