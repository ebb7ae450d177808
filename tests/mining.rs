//! Mining hard negatives.
