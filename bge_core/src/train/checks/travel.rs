//! How gradients travel from rank to rank: through the hosts or from GPU to GPU, in 32 bits or in 16.

use std::sync::Arc;

use super::kinds::{Kind, LIMIT, join_through_gpus, own_weights, possible};
use super::*;
use crate::config::{LrSchedulerType, NumberType};
use crate::cuda::emulator::real;
use crate::distributed::checks::on_threads;
use crate::distributed::{Communicator, ThreadGroup};
use crate::error::{Error, Result};

/// Reports and weights of two ranks on the CPU after steps of one micro-batch, of which there are two.
fn on_cpu(arguments: &TrainingArguments, steps: u32) -> Result<Vec<(Vec<StepReport>, Weights)>> {
    let lines = ThreadGroup::create(2, LIMIT).unwrap();
    let kind = Kind::Embedder;
    let results = on_threads(
        lines,
        |line| Ok(Arc::new(line) as Arc<dyn Communicator>),
        |line| {
            let mut stepper = kind.on_cpu(arguments, 96, 3);
            stepper.join(Arc::clone(line))?;
            let share = || if line.rank() == 0 { 0..2 } else { 2..3 };
            let reports = (0..steps).map(|step| stepper.step(&[kind.micro(step % 2, share())]));
            let reports = reports.collect::<Result<_>>()?;
            stepper.gather()?;
            let whole = line.rank() == 0 || arguments.zero_stage < 3;
            Ok((reports, if whole { read_all(&stepper) } else { Vec::new() }))
        },
    );
    results.into_iter().collect()
}

type Weights = Vec<(String, Vec<f32>)>;

fn travelling(travels: NumberType, zero_stage: usize) -> TrainingArguments {
    TrainingArguments {
        communication_data_type: travels,
        zero_stage,
        gradient_accumulation_steps: 1,
        lr_scheduler_type: LrSchedulerType::Constant,
        ..Kind::Embedder.arguments()
    }
}

#[test]
fn gradients_that_travel_in_16_bits_train_nearly_as_those_in_32() {
    let exact = on_cpu(&travelling(NumberType::Fp32, 0), 20).unwrap();
    for (travels, most) in [(NumberType::Bf16, 2e-2), (NumberType::Fp16, 2e-3)] {
        let rounded = on_cpu(&travelling(travels, 0), 20).unwrap();
        assert!(rounded[0] == rounded[1], "{travels}: the ranks differ");
        assert!(rounded[0].1 != exact[0].1, "{travels}: nothing was rounded");
        let [want, got] = [&exact, &rounded].map(|run| &run[0].0);
        for (want, got) in want.iter().zip(got) {
            let apart = (want.loss - got.loss).abs() / want.loss;
            assert!(apart < most, "{travels}: {want:?} {got:?}");
        }
        assert!(
            got[18].loss + got[19].loss < 0.5 * (got[0].loss + got[1].loss),
            "{travels} learns nothing: {got:?}"
        );
        // What ranks share out travels as what they do not.
        for zero_stage in 1..=3 {
            let shared = on_cpu(&travelling(travels, zero_stage), 20).unwrap();
            assert!(shared[0] == rounded[0], "{travels}: stage {zero_stage} differs");
        }
    }
}

/// Gradients that fp16 cannot hold, as a score is divided by next to nothing.
fn large(travels: NumberType, zero_stage: usize) -> TrainingArguments {
    TrainingArguments {
        temperature: 1e-7,
        ..travelling(travels, zero_stage)
    }
}

