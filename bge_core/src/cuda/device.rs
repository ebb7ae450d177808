//! A device: the driver, NVRTC and cuBLASLt, found at run time.
//!
//! Nothing here is linked, so that one binary runs on machines with and without a GPU. The libraries are looked for where the
//! system looks for libraries; what is missing is an error that names it.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::{driver, nvrtc};

use super::cache;
use super::gpu::{Arg, Gpu, Memory, Product};
use super::kernels::{NAMES, SOURCE, THREADS, Variant};
use super::lt::{self, Lt};
use crate::error::{Error, ErrorKind, Result, bail};

/// The first architecture whose units multiply bf16 and TF32.
const FIRST: usize = 80;

/// One GPU with the kernels of one model.
pub(crate) struct Device {
    stream: Arc<CudaStream>,
    /// The second line of work.
    #[cfg(any(feature = "nccl", test))]
    beside: Arc<CudaStream>,
    products: Lt,
    functions: BTreeMap<&'static str, CudaFunction>,
    variant: Variant,
    /// Whether products of f32 may round their factors to TF32.
    tf32: bool,
    name: String,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {:?})", self.name, self.variant)
    }
}

/// Whether the compiler of kernels is there.
#[expect(unsafe_code, reason = "opens a library")]
pub(crate) fn has_compiler() -> bool {
    // SAFETY: opening NVIDIA's library runs its initialisers only.
    unsafe { nvrtc::sys::is_culib_present() }
}

/// Refuses to go on where a library is missing: cudarc would panic.
#[expect(unsafe_code, reason = "opens libraries")]
fn check_libraries() -> Result<()> {
    // SAFETY: as above.
    let present = unsafe { [driver::sys::is_culib_present(), has_compiler(), lt::is_here()] };
    let names = [
        "NVIDIA driver (libcuda)",
        "NVRTC (libnvrtc)",
        "cuBLASLt (libcublasLt)",
    ];
    let missing: Vec<&str> = names
        .into_iter()
        .zip(present)
        .filter(|(_, here)| !here)
        .map(|(name, _)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        Device,
        "no CUDA device can be used, as there is no {}; install what is missing or name its folder in LD_LIBRARY_PATH, or run with \
         `--devices cpu`",
        missing.join(", no ")
    )
}

pub(super) fn failed(what: &str, error: DriverError) -> Error {
    let kind = match error.0 {
        driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::OutOfMemory,
        _ => ErrorKind::Device,
    };
    let hint = match kind {
        ErrorKind::OutOfMemory => "; use smaller batches, `--gradient_checkpointing` or `--sub_batch_size`",
        _ => "",
    };
    Error::new(kind, format!("the GPU cannot {what}{hint}")).with_source(error)
}

/// Machine code of all kernels for an architecture (80 is compute capability 8.0).
///
/// Machine code and not PTX, as a driver refuses the PTX of a newer compiler.
#[expect(unsafe_code, reason = "NVRTC is a C library")]
pub(crate) fn compile(variant: Variant, architecture: usize) -> Result<Vec<u8>> {
    use nvrtc::{result, sys};
    struct Program(sys::nvrtcProgram);
    impl Drop for Program {
        fn drop(&mut self) {
            // SAFETY: made below, and freed once.
            let _ = unsafe { result::destroy_program(self.0) };
        }
    }
    let internal = |message: String| Error::new(ErrorKind::Internal, message);
    let stopped = |error: result::NvrtcError| {
        let message = format!(
            "NVRTC cannot compile the kernels for sm_{architecture}; a GPU needs the NVRTC of a CUDA version that knows it, or run \
             with `--devices cpu`"
        );
        Error::new(ErrorKind::Device, message).with_source(error)
    };
    let source = CString::new(SOURCE).map_err(|_| internal("the kernels hold a zero byte".to_owned()))?;
    let program = Program(result::create_program(&source, Some(c"bge.cu")).map_err(stopped)?);
    let options = options(variant, architecture);
    // SAFETY: the program lives; the buffers have the lengths that the library asked for.
    unsafe {
        if let Err(error) = result::compile_program(program.0, &options) {
            let log = result::get_program_log(program.0).map_err(stopped)?;
            let log: Vec<u8> = log
                .iter()
                .map(|&byte| byte as u8)
                .take_while(|&byte| byte != 0)
                .collect();
            return Err(stopped(error).with_source(String::from_utf8_lossy(&log).into_owned()));
        }
        let mut size = 0_usize;
        sys::nvrtcGetCUBINSize(program.0, &raw mut size)
            .result()
            .map_err(stopped)?;
        let mut code = vec![0_u8; size];
        sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast::<c_char>())
            .result()
            .map_err(stopped)?;
        Ok(code)
    }
}

