//! The kernels compiled by NVRTC, where its library is there.

use super::*;
use crate::cuda::device::{compile, compiled_before};

#[test]
fn nvrtc_compiles_every_kernel_for_every_architecture() {
    if !crate::cuda::device::has_compiler() {
        eprintln!("skipped: NVRTC is not there (a Python wheel has it: `pip install nvidia-cuda-nvrtc`)");
        return;
    }
    // Widths and heads of the BGE models, and those that take the way around the tensor cores.
    for (storage, width, heads, architectures) in [
        (Storage::F32, 1024, 16, [80, 90].as_slice()),
        (Storage::Bf16, 384, 12, &[80, 90]),
        (Storage::F16, 1024, 16, &[80]),
        (Storage::Bf16, 512, 4, &[90]),
        (Storage::F32, 21, 3, &[80]),
    ] {
        let variant = Variant::new(storage, width, heads).unwrap();
        for &architecture in architectures {
            let code = compile(variant, architecture).unwrap();
            assert_eq!(
                &code[..4],
                b"\x7fELF",
                "{variant:?} for sm_{architecture} is no machine code"
            );
        }
    }
}

#[test]
fn nvrtc_compiles_once_for_each_variant_and_architecture() {
    if !crate::cuda::device::has_compiler() {
        eprintln!("skipped: NVRTC is not there");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(place.path()).unwrap().count();
    let get = |storage, architecture| {
        let variant = Variant::new(storage, 21, 3).unwrap();
        compiled_before(variant, architecture, Some(place.path())).unwrap()
    };
    let first = get(Storage::F32, 80);
    assert_eq!(&first[..4], b"\x7fELF");
    assert_eq!((get(Storage::F32, 80), files()), (first.clone(), 1));
    assert_ne!(get(Storage::F32, 90), first);
    assert_ne!(get(Storage::Bf16, 80), first);
    assert_eq!(files(), 3);
}

#[test]
fn a_machine_without_a_gpu_is_told_so_and_the_way_out() {
    let variant = Variant::new(Storage::F32, 384, 12).unwrap();
    let Err(error) = crate::cuda::Device::open(9999, variant, false) else {
        panic!("there is no device 9999");
    };
    assert_eq!(error.kind(), crate::ErrorKind::Device, "{error}");
    assert!(error.to_string().contains("--devices cpu"), "{error}");
}
