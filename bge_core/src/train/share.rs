//! A rank's share of a micro-batch: how many queries it has, and which of the joined batch they are.

use crate::distributed::Communicator;
use crate::error::{Result, bail};

/// The place of a rank's queries in the joined micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Share {
    /// Queries of every rank; some may have none.
    pub(crate) queries: Vec<usize>,
    /// The number of this rank's first query in the joined batch.
    pub(crate) first: usize,
    /// This rank's queries.
    pub(crate) own: usize,
    /// Queries of the joined batch.
    pub(crate) all: usize,
    /// Passages per query.
    pub(crate) group_size: usize,
    /// Whether every query has teacher scores; a teacher that knows only some teaches nothing.
    pub(crate) scored: bool,
}

impl Share {
    /// Asks all ranks what they have; a rank without queries has no group size and no say about the scores.
    pub(crate) fn of(
        ranks: &dyn Communicator,
        queries: usize,
        group_size: usize,
        scored: bool,
    ) -> Result<Self> {
        let known = [queries, group_size, usize::from(scored)].map(|number| number as f64);
        let numbers = ranks.gather_numbers(&known)?;
        let (have, _) = numbers.as_chunks::<3>();
        let of_queries: Vec<usize> = have.iter().map(|[queries, ..]| *queries as usize).collect();
        let busy = || have.iter().filter(|[queries, ..]| *queries > 0.0);
        let Some(&[_, group, _]) = busy().next() else {
            bail!(InvalidArgument, "a batch has no queries");
        };
        if let Some([_, other, _]) = busy().find(|[_, other, _]| *other != group) {
            bail!(
                InvalidArgument,
                "the ranks have groups of {group} and {other} passages in one batch"
            );
        }
        Ok(Self {
            first: of_queries.iter().take(ranks.rank()).sum(),
            own: queries,
            all: of_queries.iter().sum(),
            queries: of_queries,
            group_size: group as usize,
            scored: busy().all(|[.., scored]| *scored > 0.0),
        })
    }

    /// What a mean over the own queries counts in the mean over all.
    pub(crate) fn weight(&self) -> f64 {
        self.own as f64 / self.all as f64
    }

    /// The number of a text within the joined batch, where all queries come first, by its number in the own one. It decides
    /// the text's dropout masks.
    pub(crate) fn text(&self, own: usize) -> u64 {
        let number = match own.checked_sub(self.own) {
            None => self.first + own,
            Some(passage) => self.all + self.first * self.group_size + passage,
        };
        number as u64
    }

    /// The number of a pair of query and passage within the joined batch.
    pub(crate) fn pair(&self, own: usize) -> u64 {
        (self.first * self.group_size + own) as u64
    }

    /// The lengths of the ranks' blocks of passage vectors.
    pub(crate) fn passage_floats(&self, width: usize) -> Vec<usize> {
        let floats = |queries: &usize| queries * self.group_size * width;
        self.queries.iter().map(floats).collect()
    }
}
