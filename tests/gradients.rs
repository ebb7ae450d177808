//! Gradients of whole networks: complete, reproducible, and the same however they are computed.

use std::collections::BTreeMap;

use bge_core::config::{FinetuneConfig, PoolingMethod};
use bge_core::models::{Batch, Bert, Keep, pool, pool_backward};
use bge_core::nn::{
    Attention, DropoutPlan, Embeddings, Gradients, ParamStore, ResidualNorm, TableSizes, TokenRows,
};
use bge_core::random::Draws;
use bge_core::train::Stepper;
use bge_tests::{bits, network, random_batch, token_rows};
use candle_core::{Device, Tensor};

const MODELS: [&str; 2] = ["bert", "xlmr"];

fn lay(model: &Bert, rows: &[Vec<u32>], texts: impl IntoIterator<Item = u64>) -> Batch {
    let mut offsets = vec![0];
    for row in rows {
        offsets.push(offsets[offsets.len() - 1] + row.len() as u32);
    }
    Batch::new(model.config(), &rows.concat(), &[], &offsets, texts).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn direction(tokens: usize, width: usize, seed: u64) -> Tensor {
    let mut draws = Draws::new(seed);
    let values: Vec<f32> = (0..tokens * width).map(|_| draws.normal() as f32).collect();
    Tensor::from_vec(values, (tokens, width), &Device::Cpu).unwrap()
}

/// Hidden states and every gradient of `Σ hidden * direction`, by name.
fn pass(
    model: &Bert,
    batch: &Batch,
    keep: Keep,
    dropout: Option<u64>,
) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
    let (hidden, record) = model.forward(batch, keep, dropout).unwrap();
    let mut grads = Gradients::new(model.params());
    let d_hidden = direction(batch.tokens(), model.config().hidden_size, 1);
    model
        .backward(batch, record.unwrap(), d_hidden, dropout, &mut grads)
        .unwrap();
    let gradients = model.params().iter().enumerate();
    let gradients = gradients
        .filter_map(|(id, (name, ..))| Some((name.to_owned(), grads.to_vec(id).unwrap()?)))
        .collect();
    (flat(&hidden), gradients)
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_trained_weight_gets_a_gradient_also_with_dropout_and_with_recomputation() {
    for name in MODELS {
        for dropout in [0.0, 0.1] {
            let model = network(name, dropout);
            let rows = token_rows(model.config().vocab_size, &[7, 12, 2, 30]);
            let batch = lay(&model, &rows, 0..);
            for keep in [Keep::All, Keep::Inputs] {
                let (_, gradients) = pass(&model, &batch, keep, (dropout > 0.0).then_some(9));
                for (weight, _, trainable) in model.params().iter() {
                    let Some(gradient) = gradients.get(weight) else {
                        assert!(weight.starts_with("pooler.") && !trainable, "{name}: {weight}");
                        continue;
                    };
                    let size = norm(gradient);
                    // Adding one number to a whole row of scores changes no softmax.
                    if !weight.ends_with("attention.self.key.bias") {
                        assert!(
                            size > 1e-3,
                            "{name}, dropout {dropout}: {weight} has gradient {size}"
                        );
                    } else if dropout == 0.0 {
                        assert!(size < 1e-2, "{name}: {weight} has gradient {size}");
                    }
                }
            }
        }
    }
}

#[test]
fn recomputing_the_layers_gives_the_same_bits_as_keeping_them() {
    for name in MODELS {
        for dropout in [0.0, 0.1] {
            let model = network(name, dropout);
            let rows = token_rows(model.config().vocab_size, &[40, 1, 17, 5, 33]);
            let batch = lay(&model, &rows, 0..);
            let all = pass(&model, &batch, Keep::All, Some(3));
            assert_eq!(pass(&model, &batch, Keep::Inputs, Some(3)), all, "{name}");
            let (hidden, record) = model.forward(&batch, Keep::Nothing, Some(3)).unwrap();
            assert!(record.is_none());
            assert_eq!(flat(&hidden), all.0);
        }
    }
}

#[test]
fn the_whole_backward_agrees_with_finite_differences_with_dropout_on() {
    for name in MODELS {
        let model = network(name, 0.1);
        let rows = token_rows(model.config().vocab_size, &[9, 4, 21]);
        let batch = lay(&model, &rows, 0..);
        let (_, gradients) = pass(&model, &batch, Keep::All, Some(5));
        let want = flat(&direction(batch.tokens(), model.config().hidden_size, 1));
        let value = |model: &Bert| -> f64 {
            let (hidden, _) = model.forward(&batch, Keep::Nothing, Some(5)).unwrap();
            let hidden = flat(&hidden);
            hidden
                .iter()
                .zip(&want)
                .map(|(h, d)| f64::from(*h) * f64::from(*d))
                .sum()
        };
        let config = model.config().clone();
        let weights: BTreeMap<String, Tensor> = model
            .params()
            .iter()
            .map(|(name, value, _)| (name.to_owned(), value.clone()))
            .collect();
        for (weight, gradient) in &gradients {
            if weight.ends_with("key.bias") {
                continue;
            }
            // Along the gradient itself the slope is its length; f32 forwards leave about three digits of it.
            let size = norm(gradient);
            let step = 1e-3 / size.max(1e-6) * norm(&flat(&weights[weight])).max(1.0);
            let moved = |by: f64| {
                let values: Vec<f32> = flat(&weights[weight])
                    .iter()
                    .zip(gradient)
                    .map(|(w, g)| (f64::from(*w) + by * f64::from(*g)) as f32)
                    .collect();
                let mut weights = weights.clone();
                let shape = weights[weight].shape().clone();
                weights.insert(
                    weight.clone(),
                    Tensor::from_vec(values, shape, &Device::Cpu).unwrap(),
                );
                value(&Bert::new(config.clone(), weights).unwrap())
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            let ratio = slope / (size * size);
            assert!(
                (ratio - 1.0).abs() < 0.02,
                "{name}: {weight}: slope over gradient is {ratio}"
            );
        }
    }
}

#[test]
fn a_vector_has_the_bits_and_the_gradients_of_the_whole_last_layer() {
    for name in MODELS {
        let model = network(name, 0.1);
        let width = model.config().hidden_size;
        let rows = token_rows(model.config().vocab_size, &[40, 1, 17, 2, 33]);
        let batch = lay(&model, &rows, 0..);
        let d_vectors = direction(rows.len(), width, 4);
        for pooling in [PoolingMethod::Cls, PoolingMethod::Mean, PoolingMethod::LastToken] {
            for (keep, dropout) in [(Keep::All, None), (Keep::All, Some(3)), (Keep::Inputs, Some(3))] {
                let (hidden, record) = model.forward(&batch, keep, dropout).unwrap();
                let whole = flat(&pool(pooling, &hidden, batch.offsets()).unwrap());
                let mut want = Gradients::new(model.params());
                let d_hidden = pool_backward(pooling, &d_vectors, batch.offsets()).unwrap();
                model
                    .backward(&batch, record.unwrap(), d_hidden, dropout, &mut want)
                    .unwrap();

                let (vectors, record) = model.vectors(&batch, pooling, keep, dropout).unwrap();
                assert_eq!(vectors.dims(), [rows.len(), width]);
                assert_eq!(flat(&vectors), whole, "{name} {pooling:?}");
                let mut got = Gradients::new(model.params());
                model
                    .vectors_backward(&batch, pooling, record.unwrap(), &d_vectors, dropout, &mut got)
                    .unwrap();
                for (id, (weight, ..)) in model.params().iter().enumerate() {
                    let (got, want) = (got.to_vec(id).unwrap(), want.to_vec(id).unwrap());
                    let (Some(got), Some(want)) = (&got, &want) else {
                        assert_eq!(got, want, "{weight}");
                        continue;
                    };
                    let size = want.iter().fold(1e-3_f32, |size, x| size.max(x.abs()));
                    for (got, want) in got.iter().zip(want) {
                        let difference = (got - want).abs() / size;
                        assert!(
                            difference < 1e-5,
                            "{name} {pooling:?} {weight}: {got}, not {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_text_meets_the_same_masks_in_any_grouping() {
    for name in MODELS {
        let model = network(name, 0.1);
        let rows = token_rows(model.config().vocab_size, &[12, 3, 25, 7]);
        let together = flat(
            &model
                .forward(&lay(&model, &rows, 0..), Keep::Nothing, Some(2))
                .unwrap()
                .0,
        );
        let mut apart = Vec::new();
        for (text, row) in rows.iter().enumerate() {
            let batch = lay(&model, std::slice::from_ref(row), [text as u64]);
            apart.extend(flat(&model.forward(&batch, Keep::Nothing, Some(2)).unwrap().0));
        }
        assert!(apart == together, "{name}");
        let other_step = flat(
            &model
                .forward(&lay(&model, &rows, 0..), Keep::Nothing, Some(3))
                .unwrap()
                .0,
        );
        assert_ne!(other_step, together);
        let other_text = flat(
            &model
                .forward(&lay(&model, &rows, 1..), Keep::Nothing, Some(2))
                .unwrap()
                .0,
        );
        assert_ne!(other_text, together);
    }
}

fn store(tensors: &[(&str, Vec<f32>, &[usize])]) -> ParamStore {
    let tensors = tensors.iter().map(|(name, values, shape)| {
        let tensor = Tensor::from_vec(values.clone(), *shape, &Device::Cpu).unwrap();
        ((*name).to_owned(), tensor)
    });
    ParamStore::new(tensors.collect())
}

#[test]
fn dropout_drops_its_share_and_keeps_the_mean_in_all_three_places() {
    let (tokens, width, p) = (600, 64, 0.1_f32);
    let identities: Vec<u64> = (0..tokens as u64).map(|t| (t / 50) << 32 | (t % 50)).collect();
    let plan = Some(DropoutPlan {
        key: 77,
        tokens: &identities,
    });
    let ids: Vec<u32> = (0..tokens as u32).map(|t| t % 30).collect();
    let zeros = vec![0; tokens];
    let mut draws = Draws::new(1);
    let mut noise = |len: usize| -> Vec<f32> { (0..len).map(|_| draws.normal() as f32).collect() };

    let params = store(&[
        (
            "embeddings.word_embeddings.weight",
            noise(30 * width),
            &[30, width],
        ),
        ("embeddings.position_embeddings.weight", noise(width), &[1, width]),
        (
            "embeddings.token_type_embeddings.weight",
            noise(width),
            &[1, width],
        ),
        ("embeddings.LayerNorm.weight", vec![1.0; width], &[width]),
        ("embeddings.LayerNorm.bias", vec![0.0; width], &[width]),
    ]);
    let sizes = TableSizes {
        words: 30,
        positions: 1,
        types: 1,
    };
    let embeddings = Embeddings::load(&params, sizes, width, 1e-12, p).unwrap();
    let rows = TokenRows {
        words: &ids,
        positions: &zeros,
        types: &zeros,
    };
    let plain = flat(&embeddings.forward(rows, None, 0).unwrap().0);
    let dropped = flat(&embeddings.forward(rows, plan, 0).unwrap().0);
    let mut gone = [0_usize; 4];
    for (x, y) in plain.iter().zip(&dropped) {
        gone[0] += usize::from(*y == 0.0);
        assert!(*y == 0.0 || (y - x / (1.0 - p)).abs() < 1e-5);
    }

    // A map to ones and no residual: each row has two values, the lower one where it was dropped.
    let params = store(&[
        ("o.dense.weight", vec![0.0; width * width], &[width, width]),
        ("o.dense.bias", vec![1.0; width], &[width]),
        ("o.LayerNorm.weight", vec![1.0; width], &[width]),
        ("o.LayerNorm.bias", vec![0.0; width], &[width]),
    ]);
    let output = ResidualNorm::load(&params, "o", width, width, 1e-12, p).unwrap();
    let nothing = Tensor::zeros((tokens, width), candle_core::DType::F32, &Device::Cpu).unwrap();
    let masks: Vec<Vec<bool>> = [2, 3]
        .into_iter()
        .map(|site| {
            let (y, _) = output.forward(&nothing, &nothing, plan, site).unwrap();
            flat(&y).iter().map(|y| *y < -1e-3).collect()
        })
        .collect();
    for (index, mask) in masks.iter().enumerate() {
        gone[1 + index] = mask.iter().filter(|gone| **gone).count();
    }
    // Two places draw independently: together they drop p², not p.
    gone[3] = masks[0].iter().zip(&masks[1]).filter(|(a, b)| **a && **b).count();
    let all = (tokens * width) as f64;
    for (count, share) in gone.iter().zip([0.1, 0.1, 0.1, 0.01]) {
        let got = *count as f64 / all;
        let spread = (share * (1.0 - share) / all).sqrt();
        assert!((got - share).abs() < 5.0 * spread, "{got} dropped, not {share}");
    }

    // Equal scores and values of one: a context is the mean of its mask's factors.
    let none = || vec![0.0; width * width];
    let params = store(&[
        ("a.query.weight", none(), &[width, width]),
        ("a.query.bias", vec![0.0; width], &[width]),
        ("a.key.weight", none(), &[width, width]),
        ("a.key.bias", vec![0.0; width], &[width]),
        ("a.value.weight", none(), &[width, width]),
        ("a.value.bias", vec![1.0; width], &[width]),
    ]);
    let heads = 4;
    let attention = Attention::load(&params, "a", width, heads, p).unwrap();
    let offsets: Vec<u32> = (0..=12).map(|text| text * 50).collect();
    let (context, _) = attention.forward(&nothing, &offsets, plan, 1).unwrap();
    let context = flat(&context);
    let means: Vec<f64> = context
        .chunks(width / heads)
        .map(|head| f64::from(head[0]))
        .collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let variance = means.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / means.len() as f64;
    let want = 0.1 / 0.9 / 50.0;
    assert!(
        (mean - 1.0).abs() < 5.0 * (want / means.len() as f64).sqrt(),
        "{mean}"
    );
    assert!(
        (variance / want - 1.0).abs() < 0.15,
        "{variance}, not {want}: rows share masks"
    );
}

#[test]
fn pooling_and_its_gradient_are_those_of_the_three_definitions() {
    let (width, offsets) = (5, [0_u32, 1, 4, 10]);
    let hidden = direction(10, width, 3);
    let rows: Vec<Vec<f32>> = hidden.to_vec2().unwrap();
    let gradient = direction(3, width, 4);
    let d_rows: Vec<Vec<f32>> = gradient.to_vec2().unwrap();
    for method in [PoolingMethod::Cls, PoolingMethod::Mean, PoolingMethod::LastToken] {
        let pooled: Vec<Vec<f32>> = pool(method, &hidden, &offsets).unwrap().to_vec2().unwrap();
        let back: Vec<Vec<f32>> = pool_backward(method, &gradient, &offsets)
            .unwrap()
            .to_vec2()
            .unwrap();
        for (text, pair) in offsets.windows(2).enumerate() {
            let tokens = pair[0] as usize..pair[1] as usize;
            let share = |token: usize| match method {
                PoolingMethod::Cls => f64::from(u8::from(token == tokens.start)),
                PoolingMethod::LastToken => f64::from(u8::from(token + 1 == tokens.end)),
                PoolingMethod::Mean => 1.0 / tokens.len() as f64,
            };
            for i in 0..width {
                let want: f64 = tokens.clone().map(|t| share(t) * f64::from(rows[t][i])).sum();
                assert!((f64::from(pooled[text][i]) - want).abs() < 1e-6, "{method}");
                for t in tokens.clone() {
                    let want = share(t) * f64::from(d_rows[text][i]);
                    assert!((f64::from(back[t][i]) - want).abs() < 1e-6, "{method}");
                }
            }
        }
    }
}

#[test]
fn one_two_and_three_threads_give_the_same_bits_in_forward_backward_and_update() {
    for name in MODELS {
        let run = || {
            let model = network(name, 0.1);
            let rows = token_rows(model.config().vocab_size, &[60, 3, 41, 17, 60, 2, 33, 50, 28, 19]);
            let batch = lay(&model, &rows, 0..);
            let first = pass(&model, &batch, Keep::All, Some(4));
            let config = FinetuneConfig::default();
            let mut stepper = Stepper::new(network(name, 0.1), &config.training, 3).unwrap();
            let vocab = model.config().vocab_size;
            for step in 0..3 {
                stepper.step(&[random_batch(vocab, 4, 3, step)]).unwrap();
            }
            let moments: Vec<Vec<u32>> = stepper
                .optimizer()
                .state_tensors()
                .values()
                .map(|values| values.iter().map(|x| x.to_bits()).collect())
                .collect();
            (first, bits(stepper.model()), moments)
        };
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(run)
        };
        let one = on(1);
        for threads in [2, 3] {
            assert!(on(threads) == one, "{name}: {threads} threads differ from one");
        }
    }
}
