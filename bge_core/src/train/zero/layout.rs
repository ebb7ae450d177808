//! Who holds which block: the trained weights, part by part, in buckets that are cut among the ranks.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::nn::Part;
use crate::optim::{NORM_PIECE, Span};

/// Floats that are sent at once: 16 MB. What is summed with what does not depend on it.
pub(super) const BUCKET: usize = 1 << 22;

/// Stretches of weights that are sent together, each rank's block after the other.
#[derive(Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) part: Part,
    pub(super) spans: Vec<Span>,
    /// The length of each rank's block.
    pub(super) lengths: Vec<usize>,
}

/// What belongs to a part.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) buckets: Range<usize>,
    pub(super) parameters: Vec<usize>,
}

/// The blocks of all ranks.
///
/// Blocks end where pieces of the gradient norm end, so that each piece has its sum on one rank, and the sums of all,
/// added in the order of one rank, are the norm of one rank.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) buckets: Vec<Bucket>,
    /// This rank's block of each bucket.
    pub(super) own: Vec<Vec<Span>>,
    pub(super) places: BTreeMap<Part, Place>,
    /// The most pieces that a rank has.
    pub(super) most_pieces: usize,
    /// Where the sums of the pieces stand, in the order of one rank, among those of all ranks, `most_pieces` of each.
    pub(super) pieces: Vec<usize>,
}

impl Layout {
    /// Cuts weights of these parts and lengths among `ranks`, for `rank` to hold its blocks.
    pub(super) fn new(weights: &[(Part, usize)], ranks: usize, rank: usize, bucket: usize) -> Self {
        let mut by_part: BTreeMap<Part, Vec<usize>> = BTreeMap::new();
        for (parameter, (part, _)) in weights.iter().enumerate() {
            by_part.entry(*part).or_default().push(parameter);
        }
        let (mut buckets, mut places) = (Vec::new(), BTreeMap::new());
        for (part, parameters) in by_part {
            let first = buckets.len();
            let (mut waiting, mut floats) = (Vec::new(), 0);
            let lengths = parameters
                .iter()
                .map(|&parameter| (parameter, weights.get(parameter).map_or(0, |(_, length)| *length)));
            for piece in lengths.flat_map(|(parameter, length)| pieces(parameter, 0, length)) {
                if floats > 0 && floats + piece.length > bucket {
                    buckets.push(cut(part, &std::mem::take(&mut waiting), ranks));
                    floats = 0;
                }
                floats += piece.length;
                waiting.push(piece);
            }
            if floats > 0 {
                buckets.push(cut(part, &waiting, ranks));
            }
            let buckets = first..buckets.len();
            places.insert(part, Place { buckets, parameters });
        }
        let mut found = Vec::new();
        let mut most_pieces = 0;
        for other in 0..ranks {
            let held = buckets.iter().flat_map(|bucket: &Bucket| bucket.block(other));
            let cut = held.flat_map(|span| pieces(span.parameter, span.first, span.length));
            let mut count = 0;
            for (at, piece) in cut.enumerate() {
                found.push(((piece.parameter, piece.first), other, at));
                count = at + 1;
            }
            most_pieces = most_pieces.max(count);
        }
        found.sort_unstable();
        Self {
            own: buckets.iter().map(|bucket| bucket.block(rank)).collect(),
            buckets,
            places,
            most_pieces,
            pieces: found
                .into_iter()
                .map(|(_, rank, at)| rank * most_pieces + at)
                .collect(),
        }
    }
}

impl Bucket {
    /// The stretches of a rank's block.
    pub(super) fn block(&self, rank: usize) -> Vec<Span> {
        let (mut skip, mut left) = crate::distributed::block(&self.lengths, rank);
        let mut block = Vec::new();
        for span in &self.spans {
            let before = skip.min(span.length);
            skip -= before;
            let length = left.min(span.length - before);
            left -= length;
            if length > 0 {
                block.push(Span {
                    parameter: span.parameter,
                    first: span.first + before,
                    length,
                });
            }
        }
        block
    }
}

/// The pieces of a stretch that begins where one does.
fn pieces(parameter: usize, first: usize, length: usize) -> impl Iterator<Item = Span> {
    (0..length).step_by(NORM_PIECE).map(move |at| Span {
        parameter,
        first: first + at,
        length: NORM_PIECE.min(length - at),
    })
}

