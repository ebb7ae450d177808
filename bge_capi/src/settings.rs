//! Settings of every command behind one type: by name, from text, checked.

use bge_core::config::{
    self, Arguments, EmbedArguments, EvaluateConfig, FinetuneConfig, Loader, MergeConfig, MineConfig, Module,
    RenderFormat, RerankArguments, ScoreConfig, json_schema, split_words,
};
use bge_core::{Issue, Severity};
use serde_json::Value;

use crate::config::{bge_config_kind, bge_format};
use crate::error::{Outcome, bge_error};

/// Settings of one command.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "settings are few, and C keeps each in a box"
)]
pub(crate) enum Settings {
    Finetune(FinetuneConfig, Module),
    Embed(EmbedArguments),
    Rerank(RerankArguments),
    Mine(MineConfig),
    Score(ScoreConfig),
    Evaluate(EvaluateConfig),
    Merge(MergeConfig),
}

/// The same for whichever settings there are.
macro_rules! each {
    ($settings:expr, $arguments:ident, $module:ident => $body:expr) => {
        match $settings {
            Settings::Finetune($arguments, $module) => {
                let $module = *$module;
                $body
            }
            Settings::Embed($arguments) => each!(@plain $module $body),
            Settings::Rerank($arguments) => each!(@plain $module $body),
            Settings::Mine($arguments) => each!(@plain $module $body),
            Settings::Score($arguments) => each!(@plain $module $body),
            Settings::Evaluate($arguments) => each!(@plain $module $body),
            Settings::Merge($arguments) => each!(@plain $module $body),
        }
    };
    (@plain $module:ident $body:expr) => {{
        let $module = Module::default();
        $body
    }};
}

impl Settings {
    /// The defaults of a kind.
    pub(crate) fn new(kind: u32) -> Outcome<Self> {
        use bge_config_kind as Kind;
        Ok(match kind {
            _ if kind == Kind::Finetune as u32 => {
                Self::Finetune(FinetuneConfig::default(), Module::EncoderOnlyBase)
            }
            _ if kind == Kind::FinetuneReranker as u32 => {
                Self::Finetune(FinetuneConfig::default(), Module::RerankerEncoderOnlyBase)
            }
            _ if kind == Kind::Embed as u32 => Self::Embed(EmbedArguments::default()),
            _ if kind == Kind::Rerank as u32 => Self::Rerank(RerankArguments::default()),
            _ if kind == Kind::Mine as u32 => Self::Mine(MineConfig::default()),
            _ if kind == Kind::Score as u32 => Self::Score(ScoreConfig::default()),
            _ if kind == Kind::Evaluate as u32 => Self::Evaluate(EvaluateConfig::default()),
            _ if kind == Kind::Merge as u32 => Self::Merge(MergeConfig::default()),
            other => {
                let message = format!("{other} is not a bge_config_kind");
                return Err(bge_error::argument("kind", message));
            }
        })
    }

    /// Settings of a kind from text, with the warnings about it.
    pub(crate) fn read(kind: u32, format: u32, name: &str, text: &str) -> Outcome<(Self, Vec<Issue>)> {
        let mut settings = Self::new(kind)?;
        if format == bge_format::CommandLine as u32 {
            let Self::Finetune(..) = settings else {
                let message = "only training has command lines of FlagEmbedding's; give flags";
                return Err(bge_error::argument("format", message));
            };
            let line = config::from_command_line(text).map_err(bge_error::refused)?;
            let settings = Self::Finetune(line.config.arguments, line.module);
            return Ok((settings, line.config.warnings));
        }
        let warnings = each!(&mut settings, arguments, module => {
            let loader = Loader::for_module(module);
            let loader = match format {
                _ if format == bge_format::File as u32 => loader.file(name, text),
                _ if format == bge_format::Flags as u32 => loader.flags(&split_words(text)?),
                other => {
                    let message = format!("{other} is not a bge_format that can be read");
                    return Err(bge_error::argument("format", message));
                }
            };
            let parsed = loader.finish().map_err(bge_error::refused)?;
            *arguments = parsed.arguments;
            parsed.warnings
        });
        Ok((settings, warnings))
    }

