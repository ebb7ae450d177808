//! A run whose ranks are processes: all must begin with the same settings, data and weights, as nothing sends these around.

use crate::distributed::Communicator;
use crate::error::{Result, bail};
use crate::nn::{ParamStore, read};
use crate::random::mix;

/// Refuses ranks that begin differently from rank 0.
pub(super) fn check_equal_start(
    ranks: &dyn Communicator,
    settings: &str,
    data: &str,
    step: usize,
    weights: &ParamStore,
) -> Result<()> {
    let own = [
        of_text(settings),
        of_text(data),
        step as f64,
        of_weights(weights)?,
    ];
    let names = ["settings", "data or batches", "step to start from", "weights"];
    let all = ranks.gather_numbers(&own)?;
    let (all, _) = all.as_chunks::<4>();
    for (rank, numbers) in all.iter().enumerate() {
        let differs = numbers
            .iter()
            .zip(&all[0])
            .position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(at) = differs {
            bail!(
                InvalidConfig,
                "rank {rank} has other {} than rank 0; start all with the same flags and the same files",
                names[at]
            );
        }
    }
    Ok(())
}

fn of_text(text: &str) -> f64 {
    number(text.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte))))
}

fn of_weights(weights: &ParamStore) -> Result<f64> {
    let mut sum = 0;
    for (_, value, _) in weights.iter() {
        for value in &*read(value)? {
            sum = mix(sum ^ u64::from(value.to_bits()));
        }
    }
    Ok(number(sum))
}

/// As much of a hash as a number holds exactly.
fn number(hash: u64) -> f64 {
    (hash >> 12) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::ThreadGroup;

    #[test]
    fn a_rank_that_begins_differently_is_named() {
        let check = |settings: [&str; 2], data: [&str; 2], steps: [usize; 2]| {
            ThreadGroup::run(2, std::time::Duration::from_mins(1), |ranks| {
                let rank = ranks.rank();
                check_equal_start(
                    ranks,
                    settings[rank],
                    data[rank],
                    steps[rank],
                    &ParamStore::default(),
                )
            })
        };
        check(["s", "s"], ["d", "d"], [3, 3]).unwrap();
        for (result, name) in [
            (check(["s", "t"], ["d", "d"], [3, 3]), "settings"),
            (check(["s", "s"], ["d", "e"], [3, 3]), "data"),
            (check(["s", "s"], ["d", "d"], [3, 0]), "step"),
        ] {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("rank 1 has other") && text.contains(name), "{text}");
        }
    }
}
