//! Shell flags, JSON and TOML, read into one flat namespace of settings.

use std::collections::BTreeMap;

use serde_json::Value;

use super::field::{Arguments, FieldDoc, FieldKind};
use super::flags::is_flag;
use super::foreign::{Foreign, Takes, Verdict};
use super::module::Module;
use super::pipeline::STAGES;
use super::tree::{self, Entry, Node};
use super::{FinetuneConfig, unknown};
use crate::error::{Error, ErrorKind};
use crate::issue::{Issue, Severity};

/// Settings that could be read, and what there is to say about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<A> {
    /// The settings.
    pub arguments: A,
    /// Ignored flags and the like; nothing that stops a run.
    pub warnings: Vec<Issue>,
}

/// Reads settings from several places; a later one wins over an earlier one, and all win over the defaults.
///
/// Nothing stops at the first problem: [`Loader::finish`] returns all of them.
///
/// ```
/// use bge_core::config::{FinetuneConfig, Loader};
///
/// let parsed = Loader::<FinetuneConfig>::new()
///     .toml("[training]\nlearning_rate = 1e-5\nnum_train_epochs = 2")
///     .flags(&["--num_train_epochs", "4", "--fp16"])
///     .finish()
///     .unwrap();
/// assert_eq!(parsed.arguments.training.learning_rate, 1e-5);
/// assert_eq!(parsed.arguments.training.num_train_epochs, 4.0);
/// ```
#[derive(Clone, Debug)]
pub struct Loader<A> {
    arguments: A,
    module: Module,
    issues: Vec<Issue>,
}

/// What a name stands for.
enum Target {
    Field(&'static FieldDoc),
    Foreign(&'static Foreign),
}

impl Target {
    fn name(&self) -> &'static str {
        match self {
            Self::Field(field) => field.name,
            Self::Foreign(foreign) => foreign.name,
        }
    }
}

impl Target {
    /// Whether the bare flag means True.
    fn is_switch(&self) -> bool {
        match self {
            // As in HfArgumentParser, an optional boolean needs its word.
            Self::Field(field) => field.kind == FieldKind::Boolean && !field.optional,
            Self::Foreign(foreign) => foreign.takes == Takes::Switch,
        }
    }
}

/// A flag of the command line while its values are collected.
struct Flag {
    target: Target,
    values: Vec<String>,
    times: usize,
}

impl<A: Arguments> Default for Loader<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Arguments> Loader<A> {
    /// Starts from the defaults, for `encoder_only.base`.
    pub fn new() -> Self {
        Self::for_module(Module::default())
    }

    /// Starts from the defaults; settings that only other modules have are refused by name.
    pub fn for_module(module: Module) -> Self {
        Self {
            arguments: A::default(),
            module,
            issues: Vec::new(),
        }
    }

    /// Starts from settings that are there already.
    pub(super) fn starting_from(arguments: A, module: Module) -> Self {
        Self {
            arguments,
            module,
            issues: Vec::new(),
        }
    }

    /// Reads a section of a larger file; findings carry the name of the file.
    pub(super) fn entries(mut self, file: &str, entries: Vec<Entry>) -> Self {
        self.section(entries, &mut BTreeMap::new());
        for issue in &mut self.issues {
            issue.path = Some(file.to_owned());
        }
        self
    }

    /// Reads the text of a file: JSON if it begins with a brace, else TOML. Findings carry its name.
    #[must_use]
    pub fn file(mut self, name: &str, text: &str) -> Self {
        let before = self.issues.len();
        let first = text.trim_start_matches('\u{feff}').trim_start().chars().next();
        self = if first == Some('{') {
            self.json(text)
        } else {
            self.toml(text)
        };
        for issue in self.issues.iter_mut().skip(before) {
            issue.path = Some(name.to_owned());
        }
        self
    }

    /// Reads a JSON object. Objects inside it are sections, which only group.
    #[must_use]
    pub fn json(self, text: &str) -> Self {
        self.tree(tree::json(text))
    }

