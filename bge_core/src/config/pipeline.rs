//! The file of `bge pipeline`: what all stages share, and a section for each stage that runs.

use serde_json::{Value, json};

use super::choices::PoolingMethod;
use super::declare::arguments;
use super::embedding::EvaluateConfig;
use super::field::Arguments;
use super::merging::MergeConfig;
use super::mining::MineConfig;
use super::module::Module;
use super::parse::Loader;
use super::scoring::ScoreConfig;
use super::tree::{self, Entry, Node};
use super::{FinetuneConfig, unknown};
use crate::issue::{Issue, Severity};

arguments! {
    /// What the stages of a pipeline share; a stage's own section wins.
    pub struct PipelineArguments {
        ["pipeline"]
        /// The model to start from: a folder, or a name on the Hugging Face hub.
        model_name_or_path: String = String::new(), required;
        /// Training rows: JSONL or JSON files, or folders of them; mining and scoring take one file.
        train_data: Vec<String> = Vec::new(), required;
        /// The folder that receives what every stage makes.
        output_dir: String = String::new(), required;
        /// A folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, on which the result is measured.
        eval_dataset: Option<String> = None, ours;
        /// Which judgements of `eval_dataset` are used: the name of the file in qrels/.
        eval_split: Option<String> = None, ours;
        /// The teacher that scores: a cross-encoder or an embedder.
        reranker_name_or_path: Option<String> = None;
        /// The key of all random draws.
        seed: Option<u64> = None;
        /// Longest query in tokens, special tokens included.
        query_max_len: Option<usize> = None;
        /// Longest passage in tokens, special tokens included.
        passage_max_len: Option<usize> = None;
        /// How token vectors become the vector of a text.
        sentence_pooling_method: Option<PoolingMethod> = None;
        /// Scale vectors to length 1.
        normalize_embeddings: Option<bool> = None;
        /// The instruction for queries.
        query_instruction_for_retrieval: Option<String> = None;
        /// How instruction and query are joined.
        query_instruction_format: Option<String> = None;
        /// The instruction for passages.
        passage_instruction_for_retrieval: Option<String> = None;
        /// How instruction and passage are joined.
        passage_instruction_format: Option<String> = None;
        /// Where models from the hub are kept.
        cache_dir: Option<String> = None;
        /// The access token for private models on the hub.
        token: Option<String> = None;
    }
}

/// The names of the sections, in the order of the stages.
pub const STAGES: [&str; 7] = [
    "validate",
    "mine",
    "finetune_reranker",
    "score",
    "finetune",
    "merge",
    "evaluate",
];

/// A pipeline: a stage runs if its section is in the file, even an empty one.
///
/// Each stage reads what the one before it wrote, unless its section says otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PipelineConfig {
    /// What the stages share.
    pub shared: PipelineArguments,
    /// Checks the training data.
    pub validate: Option<FinetuneConfig>,
    /// Mines hard negatives.
    pub mine: Option<MineConfig>,
    /// Trains the teacher, a cross-encoder, on the mined rows.
    pub finetune_reranker: Option<FinetuneConfig>,
    /// Lets the teacher score.
    pub score: Option<ScoreConfig>,
    /// Trains.
    pub finetune: Option<FinetuneConfig>,
    /// Merges the trained model with the base.
    pub merge: Option<MergeConfig>,
    /// Measures the result beside the base.
    pub evaluate: Option<EvaluateConfig>,
    /// Worth a look, though nothing stops because of it.
    pub warnings: Vec<Issue>,
}

