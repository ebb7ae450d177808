//! How hard negatives are mined.

use super::declare::{arguments, choices, sections};
use super::embedding::EmbedArguments;
use super::foreign::{EXAMPLES, Foreign, Takes, refused};

choices! {
    /// Which of the candidates that pass every rule become negatives.
    pub enum SamplingStrategy {
        /// A seeded uniform draw, as in FlagEmbedding.
        Random = "random",
        /// Those with the highest scores, as in sentence-transformers.
        Top = "top",
    }
}

choices! {
    /// How vectors are kept on disk.
    pub enum EmbeddingDtype {
        /// Four bytes a number, as computed.
        F32 = "f32",
        /// Two bytes a number, rounded to half precision.
        F16 = "f16",
    }
}

choices! {
    /// Which of BGE-M3's heads find candidates.
    pub enum RetrievalMode {
        /// One vector a text; any embedder has it.
        Dense = "dense",
        /// The weights of the tokens that query and text share.
        Sparse = "sparse",
        /// Both.
        Fused = "fused",
    }
}

choices! {
    /// How several heads become one order.
    pub enum Fusion {
        /// By the weighted mean of their scores.
        Weights = "weights",
        /// By the sum of their reciprocal ranks.
        Rrf = "rrf",
    }
}

arguments! {
    /// What `bge mine` reads, searches, keeps and writes (`scripts/hn_mine.py`).
    pub struct MineArguments {
        ["mine"]
        /// Training rows with `query` and `pos`: JSONL, or one JSON array; also as .gz.
        input_file: String = String::new(), required;
        /// The same rows with the mined negatives in `neg`.
        output_file: String = String::new(), required;
        /// Where negatives come from: JSONL with `text`, before which its `title` is put, or a folder with corpus.jsonl;
        /// otherwise all `pos` and `neg` of the input.
        candidate_pool: Option<String> = None;
        /// Candidates are the hits at these ranks, from the first up to and without the second, counted from 0 before any
        /// hit is left out.
        range_for_sampling: String = "10-210".to_owned();
        /// Negatives a row gets at most.
        negative_number: usize = 15;
        /// Which of the remaining candidates become negatives.
        sampling_strategy: SamplingStrategy = SamplingStrategy::Random, ours;
        /// The key of the random draws.
        seed: u64 = 42, ours;
        /// Fill lists that stay short with random texts of the corpus, never a positive or the query.
        fill_negatives: bool = false, ours;
        /// A JSONL file to write: every candidate that was looked at, with its scores and what became of it.
        ledger: Option<String> = None, ours;
        /// A JSONL file to write: candidates that look like positives, to be judged by a person.
        false_negatives: Option<String> = None, ours;

        ["rules"]
        /// A candidate's score must be at least this much below that of the lowest positive.
        absolute_margin: Option<f64> = None, ours;
        /// A candidate's score must be at least this share of the lowest positive's score below it; 0.05 is the 95% of
        /// TopK-PercPos.
        relative_margin: Option<f64> = None, ours;
        /// Candidates with a higher score are left out.
        max_score: Option<f64> = None, ours;
        /// Candidates with a lower score are left out.
        min_score: Option<f64> = None, ours;

        ["heads"]
        /// Which of BGE-M3's heads find candidates.
        retrieval_mode: RetrievalMode = RetrievalMode::Dense, ours;
        /// Order the window once more, with BGE-M3's multi-vector scores.
        colbert_rescoring: bool = false, ours;
        /// How the scores of several heads become one.
        fusion: Fusion = Fusion::Weights, ours;
        /// How much the dense, the sparse and the multi-vector score count in their mean: three numbers; as the model's folder
        /// says if not given, else all the same.
        weights_for_different_modes: Vec<f64> = Vec::new(), ours;
        /// With `fusion rrf`: what is added to each rank, counted from 1.
        rrf_k: usize = 60, ours;

        ["rescoring"]
        /// A cross-encoder whose scores take the place of the embedder's in all rules and in the order of `top`.
        reranker_name_or_path: Option<String> = None, ours;
        /// Pairs of query and passage that it scores together at most; no score depends on it.
        reranker_batch_size: usize = 128, ours;
        /// Longest pair in tokens, special tokens included.
        reranker_max_length: usize = 512, ours;
        /// Longest query in a pair in tokens, without special tokens; three quarters of the pair if not given.
        reranker_query_max_length: Option<usize> = None, ours;

        ["search"]
        /// Search on a GPU, exactly: the first that devices names, or cuda:0. A build with the feature `cuda` can.
        use_gpu_for_searching: bool = false;
        /// Queries that are searched together at least; the results do not depend on it.
        search_batch_size: usize = 64;
        /// A FAISS index factory, such as IVF1024,Flat; exact search without FAISS if empty.
        index_factory: String = String::new(), ours;
        /// Lists that an IVF index looks into.
        nprobe: Option<usize> = None, ours;
        /// Candidates that an HNSW index keeps while it searches.
        ef_search: Option<usize> = None, ours;
        /// Where a FAISS index is kept: read if it is there, else built and written.
        index_file: Option<String> = None, ours;
        /// A folder for the vectors, which later runs use again; otherwise they are removed at the end.
        corpus_embd_save_dir: Option<String> = None, ours;
        /// How vectors are kept on disk.
        embedding_dtype: EmbeddingDtype = EmbeddingDtype::F32, ours;
    }
}

/// Flags of `hn_mine.py` for models with examples in the query.
const HN_MINE: &[Foreign] = &[
    refused("examples_for_task", Takes::One, &[""], EXAMPLES),
    refused("examples_instruction_format", Takes::One, &["{}{}"], EXAMPLES),
];

sections! {
    /// Everything `bge mine` takes.
    pub struct MineConfig {
        /// The model and how it is used.
        embed: EmbedArguments,
        /// What is mined, and how.
        mine: MineArguments,
    }
    foreign HN_MINE
}

impl MineArguments {
    /// The ranks of `range_for_sampling`: the first one, and the first one behind it.
    ///
    /// The error is the reason, for a message.
    pub fn ranks(&self) -> Result<(usize, usize), String> {
        let text = self.range_for_sampling.trim();
        let parts = text.split_once('-').and_then(|(start, end)| {
            let rank = |text: &str| text.trim().parse::<usize>().ok();
            Some((rank(start)?, rank(end)?))
        });
        match parts {
            Some((start, end)) if start < end => Ok((start, end)),
            Some((start, end)) => Err(format!(
                "the range is empty: {end} is not above {start}; write 10-210"
            )),
            None => Err("expected two whole numbers with a dash between, as in 10-210".to_owned()),
        }
    }

    /// Whether more than the dense head of BGE-M3 plays a part.
    pub fn uses_heads(&self) -> bool {
        self.retrieval_mode != RetrievalMode::Dense || self.colbert_rescoring
    }

    /// Whether a candidate is held against the scores of the positives.
    pub const fn has_margin(&self) -> bool {
        self.absolute_margin.is_some() || self.relative_margin.is_some()
    }

    /// Whether any rule looks at scores.
    pub const fn has_rule(&self) -> bool {
        self.has_margin() || self.max_score.is_some() || self.min_score.is_some()
    }
}
