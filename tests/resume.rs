//! Stopping and going on: a resumed run is the uninterrupted one, bit for bit, or it is refused.

use std::fs;
use std::path::{Path, PathBuf};

use bge_core::train::{Callback, Control, Stopper, TrainEvent, Trainer};
use bge_core::{Error, ErrorKind};
use bge_tests::{copy, folder_with_dropout, json, settings, train};

struct Place {
    root: tempfile::TempDir,
    more: Vec<String>,
}

impl Place {
    fn new(model: &str, more: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        folder_with_dropout(model, &root.path().join("model"));
        Self {
            root,
            more: more.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Eight steps with a log and a checkpoint each, written to `output`.
    fn words(&self, output: &str, more: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = [
            "--model_name_or_path",
            &self.path("model").display().to_string(),
            "--output_dir",
            &self.path(output).display().to_string(),
            "--train_group_size",
            "3",
            "--max_steps",
            "8",
            "--learning_rate",
            "1e-3",
            "--warmup_steps",
            "2",
            "--weight_decay",
            "0.05",
            "--logging_steps",
            "3",
            "--save_steps",
            "1",
        ]
        .iter()
        .map(|&word| word.to_owned())
        .collect();
        words.extend(self.more.iter().cloned());
        words.extend(more.iter().map(|&word| word.to_owned()));
        words
    }

    fn train(&self, output: &str, more: &[&str]) {
        train(&self.words(output, more));
    }

    fn refuses(&self, checkpoint: &Path, more: &[&str]) -> Error {
        let mut words = vec![
            "--resume_from_checkpoint".to_owned(),
            checkpoint.display().to_string(),
        ];
        words.extend(more.iter().map(|&word| word.to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Trainer::new(settings(&self.words("refused", &words))).unwrap_err()
    }
}

/// Both outputs hold the same files with the same bytes, but for the paths of the runs themselves.
fn assert_same(a: &Path, b: &Path) {
    for file in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "modules.json",
        "trainer_state.json",
        "1_Pooling/config.json",
    ] {
        let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
        assert!(
            read(a) == read(b),
            "{file} of {} and {} differ",
            a.display(),
            b.display()
        );
    }
    for file in [
        "checkpoint-8/optimizer.safetensors",
        "checkpoint-8/model.safetensors",
        "checkpoint-8/trainer_state.json",
    ] {
        let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
        assert!(
            read(a) == read(b),
            "{file} of {} and {} differ",
            a.display(),
            b.display()
        );
    }
}

const PLAIN: &[&str] = &[
    "--train_data",
    "data/plain.jsonl",
    "--per_device_train_batch_size",
    "8",
];

#[test]
fn a_run_resumed_before_at_and_after_an_epoch_ends_as_the_straight_one() {
    let cases: [(&str, &[&str]); 4] = [
        ("bert", PLAIN), // 3 steps an epoch
        (
            "xlmr",
            &[
                "--train_data",
                "data/foreign.jsonl",
                "--per_device_train_batch_size",
                "4",
                "--gradient_accumulation_steps",
                "2",
                "--sub_batch_size",
                "5",
            ],
        ),
        (
            "bert",
            &[
                "--train_data",
                "data/scored.jsonl",
                "--knowledge_distillation",
                "True",
                "--per_device_train_batch_size",
                "8",
                "--gradient_accumulation_steps",
                "2",
            ],
        ),
        (
            "bert",
            &[
                "--train_data",
                "data/mixed",
                "data/classes-no_in_batch_neg",
                "--same_dataset_within_batch",
                "--per_device_train_batch_size",
                "8",
                "--shuffle_ratio",
                "0.5",
            ],
        ),
    ];
    for (model, more) in cases {
        let place = Place::new(model, more);
        place.train("straight", &[]);
        for step in [2, 3, 4, 7] {
            let output = format!("resumed-{step}");
            let checkpoint = place.path("straight").join(format!("checkpoint-{step}"));
            place.train(
                &output,
                &["--resume_from_checkpoint", &checkpoint.display().to_string()],
            );
            assert_same(&place.path("straight"), &place.path(&output));
        }
    }
}

#[test]
fn a_stopped_run_writes_a_checkpoint_at_once_and_goes_on_as_if_nothing_was() {
    let place = Place::new("bert", PLAIN);
    place.train("straight", &[]);
    for by_callback in [false, true] {
        let output = format!("stopped-{by_callback}");
        let mut trainer = Trainer::new(settings(&place.words(&output, &["--save_strategy", "no"]))).unwrap();
        let stopper: Stopper = trainer.stopper();
        let mut seen = Vec::new();
        let mut stop_after_4 = |event: &TrainEvent<'_>| {
            if let TrainEvent::Step { state, .. } = event {
                seen.push(state.global_step);
                if state.global_step == 4 {
                    if by_callback {
                        return Control::Stop;
                    }
                    stopper.stop();
                }
            }
            Control::Continue
        };
        let callbacks: &mut [&mut dyn Callback] = &mut [&mut stop_after_4];
        let report = trainer.run(callbacks).unwrap();
        assert_eq!(seen, [1, 2, 3, 4]);
        assert!(report.stopped);
        assert_eq!(report.folder, place.path(&output).join("checkpoint-4"));
        assert!(!place.path(&output).join("model.safetensors").exists());
        place.train(&output, &["--resume_from_checkpoint", "True"]);
        assert_same(&place.path("straight"), &place.path(&output));
    }
}

#[test]
fn a_run_stopped_before_its_first_step_begins_anew_from_its_checkpoint() {
    let place = Place::new("bert", PLAIN);
    let mut trainer = Trainer::new(settings(&place.words("out", &[]))).unwrap();
    trainer.stopper().stop();
    let report = trainer.run(&mut []).unwrap();
    assert!(report.stopped && report.state.global_step == 0);
    place.train("out", &["--resume_from_checkpoint", "True"]);
    place.train("straight", &[]);
    assert_same(&place.path("straight"), &place.path("out"));
}

#[test]
fn other_data_or_batches_are_refused() {
    let place = Place::new("bert", PLAIN);
    place.train("straight", &["--max_steps", "2"]);
    let checkpoint = place.path("straight/checkpoint-1");
    for more in [
        &["--train_data", "data/sharp.jsonl"][..], // as many rows
        &["--train_data", "data/plain.jsonl", "data/sharp.jsonl"],
        &["--train_group_size", "2"],
        &["--per_device_train_batch_size", "4"],
        &["--gradient_accumulation_steps", "2"],
        &["--seed", "1"],
        &["--dataloader_drop_last", "True"],
        &["--same_dataset_within_batch", "True"],
    ] {
        let error = place.refuses(&checkpoint, more);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{more:?}: {error}");
        assert!(error.message().contains("other data"), "{error}");
        assert_eq!(error.path(), Some(checkpoint.as_path()));
    }
    assert!(!place.path("refused").exists());
}

/// A name, the damage, and what the error must say.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn a_damaged_checkpoint_is_refused_by_name() {
    let place = Place::new("bert", PLAIN);
    place.train("straight", &["--max_steps", "2"]);
    let good = place.path("straight/checkpoint-1");
    let cut = |path: PathBuf, keep: usize| {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..keep.min(bytes.len())]).unwrap();
    };
    let damages: [Damage; 9] = [
        (
            "cut-optimizer",
            &|at| cut(at.join("optimizer.safetensors"), 5000),
            "optimizer.safetensors",
        ),
        (
            "empty-optimizer",
            &|at| cut(at.join("optimizer.safetensors"), 0),
            "optimizer.safetensors",
        ),
        (
            "no-optimizer",
            &|at| fs::remove_file(at.join("optimizer.safetensors")).unwrap(),
            "no optimizer.safetensors",
        ),
        (
            "pickle",
            &|at| fs::rename(at.join("optimizer.safetensors"), at.join("optimizer.pt")).unwrap(),
            "pickle",
        ),
        (
            "no-state",
            &|at| fs::remove_file(at.join("trainer_state.json")).unwrap(),
            "no trainer_state.json",
        ),
        (
            "cut-state",
            &|at| cut(at.join("trainer_state.json"), 100),
            "trainer_state.json",
        ),
        (
            "cut-weights",
            &|at| cut(at.join("model.safetensors"), 9000),
            "model.safetensors",
        ),
        (
            "no-weights",
            &|at| fs::remove_file(at.join("model.safetensors")).unwrap(),
            "model.safetensors",
        ),
        (
            "other-model",
            &|at| {
                let other = bge_tests::fixture("parity/models/xlmr/model.safetensors");
                fs::copy(other, at.join("model.safetensors")).map(|_| ()).unwrap();
            },
            "other-model",
        ),
    ];
    for (name, damage, part) in damages {
        let at = place.path(name);
        copy(&good, &at);
        damage(&at);
        let error = place.refuses(&at, &[]);
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(part), "{name}: {text}");
        assert_ne!(error.kind(), ErrorKind::Internal, "{text}");
    }
    // An optimizer that belongs to other shapes.
    let other = Place::new("xlmr", PLAIN);
    other.train("straight", &["--max_steps", "2"]);
    let at = place.path("other-optimizer");
    copy(&good, &at);
    fs::copy(
        other.path("straight/checkpoint-1/optimizer.safetensors"),
        at.join("optimizer.safetensors"),
    )
    .unwrap();
    let text = place.refuses(&at, &[]).to_string();
    assert!(text.contains("optimizer.safetensors"), "{text}");
    // And things that are no checkpoint at all.
    for (path, part) in [
        (place.path("nothing"), "no such checkpoint"),
        (place.path("model"), "trainer_state.json"),
        (good.join("config.json"), "no such checkpoint folder"),
    ] {
        let text = place.refuses(&path, &[]).to_string();
        assert!(text.contains(part), "{text}");
    }
    let text = Trainer::new(settings(
        &place.words("fresh", &["--resume_from_checkpoint", "True"]),
    ))
    .unwrap_err();
    assert!(text.to_string().contains("no checkpoint-N"), "{text}");
}

#[test]
fn leftovers_of_a_killed_run_are_no_checkpoints() {
    let place = Place::new("bert", PLAIN);
    place.train("out", &["--max_steps", "2"]);
    for name in [
        "checkpoint-9.part",
        ".checkpoint-9.123.part",
        "checkpoint-x",
        "checkpoint-",
    ] {
        fs::create_dir(place.path("out").join(name)).unwrap();
    }
    fs::write(place.path("out/checkpoint-7"), "a file").unwrap();
    let trainer = Trainer::new(settings(
        &place.words("out", &["--resume_from_checkpoint", "True"]),
    ))
    .unwrap();
    assert_eq!(trainer.state().global_step, 2);
}

#[test]
fn the_log_goes_on_where_it_was() {
    let place = Place::new("bert", PLAIN);
    place.train("out", &["--max_steps", "4"]);
    place.train("out", &["--resume_from_checkpoint", "True"]);
    let state = json(&place.path("out/trainer_state.json"));
    let steps: Vec<u64> = state["log_history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [3, 6]);
    assert_eq!(state["stateful_callbacks"]["bge"]["since_log"]["steps"], 2);
}
