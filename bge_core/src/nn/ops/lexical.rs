//! Scores of texts by the tokens they share: the strongest weight of each token id, and their products.
//!
//! The peer spreads the weights over a vector as long as the vocabulary; here a text is a short list ordered by id.

/// A token id of a text with its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Term {
    pub(crate) id: u32,
    pub(crate) weight: f32,
    /// The row of the token that has this weight.
    pub(crate) row: u32,
}

/// The terms of a text in the order of their ids: of tokens with one id the strongest, the first of equal ones; special
/// tokens and weights of 0 are left out.
///
/// `first` is the row of the text's first token.
pub(crate) fn terms(ids: &[u32], weights: &[f32], first: usize, special: &[u32]) -> Vec<Term> {
    let mut terms: Vec<Term> = ids
        .iter()
        .zip(weights)
        .enumerate()
        .filter(|(_, (id, weight))| **weight > 0.0 && !special.contains(id))
        .map(|(at, (&id, &weight))| Term {
            id,
            weight,
            row: (first + at) as u32,
        })
        .collect();
    terms.sort_by(|a, b| a.id.cmp(&b.id).then(b.weight.total_cmp(&a.weight)));
    terms.dedup_by_key(|term| term.id);
    terms
}

/// Calls `shared` for each id that both texts have.
pub(crate) fn for_shared(a: &[Term], b: &[Term], mut shared: impl FnMut(&Term, &Term)) {
    let mut rest = b;
    for term in a {
        let skipped = rest.partition_point(|other| other.id < term.id);
        rest = &rest[skipped..];
        if let Some(other) = rest.first().filter(|other| other.id == term.id) {
            shared(term, other);
        }
    }
}

/// The sum of the products of the weights of shared ids, in the order of the ids.
pub(crate) fn product(a: &[Term], b: &[Term]) -> f32 {
    let mut sum = 0.0;
    for_shared(a, b, |a, b| sum += a.weight * b.weight);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_weight_of_an_id_counts_and_special_tokens_do_not() {
        let terms = terms(&[0, 7, 5, 7, 9, 2], &[9.0, 1.0, 2.0, 3.0, 0.0, 9.0], 10, &[0, 2]);
        let expected = [(5, 2.0, 12), (7, 3.0, 13)];
        let found: Vec<_> = terms.iter().map(|t| (t.id, t.weight, t.row)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn texts_are_compared_by_the_ids_they_share() {
        let a = terms(&[3, 4, 5], &[1.0, 2.0, 3.0], 0, &[]);
        let b = terms(&[5, 9, 3], &[10.0, 100.0, 1000.0], 0, &[]);
        assert_eq!(product(&a, &b), 1030.0);
        assert_eq!(product(&a, &b), product(&b, &a));
        assert_eq!(product(&a, &[]), 0.0);
    }
}
