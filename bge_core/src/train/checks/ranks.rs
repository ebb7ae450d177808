//! Steps of several ranks, each with its own emulated GPU, against those of one rank with the joined batch.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Tensor;

use super::*;
use crate::config::PoolingMethod;
use crate::cuda::emulator::real;
use crate::distributed::checks::on_threads;
use crate::distributed::{Communicator, Nccl, Solo, ThreadGroup, ThreadRank};
use crate::error::{Error, ErrorKind, Result};
use crate::inference::{BatchLimits, VectorShape, encode_tokens};
use crate::models::{Bert, CrossEncoder, M3};
use crate::train::{MicroBatch, PairBatch};

/// How long a rank waits for the others: these are emulated, on a machine that may be busy.
pub(super) const LIMIT: Duration = Duration::from_mins(20);

/// What is trained, and on which batches.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// An embedder with the passages of all ranks as negatives.
    Embedder,
    /// The same with a teacher's scores, and negatives of the own group alone.
    Taught,
    /// An embedder with more layers than have their weights at once, and negatives of the own group alone.
    Deep,
    /// All heads of BGE-M3, over as many.
    Heads,
    Reranker,
}

enum Micro {
    Texts(TrainBatch),
    Pairs(PairBatch),
}

impl<'a> From<&'a Micro> for MicroBatch<'a> {
    fn from(micro: &'a Micro) -> Self {
        match micro {
            Micro::Texts(batch) => batch.into(),
            Micro::Pairs(batch) => batch.into(),
        }
    }
}

/// Some of the texts.
fn part(texts: &TokenBatch, range: Range<usize>) -> TokenBatch {
    let offsets = &texts.offsets[range.start..=range.end];
    TokenBatch {
        ids: texts.ids[offsets[0] as usize..offsets[range.len()] as usize].to_vec(),
        type_ids: None,
        offsets: offsets.iter().map(|offset| offset - offsets[0]).collect(),
    }
}

impl Kind {
    /// A micro-batch of three queries, and of these a rank's share.
    fn micro(self, number: u32, share: Range<usize>) -> Micro {
        let whole = batch(number);
        let passages = 2 * share.start..2 * share.end;
        let scores: Vec<f32> = passages.clone().map(|at| (at as f32 + 1.0).sin()).collect();
        if self == Self::Reranker {
            return Micro::Pairs(PairBatch {
                pairs: part(&whole.passages, passages),
                group_size: if share.is_empty() { 0 } else { 2 },
                teacher_scores: None,
            });
        }
        Micro::Texts(TrainBatch {
            queries: part(&whole.queries, share),
            passages: part(&whole.passages, passages),
            no_in_batch_neg: self != Self::Embedder,
            teacher_scores: (self == Self::Taught).then_some(scores),
        })
    }

    fn stepper(self, arguments: &TrainingArguments, storage: Storage) -> Stepper {
        let (width, heads) = if storage == Storage::F16 { (64, 1) } else { (96, 3) };
        let mut stepper = self.on_cpu(arguments, width, heads);
        let variant = Variant::new(storage, width, heads).unwrap();
        stepper.put_on(emulator(variant).unwrap(), variant).unwrap();
        stepper
    }

    fn on_cpu(self, arguments: &TrainingArguments, width: usize, heads: usize) -> Stepper {
        let layers = if matches!(self, Self::Deep | Self::Heads) {
            5
        } else {
            2
        };
        let config = deep(width, heads, layers);
        let bert = model(&config);
        let weights = |more: &[(&str, &[usize])]| -> BTreeMap<String, Tensor> {
            let own = bert.params().iter();
            let own = own.map(|(name, value, _)| (name.to_owned(), value.clone()));
            let fresh = more.iter().map(|(name, shape)| {
                let count = shape.iter().product::<usize>();
                let values = (0..count).map(|at| (at as f32 * 0.37).sin() * 0.2).collect();
                ((*name).to_owned(), crate::nn::tensor(values, *shape).unwrap())
            });
            own.chain(fresh).collect()
        };
        let stepper = match self {
            Self::Embedder | Self::Taught | Self::Deep => {
                let bert = Bert::new(config, weights(&[])).unwrap();
                Stepper::new(bert, arguments, 10)
            }
            Self::Heads => {
                let heads = weights(&[
                    ("colbert_linear.weight", &[32, width]),
                    ("colbert_linear.bias", &[32]),
                    ("sparse_linear.weight", &[1, width]),
                    ("sparse_linear.bias", &[1]),
                ]);
                Stepper::m3(M3::new(config, heads).unwrap(), arguments, 10, vec![0, 1])
            }
            Self::Reranker => {
                let head = weights(&[
                    ("pooler.dense.weight", &[width, width]),
                    ("classifier.weight", &[1, width]),
                    ("classifier.bias", &[1]),
                ]);
                Stepper::reranker(CrossEncoder::new(config, head).unwrap(), arguments, 10)
            }
        };
        stepper.unwrap()
    }

