//! Steps of several ranks, each with its own emulated GPU, against those of one rank with the joined batch.

use super::kinds::{Kind, moments, own_weights, possible};
use super::*;
use crate::distributed::Solo;
use crate::error::{Error, ErrorKind};
use crate::train::LossScale;

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
            stepper.resume(1, 1).load_state(moments.clone(), &counts)?;
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
        let scale = stepper.loss_scale().unwrap().scale;
        Ok((reports, scale, own_weights(stepper)))
    });
    let reports = reports.unwrap();
    assert_eq!(reports[0], reports[1]);
    assert!(reports[0].1 < 65536.0, "the scale is {}", reports[0].1);
}

#[test]
fn a_scale_goes_on_from_a_checkpoint_and_rises_again_from_the_lowest() {
    let kind = Kind::Taught;
    let lowest = LossScale {
        scale: 1.0,
        good_steps: 1998,
    };
    let scales = |storage| {
        let left = kind.world(1, &kind.arguments(), storage, |stepper, line| {
            stepper.set_loss_scale(Some(lowest));
            kind.steps(stepper, line, 0..1)?;
            let first = stepper.loss_scale();
            kind.steps(stepper, line, 1..2)?;
            Ok([first, stepper.loss_scale()])
        });
        left.unwrap()[0]
    };
    if possible(Storage::F16) {
        let [first, second] = scales(Storage::F16).map(|scale| scale.unwrap());
        assert_eq!((first.scale, first.good_steps), (1.0, 1999));
        assert_eq!((second.scale, second.good_steps), (2.0, 0));
    }
    if possible(Storage::Bf16) {
        assert_eq!(scales(Storage::Bf16), [None, None]);
    }
}
