//! `bge quickstart`: the whole loop, on a model and data that this program carries.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bge_core::config::{Arguments, EvaluateConfig, FinetuneConfig, Loader, Module, split_words, take_switch};
use bge_core::data::preflight::validate_files;
use bge_core::data::session::{TokenCounter, ValidationOptions};
use bge_core::evaluation::{
    BeirFolder, CompareOptions, Comparison, Evaluation, EvaluationOptions, ReportContext, TrainingCurve,
    compare, comparison_html, comparison_table, measure,
};
use bge_core::tokenize::Tokenizer;
use bge_core::train::{TrainReport, Trainer, TrainerState};
use bge_core::{Error, ErrorKind, Issue, Severity, files};
use serde_json::{Value, json};

use crate::command::{Failure, Outcome, print, refused, say};
use crate::encode::open;
use crate::evaluate::listen;
use crate::finetune::stopper;
use crate::progress::{Counter, TrainProgress};

const USAGE: &str = "\
usage: bge quickstart [--output_dir FOLDER] [--json]

Validates, evaluates, fine-tunes, evaluates again and compares, on a small model and data that bge carries:
no download, a minute or two on two cores. Each stage shows the command that does the same.

  --output_dir FOLDER
          Where model, data, the fine-tuned model and report.html go. [default: ./bge-quickstart]
  --json
          The result as one JSON object on standard output.
";

macro_rules! embedded {
    ($($to:literal from $from:literal),* $(,)?) => {
        [$(($to, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/quickstart/", $from)).as_slice())),*]
    };
}

/// Every file the quickstart writes before it starts; packed ones are unpacked on the way.
const FILES: [(&str, &[u8]); 9] = embedded![
    "model/config.json" from "model/config.json",
    "model/tokenizer.json" from "model/tokenizer.json",
    "model/model.safetensors" from "model/model.safetensors",
    "model/modules.json" from "model/modules.json",
    "model/1_Pooling/config.json" from "model/1_Pooling/config.json",
    "data/train.jsonl" from "data/train.jsonl.gz",
    "data/scifact/corpus.jsonl" from "data/corpus.jsonl.gz",
    "data/scifact/queries.jsonl" from "data/queries.jsonl",
    "data/scifact/qrels/test.tsv" from "data/qrels/test.tsv",
];

/// Says that a folder is ours to write over.
const MARK: &str = ".bge-quickstart";

/// Lengths in tokens, the same for training and evaluation.
const QUERY_LENGTH: &str = "48";
const PASSAGE_LENGTH: &str = "128";

/// How the model is trained; chosen on a part of the training claims, not on the test claims.
const TRAINING: &str = "--train_group_size 1 --per_device_train_batch_size 32 --num_train_epochs 3 \
    --learning_rate 2e-4 --warmup_ratio 0.1 --temperature 0.05 --sentence_pooling_method mean \
    --normalize_embeddings True --logging_steps 5 --save_strategy no --overwrite_output_dir True";

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let started = Instant::now();
    let mut args = args.to_vec();
    if take_switch(&mut args, "--help") || args.iter().any(|arg| arg == "-h") {
        return Err(Failure::Code(print(USAGE)));
    }
    let json = take_switch(&mut args, "--json");
    let place = Place::new(output_dir(&args)?);
    let mut stages = Stages::default();

    place.prepare()?;
    say(format!(
        "bge quickstart: a small English model learns to find the abstracts that speak to scientific claims (SciFact).\n\
         Model and data are in {}.",
        place.root.display()
    ));
    let config = place.training()?;
    let evaluation = place.evaluation(&place.model)?;
    let folder = BeirFolder::open(place.scifact(), &evaluation.evaluate.split)?;

    stages.begin(
        "validate",
        "Is the training data sound?",
        &place.validate_command(),
    );
    validate(&config, &place)?;

    stages.begin(
        "evaluate_before",
        "How well does the model retrieve before training?",
        &place.evaluate_command(&place.model, ""),
    );
    let options = EvaluationOptions {
        k_values: evaluation.evaluate.k_values.clone(),
        search_top_k: evaluation.evaluate.search_top_k,
        ignore_identical_ids: evaluation.evaluate.ignore_identical_ids,
    };
    let mut counter = Counter::new("texts");
    let before = measure(&open(&evaluation.embed)?, &folder, &options, &mut |event| {
        listen(&mut counter, event);
    })?;
    counter.clear();
    say_score(&before);

    stages.begin(
        "finetune",
        "Training, on other claims.",
        &place.finetune_command(),
    );
    let training = train(config)?;

    stages.begin(
        "evaluate_after",
        "And after training? The two are compared with",
        &place.evaluate_command(
            &place.tuned,
            &format!(
                " --baseline {} --report {}",
                word(&place.model),
                word(&place.report)
            ),
        ),
    );
    let tuned = open(&place.evaluation(&place.tuned)?.embed)?;
    let after = measure(&tuned, &folder, &options, &mut |event| listen(&mut counter, event))?;
    counter.clear();
    say_score(&after);

    let names = CompareOptions {
        seed: evaluation.evaluate.seed,
        before: "before training".to_owned(),
        after: "after training".to_owned(),
        ..CompareOptions::default()
    };
    let comparison = compare(&folder, &before, &after, &names)?;
    let html = comparison_html(&comparison, &place.context(&training));
    files::write_whole(&place.report, |file| {
        std::io::Write::write_all(file, html.as_bytes())
    })?;
    stages.end();
    let total = started.elapsed().as_secs_f64();
    print(&if json {
        place.as_json(&comparison, &training, &stages, total)?
    } else {
        place.as_text(&comparison, &stages, total)
    });
    Ok(())
}

fn usage(message: String) -> Failure {
    Failure::Usage(vec![Issue::new("config.usage", Severity::Error, message)])
}

fn output_dir(args: &[String]) -> Outcome<PathBuf> {
    let mut folder = PathBuf::from("./bge-quickstart");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), None),
        };
        if !matches!(name, "--output_dir" | "--output-dir") {
            return Err(usage(format!("{arg:?} is not a flag of this command\n{USAGE}")));
        }
        folder = value
            .or_else(|| args.next().map(String::as_str))
            .filter(|value| !value.is_empty())
            .ok_or_else(|| usage("--output_dir needs a folder".to_owned()))?
            .into();
    }
    Ok(folder)
}

