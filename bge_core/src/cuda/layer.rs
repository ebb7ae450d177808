//! One layer of an encoder on a GPU, forward and backward.

use super::gpu::{Matrix, Memory};
use super::gradients::Stretch;
use super::layout::Layout;
use super::ops::{Affine, Heads, Mask, NormRecord, Ops, Tiles};
use super::store::Store;
use crate::error::{Error, ErrorKind, Result};
use crate::nn::{Activation, DropoutPlan};

/// Where a backward finds weights and adds up their gradients.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    pub(super) ops: &'a Ops,
    pub(super) store: &'a Store,
    pub(super) gradients: &'a Stretch,
}

/// A linear map: the indices of its weights, inputs and outputs.
#[derive(Clone, Copy, Debug)]
struct Linear {
    weight: usize,
    bias: usize,
    size: [usize; 2],
}

/// A norm: the indices of its weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub(super) gamma: usize,
    pub(super) beta: usize,
}

/// Finds weights by name.
pub(super) fn find(layout: &Layout, name: &str) -> Result<usize> {
    layout.find(name).ok_or_else(|| {
        let message = "the weights lack this tensor; the file is cut or belongs to another architecture";
        Error::new(ErrorKind::ModelFormat, message).with_field(name)
    })
}

impl Linear {
    fn find(layout: &Layout, name: &str, size: [usize; 2]) -> Result<Self> {
        Ok(Self {
            weight: find(layout, &format!("{name}.weight"))?,
            bias: find(layout, &format!("{name}.bias"))?,
            size,
        })
    }

    /// The products alone: the kernel that follows adds the bias, in f32 and at no cost.
    fn forward(&self, ops: &Ops, store: &Store, rows: usize, x: &Memory) -> Result<Memory> {
        let [inputs, outputs] = self.size;
        let out = ops.elements(rows, outputs)?;
        let (x, to) = (
            Matrix::new(x.address(), inputs),
            Matrix::new(out.address(), outputs),
        );
        ops.linear(rows, x, (store.operand(self.weight), None), self.size, to)?;
        Ok(out)
    }

    /// Adds the gradients of weight and bias.
    fn backward_params(&self, sums: Sums, rows: usize, x: &Memory, dy: Matrix) -> Result<()> {
        let Sums {
            ops,
            store,
            gradients,
        } = sums;
        let x = Matrix::new(x.address(), self.size[0]);
        let places = [self.weight, self.bias].map(|id| store.gradient(gradients, id));
        ops.linear_params(rows, dy, x, self.size, places)
    }
}

impl Norm {
    pub(super) fn find(layout: &Layout, name: &str) -> Result<Self> {
        Ok(Self {
            gamma: find(layout, &format!("{name}.weight"))?,
            beta: find(layout, &format!("{name}.bias"))?,
        })
    }

    pub(super) fn affine(&self, store: &Store, eps: f32) -> Affine {
        Affine {
            gamma: store.vector(self.gamma),
            beta: store.vector(self.beta),
            eps,
        }
    }

    pub(super) fn backward(
        &self,
        sums: Sums,
        rows: usize,
        dy: &Memory,
        record: &NormRecord,
        mask: Mask,
    ) -> Result<(Memory, Option<Memory>)> {
        let Sums {
            ops,
            store,
            gradients,
        } = sums;
        let places = [self.gamma, self.beta].map(|id| store.gradient(gradients, id));
        ops.norm_backward(rows, dy, record, mask, store.vector(self.gamma), places)
    }
}

/// What all layers share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) activation: Activation,
    pub(super) eps: f32,
    pub(super) hidden_dropout: f32,
    pub(super) attention_dropout: f32,
}

/// A layer: where its weights are.
#[derive(Debug)]
pub(super) struct Layer {
    qkv: [Linear; 3],
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
    shape: Shape,
    /// First of its three dropout sites.
    site: u64,
}

