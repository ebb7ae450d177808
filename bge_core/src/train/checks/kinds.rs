//! Steps of several ranks, each with its own emulated GPU: what is trained, on which batches, and what is left.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Tensor;

use super::*;
use crate::distributed::checks::on_threads;
use crate::distributed::{Communicator, Nccl, ThreadGroup, ThreadRank};
use crate::error::Result;
use crate::models::{Bert, CrossEncoder, M3};
use crate::train::{MicroBatch, PairBatch};

/// How long a rank waits for the others: these are emulated, on a machine that may be busy.
pub(super) const LIMIT: Duration = Duration::from_mins(20);

/// What is trained, and on which batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
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

pub(super) enum Micro {
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
    pub(super) fn micro(self, number: u32, share: Range<usize>) -> Micro {
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

    pub(super) fn stepper(self, arguments: &TrainingArguments, storage: Storage) -> Stepper {
        let (width, heads) = if storage == Storage::F16 { (64, 1) } else { (96, 3) };
        let mut stepper = self.on_cpu(arguments, width, heads);
        let variant = Variant::new(storage, width, heads).unwrap();
        stepper.put_on(emulator(variant).unwrap(), variant).unwrap();
        stepper
    }

    pub(super) fn on_cpu(self, arguments: &TrainingArguments, width: usize, heads: usize) -> Stepper {
        let layers = if matches!(self, Self::Deep | Self::Heads) {
            3
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

    pub(super) fn arguments(self) -> TrainingArguments {
        TrainingArguments {
            negatives_cross_device: self == Self::Embedder,
            unified_finetuning: self == Self::Heads,
            use_self_distill: self == Self::Heads,
            ..arguments()
        }
    }

    /// What each rank does with its stepper.
    pub(super) fn world<T: Send>(
        self,
        ranks: usize,
        arguments: &TrainingArguments,
        storage: Storage,
        work: impl Fn(&mut Stepper, &dyn Communicator) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.world_over(ranks, arguments, storage, Stepper::join, work)
    }

    /// The same with another way to join.
    pub(super) fn world_over<T: Send>(
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
    pub(super) fn steps(
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
pub(super) fn own_weights(stepper: &Stepper) -> Vec<(String, Vec<f32>)> {
    stepper.gather().unwrap();
    let params = stepper.model().params();
    let encoder = stepper.model().gpu().unwrap();
    if encoder.keeps_block() && stepper.ranks().rank() > 0 {
        return Vec::new();
    }
    encoder.download(params, |_, _| true).unwrap();
    read_all(stepper)
}

/// The moments by their names in a checkpoint; all ranks call it.
pub(super) fn moments(stepper: &Stepper) -> Result<BTreeMap<String, Vec<f32>>> {
    let moments = stepper.moments()?.into_iter();
    Ok(moments.map(|(name, of)| (name, of.into_owned())).collect())
}

/// Whether there is an emulator.
pub(super) fn possible(storage: Storage) -> bool {
    let (width, heads) = if storage == Storage::F16 { (64, 1) } else { (96, 3) };
    emulator(Variant::new(storage, width, heads).unwrap()).is_some()
}

/// What steps leave on a rank: reports, weights and moments.
pub(super) type Left = (
    Vec<StepReport>,
    Vec<(String, Vec<f32>)>,
    BTreeMap<String, Vec<f32>>,
);

/// Two steps of two ranks, of one pass each or of two micro-batches.
pub(super) fn two_steps(kind: Kind, storage: Storage, arguments: &TrainingArguments) -> Vec<Left> {
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

/// Joins through a NCCL that is none.
pub(super) fn join_through_gpus(stepper: &mut Stepper, line: Arc<dyn Communicator>) -> Result<()> {
    stepper.join_through(|gpu| Nccl::faked(line, gpu, LIMIT))
}
