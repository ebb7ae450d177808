//! Which checkpoints stay, which of them becomes the model, and when a callback ends a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bge_core::config::CheckedConfig;
use bge_core::distributed::{ThreadGroup, ThreadRank};
use bge_core::train::{Control, TrainEvent, TrainReport, Trainer};
use bge_tests::{beir, folder_with_dropout, json, settings};

/// Where runs of 6 steps, 3 an epoch, are written to.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        folder_with_dropout("bert", &root.path().join("model"));
        beir(&root.path().join("eval"));
        Self(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run into `output`; `more` wins.
    fn trainer(&self, output: &Path, more: &str) -> Trainer {
        Trainer::new(self.settings(output, more)).unwrap()
    }

    fn settings(&self, output: &Path, more: &str) -> CheckedConfig {
        let line = format!(
            "--model_name_or_path {} --eval_dataset {} --output_dir {} --train_data data/plain.jsonl --train_group_size 3 \
             --per_device_train_batch_size 8 --max_steps 6 --learning_rate 1e-3 --logging_steps 3 {more}",
            self.path("model").display(),
            self.path("eval").display(),
            output.display(),
        );
        let words: Vec<&str> = line.split_whitespace().collect();
        settings(&words)
    }

    fn train(&self, output: &str, more: &str) -> (TrainReport, Vec<String>) {
        listen(self.trainer(&self.path(output), more))
    }

    fn left(&self, output: &str) -> Vec<String> {
        let names = fs::read_dir(self.path(output)).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("checkpoint") || name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    fn weights(&self, folder: &str) -> Vec<u8> {
        fs::read(self.path(folder).join("model.safetensors")).unwrap()
    }
}

/// The run's report, and the codes of its notes.
fn listen(mut trainer: Trainer) -> (TrainReport, Vec<String>) {
    let mut notes = Vec::new();
    let mut hear = |event: &TrainEvent<'_>| {
        if let TrainEvent::Note(note) = event {
            notes.push(note.code.to_owned());
        }
        Control::Continue
    };
    let report = trainer.run(&mut [&mut hear]).unwrap();
    (report, notes)
}

#[test]
fn a_run_that_overwrites_another_keeps_its_own_checkpoints_and_not_those_of_the_other() {
    let place = Place::new();
    place.train("out", "--save_steps 3");
    assert_eq!(place.left("out"), ["checkpoint-3", "checkpoint-6"]);
    let shorter = "--overwrite_output_dir --save_steps 2 --max_steps 4 --save_total_limit 1";
    place.train("out", shorter);
    assert_eq!(place.left("out"), ["checkpoint-4"]);
    // Nothing goes before there is something in its place.
    let mut other = place.trainer(
        &place.path("out"),
        "--overwrite_output_dir --save_steps 1 --max_steps 2",
    );
    assert_eq!(other.newest_checkpoint(), None);
    assert_eq!(place.left("out"), ["checkpoint-4"]);
    let mut seen = Vec::new();
    let mut hear = |event: &TrainEvent<'_>| {
        if let TrainEvent::Step { .. } = event {
            seen.push(place.left("out"));
        }
        Control::Continue
    };
    other.run(&mut [&mut hear]).unwrap();
    assert_eq!(seen, [["checkpoint-4"], ["checkpoint-1"]]);
    assert_eq!(place.left("out"), ["checkpoint-1", "checkpoint-2"]);
    // A run without checkpoints replaces them by its model.
    place.train("out", "--overwrite_output_dir --save_strategy no");
    assert!(place.left("out").is_empty());
}

#[test]
fn a_run_from_an_earlier_checkpoint_removes_the_later_ones_first_and_only_at_a_limit() {
    let place = Place::new();
    place.train("out", "--save_steps 1");
    let from_2 = format!(
        "--resume_from_checkpoint {} --save_steps 3 --max_steps 3",
        place.path("out/./checkpoint-2").display()
    );
    place.train("out", &from_2);
    assert_eq!(place.left("out").len(), 6);
    place.train("out", &format!("{from_2} --save_total_limit 3"));
    assert_eq!(
        place.left("out"),
        ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    );
}

#[test]
fn the_last_step_is_saved_whatever_the_interval() {
    let place = Place::new();
    place.train("steps", "--save_steps 4");
    assert_eq!(place.left("steps"), ["checkpoint-4", "checkpoint-6"]);
    place.train("default", "");
    assert_eq!(place.left("default"), ["checkpoint-6"]);
}

const BEST: &str =
    "--eval_strategy steps --eval_steps 2 --save_steps 2 --load_best_model_at_end --save_total_limit 1";

#[test]
fn the_model_before_the_first_step_is_evaluated_but_never_the_best() {
    let place = Place::new();
    // Training raises what is best here when it is low.
    let low = "--metric_for_best_model mrr_at_10 --greater_is_better False";
    let (report, notes) = place.train("out", &format!("{BEST} --eval_on_start {low}"));
    let state = report.state;
    let first = state.log_history.first().unwrap();
    assert_eq!(first["step"], 0);
    assert!(first["eval_mrr_at_10"].as_f64() < state.best_metric, "{first:?}");
    let best = state.best_global_step.unwrap();
    assert!(best > 0 && !notes.contains(&"training.no_best_model".to_owned()));
    assert!(place.weights("out") == place.weights(&format!("out/checkpoint-{best}")));
}

