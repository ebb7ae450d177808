//! Exact search and its contract.