/// The batch as a layer sees it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) tokens: usize,
    pub(super) texts: usize,
    pub(super) offsets: &'a Memory,
    pub(super) forward_tiles: &'a Tiles,
    pub(super) backward_tiles: &'a Tiles,
    /// The key of the dropout and the identities: of all tokens, and of the texts' first ones.
    pub(super) dropout: Option<(u64, [&'a Memory; 2])>,
    /// Whether only the first tokens go on after the attention.
    pub(super) first: bool,
}

impl<'a> View<'a> {
    /// Rows that follow the attention.
    fn rows(&self) -> usize {
        if self.first { self.texts } else { self.tokens }
    }

    pub(super) fn mask(&self, site: u64, p: f32) -> Mask<'a> {
        self.mask_of(site, p, 0)
    }

    /// The mask of a site that follows the attention.
    fn mask_after(&self, site: u64, p: f32) -> Mask<'a> {
        self.mask_of(site, p, usize::from(self.first))
    }

    fn mask_of(&self, site: u64, p: f32, which: usize) -> Mask<'a> {
        let of = |(key, identities): (u64, [&'a Memory; 2])| {
            let (dropout, _) = DropoutPlan { key, tokens: &[] }.at(site, p)?;
            Some((dropout, identities[which]))
        };
        Mask(self.dropout.and_then(of))
    }
}

/// What [`Layer::backward`] needs besides the layer's input.
#[derive(Debug)]
pub(super) struct LayerRecord {
    qkv: Memory,
    context: Memory,
    log_sums: Memory,
    attention_norm: NormRecord,
    middle: Memory,
    inner: Memory,
    output_norm: NormRecord,
}

impl Layer {
    pub(super) fn find(layout: &Layout, index: usize, shape: Shape) -> Result<Self> {
        let name = format!("encoder.layer.{index}");
        let (width, inner) = (shape.width, shape.inner);
        let linear = |part: &str, size| Linear::find(layout, &format!("{name}.{part}"), size);
        Ok(Self {
            qkv: [
                linear("attention.self.query", [width, width])?,
                linear("attention.self.key", [width, width])?,
                linear("attention.self.value", [width, width])?,
            ],
            attention_output: linear("attention.output.dense", [width, width])?,
            attention_norm: Norm::find(layout, &format!("{name}.attention.output.LayerNorm"))?,
            intermediate: linear("intermediate.dense", [width, inner])?,
            output: linear("output.dense", [inner, width])?,
            output_norm: Norm::find(layout, &format!("{name}.output.LayerNorm"))?,
            shape,
            site: 1 + 3 * index as u64,
        })
    }

    fn attention<'a>(&self, qkv: &'a Memory, view: View<'a>) -> Heads<'a> {
        Heads {
            qkv,
            mask: view.mask(self.site, self.shape.attention_dropout),
        }
    }

    /// The output, and the record where `keep` is set.
    pub(super) fn forward(
        &self,
        ops: &Ops,
        store: &Store,
        x: &Memory,
        view: View,
        keep: bool,
    ) -> Result<(Memory, Option<LayerRecord>)> {
        let Shape {
            width,
            inner: inner_width,
            activation,
            eps,
            hidden_dropout,
            ..
        } = self.shape;
        let rows = view.rows();
        let qkv = ops.elements(view.tokens, 3 * width)?;
        for (part, linear) in self.qkv.iter().enumerate() {
            let to = Matrix::new(qkv.at(part * width * ops.element()), 3 * width);
            let x = Matrix::new(x.address(), width);
            // The attention reads every row once for each tile: its bias is in it.
            let weights = (store.operand(linear.weight), Some(store.operand(linear.bias)));
            ops.linear(view.tokens, x, weights, linear.size, to)?;
        }
        let heads = self.attention(&qkv, view);
        let (context, log_sums) = ops.attend(view.tokens, heads, view.forward_tiles)?;
        let (first_context, first_x) = if view.first {
            (
                Some(ops.first_rows(view.texts, &context, view.offsets)?),
                Some(ops.first_rows(view.texts, x, view.offsets)?),
            )
        } else {
            (None, None)
        };
        let (going, residual) = (
            first_context.as_ref().unwrap_or(&context),
            first_x.as_ref().unwrap_or(x),
        );
        let attended = self.attention_output.forward(ops, store, rows, going)?;
        let (middle, attention_norm) = ops.residual_norm(
            rows,
            &attended,
            store.vector(self.attention_output.bias),
            residual,
            view.mask_after(self.site + 1, hidden_dropout),
            self.attention_norm.affine(store, eps),
            keep,
        )?;
        drop((attended, first_context, first_x));
        let inner = self.intermediate.forward(ops, store, rows, &middle)?;
        let bias = store.vector(self.intermediate.bias);
        let active = ops.activate(rows, inner_width, &inner, bias, activation)?;
        let out = self.output.forward(ops, store, rows, &active)?;
        drop(active);
        let (y, output_norm) = ops.residual_norm(
            rows,
            &out,
            store.vector(self.output.bias),
            &middle,
            view.mask_after(self.site + 2, hidden_dropout),
            self.output_norm.affine(store, eps),
            keep,
        )?;
        let record = attention_norm
            .zip(output_norm)
            .map(|(attention_norm, output_norm)| LayerRecord {
                qkv,
                context,
                log_sums,
                attention_norm,
                middle,
                inner,
                output_norm,
            });
        Ok((y, record))
    }

