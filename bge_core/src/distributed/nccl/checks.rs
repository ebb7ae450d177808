//! The line through GPUs over emulated ones and a NCCL that is none.

use super::*;
use crate::cuda::emulator::{emulator, real};
use crate::cuda::gpu::Storage;
use crate::cuda::kernels::Variant;
use crate::distributed::checks::{every_call, on_threads};
use crate::distributed::{ThreadGroup, ThreadRank};
use crate::error::ErrorKind;

const LIMIT: Duration = Duration::from_mins(10);

/// Runs `work` on ranks whose GPUs reach each other, but for those that have no NCCL.
fn ranks<T: Send>(
    size: usize,
    limit: Duration,
    without: &[usize],
    work: impl Fn(&Nccl) -> Result<T> + Sync,
) -> Option<Result<Vec<T>>> {
    if real().is_some() {
        return None; // what stands for NCCL cannot reach the memory of a device
    }
    let gpu = emulator(Variant::new(Storage::F32, 96, 3).unwrap())?;
    let lines = ThreadGroup::create(size, LIMIT).unwrap();
    let open = |line: ThreadRank| {
        let there = !without.contains(&line.rank());
        let nvidia = there.then(super::fake::nvidia);
        let nvidia = nvidia.ok_or_else(|| "there is no NCCL; install it".to_owned());
        Ok(Arc::new(Nccl::over(
            Arc::new(line),
            Arc::clone(&gpu),
            nvidia,
            limit,
        )))
    };
    Some(on_threads(lines, open, |nccl| work(nccl)).into_iter().collect())
}

#[test]
fn every_call_is_that_of_the_line_below() {
    for without in [&[][..], &[1]] {
        let result = ranks(3, LIMIT, without, |nccl| {
            assert_eq!(nccl.reaches()?, without.is_empty());
            let obstacle = nccl.obstacle()?;
            match (without, nccl.rank()) {
                ([], _) => assert_eq!(obstacle, None),
                (_, 1) => assert_eq!(obstacle.as_deref(), Some("there is no NCCL; install it")),
                _ => assert_eq!(obstacle.as_deref(), Some("rank 1 has no NCCL")),
            }
            every_call(nccl)
        });
        if let Some(result) = result {
            result.unwrap();
        }
    }
}

#[test]
fn floats_on_the_gpus_are_summed_and_shared_where_they_are() {
    let result = ranks(2, LIMIT, &[], |nccl| {
        assert!(nccl.reaches()?);
        let memory = memory_of(
            &nccl.gpu,
            &[1.0_f32, 2.0, 3.0].map(|x| x * (nccl.rank() + 1) as f32),
        )?;
        nccl.sum(memory.at(4), 2, NumberType::Fp32)?;
        let got: Vec<f32> = read_values(&nccl.gpu, memory.address(), 3)?;
        assert_eq!(got, [(nccl.rank() + 1) as f32, 6.0, 9.0]);
        let beside = memory_of(&nccl.gpu, &[1.5_f32, 2.5])?;
        nccl.begin_sum(beside.at(4), 1, NumberType::Fp32)?;
        nccl.begin_sum(beside.address(), 1, NumberType::Fp32)?;
        nccl.finish()?;
        let got: Vec<f32> = read_values(&nccl.gpu, beside.address(), 2)?;
        assert_eq!(got, [3.0, 5.0]);
        nccl.sum_on(0, memory.at(8), 1, NumberType::Fp32)?;
        let got: Vec<f32> = read_values(&nccl.gpu, memory.at(8), 1)?;
        assert_eq!(got, [if nccl.rank() == 0 { 18.0 } else { 9.0 }]);
        nccl.share(1, memory.address(), memory.address(), 1)?;
        let got: Vec<f32> = read_values(&nccl.gpu, memory.address(), 3)?;
        assert_eq!(got[..2], [2.0, 6.0]);
        // Pairs of 16 bits go to another place as they are, also where a float would not be a number.
        let pairs = memory_of(&nccl.gpu, &[0x7fa0_0001 + nccl.rank() as u32, 0x8000])?;
        let to = memory_of(&nccl.gpu, &[0_u32; 2])?;
        nccl.share(0, pairs.address(), to.address(), 2)?;
        let got: Vec<u32> = read_values(&nccl.gpu, to.address(), 2)?;
        assert_eq!(got, [0x7fa0_0001, 0x8000]);
        Ok(())
    });
    if let Some(result) = result {
        result.unwrap();
    }
}

#[test]
fn a_rank_that_does_not_come_ends_all_at_the_limit() {
    let result = ranks(2, Duration::from_millis(300), &[], |nccl| {
        assert!(nccl.reaches()?);
        if nccl.rank() == 1 {
            // Waits on the line below, as a rank that has lost its place.
            return nccl.barrier();
        }
        nccl.all_reduce(&mut [1.0], NumberType::Fp32)
    });
    if let Some(result) = result {
        let text = result.unwrap_err().to_string();
        assert!(
            text.contains("rank 0 waited 300ms") && text.contains("AllReduce"),
            "{text}"
        );
    }
}

#[test]
fn a_rank_that_waits_in_nccl_hears_the_first_failure() {
    let result = ranks(2, LIMIT, &[], |nccl| {
        assert!(nccl.reaches()?);
        if nccl.rank() == 1 {
            return Err(Error::new(ErrorKind::Io, "the disk is full"));
        }
        let error = nccl.all_reduce(&mut [1.0], NumberType::Fp32).unwrap_err();
        assert!(nccl.all_reduce(&mut [1.0], NumberType::Fp32).is_err());
        Err::<(), _>(error)
    });
    if let Some(result) = result {
        let text = result.unwrap_err().to_string();
        assert!(
            text.contains("rank 1 failed: ") && text.contains("the disk is full"),
            "{text}"
        );
    }
}

#[test]
fn the_settings_and_types_have_the_form_of_version_2_14() {
    let codes: Vec<_> = NumberType::ALL.iter().map(|&of| library::code(of)).collect();
    assert_eq!(codes, [7, 6, 9]); // float32, float16, bfloat16 of `nccl.h`
    assert_eq!(size_of::<library::Config>(), 24);
    assert_eq!(size_of::<Id>(), ID_BYTES);
}

#[cfg(feature = "nccl")]
#[test]
fn the_library_has_the_functions_that_are_used_and_makes_ids_without_a_gpu() {
    match Nvidia::open() {
        Ok(nvidia) => assert_ne!(nvidia.id().unwrap().0, nvidia.id().unwrap().0),
        Err(error) => {
            eprintln!("skipped: NCCL is not there (a Python wheel has it: `pip install nvidia-nccl-cu13`)");
            assert!(error.to_string().contains("LD_LIBRARY_PATH"), "{error}");
        }
    }
}
