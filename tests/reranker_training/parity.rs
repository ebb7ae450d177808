//! Steps, scores, gradients and tokens beside FlagEmbedding and transformers (`fixtures/reranker/README.md`).

use std::collections::BTreeMap;

use bge_core::config::CheckedConfig;
use bge_core::models::{Batch, CrossEncoder, Keep};
use bge_core::nn::Gradients;
use bge_core::tokenize::{PairLimits, TokenBatch, Tokenizer};
use bge_core::train::{PairBatch, Stepper};
use bge_tests::{json, largest_difference, weights};
use candle_core::Device;
use serde_json::Value;

use super::{folder, lay, numbers, settings, train};

/// Relative difference allowed for loss, gradient norm and learning rate: the issue's own bound.
const RELATIVE: f64 = 5e-4;

/// Absolute difference allowed for scores: the issue's own bound.
const SCORES: f32 = 2e-5;

/// The same for scores and weights after training: rounding grows over the steps.
const AFTER: f32 = 1e-4;

fn cases() -> Vec<Value> {
    let names: Vec<String> = numbers(&json(&folder().join("cases.json"))["cases"]);
    let file = |name: String| json(&folder().join("cases").join(format!("{name}.json")));
    names.into_iter().map(file).collect()
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
