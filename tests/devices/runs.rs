//! Whole runs on several ranks: the same data, the same weights, resumed on another number of ranks.

use std::path::{Path, PathBuf};

use bge_core::ErrorKind;
use bge_core::config::{CheckedConfig, FinetuneConfig, Loader, Module, RenderFormat, split_words};
use bge_core::train::{Control, TrainEvent, TrainReport, Trainer};
use bge_tests::{beir, folder_with_dropout, json, open_model, settings, train, weights};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        folder_with_dropout("bert", &root.path().join("model"));
        Self(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Settings of a run on `world` ranks that share a batch of 8.
    fn words(&self, output: &str, world: usize, more: &[&str]) -> Vec<String> {
        let line = format!(
            "--model_name_or_path {} --output_dir {} --train_data data/plain.jsonl data/one_batch.jsonl \
             --train_group_size 3 --num_train_epochs 3 --learning_rate 1e-3 --warmup_steps 2 --adam_epsilon 1e-3 \
             --temperature 0.1 --weight_decay 0.05 --logging_steps 1 --save_steps 3 --negatives_cross_device \
             --gradient_accumulation_steps 2 --nproc_per_node {world} --per_device_train_batch_size {}",
            self.path("model").display(),
            self.path(output).display(),
            8 / world
        );
        line.split_whitespace()
            .chain(more.iter().copied())
            .map(str::to_owned)
            .collect()
    }

    fn train(&self, output: &str, world: usize, more: &[&str]) -> TrainReport {
        train(&self.words(output, world, more))
    }
}

fn bytes(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).unwrap()
}

/// The largest distance of two models' tensors, relative to their lengths.
fn distance(a: &Path, b: &Path) -> f64 {
    let (a, b) = (weights(&open_model(a)), weights(&open_model(b)));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let of = |(name, a): (&String, &Vec<f32>)| {
        let apart = norm(&mut a.iter().zip(&b[name]).map(|(a, b)| f64::from(a - b)));
        apart / norm(&mut a.iter().map(|x| f64::from(*x))).max(1e-3)
    };
    a.iter().map(of).fold(0.0, f64::max)
}

fn losses(folder: &Path) -> Vec<f64> {
    let state = json(&folder.join("trainer_state.json"));
    let log = state["log_history"].as_array().unwrap();
    log.iter().filter_map(|entry| entry["loss"].as_f64()).collect()
}

#[test]
fn a_run_on_two_or_four_ranks_is_that_of_one() {
    let place = Place::new();
    for mode in [&[][..], &["--same_dataset_within_batch", "--sub_batch_size", "5"]] {
        let name = |world: usize| format!("{}-{world}", mode.len());
        place.train(&name(1), 1, mode);
        let one = place.path(&name(1));
        for world in [2, 4] {
            let report = place.train(&name(world), world, mode);
            let several = place.path(&name(world));
            let apart = distance(&one, &several);
            assert!(apart < 1e-6, "{world} ranks: {apart:.2e}");
            let (a, b) = (losses(&one), losses(&several));
            assert_eq!(a.len(), report.state.max_steps);
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
            // Twice the same bytes, whichever rank was faster.
            let again = format!("{}-again", name(world));
            place.train(&again, world, mode);
            for file in ["model.safetensors", "checkpoint-3/optimizer.safetensors"] {
                assert!(
                    bytes(&several, file) == bytes(&place.path(&again), file),
                    "{file} of two runs differ"
                );
            }
        }
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let place = Place::new();
    place.train("straight", 2, &[]);
    let checkpoint = place.path("straight/checkpoint-3").display().to_string();
    for world in [1, 2, 4] {
        let output = format!("resumed-{world}");
        place.train(&output, world, &["--resume_from_checkpoint", &checkpoint]);
        let (straight, resumed) = (place.path("straight"), place.path(&output));
        if world == 2 {
            assert!(bytes(&straight, "model.safetensors") == bytes(&resumed, "model.safetensors"));
        }
        let apart = distance(&straight, &resumed);
        assert!(apart < 1e-6, "{world} ranks: {apart:.2e}");
        assert_eq!(losses(&straight).len(), losses(&resumed).len());
    }
    // Another global batch is another order.
    let words = place.words(
        "refused",
        2,
        &[
            "--resume_from_checkpoint",
            &checkpoint,
            "--per_device_train_batch_size",
            "8",
        ],
    );
    let error = Trainer::new(settings(&words)).unwrap_err();
    assert!(error.message().contains("other data or batches"), "{error}");
}

#[test]
fn rank_0_alone_speaks_evaluates_and_stops() {
    let place = Place::new();
    beir(&place.path("beir"));
    let beir = place.path("beir").display().to_string();
    let more = [
        "--eval_dataset",
        &beir,
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "2",
    ];
    let mut trainer = Trainer::new(settings(&place.words("out", 2, &more))).unwrap();
    let (mut steps, mut evaluations) = (Vec::new(), 0);
    let thread = std::thread::current().id();
    let mut hear = |event: &TrainEvent<'_>| {
        assert_eq!(std::thread::current().id(), thread);
        match event {
            TrainEvent::Step { state, .. } => steps.push(state.global_step),
            TrainEvent::Evaluated { .. } => evaluations += 1,
            _ => {}
        }
        if steps.len() == 4 {
            Control::Stop
        } else {
            Control::Continue
        }
    };
    let report = trainer.run(&mut [&mut hear]).unwrap();
    assert!(report.stopped);
    assert_eq!((steps, evaluations), (vec![1, 2, 3, 4], 2));
    assert!(place.path("out/checkpoint-4/optimizer.safetensors").exists());
    // The same trainer goes on where it stopped.
    assert!(!trainer.run(&mut []).unwrap().stopped);
    place.train("straight", 2, &more);
    assert!(
        bytes(&place.path("out"), "model.safetensors") == bytes(&place.path("straight"), "model.safetensors")
    );
}

