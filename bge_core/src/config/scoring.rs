//! What `bge score` reads and writes.

use super::declare::{arguments, sections};
use super::reranking::RerankArguments;

arguments! {
    /// What `bge score` reads and writes (`scripts/add_reranker_score.py`).
    pub struct ScoreArguments {
        ["files"]
        /// Training rows: JSONL with `query`, `pos` and, where there are any, `neg`. A row's `prompt` is an instruction for
        /// embedders: as upstream, a teacher does not see it.
        input_file: String = String::new(), required;
        /// Where the same rows go, with `pos_scores` and `neg_scores`. Work so far is kept beside it until it is complete.
        output_file: String = String::new(), required;
    }
}

sections! {
    /// Everything `bge score` takes.
    pub struct ScoreConfig {
        /// The teacher and how it is used.
        rerank: RerankArguments,
        /// What is read and written.
        files: ScoreArguments,
    }
}
