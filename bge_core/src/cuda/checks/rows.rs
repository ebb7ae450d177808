//! Activations, pooling, the choice of rows, and the gradient of a table.

use super::*;
use crate::config::PoolingMethod;
use crate::cuda::gpu::Arg;
use crate::cuda::pieces::Pieces;
use crate::nn::Activation;
use crate::nn::ops::embedding::scatter_add;

#[test]
fn activations_are_those_of_the_cpu() {
    for storage in [Storage::F32, Storage::Bf16] {
        let Some(ops) = machine(storage, 96, 3) else {
            return;
        };
        let (rows, columns) = (7, 200);
        let x = stored(
            &ops,
            &normal(1, rows * columns)
                .iter()
                .map(|x| x * 3.0)
                .collect::<Vec<_>>(),
        );
        let (bias, gradient) = (normal(2, columns), stored(&ops, &normal(3, rows * columns)));
        for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let mut want = x.clone();
            kind.bias_and_apply(&mut want, &bias);
            let (x_memory, bias_memory) = (elements(&ops, &x), floats(&ops, &bias));
            let out = ops
                .activate(rows, columns, &x_memory, bias_memory.address(), kind)
                .unwrap();
            let got = read_elements(&ops, out.address(), rows * columns);
            close("activation", &got, &want, tolerance(storage));
            let biased: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + bias[i % columns]).collect();
            let mut want = gradient.clone();
            kind.backward(&mut want, &biased);
            let memory = elements(&ops, &gradient);
            ops.activate_backward([rows, columns], &x_memory, bias_memory.address(), kind, &memory)
                .unwrap();
            let got = read_elements(&ops, memory.address(), rows * columns);
            close("its gradient", &got, &want, tolerance(storage));
        }
    }
}

/// The vectors of texts, and the gradient of their tokens, written out.
fn pooled(
    x: &[f32],
    gradient: &[f32],
    offsets: &[u32],
    width: usize,
    method: PoolingMethod,
) -> (Vec<f32>, Vec<f32>) {
    let (mut out, mut back) = (Vec::new(), vec![0.0; x.len()]);
    for (pair, gradient) in offsets.windows(2).zip(gradient.chunks_exact(width)) {
        let rows = match method {
            PoolingMethod::Cls => pair[0]..pair[0] + 1,
            PoolingMethod::LastToken => pair[1] - 1..pair[1],
            PoolingMethod::Mean => pair[0]..pair[1],
        };
        let share = 1.0 / rows.len() as f32;
        for (column, gradient) in gradient.iter().enumerate() {
            let at = |row: u32| row as usize * width + column;
            out.push(rows.clone().map(|row| x[at(row)]).sum::<f32>() * share);
            rows.clone().for_each(|row| back[at(row)] = gradient * share);
        }
    }
    (out, back)
}

#[test]
fn pooling_goes_to_the_vectors_and_back() {
    let offsets = [0_u32, 1, 4, 20];
    for storage in [Storage::F32, Storage::Bf16] {
        let Some(ops) = machine(storage, 96, 3) else {
            return;
        };
        let x = stored(&ops, &normal(1, 20 * 96));
        let gradient = stored(&ops, &normal(2, 3 * 96));
        let (x_memory, places) = (elements(&ops, &x), memory_of(&ops.gpu, &offsets).unwrap());
        let gradient_memory = floats(&ops, &gradient);
        for method in [PoolingMethod::Cls, PoolingMethod::Mean, PoolingMethod::LastToken] {
            let (want, want_back) = pooled(&x, &gradient, &offsets, 96, method);
            let out = ops.pool(3, &x_memory, &places, method).unwrap();
            let got: Vec<f32> = read_values(&ops.gpu, out.address(), 3 * 96).unwrap();
            close("vectors", &got, &want, 1e-5);
            let back = ops
                .pool_backward([3, 20], &gradient_memory, &places, method)
                .unwrap();
            let got = read_elements(&ops, back.address(), 20 * 96);
            close("gradient", &got, &want_back, tolerance(storage));
        }
        let (want, want_back) = pooled(&x, &gradient, &offsets, 96, PoolingMethod::Cls);
        let first = ops.first_rows(3, &x_memory, &places).unwrap();
        assert_eq!(read_elements(&ops, first.address(), 3 * 96), want);
        let back = ops
            .spread_first_rows([3, 20], &elements(&ops, &gradient), &places)
            .unwrap();
        assert_eq!(read_elements(&ops, back.address(), 20 * 96), want_back);
    }
}

#[test]
fn the_gradient_of_a_table_is_that_of_the_cpu() {
    let Some(ops) = machine(Storage::F32, 96, 3) else {
        return;
    };
    let tokens = 400;
    let of = |row: fn(u32) -> u32| -> Vec<u32> { (0..tokens).map(row).collect() };
    for rows in [
        of(|_| 0),
        of(|t| t % 3),
        of(|t| 399 - t),
        of(|t| t * t % 37),
        Vec::new(),
    ] {
        let gradient = normal(1, rows.len() * 96);
        let mut want = normal(2, 400 * 96);
        let table = floats(&ops, &want);
        scatter_add(&mut want, &rows, &gradient, 96);
        let plan = Pieces::new(&rows);
        let partials = ops.floats(plan.partials * 96).unwrap();
        let [order, pieces, whole] =
            [&plan.order, &plan.parts, &plan.rows].map(|list| memory_of(&ops.gpu, list).unwrap());
        let gradient = elements(&ops, &gradient);
        let args: [Arg; 5] = [&gradient, &order, &pieces, &table, &partials].map(Arg::from);
        ops.gpu
            .launch("table_pieces", [plan.parts.len() / 3, 1], &args)
            .unwrap();
        let args: [Arg; 3] = [&partials, &whole, &table].map(Arg::from);
        ops.gpu
            .launch("table_rows", [plan.rows.len() / 3, 1], &args)
            .unwrap();
        let got: Vec<f32> = read_values(&ops.gpu, table.address(), 400 * 96).unwrap();
        close("table", &got, &want, 1e-5);
    }
}
