//! Teacher scores: how well a stronger model thinks that each passage answers its query.

mod records;
mod row;
mod score;
mod teacher;
mod work;

pub use score::{ScoreEvent, ScoreReport, rerank_file, score_file};
pub use teacher::{OpenedTeacher, Teacher, open_teacher};
