//! `bge validate`: reads training data once and says what is wrong with it.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use bge_core::config::{self, DataArguments, FinetuneConfig, Loader, Module, TrainingArguments};
use bge_core::data::preflight::{FileProgress, validate_files};
use bge_core::data::session::{TokenCounter, ValidationOptions};
use bge_core::{Error, ErrorKind, Issue, Severity};

const USAGE: &str = "\
usage: bge validate FILE_OR_FOLDER... [--config FILE] [--json] [FLAGS]

Reads training data once and reports, with file and line, what would break or spoil training.
FLAGS are those of `bge finetune`; these change the answer:
  --same_dataset_within_batch --knowledge_distillation --train_group_size N --query_max_len N --passage_max_len N
  --per_device_train_batch_size N --num_train_epochs N --small_threshold N --drop_threshold N
  --eval_dataset FOLDER --eval_split NAME    look for texts of the evaluation data
  --model_name_or_path DIR                   count tokens too
  --module reranker.encoder_only.base        judge the rows as a reranker would train on them

Ends with 1 if there are errors, 2 for wrong usage.
";

/// Makes the token counter of a model, given the settings; `None` where they name no model.
pub(crate) type MakeCounter<'a> = &'a dyn Fn(&FinetuneConfig) -> bge_core::Result<Option<Counter>>;

/// Counts the tokens of a text.
pub(crate) type Counter = Box<dyn Fn(&str) -> usize>;

/// Runs `bge validate` with the words behind it. Returns the exit code: 0, 1 where the data has errors, 2 for wrong usage.
pub(crate) fn run(
    args: &[String],
    counter: MakeCounter<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> i32 {
    match validate(args, counter, out, err) {
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

fn validate(
    args: &[String],
    counter: MakeCounter<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<i32> {
    if args.is_empty() || args.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        let help: &mut dyn Write = if args.is_empty() { err } else { out };
        help.write_all(USAGE.as_bytes())?;
        return Ok(if args.is_empty() { 2 } else { 0 });
    }
    let mut words = args.to_vec();
    let as_json = config::take_switch(&mut words, "--json");
    let (module, config) = match read_config(&words) {
        Ok((module, config, warnings)) => {
            warnings.iter().try_for_each(|issue| writeln!(err, "{issue}"))?;
            (module, config)
        }
        Err(issues) => {
            issues.iter().try_for_each(|issue| writeln!(err, "{issue}"))?;
            return Ok(2);
        }
    };
    let counter = match counter(&config) {
        Ok(counter) => counter,
        Err(error) => {
            writeln!(err, "error: {error}")?;
            return Ok(2);
        }
    };
    let FinetuneConfig { data, training, .. } = config;
    let started = Instant::now();
    let report = {
        let mut bar = ProgressLine::new(err, started);
        let counter = counter.as_deref().map(|counter| counter as TokenCounter<'_>);
        let report = validate_files(options(module, data, training), counter, |progress| {
            bar.show(progress)
        });
        bar.end()?;
        report
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            writeln!(err, "error: {error}")?;
            return Ok(if error.kind() == ErrorKind::InvalidConfig {
                2
            } else {
                1
            });
        }
    };
    if as_json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    let seconds = started.elapsed().as_secs_f64();
    let rate = report.bytes as f64 / 1e6 / seconds.max(1e-9);
    writeln!(
        err,
        "read {:.1} MB in {seconds:.2} s, {rate:.0} MB/s",
        report.bytes as f64 / 1e6
    )?;
    Ok(i32::from(report.has_errors()))
}

fn options(module: Module, data: DataArguments, training: TrainingArguments) -> ValidationOptions {
    let world_size = training.world_size();
    ValidationOptions {
        module,
        data,
        training,
        world_size,
        ..ValidationOptions::default()
    }
}

/// The settings of file and flags; words that belong to no flag are training data.
fn read_config(words: &[String]) -> Result<(Module, FinetuneConfig, Vec<Issue>), Vec<Issue>> {
    let mut words = words.to_vec();
    let module = take_module(&mut words)?;
    let (file, words) = config::split_config_flag(&words).map_err(|issue| vec![issue])?;
    let (paths, flags) = config::split_free_words::<FinetuneConfig>(&words);
    let mut loader = Loader::<FinetuneConfig>::for_module(module);
    if let Some(name) = file {
        let text = fs::read_to_string(&name).map_err(|error| {
            let error = Error::io(&name, "read the settings", error);
            vec![Issue::new("config.usage", Severity::Error, error.to_string())]
        })?;
        loader = loader.file(&name, &text);
    }
    let mut parsed = loader.flags(&flags).finish()?;
    parsed.arguments.data.train_data.splice(0..0, paths);
    if parsed.arguments.data.train_data.is_empty() {
        let message = "name the files or folders to validate";
        return Err(vec![Issue::new("config.usage", Severity::Error, message)]);
    }
    // What only training needs may be missing; what is there has to be right.
    if let Err(issues) = parsed.arguments.clone().check_for(module) {
        let wrong = |issue: &Issue| issue.severity == Severity::Error && issue.code != "config.required";
        let issues: Vec<Issue> = issues.into_iter().filter(wrong).collect();
        if !issues.is_empty() {
            return Err(issues);
        }
    }
    Ok((module, parsed.arguments, parsed.warnings))
}

/// Takes `--module NAME` out of the words.
fn take_module(words: &mut Vec<String>) -> Result<Module, Vec<Issue>> {
    let Some(at) = words.iter().position(|word| word == "--module") else {
        return Ok(Module::default());
    };
    let name = words.drain(at..words.len().min(at + 2)).nth(1);
    let module = name.as_deref().map_or_else(
        || {
            let message = "`--module` needs a name";
            Err(Error::new(ErrorKind::InvalidConfig, message))
        },
        Module::from_path,
    );
    module.map_err(|error| {
        let issue = Issue::new("config.unknown_module", Severity::Error, error.message());
        vec![issue.on_field("module")]
    })
}

/// A line that is rewritten on a terminal, and a line every few seconds elsewhere.
struct ProgressLine<'a> {
    err: &'a mut dyn Write,
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl<'a> ProgressLine<'a> {
    fn new(err: &'a mut dyn Write, started: Instant) -> Self {
        Self {
            err,
            terminal: io::stderr().is_terminal(),
            started,
            shown: None,
        }
    }

    fn show(&mut self, at: FileProgress<'_>) -> bool {
        let every = if self.terminal {
            Duration::from_millis(100)
        } else {
            Duration::from_secs(10)
        };
        if self.shown.unwrap_or(self.started).elapsed() < every {
            return true;
        }
        self.shown = Some(Instant::now());
        let percent = 100.0 * at.progress.bytes as f64 / at.total_bytes.max(1) as f64;
        let rate = at.progress.bytes as f64 / 1e6 / self.started.elapsed().as_secs_f64();
        let line = format!(
            "{percent:3.0} %, {} rows, {} errors, {} warnings, {rate:.0} MB/s",
            at.progress.rows, at.progress.errors, at.progress.warnings
        );
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.terminal {
            write!(self.err, "\r\x1b[K{line}")
        } else {
            writeln!(self.err, "{line}")
        };
        let _ = self.err.flush();
        true
    }

    fn end(&mut self) -> io::Result<()> {
        if self.terminal && self.shown.is_some() {
            write!(self.err, "\r\x1b[K")?;
        }
        Ok(())
    }
}
