//! NCCL's functions, found at run time, and a communicator of theirs.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::Arc;

use libloading::Library;

use crate::config::NumberType;
#[cfg(feature = "nccl")]
use crate::error::{Error, ErrorKind};
use crate::error::{Result, bail};

/// The names of the library: that of its packages, and that of its development files.
#[cfg(feature = "nccl")]
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// NCCL's own results.
pub(super) const SUCCESS: c_int = 0;
pub(super) const IN_PROGRESS: c_int = 7;

/// `ncclSum`.
const SUM: c_int = 0;

/// `ncclFloat32`, `ncclFloat16` and `ncclBfloat16`.
pub(super) const fn code(travels: NumberType) -> c_int {
    match travels {
        NumberType::Fp32 => 7,
        NumberType::Fp16 => 6,
        NumberType::Bf16 => 9,
    }
}

/// Bytes of what all ranks must know to find each other.
pub(super) const ID_BYTES: usize = 128;

/// What all ranks must know to find each other.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Id(pub(super) [u8; ID_BYTES]);

/// The first fields of `ncclConfig_t`, as version 2.14 had them; NCCL takes the rest as not given.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

impl Config {
    /// Calls that return before they are done, so that waiting for them has a limit.
    fn without_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21400,
            blocking: 0,
        }
    }
}

/// `ncclComm_t`.
pub(super) type Handle = *mut c_void;
type Stream = *mut c_void;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> c_int;

/// The functions that are used, under NCCL's names without their `nccl`.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    pub(super) get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    pub(super) get_unique_id: unsafe extern "C" fn(*mut Id) -> c_int,
    pub(super) comm_init_rank_config:
        unsafe extern "C" fn(*mut Handle, c_int, Id, c_int, *mut Config) -> c_int,
    pub(super) comm_get_async_error: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    pub(super) comm_abort: unsafe extern "C" fn(Handle) -> c_int,
    pub(super) all_reduce: Reduce,
    pub(super) reduce:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, Handle, Stream) -> c_int,
    pub(super) reduce_scatter: Reduce,
    pub(super) all_gather:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, Stream) -> c_int,
    pub(super) broadcast:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> c_int,
}

/// The library.
pub(super) struct Nvidia {
    functions: Functions,
    /// Where the functions are.
    _library: Option<Library>,
}

impl fmt::Debug for Nvidia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nvidia")
    }
}

impl Nvidia {
    /// Opens the library where the system looks for libraries.
    #[cfg(feature = "nccl")]
    #[expect(unsafe_code, reason = "opens NVIDIA's library")]
    pub(super) fn open() -> Result<Self> {
        // SAFETY: opening it runs its initialisers only.
        let library = NAMES
            .into_iter()
            .find_map(|name| unsafe { Library::new(name) }.ok());
        let Some(library) = library else {
            bail!(
                Device,
                "there is no NCCL ({}); install it or name its folder in LD_LIBRARY_PATH",
                NAMES.join(", ")
            );
        };
        macro_rules! found {
            ($name:literal) => {{
                // SAFETY: the types above are those of `nccl.h`, and the library is kept as long as they are.
                let function = unsafe { library.get($name) };
                *function.map_err(|error| {
                    let name = $name.trim_ascii_end();
                    let name = String::from_utf8_lossy(name).into_owned();
                    let message = format!("NCCL has no `{name}`; version 2.14 or later is needed");
                    Error::new(ErrorKind::Device, message).with_source(error)
                })?
            }};
        }
        let functions = Functions {
            get_error_string: found!(b"ncclGetErrorString"),
            get_unique_id: found!(b"ncclGetUniqueId"),
            comm_init_rank_config: found!(b"ncclCommInitRankConfig"),
            comm_get_async_error: found!(b"ncclCommGetAsyncError"),
            comm_abort: found!(b"ncclCommAbort"),
            all_reduce: found!(b"ncclAllReduce"),
            reduce: found!(b"ncclReduce"),
            reduce_scatter: found!(b"ncclReduceScatter"),
            all_gather: found!(b"ncclAllGather"),
            broadcast: found!(b"ncclBroadcast"),
        };
        Ok(Self {
            functions,
            _library: Some(library),
        })
    }

    /// A library that is none.
    #[cfg(test)]
    pub(super) fn of(functions: Functions) -> Self {
        Self {
            functions,
            _library: None,
        }
    }

