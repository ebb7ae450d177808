//! BGE-M3's model (Chen et al. 2024): an encoder, and heads that make of each token a lexical weight and a vector.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::bert::Bert;
use super::config::EncoderConfig;
use super::folder::ModelFolder;
use super::torch_file::{read_state_dict, write_state_dict};
use super::weights::{read_file, read_weights, write_weights_file};
use crate::error::{Error, ErrorKind, Result};
use crate::issue::{Issue, Severity};
use crate::nn::{Gradients, Linear, ParamStore, Watcher, read, tensor, update};
use crate::random::{Draws, Stream, key};

const SPARSE: &str = "sparse_linear";
const COLBERT: &str = "colbert_linear";
/// The heads, in the order of their names.
const HEADS: [&str; 2] = [COLBERT, SPARSE];
/// How the files of a head end, the one that is read first.
const ENDINGS: [&str; 2] = [".pt", ".safetensors"];

/// An encoder with the two heads of BGE-M3, each of which may be missing.
#[derive(Clone, Debug)]
pub struct M3 {
    encoder: Bert,
    sparse: Option<Linear>,
    colbert: Option<Linear>,
}

/// What the heads made of hidden states.
#[derive(Clone, Debug, Default)]
pub struct HeadVectors {
    /// `[T]`: the lexical weight of each token, 0 and above; none without the sparse head or where it was not asked for.
    pub weights: Option<Vec<f32>>,
    /// `[T, C]`: the vector of each token, not normalised; likewise.
    pub vectors: Option<Tensor>,
}

/// Which heads to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The lexical weights.
    pub sparse: bool,
    /// The vector of each token.
    pub colbert: bool,
}

/// Whether a weight is one of a head's.
fn of_head(name: &str) -> bool {
    let map = name
        .strip_suffix(".weight")
        .or_else(|| name.strip_suffix(".bias"));
    map.is_some_and(|map| HEADS.contains(&map))
}

impl M3 {
    /// Opens a folder with the heads that it has; a folder without any is an encoder like others.
    pub fn open(folder: &ModelFolder) -> Result<Self> {
        let weights = read_m3_weights(&folder.path)?;
        Self::new(folder.config.clone(), weights).map_err(|error| error.with_path(&folder.path))
    }

    /// Opens a folder to train all heads: those that are missing start from random weights, and the notes say so.
    ///
    /// The draws are a function of `seed`: uniform within one over the root of the width, as `torch.nn.Linear` starts.
    /// `colbert_dim` is the length of a token's vector where the head is new, the width of the encoder if `None`; where
    /// the folder has the head, another length is an error.
    pub fn open_with_heads(
        folder: &ModelFolder,
        seed: u64,
        colbert_dim: Option<usize>,
    ) -> Result<(Self, Vec<Issue>)> {
        let mut weights = read_m3_weights(&folder.path)?;
        let width = folder.config.hidden_size;
        let mut notes = Vec::new();
        for (index, (head, outputs)) in [(COLBERT, colbert_dim.unwrap_or(width)), (SPARSE, 1)]
            .into_iter()
            .enumerate()
        {
            let (weight, bias) = (format!("{head}.weight"), format!("{head}.bias"));
            if weights.contains_key(&weight) || weights.contains_key(&bias) {
                continue; // half a head is an error that the constructor reports
            }
            let mut draws = Draws::new(key(seed, Stream::Init, index as u64));
            let bound = 1.0 / (width as f64).sqrt();
            let mut draw = |count: usize| -> Vec<f32> {
                (0..count)
                    .map(|_| ((2.0 * draws.unit() - 1.0) * bound) as f32)
                    .collect()
            };
            weights.insert(weight, tensor(draw(outputs * width), (outputs, width))?);
            weights.insert(bias, tensor(draw(outputs), outputs)?);
            let message =
                format!("the folder has no `{head}.pt`: this head starts from random weights (seed {seed})");
            notes.push(Issue::new("model.fresh_head", Severity::Warning, message));
        }
        let model = Self::new(folder.config.clone(), weights)
            .and_then(|model| model.expect_colbert_dim(colbert_dim))
            .map_err(|error| error.with_path(&folder.path))?;
        Ok((model, notes))
    }

