//! The training step and the run around it: sub-batches, accumulation, limits, logs, evaluations, checkpoints.

use std::fs;
use std::path::Path;

use bge_core::ErrorKind;
use bge_core::config::{FinetuneConfig, TrainingArguments};
use bge_core::train::{StepReport, Stepper, TrainBatch, Trainer};
use bge_tests::{
    beir, bits, copy, fixture, folder_with_dropout, json, network, random_batch, settings, train, weights,
};
use serde_json::Value;

fn arguments(change: impl FnOnce(&mut TrainingArguments)) -> TrainingArguments {
    let mut arguments = FinetuneConfig::default().training;
    arguments.learning_rate = 1e-3;
    change(&mut arguments);
    arguments
}

fn close(what: &str, got: f64, want: f64, relative: f64) {
    assert!(
        (got - want).abs() <= relative * want.abs().max(1e-9),
        "{what}: {got}, not {want}"
    );
}

fn step(name: &str, arguments: &TrainingArguments, batches: &[TrainBatch]) -> (StepReport, Stepper) {
    let mut stepper = Stepper::new(network(name, 0.1), arguments, 10).unwrap();
    (stepper.step(batches).unwrap(), stepper)
}

/// Largest distance of two models' weights; key biases left out, whose gradient is rounding noise.
fn distance(a: &Stepper, b: &Stepper) -> f32 {
    let (a, b) = (weights(a.model()), weights(b.model()));
    a.iter()
        .filter(|(name, _)| !name.ends_with("key.bias"))
        .map(|(name, values)| bge_tests::largest_difference(values, &b[name]))
        .fold(0.0, f32::max)
}

#[test]
fn sub_batches_of_any_size_give_the_step_of_the_whole_batch_with_dropout_on() {
    for name in ["bert", "xlmr"] {
        let vocab = network(name, 0.0).config().vocab_size;
        let batch = [random_batch(vocab, 5, 3, 1)];
        let whole = arguments(|_| {});
        let (want, model) = step(name, &whole, &batch);
        for size in [1, 3, 7, 20, 1000] {
            let (got, other) = step(name, &arguments(|a| a.sub_batch_size = Some(size)), &batch);
            assert_eq!(
                got.loss, want.loss,
                "{name}, {size}: a vector depends on its sub-batch"
            );
            assert_eq!(got.tokens, want.tokens);
            close("grad_norm", got.grad_norm, want.grad_norm, 1e-5);
            // Adam's first step is the sign of the gradient: only gradients near 0 may move otherwise.
            let moments = model.optimizer().state_tensors();
            for (key, values) in other.optimizer().state_tensors() {
                if !key.ends_with("key.bias") {
                    let size = values.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
                    let difference = bge_tests::largest_difference(values, moments[&key]);
                    assert!(difference <= 2e-5 * size, "{name}, {key}: {difference} of {size}");
                }
            }
        }
        let recomputed = arguments(|a| a.gradient_checkpointing = true);
        let (got, other) = step(name, &recomputed, &batch);
        assert_eq!(got, want);
        assert!(
            bits(other.model()) == bits(model.model()),
            "recomputation changes bits"
        );
    }
}

#[test]
fn micro_batches_add_up_to_the_mean_of_their_losses_and_gradients() {
    let vocab = network("bert", 0.0).config().vocab_size;
    let part = random_batch(vocab, 4, 2, 3);
    let still = arguments(|a| a.max_grad_norm = 0.0);
    let run = |batches: &[TrainBatch]| {
        let mut stepper = Stepper::new(network("bert", 0.0), &still, 5).unwrap();
        (stepper.step(batches).unwrap(), stepper)
    };
    let (one, model) = run(std::slice::from_ref(&part));
    let (three, other) = run(&[part.clone(), part.clone(), part.clone()]);
    close("loss", three.loss, one.loss, 1e-6);
    close("grad_norm", three.grad_norm, one.grad_norm, 1e-5);
    assert_eq!(three.tokens, 3 * one.tokens);
    assert!(distance(&model, &other) < 1e-5);
    // Two different ones: the mean of both losses, and a norm that no single one has.
    let second = random_batch(vocab, 4, 2, 4);
    let (two, _) = run(std::slice::from_ref(&second));
    let (both, _) = run(&[part, second]);
    close("loss", both.loss, f64::midpoint(one.loss, two.loss), 1e-6);
    assert!(both.grad_norm < f64::midpoint(one.grad_norm, two.grad_norm));
    // With dropout each micro-batch draws its own masks.
    let part = random_batch(vocab, 4, 2, 3);
    let (once, _) = step("bert", &still, std::slice::from_ref(&part));
    let (twice, _) = step("bert", &still, &[part.clone(), part]);
    assert!((once.loss - twice.loss).abs() > 1e-6);
}