/// Where everything is.
struct Place {
    root: PathBuf,
    model: PathBuf,
    data: PathBuf,
    tuned: PathBuf,
    report: PathBuf,
}

impl Place {
    fn new(root: PathBuf) -> Self {
        let inside = |name: &str| root.join(name);
        Self {
            model: inside("model"),
            data: inside("data"),
            tuned: inside("tuned"),
            report: inside("report.html"),
            root,
        }
    }

    fn scifact(&self) -> PathBuf {
        self.data.join("scifact")
    }

    fn train_data(&self) -> PathBuf {
        self.data.join("train.jsonl")
    }

    /// Writes model and data; what an earlier quickstart left is replaced, what others left is not touched.
    fn prepare(&self) -> Outcome<()> {
        let create = |folder: &Path| {
            std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create the folder", error))
        };
        create(&self.root)?;
        let mark = self.root.join(MARK);
        if !mark.exists() {
            let mut entries = std::fs::read_dir(&self.root)
                .map_err(|error| Error::io(&self.root, "read the folder", error))?;
            if entries.next().is_some() {
                return Err(usage(format!(
                    "{} has files that are not the quickstart's; name another folder with --output_dir",
                    self.root.display()
                )));
            }
            write(
                &mark,
                b"bge quickstart writes over model, data, tuned and report.html here.\n",
            )?;
        }
        for folder in [&self.model, &self.data, &self.tuned] {
            if folder.exists() {
                std::fs::remove_dir_all(folder)
                    .map_err(|error| Error::io(folder, "clear the folder of the last quickstart", error))?;
            }
        }
        for (name, content) in FILES {
            let path = self.root.join(name);
            create(path.parent().unwrap_or(&self.root))?;
            if content.starts_with(&[0x1f, 0x8b]) {
                let mut whole = Vec::new();
                flate2::read::GzDecoder::new(content)
                    .read_to_end(&mut whole)
                    .map_err(|error| Error::io(&path, "unpack the data", error))?;
                write(&path, &whole)?;
            } else {
                write(&path, content)?;
            }
        }
        Ok(())
    }

