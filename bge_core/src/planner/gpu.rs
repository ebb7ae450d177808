//! How much memory a GPU needs for its fullest batch.
//!
//! Counted from what `cuda` asks of it (`encoder.rs`, `layer.rs`, `optimizer.rs`): weights, gradients and moments are f32 and lie in
//! flat buffers, where each weight begins a chunk; in 16 bits there is a copy of the layers' weights, and the activations are half as
//! large. What ranks share out of these is in blocks, beside the part of the network that runs. Of the loss the scores with other
//! queries' passages are there; the rest of it, and the heads of BGE-M3 and of rerankers, are on the CPU. `train/checks/memory.rs` holds
//! this against an encoder.

use super::memory::{FullestBatch, Memory, at_once};
use super::{ModelShape, Parameters, PlanOptions};
use crate::config::{FinetuneConfig, Module};

/// Floats of a chunk of the flat buffers.
const CHUNK: u64 = 1024;

/// Rows that are summed into one partial sum.
const SUM_ROWS: u64 = 64;

/// Bytes of the scores that a contrastive loss has at once.
const SCORES: u64 = 64 << 20;

/// What the driver, cuBLASLt, its workspace of up to 32 MiB, the kernels and the allocator's reserve take: assumed, not measured.
const LIBRARIES: u64 = 640 << 20;

/// The memory of one GPU.
pub(super) fn memory(
    shape: &ModelShape,
    parameters: Parameters,
    module: Module,
    config: &FinetuneConfig,
    batch: FullestBatch,
    options: &PlanOptions,
) -> Memory {
    let training = &config.training;
    let half = training.fp16 || training.bf16;
    let number: u64 = if half { 2 } else { 4 };
    let [tables, layer] = flat(shape);
    let layers = shape.num_hidden_layers * layer;
    let [unpadded_tables, unpadded_layer] = shape.parts();
    let encoder = unpadded_tables + 2 * shape.hidden_size + shape.num_hidden_layers * unpadded_layer;
    let heads = chunks(parameters.all.saturating_sub(encoder));
    let floats = tables + layers + heads;
    let world = options.world_size.max(1) as u64;
    let share = if options.zero_stage == 0 { 1 } else { world };
    // The own block, and the room in which parts have turns.
    let gradients = if options.zero_stage > 1 && world > 1 {
        (4 * floats).div_ceil(world) + 4 * tables.max(layer)
    } else {
        4 * floats
    };
    // Room to send those of a part in 16 bits, which NCCL needs.
    let sending = match training.communication_data_type.bytes() as u64 {
        bytes @ ..4 if world > 1 => bytes * tables.max(layer),
        _ => 0,
    };
    // The same, where layers have turns in the type that they are computed with, with room for two parts; and what is small and stays
    // whole.
    let weights = if options.zero_stage > 2 && world > 1 {
        let [of_tables, of_layer] = vectors(shape);
        let small = of_tables + shape.num_hidden_layers * of_layer + heads;
        (4 * floats).div_ceil(world) + (4 * tables).max(number * layer) + number * layer + 4 * small
    } else {
        4 * floats + if half { number * layers } else { 0 }
    };
    let (texts, tokens) = at_once(config, batch);
    let (width, inner) = (shape.hidden_size, shape.intermediate_size);
    // Input, q, k, v, context, the unit rows of two norms, and the sum between; one row of the feed-forward block; then a float per
    // head and per norm.
    let record = tokens * (number * (8 * width + inner) + 4 * (shape.num_attention_heads + 2));
    let input = tokens * number * width;
    let kept = if training.gradient_checkpointing {
        shape.num_hidden_layers * input + record
    } else {
        shape.num_hidden_layers * record
    };
    // Ids of three tables, an identity for the dropout, and lists that sort the tokens by rows of a table.
    let lists = tokens * (3 * 4 + 8 + 4 * 4);
    // What goes up and down: all hidden states where heads on the CPU read them, or a vector of each text.
    let rows = if module == Module::EncoderOnlyM3 && training.unified_finetuning {
        tokens
    } else {
        texts
    };
    let vectors = rows * width * 4;
    // The gradients of output, middle and masked middle with a row of the feed-forward block, or those of output, residual, context
    // and q, k, v; and partial sums of columns.
    let backward =
        tokens * number * (3 * width + inner).max(6 * width) + tokens * 4 * shape.num_attention_heads;
    let partials = tokens.div_ceil(SUM_ROWS) * 4 * inner.max(2 * width);
    // Vectors and their gradients, of all ranks where their passages are negatives, and a block of scores.
    let scores = if module.trains_reranker() {
        0
    } else {
        let crossing = if training.negatives_cross_device { world } else { 1 };
        let queries = training.per_device_train_batch_size as u64;
        let all = batch.texts * crossing;
        8 * width * all + (4 * queries * all).min(SCORES)
    };
    let memory = Memory {
        weights,
        gradients: gradients + sending,
        optimizer: (8 * floats).div_ceil(share),
        activations: 2 * input + kept + lists + vectors,
        temporary: (backward + partials).max(scores),
        program: LIBRARIES,
        total: 0,
    };
    memory.summed()
}

