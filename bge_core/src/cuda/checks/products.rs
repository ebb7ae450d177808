//! Linear maps, forward and backward, whether their products add biases and sum gradients besides or not.

use super::*;
use crate::cuda::emulator::without_extras;
use crate::cuda::gpu::Matrix;

/// Rows of a batch whose sums take several blocks, inputs and outputs of a map, and the stride of its output.
const ROWS: usize = 150;
const SIZE: [usize; 2] = [24, 10];
const STRIDE: usize = 30;

/// The machine of a variant, and one whose products do nothing besides.
fn machines(storage: Storage) -> Vec<Ops> {
    let whole = machine(storage, 96, 3);
    let plain = whole.as_ref().and_then(|ops| {
        let gpu = without_extras(ops.variant)?;
        Some(Ops {
            gpu,
            variant: ops.variant,
        })
    });
    whole.into_iter().chain(plain).collect()
}

#[test]
fn a_linear_map_adds_its_bias_to_rows_of_any_stride() {
    let [inputs, outputs] = SIZE;
    for storage in [Storage::F32, Storage::Bf16] {
        for ops in machines(storage) {
            let [x, w, bias] = [(1, ROWS * inputs), (2, outputs * inputs), (3, outputs)]
                .map(|(seed, count)| stored(&ops, &normal(seed, count)));
            let before = vec![0.5; ROWS * STRIDE];
            let [x_memory, w_memory, bias_memory, out] =
                [&x, &w, &bias, &before].map(|values| elements(&ops, values));
            let weights = (w_memory.address(), Some(bias_memory.address()));
            // The middle third of each row.
            let to = Matrix::new(out.at(outputs * ops.element()), STRIDE);
            ops.linear(ROWS, Matrix::new(x_memory.address(), inputs), weights, SIZE, to)
                .unwrap();
            let mut want = before;
            for (row, x) in x.chunks_exact(inputs).enumerate() {
                for (column, (w, bias)) in w.chunks_exact(inputs).zip(&bias).enumerate() {
                    let sum: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                    want[row * STRIDE + outputs + column] = sum + bias;
                }
            }
            let got = read_elements(&ops, out.address(), want.len());
            close(&format!("{storage:?}"), &got, &want, tolerance(storage));
        }
    }
}

#[test]
fn the_gradients_of_weight_and_bias_are_added_to_what_is_there() {
    let [inputs, outputs] = SIZE;
    for storage in [Storage::F32, Storage::Bf16] {
        for ops in machines(storage) {
            let [x, dy] = [(1, ROWS * inputs), (2, ROWS * STRIDE)]
                .map(|(seed, count)| stored(&ops, &normal(seed, count)));
            let (mut weight, mut bias) = (normal(3, outputs * inputs), normal(4, outputs));
            let [x_memory, dy_memory] = [&x, &dy].map(|values| elements(&ops, values));
            let [to_weight, to_bias] = [&weight, &bias].map(|values| floats(&ops, values));
            let places = [&to_weight, &to_bias].map(Memory::address);
            let from = Matrix::new(dy_memory.at(outputs * ops.element()), STRIDE);
            let x_matrix = Matrix::new(x_memory.address(), inputs);
            ops.linear_params(ROWS, from, x_matrix, SIZE, places).unwrap();
            for (x, dy) in x.chunks_exact(inputs).zip(dy.chunks_exact(STRIDE)) {
                for (column, dy) in dy[outputs..2 * outputs].iter().enumerate() {
                    bias[column] += dy;
                    for (input, x) in x.iter().enumerate() {
                        weight[column * inputs + input] += dy * x;
                    }
                }
            }
            let got: Vec<f32> = read_values(&ops.gpu, places[0], weight.len()).unwrap();
            close(&format!("weight, {storage:?}"), &got, &weight, 1e-4);
            let got: Vec<f32> = read_values(&ops.gpu, places[1], outputs).unwrap();
            close(&format!("bias, {storage:?}"), &got, &bias, 1e-4);
        }
    }
}
