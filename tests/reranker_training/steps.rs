//! One step of a cross-encoder: complete, reproducible, and the same however it is cut.

use std::collections::BTreeMap;

use bge_core::ErrorKind;
use bge_core::models::{Batch, Bert, CrossEncoder, Keep};
use bge_core::nn::Gradients;
use bge_core::random::Draws;
use bge_core::tokenize::TokenBatch;
use bge_core::train::{PairBatch, StepReport, Stepper};
use bge_tests::{bits, largest_difference};
use candle_core::{Device, Tensor};

use super::{dropout_folder, folder, lay, settings};

fn with_dropout(name: &str, p: f32) -> CrossEncoder {
    let place = tempfile::tempdir().unwrap();
    dropout_folder(name, place.path(), p);
    CrossEncoder::open(place.path()).unwrap()
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

/// The trained weights of an encoder are those of the model around it.
#[test]
fn the_encoder_of_a_cross_encoder_shares_its_weights() {
    let model = CrossEncoder::open(folder().join("models/bert")).unwrap();
    let encoder: &Bert = model.encoder();
    assert_eq!(encoder.params().len(), model.params().len());
    assert!(encoder.params().contains("classifier.weight"));
}
