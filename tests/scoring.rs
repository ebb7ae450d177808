//! Cross-encoders and teacher scores, beside FlagEmbedding.
