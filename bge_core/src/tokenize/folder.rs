//! What a model folder says about its tokenizer.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::normalizers::BertNormalizer;

use crate::error::{Error, ErrorKind, Result, bail};

/// Files that belong to a tokenizer; a checkpoint carries them along unchanged.
pub const FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
];

/// The small files of a tokenizer folder, parsed.
pub(super) struct Folder {
    path: PathBuf,
    /// `tokenizer_config.json`, null without one.
    config: Value,
    /// `special_tokens_map.json`, null without one.
    special: Value,
    /// `model_type` of `config.json`.
    model_type: Option<String>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "no such folder; give a folder that holds a tokenizer.json",
            )
            .with_path(path));
        }
        let model = read_json(&path.join("config.json"))?;
        Ok(Self {
            path: path.to_path_buf(),
            config: read_json(&path.join("tokenizer_config.json"))?,
            special: read_json(&path.join("special_tokens_map.json"))?,
            model_type: model["model_type"].as_str().map(str::to_owned),
        })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The files of [`FILES`] that are there.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let all = FILES.iter().map(|name| self.file(name));
        all.filter(|path| path.is_file()).collect()
    }

    /// Whether transformers would open the folder with its BERT tokenizer.
    pub(super) fn is_bert(&self) -> bool {
        match self.config["tokenizer_class"].as_str() {
            Some(class) => matches!(class, "BertTokenizer" | "BertTokenizerFast"),
            None => self.model_type.as_deref() == Some("bert"),
        }
    }

    /// The normaliser that the BERT tokenizer of transformers builds from `tokenizer_config.json`, whatever `tokenizer.json` says.
    pub(super) fn bert_normalizer(&self) -> Result<BertNormalizer> {
        let clean_text = true;
        let handle_chinese_chars = self.flag("tokenize_chinese_chars")?.unwrap_or(true);
        let strip_accents = self.flag("strip_accents")?;
        let lowercase = self.flag("do_lower_case")?.unwrap_or(true);
        Ok(BertNormalizer::new(
            clean_text,
            handle_chinese_chars,
            strip_accents,
            lowercase,
        ))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        match &self.config[name] {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            other => Err(Error::new(
                ErrorKind::Tokenizer,
                format!("must be true or false, not {other}"),
            )
            .with_field(name)
            .with_path(self.file("tokenizer_config.json"))),
        }
    }

    /// Whether a long text loses its start instead of its end.
    pub(super) fn truncates_left(&self) -> Result<bool> {
        match self.config["truncation_side"].as_str() {
            None | Some("right") => Ok(false),
            Some("left") => Ok(true),
            Some(other) => Err(Error::new(
                ErrorKind::Tokenizer,
                format!("must be `left` or `right`, not `{other}`"),
            )
            .with_field("truncation_side")
            .with_path(self.file("tokenizer_config.json"))),
        }
    }

    /// `model_max_length`, where it is a length and not the placeholder for none.
    pub(super) fn max_len(&self) -> Option<usize> {
        let length = self.config["model_max_length"].as_f64()?;
        (1.0..1e9).contains(&length).then_some(length as usize)
    }

    /// The text of a special token (`cls_token`, ...) as the folder names it.
    pub(super) fn special_token(&self, role: &str) -> Option<&str> {
        [&self.config, &self.special].into_iter().find_map(|file| {
            let token = &file[role];
            token.as_str().or_else(|| token["content"].as_str())
        })
    }
}

/// A JSON object, or null where there is no such file.
fn read_json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read(path).map_err(|error| Error::io(path, "read", error))?;
    match serde_json::from_slice(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Error::new(ErrorKind::Tokenizer, "must be a JSON object").with_path(path)),
        Err(error) => Err(Error::new(ErrorKind::Tokenizer, "is not valid JSON")
            .with_path(path)
            .with_source(error)),
    }
}

/// Explains a folder without a tokenizer that bge can read.
pub(super) fn explain_missing(folder: &Folder) -> Result<()> {
    if folder.has("sentencepiece.bpe.model") {
        bail!(
            Tokenizer,
            "there is only a sentencepiece.bpe.model here, and bge reads tokenizer.json: copy it from the base model, or make \
             it once in Python with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        );
    }
    if folder.has("vocab.txt") {
        bail!(
            Tokenizer,
            "there is a vocab.txt but no tokenizer.json, and nothing says that it is BERT's (`tokenizer_class` in \
             tokenizer_config.json or `model_type` in config.json); add the tokenizer.json of the base model"
        );
    }
    bail!(
        NotFound,
        "there is no tokenizer.json here; copy it from the base model"
    )
}
