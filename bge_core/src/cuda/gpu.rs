//! What a GPU does for us: memory, kernels by name, and products of matrices.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::error::Result;

/// How numbers are stored; they are computed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Storage {
    F32,
    Bf16,
    F16,
}

impl Storage {
    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Memory of a GPU, freed when it is dropped and what was asked of it before is done.
pub(crate) struct Memory {
    /// Its owner, which frees it.
    #[expect(dead_code, reason = "held to be dropped")]
    owner: Box<dyn Any + Send + Sync>,
    address: u64,
    bytes: usize,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes)
    }
}

impl Memory {
    pub(crate) fn new(owner: impl Any + Send + Sync, address: u64, bytes: usize) -> Self {
        Self {
            owner: Box::new(owner),
            address,
            bytes,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// The place `bytes` after the start; of memory for nothing, any.
    pub(crate) fn at(&self, bytes: usize) -> u64 {
        debug_assert!(bytes <= self.bytes || self.bytes == 0);
        self.address + bytes as u64
    }
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arg {
    /// A place in memory.
    Place(u64),
    U64(u64),
    U32(u32),
    F32(f32),
}

impl From<&Memory> for Arg {
    fn from(memory: &Memory) -> Self {
        Self::Place(memory.address)
    }
}

impl From<Option<&Memory>> for Arg {
    fn from(memory: Option<&Memory>) -> Self {
        Self::Place(memory.map_or(0, Memory::address))
    }
}

impl From<u32> for Arg {
    fn from(x: u32) -> Self {
        Self::U32(x)
    }
}

impl From<u64> for Arg {
    fn from(x: u64) -> Self {
        Self::U64(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Self::F32(x)
    }
}

/// A row-major matrix in memory, read as it is or transposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) at: u64,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    pub(crate) transposed: bool,
}

impl Matrix {
    pub(crate) fn new(at: u64, stride: usize) -> Self {
        Self {
            at,
            stride,
            transposed: false,
        }
    }

    pub(crate) fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }
}

/// `out [m, n] = a [m, k] × b [k, n]`, or added to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) size: [usize; 3],
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) out: Matrix,
    /// Whether `out` is f32 and not of the storage type, which `a` and `b` have.
    pub(crate) wide: bool,
    /// Whether `a` and `b` are f32 too, and multiplied as such.
    pub(crate) exact: bool,
    pub(crate) add: bool,
    pub(crate) extra: Extra,
}

/// What a product does besides, while its numbers are at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    Nothing,
    /// Adds a vector `[n]` of the type of `out` to each of its rows.
    Bias(u64),
    /// Writes what each row of `a` adds up to, `[m]` of the type of `out`.
    RowSums(u64),
}

/// The same as BLAS has it, whose matrices are by columns: `outᵀ [n, m] = first [n, k] × second [k, m]`, each transposed or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByColumns {
    /// n, m and k.
    pub(crate) size: [usize; 3],
    pub(crate) first: Matrix,
    pub(crate) second: Matrix,
    pub(crate) out: Matrix,
}

impl Product {
    /// A matrix by rows is its transpose by columns, with the same stride: the factors change places, and nothing else.
    pub(crate) fn by_columns(&self) -> ByColumns {
        let [m, n, k] = self.size;
        ByColumns {
            size: [n, m, k],
            first: self.b,
            second: self.a,
            out: self.out,
        }
    }
}

/// A GPU with the kernels of one model. Calls return before their work is done and are done in order.
pub(crate) trait Gpu: fmt::Debug + Send + Sync {
    /// What it is, for a person.
    fn name(&self) -> String;

    /// Memory whose contents mean nothing.
    fn alloc(&self, bytes: usize) -> Result<Memory>;

    fn zero(&self, at: u64, bytes: usize) -> Result<()>;

    fn upload(&self, at: u64, bytes: &[u8]) -> Result<()>;

    /// Copies out what is there when everything before is done.
    fn download(&self, at: u64, bytes: &mut [u8]) -> Result<()>;

    /// Runs a kernel on a grid of blocks; a grid without blocks is nothing.
    fn launch(&self, kernel: &'static str, grid: [usize; 2], args: &[Arg]) -> Result<()>;

    /// Returns whether its extra was done with it: what cannot do both does the product alone.
    fn product(&self, product: Product) -> Result<bool>;

    /// Makes it the GPU of this thread for other libraries, and says in which stream its work is done.
    #[cfg(any(feature = "nccl", test))]
    fn enter(&self) -> Result<u64>;

    /// Whether everything before is done.
    #[cfg(any(feature = "nccl", test))]
    fn is_idle(&self) -> Result<bool>;

    /// As [`Gpu::enter`] for a second line of work, in which what follows waits for everything before in the first, and runs beside
    /// what comes after.
    #[cfg(any(feature = "nccl", test))]
    fn enter_beside(&self) -> Result<u64>;

    /// Whether everything in the second line of work is done.
    #[cfg(any(feature = "nccl", test))]
    fn is_idle_beside(&self) -> Result<bool>;

    /// A number that no other device has.
    #[cfg(any(feature = "nccl", test))]
    fn identity(&self) -> u64;
}

/// Numbers that have a plain form in memory.
pub(crate) trait Plain: Copy + Default {
    fn bytes(values: &[Self]) -> &[u8];
    fn bytes_mut(values: &mut [Self]) -> &mut [u8];
}

macro_rules! plain {
    ($($name:ty),*) => {$(
        impl Plain for $name {
            #[expect(unsafe_code, reason = "numbers are bytes")]
            fn bytes(values: &[Self]) -> &[u8] {
                // SAFETY: the memory of the slice, all of it initialised and without padding; bytes have no alignment.
                unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
            }

            #[expect(unsafe_code, reason = "numbers are bytes")]
            fn bytes_mut(values: &mut [Self]) -> &mut [u8] {
                // SAFETY: as above, borrowed alone, and any bytes are a number.
                unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
            }
        }
    )*};
}
plain!(f32, f64, u8, u16, u32, u64);

/// Memory that holds these values.
pub(crate) fn memory_of<T: Plain>(gpu: &Arc<dyn Gpu>, values: &[T]) -> Result<Memory> {
    let memory = gpu.alloc(size_of_val(values))?;
    gpu.upload(memory.address(), T::bytes(values))?;
    Ok(memory)
}

/// `count` values from a place in memory.
pub(crate) fn read_values<T: Plain>(gpu: &Arc<dyn Gpu>, at: u64, count: usize) -> Result<Vec<T>> {
    let mut values = vec![T::default(); count];
    gpu.download(at, T::bytes_mut(&mut values))?;
    Ok(values)
}
