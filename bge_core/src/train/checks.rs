//! Steps with the encoder on an emulated GPU against steps on the CPU.

mod kinds;
mod memory;
mod ranks;
mod runs;
mod travel;
mod zero;

use super::batch::TrainBatch;
use super::step::{StepReport, Stepper};
use crate::config::TrainingArguments;
use crate::cuda::emulator::emulator;
use crate::cuda::gpu::Storage;
use crate::cuda::kernels::Variant;
use crate::models::EncoderConfig;
use crate::models::checks::{config, model};
use crate::nn::read;
use crate::tokenize::TokenBatch;

fn texts(lengths: &[u32], first: u32) -> TokenBatch {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets.last().unwrap() + length);
    }
    let tokens = *offsets.last().unwrap();
    TokenBatch {
        ids: (0..tokens).map(|i| (i * 7 + first) % 58 + 2).collect(),
        type_ids: None,
        offsets,
    }
}

/// Three queries with two passages each.
fn batch(number: u32) -> TrainBatch {
    TrainBatch {
        queries: texts(&[3, 5, 4], number),
        passages: texts(&[9, 1, 20, 12, 7, 30], number * 3 + 1),
        no_in_batch_neg: false,
        teacher_scores: None,
    }
}

fn arguments() -> TrainingArguments {
    TrainingArguments {
        learning_rate: 1e-3,
        weight_decay: 0.01,
        temperature: 0.1,
        gradient_accumulation_steps: 2,
        max_grad_norm: 1.0,
        ..TrainingArguments::default()
    }
}

/// The encoder of most tests with so many layers.
fn deep(width: usize, heads: usize, layers: usize) -> EncoderConfig {
    let mut raw = config("bert", width, heads, 0.1).raw;
    raw.insert("num_hidden_layers".to_owned(), layers.into());
    EncoderConfig::parse(&serde_json::Value::Object(raw).to_string()).unwrap()
}

fn stepper(arguments: &TrainingArguments, storage: Option<Storage>) -> Option<Stepper> {
    let (width, heads) = if storage == Some(Storage::F16) {
        (64, 1)
    } else {
        (96, 3)
    };
    let config = config("bert", width, heads, 0.1);
    let mut stepper = Stepper::new(model(&config), arguments, 10).unwrap();
    if let Some(storage) = storage {
        let variant = Variant::new(storage, width, heads).unwrap();
        stepper.put_on(emulator(variant)?, variant).unwrap();
    }
    Some(stepper)
}

fn run(stepper: &mut Stepper, steps: std::ops::Range<u32>) -> Vec<StepReport> {
    let step = |step: u32| stepper.step(&[batch(2 * step), batch(2 * step + 1)]).unwrap();
    steps.map(step).collect()
}

fn weights(stepper: &Stepper) -> Vec<(String, Vec<f32>)> {
    stepper.gather().unwrap();
    read_all(stepper)
}

/// The weights that are here.
fn read_all(stepper: &Stepper) -> Vec<(String, Vec<f32>)> {
    let params = stepper.model().params();
    params
        .iter()
        .map(|(name, value, _)| (name.to_owned(), read(value).unwrap().to_vec()))
        .collect()
}

/// The largest difference of two sets of weights; keys' biases have no gradient but rounding, which Adam makes steps of.
fn apart(a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)]) -> f32 {
    let pairs = a
        .iter()
        .zip(b)
        .filter(|((name, _), _)| !name.ends_with("key.bias"));
    pairs
        .flat_map(|((_, a), (_, b))| a.iter().zip(b).map(|(a, b)| (a - b).abs()))
        .fold(0.0, f32::max)
}

#[test]
fn steps_on_a_gpu_are_those_of_the_cpu() {
    for arguments in [
        arguments(),
        TrainingArguments {
            sub_batch_size: Some(2),
            gradient_checkpointing: true,
            fix_position_embedding: true,
            ..arguments()
        },
    ] {
        let mut host = stepper(&arguments, None).unwrap();
        let Some(mut gpu) = stepper(&arguments, Some(Storage::F32)) else {
            return;
        };
        let (want, got) = (run(&mut host, 0..3), run(&mut gpu, 0..3));
        for (want, got) in want.iter().zip(&got) {
            assert!(
                (want.loss - got.loss).abs() < 2e-4 * want.loss,
                "{want:?} {got:?}"
            );
            assert!((want.grad_norm - got.grad_norm).abs() < 2e-3 * want.grad_norm);
            assert_eq!((want.tokens, want.learning_rate), (got.tokens, got.learning_rate));
        }
        assert!((want[0].grad_norm - got[0].grad_norm).abs() < 1e-4 * want[0].grad_norm);
        // A first step of Adam is the sign of the gradient: where that is near 0, rounding decides; 1e-3 is the rate.
        let apart = apart(&weights(&host), &weights(&gpu));
        assert!(apart < 2e-3, "{apart}");
    }
}

#[test]
fn a_run_on_a_gpu_goes_on_as_if_it_had_not_stopped() {
    let arguments = arguments();
    let Some(mut whole) = stepper(&arguments, Some(Storage::F32)) else {
        return;
    };
    run(&mut whole, 0..2);
    let names: Vec<String> = whole.moments().unwrap().into_keys().collect();
    let tensors = whole
        .moments()
        .unwrap()
        .into_iter()
        .map(|(name, values)| (name, values.into_owned()))
        .collect();
    let (steps, before) = (whole.optimizer().state_steps(), weights(&whole));
    let after = run(&mut whole, 2..4);

    let mut again = stepper(&arguments, Some(Storage::F32)).unwrap();
    let values: Vec<_> = again
        .model()
        .params()
        .iter()
        .map(|(_, value, _)| value.clone())
        .collect();
    for (id, ((_, floats), value)) in before.iter().zip(&values).enumerate() {
        again.set_weight(id, value, floats).unwrap();
    }
    again.resume(2, 2).load_state(tensors, &steps).unwrap();
    assert_eq!(run(&mut again, 2..4), after);
    assert_eq!(weights(&again), weights(&whole));
    // The names in a checkpoint are those of the CPU's.
    let mut host = stepper(&arguments, None).unwrap();
    run(&mut host, 0..1);
    assert_eq!(names, host.moments().unwrap().into_keys().collect::<Vec<_>>());
}

#[test]
fn half_precision_learns_too() {
    let arguments = TrainingArguments {
        gradient_accumulation_steps: 1,
        ..arguments()
    };
    for storage in [Storage::Bf16, Storage::F16] {
        let Some(mut stepper) = stepper(&arguments, Some(storage)) else {
            return;
        };
        let losses: Vec<f64> = (0..6).map(|_| stepper.step(&[batch(0)]).unwrap().loss).collect();
        assert!(losses[5] < losses[0] * 0.9, "{storage:?}: {losses:?}");
    }
}
