//! `bge config`: shows, checks and rewrites settings.

use std::fs::File;
use std::io::{self, Read, Write};

use bge_core::config::{
    self, Arguments, EncodeConfig, EvaluateConfig, FinetuneConfig, Loader, Module, Parsed, RenderFormat,
};
use bge_core::{Issue, Severity};
use serde_json::json;

const USAGE: &str = "\
usage: bge config schema  [--command finetune|encode|evaluate]    settings as JSON Schema
       bge config default [--command ...] [--format toml|json]    every setting with its default
       bge config check   [--config FILE] [--json] [FLAGS | COMMAND LINE]
       bge config render  --format toml|json|flags|flagembedding|deepspeed [--config FILE] [FLAGS | COMMAND LINE]

FLAGS are those of `bge finetune`; --module names the kind of embedder (encoder_only.base).
COMMAND LINE is one of upstream's: torchrun ... -m FlagEmbedding.finetune.embedder.encoder_only.base ...
";

/// More than any file of settings.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Runs `bge config` with the words behind it. Returns the exit code: 0, 1 where the output could not be written,
/// 2 for wrong usage or settings.
pub(crate) fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> i32 {
    match dispatch(args, out, err) {
        Ok(code) => code,
        // A reader that went away, as `head` does, is no failure of ours.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            // If standard error is gone too, nobody is left to tell.
            let _ = writeln!(err, "error: cannot write the output: {error}");
            1
        }
    }
}

