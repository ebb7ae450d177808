//! What `bge convert`, `bge repair` and `bge split` refuse.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::case::{Case, GOOD};

const REPAIR: &str = "repair data.jsonl --output out.jsonl";
const SPLIT: &str = "split data.jsonl --train t.jsonl --dev d.jsonl";
const CONVERT: &str = "convert data.csv --output out.jsonl";
const LENGTHS: &str = "split --by_length data.jsonl --output_dir out --model_name_or_path model";

/// A command line whose words have no spaces, on two good rows in `data.jsonl`.
fn call(line: &str, code: i32, says: &[&str]) -> Case {
    let words = line.split_whitespace().map(str::to_owned).collect();
    Case::new(line, words, code, says, |_: &Path| {})
}

/// A command whose file has this content.
fn input(line: &str, file: &'static str, content: &[u8], says: &[&str]) -> Case {
    let content = content.to_vec();
    let words = line.split_whitespace().map(str::to_owned).collect();
    let name = format!(
        "{line} with {:?}",
        String::from_utf8_lossy(content.get(..20).unwrap_or(&content))
    );
    Case::new(&name, words, 1, says, move |at: &Path| {
        fs::write(at.join(file), &content).unwrap();
    })
}

/// A command that finds a file of this name in its way.
fn taken(line: &str, file: &'static str, says: &[&str]) -> Case {
    let words = line.split_whitespace().map(str::to_owned).collect();
    Case::new(
        &format!("{line} over {file}"),
        words,
        2,
        says,
        move |at: &Path| {
            fs::write(at.join("data.csv"), "query,answer\na,b\n").unwrap();
            fs::write(at.join(file), "mine").unwrap();
        },
    )
}

/// Settings that are refused.
fn flags(base: &str, more: &str, says: &[&str]) -> Case {
    call(&format!("{base} {more}"), 2, says)
}

pub(crate) fn cases() -> Vec<Case> {
    [repairs(), splits(), lengths(), conversions()]
        .into_iter()
        .flatten()
        .collect()
}

fn repairs() -> Vec<Case> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(GOOD.repeat(200).as_bytes()).unwrap();
    let mut cut = packer.finish().unwrap();
    cut.truncate(cut.len() / 2);
    let packed = "repair data.jsonl.gz --output new/out.jsonl";
    vec![
        call("repair --output o.jsonl", 2, &["input_path"]),
        call("repair data.jsonl", 2, &["output_file"]),
        call(
            "repair data.jsonl --output data.jsonl --overwrite",
            2,
            &["output_file", "another name"],
        ),
        call(
            "repair data.jsonl --output ./data.jsonl --overwrite",
            2,
            &["input file, which would be overwritten"],
        ),
        call("repair data.jsonl --output out.gz", 2, &[".jsonl"]),
        flags(
            REPAIR,
            "--quarantine bad.jsonl",
            &[
                "quarantine_file",
                "a folder of training data would take it for rows",
            ],
        ),
        flags(REPAIR, "--quarantine bad.json.gz", &["quarantine_file"]),
        flags(REPAIR, "--require_negative", &["require_negatives"]),
        call("repair none.jsonl --output new/out.jsonl", 1, &["none.jsonl"]),
        input(
            "repair data.csv --output out.jsonl",
            "data.csv",
            b"query,answer\na,b\n",
            &["data.csv", "bge convert"],
        ),
        taken(REPAIR, "out.jsonl", &["out.jsonl", "--overwrite"]),
        taken(REPAIR, "out.jsonl.quarantine", &["quarantine", "--overwrite"]),
        input(REPAIR, "data.jsonl", b"", &["no rows"]),
        input(
            REPAIR,
            "data.jsonl",
            b"{\n\xff\xfe\n[1]\n",
            &["data.jsonl:1", "no row can be mended"],
        ),
        input(
            packed,
            "data.jsonl.gz",
            &cut,
            &["data.jsonl.gz", "cut off or damaged"],
        ),
        input(packed, "data.jsonl.gz", b"plain", &["damaged"]),
    ]
}

