//! Ranks on emulated GPUs that share out moments, gradients and weights (`zero_stage`), against ranks that do not.

use std::collections::BTreeMap;

use super::kinds::{Kind, own_weights, possible, two_steps};
use super::*;
use crate::config::{NumberType, PoolingMethod};
use crate::distributed::Communicator;
use crate::error::Result;
use crate::inference::{BatchLimits, VectorShape, encode_tokens};

#[test]
fn sharing_out_the_optimizer_and_the_gradients_of_a_pass_changes_no_bit() {
    if !possible(Storage::Bf16) {
        return;
    }
    let run = |zero_stage: usize, gradient_accumulation_steps: usize, storage: Storage| {
        let arguments = TrainingArguments {
            gradient_accumulation_steps,
            zero_stage,
            communication_data_type: match storage {
                Storage::F16 => NumberType::Fp16,
                _ => NumberType::Fp32,
            },
            ..Kind::Reranker.arguments()
        };
        two_steps(Kind::Reranker, storage, &arguments)
    };
    let (whole, mut shared) = (run(0, 2, Storage::Bf16), run(1, 2, Storage::Bf16));
    assert_eq!(whole[0], shared[0]);
    // Rank 0 alone brings the moments together.
    assert_eq!(std::mem::take(&mut shared[1].2), BTreeMap::new());
    // Gradients that are summed in every pass add up in another order, if there are several. In 16 bits those of heads on the CPU
    // travel as large as those of the GPU.
    for storage in [Storage::Bf16, Storage::F16] {
        assert!(run(0, 1, storage)[0] == run(2, 1, storage)[0], "{storage:?}");
    }
}

#[test]
fn sharing_out_the_weights_changes_no_bit() {
    // Where a step is one pass, the bits of stage 0; otherwise those of stage 2.
    let (one_pass, passes) = ((1, None, 0), (2, Some(2), 2));
    for (kind, storage, gradient_checkpointing, pass) in [
        (Kind::Deep, Storage::F32, true, passes),
        (Kind::Deep, Storage::F16, false, one_pass),
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
