//! Task types (`type` of a row): what each changes in a batch of one dataset.
//!
//! Behaviour as in FlagEmbedding's same-dataset mode; without that mode a type changes nothing.

/// A task type by its rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskType {
    /// Absent, `normal`, or a name without rules.
    #[default]
    Normal,
    /// `only_1neg`: one negative per query.
    Only1Neg,
    /// `symmetric_class`: as many passages as the first row of the batch has labels.
    SymmetricClass,
    /// `symmetric_sts`: passages are formatted as queries.
    SymmetricSts,
    /// `symmetric_clustering`: passages are formatted as queries.
    SymmetricClustering,
    /// Any other name that contains `symmetric`.
    Symmetric,
}

/// How many passages a query of a batch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupSize {
    /// The same number in every batch.
    Fixed(usize),
    /// One more than the first row of the global batch has negatives, at most this.
    FirstRow(usize),
}

impl TaskType {
    /// The rules of a name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "only_1neg" => Self::Only1Neg,
            "symmetric_class" => Self::SymmetricClass,
            "symmetric_sts" => Self::SymmetricSts,
            "symmetric_clustering" => Self::SymmetricClustering,
            other if other.contains("symmetric") => Self::Symmetric,
            _ => Self::Normal,
        }
    }

    /// Whether a name has rules of its own or says `normal`.
    pub fn is_known(name: &str) -> bool {
        name == "normal" || !matches!(Self::from_name(name), Self::Normal | Self::Symmetric)
    }

    /// Queries per device, given `per_device_train_batch_size`; symmetric tasks take half.
    pub const fn batch_size(self, per_device: usize) -> usize {
        match self {
            Self::Normal | Self::Only1Neg => per_device,
            _ => per_device / 2,
        }
    }

    /// Passages per query, given `train_group_size`.
    pub const fn group_size(self, train_group_size: usize) -> GroupSize {
        match self {
            Self::Only1Neg => GroupSize::Fixed(2),
            Self::SymmetricClass => GroupSize::FirstRow(train_group_size),
            _ => GroupSize::Fixed(train_group_size),
        }
    }

    /// Whether passages get the format and instruction of queries.
    pub const fn passages_are_queries(self) -> bool {
        matches!(self, Self::SymmetricSts | Self::SymmetricClustering)
    }
}

impl GroupSize {
    /// The number for a batch whose first row has `negatives` explicit negatives.
    pub fn resolve(self, negatives: usize) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::FirstRow(most) => most.min(negatives + 1),
        }
    }
}
