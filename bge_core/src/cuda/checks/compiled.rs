//! The kernels compiled by NVRTC, where its library is there.

use super::*;
use crate::cuda::device::compile;

#[test]
fn nvrtc_compiles_every_kernel_for_every_architecture() {
    if !crate::cuda::device::has_compiler() {
        eprintln!("skipped: NVRTC is not there (a Python wheel has it: `pip install nvidia-cuda-nvrtc`)");
        return;
    }
    let mut variants = Vec::new();
    for storage in [Storage::F32, Storage::Bf16, Storage::F16] {
        for (width, heads) in [(384, 12), (1024, 16)] {
            variants.push(Variant::new(storage, width, heads).unwrap());
        }
    }
    variants.push(Variant::new(Storage::Bf16, 512, 4).unwrap());
    variants.push(Variant::new(Storage::F32, 21, 3).unwrap());
    for variant in variants {
        for architecture in [80, 90] {
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
fn a_machine_without_a_gpu_is_told_so_and_the_way_out() {
    let variant = Variant::new(Storage::F32, 384, 12).unwrap();
    let Err(error) = crate::cuda::Device::open(9999, variant, false) else {
        panic!("there is no device 9999");
    };
    assert_eq!(error.kind(), crate::ErrorKind::Device, "{error}");
    assert!(error.to_string().contains("--devices cpu"), "{error}");
}
