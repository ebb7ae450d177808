//! The parts of a network that run one after another, and who hears of it.

use std::fmt;

use super::gradients::Gradients;
use crate::error::Result;

/// A part of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The tables of the embeddings.
    Tables,
    /// An encoder layer, by its number.
    Layer(usize),
    /// What is left, and small: heads, and the norm of the embeddings.
    Rest,
}

impl Part {
    /// The part that a weight of this name belongs to.
    pub(crate) fn of(name: &str) -> Self {
        let mut words = name.split('.');
        match (words.next(), words.next(), words.next()) {
            (Some("embeddings"), Some(table), _) if table.ends_with("_embeddings") => Self::Tables,
            (Some("encoder"), Some("layer"), Some(number)) => number.parse().map_or(Self::Rest, Self::Layer),
            _ => Self::Rest,
        }
    }

    /// Its place in the order in which a forward runs; the rest runs nowhere in it.
    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Tables | Self::Rest => 0,
            Self::Layer(layer) => layer + 1,
        }
    }
}

/// Whoever shares out a network's weights or gradients over ranks, and therefore must know which part runs.
///
/// All ranks meet in most calls, so that each must make as many passes as the others: those that have nothing to compute make
/// idle ones.
pub(crate) trait Watcher: fmt::Debug + Send + Sync {
    /// A part is about to run; its weights must be there.
    fn enter(&self, part: Part) -> Result<()>;

    /// A part has run; its weights are not needed any more.
    fn leave(&self, part: Part) -> Result<()>;

    /// The gradients of a part have got all that this backward pass adds to them.
    fn collect(&self, part: Part, gradients: &mut Gradients) -> Result<()>;

    /// The number of passes that every rank makes, of which this one needs `own`.
    fn passes(&self, own: usize) -> Result<usize>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_has_its_part() {
        for (name, part) in [
            ("embeddings.word_embeddings.weight", Part::Tables),
            ("embeddings.position_embeddings.weight", Part::Tables),
            ("embeddings.LayerNorm.bias", Part::Rest),
            ("encoder.layer.11.output.dense.weight", Part::Layer(11)),
            ("encoder.layer.0.attention.self.key.bias", Part::Layer(0)),
            ("pooler.dense.weight", Part::Rest),
            ("colbert_linear.weight", Part::Rest),
        ] {
            assert_eq!(Part::of(name), part, "{name}");
        }
    }
}
