//! A pasted command line of upstream's: its words, its module and its flags.

use super::FinetuneConfig;
use super::module::{Module, UPSTREAM};
use super::parse::{Loader, Parsed};
use crate::issue::{Issue, Severity};

/// What a pasted command line says.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandLine {
    /// Which kind of model it trains.
    pub module: Module,
    /// How many processes its launcher starts, where it says a number.
    pub processes: Option<usize>,
    /// The flags behind the module.
    pub flags: Vec<String>,
    /// The settings they give.
    pub config: Parsed<FinetuneConfig>,
}

/// Reads `torchrun ... -m FlagEmbedding.finetune.embedder.MODULE --flags`, the same of a reranker, `python -m ...`,
/// `bge finetune MODULE --flags` or flags alone, with quotes, comments and continued lines as a shell has them.
///
/// Variables are not expanded: their values are unknown here, which is said as a warning.
pub fn from_command_line(text: &str) -> Result<CommandLine, Vec<Issue>> {
    match split_commands(text) {
        Ok(commands) => from_commands(&commands),
        Err(message) => problem("config.syntax", message.to_owned()),
    }
}

/// The same for a command line that a shell has already split into words.
pub fn from_words(words: &[String]) -> Result<CommandLine, Vec<Issue>> {
    from_commands(&[words.to_vec()])
}

fn problem<T>(code: &'static str, message: String) -> Result<T, Vec<Issue>> {
    Err(vec![Issue::new(code, Severity::Error, message)])
}

fn from_commands(commands: &[Vec<String>]) -> Result<CommandLine, Vec<Issue>> {
    let found = commands.iter().find_map(|words| Some((words, module_at(words)?)));
    let (words, at, name) = if let Some((words, (at, name))) = found {
        (words.clone(), at + 1, name.to_owned())
    } else {
        // Flags alone, perhaps one to a line.
        let words = commands.concat();
        if !words.first().is_some_and(|word| word.starts_with("--")) {
            let message = format!(
                "there is no training command; expected `torchrun ... -m {} --flags`, or `--command mine` and the like for \
                 what another command takes",
                Module::default().path()
            );
            return problem("config.no_command", message);
        }
        (words, 0, Module::default().to_string())
    };
    let module = match Module::from_path(&name) {
        Ok(module) => module,
        Err(error) => return problem("config.unknown_module", error.message().to_owned()),
    };
    if let Err(error) = module.available() {
        return problem("config.unsupported", error.message().to_owned());
    }
    let (launcher, flags) = words.split_at(at);
    let mut config = Loader::<FinetuneConfig>::for_module(module)
        .flags(flags)
        .finish()?;
    let processes = processes(launcher);
    let training = &mut config.arguments.training;
    // Flags that say how many ranks there are win.
    let silent = training.nproc_per_node.is_none() && training.devices.len() < 2;
    if let Some(processes) = processes.filter(|processes| *processes > 1 && silent) {
        training.nproc_per_node = Some(processes);
        let message = format!(
            "the launcher starts {processes} processes and bge is one with as many ranks, so `nproc_per_node` is \
             {processes} here; `bge finetune` needs the flag, as without it a step sees per_device_train_batch_size \
             queries, not {processes} times as many"
        );
        config
            .warnings
            .push(Issue::new("config.launcher", Severity::Warning, message));
    }
    for word in flags.iter().filter(|word| word.contains('$')) {
        let message = format!(
            "{:?} holds a shell variable, which is not expanded here",
            short(word)
        );
        config
            .warnings
            .push(Issue::new("config.shell_variable", Severity::Warning, message));
    }
    Ok(CommandLine {
        module,
        processes,
        flags: flags.to_vec(),
        config,
    })
}

fn short(word: &str) -> String {
    super::unknown::short(word)
}

/// Where a command names its module, and the module's name behind the prefix.
fn module_at(words: &[String]) -> Option<(usize, &str)> {
    words.iter().enumerate().find_map(|(at, word)| {
        let before = at
            .checked_sub(1)
            .and_then(|before| words.get(before))
            .map(String::as_str);
        if let Some(name) = word.strip_prefix("-m").unwrap_or(word).strip_prefix(UPSTREAM) {
            return Some((at, name.strip_suffix(".__main__").unwrap_or(name)));
        }
        (before == Some("finetune") && !word.starts_with('-')).then_some((at, word.as_str()))
    })
}

/// The flags behind `python SCRIPT.py`, `python -m MODULE` and the like; words that begin with a flag are flags.
pub fn flags_of_script(words: &[String]) -> &[String] {
    if words.first().is_none_or(|word| word.starts_with("--")) {
        return words;
    }
    let is_script = |word: &String| {
        let kind = std::path::Path::new(word).extension();
        kind.is_some_and(|kind| kind == "py") || word.starts_with("FlagEmbedding.")
    };
    let behind = words.iter().position(is_script).map_or(0, |at| at + 1);
    words.split_at(behind).1
}