#[test]
fn the_best_checkpoint_is_found_after_its_folder_has_moved() {
    let place = Place::new();
    // The first is the best: scores that fall by any amount are better.
    let first = format!(
        "{BEST} --metric_for_best_model mrr_at_10 --greater_is_better False --early_stopping_patience 9"
    );
    place.train("out", &format!("{first} --max_steps 4"));
    let best = json(&place.path("out/trainer_state.json"))["best_global_step"].clone();
    fs::rename(place.path("out"), place.path("moved")).unwrap();
    let (report, notes) = place.train(
        "moved/../moved",
        &format!("{first} --resume_from_checkpoint True"),
    );
    assert!(!notes.contains(&"training.no_best_model".to_owned()));
    let left = place.left("moved");
    let now = report.state.best_global_step.unwrap();
    assert!(
        left.contains(&format!("checkpoint-{now}")),
        "{left:?}, best {best}"
    );
    assert!(place.weights("moved") == place.weights(&format!("moved/checkpoint-{now}")));
}

#[test]
fn a_best_checkpoint_that_is_gone_costs_a_warning_and_not_the_run() {
    let place = Place::new();
    let lower = format!("{BEST} --metric_for_best_model mrr_at_10 --greater_is_better False");
    place.train("out", &format!("{lower} --max_steps 4 --save_total_limit 5"));
    let state = place.path("out/checkpoint-4/trainer_state.json");
    let mut text = json(&state);
    text["best_metric"] = (-1.0).into();
    text["best_model_checkpoint"] = "elsewhere/checkpoint-9".into();
    fs::write(&state, text.to_string()).unwrap();
    let (report, notes) = place.train("out", &format!("{lower} --resume_from_checkpoint True"));
    assert!(!report.stopped);
    assert!(notes.contains(&"training.no_best_model".to_owned()), "{notes:?}");
    assert!(place.weights("out") == place.weights("out/checkpoint-6"));
}

#[test]
fn a_callback_ends_the_run_at_any_event_and_a_saved_step_is_not_saved_again() {
    let place = Place::new();
    let flags = "--eval_strategy steps --eval_steps 2 --save_steps 2 --logging_steps 1";
    type Is = fn(&TrainEvent<'_>) -> bool;
    let cases: [(&str, Is, usize); 5] = [
        ("begin", |event| matches!(event, TrainEvent::Begin(_)), 0),
        ("step", |event| matches!(event, TrainEvent::Step { .. }), 1),
        ("log", |event| matches!(event, TrainEvent::Log(_)), 1),
        (
            "evaluated",
            |event| matches!(event, TrainEvent::Evaluated { .. }),
            2,
        ),
        ("saved", |event| matches!(event, TrainEvent::Saved(_)), 2),
    ];
    for (name, is, step) in cases {
        let mut trainer = place.trainer(&place.path(name), flags);
        let mut saved = 0;
        let mut hear = |event: &TrainEvent<'_>| {
            saved += u32::from(matches!(event, TrainEvent::Saved(_)));
            if is(event) {
                Control::Stop
            } else {
                Control::Continue
            }
        };
        let report = trainer.run(&mut [&mut hear]).unwrap();
        assert!(report.stopped, "{name}");
        assert_eq!((report.state.global_step, saved), (step, 1), "{name}");
        assert_eq!(report.folder, place.path(name).join(format!("checkpoint-{step}")));
    }
}

#[test]
fn all_ranks_know_whether_the_run_was_stopped_or_ended_early() {
    let place = Place::new();
    let flags = format!("{BEST} --early_stopping_patience 1 --early_stopping_threshold 2 --nproc_per_node 2");
    for (name, stop_at, ended_at) in [("early", 9, 4), ("stopped", 3, 3)] {
        let settings = place.settings(&place.path(name), &flags);
        let lines = ThreadGroup::create(2, Duration::from_mins(1)).unwrap();
        let reports: Vec<TrainReport> = std::thread::scope(|scope| {
            let run = |line: ThreadRank| {
                let mut trainer = Trainer::of_rank(settings.clone(), Arc::new(line)).unwrap();
                let mut stop = |event: &TrainEvent<'_>| match event {
                    TrainEvent::Step { state, .. } if state.global_step == stop_at => Control::Stop,
                    _ => Control::Continue,
                };
                trainer.run(&mut [&mut stop]).unwrap()
            };
            let running: Vec<_> = lines
                .into_iter()
                .map(|line| scope.spawn(move || run(line)))
                .collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for report in reports {
            assert_eq!(
                (report.state.global_step, report.stopped),
                (ended_at, name == "stopped")
            );
        }
    }
}

#[test]
fn what_a_killed_run_left_is_cleared_up_and_a_checkpoint_that_was_being_replaced_comes_back() {
    let place = Place::new();
    place.train("out", "--save_steps 3");
    let path = |name: &str| place.path("out").join(name);
    fs::create_dir(path(".checkpoint-9.123.part")).unwrap();
    fs::create_dir(path(".final.123.part")).unwrap();
    fs::create_dir(path(".mine.part")).unwrap();
    fs::rename(path("checkpoint-3"), path(".checkpoint-3.77.old")).unwrap();
    place.train("out", "--save_steps 6 --resume_from_checkpoint True");
    assert_eq!(place.left("out"), [".mine.part", "checkpoint-3", "checkpoint-6"]);
}
