//! Encoding and scoring on emulated GPUs, one and two.

use std::collections::BTreeMap;

use super::encoder::Scorer;
use super::schedule::{BatchLimits, VectorShape, encode_tokens};
use crate::config::PoolingMethod;
use crate::cuda::gpu::Storage;
use crate::models::checks::{config, model, on_gpu};
use crate::models::{Bert, CrossEncoder};
use crate::nn::tensor;
use crate::tokenize::TokenBatch;

/// Five batches of texts of different lengths, not in their order.
const LIMITS: BatchLimits = BatchLimits {
    texts: 2,
    tokens: 64,
    groups: 0,
};

fn texts() -> TokenBatch {
    let rows: Vec<Vec<u32>> = [3_u32, 20, 1, 9, 14, 2, 30, 5, 11]
        .into_iter()
        .enumerate()
        .map(|(text, length)| {
            (0..length)
                .map(|at| (at * 7 + text as u32 * 5) % 58 + 2)
                .collect()
        })
        .collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    TokenBatch::from_rows(&rows).unwrap()
}

fn on_gpus(model: Bert, count: usize) -> Option<Bert> {
    (0..count).try_fold(model, |model, _| on_gpu(model, Storage::F32))
}

#[test]
fn vectors_are_the_same_on_any_number_of_gpus() {
    let tokens = texts();
    let encode = |model: &Bert| {
        let shape = VectorShape {
            pooling: PoolingMethod::Mean,
            truncate_dim: None,
            normalize: true,
        };
        let mut heard = Vec::new();
        let vectors = encode_tokens(model, &tokens, shape, LIMITS, |done| heard.push(done)).unwrap();
        // Batches of two, which end in any order.
        assert_eq!((heard.len(), heard.last()), (5, Some(&9)));
        vectors
    };
    let host = model(&config("bert", 96, 3, 0.0));
    let Some(one) = on_gpus(host.clone(), 1) else {
        return;
    };
    let one = encode(&one);
    assert_eq!(one, encode(&on_gpus(host.clone(), 2).unwrap()));
    // In the order of the input, which is that of the CPU.
    let apart = host_apart(&encode(&host).data, &one.data);
    assert!(apart < 1e-4, "{apart}");
}

#[test]
fn scores_are_the_same_on_any_number_of_gpus() {
    let config = config("bert", 96, 3, 0.0);
    let encoder = model(&config);
    let weights = encoder.params().iter();
    let mut weights: BTreeMap<_, _> = weights
        .map(|(name, value, _)| (name.to_owned(), value.clone()))
        .collect();
    for (name, shape) in [
        ("pooler.dense.weight", &[96, 96][..]),
        ("classifier.weight", &[1, 96]),
        ("classifier.bias", &[1]),
    ] {
        let values = (0..shape.iter().product()).map(|at: usize| (at as f32 * 0.37).sin() * 0.2);
        weights.insert(name.to_owned(), tensor(values.collect(), shape).unwrap());
    }
    let tokens = texts();
    let score = |gpus: usize| {
        let mut model = CrossEncoder::new(config.clone(), weights.clone()).unwrap();
        *model.encoder_mut() = on_gpus(model.encoder().clone(), gpus)?;
        Some(
            Scorer::CrossEncoder(model)
                .scores(&tokens, LIMITS, |_| {})
                .unwrap(),
        )
    };
    let (Some(one), Some(two)) = (score(1), score(2)) else {
        return;
    };
    assert_eq!(one, two);
    let apart = host_apart(&score(0).unwrap(), &one);
    assert!(apart < 1e-4, "{apart}");
}

fn host_apart(host: &[f32], gpu: &[f32]) -> f32 {
    assert_eq!(host.len(), gpu.len());
    let pairs = host.iter().zip(gpu);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
