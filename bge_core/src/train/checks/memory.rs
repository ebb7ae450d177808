//! The planner's bytes of a GPU against those that a step asks of an emulated one.

use std::sync::Arc;

use super::kinds::{LIMIT, join_through_gpus};
use super::*;
use crate::config::{FinetuneConfig, Module, NumberType, PoolingMethod};
use crate::cuda::emulator::real;
use crate::cuda::metered::{Meter, metered};
use crate::distributed::checks::on_threads;
use crate::distributed::{Communicator, ThreadGroup};
use crate::error::Result;
use crate::models::Bert;
use crate::nn::tensor;
use crate::planner::{FullestBatch, ModelShape, Plan, PlanOptions, plan};

/// Settings whose fullest batch has 9 texts of 420 tokens.
fn settings(storage: Storage, gradient_checkpointing: bool, sub_batch_size: Option<usize>) -> FinetuneConfig {
    let mut settings = FinetuneConfig::default();
    settings.data.train_group_size = 2;
    settings.data.query_max_len = 20;
    settings.data.passage_max_len = 60;
    settings.training = TrainingArguments {
        devices: vec!["cuda".to_owned()],
        bf16: storage == Storage::Bf16,
        per_device_train_batch_size: 3,
        sentence_pooling_method: PoolingMethod::Mean,
        gradient_accumulation_steps: 1,
        gradient_checkpointing,
        sub_batch_size,
        ..arguments()
    };
    settings
}

/// Such a batch, or a smaller one.
fn batch_of(queries: u32, passages: u32) -> TrainBatch {
    TrainBatch {
        queries: texts(&[queries; 3], 1),
        passages: texts(&[passages; 6], 2),
        no_in_batch_neg: false,
        teacher_scores: None,
    }
}

fn planned(layers: usize, settings: &FinetuneConfig, options: &PlanOptions) -> Plan {
    let shape = serde_json::Value::Object(deep(96, 3, layers).raw).to_string();
    let shape = ModelShape::parse(&shape).unwrap();
    plan(&shape, Module::EncoderOnlyBase, settings, None, options)
}

/// A model on an emulated GPU that counts.
fn counted(layers: usize, settings: &FinetuneConfig, storage: Storage) -> Option<(Stepper, Arc<Meter>)> {
    let variant = Variant::new(storage, 96, 3).unwrap();
    let (gpu, count) = metered(emulator(variant)?, usize::MAX);
    let encoder = deep(96, 3, layers);
    let bert = model(&encoder);
    let mut weights: std::collections::BTreeMap<_, _> = bert
        .params()
        .iter()
        .map(|(name, value, _)| (name.to_owned(), value.clone()))
        .collect();
    let pooler = tensor(vec![0.1; 96 * 96], (96, 96)).unwrap();
    weights.insert("pooler.dense.weight".to_owned(), pooler);
    // The settings name a device that is not there; the encoder goes to the emulated one.
    let on_cpu = TrainingArguments {
        devices: Vec::new(),
        ..settings.training.clone()
    };
    let bert = Bert::new(encoder, weights).unwrap();
    let mut stepper = Stepper::new(bert, &on_cpu, 10).unwrap();
    stepper.put_on(gpu, variant).unwrap();
    Some((stepper, count))
}

#[track_caller]
fn near(what: &str, planned: u64, found: usize, most: f64) {
    let ratio = planned as f64 / found as f64;
    assert!(
        (0.97..most).contains(&ratio),
        "{what}: {planned} planned, {found} taken"
    );
}

#[test]
fn a_plan_is_what_a_step_asks_of_a_gpu() {
    for (storage, gradient_checkpointing, sub_batch_size) in [
        (Storage::F32, false, None),
        (Storage::Bf16, false, None),
        (Storage::Bf16, true, None),
        (Storage::F32, false, Some(3)),
    ] {
        let what = format!("{storage:?}, checkpointing {gradient_checkpointing}, {sub_batch_size:?}");
        let settings = settings(storage, gradient_checkpointing, sub_batch_size);
        let plan = planned(2, &settings, &PlanOptions::default());
        let fullest = FullestBatch {
            texts: 9,
            tokens: 420,
            longest: 60,
        };
        assert_eq!(plan.fullest_batch, fullest);
        let Some((mut stepper, count)) = counted(2, &settings, storage) else {
            return;
        };
        let now = || count.now();
        near(&what, plan.memory.weights, now(), 1.03);
        // A first step of any size takes what is held.
        stepper.step(&[batch_of(2, 3)]).unwrap();
        let held = plan.memory.weights + plan.memory.gradients + plan.memory.optimizer;
        near(&what, held, now(), 1.03);
        let before = now();
        count.begin();
        stepper.step(&[batch_of(20, 60)]).unwrap();
        let most = count.most() - before;
        near(&what, plan.memory.activations + plan.memory.temporary, most, 1.4);
    }
}

/// Layers of which each is a small part of the whole.
const LAYERS: usize = 6;

/// What each of two ranks holds after a step, and the most that a step takes; nothing without an emulator.
fn shared(
    settings: &FinetuneConfig,
    storage: Storage,
    layers: usize,
    join: impl Fn(&mut Stepper, Arc<dyn Communicator>) -> Result<()> + Sync,
) -> Option<[usize; 2]> {
    let lines = ThreadGroup::create(2, LIMIT).unwrap();
    let taken = on_threads(
        lines,
        |line| Ok(Arc::new(line) as Arc<dyn Communicator>),
        |line| {
            let Some((mut stepper, count)) = counted(layers, settings, storage) else {
                return Ok(None);
            };
            join(&mut stepper, Arc::clone(line))?;
            stepper.step(&[batch_of(2, 3)])?;
            let now = count.now();
            count.begin();
            stepper.step(&[batch_of(2, 3)])?;
            Ok(Some([now, count.most()]))
        },
    );
    let taken: Option<Vec<[usize; 2]>> = taken.into_iter().map(|taken| taken.unwrap()).collect();
    let most = |of: usize| taken.iter().flatten().map(|taken| taken[of]).max();
    Some([most(0)?, most(1)?])
}

