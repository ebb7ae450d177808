//! The kernels as functions of places in memory: `rows` and `columns` are those of the matrix that a function works on.

use std::sync::Arc;

use super::gpu::{Arg, Extra, Gpu, Matrix, Memory, Product, Storage};
use super::kernels::{SUM_ROWS, THREADS, Variant};
use crate::config::PoolingMethod;
use crate::error::Result;
use crate::nn::Activation;
use crate::nn::ops::dropout::Dropout;

/// A GPU and what its kernels were compiled for.
#[derive(Clone, Debug)]
pub(crate) struct Ops {
    pub(crate) gpu: Arc<dyn Gpu>,
    pub(crate) variant: Variant,
}

/// The dropout of one place in the network, with the identities of the rows there.
#[derive(Clone, Copy)]
pub(crate) struct Mask<'a>(pub(crate) Option<(Dropout, &'a Memory)>);

impl Mask<'_> {
    fn args(self) -> [Arg; 4] {
        let (key, threshold, scale) = self.0.map_or((0, 0, 1.0), |(dropout, _)| dropout.parts());
        let identities = self.0.map(|(_, identities)| identities);
        [identities.into(), key.into(), threshold.into(), scale.into()]
    }
}

/// Places of scale and shift of a norm, f32.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) gamma: u64,
    pub(crate) beta: u64,
    pub(crate) eps: f32,
}

/// What the backward of a norm needs: the normalised rows and the inverse deviation of each.
#[derive(Debug)]
pub(crate) struct NormRecord {
    pub(crate) unit: Memory,
    pub(crate) inverse_std: Memory,
}

/// Queries, keys and values of an attention, side by side in rows of three widths.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) qkv: &'a Memory,
    pub(crate) mask: Mask<'a>,
}

/// A list of tiles in memory.
#[derive(Debug)]
pub(crate) struct Tiles {
    pub(crate) list: Memory,
    pub(crate) count: usize,
}

impl Ops {
    pub(crate) fn element(&self) -> usize {
        self.variant.storage.bytes()
    }

    pub(crate) fn heads(&self) -> usize {
        self.variant.width / self.variant.head
    }

    /// Memory for a matrix of the storage type.
    pub(crate) fn elements(&self, rows: usize, columns: usize) -> Result<Memory> {
        self.gpu.alloc(rows * columns * self.element())
    }

    pub(crate) fn floats(&self, count: usize) -> Result<Memory> {
        self.gpu.alloc(count * size_of::<f32>())
    }

    fn run(&self, kernel: &'static str, grid: [usize; 2], args: &[Arg]) -> Result<()> {
        self.gpu.launch(kernel, grid, args)
    }

    /// `out [rows, outputs] = x [rows, inputs] wᵀ`, plus a bias of the storage type if there is one.
    pub(crate) fn linear(
        &self,
        rows: usize,
        x: Matrix,
        (w, bias): (u64, Option<u64>),
        [inputs, outputs]: [usize; 2],
        out: Matrix,
    ) -> Result<()> {
        let done = self.gpu.product(Product {
            size: [rows, outputs, inputs],
            a: x,
            b: Matrix::new(w, inputs).t(),
            out,
            wide: false,
            exact: false,
            add: false,
            extra: bias.map_or(Extra::Nothing, Extra::Bias),
        })?;
        match bias {
            Some(bias) if !done => self.add_bias(rows, outputs, out, bias),
            _ => Ok(()),
        }
    }

    fn add_bias(&self, rows: usize, columns: usize, x: Matrix, bias: u64) -> Result<()> {
        let args = [
            Arg::Place(x.at),
            (x.stride as u32).into(),
            Arg::Place(bias),
            (columns as u32).into(),
        ];
        self.run("add_bias", [rows, 1], &args)
    }

    /// `dx [rows, inputs] = dy [rows, outputs] w`, or added to it.
    pub(crate) fn linear_input(
        &self,
        rows: usize,
        dy: Matrix,
        w: u64,
        [inputs, outputs]: [usize; 2],
        dx: &Memory,
        add: bool,
    ) -> Result<()> {
        self.gpu.product(Product {
            size: [rows, inputs, outputs],
            a: dy,
            b: Matrix::new(w, inputs),
            out: Matrix::new(dx.address(), inputs),
            wide: false,
            exact: false,
            add,
            extra: Extra::Nothing,
        })?;
        Ok(())
    }

