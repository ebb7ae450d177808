//! Processes as ranks: this program starts itself under mpirun, once for each number of ranks and each way to fail.
//!
//! It has no harness, as MPI can be started once in a process. A rank that finds what it should leaves a file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it does"
)]

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bge_core::config::NumberType;
use bge_core::distributed::{Communicator, Launched, Mpi, ThreadGroup};
use bge_core::{Error, ErrorKind, Result};

/// Where ranks leave their files, and what they do.
const FOLDER: &str = "BGE_RANKS_FOLDER";
const SCENE: &str = "BGE_RANKS_SCENE";

fn main() {
    match (Launched::from_env().unwrap(), std::env::var(SCENE)) {
        (Some(launched), Ok(scene)) => act(&launched, &scene),
        _ => direct(),
    }
}

/// Runs every scene.
fn direct() {
    for (scene, world) in [
        ("collectives", 2),
        ("collectives", 4),
        ("differ", 3),
        ("fail", 3),
        ("panic", 2),
        ("late", 3),
        ("leader", 2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let output = Command::new("mpirun")
            .args(["--allow-run-as-root", "--oversubscribe", "-n", &world.to_string()])
            .arg(std::env::current_exe().unwrap())
            .env(FOLDER, folder.path())
            .env(SCENE, scene)
            .env("RAYON_NUM_THREADS", "1")
            .output()
            .expect("mpirun is there");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let good = (0..world)
            .filter(|&rank| mark(folder.path(), rank).exists())
            .count();
        // A rank that panics finds nothing more.
        let expected = if scene == "panic" { world - 1 } else { world };
        assert_eq!(
            good, expected,
            "{scene} on {world} ranks: {}\n{text}",
            output.status
        );
        assert_eq!(
            output.status.success(),
            scene == "collectives",
            "{scene}: {}\n{text}",
            output.status
        );
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "{scene} took {:?}",
            started.elapsed()
        );
        println!(
            "{scene} on {world} ranks: ok ({:.1} s)",
            started.elapsed().as_secs_f64()
        );
    }
}

fn mark(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank}"))
}

/// What one rank does in a scene.
fn act(launched: &Launched, scene: &str) {
    let ranks = Mpi::start(launched).unwrap();
    assert_eq!(
        (ranks.rank(), ranks.world_size()),
        (launched.rank, launched.world_size)
    );
    ranks.set_limit(Duration::from_secs(20));
    match scene {
        "panic" if launched.rank > 0 => {
            let caught = std::panic::catch_unwind(AssertUnwindSafe(move || {
                let _ranks = ranks;
                panic!("as it should");
            }));
            assert!(caught.is_err());
            // Still there when rank 0 hears of it, as the launcher would end both.
            std::thread::sleep(Duration::from_secs(30));
        }
        "collectives" => {
            let own = collectives(&ranks).unwrap();
            let threads = ThreadGroup::run(ranks.world_size(), Duration::from_mins(1), |ranks| {
                collectives(ranks)
            });
            assert!(
                own == threads.unwrap()[ranks.rank()],
                "other bits than those of threads"
            );
            leave_mark(&ranks);
            ranks.end().unwrap();
        }
        _ => {
            let error = fail(&ranks, scene);
            assert_eq!(error.kind(), ErrorKind::Distributed, "{error}");
            // Every later call fails alike.
            let later = ranks.barrier().unwrap_err();
            assert_eq!(later.to_string(), error.to_string());
            leave_mark(&ranks);
            assert!(
                scene == "panic" || ranks.farewell().is_empty(),
                "a rank is missing"
            );
            if ranks.rank() == 0 {
                ranks.abort(3);
            }
            std::thread::sleep(Duration::from_secs(30));
        }
    }
}

fn leave_mark(ranks: &Mpi) {
    let folder = std::env::var_os(FOLDER).unwrap();
    std::fs::write(mark(Path::new(&folder), ranks.rank()), "").unwrap();
}

