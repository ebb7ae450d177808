//! Exact nearest vectors by inner product, and FAISS behind the same contract.