    fn validate_command(&self) -> String {
        format!(
            "validate {} --eval_dataset {} --model_name_or_path {} --query_max_len {QUERY_LENGTH} \
             --passage_max_len {PASSAGE_LENGTH} --train_group_size 1",
            word(&self.train_data()),
            word(&self.scifact()),
            word(&self.model),
        )
    }

    fn finetune_command(&self) -> String {
        format!("finetune encoder_only.base {}", self.finetune_flags())
    }

    fn finetune_flags(&self) -> String {
        format!(
            "--model_name_or_path {} --train_data {} --output_dir {} --query_max_len {QUERY_LENGTH} \
             --passage_max_len {PASSAGE_LENGTH} {TRAINING}",
            word(&self.model),
            word(&self.train_data()),
            word(&self.tuned)
        )
    }

    fn evaluate_command(&self, model: &Path, more: &str) -> String {
        format!("evaluate {}{more}", self.evaluate_flags(model))
    }

    fn evaluate_flags(&self, model: &Path) -> String {
        format!(
            "--embedder_name_or_path {} --dataset {} --embedder_query_max_length {QUERY_LENGTH} \
             --embedder_passage_max_length {PASSAGE_LENGTH}",
            word(model),
            word(&self.scifact())
        )
    }

    fn training(&self) -> Outcome<FinetuneConfig> {
        read(&self.finetune_flags())
    }

    fn evaluation(&self, model: &Path) -> Outcome<EvaluateConfig> {
        read(&self.evaluate_flags(model))
    }

