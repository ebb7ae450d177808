//! The encoder on an emulated GPU against the encoder on the CPU.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::config::PoolingMethod;
use crate::cuda::emulator::emulator;
use crate::cuda::gpu::Storage;
use crate::cuda::kernels::Variant;
use crate::nn::{Gradients, read, tensor};
use crate::random::Draws;

/// Two layers; what decides the kernels is that of other tests, which share what was compiled.
pub(crate) fn config(family: &str, width: usize, heads: usize, dropout: f64) -> EncoderConfig {
    let text = format!(
        r#"{{"model_type": "{family}", "vocab_size": 60, "hidden_size": {width}, "num_hidden_layers": 2,
        "num_attention_heads": {heads}, "intermediate_size": 80, "hidden_act": "gelu", "hidden_dropout_prob": {dropout},
        "attention_probs_dropout_prob": {dropout}, "max_position_embeddings": 90, "type_vocab_size": 2,
        "layer_norm_eps": 1e-5, "pad_token_id": 1}}"#
    );
    EncoderConfig::parse(&text).unwrap()
}

/// A model with random weights.
pub(crate) fn model(config: &EncoderConfig) -> Bert {
    let (width, inner) = (config.hidden_size, config.intermediate_size);
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    for (table, rows) in [("word", 60), ("position", 90), ("token_type", 2)] {
        add(format!("embeddings.{table}_embeddings.weight"), &[rows, width]);
    }
    add("embeddings.LayerNorm.weight".to_owned(), &[width]);
    add("embeddings.LayerNorm.bias".to_owned(), &[width]);
    for layer in 0..config.num_hidden_layers {
        for (part, [outputs, inputs]) in [
            ("attention.self.query", [width, width]),
            ("attention.self.key", [width, width]),
            ("attention.self.value", [width, width]),
            ("attention.output.dense", [width, width]),
            ("intermediate.dense", [inner, width]),
            ("output.dense", [width, inner]),
        ] {
            add(format!("encoder.layer.{layer}.{part}.weight"), &[outputs, inputs]);
            add(format!("encoder.layer.{layer}.{part}.bias"), &[outputs]);
        }
        for part in ["attention.output", "output"] {
            add(format!("encoder.layer.{layer}.{part}.LayerNorm.weight"), &[width]);
            add(format!("encoder.layer.{layer}.{part}.LayerNorm.bias"), &[width]);
        }
    }
    add("pooler.dense.bias".to_owned(), &[width]);
    let mut draws = Draws::new(5);
    let mut weight = |(name, shape): (String, Vec<usize>)| {
        let offset = if name.ends_with("LayerNorm.weight") {
            1.0
        } else {
            0.0
        };
        let values = (0..shape.iter().product()).map(|_| (draws.normal() * 0.15 + offset) as f32);
        let values = tensor(values.collect(), shape).unwrap();
        (name, values)
    };
    let weights: BTreeMap<_, _> = shapes.into_iter().map(&mut weight).collect();
    Bert::new(config.clone(), weights).unwrap()
}

/// Texts of 1, 2, 33 and 70 tokens, with a padding token inside.
pub(crate) fn batch(config: &EncoderConfig) -> Batch {
    let lengths = [1_u32, 2, 33, 70];
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets.last().unwrap() + length);
    }
    let ids: Vec<u32> = (0..106).map(|i| i * i % 59).collect();
    let types: Vec<u32> = (0..106).map(|i| u32::from(i % 5 == 0)).collect();
    Batch::new(config, &ids, &types, &offsets, 3..7).unwrap()
}

/// The model on an emulated GPU; `None` where there is no compiler.
pub(crate) fn on_gpu(mut model: Bert, storage: Storage) -> Option<Bert> {
    let config = model.config();
    let variant = Variant::new(storage, config.hidden_size, config.num_attention_heads).unwrap();
    model.move_to_gpu(emulator(variant)?, variant, None).unwrap();
    Some(model)
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance * largest.max(0.01),
            "{what}: {got} is not {want} at {at}, and the largest is {largest}"
        );
    }
}