    /// Adds `dyᵀ x` to the gradient `[outputs, inputs]` of a weight, and the sums of the columns of `dy` to that of a bias; f32.
    pub(crate) fn linear_params(
        &self,
        rows: usize,
        dy: Matrix,
        x: Matrix,
        [inputs, outputs]: [usize; 2],
        [weight, bias]: [u64; 2],
    ) -> Result<()> {
        let sums = self.floats(outputs)?;
        let done = self.gpu.product(Product {
            size: [outputs, inputs, rows],
            a: dy.t(),
            b: x,
            out: Matrix::new(weight, inputs),
            wide: true,
            exact: false,
            add: true,
            extra: Extra::RowSums(sums.address()),
        })?;
        if done {
            self.add_partials(sums.address(), 1, outputs, outputs, bias)
        } else {
            self.column_sums(rows, outputs, dy, bias)
        }
    }

    /// Adds the sums of the columns of `x` to the gradient of a bias, f32.
    pub(crate) fn column_sums(&self, rows: usize, columns: usize, x: Matrix, gradient: u64) -> Result<()> {
        let chunks = rows.div_ceil(SUM_ROWS);
        let partials = self.floats(chunks * columns)?;
        let args = [
            Arg::Place(x.at),
            (x.stride as u32).into(),
            (rows as u32).into(),
            (columns as u32).into(),
            (&partials).into(),
        ];
        self.run("column_partials", [chunks, columns.div_ceil(THREADS)], &args)?;
        self.add_partials(partials.address(), chunks, columns, columns, gradient)
    }

    fn add_partials(
        &self,
        partials: u64,
        count: usize,
        stride: usize,
        columns: usize,
        out: u64,
    ) -> Result<()> {
        let numbers = [count, stride, columns].map(|number| Arg::U32(number as u32));
        let [count, stride, columns_arg] = numbers;
        let args = [Arg::Place(partials), count, stride, columns_arg, Arg::Place(out)];
        self.run("add_partials", [columns.div_ceil(THREADS), 1], &args)
    }

    /// `layer_norm(residual + dropout(x + bias))` into `out`, and the record if it is wanted.
    #[expect(clippy::too_many_arguments, reason = "the operands of one fused operation")]
    pub(crate) fn residual_norm(
        &self,
        rows: usize,
        x: &Memory,
        bias: u64,
        residual: &Memory,
        mask: Mask,
        affine: Affine,
        keep: bool,
    ) -> Result<(Memory, Option<NormRecord>)> {
        let out = self.elements(rows, self.variant.width)?;
        let record = self.norm_record(rows, keep)?;
        let mut args = vec![x.into(), Arg::Place(bias), residual.into()];
        args.extend(mask.args());
        args.extend(norm_args(affine, record.as_ref(), &out));
        self.run("residual_norm_forward", [rows, 1], &args)?;
        Ok((out, record))
    }

    fn norm_record(&self, rows: usize, keep: bool) -> Result<Option<NormRecord>> {
        let record = || {
            Ok(NormRecord {
                unit: self.elements(rows, self.variant.width)?,
                inverse_std: self.floats(rows)?,
            })
        };
        keep.then(record).transpose()
    }

    /// `dropout(layer_norm(word + type + position))`: `tables` and `rows` of tokens are in this order.
    pub(crate) fn embed(
        &self,
        tokens: usize,
        tables: [u64; 3],
        rows: [&Memory; 3],
        mask: Mask,
        affine: Affine,
        keep: bool,
    ) -> Result<(Memory, Option<NormRecord>)> {
        let out = self.elements(tokens, self.variant.width)?;
        let record = self.norm_record(tokens, keep)?;
        let mut args: Vec<Arg> = tables.map(Arg::Place).to_vec();
        args.extend(rows.map(Arg::from));
        args.extend(mask.args());
        args.extend(norm_args(affine, record.as_ref(), &out));
        self.run("embedding_forward", [tokens, 1], &args)?;
        Ok((out, record))
    }

