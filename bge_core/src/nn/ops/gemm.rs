//! Matrix products of borrowed row-major slices, one thread each.
//!
//! Parallelism lies one level up, over tiles of rows. That makes a row's result a function of that row alone:
//! the order of its sums depends on the inner dimension only, never on the batch around it or on the number
//! of threads.

use std::mem::MaybeUninit;

/// A borrowed matrix: element (r, c) lies at `r * row_stride + c * col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A `[rows, cols]` row-major matrix at the start of `data`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A `[rows, cols]` matrix whose rows start `row_stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows > 0 && cols > 0, "an empty matrix has no product");
        assert!(
            (rows - 1) * row_stride + cols <= data.len(),
            "a matrix reaches past its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Writes `lhs × rhs` into unwritten row-major memory of exactly that size and hands it back as written.
pub(crate) fn product<'a>(dst: &'a mut [MaybeUninit<f32>], lhs: Mat, rhs: Mat) -> &'a mut [f32] {
    assert_eq!(
        dst.len(),
        lhs.rows * rhs.cols,
        "a product does not fit its destination"
    );
    raw(dst.as_mut_ptr().cast(), rhs.cols, false, lhs, rhs);
    #[expect(unsafe_code, reason = "gemm writes every element of its destination")]
    // SAFETY: `raw` wrote all `rows * cols` elements, which is the whole slice.
    unsafe {
        dst.assume_init_mut()
    }
}

/// Writes (`add` false) or adds (`add` true) `lhs × rhs` to rows that start `row_stride` apart in `dst`.
pub(crate) fn product_into(dst: &mut [f32], row_stride: usize, add: bool, lhs: Mat, rhs: Mat) {
    assert!(
        rhs.cols <= row_stride && (lhs.rows - 1) * row_stride + rhs.cols <= dst.len(),
        "a product reaches past its destination"
    );
    raw(dst.as_mut_ptr(), row_stride, add, lhs, rhs);
}

fn raw(dst: *mut f32, row_stride: usize, add: bool, lhs: Mat, rhs: Mat) {
    assert_eq!(lhs.cols, rhs.rows, "inner dimensions differ");
    #[expect(unsafe_code, reason = "gemm takes raw pointers")]
    // SAFETY: both operands were checked against their slices when made, the callers checked the
    // destination, and a `&mut` destination cannot overlap a borrowed operand.
    unsafe {
        gemm::gemm(
            lhs.rows,
            rhs.cols,
            lhs.cols,
            dst,
            1,
            row_stride as isize,
            add,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
