//! Stub of the settings, to be replaced by the real module.

/// Settings of the training data.
#[derive(Clone, Debug, PartialEq)]
pub struct DataArguments {
    /// Files and folders.
    pub train_data: Vec<String>,
    /// Cache folder.
    pub cache_path: Option<String>,
    /// Passages per query.
    pub train_group_size: usize,
    /// Tokens of a query.
    pub query_max_len: usize,
    /// Tokens of a passage.
    pub passage_max_len: usize,
    /// Padding multiple.
    pub pad_to_multiple_of: Option<usize>,
    /// Cap of rows per file.
    pub max_example_num_per_dataset: usize,
    /// Query instruction.
    pub query_instruction_for_retrieval: Option<String>,
    /// Query format.
    pub query_instruction_format: String,
    /// Passage instruction.
    pub passage_instruction_for_retrieval: Option<String>,
    /// Passage format.
    pub passage_instruction_format: String,
    /// Use teacher scores.
    pub knowledge_distillation: bool,
    /// Share of positives whose text is shuffled.
    pub shuffle_ratio: f64,
    /// A batch comes from one file.
    pub same_dataset_within_batch: bool,
    /// Files below this size are merged or dropped.
    pub small_threshold: usize,
    /// Merged files below this size are dropped.
    pub drop_threshold: usize,
    /// Evaluation data.
    pub eval_dataset: Option<String>,
    /// Split of the evaluation data.
    pub eval_split: String,
}

impl Default for DataArguments {
    fn default() -> Self {
        Self {
            train_data: Vec::new(),
            cache_path: None,
            train_group_size: 8,
            query_max_len: 32,
            passage_max_len: 128,
            pad_to_multiple_of: None,
            max_example_num_per_dataset: 100_000_000,
            query_instruction_for_retrieval: None,
            query_instruction_format: "{}{}".into(),
            passage_instruction_for_retrieval: None,
            passage_instruction_format: "{}{}".into(),
            knowledge_distillation: false,
            shuffle_ratio: 0.0,
            same_dataset_within_batch: false,
            small_threshold: 0,
            drop_threshold: 0,
            eval_dataset: None,
            eval_split: "test".into(),
        }
    }
}

/// Settings of training.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingArguments {
    /// Epochs.
    pub num_train_epochs: f64,
    /// Steps, when above 0.
    pub max_steps: i64,
    /// Queries per device.
    pub per_device_train_batch_size: usize,
    /// Batches per step.
    pub gradient_accumulation_steps: usize,
    /// Seed.
    pub seed: u64,
    /// Seed of the data.
    pub data_seed: Option<u64>,
    /// Drop the last batch.
    pub dataloader_drop_last: bool,
    /// Share negatives between devices.
    pub negatives_cross_device: bool,
}

impl Default for TrainingArguments {
    fn default() -> Self {
        Self {
            num_train_epochs: 3.0,
            max_steps: -1,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            seed: 42,
            data_seed: None,
            dataloader_drop_last: false,
            negatives_cross_device: false,
        }
    }
}