/// The error of a rank in a scene that fails.
fn fail(ranks: &Mpi, scene: &str) -> Error {
    let rank = ranks.rank();
    let last = ranks.world_size() - 1;
    let started = Instant::now();
    let (error, says) = match scene {
        "differ" => {
            let result = if rank == last {
                ranks.barrier()
            } else {
                ranks.all_reduce(&mut [0.0; 5], NumberType::Fp32)
            };
            let says = "rank 0 calls all_reduce of 5 values and rank 2 barrier";
            (result.unwrap_err(), says.to_owned())
        }
        "fail" => {
            if rank == last {
                ranks.fail(&Error::new(ErrorKind::Distributed, "rank 2 failed: no memory"));
                ranks.fail(&Error::new(ErrorKind::Distributed, "a second reason"));
            }
            let error = ranks.all_reduce(&mut [0.0; 5], NumberType::Fp32).unwrap_err();
            (error, "rank 2 failed: no memory".to_owned())
        }
        "panic" => (ranks.barrier().unwrap_err(), "rank 1 panicked".to_owned()),
        "late" => {
            ranks.set_limit(Duration::from_secs(1));
            if rank == last {
                std::thread::sleep(Duration::from_secs(3));
            }
            let error = ranks.barrier().unwrap_err();
            assert!(started.elapsed() < Duration::from_secs(5));
            (error, "waited 1s in barrier for the ranks [2]".to_owned())
        }
        "leader" => {
            ranks.set_limit(Duration::from_secs(1));
            // An order is waited for as long as rank 0 gives signs of life, which is not what limits the others.
            if rank == 0 {
                std::thread::sleep(Duration::from_secs(3));
            }
            assert_eq!(ranks.order(7 * (1 + rank as u32)).unwrap(), 7);
            if rank == 0 {
                ranks.fail(&Error::new(ErrorKind::Distributed, "rank 0 failed: no disk"));
            }
            (ranks.order(1).unwrap_err(), "rank 0 failed: no disk".to_owned())
        }
        other => panic!("there is no scene {other}"),
    };
    let text = error.to_string();
    assert!(text.contains(&says), "{text}");
    error
}

/// Values of a rank whose sums depend on the order of the additions.
fn values(rank: usize, length: usize) -> Vec<f32> {
    (0..length)
        .map(|at| ((rank * 31 + at * 17) % 101) as f32 * 1.1f32.powi((rank as i32 * 7 + at as i32) % 60 - 20))
        .collect()
}

/// The bits of every collective, at sizes below and above what MPI sends at once.
fn collectives(ranks: &dyn Communicator) -> Result<Vec<u64>> {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    let mut found = Vec::new();
    let mut note = |values: &[f32]| found.extend(values.iter().map(|value| u64::from(value.to_bits())));
    let turns = [
        (0, NumberType::Fp32),
        (1, NumberType::Bf16),
        (3, NumberType::Fp32),
        (1000, NumberType::Fp32),
        (999, NumberType::Fp16),
        (300_001, NumberType::Fp32),
        (300_001, NumberType::Bf16),
    ];
    for (turn, (length, travels)) in turns.into_iter().enumerate() {
        // Each time another rank is late.
        std::thread::sleep(Duration::from_millis(20 * ((rank + turn) % world) as u64));
        let mut all = values(rank, length);
        ranks.all_reduce(&mut all, travels)?;
        note(&all);
        let lengths: Vec<usize> = (0..world).map(|rank| (length * rank) % 7 + length / 2).collect();
        let part = ranks.reduce_scatter(&values(rank, lengths.iter().sum()), &lengths, travels)?;
        assert_eq!(part.len(), lengths[rank]);
        note(&part);
        note(&ranks.all_gather(&part, &lengths, travels)?);
        for root in 0..world {
            let mut own = values(rank + 1, length);
            ranks.broadcast(root, &mut own, travels)?;
            assert!(travels != NumberType::Fp32 || own == values(root + 1, length));
            note(&own);
        }
        ranks.barrier()?;
    }
    let numbers = ranks.gather_numbers(&[rank as f64, 0.1 * rank as f64])?;
    assert_eq!(numbers.len(), 2 * world);
    found.extend(numbers.into_iter().map(f64::to_bits));
    found.push(u64::from(ranks.order(40 + rank as u32)?));
    for error in [
        ranks.broadcast(world, &mut [], NumberType::Fp32).unwrap_err(),
        ranks
            .all_gather(&[1.0, 2.0], &vec![1; world], NumberType::Fp32)
            .unwrap_err(),
        ranks
            .reduce_scatter(&[1.0], &vec![1; world], NumberType::Fp32)
            .unwrap_err(),
        ranks.all_gather(&[1.0], &[1], NumberType::Fp32).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    Ok(found)
}