    /// Builds it over the encoder's weights and those of the heads it has, named `sparse_linear.weight` and so on.
    pub fn new(config: EncoderConfig, weights: BTreeMap<String, Tensor>) -> Result<Self> {
        let width = config.hidden_size;
        let encoder = Bert::with_head(config, weights, of_head)?;
        let params = encoder.params();
        let present = |head: &str| {
            params.contains(&format!("{head}.weight")) || params.contains(&format!("{head}.bias"))
        };
        let sparse = present(SPARSE)
            .then(|| Linear::load(params, SPARSE, width, 1))
            .transpose()?;
        let outputs = params
            .iter()
            .find(|(name, ..)| *name == "colbert_linear.weight")
            .and_then(|(_, value, _)| value.dims().first().copied());
        let colbert = present(COLBERT)
            .then(|| Linear::load(params, COLBERT, width, outputs.unwrap_or(width)))
            .transpose()?;
        Ok(Self {
            encoder,
            sparse,
            colbert,
        })
    }

    fn expect_colbert_dim(self, wanted: Option<usize>) -> Result<Self> {
        if let (Some(wanted), Some(has)) = (wanted, self.colbert_dim())
            && wanted != has
        {
            let message = format!(
                "the folder's colbert_linear makes vectors of {has} numbers, not {wanted}; leave colbert_dim out, or remove \
                 the folder's colbert_linear files to start that head anew"
            );
            return Err(Error::new(ErrorKind::InvalidConfig, message).with_field("colbert_dim"));
        }
        Ok(self)
    }

