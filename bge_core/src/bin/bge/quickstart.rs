//! `bge quickstart`: the whole loop, on a model and data that this program carries.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bge_core::config::{PipelineConfig, quote, take_switch};
use bge_core::pipeline::PipelineReport;
use bge_core::{Error, Issue, Severity, files};
use serde_json::json;

use crate::command::{Failure, Outcome, print, refused, say};
use crate::launch;
use crate::pipeline::{Stages, show};

const USAGE: &str = "\
usage: bge quickstart [--output_dir FOLDER] [--json]

Validates, mines hard negatives, scores them with a teacher, fine-tunes on both, and compares before with after: on
small models and data that bge carries, without a download, in two or three minutes on two cores. It writes the pipeline
file that it runs, and each stage shows the command that does the same. The same command goes on where it was stopped.

  --output_dir FOLDER
          Where models, data, pipeline.toml and everything made go. [default: ./bge-quickstart]
  --json
          The result as one JSON object on standard output.
";

macro_rules! embedded {
    ($($to:literal from $from:literal),* $(,)?) => {
        [$(($to, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/quickstart/", $from)).as_slice())),*]
    };
}

/// Every file the quickstart writes before it starts; packed ones are unpacked on the way.
const FILES: [(&str, &[u8]); 12] = embedded![
    "model/config.json" from "model/config.json",
    "model/tokenizer.json" from "model/tokenizer.json",
    "model/model.safetensors" from "model/model.safetensors",
    "model/modules.json" from "model/modules.json",
    "model/1_Pooling/config.json" from "model/1_Pooling/config.json",
    "teacher/config.json" from "teacher/config.json",
    "teacher/tokenizer.json" from "model/tokenizer.json",
    "teacher/model.safetensors" from "teacher/model.safetensors",
    "data/train.jsonl" from "data/train.jsonl.gz",
    "data/scifact/corpus.jsonl" from "data/corpus.jsonl.gz",
    "data/scifact/queries.jsonl" from "data/queries.jsonl",
    "data/scifact/qrels/test.tsv" from "data/qrels/test.tsv",
];

/// Says that a folder is ours to write over.
const MARK: &str = ".bge-quickstart";

/// The pipeline that runs: settings chosen on a part of the training claims, not on the test claims.
const PIPELINE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/quickstart/pipeline.toml"));

/// What a stage is for, in a line.
fn purpose(stage: &str) -> &'static str {
    match stage {
        "validate" => "Is the training data sound?",
        "mine" => "Which abstracts look right and are not? Hard negatives for every claim.",
        "finetune_reranker" => "A teacher of our own: a cross-encoder reads claim and abstract together.",
        "score" => "What does the teacher think of every pair?",
        "finetune" => "Training, on other claims than those of the test.",
        "merge" => "A mean of before and after keeps more of what the model could do.",
        _ => "Is it better? Retrieval on the test claims, before and after.",
    }
}

/// Runs the command.
pub(crate) fn run(args: &[String]) -> Outcome<()> {
    let started = Instant::now();
    let mut args = args.to_vec();
    if take_switch(&mut args, "--help") || args.iter().any(|arg| arg == "-h") {
        return Err(Failure::Code(print(USAGE)));
    }
    launch::alone("quickstart")?;
    let json = take_switch(&mut args, "--json");
    let place = Place::new(output_dir(&args)?);
    place.prepare()?;
    say(format!(
        "bge quickstart: a small English model learns to find the abstracts that speak to scientific claims (SciFact).\n\
         Models, data and pipeline.toml are in {0}.\n\n$ {1} pipeline {2}",
        place.root.display(),
        program(),
        word(&place.pipeline)
    ));
    let text = files::read_text(&place.pipeline)?;
    let config = PipelineConfig::parse(&place.pipeline.display().to_string(), &text).map_err(refused)?;
    let told = |stage: &str, command: &str| {
        say(format!(
            "\n{}\n  $ {} {}",
            purpose(stage),
            program(),
            folded(command)
        ));
    };
    let (report, stages) = show(&config, Some(&told))?;
    let total = started.elapsed().as_secs_f64();
    print(&if json {
        place.as_json(&report, &stages, total)?
    } else {
        place.as_text(&report, &stages, total)
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
    teacher: PathBuf,
    data: PathBuf,
    work: PathBuf,
    pipeline: PathBuf,
}

impl Place {
    fn new(root: PathBuf) -> Self {
        let inside = |name: &str| root.join(name);
        Self {
            model: inside("model"),
            teacher: inside("teacher"),
            data: inside("data"),
            work: inside("work"),
            pipeline: inside("pipeline.toml"),
            root,
        }
    }

    /// Writes models and data over those of an earlier quickstart; what its stages made stays, and they go on from there. A
    /// pipeline with other settings and what others left are not touched.
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
                b"bge quickstart writes over model, teacher and data here, and goes on with work.\n",
            )?;
        }
        let settings = self.settings();
        if self.pipeline.exists() && files::read_text(&self.pipeline)? != settings {
            return Err(usage(format!(
                "{0} has other settings than the quickstart would write, and {1} what was made with them; to go on with them: \
                 {2} pipeline {0}; to begin anew, name another folder with --output_dir",
                word(&self.pipeline),
                word(&self.work),
                program(),
            )));
        }
        for folder in [&self.model, &self.teacher, &self.data] {
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
        write(&self.pipeline, settings.as_bytes())?;
        Ok(())
    }

    /// The pipeline file with the paths of this place.
    fn settings(&self) -> String {
        let path = |path: &Path| toml_text(&path.display().to_string());
        let text = format!(
            "model_name_or_path = {}\nreranker_name_or_path = {}\ntrain_data = {}\neval_dataset = {}\noutput_dir = {}\n",
            path(&self.model),
            path(&self.teacher),
            path(&self.data.join("train.jsonl")),
            path(&self.data.join("scifact")),
            path(&self.work),
        );
        let pool = path(&self.data.join("scifact/corpus.jsonl"));
        text + &PIPELINE.replace("\"CORPUS\"", &pool)
    }

    fn as_text(&self, report: &PipelineReport, stages: &Stages, total: f64) -> String {
        let times: Vec<String> = stages
            .iter()
            .map(|(name, secs)| format!("{} {secs:.1} s", name.replace('_', " ")))
            .collect();
        let program = program();
        let model = word(&report.model);
        format!(
            "\n{}\ndone in {total:.0} s: {}\n\n\
             report           {}\n\
             fine-tuned model {model}\n\n\
             next:\n  \
             open the report in a browser\n  \
             {program} encode --embedder_name_or_path {model} --input_file texts.txt --output_file vectors.npy\n  \
             {program} validate YOUR.jsonl          one {{\"query\": ..., \"pos\": [...], \"neg\": [...]}} a line\n  \
             {program} pipeline {}          again: everything is current; change a setting and only what depends on it runs\n",
            report.table.as_deref().unwrap_or_default().trim_end(),
            times.join(", "),
            report.report.as_deref().unwrap_or(&self.work).display(),
            word(&self.pipeline),
        )
    }

    fn as_json(&self, report: &PipelineReport, stages: &Stages, total: f64) -> Result<String, Error> {
        let comparison = files::read_text(&self.work.join("evaluation.json"))?;
        let comparison: serde_json::Value = serde_json::from_str(&comparison).map_err(|error| {
            Error::new(bge_core::ErrorKind::Internal, "the comparison is not JSON").with_source(error)
        })?;
        let secs: std::collections::BTreeMap<&str, f64> = stages.iter().copied().collect();
        let value = json!({
            "output_dir": self.root,
            "model": self.model,
            "tuned": report.model,
            "report": report.report,
            "stage_secs": secs,
            "total_secs": total,
            "comparison": comparison,
        });
        Ok(format!("{value}\n"))
    }
}

/// A text as TOML writes it.
fn toml_text(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04X}", c as u32),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
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
    quote(&path.display().to_string())
}
