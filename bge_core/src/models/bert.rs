//! BERT and XLM-RoBERTa encoders (Devlin et al. 2019, Conneau et al. 2020), post-norm, with explicit backward.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::batch::Batch;
use super::config::EncoderConfig;
use super::pooling::{pool, pool_backward};
use crate::config::PoolingMethod;
use crate::error::{Result, bail};
use crate::nn::{
    Attention, AttentionRecord, DropoutPlan, Embeddings, EmbeddingsRecord, Gradients, Intermediate, Keep,
    ParamStore, Part, ResidualNorm, ResidualNormRecord, TableSizes, Watcher,
};

/// A BERT or XLM-RoBERTa encoder over flat batches.
#[derive(Clone, Debug)]
pub struct Bert {
    config: EncoderConfig,
    params: ParamStore,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    /// Who must know which part runs.
    watcher: Option<Arc<dyn Watcher>>,
    /// The encoders that compute in the place of this one.
    #[cfg(any(feature = "cuda", test))]
    pub(super) gpus: Arc<super::gpu::Gpus>,
}

#[derive(Clone, Debug)]
struct Layer {
    attention: Attention,
    attention_output: ResidualNorm,
    intermediate: Intermediate,
    output: ResidualNorm,
    /// First of the three dropout sites of this layer.
    site: u64,
}

/// What [`Bert::backward`] needs.
#[derive(Debug)]
pub struct BertRecord(Kept);

#[derive(Debug)]
enum Kept {
    Host {
        embeddings: EmbeddingsRecord,
        layers: Vec<LayerRecord>,
    },
    #[cfg(any(feature = "cuda", test))]
    Gpu(Box<crate::cuda::Record>),
}

#[cfg(any(feature = "cuda", test))]
impl BertRecord {
    /// What an encoder on a GPU kept.
    pub(super) fn on_gpu(record: crate::cuda::Record) -> Self {
        Self(Kept::Gpu(Box::new(record)))
    }
}

#[derive(Debug)]
enum LayerRecord {
    Input(Tensor),
    Full(Box<FullRecord>),
}

#[derive(Debug)]
struct FullRecord {
    x: Tensor,
    attention: AttentionRecord,
    context: Tensor,
    attention_output: ResidualNormRecord,
    middle: Tensor,
    before_activation: Tensor,
    output: ResidualNormRecord,
}

/// Which rows leave the last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Every token.
    All,
    /// The first token of each text: what follows the last attention runs for these alone.
    First,
}

impl Rows {
    /// Those that a pooling reads.
    fn of(pooling: PoolingMethod) -> Self {
        match pooling {
            PoolingMethod::Cls => Self::First,
            PoolingMethod::Mean | PoolingMethod::LastToken => Self::All,
        }
    }
}

/// The batch as one layer sees it.
#[derive(Clone, Copy)]
struct View<'a> {
    offsets: &'a [u32],
    rows: Rows,
    /// Dropout of the attention: all tokens.
    plan: Option<DropoutPlan<'a>>,
    /// Dropout of what follows it: the tokens that `rows` names.
    after: Option<DropoutPlan<'a>>,
}

impl View<'_> {
    /// `x [T, D]` → the rows that go on.
    fn select(&self, x: &Tensor) -> Result<Tensor> {
        match self.rows {
            Rows::All => Ok(x.clone()),
            Rows::First => pool(PoolingMethod::Cls, x, self.offsets),
        }
    }

    /// The gradient of [`View::select`]'s input.
    fn spread(&self, gradient: Tensor) -> Result<Tensor> {
        match self.rows {
            Rows::All => Ok(gradient),
            Rows::First => pool_backward(PoolingMethod::Cls, &gradient, self.offsets),
        }
    }
}

/// Weights that transformers keeps in the file and an embedder never uses: saved as they were read.
fn unused(name: &str) -> bool {
    name.starts_with("pooler.")
}

impl Bert {
    /// Builds the encoder over weights named as in Hugging Face's `BertModel` and `XLMRobertaModel`.
    ///
    /// Names that the encoder does not use are kept only for the pooler; others must be gone already.
    pub fn new(config: EncoderConfig, weights: BTreeMap<String, Tensor>) -> Result<Self> {
        Self::with_head(config, weights, |_| false)
    }