    fn arguments(self) -> TrainingArguments {
        TrainingArguments {
            negatives_cross_device: self == Self::Embedder,
            unified_finetuning: self == Self::Heads,
            use_self_distill: self == Self::Heads,
            ..arguments()
        }
    }

    /// What each rank does with its stepper.
    fn world<T: Send>(
        self,
        ranks: usize,
        arguments: &TrainingArguments,
        storage: Storage,
        work: impl Fn(&mut Stepper, &dyn Communicator) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.world_over(ranks, arguments, storage, Stepper::join, work)
    }

    /// The same with another way to join.
    fn world_over<T: Send>(
        self,
        ranks: usize,
        arguments: &TrainingArguments,
        storage: Storage,
        join: impl Fn(&mut Stepper, Arc<dyn Communicator>) -> Result<()> + Sync,
        work: impl Fn(&mut Stepper, &dyn Communicator) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let lines = ThreadGroup::create(ranks, LIMIT)?;
        let open = |line: ThreadRank| Ok(Arc::new(line) as Arc<dyn Communicator>);
        let results = on_threads(lines, open, |line| {
            let mut stepper = self.stepper(arguments, storage);
            join(&mut stepper, Arc::clone(line))?;
            work(&mut stepper, &**line)
        });
        results.into_iter().collect()
    }

    /// Steps on this rank's shares: of several ranks the last has one query of three in one micro-batch, and the first all of the
    /// other.
    fn steps(
        self,
        stepper: &mut Stepper,
        line: &dyn Communicator,
        steps: Range<u32>,
    ) -> Result<Vec<StepReport>> {
        let shares = match (line.world_size(), line.rank()) {
            (1, _) => [0..3, 0..3],
            (2, 0) => [0..2, 0..3],
            (_, 0) => [0..1, 0..3],
            (3, 1) => [1..2, 3..3],
            _ => [2..3, 3..3],
        };
        let step = |step: u32| {
            let micro = |at: usize| self.micro(2 * step + at as u32, shares[at].clone());
            stepper.step(&[micro(0), micro(1)])
        };
        steps.map(step).collect()
    }
}

/// The weights of a rank's GPU; none where rank 0 has brought them together. All ranks call it.
fn own_weights(stepper: &Stepper) -> Vec<(String, Vec<f32>)> {
    stepper.gather().unwrap();
    let params = stepper.model().params();
    let encoder = stepper.model().gpu().unwrap();
    if encoder.keeps_block() && stepper.ranks().rank() > 0 {
        return Vec::new();
    }
    encoder.download(params, |_, _| true).unwrap();
    let weights = params.iter();
    weights
        .map(|(name, value, _)| (name.to_owned(), read(value).unwrap().to_vec()))
        .collect()
}

/// The moments by their names in a checkpoint; all ranks call it.
fn moments(stepper: &Stepper) -> Result<BTreeMap<String, Vec<f32>>> {
    let moments = stepper.moments()?.into_iter();
    Ok(moments.map(|(name, of)| (name, of.into_owned())).collect())
}

/// Whether there is an emulator.
fn possible(storage: Storage) -> bool {
    let (width, heads) = if storage == Storage::F16 { (64, 1) } else { (96, 3) };
    emulator(Variant::new(storage, width, heads).unwrap()).is_some()
}

