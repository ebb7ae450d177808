//! RMS norm and rotary positions against their formulas in f64.

use super::*;
use crate::cuda::gpu::Arg;

#[test]
fn the_rms_norm_and_its_gradient_are_the_formulas() {
    let Some(ops) = machine(Storage::F32, 96, 3) else {
        return;
    };
    let rows = 5;
    let (x, dy, gamma) = (normal(1, rows * 96), normal(2, rows * 96), normal(3, 96));
    let [x_memory, dy_memory] = [&x, &dy].map(|values| elements(&ops, values));
    let (gamma_memory, inverse) = (floats(&ops, &gamma), ops.floats(rows).unwrap());
    let [out, dx, unit] = [(); 3].map(|()| ops.elements(rows, 96).unwrap());
    let args = [
        (&x_memory).into(),
        (&gamma_memory).into(),
        Arg::F32(1e-6),
        (&inverse).into(),
        (&out).into(),
    ];
    ops.gpu.launch("rms_norm_forward", [rows, 1], &args).unwrap();
    let args: [Arg; 6] = [&dy_memory, &x_memory, &inverse, &gamma_memory, &dx, &unit].map(Arg::from);
    ops.gpu.launch("rms_norm_backward", [rows, 1], &args).unwrap();
    let [out, dx] = [out, dx].map(|memory| read_elements(&ops, memory.address(), rows * 96));
    let forward = |x: &[f64]| -> Vec<f64> {
        let rms = (x.iter().map(|x| x * x).sum::<f64>() / 96.0 + 1e-6).sqrt();
        x.iter()
            .zip(&gamma)
            .map(|(x, g)| x / rms * f64::from(*g))
            .collect()
    };
    for row in 0..rows {
        let range = row * 96..(row + 1) * 96;
        let wide: Vec<f64> = x[range.clone()].iter().map(|&x| f64::from(x)).collect();
        let want: Vec<f32> = forward(&wide).iter().map(|&x| x as f32).collect();
        close("output", &out[range.clone()], &want, 1e-5);
        let difference = |column: usize| {
            let moved = |by: f64| {
                let mut x = wide.clone();
                x[column] += by;
                let y = forward(&x);
                y.iter()
                    .zip(&dy[range.clone()])
                    .map(|(y, dy)| y * f64::from(*dy))
                    .sum::<f64>()
            };
            ((moved(1e-5) - moved(-1e-5)) / 2e-5) as f32
        };
        let want: Vec<f32> = (0..96).map(difference).collect();
        close("gradient", &dx[range], &want, 1e-4);
    }
}

#[test]
fn rotation_keeps_lengths_and_turns_back() {
    let Some(ops) = machine(Storage::F32, 96, 3) else {
        return;
    };
    let x = normal(1, 4 * 96);
    let memory = elements(&ops, &x);
    let positions = memory_of(&ops.gpu, &[0_u32, 3, 1, 3]).unwrap();
    let table: Vec<f32> = (0..4 * 16)
        .map(|i| (i / 16) as f32 * 100.0_f32.powf(-(i % 16) as f32 / 16.0))
        .collect();
    let angles = floats(&ops, &table);
    let turn = |direction: f32| {
        let args = [
            (&memory).into(),
            Arg::U32(96),
            Arg::U32(3),
            (&positions).into(),
            (&angles).into(),
            Arg::F32(direction),
        ];
        ops.gpu.launch("rotate", [4, 1], &args).unwrap();
        read_elements(&ops, memory.address(), 4 * 96)
    };
    let turned = turn(1.0);
    assert_eq!(turned[..96], x[..96]);
    let (a, b, angle) = (x[96 + 32 + 5], x[96 + 32 + 21], table[3 * 16 + 5]);
    close(
        "a pair",
        &[turned[96 + 32 + 5]],
        &[a * angle.cos() - b * angle.sin()],
        1e-5,
    );
    close("turned back", &turn(-1.0), &x, 1e-5);
}
