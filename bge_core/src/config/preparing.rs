//! How training data is made, mended and split.

use super::check::{Checked, Findings, normalize};
use super::declare::{arguments, choices, sections};
use crate::issue::Issue;

choices! {
    /// What `bge convert` reads.
    pub enum ConvertFormat {
        /// Found out: a folder with corpus.jsonl is BEIR's, and files are what their names end in.
        Auto = "auto",
        /// Judgments, queries and documents of BEIR.
        Beir = "beir",
        /// Tables with a header; what stands between the cells is found out.
        Csv = "csv",
        /// Tables with a header and tabs between the cells.
        Tsv = "tsv",
        /// JSON lines or a JSON array of pairs, triplets and the like.
        SentenceTransformers = "sentence-transformers",
    }
}

arguments! {
    /// What `bge convert` reads and writes.
    pub struct ConvertArguments {
        ["convert"]
        /// What is made into training rows: one folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; CSV or TSV with a
        /// header; JSON or JSONL of sentence-transformers; or folders of such tables and rows. Each file may be packed as .gz.
        input_path: Vec<String> = Vec::new(), required, ours;
        /// The JSONL file that receives the rows.
        output_file: String = String::new(), required, ours;
        /// Where records go that cannot be used, each with its place and the reason; `output_file` with the ending .quarantine
        /// if not given.
        quarantine_file: Option<String> = None, ours;
        /// What the input is; found out by itself if not given.
        input_format: ConvertFormat = ConvertFormat::Auto, ours;
        /// Which judgments of a BEIR folder are used: those of qrels/SPLIT.tsv.
        split: String = "train".to_owned(), ours;
        /// Join the rows of one query into one.
        group: bool = false, ours;
        /// The memory for rows that wait to be joined, in megabytes; rows of one query that are further apart stay apart.
        group_megabytes: usize = 256, ours;
        /// The column of queries, if its name is none of anchor, query and question.
        query_column: Option<String> = None, ours;
        /// The columns of positives, if their names are none of positive, pos and answer.
        positive_columns: Vec<String> = Vec::new(), ours;
        /// The columns of negatives, if their names are none of negative and neg with or without a number.
        negative_columns: Vec<String> = Vec::new(), ours;
        /// The column of scores, if its name is neither score nor label.
        score_column: Option<String> = None, ours;
        /// Whether quotes in CSV and TSV enclose cells; otherwise they are characters like others.
        quotes: bool = true, ours;
        /// Replace the output if it exists.
        overwrite: bool = false, ours;
    }
    aliases {
        "input_file" => "input_path",
        "input" => "input_path",
        "output" => "output_file",
        "quarantine" => "quarantine_file",
        "format" => "input_format",
    }
}

arguments! {
    /// What `bge repair` reads and writes.
    pub struct RepairArguments {
        ["repair"]
        /// Training data: JSONL or JSON files, or folders of them. Each file may be packed as .gz.
        input_path: Vec<String> = Vec::new(), required, ours;
        /// The JSONL file that receives the rows that are sound or could be mended.
        output_file: String = String::new(), required, ours;
        /// Where rows go that could not be mended, each with its place and the reason; `output_file` with the ending .quarantine
        /// if not given.
        quarantine_file: Option<String> = None, ours;
        /// Leave out rows that say no more than an earlier one: the same texts, scores, prompts and type.
        drop_repeated_rows: bool = true, ours;
        /// Put rows without negatives into the quarantine.
        require_negatives: bool = false, ours;
        /// Replace the output if it exists.
        overwrite: bool = false, ours;
    }
    aliases {
        "input_file" => "input_path",
        "input" => "input_path",
        "train_data" => "input_path",
        "output" => "output_file",
        "quarantine" => "quarantine_file",
    }
}

arguments! {
    /// What `bge split` reads and writes (`scripts/split_data_by_length.py` with `by_length`).
    pub struct SplitArguments {
        ["split"]
        /// Training data: JSONL or JSON files, or folders of them. Each file may be packed as .gz.
        input_path: Vec<String> = Vec::new(), required;
        /// Replace files that exist. Otherwise train and dev are refused, and files of ranges are left as they are.
        overwrite: bool = false;

        ["train_and_dev"]
        /// The JSONL file that receives the rows to train on.
        train_file: Option<String> = None, ours;
        /// The JSONL file that receives the rows to measure with.
        dev_file: Option<String> = None, ours;
        /// The share of the rows that dev gets at most, from 0 to 1. Rows that share a query or a positive stay together.
        dev_share: f64 = 0.05, ours;
        /// The key of the draw.
        seed: u64 = 42, ours;
        /// Also keep rows together that share a negative. With mined negatives this may leave one group.
        negatives_too: bool = false, ours;

        ["lengths"]
        /// Split by the length of a row's longest text instead of into train and dev.
        by_length: bool = false, ours;
        /// The folder that receives a file for each range of lengths, with `by_length`.
        output_dir: Option<String> = None;
        /// Where ranges of lengths begin, in tokens with special ones; the last has no end.
        length_list: Vec<usize> = vec![0, 500, 1000, 2000, 3000, 4000, 5000, 6000, 7000];
        /// The model whose tokenizer counts.
        model_name_or_path: String = "BAAI/bge-m3".to_owned();
        /// Where models from the hub are kept.
        cache_dir: Option<String> = None;
        /// The access token for private models on the hub.
        token: Option<String> = None, ours;
        /// The file in `output_dir` to which a line for each file is added.
        log_name: String = ".split_log".to_owned();
        /// Threads that count tokens, at most as many as the machine has cores.
        num_proc: usize = 16;
    }
    aliases {
        "input_file" => "input_path",
        "input" => "input_path",
        "train_data" => "input_path",
        "train" => "train_file",
        "dev" => "dev_file",
    }
}