    /// Reads a TOML document. Tables are sections, which only group.
    #[must_use]
    pub fn toml(self, text: &str) -> Self {
        self.tree(tree::toml(text))
    }

    fn tree(mut self, read: Result<Vec<Entry>, tree::SyntaxError>) -> Self {
        match read {
            Ok(entries) => {
                let stage = stage_of::<A>(&entries);
                let before = self.issues.len();
                self.section(entries, &mut BTreeMap::new());
                let is_error = |issue: &Issue| issue.severity == Severity::Error;
                if let Some(stage) = stage.filter(|_| self.issues.iter().skip(before).any(is_error)) {
                    let message = format!(
                        "with a section [{stage}] this looks like the file of a pipeline; `bge pipeline FILE` runs it"
                    );
                    let issue = Issue::new("config.pipeline_file", Severity::Error, message);
                    self.issues.insert(before, issue);
                }
            }
            Err((message, line)) => self.report("config.syntax", Severity::Error, None, line, message),
        }
        self
    }

    fn section(&mut self, entries: Vec<Entry>, seen: &mut BTreeMap<&'static str, Option<u64>>) {
        for Entry { key, line, value } in entries {
            let target = match (self.resolve(&key), value) {
                (None, Node::Section(inner)) => {
                    self.section(inner, seen);
                    continue;
                }
                (None, Node::Value(_)) => {
                    self.unknown(&key, line);
                    continue;
                }
                (Some(target), value) => (target, value),
            };
            let (target, value) = target;
            if let Some(first) = seen.insert(target.name(), line) {
                let place = first.map_or(String::new(), |line| format!(" on line {line}"));
                let message =
                    format!("it is already given{place}; sections only group, so a name may appear once");
                self.report(
                    "config.duplicate_key",
                    Severity::Error,
                    Some(target.name()),
                    line,
                    message,
                );
                continue;
            }
            match value.into_value() {
                Ok(value) => self.assign(&target, &value, line),
                Err(key) => {
                    let message = format!("the key `{}` is given twice", unknown::short(&key));
                    self.report(
                        "config.duplicate_key",
                        Severity::Error,
                        Some(target.name()),
                        line,
                        message,
                    );
                }
            }
        }
    }

