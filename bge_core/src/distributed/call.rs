//! The calls that ranks make together.

use std::fmt;

/// Which call a rank is in; those of all ranks must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    AllReduce(usize),
    ReduceScatter(Vec<usize>),
    AllGather(Vec<usize>),
    GatherNumbers(usize),
    Broadcast(usize, usize),
    Barrier,
    Order,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce(length) => write!(f, "all_reduce of {length} values"),
            Self::ReduceScatter(lengths) => write!(f, "reduce_scatter into {}", blocks(lengths)),
            Self::AllGather(lengths) => write!(f, "all_gather of {}", blocks(lengths)),
            Self::GatherNumbers(length) => write!(f, "gather_numbers of {length} values"),
            Self::Broadcast(root, length) => write!(f, "broadcast of {length} values from rank {root}"),
            Self::Barrier => write!(f, "barrier"),
            Self::Order => write!(f, "order"),
        }
    }
}

fn blocks(lengths: &[usize]) -> String {
    format!("blocks of {lengths:?} values")
}