sections! {
    /// Everything `bge convert` takes.
    pub struct ConvertConfig {
        /// What is read and written, and how.
        convert: ConvertArguments,
    }
}

sections! {
    /// Everything `bge repair` takes.
    pub struct RepairConfig {
        /// What is read and written, and how.
        repair: RepairArguments,
    }
}

sections! {
    /// Everything `bge split` takes.
    pub struct SplitConfig {
        /// What is read and written, and how.
        split: SplitArguments,
    }
}

impl ConvertConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        let convert = &self.convert;
        findings.split("split", &convert.split);
        findings.count("group_megabytes", convert.group_megabytes, 1, 1 << 20);
        findings.rows_file("output_file", &convert.output_file, &convert.input_path);
        findings.quarantine(convert.quarantine_file.as_deref());
        findings.finish(self)
    }
}

impl RepairConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        let repair = &self.repair;
        findings.rows_file("output_file", &repair.output_file, &repair.input_path);
        findings.quarantine(repair.quarantine_file.as_deref());
        findings.finish(self)
    }
}

impl SplitConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
        let split = &self.split;
        let share = split.dev_share;
        findings.range(
            "dev_share",
            share > 0.0 && share < 1.0,
            share,
            "a number between 0 and 1",
        );
        findings.count("num_proc", split.num_proc, 1, 4096);
        if split.by_length {
            split.check_lengths(&mut findings);
        } else {
            split.check_sides(&mut findings);
        }
        findings.finish(self)
    }
}

impl SplitArguments {
    fn check_sides(&self, findings: &mut Findings) {
        for (name, place) in [("train_file", &self.train_file), ("dev_file", &self.dev_file)] {
            match place {
                Some(place) if !place.trim().is_empty() => findings.rows_file(name, place, &self.input_path),
                _ => {
                    let message = "name both files, as in `--train train.jsonl --dev dev.jsonl`; or split `--by_length`";
                    findings.error("config.required", name, message);
                }
            }
        }
        if self.train_file.is_some() && self.train_file == self.dev_file {
            findings.error(
                "config.conflict",
                "dev_file",
                "it is the file of train; give another name",
            );
        }
        if self.output_dir.is_some() {
            let message =
                "it is for ranges of lengths; add `--by_length`, or name files with `--train` and `--dev`";
            findings.error("config.conflict", "output_dir", message);
        }
    }

    fn check_lengths(&self, findings: &mut Findings) {
        if self
            .output_dir
            .as_deref()
            .is_none_or(|folder| folder.trim().is_empty())
        {
            let message =
                "name the folder that receives a file for each range, as in `--output_dir by_length`";
            findings.error("config.required", "output_dir", message);
        }
        for (name, place) in [("train_file", &self.train_file), ("dev_file", &self.dev_file)] {
            if place.is_some() {
                let message =
                    "with `--by_length` files are named after their input and their range; leave it out";
                findings.error("config.conflict", name, message);
            }
        }
        if self.length_list.is_empty() {
            let message = "give at least one length, as in `--length_list 0 500 1000`";
            findings.error("config.required", "length_list", message);
        }
        if self.model_name_or_path.trim().is_empty() {
            let message = "the model whose tokenizer counts has to be named";
            findings.error("config.required", "model_name_or_path", message);
        }
        let name = self.log_name.trim();
        if name.is_empty() || name.contains(['/', '\\']) || name == "." || name == ".." {
            let message = format!("expected the name of a file in `output_dir`, got {name:?}");
            findings.error("config.invalid_value", "log_name", message);
        }
    }
}

impl Findings {
    /// A file of rows: its name says so, and it is none of the inputs.
    fn rows_file(&mut self, field: &str, place: &str, inputs: &[String]) {
        let place = place.trim();
        if place.is_empty() {
            return;
        }
        if !place.to_ascii_lowercase().ends_with(".jsonl") {
            let message =
                format!("rows are written as JSON lines; give a name that ends in .jsonl, got {place:?}");
            self.error("config.invalid_value", field, message);
        }
        if inputs.iter().any(|input| input.trim() == place) {
            let message = "it is an input file, which would be overwritten; give another name";
            self.error("config.conflict", field, message);
        }
    }

    /// The quarantine must not be taken for training data.
    fn quarantine(&mut self, place: Option<&str>) {
        let Some(place) = place else {
            return;
        };
        let name = place.trim().to_ascii_lowercase();
        if name.is_empty() {
            let message = "it needs a name; leave it out for that of the output with the ending .quarantine";
            self.error("config.invalid_value", "quarantine_file", message);
        }
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        if matches!(name.rsplit_once('.'), Some((_, "jsonl" | "json"))) {
            let message = format!(
                "a folder of training data would take it for rows; give a name with another ending than .json and .jsonl, \
                 such as .quarantine, got {place:?}"
            );
            self.error("config.invalid_value", "quarantine_file", message);
        }
    }
}
