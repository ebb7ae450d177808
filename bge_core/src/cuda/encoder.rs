//! A BERT or XLM-RoBERTa encoder on a GPU: its weights, its forward and its backward.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::blocks::Share;
use super::gpu::{Arg, Gpu, Memory, Storage, memory_of, read_values};
use super::gradients::Gradients;
use super::kernels::Variant;
use super::layer::{Layer, LayerRecord, Norm, Shape, Sums, View, find};
use super::layout::Layout;
use super::ops::{NormRecord, Ops, Tiles};
use super::pieces::{Pieces, tiles};
use super::store::Store;
use crate::config::PoolingMethod;
use crate::error::{Error, ErrorKind, Result, bail};
use crate::nn::{Activation, Keep, ParamStore, Part, TokenRows};

/// What an encoder's `config.json` says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) width: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) activation: Activation,
    pub(crate) eps: f32,
    pub(crate) hidden_dropout: f32,
    pub(crate) attention_dropout: f32,
}

/// A flat batch.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) rows: TokenRows<'a>,
    /// Borders of the texts, `n + 1` numbers from 0 to `T`.
    pub(crate) offsets: &'a [u32],
    /// Identity of each token, for the dropout.
    pub(crate) identities: &'a [u64],
}

/// What leaves the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The hidden states of all tokens `[T, D]`.
    Hidden,
    /// Those of the first tokens `[n, D]`.
    First,
    /// One vector per text `[n, D]`.
    Pooled(PoolingMethod),
}

impl Outcome {
    /// Whether only first tokens go through what follows the last attention.
    fn first(self) -> bool {
        matches!(self, Self::First | Self::Pooled(PoolingMethod::Cls))
    }
}

#[derive(Debug)]
struct Tables {
    /// Word, token-type and position table.
    ids: [usize; 3],
    norm: Norm,
}

/// The encoder.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(super) ops: Ops,
    pub(super) store: Store,
    tables: Tables,
    layers: Vec<Layer>,
    shape: Shape,
    sums: Mutex<Gradients>,
}

/// A batch in the memory of the GPU.
#[derive(Debug)]
struct Resident {
    tokens: usize,
    texts: usize,
    offsets: Memory,
    /// Rows of the word, token-type and position table.
    rows: [Memory; 3],
    /// Key of the dropout and identities: of all tokens, and of the texts' first ones.
    dropout: Option<(u64, Memory, Memory)>,
    forward_tiles: Tiles,
    backward_tiles: Tiles,
}

/// What [`Encoder::backward`] needs.
#[derive(Debug)]
pub(crate) struct Record {
    batch: Resident,
    outcome: Outcome,
    embeddings: NormRecord,
    layers: Vec<(Memory, Option<LayerRecord>)>,
}

impl Encoder {
    /// Puts the weights of `params` on a GPU whose kernels are those of `variant`: all of them, or one rank's share. Whoever runs an
    /// encoder with a share must bring each part together before it runs ([`Encoder::part`]).
    pub(crate) fn new(
        gpu: Arc<dyn Gpu>,
        variant: Variant,
        sizes: Sizes,
        params: &ParamStore,
        share: Option<Share>,
    ) -> Result<Self> {
        let layout = Layout::new(params);
        let shape = Shape {
            width: sizes.width,
            inner: sizes.inner,
            activation: sizes.activation,
            eps: sizes.eps,
            hidden_dropout: sizes.hidden_dropout,
            attention_dropout: sizes.attention_dropout,
        };
        let tables = Tables {
            ids: [
                find(&layout, "embeddings.word_embeddings.weight")?,
                find(&layout, "embeddings.token_type_embeddings.weight")?,
                find(&layout, "embeddings.position_embeddings.weight")?,
            ],
            norm: Norm::find(&layout, "embeddings.LayerNorm")?,
        };
        let layers = (0..sizes.layers).map(|index| Layer::find(&layout, index, shape));
        let layers = layers.collect::<Result<_>>()?;
        let ops = Ops { gpu, variant };
        let sums = Gradients::new(layout.floats());
        let encoder = Self {
            store: Store::new(&ops, layout, share)?,
            ops,
            tables,
            layers,
            shape,
            sums: Mutex::new(sums),
        };
        encoder.upload(params)?;
        Ok(encoder)
    }

    /// What it runs on, for a person.
    pub(crate) fn device(&self) -> String {
        self.ops.gpu.name()
    }

    pub(super) fn sums(&self) -> std::sync::MutexGuard<'_, Gradients> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The floats of a weight in the flat buffers.
    pub(crate) fn floats(&self, id: usize) -> Range<usize> {
        let place = self.store.layout.places().get(id);
        place.map_or(0..0, |place| place.first..place.first + place.len)
    }

