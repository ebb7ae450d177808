//! Ranks that share out optimizer, gradients and weights (`zero_stage`), beside ranks that do not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bge_core::config::{NumberType, TrainingArguments};
use bge_core::distributed::{Communicator, ThreadGroup, together};
use bge_core::models::{Bert, CrossEncoder, M3, ModelFolder, read_weights};
use bge_core::train::{Held, MicroBatch, PairBatch, StepReport, Stepper, TrainBatch};
use bge_core::{Error, ErrorKind, Result};
use bge_tests::{fixture, network, random_batch, weights};

use super::LIMIT;
use super::steps::{Shared, alone, arguments, scored, steps};

type Line = Arc<dyn Communicator>;

/// Runs the work on every rank of a group; `wrap` may put something between a rank and its line.
fn on<T: Send>(
    world: usize,
    limit: Duration,
    wrap: impl Fn(Line) -> Line,
    work: impl Fn(Line) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let lines = ThreadGroup::create(world, limit)?;
    let mut lines: Vec<Line> = lines.into_iter().map(|line| wrap(Arc::new(line))).collect();
    let lead = lines.remove(0);
    let mut results: Vec<Option<T>> = lines.iter().map(|_| None).collect();
    let first = together(
        &|error| lead.fail(error),
        lines.into_iter().zip(&mut results).collect(),
        |(line, result)| {
            *result = Some(work(line)?);
            Ok(())
        },
        || work(Arc::clone(&lead)),
    )?;
    Ok(std::iter::once(first)
        .chain(results.into_iter().flatten())
        .collect())
}

/// What a group of ranks leaves behind.
struct Trained {
    /// The weights of rank 0.
    weights: BTreeMap<String, Vec<f32>>,
    reports: Vec<StepReport>,
    /// Of each rank, after the last step.
    held: Vec<Held>,
}

/// Trains on `world` ranks, each with its share of the joined batches.
fn train<B: Shared>(world: usize, open: &(dyn Fn() -> Stepper + Sync), steps: &[Vec<B>]) -> Trained
where
    for<'a> &'a B: Into<MicroBatch<'a>>,
{
    let work = |line: Line| {
        let rank = line.rank();
        let share = |batches: &Vec<B>| batches.iter().map(|b| b.share(world, rank)).collect();
        let own: Vec<Vec<B>> = steps.iter().map(share).collect();
        let mut stepper = open();
        stepper.join(line)?;
        let reports = own.iter().map(|batches| stepper.step(batches));
        let reports: Vec<StepReport> = reports.collect::<Result<_>>()?;
        let held = stepper.held()?;
        stepper.gather()?;
        let weights = (rank == 0).then(|| weights(stepper.model()));
        Ok((weights, reports, held))
    };
    let mut all = on(world, LIMIT, |line| line, work).unwrap();
    assert!(all.iter().all(|(_, reports, _)| *reports == all[0].1));
    let held = all.iter().map(|(_, _, held)| *held).collect();
    let (weights, reports, _) = all.remove(0);
    Trained {
        weights: weights.unwrap(),
        reports,
        held,
    }
}

/// The largest distance of two models' tensors, relative to their lengths.
fn apart(a: &Trained, b: &Trained) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let of = |(name, a): (&String, &Vec<f32>)| {
        let difference = norm(&mut a.iter().zip(&b.weights[name]).map(|(a, b)| f64::from(a - b)));
        difference / norm(&mut a.iter().map(|x| f64::from(*x))).max(1e-3)
    };
    a.weights.iter().map(of).fold(0.0, f64::max)
}

/// How far the weights of a stage may be from those of stage 0: not at all where a step has one backward, or in stage 1.
fn allowed(stage: usize, sub_batch_size: Option<usize>) -> f64 {
    if sub_batch_size.is_none() || stage == 1 {
        0.0
    } else {
        5e-7
    }
}

fn staged(stage: usize, change: impl FnOnce(&mut TrainingArguments)) -> TrainingArguments {
    arguments(|arguments| {
        arguments.zero_stage = stage;
        change(arguments);
    })
}

fn embedder(arguments: &TrainingArguments) -> Stepper {
    Stepper::new(network("bert", 0.1), arguments, 30).unwrap()
}

/// Twenty steps of one micro-batch.
fn twenty(queries: usize) -> Vec<Vec<TrainBatch>> {
    let vocab = network("bert", 0.0).config().vocab_size;
    let batch = |step: u64| random_batch(vocab, queries, 3, 200 + step);
    (0..20)
        .map(|step| match step % 5 {
            3 => vec![scored(batch(step), step as usize)],
            4 => vec![alone(batch(step))],
            _ => vec![batch(step)],
        })
        .collect()
}

