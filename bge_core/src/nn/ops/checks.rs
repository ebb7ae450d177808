//! Every fused operation against its formula written plainly in `f64`, and its gradients against finite differences.

use super::activation::Activation;
use super::attention;
use super::dropout::Dropout;
use super::embedding::{self, Lookup};
use super::linear;
use super::norm::{self, Affine};
use crate::random::{Draws, mix};

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut draws = Draws::new(mix(seed));
    (0..len).map(|_| (draws.unit() * 2.0 - 1.0) as f32).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn weighed(values: &[f64], direction: &[f32]) -> f64 {
    assert_eq!(values.len(), direction.len());
    values.iter().zip(direction).map(|(x, d)| x * f64::from(*d)).sum()
}

fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(1.0_f64, |size, x| size.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (f64::from(*got) - want).abs() / size;
        assert!(difference < tolerance, "{what}[{i}] is {got}, not {want}");
    }
}

/// Compares `gradient` with central differences of `value` around `x`: in up to 48 coordinates and along one direction.
fn assert_gradient(what: &str, x: &[f32], gradient: &[f32], value: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    assert_eq!(x.len(), gradient.len(), "{what}");
    let mut at = wide(x);
    let size = gradient
        .iter()
        .fold(1e-2_f64, |size, g| size.max(f64::from(g.abs())));
    for i in (0..x.len()).step_by(x.len().div_ceil(48)) {
        let old = at[i];
        at[i] = old + STEP;
        let above = value(&at);
        at[i] = old - STEP;
        let slope = (above - value(&at)) / (2.0 * STEP);
        at[i] = old;
        let got = f64::from(gradient[i]);
        assert!(
            (got - slope).abs() < 2e-5 * size,
            "{what}: the gradient of [{i}] is {got}, the slope {slope}"
        );
    }
    let direction = wide(&noise(x.len(), 99));
    let moved = |by: f64| -> Vec<f64> { at.iter().zip(&direction).map(|(x, d)| x + by * d).collect() };
    let slope = (value(&moved(STEP)) - value(&moved(-STEP))) / (2.0 * STEP);
    let got: f64 = direction
        .iter()
        .zip(gradient)
        .map(|(d, g)| d * f64::from(*g))
        .sum();
    let size = size * (x.len() as f64).sqrt();
    assert!(
        (got - slope).abs() < 2e-5 * size,
        "{what}: along a direction {got}, the slope {slope}"
    );
}

/// `x Wᵀ`, plainly.
fn times_transposed(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    x.chunks(inputs)
        .flat_map(|x| {
            w.chunks(inputs)
                .map(move |w| x.iter().zip(w).map(|(x, w)| x * w).sum())
        })
        .collect()
}

fn plus_bias(mut y: Vec<f64>, bias: &[f64]) -> Vec<f64> {
    for row in y.chunks_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
    y
}

fn layer_norm(x: &[f64], gamma: &[f64], beta: &[f64], eps: f32) -> Vec<f64> {
    let n = gamma.len() as f64;
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(gamma.len()) {
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
        for ((x, g), b) in row.iter().zip(gamma).zip(beta) {
            out.push((x - mean) * inverse * g + b);
        }
    }
    out
}

/// The factors of a dropout as a `[rows, width]` matrix; all ones without.
fn factors(dropout: Option<(Dropout, &[u64])>, rows: usize, width: usize) -> Vec<f64> {
    (0..rows * width)
        .map(|i| {
            dropout.map_or(1.0, |(dropout, keys)| {
                f64::from(dropout.row(keys[i / width]).factor(i % width))
            })
        })
        .collect()
}

fn keys(rows: usize) -> Vec<u64> {
    (0..rows as u64).map(|row| row << 32 | (row % 3)).collect()
}

