//! Steps of several ranks beside those of one rank with the joined batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use bge_core::config::{FinetuneConfig, KdLossType, TrainingArguments};
use bge_core::distributed::{Communicator, ThreadGroup};
use bge_core::models::{CrossEncoder, M3, ModelFolder};
use bge_core::tokenize::TokenBatch;
use bge_core::train::{MicroBatch, PairBatch, StepReport, Stepper, TrainBatch};
use bge_core::{ErrorKind, Result};
use bge_tests::{fixture, network, random_batch, weights};

use super::LIMIT;

/// What steps leave behind.
struct Trained {
    weights: BTreeMap<String, Vec<f32>>,
    /// The gradients of the last step.
    gradients: Vec<Option<Vec<f32>>>,
    reports: Vec<StepReport>,
}

/// A batch that ranks can share.
pub(super) trait Shared: Clone + Send + Sync {
    fn share(&self, world: usize, rank: usize) -> Self;
}

fn rows(of: &TokenBatch, range: std::ops::Range<usize>) -> TokenBatch {
    let rows: Vec<&[u32]> = range.map(|text| &of.ids[of.range(text)]).collect();
    TokenBatch::from_rows(&rows).unwrap()
}

/// The queries of a rank, as evenly as it goes.
fn range(all: usize, world: usize, rank: usize) -> std::ops::Range<usize> {
    (all * rank).div_ceil(world)..(all * (rank + 1)).div_ceil(world)
}

fn times(range: &std::ops::Range<usize>, factor: usize) -> std::ops::Range<usize> {
    range.start * factor..range.end * factor
}

impl Shared for TrainBatch {
    fn share(&self, world: usize, rank: usize) -> Self {
        let group = self.passages.len() / self.queries.len();
        let queries = range(self.queries.len(), world, rank);
        let passages = times(&queries, group);
        Self {
            queries: rows(&self.queries, queries),
            passages: rows(&self.passages, passages.clone()),
            no_in_batch_neg: self.no_in_batch_neg,
            teacher_scores: self.teacher_scores.as_ref().map(|all| all[passages].to_vec()),
        }
    }
}

impl Shared for PairBatch {
    fn share(&self, world: usize, rank: usize) -> Self {
        let pairs = times(
            &range(self.pairs.len() / self.group_size, world, rank),
            self.group_size,
        );
        Self {
            pairs: rows(&self.pairs, pairs.clone()),
            group_size: self.group_size,
            teacher_scores: self.teacher_scores.as_ref().map(|all| all[pairs].to_vec()),
        }
    }
}

fn work<'a, B>(mut stepper: Stepper, steps: &'a [Vec<B>]) -> Result<Trained>
where
    &'a B: Into<MicroBatch<'a>>,
{
    let reports = steps.iter().map(|batches| stepper.step(batches));
    let reports = reports.collect::<Result<_>>()?;
    let count = stepper.model().params().len();
    let gradient = |id| stepper.gradients().to_vec(id).unwrap();
    Ok(Trained {
        weights: weights(stepper.model()),
        gradients: (0..count).map(gradient).collect(),
        reports,
    })
}