#[test]
fn twenty_steps_of_every_stage_have_the_bits_of_stage_0() {
    // 6 queries are uneven shares for 4 ranks; with 2, two of 4 ranks have nothing to compute.
    for queries in [6, 2] {
        let steps = twenty(queries);
        for world in [1, 2, 4] {
            let run = |stage: usize| train(world, &|| embedder(&staged(stage, |_| {})), &steps);
            let zero = run(0);
            assert!(zero.reports[0].loss > 0.01);
            for stage in 1..=3 {
                let other = run(stage);
                assert_eq!(zero.reports, other.reports, "{world} ranks, stage {stage}");
                assert!(
                    zero.weights == other.weights,
                    "{world} ranks, stage {stage}: {:.1e}",
                    apart(&zero, &other)
                );
            }
        }
    }
}

#[test]
fn several_backwards_of_a_step_agree_up_to_rounding() {
    let vocab = network("bert", 0.0).config().vocab_size;
    type Change = fn(&mut TrainingArguments);
    let ways: [(&str, Change, usize); 4] = [
        ("accumulation", |_| {}, 8),
        ("GradCache, uneven", |a| a.sub_batch_size = Some(3), 5),
        ("GradCache, empty shares", |a| a.sub_batch_size = Some(1), 2),
        (
            "checkpointing, own negatives",
            |a| {
                a.gradient_checkpointing = true;
                a.negatives_cross_device = false;
            },
            3,
        ),
    ];
    for (what, change, queries) in ways {
        let steps = steps(vocab, queries, |batch, _| batch);
        for world in [2, 4] {
            let run = |stage: usize| train(world, &|| embedder(&staged(stage, change)), &steps);
            let zero = run(0);
            let first = run(1);
            assert!(
                zero.weights == first.weights && zero.reports == first.reports,
                "{what}, stage 1"
            );
            for stage in [2, 3] {
                let apart = apart(&zero, &run(stage));
                assert!(apart < 5e-7, "{what}, {world} ranks, stage {stage}: {apart:.1e}");
            }
        }
    }
}

#[test]
fn rerankers_and_m3_share_out_too() {
    let model = || CrossEncoder::open(fixture("reranker/models/bert")).unwrap();
    let vocab = model().config().vocab_size;
    let batch = |queries: usize, seed: u64| {
        let texts = random_batch(vocab, queries, 4, seed);
        vec![PairBatch {
            pairs: texts.passages,
            group_size: 4,
            teacher_scores: None,
        }]
    };
    for (queries, sub_batch_size) in [(8, None), (5, Some(4)), (1, Some(8))] {
        let steps: Vec<Vec<PairBatch>> = (0..4).map(|step| batch(queries, step)).collect();
        for world in [2, 4] {
            let run = |stage: usize| {
                let settings = staged(stage, |a| a.sub_batch_size = sub_batch_size);
                train(
                    world,
                    &|| Stepper::reranker(model(), &settings, 10).unwrap(),
                    &steps,
                )
            };
            let zero = run(0);
            for stage in 1..=3 {
                let apart = apart(&zero, &run(stage));
                assert!(
                    apart <= allowed(stage, sub_batch_size),
                    "{queries} queries, {world} ranks, stage {stage}: {apart:.1e}"
                );
            }
        }
    }

    let folder = ModelFolder::open(&fixture("m3/models/m3")).unwrap();
    let vocab = M3::open(&folder).unwrap().config().vocab_size;
    let joined: Vec<Vec<TrainBatch>> = steps(vocab, 6, scored)
        .into_iter()
        .map(|mut batches| vec![batches.remove(0)])
        .collect();
    for (fix_encoder, sub_batch_size) in [(false, None), (true, None), (false, Some(4))] {
        let run = |stage: usize| {
            let settings = staged(stage, |a| {
                a.negatives_cross_device = false;
                a.unified_finetuning = true;
                a.use_self_distill = true;
                a.fix_encoder = fix_encoder;
                a.sub_batch_size = sub_batch_size;
            });
            let open = || Stepper::m3(M3::open(&folder).unwrap(), &settings, 10, vec![0, 1, 2, 3]).unwrap();
            train(4, &open, &joined)
        };
        let zero = run(0);
        for stage in 1..=3 {
            let apart = apart(&zero, &run(stage));
            assert!(
                apart <= allowed(stage, sub_batch_size),
                "m3, fix_encoder {fix_encoder}, stage {stage}: {apart:.1e}"
            );
        }
    }
}

/// The tiny encoder with its first layer twelve times.
fn deep(arguments: &TrainingArguments) -> Stepper {
    let folder = fixture("parity/models/bert");
    let mut config = ModelFolder::open(&folder).unwrap().config;
    config.num_hidden_layers = 12;
    let mut weights = read_weights(&folder).unwrap();
    let first = |name: &String| name.strip_prefix("encoder.layer.0.").map(str::to_owned);
    let names: Vec<String> = weights.keys().filter_map(first).collect();
    for layer in 1..12 {
        for name in &names {
            let weight = weights[&format!("encoder.layer.0.{name}")].copy().unwrap();
            weights.insert(format!("encoder.layer.{layer}.{name}"), weight);
        }
    }
    Stepper::new(Bert::new(config, weights).unwrap(), arguments, 30).unwrap()
}

