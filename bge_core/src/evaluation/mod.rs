//! Is the model better? Retrieval metrics on a BEIR-layout folder, before against after, with statistics.
//!
//! [`BeirFolder`] reads documents, queries and judgments; [`evaluate`] encodes, searches exactly and scores;
//! [`compare`] puts two such results side by side and says, in words, whether the difference is more than chance;
//! [`comparison_html`] and [`comparison_table`] show it.
//!
//! All of this works on plain slices and does not care where the vectors come from; only [`measure_models`], the whole of
//! `bge evaluate`, opens models.

mod beir;
mod charts;
mod choose;
mod compare;
mod curves;
mod findings;
mod heads;
mod markup;
mod metrics;
mod models;
mod page;
mod report;
mod retrieval;
mod search;
mod similarity;
mod statistics;
mod style;
mod svg;
mod table;
mod verdict;

pub use beir::BeirFolder;
pub use choose::{MergeReport, MergeTrial, best_trial, choose_weights, merge_models};
pub use compare::{
    CompareOptions, Comparison, DocumentGlimpse, MetricChange, PositiveRank, QueryChange, QueryCounts,
    compare,
};
pub use heads::{HeadsReport, Mode, TunedWeights};
pub use metrics::{DEFAULT_K_VALUES, Metric, MetricKey, query_metrics, rank, score_run};
pub use models::{Listener, MeasureEvent, ModelsReport, measure, measure_models};
pub use report::{ReportContext, TrainingCurve, comparison_html, evaluation_html};
pub use retrieval::{Evaluation, EvaluationOptions, EvaluationReport, QueryScores, Role, evaluate};
pub use search::{Hit, top_k};
pub use similarity::{Distribution, Histogram, Shift, SimilarityReport, embedding_shift, similarities};
pub use statistics::{Estimate, Interval, PairedEstimate, bootstrap, paired_bootstrap};
pub use table::{comparison_table, evaluation_table};
pub use verdict::{Outcome, Verdict};
