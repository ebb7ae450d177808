//! Search and its contract: vectors on disk, exact lists, and FAISS where it is built in.

mod stored;