    /// Reads shell flags: `--flag value`, `--flag=value`, a bare `--flag`, lists as `--flag a b`.
    ///
    /// A flag given twice counts as the last one says, as in argparse; a list given twice is joined.
    #[must_use]
    pub fn flags<S: AsRef<str>>(mut self, arguments: &[S]) -> Self {
        let mut flags: Vec<Flag> = Vec::new();
        let mut words = arguments.iter().map(AsRef::as_ref).peekable();
        while let Some(word) = words.next() {
            let mut next_value = || words.next_if(|next| !is_flag(next)).map(str::to_owned);
            if !is_flag(word) {
                let message = format!(
                    "{} belongs to no flag; a text with spaces needs quotes",
                    quoted(word)
                );
                self.report("config.stray_value", Severity::Error, None, None, message);
                continue;
            }
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word, None),
            };
            let Some(name) = name.strip_prefix("--") else {
                let message = format!("{} is not a flag; flags begin with two dashes", quoted(word));
                self.report("config.unknown_flag", Severity::Error, None, None, message);
                while next_value().is_some() {}
                continue;
            };
            let Some((target, negated)) = self.resolve_flag(name) else {
                self.unknown(name, None);
                while next_value().is_some() {}
                continue;
            };
            let values = match (&target, attached) {
                (_, None) if negated => vec!["False".to_owned()],
                (_, Some(_)) if negated => {
                    let message = format!("`--no_{0}` takes no value; use `--{0} False`", target.name());
                    self.report(
                        "config.invalid_value",
                        Severity::Error,
                        Some(target.name()),
                        None,
                        message,
                    );
                    continue;
                }
                (_, Some(value)) => vec![value],
                (target, None) if target.is_switch() => {
                    vec![next_value().unwrap_or_else(|| "True".to_owned())]
                }
                (
                    Target::Foreign(Foreign {
                        takes: Takes::Many, ..
                    }),
                    None,
                ) => std::iter::from_fn(next_value).collect(),
                (Target::Field(field), None) if field.kind.is_list() => {
                    std::iter::from_fn(next_value).collect()
                }
                (target, None) => {
                    let Some(value) = next_value() else {
                        let name = target.name();
                        let message = format!("`--{name}` needs a value");
                        self.report("config.missing_value", Severity::Error, Some(name), None, message);
                        continue;
                    };
                    vec![value]
                }
            };
            collect(&mut flags, target, values);
        }
        for flag in flags {
            self.assign_flag(flag);
        }
        self
    }

    fn assign_flag(&mut self, flag: Flag) {
        let Flag {
            target,
            mut values,
            times,
        } = flag;
        let is_list = match &target {
            Target::Field(field) => field.kind.is_list(),
            Target::Foreign(foreign) => foreign.takes == Takes::Many,
        };
        if times > 1 && matches!(target, Target::Field(_)) {
            let message = if is_list {
                format!("it is given {times} times; the lists are joined")
            } else {
                format!("it is given {times} times; the last one counts")
            };
            self.report(
                "config.given_twice",
                Severity::Warning,
                Some(target.name()),
                None,
                message,
            );
        }
        let value = match values.pop() {
            Some(value) if !is_list => Value::String(value),
            last => values.into_iter().chain(last).map(Value::String).collect(),
        };
        self.assign(&target, &value, None);
    }

    /// What a name stands for, if anything; dashes count as underscores, as in `HfArgumentParser`.
    fn resolve(&self, name: &str) -> Option<Target> {
        let underscored;
        let name = if name.contains('-') {
            underscored = name.replace('-', "_");
            underscored.as_str()
        } else {
            name
        };
        let field = A::field(name).or_else(|| A::field(A::alias(name)?));
        if let Some(field) = field {
            return self.module.takes(field).then_some(Target::Field(field));
        }
        A::foreign()
            .iter()
            .find(|foreign| foreign.name == name)
            .map(Target::Foreign)
    }

    /// The same for a flag, and whether it is `--no_` in front of a setting that is on by default.
    fn resolve_flag(&self, name: &str) -> Option<(Target, bool)> {
        if let Some(target) = self.resolve(name) {
            return Some((target, false));
        }
        let name = name.strip_prefix("no_").or_else(|| name.strip_prefix("no-"))?;
        match self.resolve(name)? {
            Target::Field(field)
                if field.kind == FieldKind::Boolean && field.default == Value::Bool(true) =>
            {
                Some((Target::Field(field), true))
            }
            Target::Foreign(foreign) if foreign.takes == Takes::Switch => {
                Some((Target::Foreign(foreign), true))
            }
            _ => None,
        }
    }

    fn assign(&mut self, target: &Target, value: &Value, line: Option<u64>) {
        match target {
            Target::Field(field) => {
                if let Err(error) = self.arguments.set(field.name, value) {
                    let message = error.message().to_owned();
                    self.report(
                        "config.invalid_value",
                        Severity::Error,
                        Some(field.name),
                        line,
                        message,
                    );
                }
            }
            Target::Foreign(foreign) if foreign.is_harmless(value) => {}
            Target::Foreign(foreign) => {
                let (code, severity, message) = match foreign.verdict {
                    Verdict::Ignored => (
                        "config.foreign_ignored",
                        Severity::Warning,
                        format!("ignored: {}", foreign.reason),
                    ),
                    Verdict::RefusedUnless(_) => (
                        "config.foreign_refused",
                        Severity::Error,
                        format!("{} is refused: {}", super::field::shown(value), foreign.reason),
                    ),
                };
                let said = |issue: &Issue| issue.code == code && issue.field.as_deref() == Some(foreign.name);
                if !self.issues.iter().any(said) {
                    self.report(code, severity, Some(foreign.name), line, message);
                }
            }
        }
    }

    fn unknown(&mut self, name: &str, line: Option<u64>) {
        let message = unknown::message::<A>(name, |field| self.module.takes(field));
        let name = unknown::short(name);
        self.report("config.unknown_flag", Severity::Error, Some(&name), line, message);
    }

    fn report(
        &mut self,
        code: &'static str,
        severity: Severity,
        field: Option<&str>,
        line: Option<u64>,
        message: String,
    ) {
        let mut issue = Issue::new(code, severity, message);
        issue.field = field.map(str::to_owned);
        issue.line = line;
        self.issues.push(issue);
    }

    /// The settings with their warnings, or everything that is wrong, warnings included.
    pub fn finish(self) -> Result<Parsed<A>, Vec<Issue>> {
        if self.issues.iter().any(|issue| issue.severity == Severity::Error) {
            return Err(self.issues);
        }
        Ok(Parsed {
            arguments: self.arguments,
            warnings: self.issues,
        })
    }
}

