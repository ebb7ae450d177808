//! Losses against an independent f64 computation, finite differences, and FlagEmbedding's own numbers.

use bge_core::config::KdLossType;
use bge_core::loss::{LossConfig, LossInputs, LossOutput, contrastive, scores::Scores};
use bge_core::random::{Draws, Stream, key};
use candle_core::{Device, Tensor, Var};
use serde_json::Value;

/// One batch and how to treat it.
#[derive(Clone, Debug)]
struct Case {
    queries: Vec<Vec<f64>>,
    passages: Vec<Vec<f64>>,
    group: usize,
    teacher: Option<Vec<Vec<f64>>>,
    temperature: f64,
    normalize: bool,
    kd: KdLossType,
    no_in_batch: bool,
    dims: Option<Vec<usize>>,
}

impl Case {
    fn random(seed: u64, queries: usize, group: usize, width: usize) -> Self {
        let mut draws = Draws::new(key(seed, Stream::Init, 0));
        // Rounded to f32, so that both sides see the same numbers.
        let mut rows = |n: usize, width: usize| -> Vec<Vec<f64>> {
            (0..n)
                .map(|_| (0..width).map(|_| f64::from(draws.normal() as f32)).collect())
                .collect()
        };
        Self {
            queries: rows(queries, width),
            passages: rows(queries * group, width),
            group,
            teacher: Some(rows(queries, group)),
            temperature: 0.5,
            normalize: true,
            kd: KdLossType::KlDiv,
            no_in_batch: false,
            dims: None,
        }
    }

    fn config(&self) -> LossConfig {
        LossConfig {
            temperature: self.temperature,
            normalize_embeddings: self.normalize,
            kd_loss_type: self.kd,
            mrl_dims: self.dims.clone(),
        }
    }

    /// The loss under test and the gradients of both kinds of vectors.
    fn run(&self) -> (LossOutput, Vec<f64>, Vec<f64>) {
        let queries = Var::from_tensor(&tensor(&self.queries)).unwrap();
        let passages = Var::from_tensor(&tensor(&self.passages)).unwrap();
        let teacher = self.teacher.as_deref().map(tensor);
        let output = contrastive(
            &self.config(),
            &LossInputs {
                queries: &queries,
                passages: &passages,
                group_size: self.group,
                no_in_batch_neg: self.no_in_batch,
                teacher_scores: teacher.as_ref(),
            },
        )
        .unwrap();
        let gradients = output.total.backward().unwrap();
        let gradient = |var: &Var| flat(gradients.get(var).expect("every vector gets a gradient"));
        let (queries, passages) = (gradient(&queries), gradient(&passages));
        (output, queries, passages)
    }

    /// The loss from its definition, with every score written out.
    fn reference(&self) -> f64 {
        let width = self.queries[0].len();
        let dims = self.dims.clone().unwrap_or_else(|| vec![width]);
        let losses = dims.iter().map(|&dim| self.reference_at(dim.min(width)));
        losses.sum::<f64>() / dims.len() as f64
    }

