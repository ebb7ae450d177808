//! BGE-M3's three heads do what FlagEmbedding's do, number by number (`fixtures/m3/make_m3_fixtures.py`).

use std::collections::BTreeMap;
use std::path::Path;

use bge_core::config::{FinetuneConfig, TrainingArguments};
use bge_core::models::{M3, ModelFolder};
use bge_core::random::Draws;
use bge_core::tokenize::{TokenBatch, Tokenizer};
use bge_core::train::{Stepper, TrainBatch};
use bge_tests::{fixture, json, largest_difference, random_batch, weights};
use candle_core::Device;
use serde_json::Value;

/// Relative difference allowed for loss and gradient norm: the issue's own bound.
const RELATIVE: f64 = 5e-4;
/// Relative difference allowed for the gradients of one step, against the largest element of each weight.
const GRADIENT: f32 = 2e-4;

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn model(name: &str) -> (M3, Vec<u32>) {
    let folder = ModelFolder::open(&fixture("m3/models").join(name)).unwrap();
    let special = Tokenizer::open(&folder.path)
        .unwrap()
        .special_tokens()
        .without_words();
    assert_eq!(special.len(), 4);
    (M3::open(&folder).unwrap(), special)
}

/// The settings of a case; `extra` flags are added.
fn arguments(case: &Value, extra: &[&str]) -> TrainingArguments {
    let mut words: Vec<String> = [
        "--model_name_or_path",
        "m",
        "--train_data",
        "d",
        "--output_dir",
        "o",
        "--lr_scheduler_type",
        "constant",
    ]
    .map(str::to_owned)
    .into();
    for (name, value) in case["flags"].as_object().unwrap() {
        if name != "no_in_batch_neg" && name != "knowledge_distillation" {
            words.push(format!("--{name}"));
            words.push(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    for name in ["learning_rate", "max_grad_norm"] {
        words.extend([format!("--{name}"), case[name].to_string()]);
    }
    words.extend(extra.iter().map(|&word| word.to_owned()));
    let parsed =
        bge_core::config::Loader::<FinetuneConfig>::for_module(bge_core::config::Module::EncoderOnlyM3)
            .flags(&words)
            .finish()
            .unwrap();
    parsed
        .arguments
        .check_for(bge_core::config::Module::EncoderOnlyM3)
        .unwrap()
        .training
        .clone()
}

fn batch(case: &Value, micro: &Value) -> TrainBatch {
    let rows = |side: &str| TokenBatch::from_rows(&numbers::<Vec<Vec<u32>>>(&micro[side])).unwrap();
    TrainBatch {
        queries: rows("queries"),
        passages: rows("passages"),
        no_in_batch_neg: case["flags"]["no_in_batch_neg"].as_bool().unwrap_or(false),
        teacher_scores: numbers(&micro["teacher_scores"]),
    }
}

fn check(name: &str, extra: &[&str]) {
    let case = json(&fixture("m3/cases").join(format!("{name}.json")));
    let steps = case["steps"].as_array().unwrap();
    let (model, special) = model(case["model"].as_str().unwrap());
    let before = weights(model.encoder());
    let mut stepper = Stepper::m3(model, &arguments(&case, extra), steps.len(), special).unwrap();
    for (index, step) in steps.iter().enumerate() {
        let batches: Vec<TrainBatch> = step["micro_batches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|micro| batch(&case, micro))
            .collect();
        let report = stepper.step(&batches).unwrap();
        for (what, got) in [("loss", report.loss), ("grad_norm", report.grad_norm)] {
            let want = step[what].as_f64().unwrap();
            let difference = (got - want).abs() / want.abs();
            assert!(
                difference < RELATIVE,
                "{name} {extra:?}, step {index}: {what} is {got}, upstream's {want}"
            );
        }
        let gradients = fixture("m3/cases").join(format!("{name}.safetensors"));
        if index == 0 && gradients.exists() {
            compare_gradients(name, &stepper, &gradients);
        }
    }
    let after = weights(stepper.model());
    for (weight, norm) in case["update_norms"].as_object().unwrap() {
        let moved = before[weight]
            .iter()
            .zip(&after[weight])
            .map(|(a, b)| f64::from(b - a).powi(2));
        let (moved, want) = (moved.sum::<f64>().sqrt(), norm.as_f64().unwrap());
        assert!(
            (moved - want).abs() <= 5e-3 * want.max(1e-9),
            "{name}: {weight} moved by {moved}, upstream's by {want}"
        );
    }
    let trained = case["update_norms"].as_object().unwrap();
    for (weight, values) in &after {
        if !trained.contains_key(weight) && !weight.contains("key.bias") {
            assert_eq!(values, &before[weight], "{name}: {weight} moved");
        }
    }
}

fn compare_gradients(name: &str, stepper: &Stepper, file: &Path) {
    let mut want: BTreeMap<String, _> = candle_core::safetensors::load(file, &Device::Cpu)
        .unwrap()
        .into_iter()
        .collect();
    for (id, (weight, _, _)) in stepper.model().params().iter().enumerate() {
        let Some(want) = want.remove(weight) else {
            assert!(weight.starts_with("pooler."), "{name}: {weight} has no reference");
            continue;
        };
        let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
        let got = stepper
            .gradients()
            .to_vec(id)
            .unwrap()
            .unwrap_or_else(|| panic!("{name}: {weight} has no gradient"));
        let size = want.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
        let difference = largest_difference(&got, &want) / size;
        assert!(
            difference < GRADIENT,
            "{name}: the gradient of {weight} differs by {difference}"
        );
    }
    assert!(want.is_empty(), "{name}: not ours: {:?}", want.keys());
}

fn cases() -> Vec<String> {
    numbers(&json(&fixture("m3/cases.json"))["cases"])
}

#[test]
fn every_case_trains_as_flagembedding_does() {
    let cases = cases();
    assert!(cases.len() >= 13);
    for name in cases {
        check(&name, &[]);
    }
}

#[test]
fn sub_batches_and_checkpointing_train_as_the_whole_batch_does() {
    for name in [
        "unified_kl",
        "self_distill_later",
        "narrow_mean_raw",
        "own_groups",
    ] {
        for size in ["1", "4", "100"] {
            check(name, &["--sub_batch_size", size]);
        }
        check(name, &["--gradient_checkpointing", "True"]);
        check(
            name,
            &["--sub_batch_size", "5", "--gradient_checkpointing", "True"],
        );
    }
}

#[test]
fn sub_batches_see_the_same_dropout() {
    let folder = fixture("m3/models/m3");
    let opened = || {
        let mut folder = ModelFolder::open(&folder).unwrap();
        folder.config.hidden_dropout_prob = 0.2;
        folder.config.attention_probs_dropout_prob = 0.2;
        M3::open(&folder).unwrap()
    };
    let case = json(&fixture("m3/cases/unified.json"));
    let vocab = opened().config().vocab_size;
    let batch = [random_batch(vocab, 4, 3, 9)];
    let run = |extra: &[&str]| {
        let mut stepper = Stepper::m3(opened(), &arguments(&case, extra), 5, vec![0, 1, 2, 3]).unwrap();
        let report = stepper.step(&batch).unwrap();
        (report.loss, report.grad_norm)
    };
    let whole = run(&[]);
    for size in ["1", "3", "7"] {
        let (loss, norm) = run(&["--sub_batch_size", size]);
        assert!(((loss - whole.0) / whole.0).abs() < 1e-6);
        assert!(((norm - whole.1) / whole.1).abs() < 1e-5);
    }
    let without = Stepper::m3(
        M3::open(&ModelFolder::open(&folder).unwrap()).unwrap(),
        &arguments(&case, &[]),
        5,
        vec![0, 1, 2, 3],
    )
    .unwrap()
    .step(&batch)
    .unwrap();
    assert!((without.loss - whole.0).abs() > 1e-3, "dropout has no effect");
}

#[test]
fn gradients_of_all_heads_agree_with_finite_differences() {
    let case = json(&fixture("m3/cases/self_distill.json"));
    let (model, special) = model("m3");
    let vocab = model.config().vocab_size;
    // Heads far from the borders of their ReLU and of the nearest tokens would hide an error; a small step crosses few.
    let batch = [random_batch(vocab, 3, 2, 4)];
    let arguments = arguments(&case, &["--learning_rate", "0", "--use_self_distill", "False"]);
    let mut stepper = Stepper::m3(model.clone(), &arguments, 1, special.clone()).unwrap();
    stepper.step(&batch).unwrap();
    let loss_with = |weight: &str, at: usize, by: f32| {
        let mut changed: BTreeMap<String, candle_core::Tensor> = model
            .params()
            .iter()
            .map(|(name, value, _)| (name.to_owned(), value.copy().unwrap()))
            .collect();
        let value = &changed[weight];
        let mut flat: Vec<f32> = value.flatten_all().unwrap().to_vec1().unwrap();
        flat[at] += by;
        let value = candle_core::Tensor::from_vec(flat, value.shape().clone(), &Device::Cpu).unwrap();
        changed.insert(weight.to_owned(), value);
        let model = M3::new(model.config().clone(), changed).unwrap();
        Stepper::m3(model, &arguments, 1, special.clone())
            .unwrap()
            .step(&batch)
            .unwrap()
            .loss
    };
    let mut draws = Draws::new(5);
    for (id, (weight, value, _)) in model.params().iter().enumerate() {
        let heads = weight.contains("linear");
        if !heads && !weight.contains("layer.1.output.dense") {
            continue;
        }
        let gradient = stepper.gradients().to_vec(id).unwrap().unwrap();
        for _ in 0..4 {
            let at = draws.below(value.elem_count());
            let step = 2e-3;
            let slope = (loss_with(weight, at, step) - loss_with(weight, at, -step)) / f64::from(2.0 * step);
            assert!(
                (slope - f64::from(gradient[at])).abs() < 2e-2 * slope.abs().max(0.5),
                "{weight}[{at}]: {slope} against {}",
                gradient[at]
            );
        }
    }
}
