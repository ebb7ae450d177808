//! A product as cuBLASLt is asked for it, and what it answered to the last ones.

use std::collections::BTreeMap;

use super::gpu::{Extra, Matrix, Product, Storage};
use crate::error::Result;

/// Answers that are kept: the tokens of a batch are part of the question, so that a run has ever new ones.
#[cfg(feature = "cuda")]
pub(super) const MOST: usize = 1024;

/// What cuBLASLt takes for the alignment of a place that it is told nothing about.
const ALIGNMENT: u32 = 256;

/// All that the choice of an algorithm depends on: by columns, where [`Product`] is by rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) first: Operand,
    pub(super) second: Operand,
    pub(super) out: Operand,
    /// Whether factors of f32 may be rounded to TF32; sums are f32 in any case.
    pub(super) tf32: bool,
    pub(super) add: bool,
    pub(super) epilogue: Epilogue,
}

/// A matrix by columns, as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operand {
    pub(super) storage: Storage,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Elements from one column to the next.
    pub(super) stride: usize,
    pub(super) transposed: bool,
    /// The largest power of two that its place is a multiple of, up to 256.
    pub(super) alignment: u32,
}

/// What is done besides, with the alignment of its vector, whose numbers have the type of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Epilogue {
    Nothing,
    /// `BIAS`: adds a number to each row of the output by columns.
    Bias(u32),
    /// `BGRADB`: sums the second factor over the terms of the product.
    SecondSums(u32),
}

impl Call {
    /// A product on a GPU that stores numbers in this type.
    pub(super) fn new(product: &Product, storage: Storage, tf32: bool) -> Self {
        let columns = product.by_columns();
        let [rows, others, terms] = columns.size;
        let type_of = |wide| if wide { Storage::F32 } else { storage };
        let factors = type_of(product.exact);
        Self {
            first: Operand::new(columns.first, [rows, terms], factors),
            second: Operand::new(columns.second, [terms, others], factors),
            out: Operand::new(columns.out, [rows, others], type_of(product.wide)),
            tf32: tf32 && factors == Storage::F32 && !product.exact,
            add: product.add,
            epilogue: match product.extra {
                Extra::Nothing => Epilogue::Nothing,
                Extra::Bias(at) => Epilogue::Bias(alignment(at)),
                Extra::RowSums(at) => Epilogue::SecondSums(alignment(at)),
            },
        }
    }
}

impl Operand {
    /// A matrix that has these rows and columns as the product reads it.
    fn new(matrix: Matrix, [mut rows, mut columns]: [usize; 2], storage: Storage) -> Self {
        if matrix.transposed {
            (rows, columns) = (columns, rows);
        }
        Self {
            storage,
            rows,
            columns,
            stride: matrix.stride,
            transposed: matrix.transposed,
            alignment: alignment(matrix.at),
        }
    }
}

fn alignment(at: u64) -> u32 {
    1 << at.trailing_zeros().min(ALIGNMENT.trailing_zeros())
}

/// The answers to the last calls.
#[derive(Debug)]
pub(super) struct Answers<T> {
    most: usize,
    known: BTreeMap<Call, T>,
}

