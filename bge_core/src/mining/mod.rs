//! Hard negatives: which passages a query should learn to rank below its positives.
//!
//! A run does what FlagEmbedding's `scripts/hn_mine.py` does: the texts of all positives and negatives, or a candidate
//! pool, are encoded; each row's query is searched among them; hits within a range of ranks become its new `neg`, after its
//! positives and the query itself have been left out. What differs:
//!
//! - Positives count for all rows with the same query, and so do texts that differ from a positive or the query only in case
//!   and white space.
//! - Rules about scores (`absolute_margin`, `relative_margin`, `max_score`, `min_score`) are sentence-transformers', by the
//!   embedder's scores or, where one is named, a cross-encoder's.
//! - Draws are keyed by seed and row. The hardest negatives come first.
//! - A row keeps all its other keys as they are written; `pos_scores` and `neg_scores` are taken out, because they belong to
//!   the old negatives and training takes both or none.
//! - BGE-M3's sparse head finds candidates too, alone or fused with the dense one, and its multi-vector head orders them.
//! - Texts stay on disk, vectors are streamed there, and an interrupted run goes on where it was, with the same result.

mod corpus;
mod encode;
mod event;
mod heads;
mod index;
mod ledger;
mod miner;
mod places;
mod report;
mod run;
mod select;
mod source;
mod work;

pub use event::{MineEvent, Stage};
pub use report::{Dropped, MineReport};
pub use run::mine;
pub use select::Verdict;
