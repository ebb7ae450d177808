//! Products through cuBLASLt: descriptors, the choice of an algorithm, the workspace.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::gpu::{Extra, Product, Storage};
use super::products::{Answers, Call, Epilogue, MOST, Operand};
use crate::error::{Error, ErrorKind, Result, bail};

use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Preference;

/// cuBLASLt on one device, for products in one stream: they share a workspace.
pub(super) struct Lt {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: CudaSlice<u8>,
    /// The algorithm of each call; `None` where there is none.
    algorithms: Mutex<Answers<Option<sys::cublasLtMatmulAlgo_t>>>,
}

// SAFETY: NVIDIA promises that a handle may be used by several threads.
#[expect(unsafe_code, reason = "a handle is a pointer")]
unsafe impl Send for Lt {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a handle is a pointer")]
unsafe impl Sync for Lt {}

impl Drop for Lt {
    #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
    fn drop(&mut self) {
        // SAFETY: made by `new`, and destroyed once.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn stopped(error: CublasError) -> Error {
    Error::new(ErrorKind::Device, "cuBLASLt failed").with_source(error)
}

/// Bytes of workspace, as NVIDIA recommends for a GPU of this compute capability.
fn workspace(major: i32) -> usize {
    if major >= 9 { 32 << 20 } else { 4 << 20 }
}

impl Lt {
    /// For products in a stream of a device of this compute capability.
    #[expect(unsafe_code, reason = "memory that is not cleared")]
    pub(super) fn new(stream: Arc<CudaStream>, major: i32) -> Result<Self> {
        let bytes = workspace(major);
        // SAFETY: what a workspace holds before a product means nothing.
        let workspace = unsafe { stream.alloc::<u8>(bytes) };
        let workspace =
            workspace.map_err(|error| super::device::failed(&format!("give {bytes} bytes"), error))?;
        Ok(Self {
            handle: result::create_handle().map_err(stopped)?,
            stream,
            workspace,
            algorithms: Mutex::new(Answers::new(MOST)),
        })
    }

    /// Puts a product into the stream, and says whether its extra was done too. The device must be that of this thread.
    ///
    /// Where no algorithm does both, the product is done alone. One that has no algorithm at all is an error and does not go to the
    /// older cuBLAS: that asks cuBLASLt itself for the types that are used here, and would be a second library to find.
    pub(super) fn product(&self, product: &Product, storage: Storage, tf32: bool) -> Result<bool> {
        if product.size.contains(&0) {
            // Nothing to add; an output without any terms is never asked for.
            return Ok(false);
        }
        if self.run(product, storage, tf32)? {
            return Ok(true);
        }
        let alone = Product {
            extra: Extra::Nothing,
            ..*product
        };
        if product.extra != Extra::Nothing && self.run(&alone, storage, tf32)? {
            return Ok(false);
        }
        let call = Call::new(&alone, storage, tf32);
        bail!(
            Device,
            "cuBLASLt has no algorithm for {call:?}; please report it with your GPU and CUDA version, or run with `--devices cpu`"
        )
    }

