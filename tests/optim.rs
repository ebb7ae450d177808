//! `AdamW` against torch, schedules against transformers.

use std::collections::BTreeMap;

use bge_core::config::LrSchedulerType;
use bge_core::optim::{
    AdamW, AdamWConfig, Parameter, Schedule, clip_factor, decays, global_norm, warmup_steps,
};
use serde_json::{Map, Value, json};

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Close to a few units in the last place of the largest number: torch may fuse a product and a sum.
#[track_caller]
fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
    for (a, b) in got.iter().zip(expected) {
        assert!((a - b).abs() <= 5e-7 * size, "{a} instead of {b} in {what}");
    }
}

#[test]
fn adamw_takes_the_steps_of_torch() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/adamw.json")).unwrap();
    let mut names = Vec::new();
    let mut weights: Vec<Vec<f32>> = Vec::new();
    for (name, start) in fixture["start"].as_object().unwrap() {
        names.push(name.clone());
        weights.push(floats(start));
    }
    let parameters: Vec<_> = names
        .iter()
        .zip(&weights)
        .map(|(name, weights)| Parameter {
            name: name.clone(),
            len: weights.len(),
            decay: decays(name),
        })
        .collect();
    let config = AdamWConfig {
        beta1: fixture["betas"][0].as_f64().unwrap(),
        beta2: fixture["betas"][1].as_f64().unwrap(),
        epsilon: fixture["epsilon"].as_f64().unwrap(),
        weight_decay: fixture["weight_decay"].as_f64().unwrap(),
    };
    let mut optimizer = AdamW::new(config, &parameters).unwrap();
    let steps = fixture["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 20);
    for (i, step) in steps.iter().enumerate() {
        let gradients: Vec<Option<Vec<f32>>> = names
            .iter()
            .map(|name| {
                Some(&step["gradients"][name])
                    .filter(|g| !g.is_null())
                    .map(floats)
            })
            .collect();
        let gradients: Vec<Option<&[f32]>> = gradients.iter().map(Option::as_deref).collect();
        let norm = global_norm(gradients.iter().copied().flatten());
        assert!((norm / step["norm"].as_f64().unwrap() - 1.0).abs() < 1e-6);
        let scale = clip_factor(norm, fixture["max_norm"].as_f64().unwrap());
        let mut slices: Vec<&mut [f32]> = weights.iter_mut().map(Vec::as_mut_slice).collect();
        let lr = step["lr"].as_f64().unwrap();
        optimizer.step(lr, scale, &mut slices, &gradients).unwrap();
        for (name, weights) in names.iter().zip(&weights) {
            assert_close(
                weights,
                &floats(&step["weights"][name]),
                &format!("{name} after step {i}"),
            );
        }
    }

    let steps = optimizer.state_steps();
    let tensors = optimizer.state_tensors();
    assert_eq!(steps["never.weight"], 0);
    for (name, moments) in fixture["moments"].as_object().unwrap() {
        assert_eq!(Some(steps[name]), moments["step"].as_u64(), "{name}");
        for moment in ["exp_avg", "exp_avg_sq"] {
            let got = tensors[&format!("{moment}.{name}")];
            assert_close(got, &floats(&moments[moment]), &format!("{moment}.{name}"));
        }
    }
}

fn parameter(name: &str, len: usize, decay: bool) -> Parameter {
    Parameter {
        name: name.into(),
        len,
        decay,
    }
}

/// A large and a small parameter after some steps.
struct Run {
    optimizer: AdamW,
    weights: [Vec<f32>; 2],
    done: usize,
}