#[test]
fn a_run_that_would_change_the_models_own_pooling_says_so_first() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy(&fixture("parity/models/bert"), &model);
    let said = |more: &[&str]| {
        let (model, output) = (model.display().to_string(), folder.path().join("out"));
        let output = output.display().to_string();
        let words = ["--model_name_or_path", &model, "--output_dir", &output];
        let words = [&words, &["--train_data", "data/plain.jsonl"][..], more].concat();
        let trainer = Trainer::new(settings(&words)).unwrap();
        let notes = trainer
            .notes()
            .iter()
            .filter(|note| note.code == "training.pooling");
        notes.map(|note| note.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(said(&[]), [""; 0], "the folder says nothing");
    fs::create_dir(model.join("1_Pooling")).unwrap();
    fs::write(model.join("1_Pooling/config.json"), r#"{"pooling_mode": "mean"}"#).unwrap();
    let modules = r#"[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]"#;
    fs::write(model.join("modules.json"), modules).unwrap();
    let by_default = said(&[]);
    assert_eq!(by_default.len(), 1);
    assert!(by_default[0].contains("says mean"), "{by_default:?}");
    assert!(
        by_default[0].ends_with("--sentence_pooling_method mean"),
        "{by_default:?}"
    );
    assert_eq!(said(&["--sentence_pooling_method", "cls"]), by_default);
    assert_eq!(said(&["--sentence_pooling_method", "mean"]), [""; 0]);
}

#[test]
fn a_tiny_encoder_learns_sixteen_records_by_heart() {
    for name in ["bert", "xlmr"] {
        let vocab = network(name, 0.0).config().vocab_size;
        let batch = [random_batch(vocab, 16, 2, 5)];
        let arguments = arguments(|a| a.temperature = 0.05);
        let mut stepper = Stepper::new(network(name, 0.0), &arguments, 60).unwrap();
        let first = stepper.step(&batch).unwrap();
        let last = (0..59).map(|_| stepper.step(&batch).unwrap()).last().unwrap();
        assert!(
            first.loss > 1.0 && last.loss < 0.05,
            "{name}: {} to {}",
            first.loss,
            last.loss
        );
        assert_eq!(last.accuracy, 1.0);
    }
}

#[test]
fn frozen_positions_and_the_pooler_do_not_move_and_all_else_does() {
    let vocab = network("bert", 0.0).config().vocab_size;
    let arguments = arguments(|a| {
        a.fix_position_embedding = true;
        a.weight_decay = 0.1;
    });
    let before = bits(&network("bert", 0.1));
    let (_, stepper) = step("bert", &arguments, &[random_batch(vocab, 4, 2, 3)]);
    for (name, now) in bits(stepper.model()) {
        let fixed = name.contains("position_embeddings") || name.starts_with("pooler.");
        assert_eq!(now == before[&name], fixed, "{name}");
    }
}

#[test]
fn a_loss_that_is_not_finite_names_the_step_and_leaves_all_as_it_was() {
    let vocab = network("bert", 0.0).config().vocab_size;
    let arguments = arguments(|a| {
        a.normalize_embeddings = false;
        a.temperature = 1e-40;
    });
    let mut stepper = Stepper::new(network("bert", 0.0), &arguments, 10).unwrap();
    let before = bits(stepper.model());
    let error = stepper.step(&[random_batch(vocab, 4, 2, 3)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFinite);
    assert!(error.message().contains("step 1"), "{error}");
    assert_eq!(stepper.steps(), 0);
    assert!(bits(stepper.model()) == before);
}

#[test]
fn a_run_that_diverges_names_the_lines_and_writes_no_checkpoint_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out").display().to_string();
    let words = [
        "--model_name_or_path",
        "models/bert",
        "--train_data",
        "data/plain.jsonl",
        "--output_dir",
        &output,
        "--train_group_size",
        "3",
        "--per_device_train_batch_size",
        "4",
        "--max_steps",
        "9",
        "--save_steps",
        "1",
        "--normalize_embeddings",
        "False",
        "--temperature",
        "1e-30",
        "--learning_rate",
        "1e30",
        "--max_grad_norm",
        "0",
    ];
    let mut trainer = Trainer::new(settings(&words)).unwrap();
    let error = trainer.run(&mut []).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFinite, "{error}");
    let step = trainer.state().global_step;
    assert!(
        error.message().contains(&format!("step {}", step + 1)) && error.message().contains("plain.jsonl:"),
        "{error}"
    );
    let mut left: Vec<String> = names(Path::new(&output));
    left.sort();
    let want: Vec<String> = (1..=step).map(|step| format!("checkpoint-{step}")).collect();
    assert_eq!(left, want);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn whole_runs_from_the_command_line_log_what_flagembedding_logs() {
    for name in ["cli_ce", "cli_kl", "cli_mrl"] {
        let folder = tempfile::tempdir().unwrap();
        let case = json(&fixture("parity/cases").join(format!("{name}.json")));
        let mut words: Vec<String> = serde_json::from_value(case["argv"].clone()).unwrap();
        let output = folder.path().join("out").display().to_string();
        for word in [
            "--logging_steps",
            "1",
            "--save_strategy",
            "no",
            "--output_dir",
            &output,
        ] {
            words.push(word.to_owned());
        }
        let report = train(&words);
        assert!(!report.stopped);
        let state = json(&Path::new(&output).join("trainer_state.json"));
        let history = state["log_history"].as_array().unwrap();
        let steps = case["steps"].as_array().unwrap();
        assert_eq!(history.len(), steps.len());
        for (index, (got, want)) in history.iter().zip(steps).enumerate() {
            assert_eq!(got["step"], index + 1);
            for key in ["loss", "grad_norm", "learning_rate"] {
                let (got, want) = (got[key].as_f64().unwrap(), want[key].as_f64().unwrap());
                close(&format!("{name}, step {index}, {key}"), got, want, 5e-4);
            }
        }
    }
}

/// A run of 12 steps, 3 an epoch, on a model with dropout; `more` wins.
fn run(folder: &Path, output: &str, more: &[&str]) -> Value {
    let (model, data) = (folder.join("model"), folder.join("eval"));
    if !model.exists() {
        folder_with_dropout("bert", &model);
        beir(&data);
    }
    let output = folder.join(output);
    let (model, output_word, data) = (
        model.display().to_string(),
        output.display().to_string(),
        data.display().to_string(),
    );
    let mut words = vec![
        "--model_name_or_path",
        &model,
        "--train_data",
        "data/plain.jsonl",
        "--output_dir",
        &output_word,
        "--train_group_size",
        "3",
        "--per_device_train_batch_size",
        "8",
        "--max_steps",
        "12",
        "--learning_rate",
        "1e-3",
        "--eval_dataset",
        &data,
        "--logging_steps",
        "4",
    ];
    words.extend(more);
    train(&words);
    json(&output.join("trainer_state.json"))
}

fn steps_with(state: &Value, key: &str) -> Vec<u64> {
    let history = state["log_history"].as_array().unwrap();
    let with = history.iter().filter(|entry| entry.get(key).is_some());
    with.map(|entry| entry["step"].as_u64().unwrap()).collect()
}

fn checkpoints(output: &Path) -> Vec<u64> {
    let mut steps: Vec<u64> = names(output)
        .iter()
        .filter_map(|name| name.strip_prefix("checkpoint-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}

#[test]
fn logs_evaluations_and_checkpoints_come_when_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let state = run(
        folder.path(),
        "a",
        &[
            "--save_steps",
            "5",
            "--eval_strategy",
            "steps",
            "--eval_steps",
            "6",
            "--logging_first_step",
        ],
    );
    assert_eq!(steps_with(&state, "loss"), [1, 4, 8, 12]);
    assert_eq!(steps_with(&state, "eval_ndcg_at_10"), [6, 12]);
    assert_eq!(checkpoints(&folder.path().join("a")), [5, 10, 12]);
    assert_eq!(state["global_step"], 12);
    assert_eq!(state["epoch"], 4.0);

    let state = run(
        folder.path(),
        "b",
        &[
            "--save_strategy",
            "epoch",
            "--eval_strategy",
            "epoch",
            "--logging_strategy",
            "epoch",
            "--save_total_limit",
            "2",
            "--eval_on_start",
        ],
    );
    assert_eq!(steps_with(&state, "loss"), [3, 6, 9, 12]);
    assert_eq!(steps_with(&state, "eval_ndcg_at_10"), [0, 3, 6, 9, 12]);
    assert_eq!(checkpoints(&folder.path().join("b")), [9, 12]);

    // Numbers below 1 are shares of all steps.
    let state = run(
        folder.path(),
        "c",
        &["--save_steps", "0.5", "--logging_steps", "0.25"],
    );
    assert_eq!(steps_with(&state, "loss"), [3, 6, 9, 12]);
    assert_eq!(checkpoints(&folder.path().join("c")), [6, 12]);

    let state = run(
        folder.path(),
        "d",
        &["--save_strategy", "no", "--logging_strategy", "no"],
    );
    assert!(state["log_history"].as_array().unwrap().is_empty());
    assert!(checkpoints(&folder.path().join("d")).is_empty());
}

#[test]
fn the_best_checkpoint_outlives_the_limit_and_becomes_the_final_model() {
    let folder = tempfile::tempdir().unwrap();
    // The lower, the better: a metric that training raises has its best value early.
    let state = run(
        folder.path(),
        "out",
        &[
            "--eval_strategy",
            "steps",
            "--eval_steps",
            "3",
            "--save_steps",
            "3",
            "--save_total_limit",
            "1",
            "--load_best_model_at_end",
            "--metric_for_best_model",
            "eval_mrr_at_10",
            "--greater_is_better",
            "False",
        ],
    );
    let history = state["log_history"].as_array().unwrap();
    let scores: Vec<(u64, f64)> = history
        .iter()
        .filter_map(|entry| Some((entry["step"].as_u64()?, entry.get("eval_mrr_at_10")?.as_f64()?)))
        .collect();
    assert_eq!(scores.len(), 4);
    let best = scores
        .iter()
        .fold(scores[0], |best, new| if new.1 < best.1 { *new } else { best });
    assert_eq!(state["best_metric"], best.1);
    assert_eq!(state["best_global_step"], best.0);
    let output = folder.path().join("out");
    let left = checkpoints(&output);
    assert!(
        left.contains(&best.0) && left.contains(&12) && left.len() <= 2,
        "{left:?}"
    );
    let best = output
        .join(format!("checkpoint-{}", best.0))
        .join("model.safetensors");
    assert!(fs::read(best).unwrap() == fs::read(output.join("model.safetensors")).unwrap());
}

#[test]
fn early_stopping_ends_the_run_after_its_patience() {
    let folder = tempfile::tempdir().unwrap();
    // No gain is ever above 2, so every evaluation after the first is one without gain.
    let state = run(
        folder.path(),
        "out",
        &[
            "--eval_strategy",
            "steps",
            "--eval_steps",
            "2",
            "--save_steps",
            "2",
            "--load_best_model_at_end",
            "--early_stopping_patience",
            "2",
            "--early_stopping_threshold",
            "2.0",
        ],
    );
    assert_eq!(state["global_step"], 6);
    assert_eq!(steps_with(&state, "eval_ndcg_at_10"), [2, 4, 6]);
    assert!(folder.path().join("out/model.safetensors").exists());
}

#[test]
fn the_settings_in_the_output_run_again_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    run(
        folder.path(),
        "first",
        &[
            "--save_strategy",
            "no",
            "--warmup_ratio",
            "0.3",
            "--weight_decay",
            "0.1",
        ],
    );
    let text = fs::read_to_string(folder.path().join("first/config.toml")).unwrap();
    let mut config = FinetuneConfig::from_toml(&text).unwrap().arguments;
    let second = folder.path().join("second");
    config.training.output_dir = second.display().to_string();
    let checked = config
        .check_for(bge_core::config::Module::EncoderOnlyBase)
        .unwrap();
    Trainer::new(checked).unwrap().run(&mut []).unwrap();
    for file in [
        "model.safetensors",
        "trainer_state.json",
        "tokenizer.json",
        "config.json",
    ] {
        let read = |name: &str| fs::read(folder.path().join(name).join(file)).unwrap();
        assert!(read("first") == read("second"), "{file} differs");
    }
}