    /// Sets one setting; a list may be a JSON array.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Outcome {
        each!(self, arguments, _module => {
            let name = name.trim_start_matches("--");
            let name = alias(arguments, name);
            let listed = is_list(arguments, name);
            let value = match serde_json::from_str::<Value>(value) {
                Ok(list @ Value::Array(_)) if listed => list,
                _ => Value::from(value),
            };
            Ok(arguments.set(name, &value)?)
        })
    }

    /// The value of a setting, as JSON.
    pub(crate) fn get(&self, name: &str) -> Outcome<String> {
        let name = name.trim_start_matches("--");
        let value = each!(self, arguments, _module => arguments.get(alias(arguments, name)));
        if let Some(value) = value {
            return Ok(value.to_string());
        }
        // Setting an unknown name fails with the nearest one.
        self.clone().set(name, "")?;
        let message = format!("`{name}` can be set but has no value to read");
        Err(bge_error::argument("name", message))
    }

    /// Everything that is wrong or worth a look, and whether nothing is wrong.
    pub(crate) fn check(&self) -> (bool, Vec<Issue>) {
        macro_rules! outcome {
            ($checked:expr) => {
                match $checked {
                    Ok(checked) => (true, checked.warnings().to_vec()),
                    Err(issues) => (
                        issues.iter().all(|issue| issue.severity != Severity::Error),
                        issues,
                    ),
                }
            };
        }
        match self.clone() {
            Self::Finetune(arguments, module) => outcome!(arguments.check_for(module)),
            Self::Embed(arguments) => outcome!(arguments.check_to_open()),
            Self::Rerank(arguments) => outcome!(arguments.check_to_open()),
            Self::Mine(arguments) => outcome!(arguments.check()),
            Self::Score(arguments) => outcome!(arguments.check()),
            Self::Evaluate(arguments) => outcome!(arguments.check()),
            Self::Merge(arguments) => outcome!(arguments.check()),
        }
    }

    /// The settings as text.
    pub(crate) fn render(&self, format: u32) -> Outcome<String> {
        let format = match format {
            _ if format == bge_format::Toml as u32 => RenderFormat::Toml,
            _ if format == bge_format::Json as u32 => RenderFormat::Json,
            _ if format == bge_format::Flags as u32 => RenderFormat::Flags,
            _ if format == bge_format::CommandLine as u32 => RenderFormat::FlagEmbedding,
            other => {
                let message = format!("{other} is not a bge_format that can be written");
                return Err(bge_error::argument("format", message));
            }
        };
        if let Self::Finetune(arguments, module) = self {
            return Ok(arguments.render(format, *module));
        }
        each!(self, arguments, module => match format {
            RenderFormat::Toml => Ok(config::to_toml(arguments, module)),
            RenderFormat::Json => Ok(config::to_json_text(arguments, module)),
            RenderFormat::Flags => {
                let words = config::to_flags(arguments, module).concat();
                let words: Vec<String> = words.iter().map(|word| config::quote(word)).collect();
                Ok(words.join(" "))
            }
            _ => Err(bge_error::argument("format", "only training has command lines of FlagEmbedding's")),
        })
    }

    /// The settings as JSON Schema.
    pub(crate) fn schema(&self) -> String {
        each!(self, arguments, module => format!("{:#}", schema(arguments, module)))
    }
}

fn alias<'a, A: Arguments>(_: &A, name: &'a str) -> &'a str {
    A::alias(name).unwrap_or(name)
}

fn is_list<A: Arguments>(_: &A, name: &str) -> bool {
    A::field(name).is_some_and(|field| field.kind.is_list())
}

fn schema<A: Arguments>(_: &A, module: Module) -> Value {
    json_schema::<A>("settings of bge", module)
}
