//! The pipeline, stage by stage.
