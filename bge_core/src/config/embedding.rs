//! How a finished model is opened, encodes and is evaluated.

use super::choices::{PoolingMethod, TextRole};
use super::declare::{arguments, sections};
use super::foreign::EVALUATION_CUSTOM;

arguments! {
    /// How an embedder is opened and used (`FlagAutoModel.from_finetuned`, `AbsEvalModelArgs`).
    pub struct EmbedArguments {
        ["model"]
        /// The model: a folder, a checkpoint, or a name on the Hugging Face hub.
        embedder_name_or_path: String = String::new(), required;
        /// The kind of model, for a folder that does not tell: encoder-only-base, ...
        embedder_model_class: Option<String> = None;
        /// How token vectors become the vector of a text; as the model's folder says if not given.
        pooling_method: Option<PoolingMethod> = None;
        /// Scale vectors to length 1.
        normalize_embeddings: bool = true;
        /// Keep only the first components of each vector, cut before it is scaled.
        truncate_dim: Option<usize> = None;
        /// Run code shipped with a model. There is no Python here to run it, so only False is accepted.
        trust_remote_code: bool = false;
        /// Where models from the hub are kept.
        cache_dir: Option<String> = None;
        /// The access token for private models on the hub.
        token: Option<String> = None;

        ["text"]
        /// The instruction for queries.
        query_instruction_for_retrieval: Option<String> = None;
        /// How instruction and query are joined; as the model's folder says, else `{}{}`.
        query_instruction_format_for_retrieval: Option<String> = None;
        /// The instruction for passages.
        passage_instruction_for_retrieval: Option<String> = None;
        /// How instruction and passage are joined; `{}{}` if not given.
        passage_instruction_format: Option<String> = None;
        /// Longest query in tokens, special tokens included.
        embedder_query_max_length: usize = 512;
        /// Longest passage in tokens, special tokens included.
        embedder_passage_max_length: usize = 512;

        ["machine"]
        /// Texts encoded together.
        batch_size: usize = 256;
        /// The devices to use: `cpu cpu` is two groups of threads that share the processor and work on a batch each. If
        /// not given, every thread has its own batch. A build with the feature `cuda` also takes `cuda:N`, one or several,
        /// each with a copy of the model.
        devices: Vec<String> = Vec::new();
        /// Threads on the CPU; all there are if not given.
        threads: Option<usize> = None, ours;
        /// Half precision on a GPU. On the CPU vectors are computed in f32, which is at least as exact.
        use_fp16: bool = false;
        /// Brain-float precision on a GPU. On the CPU vectors are computed in f32, which is at least as exact.
        use_bf16: bool = false;
    }
    aliases {
        "model_name_or_path" => "embedder_name_or_path",
        "model_class" => "embedder_model_class",
        "embedder_batch_size" => "batch_size",
        "query_instruction_format" => "query_instruction_format_for_retrieval",
        "query_max_length" => "embedder_query_max_length",
        "passage_max_length" => "embedder_passage_max_length",
    }
}

arguments! {
    /// What `bge encode` reads and writes.
    pub struct EncodeArguments {
        ["encode"]
        /// The texts: JSONL with `text` or `query`, or a .txt file with one text a line.
        input_file: String = String::new(), required, ours;
        /// The vectors: .npy, .safetensors or .jsonl by extension.
        output_file: String = String::new(), required, ours;
        /// What the texts are, which decides instruction and length.
        role: TextRole = TextRole::None, ours;
        /// Return one vector a text.
        return_dense: bool = true;
        /// Return the weights of the tokens (BGE-M3).
        return_sparse: bool = false;
        /// Return one vector a token (BGE-M3).
        return_colbert_vecs: bool = false;
    }
}

arguments! {
    /// What `bge evaluate` measures and writes.
    pub struct EvaluateArguments {
        ["evaluate"]
        /// A folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.
        dataset: String = String::new(), required, ours;
        /// Which judgements are used: the name of the file in qrels/.
        split: String = "test".to_owned(), ours;
        /// A second model to compare with, usually the one fine-tuning started from.
        baseline: Option<String> = None, ours;
        /// Folders like `dataset` with data that fine-tuning was not about: what did it cost there? Needs `baseline`.
        general_dataset: Vec<String> = Vec::new(), ours;
        /// Which judgements of `general_dataset` are used.
        general_split: String = "test".to_owned(), ours;
        /// The cut-offs k of nDCG@k, recall@k and the others.
        k_values: Vec<usize> = vec![1, 3, 5, 10, 100, 1000];
        /// Passages retrieved for each query.
        search_top_k: usize = 1000;
        /// Leave out passages whose id is the query's.
        ignore_identical_ids: bool = false;
        /// An HTML report to write.
        report: Option<String> = None, ours;
        /// A JSON file to write the metrics to.
        output_file: Option<String> = None, ours;
        /// The key of the random draws in confidence intervals and histograms.
        seed: u64 = 42, ours;

        ["heads"]
        /// How much BGE-M3's dense, sparse and multi-vector scores count in their mean: three numbers; as the model's folder
        /// says if not given, else all the same.
        weights_for_different_modes: Vec<f64> = Vec::new();
        /// Candidates that BGE-M3's dense and sparse search each bring for a query, for the multi-vector score and the means.
        head_window: usize = 200, ours;
        /// A folder like `dataset`, a development set: the weights that are best on it are used and written into the model's
        /// folder (`mode_weights.json`).
        tune_weights: Option<String> = None, ours;
        /// Which judgements of `tune_weights` are used.
        tune_split: String = "dev".to_owned(), ours;
    }
}

sections! {
    /// Everything `bge encode` takes.
    pub struct EncodeConfig {
        /// The model and how it is used.
        embed: EmbedArguments,
        /// What is read and written.
        encode: EncodeArguments,
    }
}

sections! {
    /// Everything `bge evaluate` takes.
    pub struct EvaluateConfig {
        /// The model and how it is used.
        embed: EmbedArguments,
        /// What is measured and written.
        evaluate: EvaluateArguments,
    }
    foreign EVALUATION_CUSTOM
}