    /// The gradient of a norm's input; behind a dropout also the same times its mask. Adds those of scale and shift.
    pub(crate) fn norm_backward(
        &self,
        rows: usize,
        dy: &Memory,
        record: &NormRecord,
        mask: Mask,
        gamma: u64,
        gradients: [u64; 2],
    ) -> Result<(Memory, Option<Memory>)> {
        let width = self.variant.width;
        let dx = self.elements(rows, width)?;
        let masked = mask.0.is_some().then(|| self.elements(rows, width)).transpose()?;
        let mut args = vec![
            dy.into(),
            (&record.unit).into(),
            (&record.inverse_std).into(),
            Arg::Place(gamma),
        ];
        args.extend(mask.args());
        args.extend([Arg::from(&dx), masked.as_ref().into()]);
        self.run("norm_backward", [rows, 1], &args)?;
        let chunks = rows.div_ceil(SUM_ROWS);
        let partials = self.floats(2 * chunks * width)?;
        let args = [
            dy.into(),
            (&record.unit).into(),
            (rows as u32).into(),
            (&partials).into(),
        ];
        self.run("norm_partials", [chunks, 1], &args)?;
        for (half, gradient) in gradients.into_iter().enumerate() {
            let first = partials.at(half * width * size_of::<f32>());
            self.add_partials(first, chunks, 2 * width, width, gradient)?;
        }
        Ok((dx, masked))
    }

    /// Each row times its mask.
    pub(crate) fn dropout(&self, rows: usize, x: &Memory, mask: Mask) -> Result<Memory> {
        let out = self.elements(rows, self.variant.width)?;
        let mut args = vec![x.into()];
        args.extend(mask.args());
        args.push((&out).into());
        self.run("dropout_rows", [rows, 1], &args)?;
        Ok(out)
    }

    /// `activation(x + bias)`.
    pub(crate) fn activate(
        &self,
        rows: usize,
        columns: usize,
        x: &Memory,
        bias: u64,
        kind: Activation,
    ) -> Result<Memory> {
        let out = self.elements(rows, columns)?;
        let args = [
            x.into(),
            Arg::Place(bias),
            (columns as u32).into(),
            number(kind).into(),
            (&out).into(),
        ];
        self.run("activation_forward", [rows, 1], &args)?;
        Ok(out)
    }

    /// Multiplies the gradient of an activation's output by its derivative, in place.
    pub(crate) fn activate_backward(
        &self,
        [rows, columns]: [usize; 2],
        x: &Memory,
        bias: u64,
        kind: Activation,
        gradient: &Memory,
    ) -> Result<()> {
        let args = [
            x.into(),
            Arg::Place(bias),
            (columns as u32).into(),
            number(kind).into(),
            gradient.into(),
        ];
        self.run("activation_backward", [rows, 1], &args)
    }

    /// The arguments that all attention kernels begin with.
    fn attention_args(&self, heads: Heads, tiles: &Tiles) -> Vec<Arg> {
        let part = self.variant.width * self.element();
        let mut args: Vec<Arg> = [0, 1, 2].map(|i| Arg::Place(heads.qkv.at(i * part))).to_vec();
        args.push((3 * self.variant.width as u32).into());
        args.push((&tiles.list).into());
        args.extend(heads.mask.args());
        args
    }

    /// Context `[tokens, width]` and log-denominators `[tokens, heads]`.
    pub(crate) fn attend(&self, tokens: usize, heads: Heads, tiles: &Tiles) -> Result<(Memory, Memory)> {
        let context = self.elements(tokens, self.variant.width)?;
        let log_sums = self.floats(tokens * self.heads())?;
        let mut args = self.attention_args(heads, tiles);
        args.extend([Arg::from(&context), (&log_sums).into()]);
        self.run("attention_forward", [tiles.count, self.heads()], &args)?;
        Ok((context, log_sums))
    }

