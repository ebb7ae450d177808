//! `bge config`: shows, checks and rewrites settings.

use std::fs::File;
use std::io::{self, Read, Write};

use bge_core::config::{
    self, Arguments, Checked, ConvertConfig, EncodeConfig, EvaluateConfig, FinetuneConfig, Loader,
    MergeConfig, MineConfig, Module, Parsed, PipelineArguments, PipelineConfig, RenderFormat, RepairConfig,
    RerankConfig, STAGES, ScoreConfig, SplitConfig,
};
use bge_core::planner::Plan;
use bge_core::{Issue, Severity};
use serde_json::{Map, Value, json};

/// Plans a run of finetune, and says what there is to say of its settings.
pub(crate) type MakePlan = Box<dyn Fn(Module, FinetuneConfig) -> (Option<Plan>, Outcome<Vec<Issue>>)>;

/// Takes `--plan` and its flags out of the words.
pub(crate) type TakePlan<'a> = &'a dyn Fn(&mut Vec<String>) -> Outcome<Option<MakePlan>>;

const USAGE: &str = "\
usage: bge config schema  [--command COMMAND]    settings as JSON Schema
       bge config default [--command COMMAND] [--format toml|json]    every setting with its default
       bge config check   [--command COMMAND] [--config FILE] [--json] [--plan] [FLAGS | COMMAND LINE]
       bge config render  [--command COMMAND] --format toml|json|flags|flagembedding|deepspeed
                          [--config FILE] [FLAGS | COMMAND LINE]

COMMAND is finetune (the default), convert, repair, split, encode, evaluate, mine, score, rerank, merge or pipeline, and FLAGS
are those of `bge COMMAND`.
A pipeline has a file and no flags: its defaults are what its stages share, and it is not rewritten.
--plan says what a run of finetune needs, in memory and steps, and what to change where that is too much; with --memory_gib N
for a device of that size instead of this machine, with --world_size N for N devices. With --tflops X, what a device reaches in
training, it also says how long a step takes on these devices and on up to 512; --memory_gb_s, --line_gb_s, --network_gb_s,
--devices_per_host and --overlap True|False say what is not as in hosts with eight H100. Devices share out by --zero_stage N: 1
the optimizer, 2 also gradients, 3 also weights.
For finetune, --module names the kind of model (encoder_only.base), --format may be flagembedding or deepspeed, and
COMMAND LINE is one of upstream's: torchrun ... -m FlagEmbedding.finetune.embedder.encoder_only.base ...
With another --command it is that of its script: python hn_mine.py ...
";