fn splits() -> Vec<Case> {
    vec![
        call("split data.jsonl", 2, &["train_file", "dev_file"]),
        call("split data.jsonl --train t.jsonl", 2, &["dev_file"]),
        call(
            "split data.jsonl --train t.jsonl --dev t.jsonl",
            2,
            &["file of train"],
        ),
        call(
            "split data.jsonl --train t.jsonl --dev ./t.jsonl --dev_share 0.5 --overwrite",
            2,
            &["file of train"],
        ),
        flags(SPLIT, "--dev_share 1", &["dev_share", "between 0 and 1"]),
        flags(SPLIT, "--output_dir out", &["--by_length"]),
        call(&format!("{SPLIT} --dev_share 0.4"), 1, &["raise --dev_share"]),
        call(
            &format!("{SPLIT} --dev_share 0.9 --negatives_too"),
            1,
            &["all 2 rows are linked", "leave out --negatives_too"],
        ),
        call(
            "split none.jsonl --train t.jsonl --dev d.jsonl",
            1,
            &["none.jsonl"],
        ),
        input(SPLIT, "data.jsonl", b"\n", &["no rows"]),
        input(
            SPLIT,
            "data.jsonl",
            b"{\n\xff\n",
            &["none of the 2 rows", "bge validate"],
        ),
        taken(SPLIT, "d.jsonl", &["d.jsonl", "--overwrite"]),
    ]
}

fn lengths() -> Vec<Case> {
    vec![
        call("split --by_length data.jsonl", 2, &["output_dir"]),
        flags(LENGTHS, "--train t.jsonl", &["train_file"]),
        flags(LENGTHS, "--length_list", &["length_list"]),
        flags(LENGTHS, "--log_name ../log", &["log_name"]),
        call(
            "split --by_length data.jsonl --output_dir out --model_name_or_path none",
            1,
            &["none"],
        ),
        input(LENGTHS, "data.jsonl", b"", &["no rows"]),
        taken(LENGTHS, "out", &["output_dir must be a folder"]),
    ]
}

fn conversions() -> Vec<Case> {
    vec![
        call(CONVERT, 1, &["data.csv"]),
        flags(CONVERT, "--format parquet", &["sentence-transformers"]),
        call("convert model/nothing --output out.jsonl", 1, &["model/nothing"]),
        call("convert model --output out.jsonl --format beir", 1, &["qrels"]),
        input(
            "convert data.txt --output new/o.jsonl",
            "data.txt",
            b"a,b\n",
            &["--format"],
        ),
        input(CONVERT, "data.csv", b"", &["empty", "nothing was written"]),
        input(CONVERT, "data.csv", b"query,answer\n", &["no rows"]),
        input(
            CONVERT,
            "data.csv",
            b"query,color\na,b\n",
            &["`color`", "positive"],
        ),
        input(
            CONVERT,
            "data.csv",
            b"query,answer\n\xff\xfe,\xff\n",
            &["data.csv:2", "UTF-8"],
        ),
        taken(CONVERT, "out.jsonl", &["out.jsonl", "--overwrite"]),
        Case::new(
            "a BEIR folder without the split",
            ["convert", "beir", "--output", "out.jsonl", "--split", "dev"]
                .map(str::to_owned)
                .to_vec(),
            1,
            &["splits that are there: train; `--split` names one"],
            |at: &Path| beir(&at.join("beir")),
        ),
    ]
}

/// A small folder in BEIR's layout, with a packed corpus.
pub(crate) fn beir(at: &Path) {
    fs::create_dir_all(at.join("qrels")).unwrap();
    let corpus = fs::File::create(at.join("corpus.jsonl.gz")).unwrap();
    let mut corpus = flate2::write::GzEncoder::new(corpus, flate2::Compression::fast());
    let (mut queries, mut qrels) = (String::new(), "query-id\tcorpus-id\tscore\n".to_owned());
    for row in 0..40 {
        writeln!(
            corpus,
            "{{\"_id\": \"d{row}\", \"title\": \"\", \"text\": \"bread {row}\"}}"
        )
        .unwrap();
        queries += &format!("{{\"_id\": \"q{row}\", \"text\": \"loaf {row}\"}}\n");
        qrels += &format!("q{row}\td{row}\t1\n");
    }
    corpus.finish().unwrap();
    qrels += "q1\tnone\t1\n";
    fs::write(at.join("queries.jsonl"), queries).unwrap();
    fs::write(at.join("qrels/train.tsv"), qrels).unwrap();
}
