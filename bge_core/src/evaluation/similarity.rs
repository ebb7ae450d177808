//! What the vectors look like: similarities of right and wrong pairs, how far training moved them, whether they collapsed.

use serde::{Deserialize, Serialize};

use super::beir::BeirFolder;
use super::retrieval::Evaluation;
use super::statistics::{mean, quantile};
use crate::inference::Vectors;

/// Wrong documents taken for each query: the highest ranked ones.
const HARD_NEGATIVES: usize = 5;
/// Documents in the sample that dimensions in use are counted on.
const SAMPLE: usize = 512;
/// Bins of a [`Histogram`] over -1 to 1.
const BINS: usize = 200;

/// Counts of cosines in 200 bins of 0.01 from -1 to 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Cosines in each bin, the lowest first.
    pub counts: Vec<u64>,
}

impl Histogram {
    fn of(values: &[f64]) -> Self {
        let mut counts = vec![0; BINS];
        for value in values {
            let bin = ((value + 1.0) * 0.5 * BINS as f64)
                .floor()
                .clamp(0.0, (BINS - 1) as f64) as usize;
            if let Some(count) = counts.get_mut(bin) {
                *count += 1;
            }
        }
        Self { counts }
    }

    /// The shared area of two histograms, each scaled to 1: 0 when they are apart, 1 when they are the same.
    fn overlap(&self, other: &Self) -> f64 {
        let share = |counts: &[u64]| -> Vec<f64> {
            let total = counts.iter().sum::<u64>().max(1) as f64;
            counts.iter().map(|count| *count as f64 / total).collect()
        };
        share(&self.counts)
            .iter()
            .zip(share(&other.counts))
            .map(|(a, b)| a.min(b))
            .sum()
    }
}

/// Summary of some cosines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many there are.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// 5 % are below.
    pub p05: f64,
    /// Half are below.
    pub median: f64,
    /// 95 % are below.
    pub p95: f64,
    /// All of them.
    pub histogram: Histogram,
}

impl Distribution {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let center = mean(&values);
        let squares: Vec<f64> = values.iter().map(|value| (value - center).powi(2)).collect();
        Self {
            count: values.len(),
            mean: center,
            deviation: mean(&squares).sqrt(),
            p05: quantile(&values, 0.05),
            median: quantile(&values, 0.5),
            p95: quantile(&values, 0.95),
            histogram: Histogram::of(&values),
        }
    }
}

/// Similarities in one model's space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimilarityReport {
    /// Cosines of queries with their relevant documents.
    pub positives: Distribution,
    /// Cosines of queries with the five highest ranked documents that are not relevant.
    pub negatives: Distribution,
    /// Shared area of the two histograms: lower is better.
    pub overlap: f64,
    /// Distance of the two means in standard deviations (Cohen's d): higher is better.
    pub separation: f64,
    /// Mean cosine of two different documents; near 1 the space has collapsed.
    pub document_cosine: f64,
    /// Mean cosine of two different queries.
    pub query_cosine: f64,
    /// How many directions the documents spread over: the participation ratio of their covariance, on a sample of 512.
    pub dimensions_in_use: f64,
    /// Vectors that are all zero.
    pub zero_vectors: usize,
}

/// Measures the similarities of one evaluation.
pub fn similarities(folder: &BeirFolder, evaluation: &Evaluation) -> SimilarityReport {
    let places = folder.document_places();
    let (queries, documents) = (&evaluation.query_vectors, &evaluation.document_vectors);
    let (mut positives, mut negatives) = (Vec::new(), Vec::new());
    for ((query, judgments), hits) in queries.rows().zip(&folder.judgments).zip(&evaluation.rankings) {
        for (document, score) in judgments {
            if let Some(place) = places.get(document.as_str()).filter(|_| *score > 0.0) {
                positives.push(cosine(query, documents.row(*place as usize)));
            }
        }
        let wrong = hits
            .iter()
            .filter(|hit| folder.relevance(judgments, hit.document) <= 0.0);
        negatives.extend(
            wrong
                .take(HARD_NEGATIVES)
                .map(|hit| cosine(query, documents.row(hit.document as usize))),
        );
    }
    let (positives, negatives) = (Distribution::of(positives), Distribution::of(negatives));
    let pooled = positives.deviation.hypot(negatives.deviation) / std::f64::consts::SQRT_2;
    let zero = |vectors: &Vectors| vectors.rows().filter(|row| row.iter().all(|x| *x == 0.0)).count();
    SimilarityReport {
        overlap: positives.histogram.overlap(&negatives.histogram),
        separation: if pooled > 0.0 {
            (positives.mean - negatives.mean) / pooled
        } else {
            0.0
        },
        document_cosine: mean_pairwise_cosine(documents),
        query_cosine: mean_pairwise_cosine(queries),
        dimensions_in_use: dimensions_in_use(documents),
        zero_vectors: zero(queries) + zero(documents),
        positives,
        negatives,
    }
}

/// How far training moved the vectors of the same texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// Mean cosine of a query's old and new vector; 1 means it did not move.
    pub queries: f64,
    /// Mean cosine of a document's old and new vector.
    pub documents: f64,
    /// Share of all texts whose vector is the same to the bit.
    pub identical: f64,
}

