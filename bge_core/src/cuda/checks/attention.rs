//! Attention over texts of many lengths.

use super::*;
use crate::cuda::ops::{Heads, Mask, Tiles};
use crate::cuda::pieces::tiles;
use crate::nn::ops::attention::{self, Kept, Shape};

/// Texts of one token, of a tile and one more, of several tiles.
const OFFSETS: [u32; 7] = [0, 1, 3, 34, 98, 163, 300];

fn tiles_of(ops: &Ops, offsets: &[u32], rows: usize) -> Tiles {
    let list = tiles(offsets, rows);
    Tiles {
        count: list.len() / 3,
        list: memory_of(&ops.gpu, &list).unwrap(),
    }
}

/// Columns `first..first + width` of rows of three widths.
fn part(rows: &[f32], width: usize, part: usize) -> Vec<f32> {
    let rows = rows.chunks_exact(3 * width);
    rows.flat_map(|row| row[part * width..(part + 1) * width].to_vec())
        .collect()
}

fn compare(storage: Storage, width: usize, heads: usize, offsets: &[u32], drop: bool) {
    let Some(ops) = machine(storage, width, heads) else {
        return;
    };
    let what = format!("{storage:?}, {heads} heads of {}, dropout {drop}", width / heads);
    let tokens = offsets.last().copied().unwrap_or(0) as usize;
    let qkv = stored(&ops, &normal(1, tokens * 3 * width));
    let d_context = stored(&ops, &normal(7, tokens * width));
    let (mask, identities) = dropout(drop, tokens);

    let [q, k, v] = [0, 1, 2].map(|i| part(&qkv, width, i));
    let shape = Shape {
        heads,
        width,
        offsets,
        dropout: mask.map(|mask| (mask, &*identities)),
    };
    let (context, log_sums) = attention::forward(&q, &k, &v, shape);

    let (qkv, identities) = (elements(&ops, &qkv), memory_of(&ops.gpu, &identities).unwrap());
    let arguments = Heads {
        qkv: &qkv,
        mask: Mask(mask.map(|mask| (mask, &identities))),
    };
    let list = tiles_of(&ops, offsets, ops.variant.forward_tile()[0]);
    let (got, got_sums) = ops.attend(tokens, arguments, &list).unwrap();
    let context_got = read_elements(&ops, got.address(), tokens * width);
    let limit = tolerance(storage);
    close(&format!("context, {what}"), &context_got, &context, limit);
    let sums: Vec<f32> = read_values(&ops.gpu, got_sums.address(), tokens * heads).unwrap();
    close(&format!("log-sums, {what}"), &sums, &log_sums, limit);

    // The backward is that of the forward that ran: of its rounded context.
    let kept = Kept {
        q: &q,
        k: &k,
        v: &v,
        context: &context_got,
        log_sums: &sums,
    };
    let want = attention::backward(&d_context, kept, shape);
    let list = tiles_of(&ops, offsets, ops.variant.backward_tile()[0]);
    let d_context = elements(&ops, &d_context);
    let d_qkv = ops
        .attend_backward(tokens, arguments, &list, [&got, &d_context, &got_sums])
        .unwrap();
    let d_qkv = read_elements(&ops, d_qkv.address(), tokens * 3 * width);
    for (i, (name, want)) in ["queries", "keys", "values"].iter().zip(&want).enumerate() {
        close(
            &format!("gradient of {name}, {what}"),
            &part(&d_qkv, width, i),
            want,
            limit * 2.0,
        );
    }
}

#[test]
fn attention_is_that_of_the_cpu() {
    for drop in [false, true] {
        compare(Storage::F32, 96, 3, &OFFSETS, drop);
        compare(Storage::F32, 128, 2, &OFFSETS, drop);
        compare(Storage::F32, 256, 2, &OFFSETS[..6], drop);
    }
}

#[test]
fn attention_in_half_precision_is_near_that_of_the_cpu() {
    for drop in [false, true] {
        compare(Storage::Bf16, 96, 3, &OFFSETS, drop);
        compare(Storage::F16, 64, 1, &OFFSETS, drop);
    }
}

#[test]
fn heads_of_any_width_and_batches_of_any_size_attend() {
    compare(Storage::F32, 40, 5, &OFFSETS[..5], true);
    compare(Storage::F32, 21, 3, &OFFSETS[..5], true);
    compare(Storage::F32, 96, 3, &[0, 1], true);
    compare(Storage::F32, 96, 3, &[0], false);
    compare(Storage::Bf16, 96, 3, &[0, 1], true);
    compare(Storage::Bf16, 40, 5, &OFFSETS[..6], true);
}

#[test]
fn large_scores_do_not_overflow() {
    let Some(ops) = machine(Storage::F32, 96, 3) else {
        return;
    };
    let tokens = 70;
    let qkv: Vec<f32> = normal(1, tokens * 3 * 96).iter().map(|x| x * 100.0).collect();
    let [q, k, v] = [0, 1, 2].map(|i| part(&qkv, 96, i));
    let shape = Shape {
        heads: 3,
        width: 96,
        offsets: &[0, 70],
        dropout: None,
    };
    let (context, _) = attention::forward(&q, &k, &v, shape);
    let arguments = Heads {
        qkv: &elements(&ops, &qkv),
        mask: Mask(None),
    };
    let list = tiles_of(&ops, shape.offsets, ops.variant.forward_tile()[0]);
    let (got, _) = ops.attend(tokens, arguments, &list).unwrap();
    // Scores of 1e5 have steps of 1e-2: their exponentials agree to that.
    close(
        "context",
        &read_elements(&ops, got.address(), tokens * 96),
        &context,
        0.1,
    );
}