    /// The gradients of queries, keys and values, side by side as these are.
    pub(crate) fn attend_backward(
        &self,
        tokens: usize,
        heads: Heads,
        tiles: &Tiles,
        [context, d_context, log_sums]: [&Memory; 3],
    ) -> Result<Memory> {
        let width = self.variant.width;
        let d_qkv = self.elements(tokens, 3 * width)?;
        let deltas = self.floats(tokens * self.heads())?;
        let part = width * self.element();
        let [dq, dk, dv] = [0, 1, 2].map(|i| Arg::Place(d_qkv.at(i * part)));
        let stride = Arg::U32(3 * width as u32);
        let grid = [tiles.count, self.heads()];
        let mut args = self.attention_args(heads, tiles);
        args.extend([context, d_context, log_sums, &deltas].map(Arg::from));
        args.extend([dq, stride]);
        self.run("attention_backward_queries", grid, &args)?;
        let mut args = self.attention_args(heads, tiles);
        args.extend([d_context, log_sums, &deltas].map(Arg::from));
        args.extend([dk, dv, stride]);
        self.run("attention_backward_keys", grid, &args)?;
        Ok(d_qkv)
    }

    /// The first row of each text.
    pub(crate) fn first_rows(&self, texts: usize, x: &Memory, offsets: &Memory) -> Result<Memory> {
        let out = self.elements(texts, self.variant.width)?;
        self.run(
            "first_rows",
            [texts, 1],
            &[x.into(), offsets.into(), (&out).into()],
        )?;
        Ok(out)
    }

    /// The gradient of the input of [`Ops::first_rows`].
    pub(crate) fn spread_first_rows(
        &self,
        [texts, tokens]: [usize; 2],
        gradient: &Memory,
        offsets: &Memory,
    ) -> Result<Memory> {
        let out = self.elements(tokens, self.variant.width)?;
        let args = [gradient.into(), offsets.into(), (&out).into()];
        self.run("spread_first_rows", [texts, 1], &args)?;
        Ok(out)
    }

    /// One f32 vector for each text.
    pub(crate) fn pool(
        &self,
        texts: usize,
        x: &Memory,
        offsets: &Memory,
        method: PoolingMethod,
    ) -> Result<Memory> {
        let out = self.floats(texts * self.variant.width)?;
        let args = [x.into(), offsets.into(), pooling(method).into(), (&out).into()];
        self.run("pool_forward", [texts, 1], &args)?;
        Ok(out)
    }

    /// The gradient of every hidden state from that of the vectors, f32.
    pub(crate) fn pool_backward(
        &self,
        [texts, tokens]: [usize; 2],
        gradient: &Memory,
        offsets: &Memory,
        method: PoolingMethod,
    ) -> Result<Memory> {
        let out = self.elements(tokens, self.variant.width)?;
        let args = [
            gradient.into(),
            offsets.into(),
            pooling(method).into(),
            (&out).into(),
        ];
        self.run("pool_backward", [texts, 1], &args)?;
        Ok(out)
    }

    /// Storage to f32; the same memory where that is the storage.
    pub(crate) fn widen(&self, count: usize, x: Memory) -> Result<Memory> {
        if self.variant.storage == Storage::F32 {
            return Ok(x);
        }
        let out = self.floats(count)?;
        let args = [(&x).into(), (count as u64).into(), (&out).into()];
        self.run("widen", [count.div_ceil(THREADS), 1], &args)?;
        Ok(out)
    }

    /// f32 to storage at a place.
    pub(crate) fn narrow(&self, count: usize, x: u64, out: u64) -> Result<()> {
        let args = [Arg::Place(x), (count as u64).into(), Arg::Place(out)];
        self.run("narrow", [count.div_ceil(THREADS), 1], &args)
    }
}

fn norm_args(affine: Affine, record: Option<&NormRecord>, out: &Memory) -> [Arg; 6] {
    [
        Arg::Place(affine.gamma),
        Arg::Place(affine.beta),
        affine.eps.into(),
        record.map(|record| &record.unit).into(),
        record.map(|record| &record.inverse_std).into(),
        out.into(),
    ]
}

fn number(kind: Activation) -> u32 {
    match kind {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
    }
}

fn pooling(method: PoolingMethod) -> u32 {
    match method {
        PoolingMethod::Cls => 0,
        PoolingMethod::Mean => 1,
        PoolingMethod::LastToken => 2,
    }
}