    fn context(&self, training: &TrainReport) -> ReportContext {
        let mut settings = BTreeMap::new();
        let words = split_words(&self.finetune_flags()).unwrap_or_default();
        for pair in words.chunks(2) {
            if let [name, value] = pair {
                settings.insert(name.trim_start_matches('-').to_owned(), value.clone());
            }
        }
        let provenance = [
            ("bge", env!("CARGO_PKG_VERSION")),
            ("model", "embedded; two layers, distilled from all-MiniLM-L6-v2"),
            ("data", "embedded; a cut of SciFact (Wadden et al. 2020)"),
            ("command", "bge quickstart"),
        ];
        ReportContext {
            title: "Quickstart: finding the evidence for scientific claims".to_owned(),
            training: Some(curve(&training.state)),
            settings,
            provenance: provenance
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    fn as_text(&self, comparison: &Comparison, stages: &Stages, total: f64) -> String {
        let mut text = format!("\n{}\n", comparison_table(comparison).trim_end());
        let times: Vec<String> = stages
            .done
            .iter()
            .map(|(name, secs)| format!("{} {secs:.1} s", name.replace('_', " ")))
            .collect();
        let program = program();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\ndone in {total:.0} s: {}\n\n\
             report           {}\n\
             fine-tuned model {}\n\n\
             next:\n  \
             open the report in a browser\n  \
             {program} encode --embedder_name_or_path {} --input_file texts.txt --output_file vectors.npy\n  \
             {program} validate YOUR.jsonl          one {{\"query\": ..., \"pos\": [...], \"neg\": [...]}} a line\n  \
             {program} finetune encoder_only.base --help\n",
            times.join(", "),
            self.report.display(),
            self.tuned.display(),
            word(&self.tuned),
        );
        text
    }

    fn as_json(
        &self,
        comparison: &Comparison,
        training: &TrainReport,
        stages: &Stages,
        total: f64,
    ) -> Result<String, Error> {
        let comparison = serde_json::to_value(comparison).map_err(|error| {
            Error::new(ErrorKind::Internal, "the comparison cannot be written as JSON").with_source(error)
        })?;
        let secs: BTreeMap<&str, f64> = stages.done.iter().copied().collect();
        let value = json!({
            "output_dir": self.root,
            "model": self.model,
            "tuned": self.tuned,
            "report": self.report,
            "global_step": training.state.global_step,
            "tokens_per_second": training.tokens_per_second,
            "stage_secs": secs,
            "total_secs": total,
            "comparison": comparison,
        });
        Ok(format!("{value}\n"))
    }
}

/// Says what happens, with which command, and how long it took.
#[derive(Default)]
struct Stages {
    now: Option<(&'static str, Instant)>,
    done: Vec<(&'static str, f64)>,
}

impl Stages {
    fn begin(&mut self, name: &'static str, what: &str, command: &str) {
        self.end();
        say(format!(
            "\n[{}/4] {what}\n  $ {} {}",
            self.done.len() + 1,
            program(),
            folded(command)
        ));
        self.now = Some((name, Instant::now()));
    }

    fn end(&mut self) {
        if let Some((name, started)) = self.now.take() {
            self.done.push((name, started.elapsed().as_secs_f64()));
        }
    }
}

/// A command over several lines that a shell reads as one.
fn folded(command: &str) -> String {
    let mut text = String::new();
    let mut width = 0;
    for part in command.split_inclusive(' ') {
        if width + part.len() > 100 && part.starts_with("--") {
            text.push_str("\\\n      ");
            width = 0;
        }
        width += part.len();
        text.push_str(part);
    }
    text
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    std::fs::write(path, content).map_err(|error| Error::io(path, "write the file", error))
}

/// How the user called this program, so that the lines shown work when pasted.
fn program() -> String {
    std::env::args_os()
        .next()
        .map(PathBuf::from)
        .filter(|path| path.components().count() > 1)
        .map_or_else(|| "bge".to_owned(), |path| word(&path))
}

/// A path as a word of a shell's command line.
fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Reads settings from the very flags that are shown.
fn read<A: Arguments + Default>(flags: &str) -> Outcome<A> {
    let words = split_words(flags).map_err(|error| usage(error.to_string()))?;
    let parsed = Loader::<A>::for_module(Module::EncoderOnlyBase)
        .flags(&words)
        .finish()
        .map_err(Failure::Usage)?;
    Ok(parsed.arguments)
}

fn validate(config: &FinetuneConfig, place: &Place) -> Outcome<()> {
    let mut data = config.data.clone();
    data.eval_dataset = Some(place.scifact().display().to_string());
    let tokenizer = Tokenizer::open(&place.model)?;
    let count = |text: &str| tokenizer.count(text).unwrap_or(0);
    let options = ValidationOptions {
        data,
        training: config.training.clone(),
        ..ValidationOptions::default()
    };
    let report = validate_files(options, Some(&count as TokenCounter<'_>), |_| true)?;
    // The command shows all of it.
    let whole = report.to_string();
    say(whole.lines().next().unwrap_or_default());
    for group in report
        .issues
        .iter()
        .filter(|group| group.severity > Severity::Info)
    {
        for issue in group.first.iter().take(1) {
            say(format!("{issue} ({} in all)", group.total));
        }
    }
    if report.has_errors() {
        return Err(Failure::Code(1));
    }
    Ok(())
}

fn train(config: FinetuneConfig) -> Outcome<TrainReport> {
    let config = config.check_for(Module::EncoderOnlyBase).map_err(refused)?;
    let mut trainer = Trainer::new(config)?;
    trainer.stop_on(stopper()?);
    let mut progress = TrainProgress::new();
    let report = trainer.run(&mut [&mut progress])?;
    if report.stopped {
        say(format!(
            "stopped after step {} of {}",
            report.state.global_step, report.state.max_steps
        ));
        return Err(Failure::Code(1));
    }
    Ok(report)
}

fn say_score(evaluation: &Evaluation) {
    let report = &evaluation.report;
    let metric = |name: &str| report.get(name).unwrap_or(f64::NAN);
    say(format!(
        "{} queries, {} documents: nDCG@10 {:.4}, MRR@10 {:.4}, recall@100 {:.4}",
        report.queries,
        report.documents,
        metric("ndcg_at_10"),
        metric("mrr_at_10"),
        metric("recall_at_100")
    ));
}

/// The curves of a run, from its log.
fn curve(state: &TrainerState) -> TrainingCurve {
    let series = |name: &str| {
        let point = |entry: &serde_json::Map<String, Value>| {
            Some((entry.get("step")?.as_u64()?, entry.get(name)?.as_f64()?))
        };
        state.log_history.iter().filter_map(point).collect()
    };
    TrainingCurve {
        loss: series("loss"),
        learning_rate: series("learning_rate"),
        ..TrainingCurve::default()
    }
}
