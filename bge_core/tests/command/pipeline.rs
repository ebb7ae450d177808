//! Bad input of `pipeline` and `merge`, and a pipeline that is killed again and again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use crate::case::{Case, bge, copy, fixture, words};

/// A pipeline that works: model `model`, rows `data.jsonl`, output `out`.
const FILE: &str = r#"
model_name_or_path = "model"
train_data = "data.jsonl"
output_dir = "out"
query_max_len = 16
passage_max_len = 24

[validate]
train_group_size = 2
[mine]
range_for_sampling = "0-4"
negative_number = 2
[finetune]
train_group_size = 2
max_steps = 2
per_device_train_batch_size = 2
"#;

/// The working file with one change.
fn changed(name: &str, from: &str, to: &str, code: i32, says: &[&str]) -> Case {
    assert!(FILE.contains(from), "{from}");
    let text = FILE.replacen(from, to, 1);
    Case::new(
        &format!("pipeline: {name}"),
        words(&["pipeline", "p.toml"]),
        code,
        says,
        move |at: &Path| fs::write(at.join("p.toml"), &text).unwrap(),
    )
}

fn call(name: &str, args: &[&str], code: i32, says: &[&str]) -> Case {
    Case::new(name, words(args), code, says, |_| {})
}

fn merge(name: &str, more: &[&str], code: i32, says: &[&str]) -> Case {
    let base = ["merge", "--output_path", "merged"];
    Case::new(
        &format!("merge: {name}"),
        words(&[&base[..], more].concat()),
        code,
        says,
        |at: &Path| {
            copy(&fixture("models/bert"), &at.join("second"));
            copy(&fixture("models/xlmr"), &at.join("other"));
            fs::create_dir(at.join("full")).unwrap();
        },
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let models = ["--model_names_or_paths", "model", "second"];
    let both = |more: &[&'static str]| -> Vec<&'static str> { [&models[..], more].concat() };
    vec![
        call("pipeline: no file", &["pipeline"], 2, &["name a pipeline file"]),
        call(
            "pipeline: a missing file",
            &["pipeline", "p.toml"],
            2,
            &["p.toml"],
        ),
        call(
            "pipeline: a folder",
            &["pipeline", "model"],
            2,
            &["model", "folder"],
        ),
        call(
            "pipeline: two files",
            &["pipeline", "a.toml", "b.toml"],
            2,
            &["expected one file"],
        ),
        call(
            "pipeline: a flag",
            &["pipeline", "--seed", "3"],
            2,
            &["settings of a pipeline stand in its file"],
        ),
        changed(
            "no TOML",
            "[validate]",
            "[validate",
            2,
            &["p.toml", "not valid TOML"],
        ),
        changed(
            "an unknown stage",
            "[mine]",
            "[mien]",
            2,
            &["p.toml", "[mien]", "not a stage"],
        ),
        changed(
            "an unknown setting",
            "max_steps",
            "max_stepz",
            2,
            &["p.toml", "finetune.max_stepz", "max_steps"],
        ),
        changed(
            "no model",
            "model_name_or_path = \"model\"",
            "",
            2,
            &["model_name_or_path", "required"],
        ),
        changed(
            "no data",
            "train_data = \"data.jsonl\"",
            "",
            2,
            &["train_data", "required"],
        ),
        changed(
            "no output",
            "output_dir = \"out\"",
            "",
            2,
            &["output_dir", "required"],
        ),
        changed(
            "a wrong type",
            "max_steps = 2",
            "max_steps = \"two\"",
            2,
            &["finetune.max_steps", "\"two\""],
        ),
        changed(
            "a bad range",
            "\"0-4\"",
            "\"4-0\"",
            2,
            &["mine.range_for_sampling", "4-0"],
        ),
        changed(
            "scores without a teacher",
            "[finetune]",
            "[score]\n[finetune]",
            2,
            &["score.reranker_name_or_path"],
        ),
        changed(
            "nothing to measure on",
            "[finetune]",
            "[evaluate]\n[finetune]",
            2,
            &["evaluate.dataset"],
        ),
        changed(
            "merging without weights",
            "[finetune]",
            "[merge]\n[finetune]",
            2,
            &["merge.weights"],
        ),
        changed("a missing model", "\"model\"", "\"modle\"", 1, &["modle"]),
        changed(
            "missing data",
            "\"data.jsonl\"",
            "\"date.jsonl\"",
            1,
            &["date.jsonl"],
        ),
        changed(
            "two files to mine in",
            "\"data.jsonl\"",
            "[\"data.jsonl\", \"b.jsonl\"]",
            2,
            &["mine.input_file", "one file"],
        ),
        changed(
            "an output that is a file",
            "\"out\"",
            "\"data.jsonl\"",
            1,
            &["data.jsonl"],
        ),
        merge(
            "one model",
            &["--model_names_or_paths", "model", "--weights", "1"],
            2,
            &["nothing to merge"],
        ),
        merge("no weights", &both(&[]), 2, &["--weights 0.5 0.5"]),
        merge(
            "three weights",
            &both(&["--weights", "0.2", "0.3", "0.5"]),
            2,
            &["3 weights for 2 models"],
        ),
        merge(
            "weights that sum to 2",
            &both(&["--weights", "1", "1"]),
            2,
            &["sum to 2"],
        ),
        merge(
            "a weight that is no number",
            &both(&["--weights", "1", "x"]),
            2,
            &["weights", "\"x\""],
        ),
        merge(
            "weights and a set to choose them on",
            &both(&["--weights", "0.5", "0.5", "--dataset", "d"]),
            2,
            &["dataset"],
        ),
        merge(
            "a missing model",
            &[
                "--model_names_or_paths",
                "model",
                "nowhere",
                "--weights",
                "0.5",
                "0.5",
            ],
            1,
            &["nowhere"],
        ),
        merge(
            "another architecture",
            &[
                "--model_names_or_paths",
                "model",
                "other",
                "--weights",
                "0.5",
                "0.5",
            ],
            1,
            &["other", "can be merged"],
        ),
        merge(
            "an output that exists",
            &both(&["--weights", "0.5", "0.5", "--output_path", "full"]),
            2,
            &["full", "exists already"],
        ),
        merge(
            "a missing development set",
            &both(&["--dataset", "nowhere"]),
            1,
            &["nowhere"],
        ),
    ]
}

/// Every file under a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_pipeline_killed_twenty_times_ends_with_the_bytes_of_an_undisturbed_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copy(&fixture("models/bert"), &at.join("model"));
    fs::copy(fixture("data/plain.jsonl"), at.join("data.jsonl")).unwrap();
    let text = FILE.replace("\"0-4\"", "\"1-20\"").replace(
        "max_steps = 2",
        "max_steps = 24\nsave_steps = 4\nlogging_steps = 3",
    ) + "[merge]\nweights = [0.5, 0.5]\n";
    fs::write(at.join("p.toml"), text).unwrap();
    let start = || {
        let mut command = bge(at);
        command
            .args(["pipeline", "p.toml"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let begun = Instant::now();
    let output = start().wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let whole = begun.elapsed();
    let calm = files(&at.join("out"));
    let (mut killed, mut finished) = (0, 0);
    fs::remove_dir_all(at.join("out")).unwrap();
    for round in 0..20_u32 {
        let mut child = start();
        // A fixed scatter over the time of a whole run.
        std::thread::sleep(whole * (round * 7 % 20 + 1) / 25);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            continue;
        }
        finished += 1;
        compare(&calm, &files(&at.join("out")));
        fs::remove_dir_all(at.join("out")).unwrap();
    }
    assert!(killed >= 5, "{killed} kills, {finished} finished, in {whole:?}");
    let output = start().wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    compare(&calm, &files(&at.join("out")));
}

fn compare(calm: &BTreeMap<String, Vec<u8>>, torn: &BTreeMap<String, Vec<u8>>) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(calm), names(torn));
    for (name, bytes) in calm {
        assert!(torn.get(name) == Some(bytes), "{name} differs");
    }
}
