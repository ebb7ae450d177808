//! A [`Gpu`] that is none: it compiles the kernels as C++ and runs every thread as a fiber (`kernels/emulation.h`).
//!
//! Fresh memory holds NaNs, and a write past its ends fails the test that made it. What it cannot show is what differs on a real
//! device: the hardware's rounding of `exp2f`, `erff` and `tanhf`, and the order of sums in cuBLASLt.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use libloading::Library;

use super::gpu::{Arg, Extra, Gpu, Memory, Product};
use super::kernels::{NAMES, SOURCE, Variant};
use crate::error::{Result, bail};

/// Bytes before and after each memory that no kernel may write.
const ZONE: usize = 256;

/// The byte of fresh memory: all numbers made of it are NaN.
const FRESH: u8 = 0xff;

type Launch =
    unsafe extern "C" fn(*const c_char, c_uint, c_uint, *mut *mut c_void, *const c_int, c_int) -> c_int;
type Copy = unsafe extern "C" fn(u64, u64, u64);
type Zero = unsafe extern "C" fn(u64, u64);
type Multiply = unsafe extern "C" fn(*const u64, *const u64, *const u64, *const u64, u64, u64, u64, u64, u64);

#[derive(Debug)]
pub(super) struct Emulator {
    library: Library,
    /// The kernels' shared memory is that of the library: one launch at a time.
    turn: Mutex<()>,
    /// Whether products do what is asked for besides.
    extras: bool,
}

/// Whether the tests run on a real device: the one that the variable `BGE_TEST_DEVICE` names.
pub(crate) fn real() -> Option<usize> {
    let name = std::env::var("BGE_TEST_DEVICE")
        .ok()
        .filter(|_| cfg!(feature = "cuda"))?;
    Some(name.strip_prefix("cuda:").unwrap().parse().unwrap())
}

/// The emulator of a variant, compiled once, or a real device; `None` where there is no C++ compiler.
pub(crate) fn emulator(variant: Variant) -> Option<Arc<dyn Gpu>> {
    #[cfg(feature = "cuda")]
    if let Some(number) = real() {
        let device = super::device::Device::open(number, variant, false).unwrap();
        return Some(Arc::new(device));
    }
    static MADE: Mutex<Vec<(Variant, Arc<Emulator>)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, emulator)) = made.iter().find(|(other, _)| *other == variant) {
        return Some(Arc::clone(emulator) as Arc<dyn Gpu>);
    }
    let emulator = Arc::new(compile(variant)?);
    made.push((variant, Arc::clone(&emulator)));
    Some(emulator)
}

/// An emulator whose products do nothing besides, as those of a library that has no algorithm for it.
pub(super) fn without_extras(variant: Variant) -> Option<Arc<dyn Gpu>> {
    let mut emulator = compile(variant)?;
    emulator.extras = false;
    Some(Arc::new(emulator))
}

#[expect(unsafe_code, reason = "loads a library that was just made")]
fn compile(variant: Variant) -> Option<Emulator> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: `{compiler}`, which compiles the kernels for the CPU, is not there");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (
        folder.path().join("kernels.cpp"),
        folder.path().join("kernels.so"),
    );
    let entries: Vec<String> = NAMES
        .iter()
        .map(|name| format!("EMULATED_ENTRY({name})"))
        .collect();
    let text = [
        include_str!("kernels/emulation.h"),
        SOURCE,
        &format!("\n#define EMULATED_ENTRIES {}\n", entries.join(", ")),
        include_str!("kernels/emulation_end.h"),
    ];
    std::fs::write(&source, text.concat()).unwrap();
    let macros = variant.macros().map(|(name, value)| format!("-D{name}={value}"));
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-ffp-contract=off"])
        .args(halves())
        .args(["-U_FORTIFY_SOURCE", "-fcf-protection=none"])
        .args(macros)
        .arg(&source)
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // SAFETY: the library has no code that runs when it is loaded.
    let library = unsafe { Library::new(&library) }.unwrap();
    Some(Emulator {
        library,
        turn: Mutex::new(()),
        extras: true,
    })
}

/// What lets the compiler use the processor's own conversions of f16, where it has some.
fn halves() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("f16c") {
        return Some("-mf16c");
    }
    None
}

/// Memory with its zones.
struct Guarded {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let zones = [&self.bytes[..self.start], &self.bytes[self.start + self.len..]];
        if !std::thread::panicking() {
            for zone in zones {
                assert!(
                    zone.iter().all(|&byte| byte == FRESH),
                    "a kernel wrote outside of its memory"
                );
            }
        }
    }
}

