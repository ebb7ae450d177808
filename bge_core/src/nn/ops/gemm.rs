//! Matrix products of borrowed row-major slices, one thread each.
//!
//! Parallelism lies one level up, over tiles of rows. That makes a row's result a function of that row alone:
//! the order of its sums depends on the inner dimension only, never on the batch around it or on the number
//! of threads. The `gemm` crate chooses the order by the shape of a product; what is here leaves it one choice.

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

    /// The `count` columns from `start` on, without moving anything.
    fn columns(self, start: usize, count: usize) -> Self {
        assert!(
            count > 0 && start + count <= self.cols,
            "a matrix has no such columns"
        );
        Self {
            data: &self.data[start * self.col_stride..],
            cols: count,
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
    if let Some(rows) = rows_past_shortcuts(lhs, rhs) {
        let padded = padded_product(rows, lhs, rhs, vec![0.0; rows * rhs.cols], false);
        return super::buffer::write_each(dst, |i| padded[i]);
    }
    by_depth(dst.as_mut_ptr().cast(), rhs.cols, false, lhs, rhs);
    #[expect(unsafe_code, reason = "gemm writes every element of its destination")]
    // SAFETY: `by_depth` wrote all `rows * cols` elements, which is the whole slice.
    unsafe {
        dst.assume_init_mut()
    }
}

/// Writes (`add` false) or adds (`add` true) `lhs × rhs` to rows that start `row_stride` apart in `dst`.
pub(crate) fn product_into(dst: &mut [f32], row_stride: usize, add: bool, lhs: Mat, rhs: Mat) {
    check_destination(dst, row_stride, lhs, rhs);
    let Some(rows) = rows_past_shortcuts(lhs, rhs) else {
        by_depth(dst.as_mut_ptr(), row_stride, add, lhs, rhs);
        return;
    };
    let mut start = vec![0.0; rows * rhs.cols];
    for (old, dst) in start.chunks_exact_mut(rhs.cols).zip(dst.chunks(row_stride)) {
        old.copy_from_slice(&dst[..rhs.cols]);
    }
    let padded = padded_product(rows, lhs, rhs, start, add);
    let finished = padded.chunks_exact(rhs.cols).take(lhs.rows);
    for (new, dst) in finished.zip(dst.chunks_mut(row_stride)) {
        dst[..rhs.cols].copy_from_slice(new);
    }
}

/// Like [`product_into`], but the order of sums depends on the whole shape: only for products whose shape belongs
/// to one text, such as attention's. Small ones are faster this way.
pub(crate) fn product_of_text(dst: &mut [f32], row_stride: usize, add: bool, lhs: Mat, rhs: Mat) {
    check_destination(dst, row_stride, lhs, rhs);
    raw(dst.as_mut_ptr(), row_stride, add, lhs, rhs);
}

fn check_destination(dst: &[f32], row_stride: usize, lhs: Mat, rhs: Mat) {
    assert!(
        rhs.cols <= row_stride && (lhs.rows - 1) * row_stride + rhs.cols <= dst.len(),
        "a product reaches past its destination"
    );
}

/// Results up to which gemm may take a shortcut whose sums run in another order; so may it for a single row.
const SHORTCUT: usize = 256;

/// How many rows a product too small for the general kernel must be filled up to; `None` for larger ones.
fn rows_past_shortcuts(lhs: Mat, rhs: Mat) -> Option<usize> {
    let rows = (SHORTCUT / rhs.cols + 1).max(2);
    (lhs.rows < rows).then_some(rows)
}

/// The product with rows of zeros below `lhs`, written over or added to `start`, `[rows, cols]`.
fn padded_product(rows: usize, lhs: Mat, rhs: Mat, mut start: Vec<f32>, add: bool) -> Vec<f32> {
    let mut filled = vec![0.0; rows * lhs.cols];
    for (r, row) in filled.chunks_exact_mut(lhs.cols).take(lhs.rows).enumerate() {
        for (c, x) in row.iter_mut().enumerate() {
            *x = lhs.data[r * lhs.row_stride + c * lhs.col_stride];
        }
    }
    by_depth(
        start.as_mut_ptr(),
        rhs.cols,
        add,
        Mat::new(&filled, rows, lhs.cols),
        rhs,
    );
    start
}

/// Terms of one sum that are added up before they meet the rest: where gemm may cut a long sum at the earliest.
const DEPTH: usize = 512;

/// The product in runs of [`DEPTH`] terms, so that gemm, which cuts by shape and cache, has nothing left to cut.
fn by_depth(dst: *mut f32, row_stride: usize, add: bool, lhs: Mat, rhs: Mat) {
    assert_eq!(lhs.cols, rhs.rows, "inner dimensions differ");
    for start in (0..lhs.cols).step_by(DEPTH) {
        let depth = DEPTH.min(lhs.cols - start);
        let (lhs, rhs) = (lhs.columns(start, depth), rhs.t().columns(start, depth).t());
        raw(dst, row_stride, add || start > 0, lhs, rhs);
    }
}

fn raw(dst: *mut f32, row_stride: usize, add: bool, lhs: Mat, rhs: Mat) {
    static NO_PACKING: std::sync::Once = std::sync::Once::new();
    assert_eq!(lhs.cols, rhs.rows, "inner dimensions differ");
    // Rows that lie one after another are read as well in place; packing them cost 6 % of an encoding.
    NO_PACKING.call_once(|| gemm::set_rhs_packing_threshold(usize::MAX >> 16));
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