    /// Whether there is an algorithm, which then runs.
    #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
    fn run(&self, product: &Product, storage: Storage, tf32: bool) -> Result<bool> {
        let call = Call::new(product, storage, tf32);
        let vector = match product.extra {
            Extra::Nothing => 0,
            Extra::Bias(at) | Extra::RowSums(at) => at,
        };
        let asked = Descriptors::new(&call, vector).map_err(stopped)?;
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        let algorithm = algorithms.get(call, || self.choose(&call, &asked).map_err(stopped))?;
        drop(algorithms);
        let Some(algorithm) = algorithm else {
            return Ok(false);
        };
        let columns = product.by_columns();
        let (one, beta) = (1.0_f32, if call.add { 1.0_f32 } else { 0.0 });
        let [first, second, out] = asked.layouts;
        let workspace = self.workspace.device_ptr(&self.stream).0;
        // SAFETY: the matrices and the vector lie in the caller's memory, which lives until what is in the stream is done; so
        // does the workspace, as it is freed in that stream. The scalars are on the host, as is the default, and read at once.
        unsafe {
            result::matmul(
                self.handle,
                asked.matmul,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                columns.first.at as *const c_void,
                first,
                columns.second.at as *const c_void,
                second,
                columns.out.at as *const c_void,
                out,
                columns.out.at as *mut c_void,
                out,
                &raw const algorithm,
                workspace as *mut c_void,
                self.workspace.len(),
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(stopped)?;
        Ok(true)
    }

    /// The algorithm that cuBLASLt takes for the fastest.
    #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
    fn choose(
        &self,
        call: &Call,
        asked: &Descriptors,
    ) -> std::result::Result<Option<sys::cublasLtMatmulAlgo_t>, CublasError> {
        let wishes = Wishes::new(call, self.workspace.len())?;
        let [first, second, out] = asked.layouts;
        // SAFETY: all of these live.
        let found = unsafe {
            result::get_matmul_algo_heuristic(self.handle, asked.matmul, first, second, out, out, wishes.0)
        };
        match found {
            Ok(found) => Ok(Some(found.algo)),
            Err(CublasError(
                sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
                | sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE,
            )) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What is multiplied: made on the host, without a device.
struct Descriptors {
    matmul: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
}

impl Drop for Descriptors {
    #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
    fn drop(&mut self) {
        // SAFETY: those that were made, each destroyed once; a call in the stream has read them.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.matmul);
        }
    }
}

impl Descriptors {
    fn new(call: &Call, vector: u64) -> std::result::Result<Self, CublasError> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        let compute = if call.tf32 {
            CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            CUBLAS_COMPUTE_32F
        };
        let mut made = Self {
            matmul: result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?,
            layouts: [null_mut(); 3],
        };
        for (place, operand) in made
            .layouts
            .iter_mut()
            .zip([&call.first, &call.second, &call.out])
        {
            let [rows, columns] = [operand.rows, operand.columns].map(|x| x as u64);
            *place = result::create_matrix_layout(number(operand), rows, columns, operand.stride as i64)?;
        }
        made.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, operation(&call.first))?;
        made.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, operation(&call.second))?;
        made.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue(call.epilogue))?;
        if call.epilogue != Epilogue::Nothing {
            made.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector)?;
        }
        Ok(made)
    }

    #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
    fn set<T: Copy>(&self, attribute: Attribute, value: T) -> std::result::Result<(), CublasError> {
        // SAFETY: the library copies the value, and refuses one of another size.
        unsafe {
            result::set_matmul_desc_attribute(
                self.matmul,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        }
    }
}

fn number(operand: &Operand) -> sys::cudaDataType_t {
    match operand.storage {
        Storage::F32 => sys::cudaDataType_t::CUDA_R_32F,
        Storage::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        Storage::F16 => sys::cudaDataType_t::CUDA_R_16F,
    }
}

/// `CUBLAS_OP_N` is 0 and `CUBLAS_OP_T` is 1.
fn operation(operand: &Operand) -> u32 {
    u32::from(operand.transposed)
}

fn epilogue(epilogue: Epilogue) -> sys::cublasLtEpilogue_t {
    match epilogue {
        Epilogue::Nothing => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        Epilogue::Bias(_) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
        Epilogue::SecondSums(_) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB,
    }
}

/// What an algorithm must do with.
struct Wishes(sys::cublasLtMatmulPreference_t);

impl Drop for Wishes {
    #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
    fn drop(&mut self) {
        // SAFETY: made by `new`, and destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Wishes {
    fn new(call: &Call, workspace: usize) -> std::result::Result<Self, CublasError> {
        let made = Self(result::create_matmul_pref()?);
        made.set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            workspace as u64,
        )?;
        // Sums that are made in parts are added up in f32, also where the output has 16 bits.
        let reductions = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        made.set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions)?;
        let alignments = [
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                &call.first,
            ),
            (
                Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                &call.second,
            ),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &call.out),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &call.out),
        ];
        for (attribute, operand) in alignments {
            made.set(attribute, operand.alignment)?;
        }
        Ok(made)
    }

    #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
    fn set<T: Copy>(&self, attribute: Preference, value: T) -> std::result::Result<(), CublasError> {
        // SAFETY: the library copies the value, and refuses one of another size.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>())
        }
    }
}

