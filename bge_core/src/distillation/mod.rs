//! Teacher scores for the passages of training rows.
