//! The pipeline, stage by stage: what runs, what is skipped, and what an interrupted run leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bge_core::config::{PipelineConfig, STAGES};
use bge_core::pipeline::{Audience, PipelineEvent, PipelineReport, run};
use bge_core::train::{Callback, Control, Stopper, TrainEvent};
use bge_core::{ErrorKind, Result};
use bge_tests::{beir, copy, fixture};

/// A folder with a model, rows, a teacher to start from and a BEIR folder.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copy(&fixture("parity/models/bert"), &at.join("base"));
    fs::copy(fixture("parity/data/plain.jsonl"), at.join("train.jsonl")).unwrap();
    beir(&at.join("eval"));
    folder
}

/// All seven stages, short.
fn settings(at: &Path) -> String {
    let path = |name: &str| at.join(name).display().to_string();
    format!(
        r#"
model_name_or_path = "{base}"
train_data = "{train}"
eval_dataset = "{eval}"
output_dir = "{out}"
query_max_len = 24
passage_max_len = 32
sentence_pooling_method = "mean"
seed = 7

[validate]
train_group_size = 2
[mine]
range_for_sampling = "1-30"
negative_number = 3
ledger = "{ledger}"
[finetune_reranker]
train_group_size = 3
max_steps = 3
per_device_train_batch_size = 4
[score]
[finetune]
train_group_size = 3
max_steps = 6
per_device_train_batch_size = 4
save_steps = 2
learning_rate = 1e-3
[merge]
weights = [0.25, 0.75]
[evaluate]
"#,
        base = path("base"),
        train = path("train.jsonl"),
        eval = path("eval"),
        out = path("out"),
        ledger = path("out/ledger.jsonl"),
    )
}

/// Stops a training after some steps.
struct StopAfter(usize);

impl Callback for StopAfter {
    fn on_event(&mut self, event: &TrainEvent<'_>) -> Control {
        match event {
            TrainEvent::Step { state, .. } if state.global_step >= self.0 => Control::Stop,
            _ => Control::Continue,
        }
    }
}

/// Runs a pipeline: its report, and which stages were skipped.
fn go(text: &str, training: &mut dyn Callback) -> (Result<PipelineReport>, Vec<&'static str>) {
    let config = PipelineConfig::parse("pipeline.toml", text).unwrap_or_else(|issues| panic!("{issues:?}"));
    let mut skipped = Vec::new();
    let mut listener = |event: PipelineEvent<'_>| {
        if let PipelineEvent::Skipped { stage, .. } = event {
            skipped.push(stage);
        }
    };
    let mut audience = Audience {
        listener: &mut listener,
        training,
        stopper: Stopper::default(),
    };
    let report = run(&config, &mut audience);
    (report, skipped)
}

/// Every file under a folder with its bytes; checkpoints are on the way, not part of the result.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_path_buf();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_pipeline_runs_all_stages_and_a_second_run_skips_them_all() {
    let folder = place();
    let text = settings(folder.path());
    let (report, skipped) = go(&text, &mut StopAfter(usize::MAX));
    let report = report.unwrap();
    assert_eq!(skipped, [""; 0]);
    let names: Vec<&str> = report.stages.iter().map(|stage| stage.stage.as_str()).collect();
    assert_eq!(names, STAGES);
    let out = folder.path().join("out");
    for name in [
        "validation.json",
        "mined.jsonl",
        "ledger.jsonl",
        "reranker/model.safetensors",
        "scored.jsonl",
        "model/model.safetensors",
        "merged/merge.json",
        "report.html",
        "evaluation.json",
    ] {
        assert!(out.join(name).exists(), "{name}");
    }
    let scored = fs::read_to_string(out.join("scored.jsonl")).unwrap();
    assert!(scored.lines().all(|line| line.contains("\"neg_scores\": [")));
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for stage in ["stage mine", "stage score", "stage finetune", "stage merge"] {
        assert!(page.contains(stage), "{stage}");
    }
    let first = files(&out);
    let (second, skipped) = go(&text, &mut StopAfter(usize::MAX));
    assert_eq!(skipped, STAGES);
    assert_eq!(second.unwrap(), report);
    assert!(files(&out) == first, "a run of nothing changed something");
}