    /// The GPU, and the floats of a flat buffer.
    #[cfg(feature = "train")]
    pub(crate) fn flat(&self) -> (&Arc<dyn Gpu>, usize) {
        (&self.ops.gpu, self.store.layout.floats())
    }

    /// What the kernels of the GPU were compiled for.
    #[cfg(feature = "train")]
    pub(crate) fn variant(&self) -> Variant {
        self.ops.variant
    }

    /// The floats of a part in the flat buffers; none where nothing of it is trained.
    #[cfg(feature = "train")]
    pub(crate) fn trained_part(&self, part: Part) -> Range<usize> {
        let floats = self.store.layout.part(part);
        let mut places = self.store.layout.places().iter();
        if places.any(|place| place.trainable && floats.contains(&place.first)) {
            floats
        } else {
            0..0
        }
    }

    /// The floats of the weights that take part, those that lie side by side as one stretch.
    #[cfg(feature = "train")]
    pub(crate) fn stretches(&self, live: &[bool]) -> Vec<Range<usize>> {
        self.store.layout.stretches(live)
    }

    /// Of each weight, whether the GPU computes with it.
    pub(crate) fn inside(&self) -> impl Iterator<Item = bool> {
        self.store.layout.places().iter().map(|place| place.inside)
    }

    fn resident(&self, input: Input, dropout: Option<u64>) -> Result<Resident> {
        let gpu = &self.ops.gpu;
        let tiles_of = |rows: usize| {
            let list = tiles(input.offsets, rows);
            Ok::<_, Error>(Tiles {
                count: list.len() / 3,
                list: memory_of(gpu, &list)?,
            })
        };
        let dropout = match dropout {
            None => None,
            Some(key) => {
                let starts = input.offsets.iter().take(input.offsets.len().saturating_sub(1));
                let first: Vec<u64> = starts
                    .filter_map(|&at| input.identities.get(at as usize).copied())
                    .collect();
                Some((key, memory_of(gpu, input.identities)?, memory_of(gpu, &first)?))
            }
        };
        Ok(Resident {
            tokens: input.rows.words.len(),
            texts: input.offsets.len().saturating_sub(1),
            offsets: memory_of(gpu, input.offsets)?,
            rows: [
                memory_of(gpu, input.rows.words)?,
                memory_of(gpu, input.rows.types)?,
                memory_of(gpu, input.rows.positions)?,
            ],
            dropout,
            forward_tiles: tiles_of(self.ops.variant.forward_tile()[0])?,
            backward_tiles: tiles_of(self.ops.variant.backward_tile()[0])?,
        })
    }

