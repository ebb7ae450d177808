//! The library itself: its version, and the number of its interface.

use crate::text::bge_str;

/// The number of this interface. It changes when a program must be compiled anew; functions are added without.
pub const BGE_ABI_VERSION: u32 = 1;

/// The version of the library, such as `0.1.0`. Never freed.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_version() -> bge_str<'static> {
    bge_str::of(env!("CARGO_PKG_VERSION"))
}

/// The BGE_ABI_VERSION that the library was built with.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_abi_version() -> u32 {
    BGE_ABI_VERSION
}

/// Does nothing but exist: a program that refers to it does not link with a library of another interface. BGE_CHECK_ABI()
/// calls it, and so do bge.hpp and the Go package.
///
/// Since: 0.1
#[expect(unsafe_code, reason = "the symbol is C's")]
#[unsafe(no_mangle)]
pub extern "C" fn bge_abi_1() {}
