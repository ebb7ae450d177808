//! Settings: made, read, set by name, checked, written.

use std::mem::MaybeUninit;
use std::path::Path;

use bge_core::{Issue, files};
use serde_json::json;

use crate::error::{ErrorOut, Outcome, bge_error, json_text, required};
use crate::guard::{give, guard};
use crate::handle::{Health, bge_text, give_text};
use crate::settings::Settings;
use crate::status::bge_status;
use crate::text::bge_str;

/// Which command settings are for. Their names are the flags that `bge COMMAND --help` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum bge_config_kind {
    /// bge_trainer_new and bge_validate: an embedder.
    Finetune = 1,
    /// The same for a reranker.
    FinetuneReranker = 2,
    /// bge_embedder_open.
    Embed = 3,
    /// bge_reranker_open.
    Rerank = 4,
    /// bge_mine.
    Mine = 5,
    /// bge_score.
    Score = 6,
    /// bge_evaluate.
    Evaluate = 7,
    /// bge_merge.
    Merge = 8,
}

/// A form of settings as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum bge_format {
    /// To read: JSON if the text begins with a brace, else TOML.
    File = 0,
    /// Shell flags: `--name value ...`.
    Flags = 1,
    /// A command line of FlagEmbedding's, launcher and all. Training only; to write, one that FlagEmbedding takes.
    CommandLine = 2,
    /// To write: TOML.
    Toml = 3,
    /// To write: one flat JSON object.
    Json = 4,
}

/// Settings of one command. One thread at a time may change them; while none does, all may read.
#[derive(Debug)]
pub struct bge_config {
    settings: Settings,
    /// What reading said about them.
    warnings: Vec<Issue>,
    health: Health,
}

impl bge_config {
    fn new((settings, warnings): (Settings, Vec<Issue>)) -> Self {
        Self {
            settings,
            warnings,
            health: Health::default(),
        }
    }

    /// The settings, if they are sound.
    pub(crate) fn settings(&self) -> Outcome<&Settings> {
        self.health.enter("config").map(|_| &self.settings)
    }
}

/// What a function says that got settings of another command.
pub(crate) fn other_kind(wanted: &str) -> Box<bge_error> {
    bge_error::argument("config", format!("expected settings of kind {wanted}"))
}

/// Makes settings with their defaults. `kind` is a bge_config_kind.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_new(
    kind: u32,
    out: Option<&mut MaybeUninit<*mut bge_config>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let out = required(out, "out")?;
        give(out, bge_config::new((Settings::new(kind)?, Vec::new())));
        Ok(())
    })
}

/// Makes settings from text. `kind` is a bge_config_kind, `format` a bge_format. An unknown name is an error with the
/// nearest one; bge_error_issues lists everything that is wrong.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_parse(
    kind: u32,
    format: u32,
    text: bge_str<'_>,
    out: Option<&mut MaybeUninit<*mut bge_config>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let out = required(out, "out")?;
        let read = Settings::read(kind, format, "settings", text.text("text")?)?;
        give(out, bge_config::new(read));
        Ok(())
    })
}

/// Makes settings from a TOML or JSON file. `kind` is a bge_config_kind.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_parse_file(
    kind: u32,
    path: bge_str<'_>,
    out: Option<&mut MaybeUninit<*mut bge_config>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let out = required(out, "out")?;
        let path = path.text("path")?;
        let text = files::read_text(Path::new(path))?;
        let read = Settings::read(kind, bge_format::File as u32, path, &text)?;
        give(out, bge_config::new(read));
        Ok(())
    })
}

/// Sets one setting by name; the value is read as on a command line, and a list may be a JSON array.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_set(
    config: Option<&mut bge_config>,
    name: bge_str<'_>,
    value: bge_str<'_>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let _entered = config.health.enter("config")?;
        config.settings.set(name.text("name")?, value.text("value")?)
    })
}

/// The value of a setting as JSON: a text has quotes, what is not set is `null`.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_get(
    config: Option<&bge_config>,
    name: bge_str<'_>,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    write(config, out, error, |config| {
        config.settings.get(name.text("name")?)
    })
}

/// Checks settings against each other, without looking at a disk: `{"ok": true, "issues": [...]}`. Bad settings are an
/// answer here, not an error.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_check(
    config: Option<&bge_config>,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    write(config, out, error, |config| {
        let (ok, issues) = config.settings.check();
        let issues: Vec<&Issue> = config.warnings.iter().chain(&issues).collect();
        json_text(&json!({ "ok": ok, "issues": issues }))
    })
}

/// Writes settings as text. `format` is a bge_format: flags, TOML, JSON, or for training a command line.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_render(
    config: Option<&bge_config>,
    format: u32,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    write(config, out, error, |config| config.settings.render(format))
}

/// Every setting of this kind as JSON Schema, with type, default and help.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_schema(
    config: Option<&bge_config>,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: Option<&mut MaybeUninit<*mut bge_error>>,
) -> bge_status {
    write(config, out, error, |config| Ok(config.settings.schema()))
}

fn write(
    config: Option<&bge_config>,
    out: Option<&mut MaybeUninit<*mut bge_text>>,
    error: ErrorOut<'_>,
    text: impl FnOnce(&bge_config) -> Outcome<String>,
) -> bge_status {
    guard(error, || {
        let config = required(config, "config")?;
        let out = required(out, "out")?;
        let _entered = config.health.enter("config")?;
        give_text(out, text(config)?);
        Ok(())
    })
}

/// Frees settings. NULL is fine. What was made from them lives on.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_config_free(config: Option<Box<bge_config>>) {
    drop(config);
}
