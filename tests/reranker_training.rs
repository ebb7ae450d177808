//! Training a cross-encoder: beside FlagEmbedding, resumed, cut into pieces, and refused where it cannot be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bge_core::config::{CheckedConfig, FinetuneConfig, Loader, Module, from_command_line, json_schema};
use bge_core::models::{Batch, Bert, CrossEncoder, Keep, ModelFolder};
use bge_core::nn::Gradients;
use bge_core::random::Draws;
use bge_core::tokenize::{PairLimits, TokenBatch, Tokenizer};
use bge_core::train::{PairBatch, StepReport, Stepper, TrainReport, Trainer};
use bge_core::{Error, ErrorKind, Issue};
use bge_tests::{bits, copy, fixture, json, largest_difference, weights};
use candle_core::{Device, Tensor};
use serde_json::Value;

/// Relative difference allowed for loss, gradient norm and learning rate: the issue's own bound.
const RELATIVE: f64 = 5e-4;
/// Absolute difference allowed for scores: the issue's own bound.
const SCORES: f32 = 2e-5;
/// The same for scores and weights after training: rounding grows over the steps.
const AFTER: f32 = 1e-4;
const MODULE: Module = Module::RerankerEncoderOnlyBase;

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn folder() -> PathBuf {
    fixture("reranker")
}

fn cases() -> Vec<Value> {
    let names: Vec<String> = numbers(&json(&folder().join("cases.json"))["cases"]);
    let file = |name: String| json(&folder().join("cases").join(format!("{name}.json")));
    names.into_iter().map(file).collect()
}

/// Settings from words; a path that begins with `data/` or `models/` is a fixture.
fn settings<S: AsRef<str>>(words: &[S]) -> Result<CheckedConfig, Vec<Issue>> {
    let place = |word: &S| {
        let word = word.as_ref();
        if word.starts_with("data/") || word.starts_with("models/") {
            folder().join(word).display().to_string()
        } else {
            word.to_owned()
        }
    };
    let words: Vec<String> = words.iter().map(place).collect();
    let parsed = Loader::<FinetuneConfig>::for_module(MODULE)
        .flags(&words)
        .finish()?;
    parsed.arguments.check_for(MODULE)
}

fn config(case: &Value) -> CheckedConfig {
    let mut words: Vec<String> = numbers(&case["argv"]);
    words.extend(["--output_dir".to_owned(), "unused".to_owned()]);
    settings(&words).unwrap_or_else(|issues| panic!("{issues:?}"))
}

fn open(case: &Value) -> CrossEncoder {
    let name = case["flags"]["model_name_or_path"].as_str().unwrap();
    CrossEncoder::open(folder().join(name)).unwrap()
}

fn tokens(pairs: &[&Value]) -> TokenBatch {
    let ids: Vec<Vec<u32>> = pairs.iter().map(|pair| numbers(&pair["ids"])).collect();
    let mut batch = TokenBatch::from_rows(&ids).unwrap();
    let types: Vec<Vec<u32>> = pairs.iter().map(|pair| numbers(&pair["types"])).collect();
    batch.type_ids = Some(types.concat()).filter(|types| types.contains(&1));
    batch
}

fn lay(model: &CrossEncoder, tokens: &TokenBatch) -> Batch {
    let types = tokens.type_ids.as_deref().unwrap_or_default();
    Batch::new(model.config(), &tokens.ids, types, &tokens.offsets, 0..).unwrap()
}

fn micro_batch(case: &Value, batch: &Value) -> PairBatch {
    let picked: Vec<usize> = numbers(&batch["pairs"]);
    let pairs: Vec<&Value> = picked.iter().map(|&index| &case["pairs"][index]).collect();
    PairBatch {
        pairs: tokens(&pairs),
        group_size: numbers(&case["flags"]["train_group_size"]),
        teacher_scores: numbers(&batch["teacher_scores"]),
    }
}

fn probe_scores(model: &CrossEncoder, case: &Value) -> Vec<f32> {
    let probes: Vec<&Value> = case["probes"].as_array().unwrap().iter().collect();
    model.scores(&lay(model, &tokens(&probes))).unwrap()
}

/// The name of a weight without the prefix of its encoder.
fn bare(name: &str) -> &str {
    let rest = name
        .strip_prefix("bert.")
        .or_else(|| name.strip_prefix("roberta."));
    rest.unwrap_or(name)
}

/// The last bias shifts all scores of a group alike, and a key bias all scores of a row: their gradients are rounding
/// noise, which Adam turns into full steps.
fn no_effect(weight: &str) -> bool {
    ["attention.self.key.bias", "classifier.bias", "out_proj.bias"]
        .iter()
        .any(|end| weight.ends_with(end))
}

/// Scores but for what the last bias adds to all of them.
fn apart(scores: &[f32]) -> Vec<f32> {
    scores.iter().map(|score| score - scores[0]).collect()
}