    fn reference_at(&self, dim: usize) -> f64 {
        let unit = |row: &Vec<f64>| -> Vec<f64> {
            let row = &row[..dim];
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
            row.iter()
                .map(|x| if self.normalize { x / length } else { *x })
                .collect()
        };
        let queries: Vec<_> = self.queries.iter().map(unit).collect();
        let passages: Vec<_> = self.passages.iter().map(unit).collect();
        let mut sum = 0.0;
        for (i, query) in queries.iter().enumerate() {
            let scores: Vec<f64> = passages
                .iter()
                .map(|p| p.iter().zip(query).map(|(a, b)| a * b).sum::<f64>() / self.temperature)
                .collect();
            let own: Vec<usize> = (i * self.group..(i + 1) * self.group).collect();
            let scope: Vec<usize> = if self.no_in_batch {
                own.clone()
            } else {
                (0..scores.len()).collect()
            };
            let minus_log_p = |target: usize, scope: &[usize]| {
                let top = scope.iter().map(|&j| scores[j]).fold(f64::MIN, f64::max);
                let all = scope.iter().map(|&j| (scores[j] - top).exp()).sum::<f64>();
                all.ln() + top - scores[target]
            };
            let Some(teacher) = &self.teacher else {
                sum += minus_log_p(own[0], &scope);
                continue;
            };
            let weights: Vec<f64> = teacher[i].iter().map(|t| t.exp()).collect();
            let weights: Vec<f64> = weights.iter().map(|w| w / weights.iter().sum::<f64>()).collect();
            match self.kd {
                KdLossType::KlDiv => {
                    sum += minus_log_p(own[0], &scope);
                    sum += (0..self.group)
                        .map(|g| weights[g] * minus_log_p(own[g], &own))
                        .sum::<f64>();
                }
                KdLossType::M3KdLoss => {
                    for g in 0..self.group {
                        let left: Vec<usize> =
                            scope.iter().copied().filter(|j| !own[..g].contains(j)).collect();
                        sum += weights[g] * minus_log_p(own[g], &left);
                    }
                }
            }
        }
        sum / queries.len() as f64
    }

    /// Every combination of modes on one shape.
    fn combinations(seed: u64, queries: usize, group: usize, width: usize) -> Vec<Self> {
        let base = Self::random(seed, queries, group, width);
        let mut cases = Vec::new();
        for normalize in [true, false] {
            for no_in_batch in [false, true] {
                for dims in [None, Some(vec![2, width, width + 9])] {
                    for teacher in [None, Some(KdLossType::KlDiv), Some(KdLossType::M3KdLoss)] {
                        cases.push(Self {
                            normalize,
                            no_in_batch,
                            dims: dims.clone(),
                            teacher: teacher.and(base.teacher.clone()),
                            kd: teacher.unwrap_or(KdLossType::KlDiv),
                            ..base.clone()
                        });
                    }
                }
            }
        }
        cases
    }
}

fn tensor(rows: &[Vec<f64>]) -> Tensor {
    let flat: Vec<f32> = rows.iter().flatten().map(|&x| x as f32).collect();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    let flat: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    flat.into_iter().map(f64::from).collect()
}

fn scalar(tensor: &Tensor) -> f64 {
    f64::from(tensor.to_scalar::<f32>().unwrap())
}

#[track_caller]
fn assert_close(got: &[f64], expected: &[f64], tolerance: f64, what: &dyn std::fmt::Debug) {
    assert_eq!(got.len(), expected.len());
    // Relative to the largest entry: small ones are sums of large ones that cancel.
    let size = expected.iter().fold(1e-3_f64, |size, x| size.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * size,
            "entry {i}: {a} instead of {b} in {what:?}"
        );
    }
}

#[test]
fn every_combination_agrees_with_the_definition_and_its_finite_differences() {
    for (shape, (queries, group, width)) in [(3, 3, 5), (1, 4, 4), (4, 1, 3)].into_iter().enumerate() {
        for case in Case::combinations(shape as u64, queries, group, width) {
            let (output, to_queries, to_passages) = case.run();
            assert_close(&[scalar(&output.total)], &[case.reference()], 2e-6, &case);

            let slope = |of: fn(&mut Case) -> &mut Vec<Vec<f64>>| -> Vec<f64> {
                let (n, width) = (of(&mut case.clone()).len(), case.queries[0].len());
                let along = |row: usize, column: usize| {
                    let at = |step: f64| {
                        let mut case = case.clone();
                        of(&mut case)[row][column] += step;
                        case.reference()
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                };
                (0..n * width).map(|i| along(i / width, i % width)).collect()
            };
            assert_close(&to_queries, &slope(|case| &mut case.queries), 1e-5, &case);
            assert_close(&to_passages, &slope(|case| &mut case.passages), 1e-5, &case);
        }
    }
}

#[test]
fn losses_and_gradients_are_those_of_flagembedding() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/loss.json")).unwrap();
    let rows = |value: &Value| -> Vec<Vec<f64>> { serde_json::from_value(value.clone()).unwrap() };
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 80);
    for golden in cases {
        let group = golden["group_size"].as_u64().unwrap() as usize;
        let teacher: Option<Vec<f64>> = serde_json::from_value(golden["teacher"].clone()).unwrap();
        let case = Case {
            queries: rows(&golden["queries"]),
            passages: rows(&golden["passages"]),
            group,
            teacher: teacher.map(|flat| flat.chunks(group).map(<[f64]>::to_vec).collect()),
            temperature: golden["temperature"].as_f64().unwrap(),
            normalize: golden["normalize"].as_bool().unwrap(),
            kd: if golden["kd"] == "m3_kd_loss" {
                KdLossType::M3KdLoss
            } else {
                KdLossType::KlDiv
            },
            no_in_batch: golden["no_in_batch"].as_bool().unwrap(),
            dims: serde_json::from_value(golden["mrl_dims"].clone()).unwrap(),
        };
        let (output, to_queries, to_passages) = case.run();
        let loss = golden["loss"].as_f64().unwrap();
        assert_close(&[scalar(&output.total)], &[loss], 1e-5, &case);
        assert_close(&to_queries, &rows(&golden["queries_grad"]).concat(), 2e-5, &case);
        assert_close(
            &to_passages,
            &rows(&golden["passages_grad"]).concat(),
            2e-5,
            &case,
        );
    }
}