/// The names of a shared setting in the stages: shared, `FinetuneConfig`, `EmbedArguments`.
const NAMES: [(&str, &str, &str); 12] = [
    (
        "model_name_or_path",
        "model_name_or_path",
        "embedder_name_or_path",
    ),
    ("query_max_len", "query_max_len", "embedder_query_max_length"),
    (
        "passage_max_len",
        "passage_max_len",
        "embedder_passage_max_length",
    ),
    (
        "sentence_pooling_method",
        "sentence_pooling_method",
        "pooling_method",
    ),
    (
        "normalize_embeddings",
        "normalize_embeddings",
        "normalize_embeddings",
    ),
    (
        "query_instruction_for_retrieval",
        "query_instruction_for_retrieval",
        "query_instruction_for_retrieval",
    ),
    (
        "query_instruction_format",
        "query_instruction_format",
        "query_instruction_format_for_retrieval",
    ),
    (
        "passage_instruction_for_retrieval",
        "passage_instruction_for_retrieval",
        "passage_instruction_for_retrieval",
    ),
    (
        "passage_instruction_format",
        "passage_instruction_format",
        "passage_instruction_format",
    ),
    ("seed", "seed", "seed"),
    ("cache_dir", "cache_dir", "cache_dir"),
    ("token", "token", "token"),
];

/// A file being read.
struct Reader<'a> {
    file: &'a str,
    shared: PipelineArguments,
    sections: Vec<Entry>,
    issues: Vec<Issue>,
}

impl PipelineConfig {
    /// Reads the text of a pipeline file, JSON if it begins with a brace, else TOML. The errors are all there are.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Issue>> {
        let first = text.trim_start_matches('\u{feff}').trim_start().chars().next();
        let tree = if first == Some('{') {
            tree::json(text)
        } else {
            tree::toml(text)
        };
        let entries = tree.map_err(|(message, line)| {
            let mut issue = Issue::new("config.syntax", Severity::Error, message);
            issue.path = Some(file.to_owned());
            issue.line = line;
            vec![issue]
        })?;
        let (sections, shared): (Vec<Entry>, Vec<Entry>) = entries
            .into_iter()
            .partition(|entry| matches!(entry.value, Node::Section(_)));
        let mut reader = Reader {
            file,
            shared: PipelineArguments::default(),
            sections,
            issues: Vec::new(),
        };
        reader.shared = reader.read(None, PipelineArguments::default(), shared);
        let pipeline = reader.pipeline();
        let (errors, warnings): (Vec<Issue>, Vec<Issue>) = reader
            .issues
            .into_iter()
            .partition(|issue| issue.severity == Severity::Error);
        if errors.is_empty() {
            Ok(Self { warnings, ..pipeline })
        } else {
            Err(errors)
        }
    }
}