impl Run {
    fn start() -> Self {
        let parameters = [parameter("a", 100_001, true), parameter("b", 3, false)];
        let config = AdamWConfig {
            weight_decay: 0.01,
            ..AdamWConfig::default()
        };
        Self {
            optimizer: AdamW::new(config, &parameters).unwrap(),
            weights: [
                (0..100_001).map(|i| (i % 97) as f32 * 0.01).collect(),
                vec![1.0, 2.0, 3.0],
            ],
            done: 0,
        }
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            let wave = |i: usize| ((i * 31 + self.done * 17) % 23) as f32 - 11.0;
            let gradients: [Vec<f32>; 2] = [(0..100_001).map(wave).collect(), (0..3).map(wave).collect()];
            let [a, b] = &mut self.weights;
            let gradients = [Some(gradients[0].as_slice()), Some(gradients[1].as_slice())];
            self.optimizer.step(1e-3, 0.5, &mut [a, b], &gradients).unwrap();
            self.done += 1;
        }
    }

    fn bits(&self) -> Vec<u32> {
        self.weights.iter().flatten().map(|x| x.to_bits()).collect()
    }
}

#[test]
fn a_resumed_optimizer_takes_the_same_steps_bit_for_bit() {
    let mut whole = Run::start();
    whole.steps(7);
    let mut first = Run::start();
    first.steps(3);
    let tensors = first.optimizer.state_tensors();
    let tensors = tensors.into_iter().map(|(name, x)| (name, x.to_vec())).collect();
    let steps = first.optimizer.state_steps();
    let mut second = Run::start();
    second.optimizer.load_state(tensors, &steps).unwrap();
    second.weights = first.weights.clone();
    second.done = 3;
    second.steps(4);
    assert_eq!(whole.bits(), second.bits());
    assert_eq!(whole.optimizer.state_steps(), second.optimizer.state_steps());
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut run = Run::start();
    run.steps(1);
    let good: BTreeMap<String, Vec<f32>> = run
        .optimizer
        .state_tensors()
        .into_iter()
        .map(|(name, x)| (name, x.to_vec()))
        .collect();
    let steps = run.optimizer.state_steps();

    let mut missing = good.clone();
    missing.remove("exp_avg_sq.b");
    let mut short = good.clone();
    short.insert("exp_avg.b".into(), vec![0.0; 2]);
    let mut extra = good.clone();
    extra.insert("exp_avg.c".into(), vec![0.0]);
    for (tensors, word) in [
        (missing, "lacks `exp_avg_sq.b`"),
        (short, "2 elements"),
        (extra, "exp_avg.c"),
    ] {
        let error = run.optimizer.load_state(tensors, &steps).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = run
        .optimizer
        .load_state(good.clone(), &BTreeMap::new())
        .unwrap_err();
    assert!(error.to_string().contains("step count of `a`"), "{error}");
    let mut more = steps.clone();
    more.insert("z".into(), 1);
    assert!(run.optimizer.load_state(good.clone(), &more).is_err());

    let after: Vec<f32> = run.optimizer.state_tensors()["exp_avg.a"].to_vec();
    assert_eq!(after, good["exp_avg.a"]);
}

#[test]
fn lengths_that_do_not_fit_change_nothing() {
    let mut run = Run::start();
    let before = run.bits();
    let long = vec![1.0; 100_001];
    let [a, b] = &mut run.weights;
    let wrong = run
        .optimizer
        .step(0.1, 1.0, &mut [a, b], &[Some(&long), Some(&[1.0, 2.0])])
        .unwrap_err();
    assert!(wrong.to_string().contains("`b` has 3 elements"), "{wrong}");
    let [a, _] = &mut run.weights;
    assert!(run.optimizer.step(0.1, 1.0, &mut [a], &[None]).is_err());
    assert_eq!(run.bits(), before);
}

#[test]
fn bad_settings_of_adamw_are_named() {
    let new = |config| AdamW::new(config, &[parameter("a", 1, true)]).map(|_| ());
    let good = AdamWConfig::default();
    assert!(new(good).is_ok());
    for (config, name) in [
        (AdamWConfig { beta1: 1.0, ..good }, "adam_beta1"),
        (AdamWConfig { beta2: -0.1, ..good }, "adam_beta2"),
        (
            AdamWConfig {
                epsilon: f64::NAN,
                ..good
            },
            "adam_epsilon",
        ),
        (
            AdamWConfig {
                weight_decay: -1.0,
                ..good
            },
            "weight_decay",
        ),
    ] {
        assert!(new(config).unwrap_err().to_string().contains(name), "{name}");
    }
    assert!(AdamW::new(good, &[parameter("a", 1, true), parameter("a", 1, true)]).is_err());
}

fn kind(name: &str) -> LrSchedulerType {
    name.parse().unwrap()
}

#[test]
fn schedules_are_those_of_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/schedule.json")).unwrap();
    let base = fixture["base"].as_f64().unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() >= 120);
    for case in cases {
        let total = case["total"].as_u64().unwrap() as usize;
        let warmup = warmup_steps(case["warmup"].as_f64().unwrap(), 0.0, total).unwrap();
        let kwargs = case["kwargs"].as_object().unwrap();
        let schedule =
            Schedule::new(kind(case["kind"].as_str().unwrap()), kwargs, base, warmup, total).unwrap();
        for (i, rate) in case["rates"].as_array().unwrap().iter().enumerate() {
            // Long tables hold every 97th step after the first three.
            let step = if total > 100 && i >= 3 {
                3 + (i - 3) * 97
            } else {
                i
            };
            let (got, expected) = (schedule.lr(step), rate.as_f64().unwrap());
            let close = (got - expected).abs() <= 1e-13 * base;
            assert!(close, "{got} instead of {expected} at step {step} of {case}");
        }
    }
}

