//! The binary `bge` from outside: what it says about bad input, and how it ends when it is told to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and say what they skip"
)]

mod case;
mod data;
mod heads;
mod launch;
mod mining;
mod models;
#[cfg(feature = "mpi")]
mod mpi;
mod named;
mod outputs;
mod pipeline;
mod planning;
mod prepared;
mod preparing;
mod quickstart;
mod scoring;
mod signal;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::Case;

#[test]
fn every_bad_input_ends_in_one_clear_error_and_leaves_nothing_half_written() {
    let all = [
        data::cases(),
        heads::cases(),
        mining::cases(),
        models::cases(),
        outputs::cases(),
        pipeline::cases(),
        preparing::cases(),
        scoring::cases(),
    ];
    let cases: Vec<Case> = all.into_iter().flatten().collect();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = case.check() {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    assert!(
        failures.is_empty(),
        "{} of {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}