#[test]
fn a_linear_map_and_its_gradients_are_those_of_the_formula() {
    for (rows, inputs, outputs) in [(1, 1, 1), (1, 9, 4), (3, 5, 7), (17, 32, 33), (300, 24, 40)] {
        let (x, w, b) = (
            noise(rows * inputs, 1),
            noise(outputs * inputs, 2),
            noise(outputs, 3),
        );
        let dy = noise(rows * outputs, 4);
        let (x64, w64, dy64) = (wide(&x), wide(&w), wide(&dy));
        let want = plus_bias(times_transposed(&x64, &w64, inputs), &wide(&b));
        let y = linear::forward(&x, &w, inputs, outputs, |tile| linear::add_bias(tile, &b));
        assert_close("y", &y, &want, 1e-6);
        let (kept, finished) = linear::forward_keeping(&x, &w, inputs, outputs, |kept, finished| {
            linear::add_bias(kept, &b);
            Activation::Relu.apply(finished, kept)
        });
        assert_eq!(kept, y);
        assert!(finished.iter().zip(&y).all(|(f, y)| *f == y.max(0.0)));

        let (mut dx, mut dw, mut db) = (
            vec![0.0; rows * inputs],
            vec![0.0; outputs * inputs],
            vec![0.0; outputs],
        );
        for t in 0..rows {
            for n in 0..outputs {
                let g = dy64[t * outputs + n];
                db[n] += g;
                for k in 0..inputs {
                    dx[t * inputs + k] += g * w64[n * inputs + k];
                    dw[n * inputs + k] += g * x64[t * inputs + k];
                }
            }
        }
        assert_close("dx", &linear::input_gradient(&dy, &w, inputs, outputs), &dx, 1e-6);
        let plus_one = |values: &[f64]| -> Vec<f64> { values.iter().map(|x| x + 1.0).collect() };
        let mut sum = vec![1.0; dx.len()];
        linear::add_input_gradient(&mut sum, &dy, &w, inputs, outputs);
        assert_close("dx added", &sum, &plus_one(&dx), 1e-6);
        for add in [false, true] {
            let (mut sum, mut column) = (vec![1.0; dw.len()], vec![1.0; db.len()]);
            linear::weight_gradient(&mut sum, add, &dy, &x, inputs, outputs);
            linear::column_sums(&mut column, add, &dy);
            let added = |values: &[f64]| if add { plus_one(values) } else { values.to_vec() };
            assert_close("dw", &sum, &added(&dw), 1e-6);
            assert_close("db", &column, &added(&db), 1e-6);
        }
    }
}

#[test]
fn residual_norm_and_its_gradients_agree_with_the_formula_with_and_without_dropout() {
    let eps = 1e-5;
    for (rows, inputs, width) in [(1, 4, 2), (3, 6, 9), (40, 12, 16), (300, 4, 8)] {
        let parts = [
            noise(rows * inputs, 1),
            noise(width * inputs, 2),
            noise(width, 3),
            noise(rows * width, 4),
            noise(width, 5),
            noise(width, 6),
        ];
        let [x, w, b, residual, gamma, beta] = &parts;
        let direction = noise(rows * width, 7);
        let keys = keys(rows);
        for p in [0.0, 0.3] {
            let dropout = Dropout::new(p, 5).map(|dropout| (dropout, keys.as_slice()));
            let mask = factors(dropout, rows, width);
            let formula = |parts: &[Vec<f64>; 6]| {
                let [x, w, b, residual, gamma, beta] = parts;
                let dense = plus_bias(times_transposed(x, w, inputs), b);
                let sum: Vec<f64> = (0..dense.len())
                    .map(|i| dense[i] * mask[i] + residual[i])
                    .collect();
                layer_norm(&sum, gamma, beta, eps)
            };
            let at = parts.clone().map(|part| wide(&part));
            let affine = Affine { gamma, beta, eps };
            let out = norm::linear_residual_norm(x, (w, b), residual, dropout, affine);
            assert_close("output", &out.output, &formula(&at), 5e-6);

            let (d_sum, d_gamma, d_beta) = norm::backward(&direction, &out.unit, &out.inverse_std, gamma);
            let d_dense = match dropout {
                None => d_sum.clone(),
                Some((mask, keys)) => norm::dropout_backward(&d_sum, width, mask, keys),
            };
            let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; width]);
            linear::weight_gradient(&mut dw, false, &d_dense, x, inputs, width);
            linear::column_sums(&mut db, false, &d_dense);
            let dx = linear::input_gradient(&d_dense, w, inputs, width);
            let names = ["x", "weight", "bias", "residual", "gamma", "beta"];
            for (index, gradient) in [dx, dw, db, d_sum, d_gamma, d_beta].iter().enumerate() {
                let what = format!("{} of {rows} rows, dropout {p}", names[index]);
                assert_gradient(&what, &parts[index], gradient, |values| {
                    let mut parts = at.clone();
                    parts[index] = values.to_vec();
                    weighed(&formula(&parts), &direction)
                });
            }
        }
    }
}