/// Trains on `world` ranks, each with its share of the joined batches; all ranks end with the same bits.
fn train<B: Shared>(world: usize, open: &(dyn Fn() -> Stepper + Sync), steps: &[Vec<B>]) -> Trained
where
    for<'a> &'a B: Into<MicroBatch<'a>>,
{
    let lines: Vec<_> = ThreadGroup::create(world, LIMIT).unwrap();
    let mut all: Vec<Trained> = std::thread::scope(|scope| {
        let threads: Vec<_> = lines
            .into_iter()
            .enumerate()
            .map(|(rank, line)| {
                scope.spawn(move || {
                    let share = |batches: &Vec<B>| batches.iter().map(|b| b.share(world, rank)).collect();
                    let own: Vec<Vec<B>> = steps.iter().map(share).collect();
                    let mut stepper = open();
                    stepper.join(Arc::new(line)).unwrap();
                    work(stepper, &own).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let first = all.remove(0);
    for other in all {
        assert!(
            first.weights == other.weights && first.gradients == other.gradients,
            "the ranks of {world} differ"
        );
        assert_eq!(first.reports, other.reports);
    }
    first
}

/// The largest distances of gradients and weights over the tensors, relative to the tensor's length, or to 1/100 of the length
/// of all together where it is shorter: some gradients are rounding noise and nothing else.
fn distances(one: &Trained, other: &Trained) -> [f64; 2] {
    let norm = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let largest = |pairs: Vec<(&[f32], &[f32])>| {
        let whole = pairs.iter().map(|(a, _)| norm(a).powi(2)).sum::<f64>().sqrt();
        let of = |(a, b): &(&[f32], &[f32])| {
            let difference: Vec<f32> = a.iter().zip(*b).map(|(a, b)| a - b).collect();
            norm(&difference) / norm(a).max(1e-2 * whole)
        };
        pairs.iter().map(of).fold(0.0, f64::max)
    };
    let gradients = one.gradients.iter().zip(&other.gradients).map(|(a, b)| {
        assert_eq!(a.is_some(), b.is_some());
        (a.as_deref().unwrap_or_default(), b.as_deref().unwrap_or_default())
    });
    let weights = one
        .weights
        .iter()
        .map(|(name, a)| (a.as_slice(), other.weights[name].as_slice()));
    [largest(gradients.collect()), largest(weights.collect())]
}

/// Gradients and weights after some steps, the same but for rounding.
fn assert_close(what: &str, one: &Trained, other: &Trained) {
    let [gradients, weights] = distances(one, other);
    assert!(gradients < 5e-6, "{what}: gradients differ by {gradients:.2e}");
    assert!(weights < 5e-7, "{what}: weights differ by {weights:.2e}");
    for (a, b) in one.reports.iter().zip(&other.reports) {
        let same = |a: f64, b: f64| (a - b).abs() <= 1e-5 * a.abs().max(1e-6);
        assert!(same(a.loss, b.loss), "{what}: loss {} and {}", a.loss, b.loss);
        assert!(
            same(a.grad_norm, b.grad_norm),
            "{what}: norm {} and {}",
            a.grad_norm,
            b.grad_norm
        );
        assert!(
            same(a.accuracy, b.accuracy) && a.tokens == b.tokens,
            "{what}: {a:?}, {b:?}"
        );
    }
}

pub(super) fn arguments(change: impl FnOnce(&mut TrainingArguments)) -> TrainingArguments {
    let mut arguments = FinetuneConfig::default().training;
    arguments.learning_rate = 1e-3;
    arguments.weight_decay = 0.01;
    // Adam turns gradients that are rounding noise into full steps; this keeps them small.
    arguments.adam_epsilon = 1e-3;
    arguments.temperature = 0.05;
    arguments.negatives_cross_device = true;
    change(&mut arguments);
    arguments
}

/// Raw scores of a teacher.
pub(super) fn scored(mut batch: TrainBatch, seed: usize) -> TrainBatch {
    let score = |at| ((at * 37 + seed * 11) % 23) as f32 / 5.0;
    batch.teacher_scores = Some((0..batch.passages.len()).map(score).collect());
    batch
}

pub(super) fn alone(mut batch: TrainBatch) -> TrainBatch {
    batch.no_in_batch_neg = true;
    batch
}

/// Three steps of two micro-batches, made by `kind` of the number of the micro-batch.
pub(super) fn steps(
    vocab: usize,
    queries: usize,
    kind: impl Fn(TrainBatch, usize) -> TrainBatch,
) -> Vec<Vec<TrainBatch>> {
    let batch = |number: usize| kind(random_batch(vocab, queries, 3, 100 + number as u64), number);
    (0..3)
        .map(|step| vec![batch(2 * step), batch(2 * step + 1)])
        .collect()
}

/// The settings and batches of every loss and mix of batch kinds.
fn cases(vocab: usize) -> Vec<(&'static str, TrainingArguments, Vec<Vec<TrainBatch>>)> {
    let plain = |batch, _| batch;
    let mixed = |batch: TrainBatch, number: usize| match number % 4 {
        0 => batch,
        1 => alone(batch),
        2 => scored(batch, number),
        _ => alone(scored(batch, number)),
    };
    let m3 = |a: &mut TrainingArguments| a.kd_loss_type = KdLossType::M3KdLoss;
    let mrl = |a: &mut TrainingArguments| {
        a.use_mrl = true;
        a.mrl_dims = vec![8, 16, 32];
    };
    vec![
        ("contrastive", arguments(|_| {}), steps(vocab, 8, plain)),
        ("kl_div", arguments(|_| {}), steps(vocab, 8, scored)),
        ("m3_kd_loss", arguments(m3), steps(vocab, 8, scored)),
        ("mrl", arguments(mrl), steps(vocab, 8, plain)),
        (
            "no_in_batch_neg",
            arguments(|_| {}),
            steps(vocab, 8, |batch, _| alone(batch)),
        ),
        ("mixed kl_div", arguments(|_| {}), steps(vocab, 8, mixed)),
        (
            "mixed m3_kd_loss, mrl",
            arguments(|a| {
                m3(a);
                mrl(a)
            }),
            steps(vocab, 8, mixed),
        ),
        (
            "GradCache",
            arguments(|a| a.sub_batch_size = Some(3)),
            steps(vocab, 8, mixed),
        ),
        (
            "checkpointing",
            arguments(|a| a.gradient_checkpointing = true),
            steps(vocab, 8, plain),
        ),
        ("uneven shares", arguments(|_| {}), steps(vocab, 5, mixed)),
        ("empty shares", arguments(|_| {}), steps(vocab, 2, mixed)),
    ]
}

#[test]
fn several_ranks_are_one_rank_with_the_joined_batch_for_every_loss() {
    let model = || network("bert", 0.1);
    let vocab = model().config().vocab_size;
    for (what, arguments, steps) in cases(vocab) {
        let open = || Stepper::new(model(), &arguments, 10).unwrap();
        let one = work(open(), &steps).unwrap();
        assert!(one.reports.iter().all(|report| report.loss > 0.01), "{what}");
        for world in [1, 2, 4] {
            let several = train(world, &open, &steps);
            if world == 1 {
                assert!(
                    one.weights == several.weights,
                    "{what}: a group of one is not the world of one"
                );
            }
            assert_close(&format!("{what}, {world} ranks"), &one, &several);
        }
    }
}

#[test]
fn without_cross_device_negatives_ranks_are_accumulated_batches() {
    let model = || network("bert", 0.0);
    let vocab = model().config().vocab_size;
    let joined: Vec<Vec<TrainBatch>> = steps(vocab, 8, scored)
        .into_iter()
        .map(|mut batches| vec![batches.remove(0)])
        .collect();
    for world in [2, 4] {
        let settings = arguments(|a| a.negatives_cross_device = false);
        let several = train(world, &|| Stepper::new(model(), &settings, 10).unwrap(), &joined);
        // One rank takes the ranks' batches one after another.
        let share =
            |batches: &Vec<TrainBatch>| (0..world).map(|rank| batches[0].share(world, rank)).collect();
        let shares: Vec<Vec<TrainBatch>> = joined.iter().map(share).collect();
        let one = work(Stepper::new(model(), &settings, 10).unwrap(), &shares).unwrap();
        assert_close(&format!("own negatives, {world} ranks"), &one, &several);
        let crossed = train(
            world,
            &|| Stepper::new(model(), &arguments(|_| {}), 10).unwrap(),
            &joined,
        );
        assert!(
            crossed.reports[0].loss > several.reports[0].loss + 0.1,
            "the flag has no effect"
        );
    }
}

#[test]
fn several_ranks_train_a_reranker_as_one_does() {
    let model = || CrossEncoder::open(fixture("reranker/models/bert")).unwrap();
    let vocab = model().config().vocab_size;
    let batch = |queries: usize, teacher: bool, seed: u64| {
        let texts = scored(random_batch(vocab, queries, 4, seed), seed as usize);
        PairBatch {
            pairs: texts.passages,
            group_size: 4,
            teacher_scores: texts.teacher_scores.filter(|_| teacher),
        }
    };
    for queries in [8, 5, 1] {
        for sub_batch_size in [None, Some(5)] {
            let steps: Vec<Vec<PairBatch>> = (0..3)
                .map(|step| vec![batch(queries, false, step), batch(queries, true, 50 + step)])
                .collect();
            let settings = arguments(|a| a.sub_batch_size = sub_batch_size);
            let open = || Stepper::reranker(model(), &settings, 10).unwrap();
            let one = work(open(), &steps).unwrap();
            for world in [1, 2, 4] {
                let what = format!("reranker, {queries} queries, {world} ranks");
                assert_close(&what, &one, &train(world, &open, &steps));
            }
        }
    }
}

#[test]
fn several_ranks_train_m3_with_their_own_negatives() {
    let folder = ModelFolder::open(&fixture("m3/models/m3")).unwrap();
    let model = || M3::open(&folder).unwrap();
    let vocab = model().config().vocab_size;
    let joined: Vec<Vec<TrainBatch>> = steps(vocab, 8, scored)
        .into_iter()
        .map(|mut batches| vec![batches.remove(0)])
        .collect();
    let settings = arguments(|a| {
        a.negatives_cross_device = false;
        a.unified_finetuning = true;
        a.use_self_distill = true;
    });
    let open = || Stepper::m3(model(), &settings, 10, vec![0, 1, 2, 3]).unwrap();
    for world in [2, 4] {
        let share =
            |batches: &Vec<TrainBatch>| (0..world).map(|rank| batches[0].share(world, rank)).collect();
        let shares: Vec<Vec<TrainBatch>> = joined.iter().map(share).collect();
        let one = work(open(), &shares).unwrap();
        assert_close(&format!("m3, {world} ranks"), &one, &train(world, &open, &joined));
    }
}

#[test]
fn the_dense_head_of_m3_sees_the_passages_of_all_ranks_and_the_others_their_own() {
    let folder = ModelFolder::open(&fixture("m3/models/m3")).unwrap();
    let model = || M3::open(&folder).unwrap();
    let vocab = model().config().vocab_size;
    let run = |world: usize, batch: &TrainBatch, change: &dyn Fn(&mut TrainingArguments)| {
        let settings = arguments(|a| {
            a.max_grad_norm = 0.0;
            change(a);
        });
        let open = || Stepper::m3(model(), &settings, 10, vec![0, 1, 2, 3]).unwrap();
        train(world, &open, &[vec![batch.clone()]])
    };
    let own = |a: &mut TrainingArguments| a.negatives_cross_device = false;
    // The dense loss counts a quarter, and with self-distillation half of that.
    for (self_distill, part) in [(false, 0.25), (true, 0.125)] {
        for (world, queries, kind) in [
            (2, 8, scored as fn(TrainBatch, usize) -> TrainBatch),
            (4, 6, |batch, _| batch),
            (2, 1, scored),
            (2, 4, |batch, _| alone(batch)),
        ] {
            for sub_batch_size in [None, Some(3)] {
                let batch = kind(random_batch(vocab, queries, 3, 7), 1);
                let heads = |a: &mut TrainingArguments| {
                    (a.unified_finetuning, a.use_self_distill) = (true, self_distill);
                    a.sub_batch_size = sub_batch_size;
                };
                let crossed = run(world, &batch, &heads);
                let with_own = run(world, &batch, &|a| {
                    heads(a);
                    own(a);
                });
                let dense_with_own = run(world, &batch, &own);
                let dense_of_all = run(1, &batch, &own);
                let expected = |of: &dyn Fn(&Trained) -> f64| {
                    of(&with_own) + part * (of(&dense_of_all) - of(&dense_with_own))
                };
                let what = format!("{world} ranks, {queries} queries, {self_distill}, {sub_batch_size:?}");
                let (loss, wanted) = (crossed.reports[0].loss, expected(&|run| run.reports[0].loss));
                assert!(
                    (loss - wanted).abs() < 1e-5 * wanted,
                    "{what}: loss {loss}, not {wanted}"
                );
                if queries > 1 && !batch.no_in_batch_neg {
                    assert!(
                        loss > with_own.reports[0].loss + 0.01,
                        "{what}: the flag has no effect"
                    );
                }
                let (mut error, mut length) = (0.0_f64, 0.0_f64);
                for (id, gradient) in crossed.gradients.iter().enumerate() {
                    for (at, value) in gradient.iter().flatten().enumerate() {
                        let value = f64::from(*value);
                        let wanted =
                            expected(&|run| run.gradients[id].as_ref().map_or(0.0, |g| f64::from(g[at])));
                        error += (value - wanted).powi(2);
                        length += wanted.powi(2);
                    }
                }
                assert!(error < 1e-10 * length, "{what}: {:.2e}", (error / length).sqrt());
            }
        }
    }
}

#[test]
fn a_rank_with_a_bad_batch_ends_all_with_its_error() {
    let model = || network("bert", 0.1);
    let vocab = model().config().vocab_size;
    let mut batch = random_batch(vocab, 6, 2, 3);
    // A token of the second rank's that the model does not know.
    let text = batch.queries.range(3).start;
    batch.queries.ids[text] = vocab as u32;
    for cross_device in [false, true] {
        let settings = arguments(|a| a.negatives_cross_device = cross_device);
        let lines = ThreadGroup::create(3, LIMIT).unwrap();
        let errors: Vec<_> = std::thread::scope(|scope| {
            let (batch, settings) = (&batch, &settings);
            let threads: Vec<_> = lines
                .into_iter()
                .enumerate()
                .map(|(rank, line)| {
                    scope.spawn(move || {
                        let line = Arc::new(line);
                        let mut stepper = Stepper::new(model(), settings, 10).unwrap();
                        stepper.join(Arc::clone(&line) as Arc<dyn Communicator>).unwrap();
                        let error = stepper.step(&[batch.share(3, rank)]).unwrap_err();
                        line.fail(&error);
                        error
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(
                error.to_string().contains("outside the model's vocabulary"),
                "{error}"
            );
        }
    }
}
