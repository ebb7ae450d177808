//! The step of the optimizer and the norm against their formulas.

use super::*;
use crate::cuda::encoder::{Encoder, Sizes};
use crate::cuda::gpu::{Plain, read_values};
use crate::cuda::kernels::CHUNK;
use crate::cuda::optimizer::{Betas, Optimizer, Update};
use crate::nn::{Activation, ParamStore, tensor};

/// An encoder without layers over tables of 96 columns, and a head of 3 numbers.
fn encoder(storage: Storage) -> Option<(Encoder, ParamStore)> {
    let ops = machine(storage, 96, 3)?;
    let weight = |name: &str, rows: usize| {
        let values = normal(rows as u64, rows * 96);
        (name.to_owned(), tensor(values, (rows, 96)).unwrap())
    };
    let mut weights = std::collections::BTreeMap::from([
        weight("embeddings.word_embeddings.weight", 40),
        weight("embeddings.position_embeddings.weight", 20),
        weight("embeddings.token_type_embeddings.weight", 2),
    ]);
    for name in ["embeddings.LayerNorm.bias", "embeddings.LayerNorm.weight"] {
        weights.insert(name.to_owned(), tensor(vec![1.0; 96], 96).unwrap());
    }
    weights.insert(
        "classifier.bias".to_owned(),
        tensor(vec![1.0, 2.0, 3.0], 3).unwrap(),
    );
    let params = ParamStore::new(weights);
    let sizes = Sizes {
        width: 96,
        inner: 128,
        layers: 0,
        activation: Activation::Gelu,
        eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
    };
    Some((
        Encoder::new(ops.gpu, ops.variant, sizes, &params, None).unwrap(),
        params,
    ))
}

fn whole(encoder: &Encoder) -> Optimizer {
    Optimizer::new(encoder, 0..encoder.flat().1).unwrap()
}

fn norm(encoder: &Encoder, optimizer: &Optimizer, live: &[bool]) -> f64 {
    let join = |_: &[f64]| panic!("all gradients are here");
    optimizer.norm(encoder, live, join).unwrap()
}

