//! Norms with their residuals, embeddings and dropout; sums of columns.

use super::*;
use crate::cuda::gpu::Matrix;
use crate::cuda::ops::{Affine, Mask, NormRecord};
use crate::nn::ops::embedding::{self, Lookup};
use crate::nn::ops::{linear, norm};

const EPS: f32 = 1e-5;

/// `layer_norm(residual + dropout(x + bias))` of the CPU, by a linear map that changes nothing.
fn reference(
    x: &[f32],
    bias: &[f32],
    residual: &[f32],
    plan: Option<(Dropout, &[u64])>,
    affine: norm::Affine,
) -> norm::Normalized {
    let width = bias.len();
    let mut same = vec![0.0; width * width];
    for i in 0..width {
        same[i * width + i] = 1.0;
    }
    norm::linear_residual_norm(x, (&same, bias), residual, plan, affine)
}

fn compare(storage: Storage, width: usize, heads: usize, rows: usize, drop: bool) {
    let Some(ops) = machine(storage, width, heads) else {
        return;
    };
    let what = format!("{storage:?}, {rows} rows of {width}, dropout {drop}");
    let limit = tolerance(storage);
    let [x, residual, dy] = [1, 2, 3].map(|seed| stored(&ops, &normal(seed, rows * width)));
    let [bias, gamma, beta] = [4, 5, 6].map(|seed| normal(seed, width));
    let (mask, identities) = dropout(drop, rows);
    let affine = norm::Affine {
        gamma: &gamma,
        beta: &beta,
        eps: EPS,
    };
    let plan = mask.map(|mask| (mask, &*identities));
    let want = reference(&x, &bias, &residual, plan, affine);

    let identities_memory = memory_of(&ops.gpu, &identities).unwrap();
    let [bias_memory, gamma_memory, beta_memory] = [&bias, &gamma, &beta].map(|values| floats(&ops, values));
    let places = Affine {
        gamma: gamma_memory.address(),
        beta: beta_memory.address(),
        eps: EPS,
    };
    let on_gpu = Mask(mask.map(|mask| (mask, &identities_memory)));
    let (x, residual) = (elements(&ops, &x), elements(&ops, &residual));
    let (out, record) = ops
        .residual_norm(rows, &x, bias_memory.address(), &residual, on_gpu, places, true)
        .unwrap();
    let record = record.unwrap();
    close(
        &what,
        &read_elements(&ops, out.address(), rows * width),
        &want.output,
        limit,
    );
    let unit = read_elements(&ops, record.unit.address(), rows * width);
    close(&what, &unit, &want.unit, limit);
    let inverse: Vec<f32> = read_values(&ops.gpu, record.inverse_std.address(), rows).unwrap();
    close(&what, &inverse, &want.inverse_std, limit);

    let (d_sum, d_gamma, d_beta) = norm::backward(&dy, &unit, &inverse, &gamma);
    let sums = floats(&ops, &vec![1.0; 2 * width]);
    let gradients = [sums.address(), sums.at(width * 4)];
    let dy = elements(&ops, &dy);
    let (dx, masked) = ops
        .norm_backward(rows, &dy, &record, on_gpu, gamma_memory.address(), gradients)
        .unwrap();
    let dx = read_elements(&ops, dx.address(), rows * width);
    close(&what, &dx, &d_sum, limit);
    assert_eq!(masked.is_some(), drop);
    if let (Some(masked), Some(mask)) = (masked, mask) {
        let want = norm::dropout_backward(&d_sum, width, mask, &identities);
        let masked = read_elements(&ops, masked.address(), rows * width);
        close(&what, &masked, &want, limit);
        let again = ops.dropout(rows, &elements(&ops, &d_sum), on_gpu).unwrap();
        close(
            &what,
            &read_elements(&ops, again.address(), rows * width),
            &want,
            limit,
        );
    }
    let got: Vec<f32> = read_values(&ops.gpu, sums.address(), 2 * width).unwrap();
    let want: Vec<f32> = d_gamma.iter().chain(&d_beta).map(|x| x + 1.0).collect();
    close(&what, &got, &want, 1e-4);
}

#[test]
fn norms_are_those_of_the_cpu() {
    for drop in [false, true] {
        compare(Storage::F32, 96, 3, 67, drop);
        compare(Storage::F32, 128, 2, 1, drop);
        compare(Storage::F32, 256, 2, 130, drop);
        compare(Storage::F32, 21, 3, 5, drop);
        compare(Storage::Bf16, 96, 3, 67, drop);
        compare(Storage::F16, 64, 1, 67, drop);
    }
}