    /// A new world's id, of which rank 0 makes one for all.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    pub(super) fn id(&self) -> Result<Id> {
        let mut id = Id([0; ID_BYTES]);
        // SAFETY: it writes the bytes of an id.
        self.checked(unsafe { (self.functions.get_unique_id)(&raw mut id) })?;
        Ok(id)
    }

    /// Refuses a result that is neither success nor work under way.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    fn checked(&self, code: c_int) -> Result<()> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: a constant text of the library, or nothing.
        let text = unsafe {
            let text = (self.functions.get_error_string)(code);
            if text.is_null() {
                "unknown".into()
            } else {
                CStr::from_ptr(text).to_string_lossy()
            }
        };
        bail!(
            Distributed,
            "NCCL failed ({text}); NCCL_DEBUG=WARN makes it say more"
        )
    }
}

/// A collective over numbers in the memory of the GPUs; places are addresses there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Collective {
    /// From, to, count.
    AllReduce(u64, u64, usize),
    /// Root, which gets the sums, place, count.
    Reduce(usize, u64, usize),
    /// From, to, numbers of each block.
    ReduceScatter(u64, u64, usize),
    /// From, to, numbers of each block.
    AllGather(u64, u64, usize),
    /// Root, from, to, count.
    Broadcast(usize, u64, u64, usize),
}

/// One rank's end of a world of NCCL.
#[derive(Debug)]
pub(super) struct Comm {
    nvidia: Arc<Nvidia>,
    handle: Handle,
}

#[expect(unsafe_code, reason = "a pointer")]
// SAFETY: NCCL lets any thread use a communicator, one at a time, and whoever has it has it alone.
unsafe impl Send for Comm {}

impl Comm {
    /// Begins to meet the other ranks of a world, on the GPU of this thread.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    pub(super) fn begin(nvidia: Arc<Nvidia>, size: usize, rank: usize, id: Id) -> Result<Self> {
        let mut handle: Handle = std::ptr::null_mut();
        let mut config = Config::without_blocking();
        // SAFETY: both are there during the call, and NCCL copies the settings.
        let code = unsafe {
            let init = nvidia.functions.comm_init_rank_config;
            init(&raw mut handle, size as c_int, id, rank as c_int, &raw mut config)
        };
        nvidia.checked(code)?;
        Ok(Self { nvidia, handle })
    }

    /// Whether NCCL is done with what it was told; what went wrong is an error.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    pub(super) fn is_settled(&self) -> Result<bool> {
        let mut state = SUCCESS;
        // SAFETY: the communicator lives as long as this does.
        let code = unsafe { (self.nvidia.functions.comm_get_async_error)(self.handle, &raw mut state) };
        self.nvidia.checked(code)?;
        self.nvidia.checked(state)?;
        Ok(state == SUCCESS)
    }

    /// Puts a collective over numbers of a type into the line of a GPU's work.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    pub(super) fn run(&self, collective: Collective, of: NumberType, stream: u64) -> Result<()> {
        let of = code(of);
        let (functions, stream, comm) = (&self.nvidia.functions, stream as Stream, self.handle);
        // SAFETY: the caller's memory, which lives until the line of work is done.
        let code = unsafe {
            match collective {
                Collective::AllReduce(from, to, count) => {
                    (functions.all_reduce)(from as _, to as _, count, of, SUM, comm, stream)
                }
                Collective::Reduce(root, at, count) => {
                    let root = root as c_int;
                    (functions.reduce)(at as _, at as _, count, of, SUM, root, comm, stream)
                }
                Collective::ReduceScatter(from, to, count) => {
                    (functions.reduce_scatter)(from as _, to as _, count, of, SUM, comm, stream)
                }
                Collective::AllGather(from, to, count) => {
                    (functions.all_gather)(from as _, to as _, count, of, comm, stream)
                }
                Collective::Broadcast(root, from, to, count) => {
                    (functions.broadcast)(from as _, to as _, count, of, root as c_int, comm, stream)
                }
            }
        };
        self.nvidia.checked(code)
    }

    /// Stops what it does, and frees it.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    pub(super) fn abort(self) {
        // SAFETY: nobody has it any more.
        let _ = unsafe { (self.nvidia.functions.comm_abort)(self.handle) };
    }
}
