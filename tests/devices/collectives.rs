//! The collectives of thread ranks, and how they fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bge_core::config::NumberType;
use bge_core::distributed::{Communicator, Solo, ThreadGroup, ThreadRank};
use bge_core::{Error, ErrorKind, Result};

use super::LIMIT;

/// Values of a rank whose sums depend on the order of the additions.
fn values(rank: usize, length: usize) -> Vec<f32> {
    (0..length)
        .map(|at| ((rank * 31 + at * 17) % 101) as f32 * 1.1f32.powi((rank as i32 * 7 + at as i32) % 60 - 20))
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The sum over the ranks in their order.
fn sum(world: usize, length: usize) -> Vec<f32> {
    let mut sum = values(0, length);
    for rank in 1..world {
        sum.iter_mut()
            .zip(values(rank, length))
            .for_each(|(sum, x)| *sum += x);
    }
    sum
}

/// Runs the work on every rank; later ranks start later, or the other way round.
fn on<T: Send>(world: usize, reversed: bool, work: impl Fn(&ThreadRank) -> Result<T> + Sync) -> Vec<T> {
    ThreadGroup::run(world, LIMIT, |ranks| {
        let late = if reversed {
            world - ranks.rank()
        } else {
            ranks.rank()
        };
        std::thread::sleep(Duration::from_millis(3 * late as u64));
        work(ranks)
    })
    .unwrap()
}

#[test]
fn sums_are_made_in_the_order_of_the_ranks_whoever_comes_first() {
    for world in 1..=4 {
        for length in [0, 1, 3, 1000] {
            for reversed in [false, true] {
                let sums = on(world, reversed, |ranks| {
                    let mut mine = values(ranks.rank(), length);
                    ranks.all_reduce(&mut mine, NumberType::Fp32)?;
                    Ok(bits(&mine))
                });
                assert_eq!(sums, vec![bits(&sum(world, length)); world], "{world} ranks");
            }
        }
    }
}

#[test]
fn blocks_of_any_length_are_scattered_and_gathered() {
    for world in 1..=4 {
        for lengths in [
            vec![5; world],
            (0..world).map(|rank| 3 * rank % 7).collect::<Vec<_>>(),
        ] {
            let total: usize = lengths.iter().sum();
            let parts = on(world, true, |ranks| {
                let part = ranks.reduce_scatter(&values(ranks.rank(), total), &lengths, NumberType::Fp32)?;
                let whole = ranks.all_gather(&part, &lengths, NumberType::Fp32)?;
                Ok((part, whole))
            });
            let expected = sum(world, total);
            for (rank, (part, whole)) in parts.into_iter().enumerate() {
                assert_eq!(part.len(), lengths[rank]);
                assert_eq!(bits(&whole), bits(&expected), "{world} ranks, {lengths:?}");
            }
        }
    }
}

#[test]
fn numbers_broadcasts_orders_and_barriers_reach_everyone() {
    for world in 1..=4 {
        let arrived = AtomicBool::new(false);
        let got = on(world, false, |ranks| {
            let rank = ranks.rank();
            let numbers = ranks.gather_numbers(&[rank as f64, 0.1])?;
            let mut from_last = values(rank, 9);
            ranks.broadcast(world - 1, &mut from_last, NumberType::Fp32)?;
            let word = ranks.order(40 + rank as u32)?;
            // The last rank comes late; nobody leaves the barrier before it.
            if rank == world - 1 {
                std::thread::sleep(Duration::from_millis(30));
                arrived.store(true, Ordering::SeqCst);
            }
            ranks.barrier()?;
            assert!(arrived.load(Ordering::SeqCst));
            Ok((numbers, from_last, word))
        });
        let numbers: Vec<f64> = (0..world).flat_map(|rank| [rank as f64, 0.1]).collect();
        for got in got {
            assert_eq!(got, (numbers.clone(), values(world - 1, 9), 40));
        }
    }
}

#[test]
fn a_world_of_one_changes_nothing() {
    let mut mine = values(3, 10);
    Solo.all_reduce(&mut mine, NumberType::Fp32).unwrap();
    Solo.broadcast(0, &mut mine, NumberType::Fp32).unwrap();
    assert_eq!(mine, values(3, 10));
    assert_eq!(Solo.reduce_scatter(&mine, &[10], NumberType::Fp32).unwrap(), mine);
    assert_eq!(Solo.all_gather(&mine, &[10], NumberType::Fp32).unwrap(), mine);
    assert_eq!(Solo.gather_numbers(&[2.0]).unwrap(), [2.0]);
    assert_eq!(Solo.order(7).unwrap(), 7);
    assert_eq!((Solo.rank(), Solo.world_size()), (0, 1));
    assert!(Solo.broadcast(1, &mut mine, NumberType::Fp32).is_err());
    assert!(Solo.all_gather(&mine, &[4], NumberType::Fp32).is_err());
}

/// The error of a group whose ranks do this, within a tenth of the limit of the tests.
fn failure(world: usize, work: impl Fn(&ThreadRank) -> Result<()> + Sync) -> Error {
    let started = Instant::now();
    let error = ThreadGroup::run(world, LIMIT, work).unwrap_err();
    assert!(started.elapsed() < LIMIT / 10, "{error}");
    error
}

#[test]
fn different_calls_are_an_error_and_not_a_hang() {
    type Case = (fn(&ThreadRank) -> Result<()>, [&'static str; 2]);
    let cases: [Case; 4] = [
        (
            |ranks| {
                if ranks.rank() == 1 {
                    return ranks.barrier();
                }
                ranks.all_reduce(&mut [0.0; 3], NumberType::Fp32)
            },
            ["rank 0 calls all_reduce of 3 values", "rank 1 barrier"],
        ),
        (
            |ranks| ranks.all_reduce(&mut vec![0.0; 3 + ranks.rank() / 2], NumberType::Fp32),
            ["all_reduce of 3 values", "rank 2 all_reduce of 4 values"],
        ),
        (
            |ranks| ranks.broadcast(ranks.rank() / 2, &mut [0.0; 2], NumberType::Fp32),
            ["from rank 0", "from rank 1"],
        ),
        (
            |ranks| match ranks.rank() {
                0 => ranks.gather_numbers(&[1.0]).map(drop),
                _ => ranks.gather_numbers(&[]).map(drop),
            },
            ["gather_numbers of 1 values", "gather_numbers of 0 values"],
        ),
    ];
    for (work, parts) in cases {
        let error = failure(3, work);
        assert_eq!(error.kind(), ErrorKind::Distributed);
        for part in parts {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    for error in [
        failure(2, |ranks| {
            ranks.all_gather(&[1.0], &[1], NumberType::Fp32).map(drop)
        }),
        failure(2, |ranks| {
            ranks.all_gather(&[1.0], &[2, 2], NumberType::Fp32).map(drop)
        }),
        failure(2, |ranks| {
            ranks.reduce_scatter(&[1.0], &[1, 1], NumberType::Fp32).map(drop)
        }),
        failure(2, |ranks| ranks.broadcast(2, &mut [1.0], NumberType::Fp32)),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    assert!(ThreadGroup::create(0, LIMIT).is_err());
}

#[test]
fn the_first_error_ends_every_rank() {
    for failing in 0..3 {
        let seen = std::sync::Mutex::new(Vec::new());
        let error = failure(3, |ranks| {
            if ranks.rank() == failing {
                return Err(Error::new(ErrorKind::NotFinite, "the loss is NaN"));
            }
            let error = ranks.barrier().unwrap_err();
            seen.lock().unwrap().push(error.to_string());
            // It stays so.
            assert!(ranks.all_reduce(&mut [1.0], NumberType::Fp32).is_err());
            Err(error)
        });
        assert_eq!(error.kind(), ErrorKind::NotFinite);
        assert_eq!(error.to_string(), "the loss is NaN");
        let expected = format!("rank {failing} failed: the loss is NaN");
        assert_eq!(seen.into_inner().unwrap(), vec![expected; 2]);
    }
}

#[test]
fn a_rank_that_panics_ends_the_others() {
    let error = failure(3, |ranks| {
        assert!(ranks.rank() != 2, "on purpose");
        ranks.barrier()
    });
    assert_eq!(error.kind(), ErrorKind::Distributed);
    assert!(
        error.to_string().contains("rank 2 panicked: on purpose"),
        "{error}"
    );
    // Rank 0 runs on the caller's thread, whose panic goes on after the others have ended.
    let leader = std::panic::catch_unwind(|| {
        ThreadGroup::run(3, LIMIT, |ranks| {
            assert!(ranks.rank() != 0, "on purpose");
            ranks.order(0).map(drop)
        })
    });
    assert!(leader.is_err());
}

#[test]
fn a_rank_that_is_gone_is_not_waited_for() {
    for waiting in [0, 1] {
        let error = failure(2, |ranks| {
            if ranks.rank() == waiting {
                ranks.order(1)?;
                ranks.barrier()
            } else {
                ranks.order(1).map(drop)
            }
        });
        let expected = format!(
            "rank {} has ended while rank {waiting} is in barrier",
            1 - waiting
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn waiting_has_a_limit() {
    let limit = Duration::from_millis(100);
    let started = Instant::now();
    let error = ThreadGroup::run(3, limit, |ranks| {
        if ranks.rank() == 1 {
            std::thread::sleep(Duration::from_millis(600));
        }
        ranks.barrier()
    })
    .unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(30));
    let text = error.to_string();
    assert!(
        text.contains("waited 100ms in barrier for the ranks [1]"),
        "{text}"
    );
    // But for rank 0's orders the others wait as long as it lives.
    ThreadGroup::run(2, limit, |ranks| {
        if ranks.rank() == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        ranks.order(3).map(drop)
    })
    .unwrap();
}
