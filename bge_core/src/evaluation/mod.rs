//! Is the model better? Retrieval metrics on a BEIR-layout folder, before against after, with statistics.
//!
//! [`BeirFolder`] reads documents, queries and judgments; [`evaluate`] encodes, searches exactly and scores;
//! [`compare`] puts two such results side by side and says, in words, whether the difference is more than chance;
//! [`comparison_html`] and [`comparison_table`] show it.
//!
//! Everything here works on plain slices, so it does not care where the vectors come from.

mod beir;
mod compare;
mod lines;
mod metrics;
mod retrieval;
mod search;
mod similarity;
mod statistics;
mod verdict;

pub use beir::BeirFolder;
pub use compare::{
    CompareOptions, Comparison, DocumentGlimpse, MetricChange, PositiveRank, QueryChange, QueryCounts, compare,
};
pub use metrics::{DEFAULT_K_VALUES, Metric, MetricKey, query_metrics, rank, score_run};
pub use retrieval::{Evaluation, EvaluationOptions, EvaluationReport, QueryScores, Role, Vectors, evaluate};
pub use search::{Hit, top_k};
pub use similarity::{Distribution, Histogram, Shift, SimilarityReport, embedding_shift, similarities};
pub use statistics::{Estimate, Interval, PairedEstimate, bootstrap, paired_bootstrap};
pub use verdict::{Outcome, Verdict};