impl FinetuneConfig {
    /// Reads shell flags of `encoder_only.base`.
    pub fn from_flags<S: AsRef<str>>(arguments: &[S]) -> Result<Parsed<Self>, Vec<Issue>> {
        Loader::new().flags(arguments).finish()
    }

    /// Reads flat or grouped JSON.
    pub fn from_json(text: &str) -> Result<Parsed<Self>, Vec<Issue>> {
        Loader::new().json(text).finish()
    }

    /// Reads TOML.
    pub fn from_toml(text: &str) -> Result<Parsed<Self>, Vec<Issue>> {
        Loader::new().toml(text).finish()
    }
}

/// Puts the values of a flag beside, or in place of, those of the same flag before.
fn collect(flags: &mut Vec<Flag>, target: Target, values: Vec<String>) {
    let Some(flag) = flags.iter_mut().find(|flag| flag.target.name() == target.name()) else {
        flags.push(Flag {
            target,
            values,
            times: 1,
        });
        return;
    };
    flag.times += 1;
    if matches!(flag.target, Target::Field(field) if field.kind.is_list()) {
        flag.values.extend(values);
    } else {
        flag.values = values;
    }
}

/// The stage of a pipeline that a file of settings has a section for, though no group of them is called so.
fn stage_of<A: Arguments>(entries: &[Entry]) -> Option<&'static str> {
    let has = |stage: &str| {
        let mut entries = entries.iter();
        entries.any(|entry| entry.key == stage && matches!(entry.value, Node::Section(_)))
    };
    let stages = STAGES.into_iter().filter(|stage| has(stage));
    let mut unknown = stages.filter(|stage| !A::fields().iter().any(|field| field.group == *stage));
    unknown.next()
}

fn quoted(word: &str) -> String {
    super::field::shown(&Value::from(word))
}

/// One error for a list of findings: the first error's text, and how many more there are.
pub fn config_error(issues: &[Issue]) -> Error {
    let errors: Vec<&Issue> = issues
        .iter()
        .filter(|issue| issue.severity == Severity::Error)
        .collect();
    let Some(first) = errors.first() else {
        return Error::new(
            ErrorKind::Internal,
            "a configuration was refused without a reason",
        );
    };
    let kind = match first.code {
        "config.unknown_flag" => ErrorKind::UnknownFlag,
        "config.unsupported" => ErrorKind::Unsupported,
        _ => ErrorKind::InvalidConfig,
    };
    let more = match errors.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let mut error = Error::new(kind, format!("{}{more}", first.message));
    if let Some(path) = &first.path {
        error = error.with_path(path);
    }
    if let Some(line) = first.line {
        error = error.with_line(line);
    }
    match &first.field {
        Some(field) => error.with_field(field),
        None => error,
    }
}
