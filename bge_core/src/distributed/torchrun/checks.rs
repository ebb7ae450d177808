//! Ranks over stores: one of their own, PyTorch's, and torchrun's.

use std::sync::Arc;

use super::*;
use crate::distributed::Launcher;
use crate::distributed::checks::{every_call, on_threads};

/// Runs `work` on ranks that meet at a store of their own, or at PyTorch's where `BGE_TEST_STORE` names one.
fn ranks<T: Send>(name: &str, size: usize, work: impl Fn(&Torchrun) -> Result<T> + Sync) -> Vec<Result<T>> {
    let place =
        std::env::var("BGE_TEST_STORE").unwrap_or_else(|_| format!("127.0.0.1:{}", host::serve(0).unwrap()));
    let (address, port) = place.split_once(':').unwrap();
    let open = |rank: usize| {
        let launched = Launched {
            launcher: Launcher::Torchrun,
            rank,
            world_size: size,
            local_rank: rank,
        };
        let variable = |variable: &str| match variable {
            "MASTER_ADDR" => Some(address.to_owned()),
            "MASTER_PORT" => Some(port.to_owned()),
            "TORCHELASTIC_USE_AGENT_STORE" => Some("True".to_owned()),
            "TORCHELASTIC_RUN_ID" => Some(name.to_owned()),
            "LOCAL_WORLD_SIZE" => Some(size.to_string()),
            _ => None,
        };
        Torchrun::of(&launched, variable).map(Arc::new)
    };
    on_threads(0..size, open, |line| work(line))
}

#[test]
fn every_call_brings_what_all_ranks_gave() {
    let results = ranks("calls", 3, |line| {
        every_call(line)?;
        line.end()
    });
    results.into_iter().for_each(Result::unwrap);
}

#[test]
fn more_floats_than_a_value_holds_go_in_pieces() {
    let results = ranks("pieces", 2, |line| {
        let count = 2 * PIECE + 3;
        let mut values: Vec<f32> = (0..count).map(|at| (at % 1000) as f32).collect();
        line.all_reduce(&mut values, NumberType::Fp32)?;
        assert!((0..count).all(|at| values[at] == 2.0 * (at % 1000) as f32));
        Ok(())
    });
    results.into_iter().for_each(Result::unwrap);
}

#[test]
fn the_first_failure_is_that_of_all() {
    let results = ranks("failure", 2, |line| {
        line.barrier()?;
        if line.rank() == 1 {
            return Err(Error::new(ErrorKind::Io, "the disk is full"));
        }
        line.barrier()
    });
    let error = results[0].as_ref().unwrap_err();
    assert!(
        error.message().contains("rank 1 failed: the disk is full"),
        "{error}"
    );
}

#[test]
fn ranks_that_are_not_in_the_same_place_end_with_both_calls() {
    let results = ranks("places", 2, |line| match line.rank() {
        0 => line.barrier(),
        _ => line.gather_numbers(&[1.0]).map(drop),
    });
    for result in results {
        let text = result.unwrap_err().to_string();
        assert!(
            text.contains("barrier") && text.contains("gather_numbers of 1 values"),
            "{text}"
        );
    }
}

#[test]
fn a_rank_that_does_not_come_ends_the_others_at_the_limit() {
    let results = ranks("limit", 2, |line| {
        line.set_limit(Duration::from_millis(300));
        if line.rank() == 1 {
            return Ok(());
        }
        line.barrier()
    });
    let text = results[0].as_ref().unwrap_err().to_string();
    assert!(
        text.contains("rank 0 waited 300ms in barrier for rank 1"),
        "{text}"
    );
}

#[test]
fn rank_0_keeps_the_store_where_the_launcher_has_none() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let run = |rank: usize| {
        let launched = Launched {
            launcher: Launcher::Torchrun,
            rank,
            world_size: 2,
            local_rank: 0,
        };
        let line = Torchrun::of(&launched, |variable| match variable {
            "MASTER_ADDR" => Some("127.0.0.1".to_owned()),
            "MASTER_PORT" => Some(port.to_string()),
            _ => None,
        })?;
        assert_eq!(line.keeps, rank == 0);
        let all = line.gather_numbers(&[rank as f64])?;
        line.end()?;
        Ok::<_, Error>(all)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(move || run(1));
        assert_eq!(run(0).unwrap(), [0.0, 1.0]);
        assert_eq!(other.join().unwrap().unwrap(), [0.0, 1.0]);
    });
}

/// Under `torchrun --nproc_per_node 2 --no-python TESTS processes_of_torchrun`, and nothing elsewhere.
#[test]
fn processes_of_torchrun_meet_at_its_store() {
    let launched = Launched::from_env().unwrap();
    let Some(launched) = launched.filter(|found| found.launcher == Launcher::Torchrun) else {
        return;
    };
    let line = Torchrun::start(&launched).unwrap();
    assert!(!line.keeps);
    for step in 0..50 {
        let all = line.gather_numbers(&[(line.rank() + step) as f64]).unwrap();
        let want: Vec<f64> = (0..line.world_size()).map(|rank| (rank + step) as f64).collect();
        assert_eq!(all, want);
    }
    line.end().unwrap();
}