#[test]
fn a_schedule_never_leaves_the_numbers() {
    let none = Map::new();
    for name in [
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] {
        for (warmup, total) in [(0, 0), (0, 1), (5, 5), (9, 5), (5, 0)] {
            let schedule = Schedule::new(kind(name), &none, 1e-4, warmup, total).unwrap();
            for step in 0..20 {
                let lr = schedule.lr(step);
                assert!((0.0..=1e-4).contains(&lr), "{name} {warmup} {total} {step}: {lr}");
            }
        }
    }
}

#[test]
fn settings_that_a_schedule_lacks_are_named() {
    let new = |name: &str, kwargs: Value| {
        Schedule::new(kind(name), kwargs.as_object().unwrap(), 1e-5, 0, 10).map_err(|e| e.to_string())
    };
    assert!(
        new("linear", json!({"num_cycles": 2}))
            .unwrap_err()
            .contains("num_cycles")
    );
    assert!(
        new("cosine", json!({"num_cycles": "two"}))
            .unwrap_err()
            .contains("two")
    );
    assert!(
        new("polynomial", json!({"lr_end": 1e-4}))
            .unwrap_err()
            .contains("lr_end")
    );
    assert!(
        new("inverse_sqrt", json!({"timescale": 0}))
            .unwrap_err()
            .contains("timescale")
    );
    assert!(new("constant", json!({"num_cycles": 2})).is_ok());
}

#[test]
fn warmup_is_a_count_a_share_or_a_ratio() {
    assert_eq!(warmup_steps(0.0, 0.0, 100).unwrap(), 0);
    assert_eq!(warmup_steps(7.9, 0.5, 100).unwrap(), 7);
    assert_eq!(warmup_steps(1.0, 0.0, 100).unwrap(), 1);
    assert_eq!(warmup_steps(0.101, 0.5, 100).unwrap(), 11);
    assert_eq!(warmup_steps(0.0, 0.101, 100).unwrap(), 11);
    assert_eq!(warmup_steps(0.0, 1.0, 33).unwrap(), 33);
    for (steps, ratio) in [(-1.0, 0.0), (f64::NAN, 0.0), (0.0, 1.1), (0.0, -0.1)] {
        assert!(warmup_steps(steps, ratio, 10).is_err());
    }
}