impl Emulator {
    /// A function of the library.
    #[expect(unsafe_code, reason = "the library's own functions")]
    fn function<F: std::marker::Copy>(&self, name: &[u8]) -> F {
        // SAFETY: the types above are those of `kernels/emulation_end.h`.
        *unsafe { self.library.get::<F>(name) }.unwrap()
    }
}

impl Gpu for Emulator {
    fn name(&self) -> String {
        "an emulated GPU".to_owned()
    }

    fn alloc(&self, len: usize) -> Result<Memory> {
        let bytes = vec![FRESH; len + 3 * ZONE].into_boxed_slice();
        let start = 2 * ZONE - bytes.as_ptr() as usize % ZONE;
        let address = bytes.as_ptr() as u64 + start as u64;
        Ok(Memory::new(Guarded { bytes, start, len }, address, len))
    }

    #[expect(unsafe_code, reason = "addresses")]
    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        // SAFETY: addresses are those that `alloc` gave; a write past them is found.
        unsafe { self.function::<Zero>(b"emulated_zero")(at, bytes as u64) };
        Ok(())
    }

    #[expect(unsafe_code, reason = "addresses")]
    fn upload(&self, at: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.function::<Copy>(b"emulated_copy")(at, bytes.as_ptr() as u64, bytes.len() as u64) };
        Ok(())
    }

    #[expect(unsafe_code, reason = "addresses")]
    fn download(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as above, and the slice is borrowed alone.
        unsafe { self.function::<Copy>(b"emulated_copy")(bytes.as_mut_ptr() as u64, at, bytes.len() as u64) };
        Ok(())
    }

    #[expect(unsafe_code, reason = "runs a kernel")]
    fn launch(&self, kernel: &'static str, [x, y]: [usize; 2], args: &[Arg]) -> Result<()> {
        let mut words: Vec<u64> = args
            .iter()
            .map(|&arg| match arg {
                Arg::Place(x) | Arg::U64(x) => x,
                Arg::U32(x) => u64::from(x),
                Arg::F32(x) => u64::from(x.to_bits()),
            })
            .collect();
        let size = |arg: &Arg| match arg {
            Arg::Place(_) | Arg::U64(_) => 8,
            Arg::U32(_) | Arg::F32(_) => 4,
        };
        let sizes: Vec<c_int> = args.iter().map(size).collect();
        let mut places: Vec<*mut c_void> = words
            .iter_mut()
            .map(|word| std::ptr::from_mut(word).cast())
            .collect();
        let name = CString::new(kernel).unwrap();
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let launch = self.function::<Launch>(b"emulated_launch");
        // SAFETY: as many arguments as the kernel takes, each of its size, or it refuses.
        let code = unsafe {
            launch(
                name.as_ptr(),
                x as c_uint,
                y as c_uint,
                places.as_mut_ptr(),
                sizes.as_ptr(),
                places.len() as c_int,
            )
        };
        match code {
            0 => Ok(()),
            1 => bail!(Internal, "there is no kernel `{kernel}`"),
            2 => bail!(Internal, "`{kernel}` takes other arguments than {args:?}"),
            _ => bail!(Internal, "not all threads of `{kernel}` reach the same barrier"),
        }
    }

    #[expect(unsafe_code, reason = "addresses")]
    fn product(&self, product: Product) -> Result<bool> {
        let call = product.by_columns();
        let matrices = [call.first, call.second, call.out];
        let size = call.size.map(|x| x as u64);
        let places = matrices.map(|matrix| matrix.at);
        let strides = matrices.map(|matrix| matrix.stride as u64);
        let transposed = matrices.map(|matrix| u64::from(matrix.transposed));
        let (bias, sums) = match product.extra {
            Extra::Bias(at) if self.extras => (at, 0),
            Extra::RowSums(at) if self.extras => (0, at),
            _ => (0, 0),
        };
        let multiply = self.function::<Multiply>(b"emulated_product");
        // SAFETY: three numbers in each array; the addresses are the caller's.
        unsafe {
            multiply(
                size.as_ptr(),
                places.as_ptr(),
                strides.as_ptr(),
                transposed.as_ptr(),
                u64::from(product.wide),
                u64::from(product.exact),
                u64::from(product.add),
                bias,
                sums,
            );
        }
        Ok(self.extras)
    }

    fn enter(&self) -> Result<u64> {
        Ok(0)
    }

    fn is_idle(&self) -> Result<bool> {
        Ok(true)
    }

    fn enter_beside(&self) -> Result<u64> {
        Ok(0)
    }

    fn is_idle_beside(&self) -> Result<bool> {
        Ok(true)
    }

    fn identity(&self) -> u64 {
        // Each rank has its own, by its memory: what asks is another.
        static ASKED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        ASKED.fetch_add(1 << 12, std::sync::atomic::Ordering::Relaxed)
    }
}