/// A bucket of these pieces, cut between pieces into blocks as equal as that allows.
fn cut(part: Part, pieces: &[Span], ranks: usize) -> Bucket {
    let mut ends = vec![0];
    for piece in pieces {
        ends.push(ends.last().map_or(0, |end| end + piece.length));
    }
    let total = ends.last().copied().unwrap_or(0);
    let border = |rank: usize| {
        let wanted = total * rank / ranks;
        let nearest = ends.iter().min_by_key(|end| end.abs_diff(wanted));
        nearest.copied().unwrap_or(0)
    };
    let borders: Vec<usize> = (0..=ranks).map(border).collect();
    let mut spans: Vec<Span> = Vec::new();
    for piece in pieces {
        match spans.last_mut().filter(|last| last.parameter == piece.parameter) {
            Some(last) => last.length += piece.length,
            None => spans.push(*piece),
        }
    }
    Bucket {
        part,
        spans,
        lengths: borders.windows(2).map(|pair| pair[1] - pair[0]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of a small encoder, some longer than a piece or a bucket.
    fn weights() -> Vec<(Part, usize)> {
        vec![
            (Part::Rest, 32),
            (Part::Tables, 9 * NORM_PIECE + 5),
            (Part::Tables, 100),
            (Part::Layer(0), 2 * NORM_PIECE),
            (Part::Layer(0), 7),
            (Part::Layer(1), NORM_PIECE + 1),
            (Part::Rest, 3),
        ]
    }

    #[test]
    fn every_float_has_one_holder_whatever_the_bucket() {
        for ranks in [1, 2, 3, 4, 7] {
            for bucket in [NORM_PIECE, 3 * NORM_PIECE, BUCKET] {
                let weights = weights();
                let mut held: Vec<Vec<u32>> = weights.iter().map(|(_, length)| vec![0; *length]).collect();
                for rank in 0..ranks {
                    let layout = Layout::new(&weights, ranks, rank, bucket);
                    for (spans, of) in layout.own.iter().zip(&layout.buckets) {
                        let length: usize = spans.iter().map(|span| span.length).sum();
                        assert_eq!(length, of.lengths[rank]);
                        for span in spans {
                            assert_eq!(span.first % NORM_PIECE, 0);
                            assert_eq!(weights[span.parameter].0, of.part);
                            held[span.parameter][span.range()]
                                .iter_mut()
                                .for_each(|count| *count += 1);
                        }
                    }
                }
                assert!(held.iter().flatten().all(|count| *count == 1), "{ranks} ranks");
            }
        }
    }

    #[test]
    fn pieces_stand_in_the_order_of_one_rank() {
        let weights = weights();
        for ranks in [1, 2, 5] {
            let layout = Layout::new(&weights, ranks, 0, 2 * NORM_PIECE);
            // Every piece says where it is, in the order in which its rank holds it.
            let mut all = vec![None; ranks * layout.most_pieces];
            for rank in 0..ranks {
                let spans = layout.buckets.iter().flat_map(|bucket| bucket.block(rank));
                let pieces = spans.flat_map(|span| pieces(span.parameter, span.first, span.length));
                for (at, piece) in pieces.enumerate() {
                    all[rank * layout.most_pieces + at] = Some((piece.parameter, piece.first));
                }
            }
            let ordered: Vec<_> = layout.pieces.iter().map(|&at| all[at].unwrap()).collect();
            let count: usize = weights
                .iter()
                .map(|(_, length)| length.div_ceil(NORM_PIECE))
                .sum();
            assert!(ordered.is_sorted() && ordered.len() == count);
        }
    }

    #[test]
    fn blocks_differ_by_a_piece_at_most_in_each_bucket() {
        let weights = vec![(Part::Tables, 100 * NORM_PIECE + 17)];
        for ranks in [2, 3, 4] {
            let layout = Layout::new(&weights, ranks, 0, BUCKET);
            for bucket in &layout.buckets {
                let most = bucket.lengths.iter().max().unwrap();
                let least = bucket.lengths.iter().min().unwrap();
                assert!(most - least <= 2 * NORM_PIECE, "{:?}", bucket.lengths);
            }
        }
    }
}