/// Compares two models' vectors of the same texts; `None` when their dimensions differ.
pub fn embedding_shift(before: &Evaluation, after: &Evaluation) -> Option<Shift> {
    if before.query_vectors.dim != after.query_vectors.dim {
        return None;
    }
    let mut same = 0;
    let mut compare = |old: &Vectors, new: &Vectors| {
        let cosines: Vec<f64> = old
            .rows()
            .zip(new.rows())
            .map(|(old, new)| {
                same += usize::from(old == new);
                cosine(old, new)
            })
            .collect();
        mean(&cosines)
    };
    let queries = compare(&before.query_vectors, &after.query_vectors);
    let documents = compare(&before.document_vectors, &after.document_vectors);
    let texts = before.query_vectors.len() + before.document_vectors.len();
    Some(Shift {
        queries,
        documents,
        identical: f64::from(same as u32) / texts.max(1) as f64,
    })
}

/// The cosine of two vectors; 0 when one has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let lengths = norm(a) * norm(b);
    if lengths == 0.0 {
        return 0.0;
    }
    let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    (product / lengths).clamp(-1.0, 1.0)
}

fn norm(a: &[f32]) -> f64 {
    a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// The mean over all pairs without looking at pairs: |sum of unit vectors|² = n + sum over pairs.
fn mean_pairwise_cosine(vectors: &Vectors) -> f64 {
    let count = vectors.len() as f64;
    if count < 2.0 {
        return 0.0;
    }
    let mut sum = vec![0.0; vectors.dim];
    let mut directed = 0.0;
    for row in vectors.rows() {
        let length = norm(row);
        if length > 0.0 {
            directed += 1.0;
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += f64::from(*x) / length;
            }
        }
    }
    let squared: f64 = sum.iter().map(|x| x * x).sum();
    (squared - directed) / (count * (count - 1.0))
}

/// (trace C)² / trace C² of the covariance C, through the Gram matrix of evenly spaced rows.
fn dimensions_in_use(vectors: &Vectors) -> f64 {
    let step = vectors.len().div_ceil(SAMPLE).max(1);
    let mut rows: Vec<Vec<f32>> = vectors.rows().step_by(step).map(<[f32]>::to_vec).collect();
    let count = rows.len();
    let mut center = vec![0.0_f64; vectors.dim];
    for row in &rows {
        for (center, x) in center.iter_mut().zip(row) {
            *center += f64::from(*x) / count as f64;
        }
    }
    for row in &mut rows {
        for (x, center) in row.iter_mut().zip(&center) {
            *x -= *center as f32;
        }
    }
    let (mut trace, mut squares) = (0.0, 0.0);
    for (index, a) in rows.iter().enumerate() {
        let own = f64::from(dot(a, a));
        trace += own;
        squares += own * own;
        for b in rows.iter().skip(index + 1) {
            squares += 2.0 * f64::from(dot(a, b)).powi(2);
        }
    }
    if squares > 0.0 {
        trace * trace / squares
    } else {
        0.0
    }
}

/// Partial sums of a product.
const LANES: usize = 16;

/// Inner product in sixteen lanes, added pairwise at the end.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Draws;

    #[test]
    fn the_mean_over_pairs_is_the_mean_over_pairs() {
        let mut draws = Draws::new(8);
        let vectors = Vectors {
            data: (0..60).map(|_| draws.normal() as f32).collect(),
            dim: 6,
        };
        let rows: Vec<&[f32]> = vectors.rows().collect();
        let mut pairs = Vec::new();
        for i in 0..10 {
            for j in (0..10).filter(|j| *j != i) {
                pairs.push(cosine(rows[i], rows[j]));
            }
        }
        assert!((mean_pairwise_cosine(&vectors) - mean(&pairs)).abs() < 1e-12);
    }

    #[test]
    fn a_collapsed_space_has_cosine_one_and_no_dimensions() {
        let vectors = Vectors {
            data: [0.6_f32, 0.8].repeat(40),
            dim: 2,
        };
        assert!((mean_pairwise_cosine(&vectors) - 1.0).abs() < 1e-6);
        assert!(dimensions_in_use(&vectors) < 1e-6);
    }

    #[test]
    fn independent_numbers_use_nearly_all_dimensions() {
        let mut draws = Draws::new(4);
        let vectors = Vectors {
            data: (0..8 * 4096).map(|_| draws.normal() as f32).collect(),
            dim: 8,
        };
        let used = dimensions_in_use(&vectors);
        assert!((7.5..=8.0).contains(&used), "{used}");
    }

    #[test]
    fn every_cosine_has_a_bin_and_a_zero_vector_has_cosine_zero() {
        let histogram = Histogram::of(&[-1.0, 0.0, 1.0, 0.999]);
        assert_eq!(histogram.counts.iter().sum::<u64>(), 4);
        assert_eq!(
            (histogram.counts[0], histogram.counts[100], histogram.counts[199]),
            (1, 1, 2)
        );
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(histogram.overlap(&histogram), 1.0);
    }
}