/// Vectors and all gradients of both, for each pooling, with and without what is computed again.
fn compare(family: &str, storage: Storage, width: usize, heads: usize, dropout: Option<u64>, tolerance: f32) {
    let config = config(family, width, heads, 0.2);
    let host = model(&config);
    let Some(gpu) = on_gpu(host.clone(), storage) else {
        return;
    };
    let batch = batch(&config);
    let mut draws = Draws::new(8);
    let d_vectors: Vec<f32> = (0..4 * width).map(|_| draws.normal() as f32).collect();
    let d_vectors = tensor(d_vectors, (4, width)).unwrap();
    for pooling in [PoolingMethod::Cls, PoolingMethod::Mean, PoolingMethod::LastToken] {
        let mut gradients = Gradients::new(host.params());
        let (want, record) = host.vectors(&batch, pooling, Keep::All, dropout).unwrap();
        host.vectors_backward(
            &batch,
            pooling,
            record.unwrap(),
            &d_vectors,
            dropout,
            &mut gradients,
        )
        .unwrap();
        for keep in [Keep::All, Keep::Inputs, Keep::Nothing] {
            let what = format!("{family}, {storage:?}, {pooling}, {keep:?}, dropout {dropout:?}");
            let (got, record) = gpu.vectors(&batch, pooling, keep, dropout).unwrap();
            assert_eq!(got.dims(), want.dims());
            close(&what, &read(&got).unwrap(), &read(&want).unwrap(), tolerance);
            let Some(record) = record else {
                assert_eq!(keep, Keep::Nothing);
                continue;
            };
            let encoder = Arc::clone(gpu.gpu().unwrap());
            encoder.clear_gradients(1.0).unwrap();
            let mut none = Gradients::new(gpu.params());
            gpu.vectors_backward(&batch, pooling, record, &d_vectors, dropout, &mut none)
                .unwrap();
            for (id, (name, _, trainable)) in gpu.params().iter().enumerate() {
                assert!(none.get(id).is_none());
                // All keys' biases are one: the softmax does not see it.
                if !trainable || name.ends_with("key.bias") {
                    continue;
                }
                let want = gradients.to_vec(id).unwrap().unwrap();
                close(
                    &format!("{name}, {what}"),
                    &encoder.gradient(id).unwrap(),
                    &want,
                    tolerance * 4.0,
                );
            }
        }
    }
}

#[test]
fn bert_on_a_gpu_is_bert_on_the_cpu() {
    compare("bert", Storage::F32, 96, 3, None, 2e-5);
    compare("bert", Storage::F32, 96, 3, Some(77), 2e-5);
}

#[test]
fn xlm_roberta_on_a_gpu_is_that_on_the_cpu() {
    compare("xlm-roberta", Storage::F32, 40, 5, Some(78), 2e-5);
}

#[test]
fn half_precision_is_near_the_cpu() {
    compare("bert", Storage::Bf16, 96, 3, Some(77), 6e-2);
    compare("xlm-roberta", Storage::F16, 64, 1, Some(77), 8e-3);
}

#[test]
fn hidden_states_leave_a_gpu_and_gradients_add_up() {
    let config = config("bert", 96, 3, 0.0);
    let host = model(&config);
    let Some(gpu) = on_gpu(host.clone(), Storage::F32) else {
        return;
    };
    let batch = batch(&config);
    let (want, record) = host.forward(&batch, Keep::All, None).unwrap();
    let (got, on_gpu) = gpu.forward(&batch, Keep::All, None).unwrap();
    close("hidden states", &read(&got).unwrap(), &read(&want).unwrap(), 2e-5);
    let mut gradients = Gradients::new(host.params());
    let encoder = Arc::clone(gpu.gpu().unwrap());
    encoder.clear_gradients(8.0).unwrap();
    host.backward(&batch, record.unwrap(), want.clone(), None, &mut gradients)
        .unwrap();
    gpu.backward(&batch, on_gpu.unwrap(), want.clone(), None, &mut gradients)
        .unwrap();
    let (_, again) = gpu.forward(&batch, Keep::Inputs, None).unwrap();
    gpu.backward(&batch, again.unwrap(), want, None, &mut gradients)
        .unwrap();
    for (id, (name, ..)) in host
        .params()
        .iter()
        .enumerate()
        .filter(|(_, (name, ..))| !name.ends_with("key.bias"))
    {
        if let Some(want) = gradients.to_vec(id).unwrap() {
            let twice: Vec<f32> = want.iter().map(|x| x * 2.0).collect();
            close(name, &encoder.gradient(id).unwrap(), &twice, 1e-4);
        }
    }
}

#[test]
fn the_same_text_has_the_same_bits_in_any_batch() {
    if crate::cuda::emulator::real().is_some() {
        return; // cuBLASLt chooses its way by the size of the batch
    }
    let config = config("bert", 96, 3, 0.0);
    let Some(gpu) = on_gpu(model(&config), Storage::F32) else {
        return;
    };
    let whole = batch(&config);
    let (all, _) = gpu
        .vectors(&whole, PoolingMethod::Mean, Keep::Nothing, None)
        .unwrap();
    let ids: Vec<u32> = (0..106).map(|i| i * i % 59).collect();
    let types: Vec<u32> = (0..106).map(|i| u32::from(i % 5 == 0)).collect();
    let alone = Batch::new(&config, &ids[3..36], &types[3..36], &[0, 33], [0]).unwrap();
    let (one, _) = gpu
        .vectors(&alone, PoolingMethod::Mean, Keep::Nothing, None)
        .unwrap();
    assert_eq!(*read(&one).unwrap(), read(&all).unwrap()[2 * 96..3 * 96]);
}
