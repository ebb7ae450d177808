//! The training step does what FlagEmbedding's trainer does, number by number (`fixtures/parity/README.md`).

use std::collections::BTreeMap;

use bge_core::config::{FinetuneConfig, PoolingMethod};
use bge_core::models::Keep;
use bge_core::models::{Batch, Bert, pool};
use bge_core::nn::Gradients;
use bge_core::tokenize::{TokenBatch, Tokenizer};
use bge_core::train::{Stepper, TrainBatch};
use bge_tests::{fixture, json, largest_difference, open_model};
use candle_core::{Device, Tensor};
use serde_json::Value;

/// Relative difference allowed for loss, gradient norm and learning rate: the issue's own bound.
const RELATIVE: f64 = 5e-4;
/// Absolute difference allowed for forward vectors: the issue's own bound.
const VECTORS: f32 = 1e-5;
/// Absolute difference allowed for vectors after training and for weights: rounding grows over the steps.
const AFTER: f32 = 1e-4;

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn config(case: &Value) -> FinetuneConfig {
    let mut arguments: Vec<String> = numbers(&case["argv"]);
    arguments.extend(["--output_dir".to_owned(), "unused".to_owned()]);
    FinetuneConfig::from_flags(&arguments).unwrap().arguments
}

fn rows(case: &Value, side: &str, picked: &Value) -> TokenBatch {
    let picked: Vec<usize> = numbers(picked);
    let texts = case[side].as_array().unwrap();
    let rows: Vec<Vec<u32>> = picked.iter().map(|&i| numbers(&texts[i]["ids"])).collect();
    TokenBatch::from_rows(&rows).unwrap()
}

fn micro_batch(case: &Value, batch: &Value) -> TrainBatch {
    TrainBatch {
        queries: rows(case, "queries", &batch["queries"]),
        passages: rows(case, "passages", &batch["passages"]),
        no_in_batch_neg: batch["no_in_batch_neg"].as_bool().unwrap(),
        teacher_scores: numbers(&batch["teacher_scores"]),
    }
}

fn vectors(model: &Bert, probes: &Value, pooling: PoolingMethod, normalize: bool) -> Vec<Vec<f32>> {
    let ids: Vec<Vec<u32>> = probes
        .as_array()
        .unwrap()
        .iter()
        .map(|probe| numbers(&probe["ids"]))
        .collect();
    let tokens = TokenBatch::from_rows(&ids).unwrap();
    let batch = Batch::new(model.config(), &tokens.ids, &[], &tokens.offsets, 0..).unwrap();
    let (hidden, _) = model.forward(&batch, Keep::Nothing, None).unwrap();
    let mut rows = pool(pooling, &hidden, batch.offsets())
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    if normalize {
        for row in &mut rows {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            for x in row {
                *x /= norm;
            }
        }
    }
    rows
}

fn compare_vectors(what: &str, got: &[Vec<f32>], want: &Value, tolerance: f32) {
    let want: Vec<Vec<f32>> = numbers(want);
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        let size = want.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
        let difference = largest_difference(got, want) / size;
        assert!(difference < tolerance, "{what}: vectors differ by {difference}");
    }
}