    /// What leaves the encoder, as f32, and the record for the backward unless `keep` is nothing; `enter` hears which part is about
    /// to run.
    pub(crate) fn forward(
        &self,
        input: Input,
        outcome: Outcome,
        keep: Keep,
        dropout: Option<u64>,
        enter: impl Fn(Part) -> Result<()>,
    ) -> Result<(Vec<f32>, Option<Record>)> {
        let batch = self.resident(input, dropout)?;
        let (ops, store) = (&self.ops, &self.store);
        let keeping = keep != Keep::Nothing;
        enter(Part::Tables)?;
        let (mut x, embeddings) = ops.embed(
            batch.tokens,
            self.tables.ids.map(|id| store.vector(id)),
            batch.rows.each_ref(),
            batch.view(false).mask(0, self.shape.hidden_dropout),
            self.tables.norm.affine(store, self.shape.eps),
            keeping,
        )?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            enter(Part::Layer(index))?;
            let view = batch.view(outcome.first() && index + 1 == self.layers.len());
            let (y, record) = layer.forward(ops, store, &x, view, keep == Keep::All)?;
            let input = std::mem::replace(&mut x, y);
            if keeping {
                layers.push((input, record));
            }
        }
        let rows = if outcome.first() {
            batch.texts
        } else {
            batch.tokens
        };
        let (count, out) = match outcome {
            Outcome::Pooled(method) if !outcome.first() => (
                batch.texts * self.shape.width,
                ops.pool(batch.texts, &x, &batch.offsets, method)?,
            ),
            _ => (rows * self.shape.width, ops.widen(rows * self.shape.width, x)?),
        };
        let values = read_values(&ops.gpu, out.address(), count)?;
        let record = embeddings.map(|embeddings| Record {
            batch,
            outcome,
            embeddings,
            layers,
        });
        Ok((values, record))
    }

    /// Adds the gradients of all weights, from that of what left the encoder; `enter` hears which part is about to run, and `done`
    /// which one has all of its own. The tables run without their weights.
    pub(crate) fn backward(
        &self,
        input: Input,
        record: Record,
        gradient: &[f32],
        enter: impl Fn(Part) -> Result<()>,
        mut done: impl FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        let (ops, store) = (&self.ops, &self.store);
        let Record {
            batch,
            outcome,
            embeddings,
            mut layers,
        } = record;
        let scale = self.sums().scale();
        let mut dy = self.enter(&batch, outcome, gradient, scale)?;
        for (index, layer) in self.layers.iter().enumerate().rev() {
            enter(Part::Layer(index))?;
            let view = batch.view(outcome.first() && index + 1 == self.layers.len());
            let Some((x, kept)) = layers.pop() else {
                bail!(Internal, "a layer kept no record");
            };
            let kept = match kept {
                Some(kept) => kept,
                None => layer
                    .forward(ops, store, &x, view, true)?
                    .1
                    .ok_or_else(|| Error::new(ErrorKind::Internal, "a forward kept no record"))?,
            };
            let gradients = &self.gradients_of(Part::Layer(index))?;
            let sums = Sums {
                ops,
                store,
                gradients,
            };
            dy = layer.backward(sums, &x, kept, &dy, view)?;
            done(Part::Layer(index))?;
        }
        let gradients = &self.gradients_of(Part::Tables)?;
        let sums = Sums {
            ops,
            store,
            gradients,
        };
        let mask = batch.view(false).mask(0, self.shape.hidden_dropout);
        if mask.0.is_some() {
            dy = ops.dropout(batch.tokens, &dy, mask)?;
        }
        let norm = &self.tables.norm;
        let unmasked = super::ops::Mask(None);
        let (d_sum, _) = norm.backward(sums, batch.tokens, &dy, &embeddings, unmasked)?;
        let rows = [input.rows.words, input.rows.types, input.rows.positions];
        for (id, rows) in self.tables.ids.into_iter().zip(rows) {
            if store.layout.places().get(id).is_some_and(|place| place.trainable) {
                self.add_to_table(store.gradient(gradients, id), rows, &d_sum)?;
            }
        }
        done(Part::Tables)
    }

    /// The gradient of the last layer's output.
    fn enter(&self, batch: &Resident, outcome: Outcome, gradient: &[f32], scale: f32) -> Result<Memory> {
        let (ops, width) = (&self.ops, self.shape.width);
        let rows = match outcome {
            Outcome::Hidden => batch.tokens,
            Outcome::First | Outcome::Pooled(_) => batch.texts,
        };
        if gradient.len() != rows * width {
            bail!(
                Internal,
                "{} gradients do not fit {rows} rows of {width}",
                gradient.len()
            );
        }
        let scaled: Vec<f32> = gradient.iter().map(|x| x * scale).collect();
        let floats = memory_of(&ops.gpu, &scaled)?;
        match outcome {
            Outcome::Pooled(method) if !outcome.first() => {
                ops.pool_backward([batch.texts, batch.tokens], &floats, &batch.offsets, method)
            }
            _ if ops.variant.storage == Storage::F32 => Ok(floats),
            _ => {
                let out = ops.elements(rows, width)?;
                ops.narrow(rows * width, floats.address(), out.address())?;
                Ok(out)
            }
        }
    }

    /// Adds the rows of `d_sum` to the rows of a table's gradient that the tokens took.
    fn add_to_table(&self, table: u64, rows: &[u32], d_sum: &Memory) -> Result<()> {
        let gpu = &self.ops.gpu;
        let plan = Pieces::new(rows);
        let partials = self.ops.floats(plan.partials * self.shape.width)?;
        let lists = [&plan.order, &plan.parts, &plan.rows].map(|list| memory_of(gpu, list));
        let [order, pieces, whole] = lists;
        let (order, pieces, whole) = (order?, pieces?, whole?);
        let args = [
            d_sum.into(),
            (&order).into(),
            (&pieces).into(),
            Arg::Place(table),
            (&partials).into(),
        ];
        gpu.launch("table_pieces", [plan.parts.len() / 3, 1], &args)?;
        let args = [(&partials).into(), (&whole).into(), Arg::Place(table)];
        gpu.launch("table_rows", [plan.rows.len() / 3, 1], &args)
    }
}

impl Resident {
    fn view(&self, first: bool) -> View<'_> {
        View {
            tokens: self.tokens,
            texts: self.texts,
            offsets: &self.offsets,
            forward_tiles: &self.forward_tiles,
            backward_tiles: &self.backward_tiles,
            dropout: self
                .dropout
                .as_ref()
                .map(|(key, tokens, first)| (*key, [tokens, first])),
            first,
        }
    }
}
