//! The model that a module trains, read from its folder for a rank and its device.

use super::step::Stepper;
use crate::config::{CheckedConfig, Module, TrainingArguments};
use crate::distributed::Communicator;
use crate::error::Result;
use crate::issue::{Issue, Severity};
use crate::loss::LossConfig;
use crate::models::{Bert, CrossEncoder, M3, ModelFolder, read_weights};

/// A model that was read and not yet prepared.
pub(super) enum Opened {
    Embedder(Bert),
    M3(M3),
    Reranker(CrossEncoder),
}

impl Opened {
    /// Reads the model that the module trains.
    pub(super) fn open(config: &CheckedConfig, folder: &ModelFolder, notes: &mut Vec<Issue>) -> Result<Self> {
        let training = &config.training;
        if config.module().trains_reranker() {
            let (model, note) = CrossEncoder::open_for_training(folder, training.seed)?;
            notes.extend(note);
            return Ok(Self::Reranker(model));
        }
        notes.extend(LossConfig::from(training).check(folder.config.hidden_size)?);
        notes.extend(other_pooling(folder, training));
        if config.module() != Module::EncoderOnlyM3 {
            let model = Bert::new(folder.config.clone(), read_weights(&folder.path)?);
            return Ok(Self::Embedder(
                model.map_err(|error| error.with_path(&folder.path))?,
            ));
        }
        if !training.unified_finetuning {
            return Ok(Self::M3(M3::open(folder)?));
        }
        let colbert_dim = usize::try_from(training.colbert_dim).ok().filter(|&dim| dim > 0);
        let (model, fresh) = M3::open_with_heads(folder, training.seed, colbert_dim)?;
        notes.extend(fresh);
        Ok(Self::M3(model))
    }

    pub(super) fn encoder(&self) -> &Bert {
        match self {
            Self::Embedder(model) => model,
            Self::M3(model) => model.encoder(),
            Self::Reranker(model) => model.encoder(),
        }
    }

    /// Prepares `total_steps` optimizer steps; `special` are the ids that are no words.
    pub(super) fn stepper(
        self,
        training: &TrainingArguments,
        total_steps: usize,
        special: Vec<u32>,
    ) -> Result<Stepper> {
        match self {
            Self::Embedder(model) => Stepper::new(model, training, total_steps),
            Self::M3(model) => Stepper::m3(model, training, total_steps, special),
            Self::Reranker(model) => Stepper::reranker(model, training, total_steps),
        }
    }
}

/// What to say where the run would give the model another pooling than its folder says; the run starts all the same.
fn other_pooling(folder: &ModelFolder, training: &TrainingArguments) -> Option<Issue> {
    let (own, asked) = (folder.pooling?, training.sentence_pooling_method);
    let message = format!(
        "the model's folder says {own}, and it is trained and saved with {asked}; to keep its own, give \
         --sentence_pooling_method {own}"
    );
    let issue = Issue::new("training.pooling", Severity::Warning, message);
    (own != asked).then(|| issue.on_field("sentence_pooling_method"))
}

/// The settings of one rank, whose device is the only one.
pub(super) fn of_rank(training: &TrainingArguments, ranks: &dyn Communicator) -> TrainingArguments {
    let named = match training.devices.as_slice() {
        [all] => Some(all),
        each => each.get(ranks.rank()),
    };
    let device = named.map(|name| device(name, ranks.local_rank(), seen_gpus));
    TrainingArguments {
        devices: device.into_iter().collect(),
        ..training.clone()
    }
}

/// The device of the rank of a place on its host: `cuda` is the GPU of the same number, or the only one that the process sees, as a
/// launcher may show each process its own.
fn device(name: &str, local_rank: usize, seen: impl Fn() -> usize) -> String {
    if !name.trim().eq_ignore_ascii_case("cuda") {
        return name.to_owned();
    }
    let number = if local_rank > 0 && seen() == 1 {
        0
    } else {
        local_rank
    };
    format!("cuda:{number}")
}

/// The GPUs that this process sees.
fn seen_gpus() -> usize {
    #[cfg(feature = "cuda")]
    {
        crate::cuda::Device::count().unwrap_or(0)
    }
    #[cfg(not(feature = "cuda"))]
    {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::ThreadGroup;

    #[test]
    fn every_rank_has_its_own_device() {
        let devices = |named: &[&str]| {
            let training = TrainingArguments {
                devices: named.iter().map(|&name| name.to_owned()).collect(),
                ..TrainingArguments::default()
            };
            let limit = std::time::Duration::from_mins(1);
            ThreadGroup::run(2, limit, |ranks| Ok(of_rank(&training, ranks).devices.concat())).unwrap()
        };
        assert_eq!(devices(&["cuda:2", "cuda:0"]), ["cuda:2", "cuda:0"]);
        assert_eq!(devices(&["cuda"]), ["cuda:0", "cuda:1"]);
        assert_eq!(devices(&["cuda", "cuda"]), ["cuda:0", "cuda:1"]);
        assert_eq!(devices(&["cuda:1"]), ["cuda:1", "cuda:1"]);
        assert_eq!(devices(&["cpu"]), ["cpu", "cpu"]);
        assert_eq!(devices(&[]), ["", ""]);
    }

    #[test]
    fn a_process_that_sees_one_gpu_takes_it() {
        assert_eq!(device("CUDA", 3, || 1), "cuda:0");
        assert_eq!(device("cuda", 3, || 8), "cuda:3");
        // A GPU that is not there is the device's error to tell of.
        assert_eq!(device("cuda", 3, || 2), "cuda:3");
    }
}