#[test]
fn a_rank_holds_its_block_and_not_the_whole() {
    let steps = &twenty(8)[..2];
    let held = |world: usize, stage: usize| train(world, &|| deep(&staged(stage, |_| {})), steps).held;
    let whole = held(1, 0)[0];
    // The pooler is not trained and stays everywhere, as the norm of the embeddings does.
    let stays = 4 * (32 * 32 + 32 + 2 * 32);
    let layer = 4 * 8544;
    assert_eq!(
        (whole.optimizer, whole.weights),
        (2 * whole.gradients, whole.gradients + 4 * (32 * 32 + 32))
    );
    for world in [2, 4] {
        // A block, with what it may be longer than others.
        let block = |bytes: usize| bytes / world + bytes / 20;
        assert_eq!(held(world, 0), vec![whole; world]);
        for stage in 1..=3 {
            let held = held(world, stage);
            let sum = |of: fn(&Held) -> usize| held.iter().map(of).sum::<usize>();
            let most = |of: fn(&Held) -> usize| held.iter().map(of).max().unwrap();
            let what = format!("{world} ranks, stage {stage}: {held:?} of {whole:?}");
            assert_eq!(sum(|held| held.optimizer), whole.optimizer, "{what}");
            assert!(most(|held| held.optimizer) <= block(whole.optimizer), "{what}");
            let gradients = most(|held| held.gradients);
            if stage == 1 {
                assert!(gradients > whole.gradients, "{what}");
            } else {
                // One layer at a time beside the block.
                assert!(gradients <= block(whole.gradients) + layer, "{what}");
            }
            if stage == 3 {
                assert_eq!(
                    sum(|held| held.weights),
                    whole.weights + (world - 1) * stays,
                    "{what}"
                );
                assert!(
                    most(|held| held.weights) <= block(whole.weights) + stays,
                    "{what}"
                );
            } else {
                assert_eq!(most(|held| held.weights), whole.weights, "{what}");
            }
        }
    }
}

/// A line that breaks at a call: its rank panics.
#[derive(Debug)]
struct Breaking {
    line: Line,
    calls: AtomicUsize,
    at: usize,
}

impl Breaking {
    fn call(&self) -> &dyn Communicator {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(self.line.rank() != 1 || call != self.at, "killed in call {call}");
        &*self.line
    }
}

impl Communicator for Breaking {
    fn rank(&self) -> usize {
        self.line.rank()
    }

    fn world_size(&self) -> usize {
        self.line.world_size()
    }

    fn all_reduce(&self, values: &mut [f32], travels: NumberType) -> Result<()> {
        self.call().all_reduce(values, travels)
    }

    fn reduce_scatter(&self, values: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        self.call().reduce_scatter(values, lengths, travels)
    }

    fn all_gather(&self, own: &[f32], lengths: &[usize], travels: NumberType) -> Result<Vec<f32>> {
        self.call().all_gather(own, lengths, travels)
    }

    fn gather_numbers(&self, own: &[f64]) -> Result<Vec<f64>> {
        self.call().gather_numbers(own)
    }

    fn broadcast(&self, root: usize, values: &mut [f32], travels: NumberType) -> Result<()> {
        self.call().broadcast(root, values, travels)
    }

    fn barrier(&self) -> Result<()> {
        self.call().barrier()
    }

    fn order(&self, word: u32) -> Result<u32> {
        self.call().order(word)
    }

    fn fail(&self, error: &Error) {
        self.line.fail(error);
    }
}

#[test]
fn a_rank_that_is_killed_anywhere_in_a_step_ends_all() {
    let steps = &twenty(6)[..2];
    let limit = Duration::from_mins(1);
    for stage in 0..=3 {
        let settings = staged(stage, |_| {});
        let run = |at: usize| {
            let calls = Arc::new(AtomicUsize::new(0));
            let breaking = |line: Line| -> Line {
                Arc::new(Breaking {
                    line,
                    calls: AtomicUsize::new(0),
                    at,
                })
            };
            let work = |line: Line| {
                let rank = line.rank();
                let mut stepper = embedder(&settings);
                stepper.join(line)?;
                for batches in steps {
                    stepper.step(&[batches[0].share(3, rank)])?;
                    calls.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            };
            (
                on(3, limit, breaking, work).map(drop),
                calls.load(Ordering::SeqCst),
            )
        };
        let mut at = 0;
        loop {
            let started = Instant::now();
            let (result, finished) = run(at);
            assert!(started.elapsed() < limit / 2);
            let Err(error) = result else {
                assert_eq!(finished, 6, "nothing was left to break");
                break;
            };
            assert_eq!(error.kind(), ErrorKind::Distributed, "{error}");
            let expected = format!("rank 1 panicked: killed in call {at}");
            assert!(error.to_string().contains(&expected), "stage {stage}: {error}");
            at += 1;
        }
        assert!(at > 6, "stage {stage} has {at} calls in two steps");
    }
}