fn attention_formula(qkv: [&[f64]; 3], shape: attention::Shape) -> Vec<f64> {
    let [q, k, v] = qkv;
    let (d, width) = (shape.width / shape.heads, shape.width);
    let mut context = vec![0.0; q.len()];
    for pair in shape.offsets.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        for head in 0..shape.heads {
            for t in start..end {
                let scores: Vec<f64> = (start..end)
                    .map(|s| {
                        let dot: f64 = (0..d)
                            .map(|i| q[t * width + head * d + i] * k[s * width + head * d + i])
                            .sum();
                        dot / (d as f64).sqrt()
                    })
                    .collect();
                let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
                let mask = shape
                    .dropout
                    .map(|(dropout, keys)| dropout.row(mix(keys[t]).wrapping_add(head as u64)));
                for (j, s) in scores.iter().enumerate() {
                    let factor = mask.map_or(1.0, |mask| f64::from(mask.factor(j)));
                    let p = (s - peak).exp() / sum * factor;
                    for i in 0..d {
                        context[t * width + head * d + i] += p * v[(start + j) * width + head * d + i];
                    }
                }
            }
        }
    }
    context
}

#[test]
fn attention_and_its_gradients_agree_with_the_formula_for_every_length_and_with_dropout() {
    let batches: [&[u32]; 5] = [
        &[0, 1],
        &[0, 1, 4, 5, 13],
        &[0, 128, 129],
        &[0, 3, 132],
        &[0, 257, 259],
    ];
    for (case, offsets) in batches.into_iter().enumerate() {
        let (heads, width) = [(2, 6), (1, 4), (4, 8)][case % 3];
        let tokens = *offsets.last().unwrap() as usize;
        let qkv = [1, 2, 3].map(|seed| {
            noise(tokens * width, seed)
                .iter()
                .map(|x| x * 2.0)
                .collect::<Vec<_>>()
        });
        let [q, k, v] = &qkv;
        let direction = noise(tokens * width, 4);
        let keys = keys(tokens);
        for p in [0.0, 0.2] {
            let shape = attention::Shape {
                heads,
                width,
                offsets,
                dropout: Dropout::new(p, 8).map(|dropout| (dropout, keys.as_slice())),
            };
            let at = qkv.clone().map(|part| wide(&part));
            let (context, log_sums) = attention::forward(q, k, v, shape);
            let want = attention_formula([&at[0], &at[1], &at[2]], shape);
            assert_close("context", &context, &want, 2e-6);
            let kept = attention::Kept {
                q,
                k,
                v,
                context: &context,
                log_sums: &log_sums,
            };
            let gradients = attention::backward(&direction, kept, shape);
            for (index, gradient) in gradients.iter().enumerate() {
                let what = format!("{} of {offsets:?}, dropout {p}", ["q", "k", "v"][index]);
                assert_gradient(&what, &qkv[index], gradient, |values| {
                    let mut parts = [at[0].as_slice(), &at[1], &at[2]];
                    parts[index] = values;
                    weighed(&attention_formula(parts, shape), &direction)
                });
            }
        }
    }
}

#[test]
fn attention_stays_finite_and_right_with_scores_far_apart() {
    let (q, k, v) = (vec![60.0; 12], noise(12, 1), noise(12, 2));
    let shape = attention::Shape {
        heads: 1,
        width: 4,
        offsets: &[0, 3],
        dropout: None,
    };
    let k: Vec<f32> = k.iter().map(|x| x * 60.0).collect();
    let (context, _) = attention::forward(&q, &k, &v, shape);
    let want = attention_formula([&wide(&q), &wide(&k), &wide(&v)], shape);
    assert_close("context", &context, &want, 1e-5);
}