#[test]
fn only_what_depends_on_a_change_runs_again() {
    let folder = place();
    let text = settings(folder.path());
    go(&text, &mut StopAfter(usize::MAX)).0.unwrap();
    let (_, skipped) = go(
        &text.replace("[0.25, 0.75]", "[0.5, 0.5]"),
        &mut StopAfter(usize::MAX),
    );
    assert_eq!(
        skipped,
        ["validate", "mine", "finetune_reranker", "score", "finetune"]
    );
    // A damaged output is made again, and the same, so that nothing behind it is.
    let mined = folder.path().join("out/mined.jsonl");
    let whole = fs::read(&mined).unwrap();
    fs::write(&mined, &whole[..whole.len() / 2]).unwrap();
    let (report, skipped) = go(&text, &mut StopAfter(usize::MAX));
    report.unwrap();
    assert_eq!(skipped, ["validate", "finetune_reranker", "score", "finetune"]);
    assert!(fs::read(&mined).unwrap() == whole);
}

#[test]
fn an_interrupted_pipeline_ends_with_the_bytes_of_an_undisturbed_one() {
    let (calm, torn) = (place(), place());
    let disturbed = settings(torn.path());
    go(&settings(calm.path()), &mut StopAfter(usize::MAX)).0.unwrap();
    // Stops the teacher's training once, then the student's at the third step, behind a checkpoint.
    for steps in [1, 3] {
        let error = go(&disturbed, &mut StopAfter(steps)).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    }
    // What a kill leaves behind is swept up.
    fs::write(torn.path().join("out/.scored.jsonl.1234.part"), "half a line").unwrap();
    fs::create_dir_all(torn.path().join("out/model/.checkpoint-4.1234.part")).unwrap();
    go(&disturbed, &mut StopAfter(usize::MAX)).0.unwrap();
    for name in [
        "mined.jsonl",
        "scored.jsonl",
        "model/model.safetensors",
        "merged/model.safetensors",
    ] {
        let read = |root: &tempfile::TempDir| fs::read(root.path().join("out").join(name)).unwrap();
        assert!(read(&calm) == read(&torn), "{name}");
    }
    assert!(!torn.path().join("out/.scored.jsonl.1234.part").exists());
    assert!(!torn.path().join("out/model/.checkpoint-4.1234.part").exists());
}

#[test]
fn mistakes_in_any_section_show_before_the_first_stage_runs() {
    let folder = place();
    let good = settings(folder.path());
    let cases = [
        (
            "[merge]\n",
            "[merge]\nwieghts = [1, 2]\n",
            "merge.wieghts",
            "weights",
        ),
        ("[0.25, 0.75]", "[0.25, 0.25]", "merge.weights", "sum to 0.5"),
        ("\"1-30\"", "\"30-1\"", "mine.range_for_sampling", "range"),
        ("[score]", "[scoer]", "", "not a stage"),
        ("seed = 7", "seed = \"x\"", "seed", "whole number"),
        (
            "max_steps = 6",
            "max_steps = \"many\"",
            "finetune.max_steps",
            "whole number",
        ),
        (
            "sentence_pooling_method = \"mean\"",
            "sentence_pooling_method = \"max\"",
            "sentence_pooling_method",
            "max",
        ),
    ];
    for (from, to, field, says) in cases {
        assert!(good.contains(from), "{from}");
        let issues = PipelineConfig::parse("p.toml", &good.replacen(from, to, 1)).unwrap_err();
        let issue = &issues[0];
        assert_eq!(issue.path.as_deref(), Some("p.toml"), "{issue}");
        assert!(
            issue.to_string().contains(says) && issue.to_string().contains(field),
            "{issue}"
        );
    }
    let empty = PipelineConfig::parse("p.toml", "").unwrap_err();
    assert!(
        empty
            .iter()
            .any(|issue| issue.to_string().contains("[validate], [mine]")),
        "{empty:?}"
    );
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_folder_that_no_pipeline_made_is_not_written_over() {
    let folder = place();
    let foreign = folder.path().join("out/model");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "the only copy").unwrap();
    let text = settings(folder.path());
    let error = go(&text, &mut StopAfter(usize::MAX)).0.unwrap_err();
    assert!(error.to_string().contains("no pipeline made it"), "{error}");
    assert_eq!(
        fs::read_to_string(foreign.join("thesis.txt")).unwrap(),
        "the only copy"
    );
}