/// The number of processes over all nodes that torchrun, accelerate or deepspeed is told to start.
fn processes(launcher: &[String]) -> Option<usize> {
    let number = |names: &[&str]| {
        launcher.iter().enumerate().find_map(|(at, word)| {
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.as_str(), launcher.get(at + 1).map(String::as_str)),
            };
            let name = name.strip_prefix("--")?.replace('-', "_");
            names
                .contains(&name.as_str())
                .then_some(attached?.parse::<usize>().ok()?)
        })
    };
    if let Some(all) = number(&["num_processes"]) {
        return Some(all);
    }
    let nodes = number(&["nnodes", "num_nodes"]).unwrap_or(1);
    number(&["nproc_per_node", "num_gpus"])?.checked_mul(nodes)
}

/// The words of a text, as a POSIX shell splits them; variables stay as they are written, and so does a backslash before a
/// character that needs none, as in paths of Windows.
///
/// ```
/// let words = bge_core::config::split_words("--query_instruction_format '{}\\n{}' \\\n --fp16").unwrap();
/// assert_eq!(words, ["--query_instruction_format", "{}\\n{}", "--fp16"]);
/// let words = bge_core::config::split_words(r"--output_dir C:\my\ models\_new").unwrap();
/// assert_eq!(words, ["--output_dir", r"C:\my models\_new"]);
/// ```
pub fn split_words(text: &str) -> crate::Result<Vec<String>> {
    match split_commands(text) {
        Ok(commands) => Ok(commands.concat()),
        Err(message) => Err(crate::Error::new(crate::ErrorKind::InvalidConfig, message)),
    }
}

/// All commands of a script; redirections and what follows them are left out.
fn split_commands(text: &str) -> Result<Vec<Vec<String>>, &'static str> {
    let mut commands = Vec::new();
    let mut words: Vec<String> = Vec::new();
    // A word that has begun, even if it is still empty, as '' is.
    let mut word: Option<String> = None;
    let mut redirected = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('\n') => {}
                Some('\r') if characters.peek() == Some(&'\n') => {
                    characters.next();
                }
                Some(escaped) => {
                    let word = word.get_or_insert_default();
                    // A shell would make `C:modelsbge` of a pasted `C:\models\bge`, which nobody means.
                    if is_plain(escaped) {
                        word.push('\\');
                    }
                    word.push(escaped);
                }
                None => return Err("the command ends with a backslash"),
            },
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(inside) => word.push(inside),
                        None => return Err("a single quote is not closed"),
                    }
                }
            }
            '"' => double_quoted(&mut characters, word.get_or_insert_default())?,
            '#' if word.is_none() => while characters.next_if(|next| *next != '\n').is_some() {},
            '<' | '>' => {
                // The 2 of `2>&1` is a part of the redirection.
                if let Some(begun) = word.take_if(|begun| !begun.chars().all(|digit| digit.is_ascii_digit()))
                {
                    end(&mut words, begun, redirected);
                }
                word = None;
                redirected = true;
                // `>&1` is one redirection, not the end of a command.
                characters.next_if_eq(&'&');
            }
            '\n' | ';' | '|' | '&' => {
                if let Some(begun) = word.take() {
                    end(&mut words, begun, redirected);
                }
                if !words.is_empty() {
                    commands.push(std::mem::take(&mut words));
                }
                redirected = false;
            }
            space if space.is_whitespace() => {
                if let Some(begun) = word.take() {
                    end(&mut words, begun, redirected);
                }
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    if let Some(begun) = word {
        end(&mut words, begun, redirected);
    }
    if !words.is_empty() {
        commands.push(words);
    }
    Ok(commands)
}

fn end(words: &mut Vec<String>, word: String, redirected: bool) {
    if !redirected {
        words.push(word);
    }
}

/// Reads up to the closing double quote; a backslash escapes only what a shell lets it escape.
fn double_quoted(
    characters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    word: &mut String,
) -> Result<(), &'static str> {
    loop {
        match characters.next() {
            Some('"') => return Ok(()),
            Some('\\') => match characters.next() {
                Some('\n') => {}
                Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                Some(other) => word.extend(['\\', other]),
                None => return Err("a double quote is not closed"),
            },
            Some(inside) => word.push(inside),
            None => return Err("a double quote is not closed"),
        }
    }
}

/// Whether a character means itself to a shell.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_./:=,+@%".contains(character)
}

/// A word in the quotes that a POSIX shell needs.
pub fn quote(word: &str) -> String {
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