impl<T: Copy> Answers<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: BTreeMap::new(),
        }
    }

    /// The answer to a call, which `ask` finds where it is not known. Where there are too many, all are forgotten: asking the few
    /// that a batch needs again costs less than knowing which they are.
    pub(super) fn get(&mut self, call: Call, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(answer) = self.known.get(&call) {
            return Ok(*answer);
        }
        let answer = ask()?;
        if self.known.len() >= self.most {
            self.known.clear();
        }
        self.known.insert(call, answer);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    /// `[5 tokens, 3 outputs] = [5, 7 inputs] × [3, 7]ᵀ`, into rows of 9.
    fn linear(extra: Extra) -> Product {
        Product {
            size: [5, 3, 7],
            a: Matrix::new(4096, 7),
            b: Matrix::new(1024 + 2, 7).t(),
            out: Matrix::new(4096 + 3 * 2, 9),
            wide: false,
            exact: false,
            add: false,
            extra,
        }
    }

    /// The gradient of its weight, `[3, 7] += [5, 3]ᵀ × [5, 7]`.
    fn gradient() -> Product {
        Product {
            size: [3, 7, 5],
            a: Matrix::new(4096, 9).t(),
            b: Matrix::new(64, 7),
            out: Matrix::new(4096, 7),
            wide: true,
            add: true,
            extra: Extra::RowSums(4096 + 16),
            ..linear(Extra::Nothing)
        }
    }

    fn operand(
        storage: Storage,
        [rows, columns, stride]: [usize; 3],
        transposed: bool,
        alignment: u32,
    ) -> Operand {
        Operand {
            storage,
            rows,
            columns,
            stride,
            transposed,
            alignment,
        }
    }

    #[test]
    fn a_linear_map_is_its_transpose_by_columns() {
        let call = Call::new(&linear(Extra::Bias(512)), Storage::Bf16, true);
        let want = Call {
            // The weight `[3, 7]` by rows is `[7, 3]` by columns, and read as `[3, 7]`.
            first: operand(Storage::Bf16, [7, 3, 7], true, 2),
            second: operand(Storage::Bf16, [7, 5, 7], false, 256),
            out: operand(Storage::Bf16, [3, 5, 9], false, 2),
            tf32: false, // that is for numbers of 32 bits
            add: false,
            epilogue: Epilogue::Bias(256),
        };
        assert_eq!(call, want);
    }

    #[test]
    fn the_gradient_of_a_weight_is_f32_and_sums_the_second_factor() {
        let call = Call::new(&gradient(), Storage::F16, false);
        let want = Call {
            first: operand(Storage::F16, [7, 5, 7], false, 64),
            // `[5, 3]` in rows of 9, by columns `[3, 5]`, read as `[5, 3]`: the sums over its 5 terms are 3 numbers.
            second: operand(Storage::F16, [3, 5, 9], true, 256),
            out: operand(Storage::F32, [7, 3, 7], false, 256),
            tf32: false,
            add: true,
            epilogue: Epilogue::SecondSums(16),
        };
        assert_eq!(call, want);
    }

    #[test]
    fn tf32_is_for_products_of_f32_that_may_be_rounded() {
        let exact = Product {
            exact: true,
            wide: true,
            ..linear(Extra::Nothing)
        };
        let tf32 = |product: &Product, storage, asked| Call::new(product, storage, asked).tf32;
        assert!(tf32(&linear(Extra::Nothing), Storage::F32, true));
        assert!(!tf32(&linear(Extra::Nothing), Storage::F32, false));
        assert!(!tf32(&exact, Storage::F32, true));
        assert!(!tf32(&exact, Storage::Bf16, true));
        let call = Call::new(&exact, Storage::Bf16, true);
        assert_eq!(
            [call.first, call.second, call.out].map(|x| x.storage),
            [Storage::F32; 3]
        );
        // A search asks for products of f32 on a GPU that stores nothing else.
        let search = Product { wide: false, ..exact };
        assert_eq!(Call::new(&search, Storage::F32, true).out.storage, Storage::F32);
    }

    #[test]
    fn an_answer_is_asked_for_once_and_few_are_kept() {
        let mut answers = Answers::new(2);
        let mut asked = 0;
        let mut get = |rows: usize| {
            let mut product = linear(Extra::Nothing);
            product.size[0] = rows;
            let call = Call::new(&product, Storage::F32, false);
            let answer = answers.get(call, || {
                asked += 1;
                Ok(rows)
            });
            (answer.unwrap(), asked)
        };
        assert_eq!([get(1), get(2), get(1), get(2)], [(1, 1), (2, 2), (1, 2), (2, 2)]);
        assert_eq!([get(3), get(3), get(1)], [(3, 3), (3, 3), (1, 4)]);
    }

    #[test]
    fn what_fails_is_asked_again() {
        let mut answers = Answers::new(2);
        let call = Call::new(&gradient(), Storage::F32, false);
        let failed = answers.get(call, || Err(Error::new(ErrorKind::Device, "no")));
        assert!(failed.is_err());
        assert_eq!(answers.get(call, || Ok(1)).unwrap(), 1);
    }
}