#[test]
fn parts_add_up_to_the_total() {
    for case in Case::combinations(9, 3, 2, 4) {
        let (output, ..) = case.run();
        let dims = case.dims.as_ref().map_or(1, Vec::len);
        let sum: f64 = output.parts.iter().map(|part| scalar(&part.value)).sum();
        assert_close(&[scalar(&output.total)], &[sum / dims as f64], 1e-6, &case);
        let names: Vec<_> = output.parts.iter().map(|part| part.name).collect();
        let each = match (&case.teacher, case.kd) {
            (None, _) => vec!["ce"],
            (_, KdLossType::KlDiv) => vec!["kd", "ce"],
            (_, KdLossType::M3KdLoss) => vec!["m3_kd"],
        };
        assert_eq!(names, each.repeat(dims));
        assert_eq!(output.parts[0].dim, case.dims.as_ref().map(|dims| dims[0]));
    }
}

#[test]
fn huge_scores_and_zero_vectors_make_no_nan() {
    for mut case in Case::combinations(3, 3, 4, 6) {
        case.temperature = 0.001;
        for row in case.queries.iter_mut().chain(&mut case.passages) {
            for x in row {
                *x *= 50.0;
            }
        }
        case.passages[1] = vec![0.0; 6];
        let (output, to_queries, to_passages) = case.run();
        assert!(scalar(&output.total).is_finite(), "{case:?}");
        assert!(
            to_queries.iter().chain(&to_passages).all(|x| x.is_finite()),
            "{case:?}"
        );
        assert_close(&[scalar(&output.total)], &[case.reference()], 1e-4, &case);
    }
}

#[test]
fn a_nan_in_a_vector_reaches_the_total() {
    let mut case = Case::random(1, 2, 2, 3);
    case.passages[3][0] = f64::NAN;
    assert!(scalar(&case.run().0.total).is_nan());
}

#[test]
fn accuracy_counts_positives_above_all_others() {
    let unit = |x: f64, y: f64| vec![x, y];
    let mut case = Case {
        // The first query's positive loses to its own negative, the second's wins in its group but loses to a
        // passage of the third, the third's wins.
        queries: vec![unit(1.0, 0.0), unit(0.0, 1.0), unit(0.6, 0.8)],
        passages: vec![
            unit(0.6, -0.8),
            unit(0.9, -0.4),
            unit(0.5, 0.8),
            unit(-1.0, 0.0),
            unit(0.6, 0.8),
            unit(-1.0, 0.1),
        ],
        teacher: None,
        ..Case::random(0, 3, 2, 2)
    };
    let accuracy = |case: &Case| scalar(&case.run().0.accuracy);
    case.normalize = false;
    case.passages[2] = unit(0.5, 0.7);
    assert_close(&[accuracy(&case)], &[1.0 / 3.0], 1e-6, &case);
    case.no_in_batch = true;
    assert_close(&[accuracy(&case)], &[2.0 / 3.0], 1e-6, &case);
    // A tie is not a hit: collapsed vectors must not look perfect.
    case.passages = vec![unit(0.5, 0.5); 6];
    assert_eq!(accuracy(&case), 0.0);
}

