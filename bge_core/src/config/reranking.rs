//! How a reranker, or another teacher, is opened and used.

use super::choices::PoolingMethod;
use super::declare::{arguments, sections};

arguments! {
    /// How a reranker is opened and used (`FlagAutoReranker.from_finetuned`, `scripts/add_reranker_score.py`).
    pub struct RerankArguments {
        ["model"]
        /// The teacher: a cross-encoder or an embedder, as a folder, a checkpoint, or a name on the Hugging Face hub.
        reranker_name_or_path: String = String::new(), required;
        /// The kind of model: encoder-only-base (a cross-encoder), encoder-only-m3 (BGE-M3's three heads) or embedder; as the folder's files tell if not given.
        reranker_model_class: Option<String> = None;
        /// Score with BGE-M3's three heads, as `reranker_model_class encoder-only-m3` does.
        m3: bool = false, ours;
        /// How much the dense, the sparse and the multi-vector score of BGE-M3 count in their mean: three numbers; as the
        /// model's folder says if not given, else all the same.
        weights_for_different_modes: Vec<f64> = Vec::new();
        /// An adapter of an LLM reranker, which this version does not run.
        reranker_peft_path: Option<String> = None;
        /// How an embedder's token vectors become one; as its folder says if not given. A cross-encoder has no use for it.
        pooling_method: Option<PoolingMethod> = None;
        /// Run code shipped with a model. There is no Python here to run it, so only False is accepted.
        trust_remote_code: bool = false;
        /// Where models from the hub are kept.
        cache_dir: Option<String> = None;
        /// The access token for private models on the hub.
        token: Option<String> = None;

        ["text"]
        /// The instruction for queries; nothing is put before them if not given.
        query_instruction_for_rerank: Option<String> = None;
        /// How instruction and query are joined.
        query_instruction_format_for_rerank: String = "{}{}".to_owned();
        /// The instruction for passages; nothing is put before them if not given.
        passage_instruction_for_rerank: Option<String> = None;
        /// How instruction and passage are joined.
        passage_instruction_format_for_rerank: String = "{}{}".to_owned();
        /// Longest query in tokens, without special tokens; three quarters of `reranker_max_length` if not given.
        reranker_query_max_length: Option<usize> = None;
        /// Longest pair in tokens, special tokens included; only the passage is cut to reach it.
        reranker_max_length: usize = 512;
        /// Scores from 0 to 1 by the sigmoid. For teacher scores leave it off: a softmax over such scores is nearly flat. An
        /// embedder's scores are inner products of vectors of length 1 either way.
        normalize: bool = false;
        /// The question put to an LLM reranker, which this version does not run.
        prompt: Option<String> = None;
        /// The layers an LLM reranker answers from, which this version does not run.
        cutoff_layers: Vec<usize> = Vec::new();
        /// How many tokens an LLM reranker merges into one, which this version does not run.
        compress_ratio: usize = 1;
        /// Where an LLM reranker merges tokens, which this version does not run.
        compress_layers: Vec<usize> = Vec::new();

        ["machine"]
        /// Pairs scored together at most; 4,096 tokens bound a batch as well, and no score depends on it.
        reranker_batch_size: usize = 3000;
        /// The devices to use: `cpu cpu` is two groups of threads that share the processor and work on a batch each. If
        /// not given, every thread has its own batch. A build with the feature `cuda` also takes `cuda:N`, one or several,
        /// each with a copy of the model.
        devices: Vec<String> = Vec::new();
        /// Threads on the CPU; all there are if not given.
        threads: Option<usize> = None, ours;
        /// Half precision on a GPU. On the CPU scores are computed in f32, which is at least as exact.
        use_fp16: bool = false;
        /// Brain-float precision on a GPU. On the CPU scores are computed in f32, which is at least as exact.
        use_bf16: bool = false;
    }
    aliases {
        "model_name_or_path" => "reranker_name_or_path",
        "model_class" => "reranker_model_class",
        "batch_size" => "reranker_batch_size",
        "query_instruction_format" => "query_instruction_format_for_rerank",
        "passage_instruction_format" => "passage_instruction_format_for_rerank",
        "query_max_length" => "reranker_query_max_length",
        "max_length" => "reranker_max_length",
    }
}

arguments! {
    /// What `bge rerank` reads and writes.
    pub struct PairFiles {
        ["files"]
        /// The pairs: JSONL with `query` and `passage`.
        input_file: String = String::new(), required, ours;
        /// Where the same lines go, each with its `score`. Work so far is kept beside it until it is complete.
        output_file: String = String::new(), required, ours;
    }
}

sections! {
    /// Everything `bge rerank` takes.
    pub struct RerankConfig {
        /// The model and how it is used.
        rerank: RerankArguments,
        /// What is read and written.
        files: PairFiles,
    }
}
