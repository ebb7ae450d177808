//! Hard negatives: which passages a query should learn to rank below its positives.

mod corpus;
mod source;
mod ledger;
mod report;
mod select;
mod work;