#[test]
fn a_step_is_the_formula_and_leaves_alone_what_takes_no_part() {
    let Some((encoder, params)) = encoder(Storage::F32) else {
        return;
    };
    let optimizer = whole(&encoder);
    let betas = Betas {
        beta1: 0.9,
        take1: 0.1,
        beta2: 0.999,
        take2: 0.001,
        epsilon: 1e-8,
    };
    let scale = 1024.0;
    encoder.clear_gradients(scale).unwrap();
    let values: Vec<Vec<f32>> = params
        .iter()
        .map(|(_, value, _)| crate::nn::read(value).unwrap().to_vec())
        .collect();
    let gradients: Vec<Vec<f32>> = values
        .iter()
        .enumerate()
        .map(|(id, value)| normal(50 + id as u64, value.len()))
        .collect();
    let live: Vec<bool> = (0..values.len()).map(|id| id != 2).collect();
    let moments: Vec<[Vec<f32>; 2]> = values
        .iter()
        .enumerate()
        .map(|(id, value)| {
            let second = normal(90 + id as u64, value.len())
                .iter()
                .map(|x| x * x)
                .collect();
            [normal(70 + id as u64, value.len()), second]
        })
        .collect();
    let mut squares = 0.0_f64;
    for (id, gradient) in gradients.iter().enumerate() {
        encoder.set_gradient(id, gradient).unwrap();
        let [first, second] = &moments[id];
        optimizer.set_moments(&encoder, id, [first, second]).unwrap();
        if live[id] {
            squares += gradient.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        }
    }
    let norm = norm(&encoder, &optimizer, &live);
    assert!((norm / squares.sqrt() - 1.0).abs() < 1e-6, "{norm}");
    let update = |id: usize| Update {
        keep: 1.0 - 0.01 * id as f32,
        root_correction: 0.5,
        step: -0.1,
    };
    let updates: Vec<Option<Update>> = (0..values.len()).map(|id| live[id].then(|| update(id))).collect();
    optimizer.step(&encoder, &updates, betas, 0.25).unwrap();
    encoder.download(&params, |_, _| true).unwrap();
    for (id, (_, value, _)) in params.iter().enumerate() {
        let got = crate::nn::read(value).unwrap().to_vec();
        let moments_of = |kind| optimizer.moments(&encoder, kind, encoder.floats(id)).unwrap();
        let [first, second] = [0, 1].map(moments_of);
        if !live[id] {
            assert_eq!((got, [first, second]), (values[id].clone(), moments[id].clone()));
            continue;
        }
        for (at, &w) in values[id].iter().enumerate() {
            let g = f64::from(gradients[id][at]) * 0.25;
            let [m, v] = [0, 1].map(|i| f64::from(moments[id][i][at]));
            let (m, v) = (m + 0.1 * (g - m), v * 0.999 + 0.001 * g * g);
            let want = f64::from(w) * f64::from(update(id).keep) - 0.1 * m / (v.sqrt() / 0.5 + 1e-8);
            close("weight", &[got[at]], &[want as f32], 1e-5);
            close("moments", &[first[at], second[at]], &[m as f32, v as f32], 1e-5);
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_makes_the_norm_so() {
    let Some((encoder, params)) = encoder(Storage::F32) else {
        return;
    };
    let optimizer = whole(&encoder);
    encoder.clear_gradients(1.0).unwrap();
    let live = vec![true; params.len()];
    assert_eq!(norm(&encoder, &optimizer, &live), 0.0);
    encoder.set_gradient(0, &[1.0, f32::NAN, 2.0]).unwrap();
    assert!(norm(&encoder, &optimizer, &live).is_nan());
    encoder.set_gradient(0, &[1.0, f32::INFINITY, 2.0]).unwrap();
    assert!(norm(&encoder, &optimizer, &live).is_infinite());
    let without: Vec<bool> = (0..params.len()).map(|id| id != 0).collect();
    assert_eq!(norm(&encoder, &optimizer, &without), 0.0);
}

#[test]
fn a_stretch_of_the_gradients_is_kept_and_has_the_norm_of_all() {
    let Some((encoder, params)) = encoder(Storage::F32) else {
        return;
    };
    let live = vec![true; params.len()];
    let tables = encoder.store.layout.part(crate::nn::Part::Tables);
    let whole = whole(&encoder);
    encoder.clear_gradients(2.0).unwrap();
    let values = normal(5, tables.len());
    let all = encoder.gradients().unwrap();
    encoder
        .ops
        .gpu
        .upload(all.at(tables.start), f32::bytes(&values))
        .unwrap();
    encoder.set_gradient(0, &[3.0, 4.0, 5.0]).unwrap();
    let want = norm(&encoder, &whole, &live);

    let mut sums = Vec::new();
    // The border lies within the tables.
    let border = tables.start + 2 * CHUNK;
    for range in [0..border, border..tables.end] {
        encoder.keep_only(range.clone()).unwrap();
        encoder.clear_gradients(2.0).unwrap();
        encoder.set_gradient(0, &[3.0, 4.0, 5.0]).unwrap();
        // Twice half of it: what is kept adds up, and the next turn begins with zeros.
        for _ in 0..2 {
            let turn = encoder.gradients_of(crate::nn::Part::Tables).unwrap();
            let found: Vec<f32> = read_values(&encoder.ops.gpu, turn.at(tables.start), tables.len()).unwrap();
            assert!(found.iter().all(|&x| x == 0.0));
            let half: Vec<f32> = values.iter().map(|x| x / 2.0).collect();
            encoder
                .ops
                .gpu
                .upload(turn.at(tables.start), f32::bytes(&half))
                .unwrap();
            encoder.keep(&turn).unwrap();
        }
        let kept = encoder.gradients().unwrap();
        assert_eq!(kept.range(), range);
        let start = range.start.max(tables.start);
        let found: Vec<f32> = read_values(&encoder.ops.gpu, kept.at(start), range.end - start).unwrap();
        assert_eq!(found, values[start - tables.start..range.end - tables.start]);
        let part = Optimizer::new(&encoder, range).unwrap();
        let got = part.norm(&encoder, &live, |own| {
            sums.extend_from_slice(own);
            let mut all = sums.clone();
            all.resize(encoder.flat().1 / CHUNK, 0.0);
            Ok(all)
        });
        if sums.len() == encoder.flat().1 / CHUNK {
            assert_eq!(got.unwrap(), want);
        }
    }
    assert_eq!(sums.len(), encoder.flat().1 / CHUNK);
}