    /// The encoder; its weights include those of the heads.
    pub fn encoder(&self) -> &Bert {
        &self.encoder
    }

    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn encoder_mut(&mut self) -> &mut Bert {
        &mut self.encoder
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &EncoderConfig {
        self.encoder.config()
    }

    /// Tells `watcher` from now on which part runs.
    pub(crate) fn watch(&mut self, watcher: std::sync::Arc<dyn Watcher>) {
        self.encoder.watch(watcher);
    }

    /// All weights, of encoder and heads.
    pub fn params(&self) -> &ParamStore {
        self.encoder.params()
    }

    /// Keeps the weights whose name matches as they are.
    pub fn freeze(&mut self, matches: impl Fn(&str) -> bool) {
        self.encoder.freeze(matches);
    }

    /// Keeps all weights but those of the heads as they are (`fix_encoder`).
    pub fn freeze_encoder(&mut self) {
        self.encoder.freeze(|name| !of_head(name));
    }

    /// Keeps the weights of the heads as they are: training without `unified_finetuning`.
    pub fn freeze_heads(&mut self) {
        self.encoder.freeze(of_head);
    }

    /// Which heads it has.
    pub fn heads(&self) -> Heads {
        Heads {
            sparse: self.sparse.is_some(),
            colbert: self.colbert.is_some(),
        }
    }

    /// Numbers in the vector of a token; none without that head.
    pub fn colbert_dim(&self) -> Option<usize> {
        self.colbert.as_ref().map(Linear::outputs)
    }

    /// Runs the heads that are asked for and there on hidden states `[T, D]`.
    pub fn run_heads(&self, hidden: &Tensor, wanted: Heads) -> Result<HeadVectors> {
        let weights = match self.sparse.as_ref().filter(|_| wanted.sparse) {
            Some(linear) => {
                let raw = linear.forward(hidden)?;
                Some(read(&raw)?.iter().map(|x| x.max(0.0)).collect())
            }
            None => None,
        };
        let vectors = match self.colbert.as_ref().filter(|_| wanted.colbert) {
            Some(linear) => Some(linear.forward(hidden)?),
            None => None,
        };
        Ok(HeadVectors { weights, vectors })
    }

    /// Adds the gradients of the heads' weights, and that of the hidden states to `d_hidden`.
    ///
    /// `weights` are those of the forward; the gradients are of the weights `[T]` and of the raw vectors `[T, C]`.
    pub fn heads_backward(
        &self,
        hidden: &Tensor,
        weights: &[f32],
        d_weights: &[f32],
        d_vectors: &Tensor,
        d_hidden: &Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        if let Some(linear) = &self.sparse {
            // A weight of 0 was cut by the ReLU.
            let d_raw: Vec<f32> = d_weights
                .iter()
                .zip(weights)
                .map(|(gradient, weight)| if *weight > 0.0 { *gradient } else { 0.0 })
                .collect();
            let d_raw = tensor(d_raw, (weights.len(), 1))?;
            linear.backward_params(hidden, &d_raw, grads)?;
            linear.add_backward_input(d_hidden, &d_raw)?;
        }
        if let Some(linear) = &self.colbert {
            linear.backward_params(hidden, d_vectors, grads)?;
            linear.add_backward_input(d_hidden, d_vectors)?;
        }
        Ok(())
    }

    /// Weights of the encoder alone, in the order of their names.
    pub(super) fn encoder_weights(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let all = self.params().iter().filter(|(name, ..)| !of_head(name));
        all.map(|(name, value, _)| (name, value))
    }

    /// Writes `sparse_linear` and `colbert_linear` into an existing folder, each as `.pt`, which FlagEmbedding reads, and as
    /// `.safetensors`.
    pub(super) fn save_heads(&self, folder: &Path) -> Result<()> {
        for head in HEADS {
            let part = |part: &str| {
                let name = format!("{head}.{part}");
                let mut found = self.params().iter().filter(|(other, ..)| *other == name);
                found.next().map(|(_, value, _)| value)
            };
            let (Some(weight), Some(bias)) = (part("weight"), part("bias")) else {
                continue;
            };
            let named = [("weight", weight), ("bias", bias)];
            write_state_dict(&folder.join(format!("{head}.pt")), &named)?;
            write_weights_file(&folder.join(format!("{head}.safetensors")), &named)?;
        }
        Ok(())
    }
}

/// Scales the vectors of all tokens to length 1, in place, and gives their lengths; shorter than `1e-12` counts as that
/// (torch's `normalize`).
pub fn normalize_rows(rows: &Tensor) -> Result<Vec<f32>> {
    let (_, width) = rows.dims2()?;
    update(rows, |values| {
        let scale = |row: &mut [f32]| {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            for x in row.iter_mut() {
                *x /= length;
            }
            length
        };
        values.chunks_exact_mut(width.max(1)).map(scale).collect()
    })
}

/// The gradient of the vectors before [`normalize_rows`], from the one after it, in place.
pub fn normalize_rows_backward(gradient: &mut [f32], unit: &[f32], lengths: &[f32]) {
    let width = unit.len() / lengths.len().max(1);
    for ((gradient, unit), length) in gradient
        .chunks_exact_mut(width.max(1))
        .zip(unit.chunks_exact(width.max(1)))
        .zip(lengths)
    {
        let along: f32 = gradient.iter().zip(unit).map(|(g, u)| g * u).sum();
        for (g, u) in gradient.iter_mut().zip(unit) {
            *g = (*g - along * u) / length;
        }
    }
}

/// Reads the weights of an encoder and of the heads beside it.
pub(crate) fn read_m3_weights(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut weights = read_weights(folder)?;
    for head in HEADS {
        let Some(file) = head_file(folder, head) else {
            continue;
        };
        let mut tensors = BTreeMap::new();
        if file.extension().is_some_and(|extension| extension == "pt") {
            tensors = read_state_dict(&file)?;
        } else {
            read_file(&file, &mut tensors)?;
        }
        for part in ["weight", "bias"] {
            let value = tensors.remove(part).ok_or_else(|| {
                let message = "this tensor of the head is missing; a head holds `weight` and `bias`";
                Error::new(ErrorKind::ModelFormat, message)
                    .with_path(&file)
                    .with_field(part)
            })?;
            // The sparse head's weight is one row, which some tools store without its first dimension.
            let value = match (part, value.dims()) {
                ("weight", &[width]) => value.reshape((1, width))?,
                _ => value,
            };
            weights.insert(format!("{head}.{part}"), value.to_device(&Device::Cpu)?);
        }
        if let Some(other) = tensors.keys().next() {
            let message = "a head holds `weight` and `bias` and nothing else";
            return Err(Error::new(ErrorKind::ModelFormat, message)
                .with_path(&file)
                .with_field(other));
        }
    }
    Ok(weights)
}

/// Whether a folder has both heads.
pub(crate) fn has_heads(folder: &Path) -> bool {
    HEADS.iter().all(|head| head_file(folder, head).is_some())
}

/// Whether a file of this name is a head's.
#[cfg(feature = "hub")]
pub(super) fn is_head_file(name: &str) -> bool {
    let head = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending));
    head.is_some_and(|head| HEADS.contains(&head))
}

/// The file of a head: upstream's, or the one in safetensors.
fn head_file(folder: &Path, head: &str) -> Option<PathBuf> {
    ENDINGS
        .into_iter()
        .map(|ending| folder.join(format!("{head}{ending}")))
        .find(|path| path.exists())
}
