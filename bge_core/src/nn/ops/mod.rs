//! The fused operations on plain slices: forward and hand-written backward, one file each.
//!
//! Shapes: `T` tokens of the whole flat batch, `D` width, `N`/`K` output and input width of a linear map,
//! `H` heads, `L` tokens of one sequence. Everything is row-major `f32`.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod buffer;
#[cfg(test)]
mod checks;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod gemm;
pub(crate) mod late_interaction;
pub(crate) mod lexical;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod norm;
