//! An encoder on an NVIDIA GPU: kernels, the passes over them, and the optimizer.
//!
//! The kernels are CUDA C (`kernels/*.cu`), compiled when a model is opened, by NVRTC: no one needs nvcc, and the code is made
//! for the very GPU and the very widths. Everything above them speaks to a [`gpu::Gpu`], of which there are two: a device, through
//! the driver and cuBLASLt (`device.rs`, `lt.rs`, feature `cuda`), and in tests an emulation that compiles the same kernels as C++ and runs
//! every thread of a block as a fiber. So the tests of forward, backward and optimizer need no GPU.
//!
//! A batch is flat and has no padding, as on the CPU; dropout draws the same masks, and weights have the same names and order.

#[cfg_attr(
    not(feature = "train"),
    expect(dead_code, reason = "only training shares weights out")
)]
mod blocks;
mod cache;
mod encoder;
pub(crate) mod gpu;
mod gradients;
pub(crate) mod kernels;
mod layer;
mod layout;
mod ops;
mod pieces;
#[cfg(any(feature = "cuda", test))]
mod products;
mod store;

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod lt;
#[cfg(feature = "train")]
mod optimizer;
#[cfg(feature = "train")]
mod scores;

#[cfg(test)]
mod checks;
#[cfg(test)]
pub(crate) mod emulator;
#[cfg(test)]
pub(crate) mod metered;

pub(crate) use blocks::Share;
#[cfg(feature = "train")]
pub(crate) use blocks::{Joint, TURNS};
#[cfg(feature = "cuda")]
pub(crate) use device::Device;
pub(crate) use encoder::{Encoder, Input, Outcome, Record, Sizes};
#[cfg(feature = "train")]
pub(crate) use layout::flat_floats;
#[cfg(feature = "train")]
pub(crate) use optimizer::{Betas, Optimizer, Update};
#[cfg(feature = "train")]
pub(crate) use scores::Rows;