#[test]
fn a_loss_that_is_not_finite_names_the_lines_of_all_ranks() {
    let place = Place::new();
    let more = [
        "--learning_rate",
        "1e30",
        "--warmup_steps",
        "0",
        "--temperature",
        "1e-30",
    ];
    let mut trainer = Trainer::new(settings(&place.words("out", 2, &more))).unwrap();
    let error = trainer.run(&mut []).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFinite);
    let text = error.to_string();
    // The second update of an epoch of 30 rows has the batches of 8 and 6.
    assert_eq!(text.matches(".jsonl:").count(), 14, "{text}");
}

#[test]
fn ranks_are_a_setting() {
    let config = |flags: &str| -> Result<CheckedConfig, Vec<bge_core::Issue>> {
        let words: Vec<&str> = "--model_name_or_path m --train_data d --output_dir o"
            .split(' ')
            .chain(flags.split_whitespace())
            .collect();
        let parsed = FinetuneConfig::from_flags(&words).unwrap_or_else(|issues| panic!("{issues:?}"));
        parsed.arguments.check_for(Module::EncoderOnlyBase)
    };
    for (flags, world) in [
        ("", 1),
        ("--devices cpu", 1),
        ("--devices cpu cpu cpu", 3),
        ("--nproc_per_node 4", 4),
        ("--nproc_per_node 4 --devices cpu", 4),
        ("--nproc_per_node 2 --devices cpu cpu", 2),
    ] {
        assert_eq!(config(flags).unwrap().training.world_size(), world, "{flags}");
    }
    for (flags, field) in [
        ("--nproc_per_node 0", "nproc_per_node"),
        ("--nproc_per_node 2 --devices cpu cpu cpu", "nproc_per_node"),
        ("--nproc_per_node 100000", "nproc_per_node"),
        ("--ddp_timeout 0", "ddp_timeout"),
        ("--devices cpu cuda:0", "devices"),
    ] {
        let issues = config(flags).unwrap_err();
        assert_eq!(issues[0].field.as_deref(), Some(field), "{flags}: {issues:?}");
    }
}

#[test]
fn what_ranks_cannot_do_is_refused_by_name() {
    let check = |flags: &str| {
        let words =
            format!("--model_name_or_path m --train_data d --output_dir o --unified_finetuning {flags}");
        let parsed = Loader::<FinetuneConfig>::for_module(Module::EncoderOnlyM3)
            .flags(&split_words(&words).unwrap())
            .finish()
            .unwrap();
        parsed.arguments.check_for(Module::EncoderOnlyM3)
    };
    check("--negatives_cross_device --nproc_per_node 2").unwrap();
    let issues = check("--use_mrl --mrl_dims 8 --nproc_per_node 2").unwrap_err();
    assert_eq!(issues[0].field.as_deref(), Some("use_mrl"), "{issues:?}");
}

#[test]
fn ranks_are_written_and_read_again() {
    let words = "--model_name_or_path m --train_data d --output_dir o --nproc_per_node 3 --ddp_timeout 60";
    let config = FinetuneConfig::from_flags(&split_words(words).unwrap())
        .unwrap()
        .arguments;
    let upstream = config.render(RenderFormat::FlagEmbedding, Module::EncoderOnlyBase);
    assert!(upstream.starts_with("torchrun --nproc_per_node 3"), "{upstream}");
    assert_eq!(upstream.matches("nproc_per_node").count(), 1, "{upstream}");
    let toml = config.render(RenderFormat::Toml, Module::EncoderOnlyBase);
    for line in ["nproc_per_node = 3", "ddp_timeout = 60"] {
        assert!(toml.lines().any(|found| found == line), "{toml}");
    }
}

