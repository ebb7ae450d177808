//! What the commands share: settings from flags and files, messages, exit codes.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bge_core::config::{
    Arguments, Checked, Loader, Module, config_error, groups, module_flag_help, split_config_flag,
    split_free_words, take_switch,
};
use bge_core::{Error, ErrorKind, Issue, Severity, files};
use serde_json::Value;

/// How a command failed.
pub(crate) enum Failure {
    /// Wrong usage or settings: exit code 2.
    Usage(Vec<Issue>),
    /// The work itself failed: exit code 1.
    Work(Error),
    /// Said already; only the exit code is left.
    Code(i32),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Work(error)
    }
}

/// The result of a command.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Whether another process speaks for this one.
static SILENT: AtomicBool = AtomicBool::new(false);

/// Makes this process say nothing, or speak again.
#[cfg(any(feature = "mpi", feature = "nccl"))]
pub(crate) fn set_silent(silent: bool) {
    SILENT.store(silent, Ordering::Relaxed);
}

fn silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// Says what went wrong, and gives the exit code.
pub(crate) fn finish(outcome: Outcome<()>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(Failure::Code(code)) => code,
        Err(Failure::Usage(issues)) => {
            issues.iter().for_each(say);
            2
        }
        Err(Failure::Work(error)) => {
            say(format!("error: {error}"));
            if matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::UnknownFlag) {
                2
            } else {
                1
            }
        }
    }
}

/// Writes a result to standard output; a reader that went away is no failure.
pub(crate) fn print(text: &str) -> i32 {
    if silent() {
        return 0;
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => 1,
        _ => 0,
    }
}

/// Writes a line to standard error.
pub(crate) fn say(line: impl std::fmt::Display) {
    if silent() {
        return;
    }
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Settings of a command with the switches that every command has.
pub(crate) struct Settings<A> {
    pub(crate) arguments: A,
    pub(crate) json: bool,
}

/// Reads flags and `--config FILE`, and says what is ignored; prints help and ends where it is asked for.
pub(crate) fn settings<A: Arguments + Default>(
    usage: &str,
    args: &[String],
    module: Module,
) -> Outcome<Settings<A>> {
    read(usage, args, module, None)
}

/// As [`settings`]; words that belong to no flag are values of this one.
pub(crate) fn settings_of_files<A: Arguments + Default>(
    usage: &str,
    args: &[String],
    files: &str,
) -> Outcome<Settings<A>> {
    read(usage, args, Module::default(), Some(files))
}

fn read<A: Arguments + Default>(
    usage: &str,
    args: &[String],
    module: Module,
    free: Option<&str>,
) -> Outcome<Settings<A>> {
    let mut args = args.to_vec();
    if take_switch(&mut args, "--help") || args.iter().any(|arg| arg == "-h") {
        let mut text = format!(
            "{usage}\n  --config FILE\n          Settings from a TOML or JSON file; flags win over it.\n  --json\n          The result as one JSON object on standard output.\n"
        );
        for group in groups::<A>() {
            let help = module_flag_help::<A>(group, module);
            if !help.is_empty() {
                text.push_str(&format!("\n{group}:\n{help}"));
            }
        }
        return Err(Failure::Code(print(&text)));
    }
    let json = take_switch(&mut args, "--json");
    let (file, flags) = split_config_flag(&args).map_err(|issue| Failure::Usage(vec![issue]))?;
    let mut loader = Loader::<A>::for_module(module);
    if let Some(file) = file {
        let text = files::read_text(Path::new(&file)).map_err(|error| {
            Failure::Usage(vec![Issue::new(
                "config.file",
                Severity::Error,
                error.to_string(),
            )])
        })?;
        loader = loader.file(&file, &text);
    }
    let (words, flags) = match free {
        Some(_) => split_free_words::<A>(&flags),
        None => (Vec::new(), flags),
    };
    let mut parsed = loader.flags(&flags).finish().map_err(Failure::Usage)?;
    for warning in &parsed.warnings {
        say(warning);
    }
    if let Some(name) = free.filter(|_| !words.is_empty()) {
        let mut values: Vec<Value> = words.into_iter().map(Value::from).collect();
        if let Some(Value::Array(more)) = parsed.arguments.get(name) {
            values.extend(more);
        }
        parsed.arguments.set(name, &Value::Array(values))?;
    }
    Ok(Settings {
        arguments: parsed.arguments,
        json,
    })
}

/// Settings that passed their rules; says what is worth a look about them.
pub(crate) fn checked<C>(outcome: Result<Checked<C>, Vec<Issue>>) -> Outcome<Checked<C>> {
    let config = outcome.map_err(refused)?;
    for warning in config.warnings() {
        say(warning);
    }
    Ok(config)
}

/// Settings that contradict each other, as a failure.
pub(crate) fn refused(issues: Vec<Issue>) -> Failure {
    if issues.is_empty() {
        Failure::Work(config_error(&issues))
    } else {
        Failure::Usage(issues)
    }
}

/// Sets the threads of the CPU for the whole process.
pub(crate) fn use_threads(threads: Option<usize>) -> Outcome<()> {
    if let Some(threads) = threads {
        let built = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global();
        built.map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot set the number of threads").with_source(error)
        })?;
    }
    Ok(())
}
