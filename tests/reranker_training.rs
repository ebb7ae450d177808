//! Training a cross-encoder, beside FlagEmbedding.
