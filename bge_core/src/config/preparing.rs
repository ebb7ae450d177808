//! How training data is made, mended and split.

use super::check::{Checked, Findings, normalize};
use super::declare::{arguments, sections};
use crate::issue::Issue;

arguments! {
    /// What `bge convert` reads and writes.
    pub struct ConvertArguments {
        ["convert"]
        /// What is made into training rows: one folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv; CSV or TSV with a
        /// header; JSON or JSONL of sentence-transformers; or folders of such files. Each may be packed as .gz.
        input_path: Vec<String> = Vec::new(), required, ours;
        /// The JSONL file that receives the rows.
        output_file: String = String::new(), required, ours;
        /// Where records go that cannot be used, each with its place and the reason; `output_file` with the ending .quarantine
        /// if not given.
        quarantine_file: Option<String> = None, ours;
        /// Which judgments of a folder with qrels/ are used.
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
    }
}

arguments! {
    /// What `bge repair` reads and writes.
    pub struct RepairArguments {
        ["repair"]
        /// Training data: JSONL or JSON files, or folders of them.
        input_path: Vec<String> = Vec::new(), required, ours;
        /// The JSONL file that receives the rows that are sound or could be mended.
        output_file: String = String::new(), required, ours;
        /// Where rows go that could not be mended, each with its place and the reason; `output_file` with the ending .quarantine
        /// if not given.
        quarantine_file: Option<String> = None, ours;
        /// Leave out rows whose query and positives an earlier row has too.
        drop_repeated_rows: bool = true, ours;
        /// Put rows without negatives into the quarantine.
        require_negatives: bool = false, ours;
        /// Replace the output if it exists.
        overwrite: bool = false, ours;
    }
    aliases {
        "input_file" => "input_path",
        "train_data" => "input_path",
    }
}

arguments! {
    /// What `bge split` reads and writes (`scripts/split_data_by_length.py` with `by_length`).
    pub struct SplitArguments {
        ["split"]
        /// Training data: JSONL or JSON files, or folders of them.
        input_path: Vec<String> = Vec::new(), required;
        /// The folder that receives train.jsonl and dev.jsonl, or a file for each range of lengths.
        output_dir: String = String::new(), required;
        /// Split by the length of a row's longest text instead of into train and dev.
        by_length: bool = false, ours;
        /// Replace files that exist. Otherwise train and dev are refused, and files of ranges are left as they are.
        overwrite: bool = false;

        ["dev"]
        /// The share of the rows that dev gets at most, from 0 to 1. Rows that share a query or a positive stay together.
        dev_share: f64 = 0.05, ours;
        /// The key of the draw.
        seed: u64 = 42, ours;
        /// Also keep rows together that share a negative. With mined negatives this may leave one group.
        negatives_too: bool = false, ours;

        ["lengths"]
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
        "train_data" => "input_path",
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
        findings.split("split", &self.convert.split);
        findings.count("group_megabytes", self.convert.group_megabytes, 1, 1 << 20);
        findings.finish(self)
    }
}

impl RepairConfig {
    /// Checks the settings. Nothing on disk is looked at.
    pub fn check(mut self) -> Result<Checked<Self>, Vec<Issue>> {
        let mut findings = Findings::default();
        normalize(&mut self);
        findings.required(&self);
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
            (0.0..=1.0).contains(&share),
            share,
            "a number from 0 to 1",
        );
        findings.count("num_proc", split.num_proc, 1, 4096);
        if split.by_length {
            if split.length_list.is_empty() {
                let message = "give at least one length, as in `--length_list 0 500 1000`";
                findings.error("config.required", "length_list", message);
            }
            if split.model_name_or_path.trim().is_empty() {
                let message = "the model whose tokenizer counts has to be named";
                findings.error("config.required", "model_name_or_path", message);
            }
            let name = split.log_name.trim();
            if name.is_empty() || name.contains(['/', '\\']) || name == "." || name == ".." {
                let message = format!("expected the name of a file in `output_dir`, got {name:?}");
                findings.error("config.invalid_value", "log_name", message);
            }
        }
        findings.finish(self)
    }
}