#[test]
fn activations_and_their_slopes_agree_with_the_formulas() {
    // x Φ(x) by the Maclaurin series of erf.
    fn gelu(x: f64) -> f64 {
        let z = x / 2.0_f64.sqrt();
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        x * 0.5 * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
    }
    fn gelu_tanh(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    }
    let points: Vec<f32> = (-400..=400)
        .map(|i| i as f32 * 0.01 + 0.003)
        .chain([0.0_f32])
        .collect();
    for (activation, formula) in [
        (Activation::Gelu, gelu as fn(f64) -> f64),
        (Activation::GeluTanh, gelu_tanh),
        (Activation::Relu, |x| x.max(0.0)),
    ] {
        let want: Vec<f64> = points.iter().map(|&x| formula(f64::from(x))).collect();
        let mut in_place = points.clone();
        activation.bias_and_apply(&mut in_place, &vec![0.0; points.len()]);
        assert_close("activation", &in_place, &want, 5e-7);
        let mut memory = super::buffer::unwritten(points.len());
        assert_eq!(activation.apply(&mut memory, &points), in_place.as_slice());
        let mut slopes = vec![2.0; points.len()];
        activation.backward(&mut slopes, &points);
        for (x, slope) in points.iter().zip(slopes) {
            let x = f64::from(*x);
            let want = (formula(x + 1e-5) - formula(x - 1e-5)) / 1e-5;
            let kink = activation == Activation::Relu && x == 0.0; // torch's slope there is 0
            assert!(
                (f64::from(slope) - if kink { 0.0 } else { want }).abs() < 3e-6,
                "{activation:?} at {x}: {slope}, not {want}"
            );
        }
        let mut biased = vec![0.5, -1.0, 0.25, 2.0];
        activation.bias_and_apply(&mut biased, &[1.0, -0.5]);
        let want = [1.5, -1.5, 1.25, 1.5].map(formula);
        assert_close("biased", &biased, &want, 5e-7);
    }
}