/// Floats of the embeddings and of a layer in the flat buffers.
fn flat(shape: &ModelShape) -> [u64; 2] {
    let (width, inner) = (shape.hidden_size, shape.intermediate_size);
    let rows = [
        shape.vocab_size,
        shape.max_position_embeddings,
        shape.type_vocab_size,
    ];
    let tables = rows.iter().map(|rows| chunks(rows * width)).sum::<u64>();
    let matrices = 4 * chunks(width * width) + 2 * chunks(width * inner);
    let [vectors_of_tables, vectors_of_layer] = vectors(shape);
    [tables + vectors_of_tables, matrices + vectors_of_layer]
}

/// Floats of the vectors among them.
fn vectors(shape: &ModelShape) -> [u64; 2] {
    let width = chunks(shape.hidden_size);
    // The biases of five maps and the two norms; and the bias of the wide one.
    [2 * width, 9 * width + chunks(shape.intermediate_size)]
}

/// As many floats as whole chunks have.
fn chunks(floats: u64) -> u64 {
    floats.next_multiple_of(CHUNK)
}

#[cfg(test)]
mod tests {
    use crate::config::{FinetuneConfig, Module, NumberType};
    use crate::planner::{ModelShape, PlanOptions, plan};

    fn memory(devices: &[&str], bf16: bool, world_size: usize, zero_stage: u8) -> super::Memory {
        let mut config = FinetuneConfig::default();
        config.training.devices = devices.iter().map(|&name| name.to_owned()).collect();
        config.training.bf16 = bf16;
        let options = PlanOptions {
            world_size,
            zero_stage,
            ..PlanOptions::default()
        };
        let shape = ModelShape::preset("bge-base-en-v1.5").unwrap();
        plan(&shape, Module::EncoderOnlyBase, &config, None, &options).memory
    }

    #[test]
    fn a_gpu_holds_f32_weights_and_16_bit_activations() {
        let (cpu, full) = (memory(&["cpu"], true, 1, 0), memory(&["cuda:0"], false, 1, 0));
        let half = memory(&["cuda"], true, 1, 0);
        // 12 layers of 7.1 million weights each have a copy in 16 bits.
        let copies = half.weights - full.weights;
        assert!((copies as f64 / 2.0 / 85e6 - 1.0).abs() < 0.01, "{copies}");
        assert_eq!((full.gradients, full.optimizer), (half.gradients, half.optimizer));
        assert_eq!(full.optimizer, 2 * full.gradients);
        let ratio = half.activations as f64 / full.activations as f64;
        assert!((0.49..0.52).contains(&ratio), "{ratio}");
        // The processor computes in f32 whatever is asked for.
        assert!(cpu.activations > half.activations);
    }

    #[test]
    fn gpus_share_out_the_moments_then_the_gradients_and_then_the_weights() {
        let (alone, shared) = (memory(&["cuda"], true, 4, 0), memory(&["cuda"], true, 4, 1));
        assert_eq!(shared.optimizer, alone.optimizer.div_ceil(4));
        assert_eq!(shared.total, alone.total - alone.optimizer + shared.optimizer);
        let both = memory(&["cuda"], true, 4, 2);
        assert_eq!(both.optimizer, shared.optimizer);
        // The tables are the largest part: 23.8 of 108.9 million weights.
        let ratio = both.gradients as f64 / alone.gradients as f64;
        assert!((ratio - 0.25 - 23.8 / 108.9).abs() < 0.01, "{ratio}");
        let all = memory(&["cuda"], true, 4, 3);
        assert_eq!((all.gradients, all.optimizer), (both.gradients, both.optimizer));
        // A quarter of the f32 weights, the tables, and a layer in 16 bits.
        let ratio = all.weights as f64 / alone.gradients as f64;
        assert!(
            (ratio - 0.25 - (23.8 + 7.1 / 2.0) / 108.9).abs() < 0.01,
            "{ratio}"
        );
        for stage in [2, 3] {
            assert_eq!(memory(&["cuda"], true, 1, stage), memory(&["cuda"], true, 1, 0));
        }
    }

    #[test]
    fn gradients_that_travel_in_16_bits_need_room_for_those_of_a_part() {
        let shape = ModelShape::preset("bge-base-en-v1.5").unwrap();
        let gradients = |travels: NumberType, world_size: usize| {
            let mut config = FinetuneConfig::default();
            config.training.devices = vec!["cuda".to_owned()];
            config.training.communication_data_type = travels;
            let options = PlanOptions {
                world_size,
                ..PlanOptions::default()
            };
            let plan = plan(&shape, Module::EncoderOnlyBase, &config, None, &options);
            plan.memory.gradients
        };
        let more = gradients(NumberType::Bf16, 2) - gradients(NumberType::Fp32, 2);
        // Two bytes of 23.8 million numbers in the tables.
        assert!((more as f64 / 2.0 / 23.8e6 - 1.0).abs() < 0.01, "{more}");
        assert_eq!(gradients(NumberType::Bf16, 1), gradients(NumberType::Fp32, 1));
    }
}
