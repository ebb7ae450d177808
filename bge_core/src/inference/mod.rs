//! Running a finished model: from texts to vectors.

#[cfg(test)]
mod checks;
mod embedder;
mod encoder;
mod lanes;
mod late;
mod m3;
mod mode_weights;
mod queue;
mod reranker;
mod schedule;
mod vectors;

pub use embedder::Embedder;
pub(crate) use embedder::check_vocabulary;
pub use m3::{
    LexicalWeights, M3Embedder, M3Outputs, M3Scores, M3Vectors, colbert_score, lexical_matching_score,
};
pub use mode_weights::{MODE_WEIGHTS_FILE, ModeWeights, WeightsSource};
pub use queue::{EncodeQueue, QueueLimits};
pub use reranker::Reranker;
pub(crate) use reranker::{refuse_decoder, refuse_llm_class};
pub use schedule::{BatchLimits, VectorShape, encode_tokens};
pub use vectors::Vectors;