#[test]
fn embeddings_and_the_scatter_of_their_gradients_agree_with_the_formula() {
    let (width, eps) = (8, 1e-12);
    let rows: [&[u32]; 3] = [&[4, 0, 4, 4, 2, 6], &[0, 1, 2, 0, 1, 2], &[0, 0, 1, 0, 1, 1]];
    let tokens = rows[0].len();
    let parts = [
        noise(7 * width, 1),
        noise(3 * width, 2),
        noise(2 * width, 3),
        noise(width, 4),
        noise(width, 5),
    ];
    let direction = noise(tokens * width, 6);
    let keys = keys(tokens);
    for p in [0.0, 0.4] {
        let dropout = Dropout::new(p, 3).map(|dropout| (dropout, keys.as_slice()));
        let mask = factors(dropout, tokens, width);
        let formula = |parts: &[Vec<f64>; 5]| {
            let sum: Vec<f64> = (0..tokens * width)
                .map(|at| {
                    let (t, i) = (at / width, at % width);
                    (0..3)
                        .map(|table| parts[table][rows[table][t] as usize * width + i])
                        .sum()
                })
                .collect();
            let normed = layer_norm(&sum, &parts[3], &parts[4], eps);
            normed.iter().zip(&mask).map(|(x, m)| x * m).collect::<Vec<_>>()
        };
        let at = parts.clone().map(|part| wide(&part));
        let lookups = [0, 1, 2].map(|table| Lookup {
            table: &parts[table],
            rows: rows[table],
        });
        let affine = Affine {
            gamma: &parts[3],
            beta: &parts[4],
            eps,
        };
        let out = embedding::forward(&lookups, dropout, affine);
        assert_close("embeddings", &out.output, &formula(&at), 5e-6);
        let dy = match dropout {
            None => direction.clone(),
            Some((mask, keys)) => norm::dropout_backward(&direction, width, mask, keys),
        };
        let (d_sum, d_gamma, d_beta) = norm::backward(&dy, &out.unit, &out.inverse_std, &parts[3]);
        let mut gradients: Vec<Vec<f32>> = (0..3)
            .map(|table| {
                let mut gradient = vec![0.0; parts[table].len()];
                embedding::scatter_add(&mut gradient, rows[table], &d_sum, width);
                gradient
            })
            .collect();
        assert!(
            gradients[0][width..2 * width].iter().all(|g| *g == 0.0),
            "no token takes row 1"
        );
        gradients.extend([d_gamma, d_beta]);
        for (index, gradient) in gradients.iter().enumerate() {
            let what = format!("table or norm {index}, dropout {p}");
            assert_gradient(&what, &parts[index], gradient, |values| {
                let mut parts = at.clone();
                parts[index] = values.to_vec();
                weighed(&formula(&parts), &direction)
            });
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_every_number_of_rows() {
    for (inputs, outputs) in [
        (8, 8),
        (32, 33),
        (64, 32),
        (384, 24),
        (1200, 5),
        (700, 100),
        (5, 1),
    ] {
        let rows = 70;
        let (x, w) = (noise(rows * inputs, 1), noise(outputs * inputs, 2));
        let all = linear::forward(&x, &w, inputs, outputs, |_| {});
        for count in 1..rows {
            let some = linear::forward(&x[..count * inputs], &w, inputs, outputs, |_| {});
            assert_eq!(
                some,
                all[..count * outputs],
                "{count} rows of {inputs} to {outputs}"
            );
        }
        for row in 0..rows {
            let one = linear::forward(&x[row * inputs..][..inputs], &w, inputs, outputs, |_| {});
            assert_eq!(one, all[row * outputs..][..outputs]);
        }
    }
}

#[test]
fn a_text_has_the_same_context_alone_and_among_others() {
    fn shape(offsets: &[u32]) -> attention::Shape<'_> {
        attention::Shape {
            heads: 4,
            width: 32,
            offsets,
            dropout: None,
        }
    }
    let width = 32;
    let offsets: Vec<u32> = [1, 2, 3, 17, 16, 130, 31, 1, 64]
        .iter()
        .scan(0, |end, len| {
            *end += len;
            Some(*end)
        })
        .collect();
    let offsets = [&[0], offsets.as_slice()].concat();
    let tokens = *offsets.last().unwrap() as usize;
    let qkv = [1, 2, 3].map(|seed| noise(tokens * width, seed));
    let (all, _) = attention::forward(&qkv[0], &qkv[1], &qkv[2], shape(&offsets));
    for pair in offsets.windows(2) {
        let range = pair[0] as usize * width..pair[1] as usize * width;
        let part = |index: usize| &qkv[index][range.clone()];
        let alone = [0, pair[1] - pair[0]];
        let (one, _) = attention::forward(part(0), part(1), part(2), shape(&alone));
        assert_eq!(one, all[range.clone()]);
    }
}

#[test]
fn the_bits_of_every_gradient_are_those_of_one_thread() {
    // More rows than one run of a sum, and tiles of outputs on both sides of 64.
    let (rows, inputs, outputs, heads) = (700, 24, 200, 4);
    let (x, w, dy) = (
        noise(rows * inputs, 1),
        noise(outputs * inputs, 2),
        noise(rows * outputs, 3),
    );
    let offsets = [0, 5, 140, 300, 301, 700];
    let words: Vec<u32> = (0..rows as u32).map(|t| t * 7 % 50).collect();
    let keys = keys(rows);
    let work = || {
        let dropout = Dropout::new(0.1, 2).map(|dropout| (dropout, keys.as_slice()));
        let shape = attention::Shape {
            heads,
            width: inputs,
            offsets: &offsets,
            dropout,
        };
        let (context, log_sums) = attention::forward(&x, &x, &x, shape);
        let kept = attention::Kept {
            q: &x,
            k: &x,
            v: &x,
            context: &context,
            log_sums: &log_sums,
        };
        let [dq, dk, dv] = attention::backward(&x, kept, shape);
        let (mut dw, mut db, mut table) = (vec![0.0; w.len()], vec![0.0; outputs], vec![0.0; 50 * inputs]);
        linear::weight_gradient(&mut dw, false, &dy, &x, inputs, outputs);
        linear::column_sums(&mut db, false, &dy);
        embedding::scatter_add(&mut table, &words, &x, inputs);
        let gamma = &w[..outputs];
        let affine = Affine {
            gamma,
            beta: gamma,
            eps: 1e-5,
        };
        let out = norm::linear_residual_norm(&x, (&w, gamma), &dy, dropout, affine);
        let (dx, d_gamma, d_beta) = norm::backward(&dy, &out.unit, &out.inverse_std, gamma);
        let back = linear::input_gradient(&dy, &w, inputs, outputs);
        [
            context, log_sums, dq, dk, dv, dw, db, table, out.output, dx, d_gamma, d_beta, back,
        ]
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(work)
    };
    let want = on(1);
    for threads in [2, 3, 5] {
        for (index, (got, want)) in on(threads).iter().zip(&want).enumerate() {
            assert!(got == want, "result {index} differs with {threads} threads");
        }
    }
}
