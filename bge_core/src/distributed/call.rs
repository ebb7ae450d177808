//! The calls that ranks make together.

use std::fmt;

use crate::config::NumberType;

/// Which call a rank is in; those of all ranks must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    AllReduce(usize, NumberType),
    ReduceScatter(Vec<usize>, NumberType),
    AllGather(Vec<usize>, NumberType),
    GatherNumbers(usize),
    Broadcast(usize, usize, NumberType),
    Barrier,
    Order,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce(length, travels) => write!(f, "all_reduce of {length} {}", values(*travels)),
            Self::ReduceScatter(lengths, travels) => {
                write!(
                    f,
                    "reduce_scatter into blocks of {lengths:?} {}",
                    values(*travels)
                )
            }
            Self::AllGather(lengths, travels) => {
                write!(f, "all_gather of blocks of {lengths:?} {}", values(*travels))
            }
            Self::GatherNumbers(length) => write!(f, "gather_numbers of {length} values"),
            Self::Broadcast(root, length, travels) => {
                write!(f, "broadcast of {length} {} from rank {root}", values(*travels))
            }
            Self::Barrier => write!(f, "barrier"),
            Self::Order => write!(f, "order"),
        }
    }
}

fn values(travels: NumberType) -> String {
    match travels {
        NumberType::Fp32 => "values".to_owned(),
        short => format!("values in {short}"),
    }
}