#[test]
fn one_device_sees_its_share_of_a_larger_batch() {
    let case = Case::random(5, 4, 3, 6);
    let (queries, passages) = (tensor(&case.queries), tensor(&case.passages));
    let whole = Scores::new(&queries, &passages, 3, 0, true).unwrap();
    for first in 0..4 {
        let part = Scores::new(&queries.narrow(0, first, 1).unwrap(), &passages, 3, first, true).unwrap();
        let rows = |all: &Tensor| flat(&all.narrow(0, first, 1).unwrap());
        assert_close(&flat(&part.own), &rows(&whole.own), 1e-6, &first);
        let others = |scores: &Scores| scores.others.clone().unwrap();
        assert_close(&flat(&others(&part)), &rows(&others(&whole)), 1e-6, &first);
    }
}

#[test]
fn a_batch_of_many_blocks_agrees_with_the_definition() {
    // 1,500 x 3,000 scores do not fit in one block of rows.
    let case = Case {
        teacher: None,
        temperature: 0.1,
        ..Case::random(11, 1500, 2, 2)
    };
    let (output, to_queries, to_passages) = case.run();
    assert_close(
        &[scalar(&output.total)],
        &[case.reference()],
        1e-5,
        &"1500 queries",
    );
    // In a softmax over unit vectors the gradient is orthogonal to each vector.
    for (rows, gradients) in [(&case.queries, &to_queries), (&case.passages, &to_passages)] {
        for (row, gradient) in rows.iter().zip(gradients.chunks(2)) {
            let dot: f64 = row.iter().zip(gradient).map(|(a, b)| a * b).sum();
            assert!(dot.abs() < 1e-6, "{dot}");
        }
        assert!(gradients.iter().any(|x| x.abs() > 1e-5));
    }
}

#[test]
fn settings_are_checked_before_training() {
    let mut config = Case::random(0, 1, 1, 1).config();
    assert!(config.check(8).unwrap().is_empty());
    config.mrl_dims = Some(vec![4, 8, 9]);
    let issues = config.check(8).unwrap();
    assert_eq!(issues.len(), 1);
    assert_eq!(issues[0].code, "loss.mrl_dim_clamped");
    for dims in [vec![], vec![4, 0]] {
        config.mrl_dims = Some(dims);
        assert!(config.check(8).unwrap_err().to_string().contains("mrl_dims"));
    }
    config.mrl_dims = None;
    for temperature in [0.0, -0.02, f64::NAN, f64::INFINITY] {
        config.temperature = temperature;
        assert!(config.check(8).unwrap_err().to_string().contains("temperature"));
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let case = Case::random(2, 3, 2, 4);
    let (queries, passages) = (tensor(&case.queries), tensor(&case.passages));
    let teacher = tensor(case.teacher.as_ref().unwrap());
    let fails = |inputs: LossInputs| contrastive(&case.config(), &inputs).unwrap_err().to_string();
    let good = LossInputs {
        queries: &queries,
        passages: &passages,
        group_size: 2,
        no_in_batch_neg: false,
        teacher_scores: Some(&teacher),
    };
    assert!(contrastive(&case.config(), &good).is_ok());
    assert!(
        fails(LossInputs {
            group_size: 3,
            ..good
        })
        .contains("[9, 4]")
    );
    assert!(
        fails(LossInputs {
            group_size: 0,
            ..good
        })
        .contains("groups of 0")
    );
    let flat = teacher.flatten_all().unwrap();
    assert!(
        fails(LossInputs {
            teacher_scores: Some(&flat),
            ..good
        })
        .contains("teacher")
    );
}