#[test]
fn a_rank_that_shares_out_weights_never_holds_all_of_them() {
    // So many that the tables, whose gradients are made at once, are not most of the model.
    let layers = 2 * LAYERS;
    for storage in [Storage::F32, Storage::Bf16] {
        let mut settings = settings(storage, false, None);
        settings.training.zero_stage = 3;
        let options = |world_size| PlanOptions {
            world_size,
            zero_stage: 3,
            ..PlanOptions::default()
        };
        let [whole, block] = [1, 4].map(|ranks| planned(layers, &settings, &options(ranks)).memory.weights);
        let lines = ThreadGroup::create(4, LIMIT).unwrap();
        let opened = on_threads(
            lines,
            |line| Ok(Arc::new(line) as Arc<dyn Communicator>),
            |line| {
                let Some((mut stepper, count)) = counted(layers, &settings, storage) else {
                    return Ok(None);
                };
                stepper.join(Arc::clone(line))?;
                let opened = count.now();
                Ok(Some([opened, count.most()]))
            },
        );
        for [opened, most] in opened.into_iter().filter_map(|opened| opened.unwrap()) {
            // Beside the weights there is the room where a part's gradients are made: at most the tables or a layer.
            assert_eq!(opened, most, "{storage:?}: something was there and has gone");
            assert!((most as u64) < whole * 3 / 4, "{storage:?}: {most} of {whole}");
            assert!(
                (block..block * 3 / 2).contains(&(most as u64)),
                "{storage:?}: {most}, {block} planned"
            );
        }
    }
}

#[test]
fn a_model_that_took_steps_alone_is_shared_out_as_it_is_then() {
    let mut settings = settings(Storage::F32, false, None);
    settings.training.zero_stage = 3;
    let lines = ThreadGroup::create(2, LIMIT).unwrap();
    let runs = on_threads(
        lines,
        |line| Ok(Arc::new(line) as Arc<dyn Communicator>),
        |line| {
            let Some((mut stepper, count)) = counted(2, &settings, Storage::F32) else {
                return Ok(None);
            };
            let fresh = weights(&stepper);
            stepper.step(&[batch_of(2, 3)])?;
            let alone = weights(&stepper);
            assert!(apart(&fresh, &alone) > 0.0);
            let whole = count.now();
            stepper.join(Arc::clone(line))?;
            let shared = count.now();
            // Weights, gradients and moments were there; now it is half of the weights, and room for the parts.
            assert!(shared * 2 < whole, "{shared} of {whole}");
            let joined = weights(&stepper);
            // The other rank's own are those of its last gathering.
            assert!(joined == alone);
            stepper.step(&[batch_of(2, 3)])?;
            let after = weights(&stepper);
            Ok(Some(line.rank() > 0 || apart(&joined, &after) > 0.0))
        },
    );
    assert!(runs.into_iter().all(|run| run.unwrap().unwrap_or(true)));
}

#[test]
fn a_plan_is_what_ranks_hold_that_share_out_what_a_stage_says() {
    // Where moments and gradients lie does not depend on the storage.
    for (storage, stages) in [(Storage::F32, 0..=3), (Storage::Bf16, 2..=3)] {
        let mut settings = settings(storage, false, None);
        let mut peaks = Vec::new();
        for stage in stages {
            settings.training.zero_stage = stage;
            let options = PlanOptions {
                world_size: 2,
                zero_stage: stage as u8,
                ..PlanOptions::default()
            };
            let plan = planned(LAYERS, &settings, &options);
            let held = plan.memory.weights + plan.memory.gradients + plan.memory.optimizer;
            let Some([taken, most]) = shared(&settings, storage, LAYERS, Stepper::join) else {
                return;
            };
            near(&format!("{storage:?}, stage {stage}"), held, taken, 1.03);
            peaks.push((most, plan.memory.weights as usize));
        }
        // What a stage shares out is not there when a step takes most.
        let [.., (two, all), (three, block)] = peaks[..] else {
            panic!("stages 2 and 3");
        };
        let [saved, planned] = [two - three, all - block].map(|bytes| bytes as f64);
        assert!(
            planned > 0.0 && (saved / planned - 1.0).abs() < 0.05,
            "{storage:?}: {saved} {planned}"
        );
    }
}

#[test]
fn a_plan_has_the_room_in_which_gradients_travel_in_16_bits() {
    let mut settings = settings(Storage::F32, false, None);
    settings.training.communication_data_type = NumberType::Bf16;
    for stage in [0, 2] {
        settings.training.zero_stage = stage;
        let options = PlanOptions {
            world_size: 2,
            zero_stage: stage as u8,
            ..PlanOptions::default()
        };
        let plan = planned(2, &settings, &options);
        let held = plan.memory.weights + plan.memory.gradients + plan.memory.optimizer;
        if real().is_some() {
            return; // what stands for NCCL cannot reach the memory of a device
        }
        let Some([taken, _]) = shared(&settings, Storage::F32, 2, join_through_gpus) else {
            return;
        };
        near(&format!("stage {stage}"), held, taken, 1.03);
    }
}
