//! The kernels against the operations of the CPU, emulated.

mod attention;
#[cfg(feature = "cuda")]
mod compiled;
mod decoder;
mod norms;
mod optimizer;
mod products;
mod rows;

use super::emulator::emulator;
use super::gpu::{Memory, Storage, memory_of, read_values};
use super::kernels::{THREADS, Variant};
use super::ops::Ops;
use crate::nn::ops::dropout::Dropout;
use crate::random::Draws;

/// The kernels of a variant; `None` where they cannot be emulated.
fn machine(storage: Storage, width: usize, heads: usize) -> Option<Ops> {
    let variant = Variant::new(storage, width, heads).unwrap();
    Some(Ops {
        gpu: emulator(variant)?,
        variant,
    })
}

/// Normal draws.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut draws = Draws::new(seed);
    (0..count).map(|_| draws.normal() as f32).collect()
}

fn floats(ops: &Ops, values: &[f32]) -> Memory {
    memory_of(&ops.gpu, values).unwrap()
}

/// Numbers in the storage type.
fn elements(ops: &Ops, values: &[f32]) -> Memory {
    let wide = floats(ops, values);
    let out = ops.elements(values.len(), 1).unwrap();
    let args = [(&wide).into(), (values.len() as u64).into(), (&out).into()];
    let grid = [values.len().div_ceil(THREADS), 1];
    ops.gpu.launch("narrow", grid, &args).unwrap();
    out
}

/// Numbers of the storage type.
fn read_elements(ops: &Ops, at: u64, count: usize) -> Vec<f32> {
    let out = ops.floats(count).unwrap();
    let args = [super::gpu::Arg::Place(at), (count as u64).into(), (&out).into()];
    ops.gpu
        .launch("widen", [count.div_ceil(THREADS), 1], &args)
        .unwrap();
    read_values(&ops.gpu, out.address(), count).unwrap()
}

/// What the storage type makes of these numbers.
fn stored(ops: &Ops, values: &[f32]) -> Vec<f32> {
    read_elements(ops, elements(ops, values).address(), values.len())
}

/// Where a test differs from the CPU by more than `tolerance`, relative to the number or to 1.
#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (got - want).abs();
        assert!(
            difference <= tolerance * want.abs().max(1.0),
            "{what}: {got} is not {want} at {at}"
        );
    }
}

/// The tolerance of a storage type for sums of numbers about 1.
fn tolerance(storage: Storage) -> f32 {
    match storage {
        Storage::F32 => 1e-5,
        Storage::F16 => 4e-3,
        Storage::Bf16 => 2e-2,
    }
}

/// A dropout of three tenths, or none, and the identities of `count` rows.
fn dropout(on: bool, count: usize) -> (Option<Dropout>, Vec<u64>) {
    let identities = (0..count as u64).map(|i| ((i / 7) << 32) | (i % 7)).collect();
    (Dropout::new(if on { 0.3 } else { 0.0 }, 99), identities)
}

#[test]
fn storage_types_round_to_the_nearest_even() {
    let values = [
        0.0,
        -1.5,
        1.003_906_3,
        1.011_718_8,
        1e-30,
        3.4e38,
        f32::INFINITY,
        f32::NAN,
    ];
    if let Some(ops) = machine(Storage::Bf16, 96, 3) {
        let want = values.map(|x| half::bf16::from_f32(x).to_f32());
        assert_eq!(
            stored(&ops, &values)
                .iter()
                .map(|x| x.to_bits() >> 16)
                .collect::<Vec<_>>(),
            want.iter().map(|x| x.to_bits() >> 16).collect::<Vec<_>>()
        );
    }
    if let Some(ops) = machine(Storage::F16, 64, 1) {
        let values = [0.0, -1.5, 1.000_488_3, 1.001_464_8, 6e-8, 65504.0, 1e6];
        let want = values.map(|x| half::f16::from_f32(x).to_f32());
        assert_eq!(stored(&ops, &values), want);
    }
}