fn check(name: &str) {
    let folder = fixture("parity");
    let case = json(&folder.join("cases").join(format!("{name}.json")));
    let config = config(&case);
    let model = open_model(&folder.join(&config.model.model_name_or_path));
    let (pooling, normalize) = (
        config.training.sentence_pooling_method,
        config.training.normalize_embeddings,
    );
    let steps = case["steps"].as_array().unwrap();
    let before: BTreeMap<String, Vec<f32>> = weights(&model);

    compare_vectors(
        name,
        &vectors(&model, &case["probes"], pooling, normalize),
        &case["vectors_before"],
        VECTORS,
    );
    let mut stepper = Stepper::new(model, &config.training, steps.len()).unwrap();
    for (index, step) in steps.iter().enumerate() {
        let batches: Vec<TrainBatch> = step["micro_batches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|batch| micro_batch(&case, batch))
            .collect();
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
    let model = stepper.model();
    compare_vectors(
        name,
        &vectors(model, &case["probes"], pooling, normalize),
        &case["vectors_after"],
        AFTER,
    );
    let after = weights(model);
    for (weight, norm) in case["update_norms"].as_object().unwrap() {
        let moved = before[weight]
            .iter()
            .zip(&after[weight])
            .map(|(a, b)| f64::from(b - a).powi(2));
        let (moved, want) = (moved.sum::<f64>().sqrt(), norm.as_f64().unwrap());
        assert!(
            (moved - want).abs() <= 5e-3 * want,
            "{name}: {weight} moved by {moved}, upstream's by {want}"
        );
    }
    let file = folder.join("cases").join(format!("{name}.safetensors"));
    if file.exists() {
        let want: BTreeMap<_, _> = candle_core::safetensors::load(&file, &Device::Cpu)
            .unwrap()
            .into_iter()
            .collect();
        for (weight, want) in want {
            if !weight.ends_with("key.bias") {
                let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let difference = largest_difference(&after[&weight], &want);
                assert!(difference < AFTER, "{name}: {weight} differs by {difference}");
            }
        }
    }
}

fn weights(model: &Bert) -> BTreeMap<String, Vec<f32>> {
    let flat = |value: &Tensor| value.flatten_all().unwrap().to_vec1().unwrap();
    model
        .params()
        .iter()
        .map(|(name, value, _)| (name.to_owned(), flat(value)))
        .collect()
}

#[test]
fn every_case_trains_as_flagembedding_does() {
    let cases = json(&fixture("parity/cases.json"));
    let names: Vec<String> = numbers(&cases["cases"]);
    assert!(names.len() >= 20);
    for name in names {
        check(&name);
    }
}

#[test]
fn the_tokenizer_gives_the_ids_of_every_text() {
    let folder = fixture("parity");
    for name in numbers::<Vec<String>>(&json(&folder.join("cases.json"))["cases"]) {
        let case = json(&folder.join("cases").join(format!("{name}.json")));
        let config = config(&case);
        let tokenizer = Tokenizer::open(folder.join(&config.model.model_name_or_path)).unwrap();
        for (side, max_len) in [
            ("queries", config.data.query_max_len),
            ("passages", config.data.passage_max_len),
        ] {
            for text in case[side].as_array().unwrap() {
                let ids = tokenizer.encode(text["text"].as_str().unwrap(), max_len).unwrap();
                assert_eq!(ids, numbers::<Vec<u32>>(&text["ids"]), "{name}: {text}");
            }
        }
    }
}

#[test]
fn hidden_states_and_every_gradient_agree_with_transformers() {
    for name in ["bert", "bert_gelu_new", "bert_relu", "xlmr"] {
        let file = fixture(&format!("parity/layers/{name}.safetensors"));
        let want = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let integers = |key: &str| -> Vec<u32> {
            let values = want[key].to_dtype(candle_core::DType::U32).unwrap();
            values.to_vec1().unwrap()
        };
        let floats = |key: &str| -> Vec<f32> { want[key].flatten_all().unwrap().to_vec1().unwrap() };
        let model = open_model(&fixture(&format!("parity/models/{name}")));
        let batch = Batch::new(
            model.config(),
            &integers("ids"),
            &[],
            &integers("cu_seqlens"),
            0..,
        )
        .unwrap();
        for keep in [Keep::All, Keep::Inputs] {
            let (hidden, record) = model.forward(&batch, keep, None).unwrap();
            let hidden = hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(
                largest_difference(&hidden, &floats("hidden")) < VECTORS,
                "{name}: hidden states differ"
            );
            let mut grads = Gradients::new(model.params());
            model
                .backward(
                    &batch,
                    record.unwrap(),
                    want["direction"].clone(),
                    None,
                    &mut grads,
                )
                .unwrap();
            for (id, (weight, _, trainable)) in model.params().iter().enumerate() {
                if !trainable {
                    assert!(weight.starts_with("pooler."), "{weight} is not trained");
                    continue;
                }
                let got = grads
                    .to_vec(id)
                    .unwrap()
                    .unwrap_or_else(|| panic!("{name}: {weight} has no gradient"));
                let want = floats(&format!("grad.{weight}"));
                let size = want.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
                let difference = largest_difference(&got, &want) / size;
                assert!(
                    difference < VECTORS,
                    "{name}: the gradient of {weight} differs by {difference}"
                );
            }
        }
    }
}