fn dispatch(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<i32> {
    let Some((action, rest)) = args.split_first() else {
        err.write_all(USAGE.as_bytes())?;
        return Ok(2);
    };
    let result = match action.as_str() {
        "schema" => schema(rest, out)?,
        "default" => default(rest, out)?,
        "check" => return check(rest, out, err),
        "render" => render(rest, out, err)?,
        "help" | "--help" | "-h" => {
            out.write_all(USAGE.as_bytes())?;
            Ok(())
        }
        other => Err(vec![problem(format!(
            "`bge config` can schema, default, check and render, got {other:?}"
        ))]),
    };
    match result {
        Ok(()) => Ok(0),
        Err(issues) => {
            show(&issues, err)?;
            Ok(2)
        }
    }
}

type Outcome<T> = Result<T, Vec<Issue>>;

fn problem(message: impl Into<String>) -> Issue {
    Issue::new("config.usage", Severity::Error, message)
}

fn show(issues: &[Issue], err: &mut dyn Write) -> io::Result<()> {
    issues.iter().try_for_each(|issue| writeln!(err, "{issue}"))
}

/// Takes `--name VALUE` out of the words.
fn take_value(words: &mut Vec<String>, name: &str) -> Outcome<Option<String>> {
    let attached = format!("{name}=");
    let mut found = None;
    while let Some(at) = words
        .iter()
        .position(|word| word == name || word.starts_with(&attached))
    {
        let word = words.remove(at);
        let value = match word.strip_prefix(&attached) {
            Some(value) => value.to_owned(),
            None if at < words.len() => words.remove(at),
            None => return Err(vec![problem(format!("`{name}` needs a value"))]),
        };
        found = Some(value);
    }
    Ok(found)
}

/// Takes `--name WORD` out of the words and reads the word.
fn take_choice<T: std::str::FromStr<Err = bge_core::Error>>(
    words: &mut Vec<String>,
    name: &str,
) -> Outcome<Option<T>> {
    let Some(word) = take_value(words, name)? else {
        return Ok(None);
    };
    let read = word.parse().map(Some);
    read.map_err(|error: bge_core::Error| {
        vec![problem(error.message()).on_field(name.trim_start_matches('-'))]
    })
}

fn nothing_left(words: &[String]) -> Outcome<()> {
    match words.first() {
        Some(word) => Err(vec![problem(format!("there is no use for {word:?} here"))]),
        None => Ok(()),
    }
}

fn schema(args: &[String], out: &mut dyn Write) -> io::Result<Outcome<()>> {
    let read = || {
        let mut words = args.to_vec();
        let command = take_value(&mut words, "--command")?.unwrap_or_else(|| "finetune".to_owned());
        let module = take_choice(&mut words, "--module")?.unwrap_or_default();
        nothing_left(&words)?;
        let title = format!("bge {command}");
        match command.as_str() {
            "finetune" => Ok(config::json_schema::<FinetuneConfig>(&title, module)),
            "encode" => Ok(config::json_schema::<EncodeConfig>(&title, module)),
            "evaluate" => Ok(config::json_schema::<EvaluateConfig>(&title, module)),
            other => Err(no_command(other)),
        }
    };
    print(read().map(|schema| format!("{schema:#}\n")), out)
}

fn no_command(name: &str) -> Vec<Issue> {
    vec![problem(format!("expected finetune, encode or evaluate, got {name:?}")).on_field("command")]
}

fn default(args: &[String], out: &mut dyn Write) -> io::Result<Outcome<()>> {
    let read = || {
        let mut words = args.to_vec();
        let command = take_value(&mut words, "--command")?.unwrap_or_else(|| "finetune".to_owned());
        let module = take_choice(&mut words, "--module")?.unwrap_or_default();
        let format = take_choice(&mut words, "--format")?.unwrap_or(RenderFormat::Toml);
        nothing_left(&words)?;
        match command.as_str() {
            "finetune" => defaults_of::<FinetuneConfig>(format, module),
            "encode" => defaults_of::<EncodeConfig>(format, module),
            "evaluate" => defaults_of::<EvaluateConfig>(format, module),
            other => Err(no_command(other)),
        }
    };
    print(read(), out)
}

fn defaults_of<A: Arguments>(format: RenderFormat, module: Module) -> Outcome<String> {
    match format {
        RenderFormat::Toml => Ok(config::documented_toml(&A::default(), module)),
        RenderFormat::Json => Ok(config::to_json_text(&A::default(), module)),
        other => Err(vec![problem(format!(
            "defaults are shown as toml or json, got {other}"
        ))]),
    }
}

fn print(text: Outcome<String>, out: &mut dyn Write) -> io::Result<Outcome<()>> {
    Ok(match text {
        Ok(text) => {
            out.write_all(text.as_bytes())?;
            Ok(())
        }
        Err(issues) => Err(issues),
    })
}

/// The settings that file and flags, or a whole command line, give.
fn load(mut words: Vec<String>) -> Outcome<(Module, Parsed<FinetuneConfig>)> {
    let module: Option<Module> = take_choice(&mut words, "--module")?;
    let (file, words) = config::split_config_flag(&words).map_err(|issue| vec![issue])?;
    if words.first().is_some_and(|word| !word.starts_with('-')) {
        if file.is_some() || module.is_some() {
            let message =
                "a whole command line brings its own module and settings; leave out --config and --module";
            return Err(vec![problem(message)]);
        }
        let command = config::from_words(&words)?;
        return Ok((command.module, command.config));
    }
    let module = module.unwrap_or_default();
    let mut loader = Loader::for_module(module);
    if let Some(name) = file {
        loader = loader.file(
            &name,
            &read_file(&name).map_err(|issue| vec![issue.in_file(&name)])?,
        );
    }
    Ok((module, loader.flags(&words).finish()?))
}

fn read_file(name: &str) -> Result<String, Issue> {
    let unreadable = |error: io::Error| problem(format!("cannot read the settings: {error}"));
    let mut bytes = Vec::new();
    let file = File::open(name).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(problem(
            "the file is larger than 16 MiB, which settings never are",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().iter().take(valid);
        let line = 1 + before.filter(|byte| **byte == b'\n').count() as u64;
        problem("the file is not UTF-8; save it as UTF-8").at_line(line)
    })
}

fn check(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<i32> {
    let mut words = args.to_vec();
    let as_json = config::take_switch(&mut words, "--json");
    let checked = load(words).and_then(|(module, parsed)| {
        let mut issues = parsed.warnings;
        match parsed.arguments.check_for(module) {
            Ok(checked) => {
                issues.extend_from_slice(checked.warnings());
                Ok(issues)
            }
            Err(errors) => {
                issues.extend(errors);
                Err(issues)
            }
        }
    });
    let (ok, issues) = match checked {
        Ok(warnings) => (true, warnings),
        Err(issues) => (false, issues),
    };
    if as_json {
        writeln!(out, "{:#}", json!({ "ok": ok, "issues": issues }))?;
    } else {
        show(&issues, err)?;
        if ok {
            writeln!(out, "the settings are fine")?;
        }
    }
    Ok(if ok { 0 } else { 2 })
}

fn render(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Outcome<()>> {
    let read = || {
        let mut words = args.to_vec();
        let Some(format) = take_choice::<RenderFormat>(&mut words, "--format")? else {
            let formats: Vec<_> = RenderFormat::ALL.iter().map(|format| format.as_str()).collect();
            return Err(vec![problem(format!(
                "name a format: --format {}",
                formats.join("|")
            ))]);
        };
        let (module, parsed) = load(words)?;
        Ok((parsed.arguments.render(format, module), parsed.warnings))
    };
    match read() {
        Ok((text, warnings)) => {
            show(&warnings, err)?;
            out.write_all(text.as_bytes())?;
            Ok(Ok(()))
        }
        Err(issues) => Ok(Err(issues)),
    }
}
