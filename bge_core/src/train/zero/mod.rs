//! `ZeRO` (Rajbhandari et al. 2020): what the ranks need not all hold is cut into blocks, and each rank holds one.
//!
//! Stage 1 shares out the optimizer: after the sum over the ranks each has its block of the gradient, updates its block of
//! the weights, and all give each other theirs. Stage 2 also shares out gradients: a layer's are summed and freed as soon
//! as its backward has run. Stage 3 also shares out weights: a layer's are fetched when it runs, forward or backward, and freed
//! after it. The embedding norm and heads are small and stay whole, and so does what is not trained.
//!
//! The blocks are sums in the order of the ranks and the norm is added up as one rank would do it. So stage 1 gives the bits of
//! stage 0, and stages 2 and 3 do where a step has one backward; where it has several (accumulation, sub-batches) they add the sums of
//! the ranks and not the ranks' sums, which rounds otherwise.

mod layout;
mod moments;
mod shards;

pub(crate) use moments::Moments;
pub use shards::Held;
pub(crate) use shards::Shards;