#[test]
fn sums_that_fp16_cannot_hold_end_the_run_with_the_way_out() {
    for zero_stage in [0, 2] {
        for travels in [NumberType::Fp32, NumberType::Bf16] {
            on_cpu(&large(travels, zero_stage), 1).unwrap();
        }
        let error = on_cpu(&large(NumberType::Fp16, zero_stage), 1).unwrap_err();
        says_so(&error);
    }
    if possible(Storage::F32) {
        let kind = Kind::Embedder;
        let arguments = large(NumberType::Fp16, 0);
        let result = kind.world(2, &arguments, Storage::F32, |stepper, line| {
            kind.steps(stepper, line, 0..1)
        });
        says_so(&result.unwrap_err());
    }
}

#[track_caller]
fn says_so(error: &Error) {
    let text = error.to_string();
    assert!(
        text.contains("65504: give --communication_data_type bf16"),
        "{text}"
    );
}

#[test]
fn the_scale_of_fp16_becomes_lower_where_a_sum_overflows() {
    if !possible(Storage::F16) {
        return;
    }
    let kind = Kind::Taught;
    let run = |travels: NumberType| {
        let arguments = TrainingArguments {
            communication_data_type: travels,
            temperature: 0.05,
            ..kind.arguments()
        };
        let left = kind.world(2, &arguments, Storage::F16, |stepper, line| {
            kind.steps(stepper, line, 0..1)?;
            let scale = stepper.loss_scale().unwrap().scale;
            Ok((scale, own_weights(stepper)))
        });
        left.unwrap()
    };
    let (exact, rounded) = (run(NumberType::Fp32), run(NumberType::Fp16));
    let scales = [exact[0].0, rounded[0].0];
    assert!(1.0 < scales[1] && scales[1] < scales[0], "{scales:?}");
    assert!(rounded[0] == rounded[1], "the ranks differ");
}

#[test]
fn gpus_that_reach_each_other_train_as_through_their_hosts() {
    // What stands for NCCL cannot reach the memory of a device.
    if real().is_some() || !possible(Storage::Bf16) {
        return;
    }
    for (kind, storage, zero_stage, sub_batch_size, travels) in [
        (Kind::Embedder, Storage::Bf16, 0, Some(2), NumberType::Fp32),
        (Kind::Embedder, Storage::F32, 0, None, NumberType::Bf16),
        (Kind::Embedder, Storage::F32, 1, None, NumberType::Fp16),
        (Kind::Reranker, Storage::F32, 2, Some(2), NumberType::Bf16),
        (Kind::Deep, Storage::Bf16, 3, Some(2), NumberType::Fp32),
    ] {
        let arguments = TrainingArguments {
            zero_stage,
            sub_batch_size,
            communication_data_type: travels,
            ..kind.arguments()
        };
        // Only new weights that come from elsewhere show in a second step.
        let count = if zero_stage == 3 { 2 } else { 1 };
        let steps = |reach: bool| {
            move |stepper: &mut Stepper, line: &dyn Communicator| {
                let reports = kind.steps(stepper, line, 0..count)?;
                assert_eq!(stepper.sums_beside(), reach && zero_stage < 2);
                let moments: Vec<_> = stepper.moments()?.into_keys().collect();
                Ok((reports, own_weights(stepper), moments))
            }
        };
        let host = kind.world(2, &arguments, storage, steps(false)).unwrap();
        let gpus = kind.world_over(2, &arguments, storage, join_through_gpus, steps(true));
        // The sum of two numbers has one order.
        let what = format!("stage {zero_stage}, {sub_batch_size:?}, {travels}");
        assert!(host == gpus.unwrap(), "{what}");
        if travels != NumberType::Fp32 {
            let exact = TrainingArguments {
                communication_data_type: NumberType::Fp32,
                ..arguments
            };
            let exact = kind.world(2, &exact, storage, steps(false)).unwrap();
            assert!(exact[0].1 != host[0].1, "{what}: nothing was rounded");
            for (want, got) in exact[0].0.iter().zip(&host[0].0) {
                let apart = (want.grad_norm - got.grad_norm).abs() / want.grad_norm;
                assert!(apart < 2e-2, "{what}: {want:?} {got:?}");
            }
        }
    }
}