/// Steps of two ranks against those of one, which are close, and the weights of the two, which are equal.
fn compare(kind: Kind, arguments: &TrainingArguments, storage: Storage, tolerance: f64) {
    let run = |ranks: usize| {
        kind.world(ranks, arguments, storage, |stepper, line| {
            let reports = kind.steps(stepper, line, 0..2)?;
            Ok((reports, own_weights(stepper)))
        })
        .unwrap()
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(two[0].0, two[1].0, "{kind:?}: the ranks differ");
    assert!(
        arguments.zero_stage == 3 || two[0].1 == two[1].1,
        "{kind:?}: the weights differ"
    );
    for (want, got) in one[0].0.iter().zip(&two[0].0) {
        assert!(
            (want.loss - got.loss).abs() < tolerance * want.loss,
            "{kind:?} {want:?} {got:?}"
        );
        // In 16 bits rounding may decide which passage comes first.
        if storage == Storage::F32 {
            assert!(
                (want.accuracy - got.accuracy).abs() < 1e-6,
                "{kind:?} {want:?} {got:?}"
            );
        }
        assert!(
            (want.grad_norm - got.grad_norm).abs() < 10.0 * tolerance * want.grad_norm,
            "{kind:?} {want:?} {got:?}"
        );
        assert_eq!((want.tokens, want.learning_rate), (got.tokens, got.learning_rate));
    }
    // A first step of Adam is the sign of the gradient: where that is near 0, rounding decides; 1e-3 is the rate.
    let apart = apart(&one[0].1, &two[0].1);
    assert!(apart < 2e-3, "{kind:?}: {apart}");
}

#[test]
fn two_gpus_train_as_one_with_the_joined_batch() {
    if !possible(Storage::F32) {
        return;
    }
    // That the stages have the same bits is a test of its own.
    let stages = [
        (Kind::Embedder, 0),
        (Kind::Taught, 1),
        (Kind::Heads, 3),
        (Kind::Reranker, 2),
    ];
    for (kind, zero_stage) in stages {
        let arguments = TrainingArguments {
            zero_stage,
            ..kind.arguments()
        };
        compare(kind, &arguments, Storage::F32, 2e-4);
    }
    let sub_batches = TrainingArguments {
        sub_batch_size: Some(2),
        gradient_checkpointing: true,
        fix_position_embedding: true,
        zero_stage: 3,
        ..Kind::Embedder.arguments()
    };
    compare(Kind::Embedder, &sub_batches, Storage::F32, 2e-4);
    // The heads alone: no rank waits for gradients of the encoder, also not one without queries.
    let heads_alone = TrainingArguments {
        fix_encoder: true,
        zero_stage: 3,
        ..Kind::Heads.arguments()
    };
    compare(Kind::Heads, &heads_alone, Storage::F32, 2e-4);
}

#[test]
fn two_gpus_in_half_precision_agree_too() {
    for storage in [Storage::Bf16, Storage::F16] {
        if !possible(storage) {
            return;
        }
        let arguments = TrainingArguments {
            zero_stage: 1,
            ..Kind::Embedder.arguments()
        };
        compare(Kind::Embedder, &arguments, storage, 2e-2);
    }
}

/// What steps leave on a rank: reports, weights and moments.
type Left = (
    Vec<StepReport>,
    Vec<(String, Vec<f32>)>,
    BTreeMap<String, Vec<f32>>,
);

/// Two steps of two ranks, of one pass each or of two micro-batches.
fn two_steps(kind: Kind, storage: Storage, arguments: &TrainingArguments) -> Vec<Left> {
    let run = kind.world(2, arguments, storage, |stepper, line| {
        let share = || if line.rank() == 0 { 0..2 } else { 2..3 };
        let reports = match arguments.gradient_accumulation_steps {
            1 => (0..2)
                .map(|step| stepper.step(&[kind.micro(step, share())]))
                .collect::<Result<_>>()?,
            _ => kind.steps(stepper, line, 0..2)?,
        };
        Ok((reports, own_weights(stepper), moments(stepper)?))
    });
    run.unwrap()
}

#[test]
fn sharing_out_the_optimizer_and_the_gradients_of_a_pass_changes_no_bit() {
    if !possible(Storage::Bf16) {
        return;
    }
    let run = |zero_stage: usize, gradient_accumulation_steps: usize| {
        let arguments = TrainingArguments {
            gradient_accumulation_steps,
            zero_stage,
            ..Kind::Reranker.arguments()
        };
        two_steps(Kind::Reranker, Storage::Bf16, &arguments)
    };
    let (whole, mut shared) = (run(0, 2), run(1, 2));
    assert_eq!(whole[0], shared[0]);
    // Rank 0 alone brings the moments together.
    assert_eq!(std::mem::take(&mut shared[1].2), BTreeMap::new());
    // Gradients that are summed in every pass add up in another order, if there are several.
    assert_eq!(run(0, 1)[0], run(2, 1)[0]);
}

#[test]
fn heads_on_the_cpu_learn_as_if_the_encoder_were_there_too() {
    if !possible(Storage::F32) {
        return;
    }
    for kind in [Kind::Heads, Kind::Reranker] {
        let arguments = kind.arguments();
        let mut host = kind.on_cpu(&arguments, 96, 3);
        let mut gpu = kind.stepper(&arguments, Storage::F32);
        let want = kind.steps(&mut host, &Solo, 0..4).unwrap();
        let got = kind.steps(&mut gpu, &Solo, 0..4).unwrap();
        for (want, got) in want.iter().zip(&got) {
            assert!(
                (want.loss - got.loss).abs() < 1e-3 * want.loss,
                "{kind:?}: {want:?} {got:?}"
            );
        }
        // Heads that do not learn are 4e-3 away: four steps of Adam.
        let apart = apart(&weights(&host), &weights(&gpu));
        assert!(apart < 2e-3, "{kind:?}: {apart}");
    }
}

#[test]
fn sharing_out_the_weights_changes_no_bit() {
    // Where a step is one pass, the bits of stage 0; otherwise those of stage 2.
    let (one_pass, passes) = ((1, None, 0), (2, Some(2), 2));
    for (kind, storage, gradient_checkpointing, pass) in [
        (Kind::Deep, Storage::F32, false, one_pass),
        (Kind::Deep, Storage::F32, true, passes),
        (Kind::Deep, Storage::Bf16, true, one_pass),
        (Kind::Deep, Storage::F16, false, passes),
        // Heads on the CPU, which must have their new weights.
        (Kind::Reranker, Storage::F32, false, one_pass),
        (Kind::Heads, Storage::Bf16, false, one_pass),
    ] {
        let (gradient_accumulation_steps, sub_batch_size, stage) = pass;
        if !possible(storage) {
            return;
        }
        let run = |zero_stage: usize| {
            let arguments = TrainingArguments {
                gradient_accumulation_steps,
                gradient_checkpointing,
                zero_stage,
                sub_batch_size,
                ..kind.arguments()
            };
            two_steps(kind, storage, &arguments)
        };
        let (whole, shared) = (run(stage), run(3));
        let what = format!("{kind:?}, {storage:?}, checkpointing {gradient_checkpointing}, stage {stage}");
        assert!(whole[0] == shared[0], "{what}");
        assert_eq!(whole[1].0, shared[1].0, "{what}");
    }
}

#[test]
fn rank_0_has_all_weights_to_encode_with_until_the_next_step() {
    for storage in [Storage::F32, Storage::Bf16] {
        if !possible(storage) {
            return;
        }
        let kind = Kind::Embedder;
        let texts = texts(&[3, 5, 4], 7);
        let run = |zero_stage: usize| {
            let arguments = TrainingArguments {
                zero_stage,
                ..kind.arguments()
            };
            let vectors = |stepper: &Stepper, line: &dyn Communicator| -> Result<Vec<f32>> {
                stepper.gather()?;
                // As in an evaluation, the others have nothing to do.
                if line.rank() > 0 {
                    return Ok(Vec::new());
                }
                let shape = VectorShape {
                    pooling: PoolingMethod::Mean,
                    truncate_dim: None,
                    normalize: true,
                };
                let vectors = encode_tokens(stepper.model(), &texts, shape, BatchLimits::default(), |_| {})?;
                Ok((0..3).flat_map(|row| vectors.row(row).to_vec()).collect())
            };
            let run = kind.world(2, &arguments, storage, |stepper, line| {
                let mut found = vec![vectors(stepper, line)?];
                kind.steps(stepper, line, 0..1)?;
                found.push(vectors(stepper, line)?);
                kind.steps(stepper, line, 1..2)?;
                // The best weights come back on rank 0 alone, and not to be trained.
                let start = own_weights(stepper);
                if line.rank() == 0 {
                    let params = stepper.model().params().clone();
                    for (id, ((_, floats), (_, value, _))) in start.iter().zip(params.iter()).enumerate() {
                        let half: Vec<f32> = floats.iter().map(|x| x / 2.0).collect();
                        stepper.set_weight(id, value, &half)?;
                    }
                }
                found.push(vectors(stepper, line)?);
                Ok(found)
            });
            run.unwrap().remove(0)
        };
        let shared = run(3);
        // Gradients of two micro-batches are summed as in stage 2.
        assert!(run(2) == shared, "{storage:?}");
        assert!(shared[0] != shared[1] && shared[1] != shared[2]);
    }
}

/// Joins through a NCCL that is none.
fn join_through_gpus(stepper: &mut Stepper, line: Arc<dyn Communicator>) -> Result<()> {
    stepper.join_through(|gpu| Nccl::faked(line, gpu, LIMIT))
}

#[test]
fn gpus_that_reach_each_other_train_as_through_their_hosts() {
    // What stands for NCCL cannot reach the memory of a device.
    if real().is_some() || !possible(Storage::Bf16) {
        return;
    }
    let storage = Storage::Bf16;
    for (kind, zero_stage, sub_batch_size) in [
        (Kind::Embedder, 0, Some(2)),
        (Kind::Embedder, 1, None),
        (Kind::Embedder, 2, Some(2)),
        (Kind::Deep, 3, Some(2)),
    ] {
        let arguments = TrainingArguments {
            zero_stage,
            sub_batch_size,
            ..kind.arguments()
        };
        let steps = |reach: bool| {
            move |stepper: &mut Stepper, line: &dyn Communicator| {
                let reports = kind.steps(stepper, line, 0..2)?;
                assert_eq!(stepper.sums_beside(), reach && zero_stage < 2);
                let moments: Vec<_> = stepper.moments()?.into_keys().collect();
                Ok((reports, own_weights(stepper), moments))
            }
        };
        let host = kind.world(2, &arguments, storage, steps(false)).unwrap();
        let gpus = kind.world_over(2, &arguments, storage, join_through_gpus, steps(true));
        // The sum of two numbers has one order.
        assert_eq!(host, gpus.unwrap(), "stage {zero_stage}, {sub_batch_size:?}");
    }
}

#[test]
fn any_number_of_gpus_goes_on_from_any_other() {
    if !possible(Storage::F32) {
        return;
    }
    let kind = Kind::Reranker;
    let with = |zero_stage: usize| TrainingArguments {
        zero_stage,
        ..kind.arguments()
    };
    // A step, what a checkpoint would hold, and the steps after it.
    let run = |ranks: usize, zero_stage: usize, end: u32| {
        let result = kind.world(ranks, &with(zero_stage), Storage::F32, |stepper, line| {
            kind.steps(stepper, line, 0..1)?;
            let counts = stepper.optimizer().state_steps();
            let saved = (own_weights(stepper), moments(stepper)?, counts);
            Ok((saved, kind.steps(stepper, line, 1..end)?))
        });
        result.unwrap().remove(0)
    };
    let (alone, whole) = run(1, 0, 3);
    for ((before, stage), (after, zero_stage)) in [
        ((2, 1), (1, 1)),
        ((1, 2), (2, 2)),
        ((2, 0), (2, 3)),
        ((2, 3), (1, 0)),
        ((1, 0), (3, 3)),
        ((3, 3), (2, 1)),
    ] {
        let (weights, moments, counts) = match before {
            1 => alone.clone(),
            _ => run(before, stage, 1).0,
        };
        let rest = kind.world(after, &with(zero_stage), Storage::F32, |stepper, line| {
            let params = stepper.model().params().clone();
            for (id, ((_, floats), (_, value, _))) in weights.iter().zip(params.iter()).enumerate() {
                stepper.set_weight(id, value, floats)?;
            }
            stepper.resume(1).load_state(moments.clone(), &counts)?;
            kind.steps(stepper, line, 1..3)
        });
        for (want, got) in whole.iter().zip(&rest.unwrap()[0]) {
            assert!(
                (want.loss - got.loss).abs() < 1e-3 * want.loss,
                "{before} to {after}: {want:?} {got:?}"
            );
        }
    }
}

#[test]
fn a_rank_that_fails_ends_the_step_of_the_other() {
    if !possible(Storage::F32) {
        return;
    }
    let kind = Kind::Embedder;
    let result = kind.world(2, &kind.arguments(), Storage::F32, |stepper, line| {
        if line.rank() == 1 {
            return Err(Error::new(ErrorKind::Io, "the disk is full"));
        }
        kind.steps(stepper, line, 0..1)
    });
    let text = result.unwrap_err().to_string();
    assert!(
        text.contains("rank 1 failed") && text.contains("the disk is full"),
        "{text}"
    );
}

#[test]
fn every_rank_lowers_the_scale_when_one_overflows() {
    if !possible(Storage::F16) {
        return;
    }
    let kind = Kind::Taught;
    // A temperature this low makes gradients that f16 cannot hold at the first scale.
    let arguments = TrainingArguments {
        temperature: 1e-4,
        ..kind.arguments()
    };
    let reports = kind.world(2, &arguments, Storage::F16, |stepper, line| {
        let reports = kind.steps(stepper, line, 0..2)?;
        Ok((reports, stepper.loss_scale(), own_weights(stepper)))
    });
    let reports = reports.unwrap();
    assert_eq!(reports[0], reports[1]);
    assert!(reports[0].1 < 65536.0, "the scale is {}", reports[0].1);
}