#[test]
fn stages_write_the_same_checkpoint_and_go_on_from_each_other() {
    let place = Place::new();
    let one = ["--gradient_accumulation_steps", "1", "--save_steps", "5"];
    let staged = |stage: &'static str| [&one[..], &["--zero_stage", stage]].concat();
    // The bytes do not say who held what.
    for world in [2, 4] {
        place.train(&format!("{world}-0"), world, &staged("0"));
        for stage in ["1", "2", "3"] {
            let name = format!("{world}-{stage}");
            place.train(&name, world, &staged(stage));
            let (zero, other) = (place.path(&format!("{world}-0")), place.path(&name));
            for file in [
                "model.safetensors",
                "checkpoint-5/model.safetensors",
                "checkpoint-5/optimizer.safetensors",
                "checkpoint-5/trainer_state.json",
            ] {
                assert!(
                    bytes(&zero, file) == bytes(&other, file),
                    "{file}: {world} ranks, stage {stage}"
                );
            }
        }
    }
    // From any to any.
    let straight = place.path("2-0");
    for (from, world, stage) in [
        ("2-3", 2, "0"),
        ("2-0", 2, "3"),
        ("2-1", 2, "2"),
        ("4-2", 1, "0"),
        ("2-3", 4, "1"),
    ] {
        let output = format!("{from}-to-{world}-{stage}");
        let checkpoint = place.path(from).join("checkpoint-5").display().to_string();
        let more = [&staged(stage)[..], &["--resume_from_checkpoint", &checkpoint]].concat();
        place.train(&output, world, &more);
        let resumed = place.path(&output);
        if world == 2 {
            assert!(
                bytes(&straight, "model.safetensors") == bytes(&resumed, "model.safetensors"),
                "{output}"
            );
        }
        let apart = distance(&straight, &resumed);
        assert!(apart < 1e-6, "{output}: {apart:.2e}");
    }
}

#[test]
fn shared_out_weights_are_evaluated_and_the_best_are_kept() {
    let place = Place::new();
    beir(&place.path("beir"));
    let beir = place.path("beir").display().to_string();
    let more = |stage: &'static str| {
        let line =
            "--eval_strategy steps --eval_steps 3 --eval_on_start --load_best_model_at_end --zero_stage";
        let words = line.split(' ').chain([stage]).map(str::to_owned);
        words
            .chain(["--eval_dataset".to_owned(), beir.clone()])
            .collect::<Vec<_>>()
    };
    let run = |output: &str, stage: &'static str| {
        let words = more(stage);
        place.train(output, 2, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (zero, three) = (run("zero", "0"), run("three", "3"));
    assert_eq!(zero.state.best_global_step, three.state.best_global_step);
    assert!((zero.state.best_metric.unwrap() - three.state.best_metric.unwrap()).abs() < 1e-9);
    let best = place
        .path("three")
        .join(format!("checkpoint-{}", three.state.best_global_step.unwrap()));
    assert!(bytes(&best, "model.safetensors") == bytes(&place.path("three"), "model.safetensors"));
    assert!(distance(&place.path("zero"), &place.path("three")) < 1e-6);
}

#[test]
fn a_rank_that_fails_in_the_middle_of_a_run_leaves_a_checkpoint_to_go_on_from() {
    let place = Place::new();
    let fixture = bge_tests::fixture("parity/data/plain.jsonl");
    let data = place.path("mine.jsonl");
    let sound = std::fs::read(&fixture).unwrap();
    for stage in ["0", "1", "2", "3"] {
        std::fs::write(&data, &sound).unwrap();
        let data = data.display().to_string();
        let more = [
            "--train_data",
            &data,
            "--zero_stage",
            stage,
            "--gradient_accumulation_steps",
            "1",
        ];
        let (straight, broken) = (format!("straight-{stage}"), format!("broken-{stage}"));
        place.train(&straight, 2, &more);

        // After the first checkpoint every row from the third on turns into something else, in place.
        let mut trainer = Trainer::new(settings(&place.words(&broken, 2, &more))).unwrap();
        let mut breaks = |event: &TrainEvent<'_>| {
            if let TrainEvent::Saved(_) = event {
                let mut file = std::fs::OpenOptions::new().write(true).open(&data).unwrap();
                let ends: Vec<usize> = (0..sound.len()).filter(|&at| sound[at] == b'\n').collect();
                for end in ends.iter().skip(2) {
                    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(*end as u64 - 1)).unwrap();
                    std::io::Write::write_all(&mut file, b"!").unwrap();
                }
            }
            Control::Continue
        };
        let started = std::time::Instant::now();
        let error = trainer.run(&mut [&mut breaks]).unwrap_err();
        assert!(started.elapsed() < super::LIMIT / 10);
        assert!(error.to_string().contains("mine.jsonl"), "{error}");
        assert!(!place.path(&broken).join("model.safetensors").exists());
        drop(trainer);

        std::fs::write(&data, &sound).unwrap();
        let resumed = [&more[..], &["--resume_from_checkpoint", "True"]].concat();
        place.train(&broken, 2, &resumed);
        let (straight, broken) = (place.path(&straight), place.path(&broken));
        assert!(
            bytes(&straight, "model.safetensors") == bytes(&broken, "model.safetensors"),
            "stage {stage}"
        );
    }
}