#[test]
fn every_case_trains_as_flagembedding_does() {
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let config = config(&case);
        let model = open(&case);
        let before = weights(model.encoder());
        let difference = largest_difference(
            &probe_scores(&model, &case),
            &numbers::<Vec<f32>>(&case["scores_before"]),
        );
        assert!(difference < SCORES, "{name}: scores differ by {difference}");
        let steps = case["steps"].as_array().unwrap();
        assert!(steps.len() >= 8, "{name}");
        let mut stepper = Stepper::reranker(model.clone(), &config.training, steps.len()).unwrap();
        for (index, step) in steps.iter().enumerate() {
            let batches = step["micro_batches"].as_array().unwrap().iter();
            let batches: Vec<PairBatch> = batches.map(|batch| micro_batch(&case, batch)).collect();
            let report = stepper.step(&batches).unwrap();
            for (what, got) in [
                ("loss", report.loss),
                ("grad_norm", report.grad_norm),
                ("learning_rate", report.learning_rate),
            ] {
                let want = step[what].as_f64().unwrap();
                let difference = (got - want).abs() / want.abs().max(1e-12);
                assert!(
                    difference < RELATIVE,
                    "{name}, step {index}: {what} is {got}, upstream's {want}"
                );
            }
        }
        // The optimizer changes the weights in place, so `model` is the trained one.
        let want: Vec<f32> = numbers(&case["scores_after"]);
        let difference = largest_difference(&apart(&probe_scores(&model, &case)), &apart(&want));
        assert!(
            difference < AFTER,
            "{name}: scores after training differ by {difference}"
        );
        let after = weights(stepper.model());
        let norms = case["update_norms"].as_object().unwrap();
        assert!(!norms.keys().any(|name| no_effect(name)));
        for (weight, norm) in norms {
            let moved = before[bare(weight)].iter().zip(&after[bare(weight)]);
            let moved: f64 = moved.map(|(a, b)| f64::from(b - a).powi(2)).sum();
            let (moved, want) = (moved.sqrt(), norm.as_f64().unwrap());
            assert!(
                (moved - want).abs() <= 5e-3 * want,
                "{name}: {weight} moved by {moved}, upstream's by {want}"
            );
        }
        let file = folder().join("cases").join(format!("{name}.safetensors"));
        if file.exists() {
            let want: BTreeMap<_, _> = candle_core::safetensors::load(&file, &Device::Cpu)
                .unwrap()
                .into_iter()
                .collect();
            assert_eq!(want.len(), after.len(), "{name}: the number of weights");
            for (weight, want) in want.iter().filter(|(weight, _)| !no_effect(weight)) {
                let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
                let difference = largest_difference(&after[bare(weight)], &want);
                assert!(difference < AFTER, "{name}: {weight} differs by {difference}");
            }
        }
    }
}

#[test]
fn the_tokenizer_gives_the_pairs_that_upstream_trains_on() {
    for case in cases() {
        let config = config(&case);
        let tokenizer =
            Tokenizer::open(folder().join(case["flags"]["model_name_or_path"].as_str().unwrap())).unwrap();
        let limits = PairLimits::training(config.data.query_max_len, config.data.passage_max_len, 64);
        for key in ["pairs", "probes"] {
            let pairs: Vec<&Value> = case[key].as_array().unwrap().iter().collect();
            let texts: Vec<(&str, &str)> = pairs
                .iter()
                .map(|pair| (pair["query"].as_str().unwrap(), pair["passage"].as_str().unwrap()))
                .collect();
            let (got, want) = (tokenizer.encode_pairs(&texts, limits).unwrap(), tokens(&pairs));
            for (index, text) in texts.iter().enumerate() {
                assert_eq!(
                    got.ids[got.range(index)],
                    want.ids[want.range(index)],
                    "{}: {text:?}",
                    case["name"]
                );
            }
            assert_eq!(got, want, "{}", case["name"]);
        }
    }
}