/// What NVRTC is told.
fn options(variant: Variant, architecture: usize) -> Vec<String> {
    let macros = variant.macros().into_iter();
    let mut options: Vec<String> = macros.map(|(name, value)| format!("-D{name}={value}")).collect();
    options.push(format!("--gpu-architecture=sm_{architecture}"));
    options
}

/// The same code from disk, where it was compiled before by the NVRTC that is here.
#[expect(unsafe_code, reason = "NVRTC is a C library")]
pub(crate) fn compiled_before(
    variant: Variant,
    architecture: usize,
    folder: Option<&Path>,
) -> Result<Vec<u8>> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: it writes two numbers.
    let version = unsafe { nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    if version.result().is_err() {
        return compile(variant, architecture);
    }
    let options = options(variant, architecture);
    let version = format!("NVRTC {major}.{minor}");
    let words: Vec<&str> = [SOURCE, &version]
        .into_iter()
        .chain(options.iter().map(String::as_str))
        .collect();
    cache::kept(folder, &words, || compile(variant, architecture))
}

/// The same, once for each variant.
fn compiled(variant: Variant, architecture: usize) -> Result<Vec<u8>> {
    static KNOWN: Mutex<Vec<(Variant, usize, Vec<u8>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., code)) = known
        .iter()
        .find(|entry| (entry.0, entry.1) == (variant, architecture))
    {
        return Ok(code.clone());
    }
    let folder = cache::folder(|name| std::env::var(name).ok());
    let code = compiled_before(variant, architecture, folder.as_deref())?;
    known.push((variant, architecture, code.clone()));
    Ok(code)
}

impl Device {
    /// The GPUs that this process sees.
    pub(crate) fn count() -> Result<usize> {
        check_libraries()?;
        let count = CudaContext::device_count().map_err(|error| {
            let message = "the NVIDIA driver finds no GPU; is one there, and may this process use it? Or run with `--devices cpu`";
            Error::new(ErrorKind::Device, message).with_source(error)
        })?;
        Ok(count.max(0) as usize)
    }

    /// Takes the GPU of a number and compiles the kernels for it.
    pub(crate) fn open(number: usize, variant: Variant, tf32: bool) -> Result<Self> {
        let count = Self::count()?;
        if number >= count {
            bail!(
                Device,
                "there is no `cuda:{number}`: {count} CUDA devices were found; name another, or run with `--devices cpu`"
            );
        }
        let context = CudaContext::new(number).map_err(|error| failed("be opened", error))?;
        let (major, minor) = context
            .compute_capability()
            .map_err(|error| failed("say what it can do", error))?;
        let name = context.name().unwrap_or_else(|_| "a GPU".to_owned());
        let architecture = (major * 10 + minor) as usize;
        if architecture < FIRST {
            bail!(
                Unsupported,
                "`cuda:{number}` ({name}) has compute capability {major}.{minor}; 8.0 (Ampere) or later is needed, or `--devices cpu`"
            );
        }
        keep_freed_memory(&context)?;
        #[expect(unsafe_code, reason = "the driver's settings")]
        // SAFETY: all memory is taken, used and freed in one stream, where nothing has to wait for an event. What runs beside it
        // uses memory that lives on, and is waited for.
        unsafe {
            context.disable_event_tracking();
        }
        let code = compiled(variant, architecture)?;
        let module = context
            .load_module(nvrtc::Ptx::from_binary(code))
            .map_err(|error| failed("load the kernels", error))?;
        let function = |&name: &&'static str| {
            let function = module.load_function(name);
            Ok((name, function.map_err(|error| failed("find a kernel", error))?))
        };
        let functions = NAMES.iter().map(function).collect::<Result<_>>()?;
        let stream = context.default_stream();
        #[cfg(any(feature = "nccl", test))]
        let beside = context
            .new_stream()
            .map_err(|error| failed("begin a second line of work", error))?;
        let products = Lt::new(Arc::clone(&stream), major)?;
        Ok(Self {
            name: format!("cuda:{number} ({name})"),
            stream,
            #[cfg(any(feature = "nccl", test))]
            beside,
            products,
            functions,
            variant,
            tf32,
        })
    }

    /// Whether all work of one of its streams is done.
    #[cfg(any(feature = "nccl", test))]
    #[expect(unsafe_code, reason = "the driver is a C library")]
    fn is_done(&self, stream: &CudaStream) -> Result<bool> {
        self.bound()?;
        // SAFETY: the device's own stream.
        match unsafe { driver::sys::cuStreamQuery(stream.cu_stream()) } {
            driver::sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => code
                .result()
                .map(|()| true)
                .map_err(|error| failed("finish its work", error)),
        }
    }

    fn bound(&self) -> Result<()> {
        let bound = self.stream.context().bind_to_thread();
        bound.map_err(|error| failed("be used by this thread", error))
    }
}