    /// The gradient of the input `x` from that of the output; adds those of the weights.
    pub(super) fn backward(
        &self,
        sums: Sums,
        x: &Memory,
        record: LayerRecord,
        dy: &Memory,
        view: View,
    ) -> Result<Memory> {
        let Sums { ops, store, .. } = sums;
        let Shape {
            width,
            inner: inner_width,
            activation,
            hidden_dropout,
            ..
        } = self.shape;
        let LayerRecord {
            qkv,
            context,
            log_sums,
            attention_norm,
            middle,
            inner,
            output_norm,
        } = record;
        let rows = view.rows();
        let mask = view.mask_after(self.site + 2, hidden_dropout);
        let norm = &self.output_norm;
        let (d_middle, masked) = norm.backward(sums, rows, dy, &output_norm, mask)?;
        let bias = store.vector(self.intermediate.bias);
        let d_inner = {
            let d_dense = masked.as_ref().unwrap_or(&d_middle);
            let dy = Matrix::new(d_dense.address(), width);
            let active = ops.activate(rows, inner_width, &inner, bias, activation)?;
            self.output.backward_params(sums, rows, &active, dy)?;
            drop(active);
            let d_inner = ops.elements(rows, inner_width)?;
            ops.linear_input(
                rows,
                dy,
                store.operand(self.output.weight),
                self.output.size,
                &d_inner,
                false,
            )?;
            d_inner
        };
        drop((masked, output_norm));
        ops.activate_backward([rows, inner_width], &inner, bias, activation, &d_inner)?;
        let dy = Matrix::new(d_inner.address(), inner_width);
        let intermediate = &self.intermediate;
        intermediate.backward_params(sums, rows, &middle, dy)?;
        ops.linear_input(
            rows,
            dy,
            store.operand(intermediate.weight),
            intermediate.size,
            &d_middle,
            true,
        )?;
        drop((d_inner, inner, middle));

        let mask = view.mask_after(self.site + 1, hidden_dropout);
        let norm = &self.attention_norm;
        let (d_residual, masked) = norm.backward(sums, rows, &d_middle, &attention_norm, mask)?;
        drop((d_middle, attention_norm));
        let d_context = ops.elements(rows, width)?;
        {
            let d_dense = masked.as_ref().unwrap_or(&d_residual);
            let dy = Matrix::new(d_dense.address(), width);
            let first = view
                .first
                .then(|| ops.first_rows(view.texts, &context, view.offsets))
                .transpose()?;
            let context = first.as_ref().unwrap_or(&context);
            let linear = &self.attention_output;
            linear.backward_params(sums, rows, context, dy)?;
            ops.linear_input(
                rows,
                dy,
                store.operand(linear.weight),
                linear.size,
                &d_context,
                false,
            )?;
        }
        drop(masked);
        let (d_context, dx) = if view.first {
            let size = [view.texts, view.tokens];
            (
                ops.spread_first_rows(size, &d_context, view.offsets)?,
                ops.spread_first_rows(size, &d_residual, view.offsets)?,
            )
        } else {
            (d_context, d_residual)
        };
        let heads = self.attention(&qkv, view);
        let kept = [&context, &d_context, &log_sums];
        let d_qkv = ops.attend_backward(view.tokens, heads, view.backward_tiles, kept)?;
        for (part, linear) in self.qkv.iter().enumerate() {
            let dy = Matrix::new(d_qkv.at(part * width * ops.element()), 3 * width);
            linear.backward_params(sums, view.tokens, x, dy)?;
            ops.linear_input(
                view.tokens,
                dy,
                store.operand(linear.weight),
                linear.size,
                &dx,
                true,
            )?;
        }
        Ok(dx)
    }
}