#[test]
fn scores_and_every_gradient_agree_with_transformers() {
    for name in ["bert", "xlmr"] {
        let want =
            candle_core::safetensors::load(folder().join(format!("layers/{name}.safetensors")), &Device::Cpu)
                .unwrap();
        let integers = |key: &str| -> Vec<u32> {
            want[key]
                .to_dtype(candle_core::DType::U32)
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let floats = |key: &str| -> Vec<f32> { want[key].flatten_all().unwrap().to_vec1().unwrap() };
        let model = CrossEncoder::open(folder().join("models").join(name)).unwrap();
        let batch = Batch::new(
            model.config(),
            &integers("ids"),
            &integers("types"),
            &integers("cu_seqlens"),
            0..,
        )
        .unwrap();
        for keep in [Keep::All, Keep::Inputs] {
            let (scores, record) = model.forward(&batch, keep, None).unwrap();
            assert!(largest_difference(&scores, &floats("scores")) < SCORES, "{name}");
            let mut grads = Gradients::new(model.params());
            model
                .backward(&batch, record.unwrap(), &floats("direction"), None, &mut grads)
                .unwrap();
            for (id, (weight, ..)) in model.params().iter().enumerate() {
                let got = grads
                    .to_vec(id)
                    .unwrap()
                    .unwrap_or_else(|| panic!("{name}: {weight} has no gradient"));
                let prefix = if weight.starts_with("classifier.") {
                    ""
                } else {
                    ["bert.", "roberta."][usize::from(name == "xlmr")]
                };
                let want = floats(&format!("grad.{prefix}{weight}"));
                let size = want.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
                let difference = largest_difference(&got, &want) / size;
                assert!(
                    difference < 1e-5,
                    "{name}: the gradient of {weight} differs by {difference}"
                );
            }
        }
    }
}

#[test]
fn whole_runs_from_the_command_line_log_what_flagembedding_logs() {
    let mut checked = 0;
    for case in cases().into_iter().filter(|case| case["order_free"] == true) {
        let place = tempfile::tempdir().unwrap();
        let mut words: Vec<String> = numbers(&case["argv"]);
        words.extend(["--logging_steps", "1", "--save_strategy", "no", "--output_dir"].map(str::to_owned));
        words.push(place.path().join("out").display().to_string());
        let report = train(&words);
        let log = report
            .state
            .log_history
            .iter()
            .filter(|entry| entry.contains_key("loss"));
        for (step, entry) in case["steps"].as_array().unwrap().iter().zip(log) {
            for what in ["loss", "grad_norm", "learning_rate"] {
                let (got, want) = (entry[what].as_f64().unwrap(), step[what].as_f64().unwrap());
                assert!(
                    (got - want).abs() <= RELATIVE * want.abs().max(1e-12),
                    "{}: {what} {got}, upstream's {want}",
                    case["name"]
                );
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 2 * 8 * 3);
}

// ------------------------------------------------------------------ the model

fn with_dropout(name: &str, p: f32) -> CrossEncoder {
    let place = tempfile::tempdir().unwrap();
    dropout_folder(name, place.path(), p);
    CrossEncoder::open(place.path()).unwrap()
}

fn dropout_folder(name: &str, to: &Path, p: f32) {
    copy(&folder().join("models").join(name), to);
    change_config(to, |config| {
        config["hidden_dropout_prob"] = p.into();
        config["attention_probs_dropout_prob"] = p.into();
    });
}

fn change_config(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = json(&path);
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

fn random_pairs(model: &CrossEncoder, groups: usize, group_size: usize, seed: u64) -> PairBatch {
    let mut draws = Draws::new(seed);
    let vocab = model.config().vocab_size;
    let rows: Vec<Vec<u32>> = (0..groups * group_size)
        .map(|_| {
            let length = 2 + draws.below(30);
            (0..length).map(|_| 6 + draws.below(vocab - 6) as u32).collect()
        })
        .collect();
    PairBatch {
        pairs: TokenBatch::from_rows(&rows).unwrap(),
        group_size,
        teacher_scores: Some((0..groups * group_size).map(|_| draws.normal() as f32).collect()),
    }
}

/// Scores and every gradient of `Σ score * direction`, by name.
fn pass(
    model: &CrossEncoder,
    batch: &Batch,
    keep: Keep,
    dropout: Option<u64>,
) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
    let (scores, record) = model.forward(batch, keep, dropout).unwrap();
    let mut grads = Gradients::new(model.params());
    model
        .backward(batch, record.unwrap(), &direction(batch), dropout, &mut grads)
        .unwrap();
    let names = model.params().iter().enumerate();
    let gradients = names.filter_map(|(id, (name, ..))| Some((name.to_owned(), grads.to_vec(id).unwrap()?)));
    (scores, gradients.collect())
}

fn direction(batch: &Batch) -> Vec<f32> {
    (0..batch.texts())
        .map(|index| 1.0 - 0.375 * index as f32)
        .collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_weight_gets_its_gradient_and_recomputing_gives_the_same_bits() {
    for name in ["bert", "xlmr"] {
        for dropout in [0.0, 0.1] {
            let model = with_dropout(name, dropout);
            let batch = lay(&model, &random_pairs(&model, 2, 2, 5).pairs);
            let all = pass(&model, &batch, Keep::All, Some(9));
            assert_eq!(pass(&model, &batch, Keep::Inputs, Some(9)), all, "{name}");
            let (scores, record) = model.forward(&batch, Keep::Nothing, Some(9)).unwrap();
            assert!(record.is_none());
            assert_eq!(scores, all.0);
            assert_eq!(scores != model.scores(&batch).unwrap(), dropout > 0.0);
            for (weight, _, trainable) in model.params().iter() {
                assert!(trainable, "{weight}");
                // Adding one number to a whole row of attention scores changes no softmax.
                let size = norm(&all.1[weight]);
                assert!(
                    size > 1e-4 || weight.ends_with("key.bias"),
                    "{name}: {weight} has gradient {size}"
                );
            }
        }
    }
}

#[test]
fn the_whole_backward_agrees_with_finite_differences_with_dropout_on() {
    for name in ["bert", "xlmr"] {
        let model = with_dropout(name, 0.1);
        let batch = lay(&model, &random_pairs(&model, 2, 2, 6).pairs);
        let (_, gradients) = pass(&model, &batch, Keep::All, Some(5));
        let flat = |tensor: &Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
        let weights: BTreeMap<String, Tensor> = model
            .params()
            .iter()
            .map(|(name, value, _)| (name.to_owned(), value.clone()))
            .collect();
        for (weight, gradient) in gradients
            .iter()
            .filter(|(weight, _)| !weight.ends_with("key.bias"))
        {
            let (size, start) = (norm(gradient), flat(&weights[weight]));
            let step = 1e-3 / size.max(1e-6) * norm(&start).max(1.0);
            let moved = |by: f64| -> f64 {
                let values = start
                    .iter()
                    .zip(gradient)
                    .map(|(w, g)| (f64::from(*w) + by * f64::from(*g)) as f32);
                let mut weights = weights.clone();
                let shape = weights[weight].shape().clone();
                weights.insert(
                    weight.clone(),
                    Tensor::from_vec(values.collect(), shape, &Device::Cpu).unwrap(),
                );
                let model = CrossEncoder::new(model.config().clone(), weights).unwrap();
                let (scores, _) = model.forward(&batch, Keep::Nothing, Some(5)).unwrap();
                scores
                    .iter()
                    .zip(direction(&batch))
                    .map(|(s, d)| f64::from(*s) * f64::from(d))
                    .sum()
            };
            let ratio = (moved(step) - moved(-step)) / (2.0 * step) / (size * size);
            assert!(
                (ratio - 1.0).abs() < 2e-2,
                "{name}: {weight} has slope {ratio} times its gradient"
            );
        }
    }
}

#[test]
fn a_pair_has_the_same_score_in_any_batch() {
    let model = with_dropout("bert", 0.1);
    let pairs = random_pairs(&model, 5, 4, 8).pairs;
    let together = model.scores(&lay(&model, &pairs)).unwrap();
    for (index, score) in together.iter().enumerate() {
        let alone = TokenBatch::from_rows(&[&pairs.ids[pairs.range(index)]]).unwrap();
        assert_eq!(model.scores(&lay(&model, &alone)).unwrap(), [*score]);
    }
    assert!(
        model
            .scores(&lay(&model, &TokenBatch::default()))
            .unwrap()
            .is_empty()
    );
}

// ------------------------------------------------------------------ steps

fn one_step(
    model: &CrossEncoder,
    batch: &PairBatch,
    words: &[&str],
) -> (StepReport, BTreeMap<String, Vec<f32>>) {
    let required = [
        "--model_name_or_path",
        "m",
        "--train_data",
        "d",
        "--output_dir",
        "o",
        "--max_grad_norm",
        "0",
    ];
    let config = settings(&[&required[..], words].concat()).unwrap();
    // A copy of the values, as steps change them in place.
    let copied = model
        .params()
        .iter()
        .map(|(name, value, _)| (name.to_owned(), value.copy().unwrap()));
    let model = CrossEncoder::new(model.config().clone(), copied.collect()).unwrap();
    let mut stepper = Stepper::reranker(model, &config.training, 10).unwrap();
    let report = stepper.step(std::slice::from_ref(batch)).unwrap();
    let names = stepper.model().params().iter().enumerate();
    let gradients =
        names.map(|(id, (name, ..))| (name.to_owned(), stepper.gradients().to_vec(id).unwrap().unwrap()));
    (report, gradients.collect())
}

#[test]
fn sub_batches_of_any_size_and_checkpointing_give_the_gradient_of_the_whole_batch_with_dropout_on() {
    for name in ["bert", "xlmr"] {
        let model = with_dropout(name, 0.1);
        let batch = random_pairs(&model, 6, 4, 3);
        let (whole, gradients) = one_step(&model, &batch, &[]);
        assert!(whole.grad_norm > 1e-2);
        assert_eq!(
            one_step(&model, &batch, &["--gradient_checkpointing"]),
            (whole, gradients.clone()),
            "{name}"
        );
        for size in ["1", "4", "7", "8", "23", "1000"] {
            let (report, cut) = one_step(&model, &batch, &["--sub_batch_size", size]);
            assert!(
                (report.loss - whole.loss).abs() < 1e-6 && report.accuracy == whole.accuracy,
                "{name} {size}"
            );
            for (weight, want) in &gradients {
                let difference = largest_difference(&cut[weight], want) / (norm(want) as f32).max(1e-3);
                assert!(
                    difference < 1e-4,
                    "{name}, sub-batches of {size}: {weight} differs by {difference}"
                );
            }
        }
    }
}

#[test]
fn a_step_has_the_same_bits_on_any_number_of_threads() {
    let model = with_dropout("bert", 0.1);
    let batch = random_pairs(&model, 9, 5, 4);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| one_step(&model, &batch, &["--sub_batch_size", "20"]))
    };
    let one = run(1);
    assert_eq!(run(2), one);
    assert_eq!(run(5), one);
}

#[test]
fn a_teacher_or_score_that_is_not_finite_stops_the_step_and_changes_nothing() {
    let model = with_dropout("bert", 0.0);
    let mut batch = random_pairs(&model, 2, 3, 4);
    let before = bits(model.encoder());
    let config = settings(&[
        "--model_name_or_path",
        "m",
        "--train_data",
        "d",
        "--output_dir",
        "o",
    ])
    .unwrap();
    let mut stepper = Stepper::reranker(model.clone(), &config.training, 10).unwrap();
    batch.teacher_scores.as_mut().unwrap()[4] = f32::NAN;
    let error = stepper.step(std::slice::from_ref(&batch)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFinite);
    assert!(
        error.message().contains("loss of step 1") && !error.message().contains("temperature"),
        "{error}"
    );
    assert_eq!(bits(model.encoder()), before);
    batch.teacher_scores.as_mut().unwrap().pop();
    assert_eq!(
        stepper.step(std::slice::from_ref(&batch)).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    batch.teacher_scores = None;
    batch.group_size = 4;
    let error = stepper.step(std::slice::from_ref(&batch)).unwrap_err();
    assert!(
        error.message().contains("6 pairs cannot be cut into groups of 4"),
        "{error}"
    );
    let texts = bge_tests::random_batch(60, 2, 2, 1);
    assert!(
        stepper
            .step(std::slice::from_ref(&texts))
            .unwrap_err()
            .message()
            .contains("learns from pairs")
    );
}

// ------------------------------------------------------------------ whole runs

fn prepare<S: AsRef<str>>(words: &[S]) -> Result<Trainer, Error> {
    Trainer::new(settings(words).unwrap_or_else(|issues| panic!("{issues:?}")))
}

fn train<S: AsRef<str>>(words: &[S]) -> TrainReport {
    let mut trainer = prepare(words).unwrap_or_else(|error| panic!("{error}"));
    trainer.run(&mut []).unwrap_or_else(|error| panic!("{error}"))
}

/// Eight steps of a tiny model with dropout: 24 rows in batches of 5 are 5 micro-batches and 3 steps an epoch.
fn words(place: &Path, output: &str, more: &[&str]) -> Vec<String> {
    let model = place.join("model").display().to_string();
    let output = place.join(output).display().to_string();
    let fixed = [
        "--model_name_or_path",
        &model,
        "--output_dir",
        &output,
        "--train_group_size",
        "3",
        "--max_steps",
        "8",
        "--learning_rate",
        "1e-3",
        "--query_max_len",
        "12",
        "--passage_max_len",
        "24",
        "--per_device_train_batch_size",
        "5",
        "--gradient_accumulation_steps",
        "2",
        "--warmup_steps",
        "2",
        "--weight_decay",
        "0.05",
        "--logging_steps",
        "3",
        "--save_steps",
        "1",
        "--shuffle_ratio",
        "0.2",
    ]; // a table of flags
    let all = fixed.iter().chain(more);
    all.map(|&word| word.to_owned()).collect()
}

#[test]
fn a_run_resumed_before_at_and_after_an_epoch_ends_as_the_straight_one() {
    for (model, more) in [
        (
            "bert",
            &[
                "--train_data",
                "data/scored.jsonl",
                "--knowledge_distillation",
                "--sub_batch_size",
                "6",
            ][..],
        ),
        (
            "xlmr",
            &["--train_data", "data/foreign.jsonl", "--gradient_checkpointing"][..],
        ),
    ] {
        let place = tempfile::tempdir().unwrap();
        dropout_folder(model, &place.path().join("model"), 0.1);
        train(&words(place.path(), "straight", more));
        let bytes = |folder: &str, file: &str| fs::read(place.path().join(folder).join(file)).unwrap();
        for step in [2, 3, 4] {
            let from = place
                .path()
                .join(format!("straight/checkpoint-{step}"))
                .display()
                .to_string();
            let output = format!("resumed-{step}");
            train(&words(
                place.path(),
                &output,
                &[more, &["--resume_from_checkpoint", &from]].concat(),
            ));
            for file in ["model.safetensors", "config.json", "tokenizer.json"] {
                assert_eq!(
                    bytes("straight", file),
                    bytes(&output, file),
                    "{model} from {step}: {file}"
                );
            }
            let (a, b) = ("straight/checkpoint-8", format!("{output}/checkpoint-8"));
            assert_eq!(
                bytes(a, "optimizer.safetensors"),
                bytes(&b, "optimizer.safetensors")
            );
            let log = |folder: &str| {
                json(&place.path().join(folder).join("trainer_state.json"))["log_history"].clone()
            };
            assert_eq!(log(a), log(&b), "{model} from {step}");
        }
        let from = place.path().join("straight/checkpoint-3").display().to_string();
        let other = words(
            place.path(),
            "refused",
            &[
                more,
                &["--resume_from_checkpoint", &from, "--train_group_size", "4"],
            ]
            .concat(),
        );
        assert!(
            prepare(&other)
                .unwrap_err()
                .message()
                .contains("other data or batches")
        );
    }
}

#[test]
fn the_saved_folder_is_a_hugging_face_cross_encoder_and_its_settings_run_again_to_the_same_bytes() {
    for (model, prefix, class) in [
        ("bert", "bert.", "BertForSequenceClassification"),
        ("xlmr", "roberta.", "XLMRobertaForSequenceClassification"),
    ] {
        let place = tempfile::tempdir().unwrap();
        dropout_folder(model, &place.path().join("model"), 0.1);
        train(&words(
            place.path(),
            "out",
            &["--train_data", "data/plain.jsonl", "--save_strategy", "no"],
        ));
        let out = place.path().join("out");
        let names = |folder: &Path| {
            let file =
                candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
            let mut names: Vec<String> = file.into_keys().collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&out),
            names(&folder().join("models").join(model)),
            "as transformers names them"
        );
        assert!(
            names(&out)
                .iter()
                .all(|name| name.starts_with(prefix) || name.starts_with("classifier."))
        );
        let config = json(&out.join("config.json"));
        assert_eq!(config["architectures"], serde_json::json!([class]));
        assert_eq!(config["id2label"], serde_json::json!({ "0": "LABEL_0" }));
        for file in ["modules.json", "1_Pooling", "optimizer.safetensors"] {
            assert!(!out.join(file).exists(), "{file}");
        }
        let settings = fs::read_to_string(out.join("config.toml")).unwrap();
        let again = settings.replace(
            &out.display().to_string(),
            &place.path().join("again").display().to_string(),
        );
        let parsed = Loader::<FinetuneConfig>::for_module(MODULE)
            .toml(&again)
            .finish()
            .unwrap();
        Trainer::new(parsed.arguments.check_for(MODULE).unwrap())
            .unwrap()
            .run(&mut [])
            .unwrap();
        let bytes = |folder: &str| fs::read(place.path().join(folder).join("model.safetensors")).unwrap();
        assert_eq!(bytes("out"), bytes("again"));
        CrossEncoder::open(&out).unwrap();
    }
}

#[test]
fn an_encoder_without_a_head_gets_a_fresh_one_from_the_seed_and_says_so() {
    for (name, fresh) in [("bert", 2), ("xlmr", 4)] {
        let source = fixture("parity/models").join(name);
        let error = CrossEncoder::open(&source).unwrap_err();
        assert!(
            error.message().contains("without a classification head"),
            "{error}"
        );
        let source = ModelFolder::open(&source).unwrap();
        let open = |seed| CrossEncoder::open_for_training(&source, seed).unwrap();
        let (model, note) = open(3);
        let note = note.unwrap();
        assert!(
            note.code == "model.fresh_head" && note.message.contains("`classifier"),
            "{note}"
        );
        let (same, other) = (bits(open(3).0.encoder()), bits(open(4).0.encoder()));
        assert_eq!(bits(model.encoder()), same);
        assert_eq!(
            same.iter().filter(|(name, bits)| other[*name] != **bits).count(),
            fresh / 2,
            "only fresh maps depend on the seed"
        );
        let head = weights(model.encoder());
        let out = &head[if name == "bert" {
            "classifier.weight"
        } else {
            "classifier.out_proj.weight"
        }];
        assert!(
            norm(out) / (out.len() as f64).sqrt() < 0.4 && norm(out) > 0.2,
            "initializer_range is 0.2"
        );
    }
}

#[test]
fn a_tiny_cross_encoder_learns_its_rows_by_heart() {
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("out").display().to_string();
    let mut args = vec![
        "--model_name_or_path".to_owned(),
        fixture("parity/models/bert").display().to_string(),
    ];
    let more = [
        "--output_dir",
        &output,
        "--train_data",
        "data/one_batch.jsonl",
        "--max_steps",
        "60",
        "--learning_rate",
        "3e-3",
        "--train_group_size",
        "4",
        "--logging_steps",
        "1",
        "--save_strategy",
        "no",
    ];
    args.extend(more.map(str::to_owned));
    let report = train(&args);
    let log = &report.state.log_history;
    assert!(log[0]["loss"].as_f64().unwrap() > 1.0, "{:?}", log[0]);
    assert!(
        log[59]["loss"].as_f64().unwrap() < 0.05 && log[59]["accuracy"] == 1.0,
        "{:?}",
        log[59]
    );
}

// ------------------------------------------------------------------ what is refused

#[test]
fn folders_that_are_no_cross_encoders_are_refused_by_name() {
    let broken = |change: &dyn Fn(&Path)| {
        let place = tempfile::tempdir().unwrap();
        copy(&folder().join("models/bert"), place.path());
        change(place.path());
        let error = CrossEncoder::open(place.path()).unwrap_err();
        let training =
            ModelFolder::open(place.path()).and_then(|folder| CrossEncoder::open_for_training(&folder, 1));
        assert!(training.is_err(), "{error}");
        error.to_string()
    };
    let tensors = |folder: &Path, change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let file = folder.join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, file).unwrap();
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    for (change, part) in [
        (
            &(|folder: &Path| change_config(folder, |config| config["model_type"] = "gemma".into()))
                as &dyn Fn(&Path),
            "not `gemma`",
        ),
        (
            &|folder: &Path| {
                change_config(folder, |config| {
                    config["id2label"] = serde_json::json!({ "0": "A", "1": "B", "2": "C" })
                });
            },
            "num_labels must be 1",
        ),
        (
            &|folder: &Path| {
                tensors(folder, &|tensors| {
                    tensors.insert("classifier.weight".into(), zeros(&[3, 32]));
                    tensors.insert("classifier.bias".into(), zeros(&[3]));
                });
            },
            "3 labels",
        ),
        (
            &|folder: &Path| tensors(folder, &|tensors| drop(tensors.remove("classifier.bias"))),
            "`classifier.bias`",
        ),
        (
            &|folder: &Path| {
                tensors(folder, &|tensors| {
                    drop(tensors.remove("bert.pooler.dense.weight"))
                })
            },
            "pooler.dense",
        ),
        (
            &|folder: &Path| {
                tensors(folder, &|tensors| {
                    tensors.insert("classifier.weight".into(), zeros(&[1, 31]));
                });
            },
            "[1, 31]",
        ),
        (
            &|folder: &Path| change_config(folder, |config| config["classifier_dropout"] = 1.5.into()),
            "classifier_dropout",
        ),
        (
            &|folder: &Path| fs::remove_file(folder.join("model.safetensors")).unwrap(),
            "no model.safetensors",
        ),
    ] {
        let error = broken(change);
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn rows_that_a_reranker_cannot_train_on_are_refused_with_their_line() {
    let good =
        r#"{"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1], "neg_scores": [0, -1.5]}"#;
    for (line, part) in [
        (r#"{"query": "q", "pos": ["p"], "neg": []}"#, "in-batch"),
        (r#"{"query": "q", "pos": ["p"]}"#, "in-batch"),
        (
            r#"{"query": "q", "pos": [], "neg": ["n"], "pos_scores": [], "neg_scores": [1]}"#,
            "pos",
        ),
        (
            r#"{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [NaN], "neg_scores": [1]}"#,
            "NaN",
        ),
        (
            r#"{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [1, 2]}"#,
            "neg_scores",
        ),
        (
            r#"{"query": "q", "pos": ["p"], "neg": ["n"], "query_prompt": 3}"#,
            "query_prompt",
        ),
    ] {
        for position in [0, 1] {
            for check in ["True", "False"] {
                let place = tempfile::tempdir().unwrap();
                let mut lines = vec![good; 4];
                lines.insert(position, line);
                let data = place.path().join("train.jsonl");
                fs::write(&data, lines.join("\n")).unwrap();
                let (data, output) = (
                    data.display().to_string(),
                    place.path().join("out").display().to_string(),
                );
                let words = [
                    "--model_name_or_path",
                    "models/bert",
                    "--train_data",
                    &data,
                    "--output_dir",
                    &output,
                    "--train_group_size",
                    "2",
                    "--max_steps",
                    "3",
                    "--knowledge_distillation",
                    "--validate_data",
                    check,
                ];
                let error = prepare(&words)
                    .and_then(|mut trainer| trainer.run(&mut []))
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(part), "{line}: {error}");
                assert!(
                    error.contains(&format!("train.jsonl:{}", position + 1)),
                    "{line}: {error}"
                );
                assert!(!error.contains("train_group_size 1"), "{line}: {error}");
                assert!(!place.path().join("out/model.safetensors").exists());
            }
        }
    }
    // No row of the file has negatives: an embedder would train, a reranker has nothing to compare.
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("pairs.jsonl");
    fs::write(&data, "{\"query\": \"q\", \"pos\": [\"p\"]}\n".repeat(3)).unwrap();
    for check in ["True", "False"] {
        let data = data.display().to_string();
        let words = [
            "--model_name_or_path",
            "models/bert",
            "--train_data",
            &data,
            "--output_dir",
            "unused",
            "--validate_data",
            check,
        ];
        let error = prepare(&words).unwrap_err().to_string();
        assert!(
            error.contains("pairs.jsonl") && error.contains("no row has negatives"),
            "{error}"
        );
    }
}

#[test]
fn flags_that_do_not_apply_are_refused_by_name_and_upstreams_command_runs_unchanged() {
    let required = [
        "--model_name_or_path",
        "m",
        "--train_data",
        "d.jsonl",
        "--output_dir",
        "o",
    ];
    for (words, field) in [
        (&["--temperature", "0.1"][..], "temperature"),
        (
            &["--query_instruction_for_retrieval", "x"],
            "query_instruction_for_retrieval",
        ),
        (&["--sentence_pooling_method", "mean"], "sentence_pooling_method"),
        (&["--kd_loss_type", "m3_kd_loss"], "kd_loss_type"),
        (&["--unified_finetuning", "True"], "unified_finetuning"),
        (&["--train_group_size", "1"], "train_group_size"),
        (&["--model_type", "decoder"], "model_type"),
        (
            &["--eval_strategy", "epoch", "--eval_dataset", "e"],
            "eval_strategy",
        ),
        (&["--save_strategy", "best"], "save_strategy"),
    ] {
        let issues = settings(&[&required[..], words].concat()).unwrap_err();
        assert!(
            issues.iter().any(|issue| issue.field.as_deref() == Some(field)),
            "{words:?}: {issues:?}"
        );
    }
    let text = "torchrun --nproc_per_node 1 \\\n\t-m FlagEmbedding.finetune.reranker.encoder_only.base \\\n\
        --model_name_or_path BAAI/bge-reranker-v2-m3 --cache_dir ./cache/model \\\n --train_data ./example_data/normal/examples.jsonl \\\n\
        --cache_path ./cache/data --train_group_size 8 --query_max_len 256 --passage_max_len 256 --pad_to_multiple_of 8 --knowledge_distillation False \\\n\
        --query_instruction_for_rerank 'A: ' --query_instruction_format '{}{}' --output_dir ./out --overwrite_output_dir --learning_rate 6e-5 --fp16 \\\n\
        --num_train_epochs 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --dataloader_drop_last True --warmup_ratio 0.1 \\\n\
        --gradient_checkpointing --weight_decay 0.01 --deepspeed ../ds_stage0.json --logging_steps 1 --save_steps 1000";
    let line = from_command_line(text).unwrap_or_else(|issues| panic!("{issues:?}"));
    assert_eq!(line.module, MODULE);
    let data = &line.config.arguments.data;
    assert_eq!(
        (data.query_instruction_for_rerank.as_deref(), data.passage_max_len),
        (Some("A: "), 256)
    );
    let rendered = line
        .config
        .arguments
        .render(bge_core::config::RenderFormat::FlagEmbedding, MODULE);
    assert!(
        rendered.contains("-m FlagEmbedding.finetune.reranker.encoder_only.base"),
        "{rendered}"
    );
    assert!(
        rendered.contains("--query_instruction_for_rerank 'A: '"),
        "{rendered}"
    );
    let checked = line
        .config
        .arguments
        .check_for(MODULE)
        .unwrap_or_else(|issues| panic!("{issues:?}"));
    assert_eq!(checked.module(), MODULE);
    let schema = json_schema::<FinetuneConfig>("bge finetune", MODULE);
    let has = |name: &str| !schema["properties"][name].is_null();
    assert!(
        has("query_instruction_for_rerank")
            && has("train_data")
            && !has("temperature")
            && !has("colbert_dim")
    );
    let embedder = FinetuneConfig::from_flags(&["--query_instruction_for_rerank", "x"]).unwrap_err();
    assert_eq!(embedder[0].code, "config.unknown_flag");
}

#[test]
fn the_instructions_of_settings_and_rows_reach_the_pairs() {
    // The parity cases carry their pairs; here the same rows go through the whole trainer and must give the same losses
    // as rows whose texts have the instructions written into them.
    let place = tempfile::tempdir().unwrap();
    let lines = fs::read_to_string(folder().join("data/prompted.jsonl")).unwrap();
    let mut plain = String::new();
    for line in lines.lines() {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["query"] = format!(
            "{} {}",
            row["query_prompt"].as_str().unwrap(),
            row["query"].as_str().unwrap()
        )
        .into();
        let prompt = row["passage_prompt"].as_str().unwrap().to_owned();
        for key in ["pos", "neg"] {
            for text in row[key].as_array_mut().unwrap() {
                *text = format!("{prompt} {}", text.as_str().unwrap()).into();
            }
        }
        row.as_object_mut()
            .unwrap()
            .retain(|key, _| !key.ends_with("_prompt"));
        plain.push_str(&format!("{row}\n"));
    }
    fs::write(place.path().join("plain.jsonl"), plain).unwrap();
    copy(&folder().join("models/bert"), &place.path().join("model"));
    let data = place.path().join("plain.jsonl").display().to_string();
    let formats = [
        "--query_instruction_format",
        "{} {}",
        "--passage_instruction_format",
        "{} {}",
    ];
    let run = |output: &str, data: &str, more: &[&str]| {
        let more = [&["--train_data", data, "--shuffle_ratio", "0"], more].concat();
        train(&words(place.path(), output, &more)).state.log_history
    };
    let losses = |log: &[serde_json::Map<String, Value>]| -> Vec<f64> {
        log.iter()
            .filter_map(|entry| entry.get("loss")?.as_f64())
            .collect()
    };
    let with_prompts = run("a", "data/prompted.jsonl", &formats);
    assert_eq!(losses(&with_prompts), losses(&run("b", &data, &[])));
}

/// The trained weights of an encoder are those of the model around it.
#[test]
fn the_encoder_of_a_cross_encoder_shares_its_weights() {
    let model = CrossEncoder::open(folder().join("models/bert")).unwrap();
    let encoder: &Bert = model.encoder();
    assert_eq!(encoder.params().len(), model.params().len());
    assert!(encoder.params().contains("classifier.weight"));
}
