//! Which data is trained on, and how a line becomes a training example.

use super::declare::arguments;

arguments! {
    /// The data arguments of FlagEmbedding (`AbsEmbedderDataArguments`, `AbsRerankerDataArguments`), plus evaluation data.
    pub struct DataArguments {
        ["data"]
        /// Training data: JSONL or JSON files, or folders of them.
        train_data: Vec<String> = Vec::new(), required;
        /// Where upstream keeps its copy of the data. Files are read in place here, so it changes nothing.
        cache_path: Option<String> = None;
        /// Passages a query is compared with: one positive and `train_group_size` - 1 negatives.
        train_group_size: usize = 8;
        /// Longest query in tokens, special tokens included; the rest is cut.
        query_max_len: usize = 32;
        /// Longest passage in tokens, special tokens included; the rest is cut.
        passage_max_len: usize = 128;
        /// Round padded lengths up to a multiple. Batches are not padded here, so it changes nothing.
        pad_to_multiple_of: Option<usize> = None;
        /// Most examples taken from one file; a longer file is sampled, once, by the seed.
        max_example_num_per_dataset: usize = 100_000_000;
        /// The instruction for queries. A line's own `prompt` replaces it.
        query_instruction_for_retrieval: Option<String> = None;
        /// How instruction and query are joined, in this order; a backslash-n is a newline.
        query_instruction_format: String = "{}{}".to_owned();
        /// The instruction for passages.
        passage_instruction_for_retrieval: Option<String> = None;
        /// How instruction and passage are joined, in this order; a backslash-n is a newline.
        passage_instruction_format: String = "{}{}".to_owned();
        /// Learn from the teacher scores in `pos_scores` and `neg_scores`.
        knowledge_distillation: bool = false;
        /// The share of positives whose text is cut into pieces and shuffled, from 0 to 1.
        shuffle_ratio: f64 = 0.0;
        /// Take all examples of a batch from the same file.
        same_dataset_within_batch: bool = false;
        /// With `same_dataset_within_batch`: files with fewer lines are merged (in a folder) or dropped.
        small_threshold: usize = 0;
        /// With `same_dataset_within_batch`: merged small files with fewer lines are dropped.
        drop_threshold: usize = 0;
        /// Check all training data as `bge validate` does before the first step, and refuse to start on errors.
        validate_data: bool = true, ours;

        ["evaluation"]
        /// A folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, to measure retrieval while training.
        eval_dataset: Option<String> = None, ours;
        /// Which judgements of `eval_dataset` are used: the name of the file in qrels/.
        eval_split: String = "test".to_owned(), ours;

        ["reranker_training"]
        /// The instruction for queries. A line's own `query_prompt` replaces it.
        query_instruction_for_rerank: Option<String> = None;
        /// The instruction for passages. A line's own `passage_prompt` replaces it.
        passage_instruction_for_rerank: Option<String> = None;
        /// Longest prompt of a decoder. An encoder's pairs are cut at `query_max_len` + `passage_max_len`, so it changes nothing.
        max_len: usize = 512;
        /// What a decoder's prompt has between query and passage. An encoder has its own special tokens, so it changes nothing.
        sep_token: String = "\n".to_owned();
    }
}

impl DataArguments {
    /// The instruction for queries, by the name that the module has for it.
    pub(crate) fn query_instruction(&self) -> Option<&str> {
        let given = self.query_instruction_for_rerank.as_deref();
        given.or(self.query_instruction_for_retrieval.as_deref())
    }

    /// The instruction for passages, by the name that the module has for it.
    pub(crate) fn passage_instruction(&self) -> Option<&str> {
        let given = self.passage_instruction_for_rerank.as_deref();
        given.or(self.passage_instruction_for_retrieval.as_deref())
    }
}