/// Keeps what is freed for the next allocation: each step needs the same again.
#[expect(unsafe_code, reason = "the driver's settings")]
fn keep_freed_memory(context: &CudaContext) -> Result<()> {
    use driver::{result, sys};
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    // SAFETY: the context's own device and its pool; the attribute is a 64-bit number.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device());
        pool.and_then(|pool| {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut all).cast::<c_void>())
        })
    }
    .map_err(|error| failed("keep freed memory", error))
}

impl Gpu for Device {
    fn name(&self) -> String {
        self.name.clone()
    }

    #[expect(unsafe_code, reason = "memory that is not cleared")]
    fn alloc(&self, bytes: usize) -> Result<Memory> {
        // SAFETY: plain bytes; every kernel writes its output whole before anyone reads it.
        let slice = unsafe { self.stream.alloc::<u8>(bytes.max(1)) };
        let slice = slice.map_err(|error| failed(&format!("give {bytes} bytes"), error))?;
        let address = slice.device_ptr(&self.stream).0;
        Ok(Memory::new(slice, address, bytes))
    }

    #[expect(unsafe_code, reason = "addresses")]
    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bound()?;
        // SAFETY: the caller's memory, which lives until what is in the stream is done.
        unsafe { driver::result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }
            .map_err(|error| failed("clear memory", error))
    }

    #[expect(unsafe_code, reason = "addresses")]
    fn upload(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bound()?;
        // SAFETY: as above; a copy from pageable memory has read it when the call returns.
        unsafe { driver::result::memcpy_htod_async(at, bytes, self.stream.cu_stream()) }
            .map_err(|error| failed("take numbers", error))
    }

    #[expect(unsafe_code, reason = "addresses")]
    fn download(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bound()?;
        // SAFETY: as above; the slice is borrowed until the stream is done.
        unsafe { driver::result::memcpy_dtoh_async(bytes, at, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(|error| failed("give numbers back", error))
    }

    #[expect(unsafe_code, reason = "runs a kernel")]
    fn launch(&self, kernel: &'static str, [x, y]: [usize; 2], args: &[Arg]) -> Result<()> {
        if x == 0 || y == 0 {
            return Ok(());
        }
        let Some(function) = self.functions.get(kernel) else {
            bail!(Internal, "there is no kernel `{kernel}`");
        };
        let mut builder = self.stream.launch_builder(function);
        for arg in args {
            match arg {
                Arg::Place(x) | Arg::U64(x) => builder.arg(x),
                Arg::U32(x) => builder.arg(x),
                Arg::F32(x) => builder.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the tests run every kernel with these arguments under the emulator, which checks their number and sizes.
        unsafe { builder.launch(config) }.map_err(|error| failed(&format!("run `{kernel}`"), error))?;
        Ok(())
    }

    fn product(&self, product: Product) -> Result<bool> {
        self.bound()?;
        self.products.product(&product, self.variant.storage, self.tf32)
    }

    #[cfg(any(feature = "nccl", test))]
    fn enter(&self) -> Result<u64> {
        self.bound()?;
        Ok(self.stream.cu_stream() as u64)
    }

    #[cfg(any(feature = "nccl", test))]
    fn is_idle(&self) -> Result<bool> {
        self.is_done(&self.stream)
    }

    #[cfg(any(feature = "nccl", test))]
    fn enter_beside(&self) -> Result<u64> {
        self.bound()?;
        let waits = self.beside.join(&self.stream);
        waits.map_err(|error| failed("wait for its own work", error))?;
        Ok(self.beside.cu_stream() as u64)
    }

    #[cfg(any(feature = "nccl", test))]
    fn is_idle_beside(&self) -> Result<bool> {
        self.is_done(&self.beside)
    }

    #[cfg(any(feature = "nccl", test))]
    fn identity(&self) -> u64 {
        let uuid = self.stream.context().uuid();
        let bytes = uuid.map(|uuid| uuid.bytes).unwrap_or_default();
        bytes
            .iter()
            .fold(0, |sum, &byte| crate::random::mix(sum ^ u64::from(byte as u8)))
    }
}