impl Reader<'_> {
    fn pipeline(&mut self) -> PipelineConfig {
        self.unknown_sections();
        for field in PipelineArguments::fields().iter().filter(|field| field.required) {
            let value = self.shared.get(field.name).unwrap_or_default();
            if value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty) {
                let message = format!("it is required: {}", field.help.trim_end_matches('.'));
                self.error("config.required", field.name, message);
            }
        }
        let inside = |name: &str| format!("{}/{name}", self.shared.output_dir.trim_end_matches('/'));
        let (mined, scored) = (inside("mined.jsonl"), inside("scored.jsonl"));
        let (reranker, model) = (inside("reranker"), inside("model"));
        let (merged, report, numbers) = (inside("merged"), inside("report.html"), inside("evaluation.json"));
        let base = self.shared.model_name_or_path.clone();
        let mut rows = self.shared.train_data.clone();

        let validate = self.take("validate").map(|section| {
            let own = [
                ("train_data", json!(rows)),
                ("eval_dataset", json!(self.shared.eval_dataset)),
                ("eval_split", json!(self.shared.eval_split)),
                ("output_dir", json!(model)),
            ];
            let start = self.start::<FinetuneConfig>(&own, Some(Module::EncoderOnlyBase));
            self.read(Some("validate"), start, section)
        });
        let mine = self.take("mine").map(|section| {
            let own = [("input_file", json!(rows.first())), ("output_file", json!(mined))];
            let start = self.start::<MineConfig>(&own, None);
            let config = self.read(Some("mine"), start, section);
            self.one_file("mine", &rows, &config.mine.input_file);
            config
        });
        if let Some(config) = &mine {
            rows = vec![config.mine.output_file.clone()];
        }
        let finetune_reranker = self.take("finetune_reranker").map(|section| {
            let own = [
                ("train_data", json!(rows)),
                ("output_dir", json!(reranker)),
                (
                    "model_name_or_path",
                    json!(self.shared.reranker_name_or_path.as_ref().unwrap_or(&base)),
                ),
            ];
            let start = self.start::<FinetuneConfig>(&own, Some(Module::RerankerEncoderOnlyBase));
            self.read(Some("finetune_reranker"), start, section)
        });
        let teacher = finetune_reranker
            .as_ref()
            .map(|config| config.training.output_dir.clone())
            .or_else(|| self.shared.reranker_name_or_path.clone());
        let score = self.take("score").map(|section| {
            let own = [
                ("input_file", json!(rows.first())),
                ("output_file", json!(scored)),
                ("reranker_name_or_path", json!(teacher)),
            ];
            let start = self.start::<ScoreConfig>(&own, None);
            let config = self.read(Some("score"), start, section);
            self.one_file("score", &rows, &config.files.input_file);
            config
        });
        if let Some(config) = &score {
            rows = vec![config.files.output_file.clone()];
        }
        let finetune = self.take("finetune").map(|section| {
            let own = [
                ("train_data", json!(rows)),
                ("output_dir", json!(model)),
                ("knowledge_distillation", json!(score.is_some())),
            ];
            let start = self.start::<FinetuneConfig>(&own, Some(Module::EncoderOnlyBase));
            self.read(Some("finetune"), start, section)
        });
        let tuned = finetune.as_ref().map(|config| config.training.output_dir.clone());
        let merge = self.take("merge").map(|section| {
            let models: Vec<&String> = std::iter::once(&base).chain(&tuned).collect();
            let own = [
                ("model_names_or_paths", json!(models)),
                ("output_path", json!(merged)),
            ];
            let start = self.start::<MergeConfig>(&own, None);
            self.read(Some("merge"), start, section)
        });
        let last = merge
            .as_ref()
            .map(|config| config.merge.output_path.clone())
            .or(tuned);
        let evaluate = self.take("evaluate").map(|section| {
            let own = [
                ("embedder_name_or_path", json!(last.as_ref().unwrap_or(&base))),
                ("baseline", json!(last.as_ref().map(|_| &base))),
                ("dataset", json!(self.shared.eval_dataset)),
                ("split", json!(self.shared.eval_split)),
                ("report", json!(report)),
                ("output_file", json!(numbers)),
            ];
            let start = self.start::<EvaluateConfig>(&own, None);
            self.read(Some("evaluate"), start, section)
        });
        let pipeline = PipelineConfig {
            shared: self.shared.clone(),
            validate,
            mine,
            finetune_reranker,
            score,
            finetune,
            merge,
            evaluate,
            warnings: Vec::new(),
        };
        self.check(&pipeline);
        pipeline
    }

    /// Runs the rules of every stage, so that the last one's mistake shows before the first one runs.
    fn check(&mut self, pipeline: &PipelineConfig) {
        let found = [
            (
                "validate",
                pipeline.validate.clone().and_then(|config| config.check().err()),
            ),
            (
                "mine",
                pipeline.mine.clone().and_then(|config| config.check().err()),
            ),
            (
                "finetune_reranker",
                pipeline
                    .finetune_reranker
                    .clone()
                    .and_then(|config| config.check_for(Module::RerankerEncoderOnlyBase).err()),
            ),
            (
                "score",
                pipeline.score.clone().and_then(|config| config.check().err()),
            ),
            (
                "finetune",
                pipeline.finetune.clone().and_then(|config| config.check().err()),
            ),
            (
                "merge",
                pipeline.merge.clone().and_then(|config| config.check().err()),
            ),
            (
                "evaluate",
                pipeline.evaluate.clone().and_then(|config| config.check().err()),
            ),
        ];
        for (stage, issues) in found {
            for issue in issues.into_iter().flatten() {
                self.place(issue, Some(stage));
            }
        }
        if STAGES.iter().all(|stage| !pipeline.has(stage)) {
            let message = format!(
                "no stage has a section; write one or more of [{}]",
                STAGES.join("], [")
            );
            self.error("config.required", "pipeline", message);
        }
    }

    fn unknown_sections(&mut self) {
        let mut seen: Vec<String> = Vec::new();
        for index in 0..self.sections.len() {
            let Some(entry) = self.sections.get(index) else {
                continue;
            };
            let (key, line) = (entry.key.clone(), entry.line);
            let message = if !STAGES.contains(&key.as_str()) {
                let known = STAGES.join("], [");
                format!(
                    "[{}] is not a stage; the stages are [{known}]",
                    unknown::short(&key)
                )
            } else if seen.contains(&key) {
                format!("[{key}] is there twice")
            } else {
                seen.push(key);
                continue;
            };
            let mut issue = Issue::new("config.unknown_section", Severity::Error, message);
            issue.path = Some(self.file.to_owned());
            issue.line = line;
            self.issues.push(issue);
        }
    }

    fn take(&mut self, stage: &str) -> Option<Vec<Entry>> {
        let at = self.sections.iter().position(|entry| entry.key == stage)?;
        match self.sections.remove(at).value {
            Node::Section(entries) => Some(entries),
            Node::Value(_) => None,
        }
    }

    /// Defaults, under what is shared, under what the pipeline itself decides.
    fn start<A: Arguments + Default>(&mut self, own: &[(&str, Value)], trains: Option<Module>) -> A {
        let mut arguments = A::default();
        let shared = NAMES.iter().map(|(shared, training, embedding)| {
            let value = self.shared.get(shared).unwrap_or_default();
            (if trains.is_some() { *training } else { *embedding }, value)
        });
        let all: Vec<(&str, Value)> = shared
            .chain(own.iter().map(|(name, value)| (*name, value.clone())))
            .collect();
        for (name, value) in all {
            let taken = A::field(name).is_some_and(|field| trains.is_none_or(|module| module.takes(field)));
            if value.is_null() || !taken {
                continue;
            }
            if let Err(error) = arguments.set(name, &value) {
                self.error("config.invalid_value", name, error.message().to_owned());
            }
        }
        arguments
    }

    /// Puts entries over settings; what is wrong with them is kept.
    fn read<A: Arguments + Clone>(&mut self, stage: Option<&str>, start: A, entries: Vec<Entry>) -> A {
        let module = match stage {
            Some("finetune_reranker") => Module::RerankerEncoderOnlyBase,
            _ => Module::EncoderOnlyBase,
        };
        let loader = Loader::starting_from(start.clone(), module);
        match loader.entries(self.file, entries).finish() {
            Ok(parsed) => {
                for warning in parsed.warnings {
                    self.place(warning, stage);
                }
                parsed.arguments
            }
            Err(issues) => {
                for issue in issues {
                    self.place(issue, stage);
                }
                start
            }
        }
    }

    /// Keeps a finding with its file and section.
    fn place(&mut self, mut issue: Issue, stage: Option<&str>) {
        issue.path = Some(self.file.to_owned());
        if let (Some(stage), Some(field)) = (stage, &issue.field) {
            issue.field = Some(format!("{stage}.{field}"));
        }
        self.issues.push(issue);
    }

    fn error(&mut self, code: &'static str, field: &str, message: impl Into<String>) {
        let issue = Issue::new(code, Severity::Error, message).on_field(field);
        self.place(issue, None);
    }

    /// A stage that reads one file was given several, and its section does not say which.
    fn one_file(&mut self, stage: &str, rows: &[String], input: &str) {
        if rows.len() > 1 && rows.first().is_some_and(|first| first == input) {
            let message = format!(
                "`{stage}` reads one file, and train_data names {}; join them, or set input_file",
                rows.len()
            );
            self.error("config.conflict", &format!("{stage}.input_file"), message);
        }
    }
}

impl PipelineConfig {
    /// Whether a stage runs.
    pub fn has(&self, stage: &str) -> bool {
        match stage {
            "validate" => self.validate.is_some(),
            "mine" => self.mine.is_some(),
            "finetune_reranker" => self.finetune_reranker.is_some(),
            "score" => self.score.is_some(),
            "finetune" => self.finetune.is_some(),
            "merge" => self.merge.is_some(),
            "evaluate" => self.evaluate.is_some(),
            _ => false,
        }
    }
}
