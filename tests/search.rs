//! Search and its contract: vectors on disk, exact lists, and FAISS where it is built in.

mod exact;
#[cfg(feature = "faiss")]
mod faiss;
mod stored;

use bge_core::random::Draws;
use bge_core::search::Hit;

/// What a loop in f64 finds.
fn naive(rows: &[f32], queries: &[f32], dim: usize, k: usize) -> Vec<Vec<Hit>> {
    queries
        .chunks(dim)
        .map(|query| {
            let mut hits: Vec<Hit> = rows
                .chunks(dim)
                .zip(0..)
                .map(|(row, id)| {
                    let mut score = 0.0;
                    for (a, b) in query.iter().zip(row) {
                        score += f64::from(*a) * f64::from(*b);
                    }
                    Hit { id, score }
                })
                .collect();
            hits.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.id.cmp(&b.id)));
            hits.truncate(k);
            hits
        })
        .collect()
}

/// Data of a kind that has broken a search somewhere.
fn data(kind: &str, rows: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut draws = Draws::new(seed);
    let centers: Vec<f32> = (0..5 * dim).map(|_| draws.normal() as f32).collect();
    let mut data = Vec::with_capacity(rows * dim);
    for row in 0..rows {
        let start = data.len();
        match kind {
            "random" => data.extend((0..dim).map(|_| draws.normal() as f32)),
            // A few tight clusters: scores that differ by less than f32 can tell.
            "clustered" => {
                let center = draws.below(5) * dim;
                data.extend((0..dim).map(|i| centers[center + i] + 1e-6 * draws.normal() as f32));
            }
            // Hundreds of copies of the same few rows.
            "copies" => {
                let center = draws.below(3) * dim;
                data.extend_from_slice(&centers[center..center + dim]);
            }
            "equal" => data.extend(std::iter::repeat_n(0.25, dim)),
            "zero" => data.extend(std::iter::repeat_n(0.0, dim)),
            // Small whole numbers: ties everywhere.
            "coarse" => data.extend((0..dim).map(|_| draws.below(3) as f32 - 1.0)),
            // Norms from the smallest to the largest that there are.
            "wild" => {
                let size = 10.0_f32.powi((row % 70) as i32 - 38);
                data.extend((0..dim).map(|_| size * draws.unit() as f32 - size / 2.0));
            }
            // The best come last, so that the threshold rises all the time.
            "rising" => {
                data.extend((0..dim).map(|_| (1.0 + draws.unit() as f32 * 1e-3) * (row as f32 + 1.0)))
            }
            _ => panic!("no data of the kind {kind}"),
        }
        assert_eq!(data.len(), start + dim);
    }
    data
}

const KINDS: [&str; 8] = [
    "random",
    "clustered",
    "copies",
    "equal",
    "zero",
    "coarse",
    "wild",
    "rising",
];