/// More than any file of settings.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Runs `bge config` with the words behind it. Returns the exit code: 0, 1 where the output could not be written,
/// 2 for wrong usage or settings.
pub(crate) fn run(args: &[String], take_plan: TakePlan<'_>, out: &mut dyn Write, err: &mut dyn Write) -> i32 {
    match dispatch(args, take_plan, out, err) {
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

fn dispatch(
    args: &[String],
    take_plan: TakePlan<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<i32> {
    let Some((action, rest)) = args.split_first() else {
        err.write_all(USAGE.as_bytes())?;
        return Ok(2);
    };
    if action == "help" || args.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        out.write_all(USAGE.as_bytes())?;
        return Ok(0);
    }
    let result = match action.as_str() {
        "schema" => schema(rest, out)?,
        "default" => default(rest, out)?,
        "check" => return check(rest, take_plan, out, err),
        "render" => render(rest, out, err)?,
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

pub(crate) type Outcome<T> = Result<T, Vec<Issue>>;

fn problem(message: impl Into<String>) -> Issue {
    Issue::new("config.usage", Severity::Error, message)
}

fn show(issues: &[Issue], err: &mut dyn Write) -> io::Result<()> {
    issues.iter().try_for_each(|issue| writeln!(err, "{issue}"))
}

/// Takes `--name VALUE` out of the words.
pub(crate) fn take_value(words: &mut Vec<String>, name: &str) -> Outcome<Option<String>> {
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

/// A text, and the warnings.
type Rendered = (String, Vec<Issue>);

/// A command, and what can be done with its settings.
struct Entry {
    name: &'static str,
    schema: fn(&str, Module) -> Value,
    default: fn(RenderFormat, Module) -> Outcome<String>,
    /// The warnings, or everything that is wrong.
    check: fn(Vec<String>) -> Outcome<Vec<Issue>>,
    render: fn(Vec<String>, RenderFormat) -> Outcome<Rendered>,
}

const COMMANDS: [Entry; 11] = [
    entry::<FinetuneConfig>("finetune"),
    entry::<ConvertConfig>("convert"),
    entry::<RepairConfig>("repair"),
    entry::<SplitConfig>("split"),
    entry::<EncodeConfig>("encode"),
    entry::<EvaluateConfig>("evaluate"),
    entry::<MineConfig>("mine"),
    entry::<ScoreConfig>("score"),
    entry::<RerankConfig>("rerank"),
    entry::<MergeConfig>("merge"),
    Entry {
        name: "pipeline",
        schema: |title, _| pipeline_schema(title),
        default: defaults_of::<PipelineArguments>,
        check: |words| check_pipeline(&words),
        render: |_, _| {
            let message = "a pipeline is one file with a section for each stage, which is not rewritten; render the settings \
                           of one stage, as in `--command mine`";
            Err(vec![problem(message).on_field("command")])
        },
    },
];

const fn entry<A: Command>(name: &'static str) -> Entry {
    Entry {
        name,
        schema: config::json_schema::<A>,
        default: defaults_of::<A>,
        check: check_settings::<A>,
        render: render_settings::<A>,
    }
}

/// The settings of a command with flags.
trait Command: Arguments {
    /// Reads them from a file and flags.
    fn load(words: Vec<String>) -> Outcome<(Module, Parsed<Self>)> {
        let (file, words) = config::split_config_flag(&words).map_err(|issue| vec![issue])?;
        let flags = config::flags_of_script(&words);
        read(Loader::new(), file, flags).map(|parsed| (Module::default(), parsed))
    }

    /// Applies the rules between them; gives the warnings.
    fn examine(self, module: Module) -> Outcome<Vec<Issue>>;

    /// Writes what only this command's settings can be written as.
    fn special(&self, format: RenderFormat, _module: Module) -> Outcome<String> {
        Err(vec![
            problem(format!("only the settings of finetune are written as {format}")).on_field("format"),
        ])
    }
}

fn warnings<A>(checked: Result<Checked<A>, Vec<Issue>>) -> Outcome<Vec<Issue>> {
    checked.map(|checked| checked.warnings().to_vec())
}

impl Command for FinetuneConfig {
    fn load(words: Vec<String>) -> Outcome<(Module, Parsed<Self>)> {
        load_finetune(words)
    }

    fn examine(self, module: Module) -> Outcome<Vec<Issue>> {
        warnings(self.check_for(module))
    }

    fn special(&self, format: RenderFormat, module: Module) -> Outcome<String> {
        Ok(self.render(format, module))
    }
}

macro_rules! commands {
    ($($settings:ty),+) => {
        $(impl Command for $settings {
            fn examine(self, _module: Module) -> Outcome<Vec<Issue>> {
                warnings(self.check())
            }
        })+
    };
}
commands!(
    ConvertConfig,
    RepairConfig,
    SplitConfig,
    EncodeConfig,
    EvaluateConfig,
    MineConfig,
    ScoreConfig,
    RerankConfig,
    MergeConfig
);

/// Takes `--command NAME` out of the words; without one it is finetune.
fn take_command(words: &mut Vec<String>) -> Outcome<&'static Entry> {
    let name = take_value(words, "--command")?.unwrap_or_else(|| "finetune".to_owned());
    COMMANDS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let names: Vec<_> = COMMANDS.iter().map(|entry| entry.name).collect();
        let message = format!("expected one of {}, got {name:?}", names.join(", "));
        vec![problem(message).on_field("command")]
    })
}

fn schema(args: &[String], out: &mut dyn Write) -> io::Result<Outcome<()>> {
    let read = || {
        let mut words = args.to_vec();
        let command = take_command(&mut words)?;
        let module = take_choice(&mut words, "--module")?.unwrap_or_default();
        nothing_left(&words)?;
        Ok((command.schema)(&format!("bge {}", command.name), module))
    };
    print(read().map(|schema| format!("{schema:#}\n")), out)
}

/// What the stages share, and a property for each stage.
fn pipeline_schema(title: &str) -> Value {
    let mut schema = config::json_schema::<PipelineArguments>(title, Module::default());
    let stages: Map<String, Value> = STAGES
        .iter()
        .map(|stage| {
            let title = format!("the settings of {stage}, none of them required");
            let settings: fn(&str, Module) -> Value = match *stage {
                "mine" => config::json_schema::<MineConfig>,
                "score" => config::json_schema::<ScoreConfig>,
                "merge" => config::json_schema::<MergeConfig>,
                "evaluate" => config::json_schema::<EvaluateConfig>,
                _ => config::json_schema::<FinetuneConfig>,
            };
            let module = match *stage {
                "finetune_reranker" => Module::RerankerEncoderOnlyBase,
                _ => Module::default(),
            };
            let mut section = settings(&title, module);
            if let Some(map) = section.as_object_mut() {
                // Stages get from each other what a section leaves out, and "$schema" belongs to the whole.
                map.shift_remove("required");
                map.shift_remove("$schema");
            }
            ((*stage).to_owned(), section)
        })
        .collect();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.extend(stages);
    }
    schema
}

fn default(args: &[String], out: &mut dyn Write) -> io::Result<Outcome<()>> {
    let read = || {
        let mut words = args.to_vec();
        let command = take_command(&mut words)?;
        let module = take_choice(&mut words, "--module")?.unwrap_or_default();
        let format = take_choice(&mut words, "--format")?.unwrap_or(RenderFormat::Toml);
        nothing_left(&words)?;
        (command.default)(format, module)
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
fn load_finetune(mut words: Vec<String>) -> Outcome<(Module, Parsed<FinetuneConfig>)> {
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
    read(Loader::for_module(module), file, &words).map(|parsed| (module, parsed))
}

/// Settings from a file, if there is one, and flags, which win.
fn read<A: Arguments>(mut loader: Loader<A>, file: Option<String>, flags: &[String]) -> Outcome<Parsed<A>> {
    if let Some(name) = file {
        loader = loader.file(
            &name,
            &read_file(&name).map_err(|issue| vec![issue.in_file(&name)])?,
        );
    }
    loader.flags(flags).finish()
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

fn check_settings<A: Command>(words: Vec<String>) -> Outcome<Vec<Issue>> {
    let (module, parsed) = A::load(words)?;
    after(parsed.warnings, parsed.arguments.examine(module))
}

fn check_pipeline(words: &[String]) -> Outcome<Vec<Issue>> {
    let (file, words) = config::split_config_flag(words).map_err(|issue| vec![issue])?;
    // `bge pipeline FILE` takes it without a flag.
    let (file, rest) = match (file, words.split_first()) {
        (None, Some((word, rest))) if !word.starts_with('-') => (word.clone(), rest.to_vec()),
        (Some(file), _) => (file, words),
        (None, _) => {
            return Err(vec![
                problem("name the file of the pipeline, as in `--config pipeline.toml`").on_field("config"),
            ]);
        }
    };
    nothing_left(&rest)?;
    let text = read_file(&file).map_err(|issue| vec![issue.in_file(&file)])?;
    Ok(PipelineConfig::parse(&file, &text)?.warnings)
}

fn check(
    args: &[String],
    take_plan: TakePlan<'_>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<i32> {
    let mut words = args.to_vec();
    let as_json = config::take_switch(&mut words, "--json");
    let (checked, plan) = match take_plan(&mut words) {
        Ok(None) => (
            take_command(&mut words).and_then(|command| (command.check)(words)),
            None,
        ),
        Ok(Some(make)) => check_and_plan(&make, words),
        Err(issues) => (Err(issues), None),
    };
    let (ok, issues) = match checked {
        Ok(warnings) => (true, warnings),
        Err(issues) => (false, issues),
    };
    if as_json {
        let mut answer = json!({ "ok": ok, "issues": issues });
        if let Some(plan) = plan {
            answer["plan"] = json!(plan);
        }
        writeln!(out, "{answer:#}")?;
    } else {
        show(&issues, err)?;
        if let Some(plan) = plan {
            write!(out, "{plan}")?;
        }
        if ok {
            writeln!(out, "the settings are fine")?;
        }
    }
    Ok(if ok { 0 } else { 2 })
}

/// What is to be said of the settings, and the plan, which needs no more than a model.
fn check_and_plan(make: &MakePlan, mut words: Vec<String>) -> (Outcome<Vec<Issue>>, Option<Plan>) {
    let load = || {
        let command = take_command(&mut words)?;
        if command.name != "finetune" {
            let message = format!("a plan is made for finetune, not for {}", command.name);
            return Err(vec![problem(message).on_field("command")]);
        }
        load_finetune(words)
    };
    let (module, parsed) = match load() {
        Ok(loaded) => loaded,
        Err(issues) => return (Err(issues), None),
    };
    let (plan, checked) = make(module, parsed.arguments);
    (after(parsed.warnings, checked), plan)
}

/// The issues with those before them.
fn after(mut issues: Vec<Issue>, checked: Outcome<Vec<Issue>>) -> Outcome<Vec<Issue>> {
    match checked {
        Ok(warnings) => {
            issues.extend(warnings);
            Ok(issues)
        }
        Err(errors) => {
            issues.extend(errors);
            Err(issues)
        }
    }
}

fn render_settings<A: Command>(words: Vec<String>, format: RenderFormat) -> Outcome<Rendered> {
    let (module, parsed) = A::load(words)?;
    let arguments = parsed.arguments;
    let text = match format {
        RenderFormat::Toml => config::to_toml(&arguments, module),
        RenderFormat::Json => config::to_json_text(&arguments, module),
        RenderFormat::Flags => config::flag_lines(&arguments, module),
        other => arguments.special(other, module)?,
    };
    Ok((text, parsed.warnings))
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
        (take_command(&mut words)?.render)(words, format)
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
