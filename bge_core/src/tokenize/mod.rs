//! From texts to flat, unpadded token ids: one tokenizer per model folder, cut to a length that counts special tokens.

mod batch;
mod cut;
mod folder;
mod pair;
mod tokenizer;
mod vocabulary;

pub use batch::TokenBatch;
pub use folder::FILES;
pub use pair::PairLimits;
pub use tokenizer::{SpecialTokens, Tokenizer};