/// Whether the library is there.
#[expect(unsafe_code, reason = "opens a library")]
pub(super) fn is_here() -> bool {
    // SAFETY: opening NVIDIA's library runs its initialisers only.
    unsafe { sys::is_culib_present() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::gpu::Matrix;

    fn attribute<T: Copy + Default>(made: &Descriptors, attribute: Attribute) -> T {
        let (mut value, mut written) = (T::default(), 0);
        #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
        // SAFETY: a number of the attribute's size.
        let status = unsafe {
            let to = (&raw mut value).cast();
            sys::cublasLtMatmulDescGetAttribute(made.matmul, attribute, to, size_of::<T>(), &raw mut written)
        };
        status.result().unwrap();
        assert_eq!(written, size_of::<T>());
        value
    }

    /// Type, rows, columns and stride.
    fn layout(made: &Descriptors, which: usize) -> (u32, u64, u64, i64) {
        use sys::cublasLtMatrixLayoutAttribute_t as Of;
        fn get<T: Copy + Default>(layout: sys::cublasLtMatrixLayout_t, attribute: Of) -> T {
            let (mut value, mut written) = (T::default(), 0);
            #[expect(unsafe_code, reason = "cuBLASLt is a C library")]
            // SAFETY: a number of the attribute's size.
            let status = unsafe {
                let to = (&raw mut value).cast();
                sys::cublasLtMatrixLayoutGetAttribute(layout, attribute, to, size_of::<T>(), &raw mut written)
            };
            status.result().unwrap();
            value
        }
        let layout = made.layouts[which];
        (
            get(layout, Of::CUBLASLT_MATRIX_LAYOUT_TYPE),
            get(layout, Of::CUBLASLT_MATRIX_LAYOUT_ROWS),
            get(layout, Of::CUBLASLT_MATRIX_LAYOUT_COLS),
            get(layout, Of::CUBLASLT_MATRIX_LAYOUT_LD),
        )
    }

    #[test]
    fn cublaslt_holds_what_a_product_says() {
        if !is_here() {
            eprintln!("skipped: cuBLASLt is not there (a Python wheel has it: `pip install nvidia-cublas`)");
            return;
        }
        let gradient = Product {
            size: [3, 7, 5],
            a: Matrix::new(4096, 9).t(),
            b: Matrix::new(64, 7),
            out: Matrix::new(4096, 7),
            wide: true,
            exact: false,
            add: true,
            extra: Extra::RowSums(4096 + 16),
        };
        let call = Call::new(&gradient, Storage::Bf16, false);
        let made = Descriptors::new(&call, 4096 + 16).unwrap();
        let [f32, bf16] =
            [sys::cudaDataType_t::CUDA_R_32F, sys::cudaDataType_t::CUDA_R_16BF].map(|number| number as u32);
        assert_eq!(layout(&made, 0), (bf16, 7, 5, 7));
        assert_eq!(layout(&made, 1), (bf16, 3, 5, 9));
        assert_eq!(layout(&made, 2), (f32, 7, 3, 7));
        let word = |of| attribute::<u32>(&made, of);
        assert_eq!(word(Attribute::CUBLASLT_MATMUL_DESC_TRANSA), 0);
        assert_eq!(word(Attribute::CUBLASLT_MATMUL_DESC_TRANSB), 1);
        assert_eq!(
            word(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE),
            sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADB as u32
        );
        let at: u64 = attribute(&made, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER);
        assert_eq!(at, 4096 + 16);
        let compute = word(Attribute::CUBLASLT_MATMUL_DESC_COMPUTE_TYPE);
        assert_eq!(compute, sys::cublasComputeType_t::CUBLAS_COMPUTE_32F as u32);

        let linear = Product {
            a: Matrix::new(4096, 5),
            b: Matrix::new(1024, 5).t(),
            wide: false,
            add: false,
            extra: Extra::Bias(512),
            ..gradient
        };
        let call = Call::new(&linear, Storage::F32, true);
        let made = Descriptors::new(&call, 512).unwrap();
        let word = |of| attribute::<u32>(&made, of);
        assert_eq!(word(Attribute::CUBLASLT_MATMUL_DESC_TRANSA), 1);
        assert_eq!(word(Attribute::CUBLASLT_MATMUL_DESC_TRANSB), 0);
        assert_eq!(
            word(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE),
            sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32
        );
        let compute = word(Attribute::CUBLASLT_MATMUL_DESC_COMPUTE_TYPE);
        assert_eq!(
            compute,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32 as u32
        );

        // The wishes of all kinds of calls are taken as they are.
        for storage in [Storage::F32, Storage::Bf16, Storage::F16] {
            for product in [&gradient, &linear] {
                Wishes::new(&Call::new(product, storage, true), workspace(9)).unwrap();
            }
        }
    }

    #[test]
    fn hopper_has_the_larger_workspace() {
        assert_eq!([8, 9, 10].map(workspace), [4 << 20, 32 << 20, 32 << 20]);
    }
}