    /// Builds the encoder over weights that also hold those of a head, which are trained with it.
    pub(super) fn with_head(
        config: EncoderConfig,
        weights: BTreeMap<String, Tensor>,
        head: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let unused = |name: &str| unused(name) && !head(name);
        let mut params = ParamStore::new(weights);
        params.freeze(unused);
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let (eps, dropout) = (config.layer_norm_eps, config.hidden_dropout_prob);
        let sizes = TableSizes {
            words: config.vocab_size,
            positions: config.max_position_embeddings,
            types: config.type_vocab_size,
        };
        let embeddings = Embeddings::load(&params, sizes, width, eps, dropout)?;
        let layers = (0..config.num_hidden_layers).map(|index| {
            let name = format!("encoder.layer.{index}");
            let attention_dropout = config.attention_probs_dropout_prob;
            let heads = config.num_attention_heads;
            Ok(Layer {
                attention: Attention::load(
                    &params,
                    &format!("{name}.attention.self"),
                    width,
                    heads,
                    attention_dropout,
                )?,
                attention_output: ResidualNorm::load(
                    &params,
                    &format!("{name}.attention.output"),
                    width,
                    width,
                    eps,
                    dropout,
                )?,
                intermediate: Intermediate::load(
                    &params,
                    &format!("{name}.intermediate"),
                    width,
                    hidden,
                    config.hidden_act,
                )?,
                output: ResidualNorm::load(&params, &format!("{name}.output"), hidden, width, eps, dropout)?,
                site: 1 + 3 * index as u64,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        let known = |name: &str| {
            unused(name)
                || head(name)
                || name.starts_with("embeddings.")
                || name
                    .strip_prefix("encoder.layer.")
                    .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok())
                    .is_some_and(|layer| layer < config.num_hidden_layers)
        };
        if let Some((name, ..)) = params.iter().find(|(name, ..)| !known(name)) {
            bail!(
                ModelFormat,
                "the weights hold `{name}`, which config.json has no place for"
            );
        }
        Ok(Self {
            config,
            params,
            embeddings,
            layers,
            watcher: None,
            #[cfg(any(feature = "cuda", test))]
            gpus: Arc::default(),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The GPUs that it computes on; 0 where the CPU does.
    #[cfg_attr(
        not(any(feature = "cuda", test)),
        expect(clippy::unused_self, reason = "this build has none")
    )]
    pub(crate) fn gpu_count(&self) -> usize {
        #[cfg(any(feature = "cuda", test))]
        return self.gpus.len();
        #[cfg(not(any(feature = "cuda", test)))]
        0
    }

    /// All weights.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// Keeps the weights whose name matches as they are (`fix_position_embedding`).
    pub fn freeze(&mut self, matches: impl Fn(&str) -> bool) {
        self.params.freeze(matches);
    }

    /// Hidden states `[T, D]` of the last layer, and the record for the backward unless `keep` is nothing.
    pub fn forward(
        &self,
        batch: &Batch,
        keep: Keep,
        dropout: Option<u64>,
    ) -> Result<(Tensor, Option<BertRecord>)> {
        self.forward_rows(batch, Rows::All, keep, dropout)
    }

    /// Hidden states of the last layer: `[T, D]`, or `[n, D]` for the first tokens alone, with the same bits.
    pub(super) fn forward_rows(
        &self,
        batch: &Batch,
        rows: Rows,
        keep: Keep,
        dropout: Option<u64>,
    ) -> Result<(Tensor, Option<BertRecord>)> {
        #[cfg(any(feature = "cuda", test))]
        {
            let outcome = match rows {
                Rows::All => crate::cuda::Outcome::Hidden,
                Rows::First => crate::cuda::Outcome::First,
            };
            let enter = |part| self.enter(part);
            if let Some(made) = super::gpu::forward(&self.gpus, batch, outcome, keep, dropout, enter)? {
                return Ok(made);
            }
        }
        let first = batch.first_identities();
        let plan = dropout.map(|key| DropoutPlan {
            key,
            tokens: batch.identities(),
        });
        self.enter(Part::Tables)?;
        let (mut x, embeddings) = self.embeddings.forward(batch.rows(), plan, 0)?;
        self.leave(Part::Tables)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            self.enter(Part::Layer(index))?;
            let view = self.view(index, batch, rows, plan, &first);
            match keep {
                Keep::Nothing => x = layer.forward(&x, view)?,
                Keep::Inputs => {
                    let y = layer.forward(&x, view)?;
                    layers.push(LayerRecord::Input(std::mem::replace(&mut x, y)));
                }
                Keep::All => {
                    let (y, record) = layer.forward_keeping(&x, view)?;
                    layers.push(LayerRecord::Full(Box::new(record)));
                    x = y;
                }
            }
            self.leave(Part::Layer(index))?;
        }
        let record = (keep != Keep::Nothing).then_some(BertRecord(Kept::Host { embeddings, layers }));
        Ok((x, record))
    }

    /// Adds the gradient of every trainable weight, from the gradient of the hidden states `[T, D]`. An encoder on a GPU keeps
    /// its gradients there.
    ///
    /// `batch` and `dropout` are those of the forward that made `record`; the record is freed layer by layer.
    pub fn backward(
        &self,
        batch: &Batch,
        record: BertRecord,
        d_hidden: Tensor,
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<()> {
        self.backward_rows(batch, Rows::All, record, d_hidden, dropout, grads)
    }

    /// The backward of [`Bert::forward_rows`] with the same `rows`.
    pub(super) fn backward_rows(
        &self,
        batch: &Batch,
        rows: Rows,
        record: BertRecord,
        d_hidden: Tensor,
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let (embeddings, mut layers) = match record.0 {
            Kept::Host { embeddings, layers } => (embeddings, layers),
            #[cfg(any(feature = "cuda", test))]
            Kept::Gpu(record) => return self.backward_on_gpu(batch, *record, &d_hidden, grads),
        };
        let first = batch.first_identities();
        let plan = dropout.map(|key| DropoutPlan {
            key,
            tokens: batch.identities(),
        });
        let mut gradient = d_hidden;
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let part = Part::Layer(index);
            self.enter(part)?;
            let view = self.view(index, batch, rows, plan, &first);
            let record = match layers.pop() {
                Some(LayerRecord::Full(record)) => *record,
                Some(LayerRecord::Input(x)) => layer.forward_keeping(&x, view)?.1,
                None => bail!(Internal, "a layer kept no record"),
            };
            gradient = layer.backward(record, &gradient, view, grads)?;
            self.leave(part)?;
            self.collect(part, grads)?;
        }
        self.embeddings
            .backward(batch.rows(), &gradient, &embeddings, plan, 0, grads)?;
        self.collect(Part::Tables, grads)?;
        self.collect(Part::Rest, grads)
    }

    /// Tells `watcher` from now on which part runs.
    pub(crate) fn watch(&mut self, watcher: Arc<dyn Watcher>) {
        self.watcher = Some(watcher);
    }

    /// The passes to make where this rank needs `own`: as many as any other rank, if they meet in every pass.
    pub(crate) fn passes(&self, own: usize) -> Result<usize> {
        self.watcher
            .as_ref()
            .map_or(Ok(own), |watcher| watcher.passes(own))
    }

    /// A forward of nothing, for a rank that has less to compute than others.
    pub(crate) fn idle_forward(&self) -> Result<()> {
        let layers = (0..self.layers.len()).map(Part::Layer);
        for part in std::iter::once(Part::Tables).chain(layers) {
            self.enter(part)?;
            self.leave(part)?;
        }
        Ok(())
    }

    /// A backward of nothing.
    pub(crate) fn idle_backward(&self, grads: &mut Gradients) -> Result<()> {
        for part in (0..self.layers.len()).rev().map(Part::Layer) {
            self.enter(part)?;
            self.leave(part)?;
            self.collect(part, grads)?;
        }
        self.collect(Part::Tables, grads)?;
        self.collect(Part::Rest, grads)
    }

    fn enter(&self, part: Part) -> Result<()> {
        self.watcher
            .as_ref()
            .map_or(Ok(()), |watcher| watcher.enter(part))
    }

    fn leave(&self, part: Part) -> Result<()> {
        self.watcher
            .as_ref()
            .map_or(Ok(()), |watcher| watcher.leave(part))
    }

    /// The gradients of a part are complete for this pass; [`Bert::backward`] says so itself.
    pub(crate) fn collect(&self, part: Part, grads: &mut Gradients) -> Result<()> {
        self.watcher
            .as_ref()
            .map_or(Ok(()), |watcher| watcher.collect(part, grads))
    }

    /// One vector per text, `[n, D]`, and the record for [`Bert::vectors_backward`] unless `keep` is nothing.
    ///
    /// The bits are those of [`Bert::forward`] and [`pool`]. For `cls`, the last layer computes nothing but keys and
    /// values for the other tokens.
    pub fn vectors(
        &self,
        batch: &Batch,
        pooling: PoolingMethod,
        keep: Keep,
        dropout: Option<u64>,
    ) -> Result<(Tensor, Option<BertRecord>)> {
        #[cfg(any(feature = "cuda", test))]
        {
            let outcome = crate::cuda::Outcome::Pooled(pooling);
            let enter = |part| self.enter(part);
            if let Some(made) = super::gpu::forward(&self.gpus, batch, outcome, keep, dropout, enter)? {
                return Ok(made);
            }
        }
        let rows = Rows::of(pooling);
        let (hidden, record) = self.forward_rows(batch, rows, keep, dropout)?;
        let vectors = match rows {
            Rows::All => pool(pooling, &hidden, batch.offsets())?,
            Rows::First => hidden,
        };
        Ok((vectors, record))
    }

    /// Adds the gradient of every trainable weight, from the gradient of the vectors `[n, D]`.
    ///
    /// `batch`, `pooling` and `dropout` are those of the [`Bert::vectors`] that made `record`.
    pub fn vectors_backward(
        &self,
        batch: &Batch,
        pooling: PoolingMethod,
        record: BertRecord,
        d_vectors: &Tensor,
        dropout: Option<u64>,
        grads: &mut Gradients,
    ) -> Result<()> {
        #[cfg(any(feature = "cuda", test))]
        let record = match record.0 {
            Kept::Gpu(record) => return self.backward_on_gpu(batch, *record, d_vectors, grads),
            host @ Kept::Host { .. } => BertRecord(host),
        };
        let rows = Rows::of(pooling);
        let gradient = match rows {
            Rows::All => pool_backward(pooling, d_vectors, batch.offsets())?,
            Rows::First => d_vectors.clone(),
        };
        self.backward_rows(batch, rows, record, gradient, dropout, grads)
    }

    /// The backward of what ran on the GPU, whose gradients stay there.
    #[cfg(any(feature = "cuda", test))]
    fn backward_on_gpu(
        &self,
        batch: &Batch,
        record: crate::cuda::Record,
        gradient: &Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let Some(gpu) = self.gpus.first() else {
            bail!(Internal, "this record is that of an encoder on a GPU");
        };
        let (enter, done) = (|part| self.enter(part), |part| self.collect(part, grads));
        super::gpu::backward(gpu, batch, record, gradient, enter, done)?;
        self.collect(Part::Rest, grads)
    }

    /// What the layer of this index sees: only the last one computes fewer rows.
    fn view<'a>(
        &self,
        index: usize,
        batch: &'a Batch,
        rows: Rows,
        plan: Option<DropoutPlan<'a>>,
        first: &'a [u64],
    ) -> View<'a> {
        let last = index + 1 == self.layers.len();
        let rows = if last { rows } else { Rows::All };
        View {
            offsets: batch.offsets(),
            rows,
            plan,
            after: plan.map(|plan| match rows {
                Rows::All => plan,
                Rows::First => DropoutPlan {
                    tokens: first,
                    ..plan
                },
            }),
        }
    }

    /// The first dropout site that no layer uses.
    pub(super) fn free_site(&self) -> u64 {
        1 + 3 * self.layers.len() as u64
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, view: View) -> Result<Tensor> {
        let (context, _) = self.attention.forward(x, view.offsets, view.plan, self.site)?;
        let (context, x) = (view.select(&context)?, view.select(x)?);
        let (middle, _) = self
            .attention_output
            .forward(&context, &x, view.after, self.site + 1)?;
        drop(context);
        let inner = self.intermediate.forward(&middle)?;
        Ok(self.output.forward(&inner, &middle, view.after, self.site + 2)?.0)
    }

    fn forward_keeping(&self, x: &Tensor, view: View) -> Result<(Tensor, FullRecord)> {
        let (context, attention) = self.attention.forward(x, view.offsets, view.plan, self.site)?;
        let (middle, attention_output) = self.attention_output.forward(
            &view.select(&context)?,
            &view.select(x)?,
            view.after,
            self.site + 1,
        )?;
        let (before_activation, inner) = self.intermediate.forward_keeping(&middle)?;
        let (y, output) = self.output.forward(&inner, &middle, view.after, self.site + 2)?;
        let x = x.clone();
        Ok((
            y,
            FullRecord {
                x,
                attention,
                context,
                attention_output,
                middle,
                before_activation,
                output,
            },
        ))
    }

    fn backward(&self, record: FullRecord, dy: &Tensor, view: View, grads: &mut Gradients) -> Result<Tensor> {
        let FullRecord {
            x,
            attention,
            context,
            attention_output,
            middle,
            before_activation,
            output,
        } = record;
        let inner = self.intermediate.reapply(&before_activation)?;
        let (d_inner, d_middle) =
            self.output
                .backward(&inner, dy, output, view.after, self.site + 2, grads)?;
        drop(inner);
        self.intermediate
            .backward_into(&middle, &before_activation, &d_inner, &d_middle, grads)?;
        drop((before_activation, d_inner, middle));
        let (d_context, dx) = self.attention_output.backward(
            &view.select(&context)?,
            &d_middle,
            attention_output,
            view.after,
            self.site + 1,
            grads,
        )?;
        let (d_context, dx) = (view.spread(d_context)?, view.spread(dx)?);
        self.attention.backward(
            &x,
            &context,
            &d_context,
            &dx,
            attention,
            view.offsets,
            view.plan,
            self.site,
            grads,
        )?;
        Ok(dx)
    }
}
