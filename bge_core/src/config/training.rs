//! How training runs: length, optimizer, schedule, loss, logging, checkpoints, evaluation.

use serde_json::{Map, Value};

use super::choices::{
    IntervalStrategy, KdLossType, LrSchedulerType, NumberType, PoolingMethod, SaveStrategy,
};
use super::declare::arguments;

arguments! {
    /// Hugging Face's `TrainingArguments` as far as they apply, and what FlagEmbedding adds to them.
    pub struct TrainingArguments {
        ["output"]
        /// The folder that receives the model and its checkpoints.
        output_dir: String = String::new(), required;
        /// Write into `output_dir` even if it already holds a model.
        overwrite_output_dir: bool = false;
        /// Accepted for compatibility: `bge finetune` always trains.
        do_train: bool = false;
        /// A checkpoint folder to go on from, bit for bit; True for the newest in `output_dir`.
        resume_from_checkpoint: Option<String> = None;

        ["length"]
        /// How often the data is seen; may be a fraction.
        num_train_epochs: f64 = 3.0;
        /// Optimizer steps of the whole run; if above 0 it replaces `num_train_epochs`.
        max_steps: i64 = -1;
        /// Queries per step and device.
        per_device_train_batch_size: usize = 8;
        /// Batches whose gradients are added before a step. It adds no negatives.
        gradient_accumulation_steps: usize = 1;

        ["optimizer"]
        /// The peak learning rate of AdamW.
        learning_rate: f64 = 5e-5;
        /// Decoupled weight decay; biases and norms are spared.
        weight_decay: f64 = 0.0;
        /// AdamW's first-moment decay.
        adam_beta1: f64 = 0.9;
        /// AdamW's second-moment decay.
        adam_beta2: f64 = 0.999;
        /// AdamW's epsilon.
        adam_epsilon: f64 = 1e-8;
        /// Gradients with a larger norm are scaled down to it; 0 switches clipping off.
        max_grad_norm: f64 = 1.0;
        /// How the learning rate moves after the warm-up.
        lr_scheduler_type: LrSchedulerType = LrSchedulerType::Linear;
        /// The schedule's own settings as a JSON object: `num_cycles`, `power`, `lr_end`, `timescale`.
        lr_scheduler_kwargs: Map<String, Value> = Map::new();
        /// The share of all steps that warms up; the older name of a fraction in `warmup_steps`.
        warmup_ratio: f64 = 0.0;
        /// Steps that warm up from zero; below 1, a share of all steps. If above 0 it replaces `warmup_ratio`.
        warmup_steps: f64 = 0.0;

        ["logging"]
        /// When loss, gradient norm and learning rate are logged.
        logging_strategy: IntervalStrategy = IntervalStrategy::Steps;
        /// Steps between two log lines; below 1, a share of all steps.
        logging_steps: f64 = 500.0;
        /// Log the first step too.
        logging_first_step: bool = false;

        ["checkpoints"]
        /// When a checkpoint is written.
        save_strategy: SaveStrategy = SaveStrategy::Steps;
        /// Steps between two checkpoints; below 1, a share of all steps.
        save_steps: f64 = 500.0;
        /// Most checkpoints kept; the oldest go first, the best stays with `load_best_model_at_end`.
        save_total_limit: Option<usize> = None;

        ["evaluation"]
        /// When retrieval on `eval_dataset` is measured.
        eval_strategy: IntervalStrategy = IntervalStrategy::No;
        /// Steps between two evaluations; below 1, a share of all steps; `logging_steps` if not given.
        eval_steps: Option<f64> = None;
        /// Evaluate once before the first step.
        eval_on_start: bool = false;
        /// End with the best checkpoint instead of the last weights.
        load_best_model_at_end: bool = false;
        /// The metric that decides which checkpoint is best; `ndcg_at_10` if not given.
        metric_for_best_model: Option<String> = None;
        /// Whether a larger value of that metric is better; every retrieval metric is.
        greater_is_better: Option<bool> = None;
        /// Stop after this many evaluations in a row without improvement.
        early_stopping_patience: Option<usize> = None, ours;
        /// Improvements up to this size count as none.
        early_stopping_threshold: f64 = 0.0, ours;

        ["randomness"]
        /// The key of every random draw.
        seed: u64 = 42;
        /// The key of the data's order; `seed` if not given.
        data_seed: Option<u64> = None;

        ["machine"]
        /// Half precision on a GPU, with dynamic loss scaling. The CPU trains in f32, which is at least as exact, and where `devices` names it this is an error.
        fp16: bool = false;
        /// Brain-float precision on a GPU. The CPU trains in f32, which is at least as exact, and where `devices` names it this is an error.
        bf16: bool = false;
        /// On a GPU, products of f32 whose factors are rounded to 10 bits.
        tf32: bool = false;
        /// Save memory by computing activations a second time in the backward pass.
        gradient_checkpointing: bool = false;
        /// Leave out an epoch's last batch if it is not full.
        dataloader_drop_last: bool = false;
        /// Worker processes of upstream's loader. Batches are made by the threads of this process, so it changes nothing.
        dataloader_num_workers: usize = 0;
        /// The devices to train on, one rank on each: `cpu cpu` is two ranks that share the processor. A build with the feature
        /// `cuda` also takes GPUs: `cuda:0 cuda:1`, or `cuda`, which is for each rank the GPU of its place on its host. The
        /// processor if not given.
        devices: Vec<String> = Vec::new(), ours;
        /// The ranks that share a step, as torchrun's flag: each takes `per_device_train_batch_size` queries and a part of the
        /// processor's threads. The number of `devices` if not given.
        nproc_per_node: Option<usize> = None, ours;
        /// What the ranks share out instead of each holding all of it: 1 the optimizer, 2 also gradients, 3 also weights. The
        /// result is that of 0 (from 2 on up to rounding), and so is the checkpoint.
        zero_stage: usize = 0, ours;
        /// How gradients travel between ranks, as `DeepSpeed`'s key: `bf16` and `fp16` halve the traffic and round each rank's
        /// gradients and their sums to 16 bits. All ranks still hold the same bits, but no longer those of one rank.
        communication_data_type: NumberType = NumberType::Fp32, ours;
        /// A JSON file of `DeepSpeed`, or its text: it gives `zero_stage` and `communication_data_type`, and what else it says must be "auto" or what the other
        /// settings say.
        deepspeed: Option<String> = None;
        /// Seconds that a rank waits for another before all end with an error.
        ddp_timeout: usize = 1800;

        ["loss"]
        /// Use the passages of all ranks as negatives: the update is that of one device with the joined batch (upstream's
        /// gradient is a fraction of it). With one rank it changes nothing.
        negatives_cross_device: bool = false;
        /// Every score is divided by it before the softmax.
        temperature: f64 = 0.02;
        /// Leave the position embeddings as they are.
        fix_position_embedding: bool = false;
        /// How token vectors become the vector of a text.
        sentence_pooling_method: PoolingMethod = PoolingMethod::Cls;
        /// Scale vectors to length 1, so that scores are cosines.
        normalize_embeddings: bool = true;
        /// Embed this many texts, or score this many pairs, at a time: the memory of a small batch, the gradient of the large one. 0 is off.
        sub_batch_size: Option<usize> = None;
        /// How teacher scores enter the loss.
        kd_loss_type: KdLossType = KdLossType::KlDiv;
        /// Train the first components of the vectors to be vectors of their own (Matryoshka).
        use_mrl: bool = false;
        /// With `use_mrl`: the lengths to train.
        mrl_dims: Vec<usize> = Vec::new();

        ["m3"]
        /// Also train the sparse and the multi-vector head.
        unified_finetuning: bool = false;
        /// Teach the three heads by their common score.
        use_self_distill: bool = false;
        /// Train only the heads.
        fix_encoder: bool = false;
        /// The step at which self-distillation begins.
        self_distill_start_step: i64 = -1;
        /// The length of the multi-vector head's vectors; the hidden size at 0 and below.
        colbert_dim: i64 = -1;
    }
    aliases {
        "activation_checkpointing" => "gradient_checkpointing",
        "evaluation_strategy" => "eval_strategy",
        "per_gpu_train_batch_size" => "per_device_train_batch_size",
    }
}

impl TrainingArguments {
    /// Whether the ranks compute on GPUs.
    pub(crate) fn on_gpus(&self) -> bool {
        self.devices
            .iter()
            .any(|name| name.trim().to_ascii_lowercase().starts_with("cuda"))
    }

    /// The number of ranks that share a step.
    pub fn world_size(&self) -> usize {
        self.nproc_per_node.unwrap_or(self.devices.len()).max(1)
    }
}