#[test]
fn norms_of_nothing_are_nothing() {
    let Some(ops) = machine(Storage::F32, 96, 3) else {
        return;
    };
    let (nothing, ones) = (floats(&ops, &[]), floats(&ops, &[1.0; 96]));
    let affine = Affine {
        gamma: ones.address(),
        beta: ones.address(),
        eps: EPS,
    };
    let (out, record) = ops
        .residual_norm(0, &nothing, ones.address(), &nothing, Mask(None), affine, true)
        .unwrap();
    let sums = floats(&ops, &[0.5; 192]);
    let gradients = [sums.address(), sums.at(96 * 4)];
    ops.norm_backward(0, &out, &record.unwrap(), Mask(None), ones.address(), gradients)
        .unwrap();
    let got: Vec<f32> = read_values(&ops.gpu, sums.address(), 192).unwrap();
    assert_eq!(got, [0.5; 192]);
}

#[test]
fn embeddings_are_those_of_the_cpu() {
    for (width, heads, drop) in [(96, 3, false), (96, 3, true), (21, 3, true)] {
        let Some(ops) = machine(Storage::F32, width, heads) else {
            return;
        };
        let tokens = 40;
        let sizes = [50_u32, 2, 30];
        let tables = sizes.map(|rows| normal(u64::from(rows), rows as usize * width));
        let rows = sizes.map(|count| -> Vec<u32> { (0..tokens as u32).map(|t| t * 7 % count).collect() });
        let (gamma, beta) = (normal(8, width), normal(9, width));
        let (mask, identities) = dropout(drop, tokens);
        // The CPU adds words, types and positions in this order.
        let lookups = [0, 1, 2].map(|i| Lookup {
            table: &tables[i],
            rows: &rows[i],
        });
        let affine = norm::Affine {
            gamma: &gamma,
            beta: &beta,
            eps: EPS,
        };
        let want = embedding::forward(&lookups, mask.map(|mask| (mask, &*identities)), affine);
        let table_memory = [0, 1, 2].map(|i| floats(&ops, &tables[i]));
        let row_memory = [0, 1, 2].map(|i| memory_of(&ops.gpu, &rows[i]).unwrap());
        let identities = memory_of(&ops.gpu, &identities).unwrap();
        let (gamma, beta) = (floats(&ops, &gamma), floats(&ops, &beta));
        let places = Affine {
            gamma: gamma.address(),
            beta: beta.address(),
            eps: EPS,
        };
        let on_gpu = Mask(mask.map(|mask| (mask, &identities)));
        let addresses = table_memory.each_ref().map(Memory::address);
        let (out, record) = ops
            .embed(tokens, addresses, row_memory.each_ref(), on_gpu, places, true)
            .unwrap();
        let NormRecord { unit, inverse_std } = record.unwrap();
        close(
            "output",
            &read_elements(&ops, out.address(), tokens * width),
            &want.output,
            1e-5,
        );
        close(
            "unit",
            &read_elements(&ops, unit.address(), tokens * width),
            &want.unit,
            1e-5,
        );
        let inverse: Vec<f32> = read_values(&ops.gpu, inverse_std.address(), tokens).unwrap();
        close("inverse", &inverse, &want.inverse_std, 1e-5);
    }
}

#[test]
fn columns_are_added_up_with_any_stride() {
    let Some(ops) = machine(Storage::F32, 96, 3) else {
        return;
    };
    for (rows, columns, stride) in [(1, 96, 96), (130, 96, 288), (64, 200, 200), (0, 96, 96)] {
        let x = normal(3, rows * stride);
        let picked: Vec<f32> = x
            .chunks_exact(stride)
            .flat_map(|row| row[..columns].to_vec())
            .collect();
        let mut want = vec![0.5; columns];
        linear::column_sums(&mut want, true, &picked);
        let (x, sums) = (elements(&ops, &x), floats(&ops, &vec![0.5; columns]));
        ops.column_sums(rows, columns, Matrix::new(x.address(), stride), sums.address())
            .unwrap();
        let got: Vec<f32> = read_values(&ops.gpu, sums.address(), columns).unwrap();
        close("sums", &got, &want, 1e-5);
    }
}
