//! Checkpoints: folders `checkpoint-N` that are models and can be resumed from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::objective::Card;
use super::state::TrainerState;
use super::step::Stepper;
use super::zero::Moments;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{self, NewFolder};
use crate::models::weights::{read_file, write_file};
use crate::nn::read;

const OPTIMIZER: &str = "optimizer.safetensors";
const SETTINGS: &str = "config.toml";

/// What every saved folder of a run shares.
#[derive(Clone, Debug)]
pub(crate) struct SaveContext {
    pub(crate) output_dir: PathBuf,
    pub(crate) card: Card,
    pub(crate) tokenizer_files: Vec<PathBuf>,
    /// The run's settings as TOML.
    pub(crate) settings: String,
    /// The checkpoints in the output folder that are of another run, or of later steps than this one began with.
    pub(crate) earlier: Vec<(usize, PathBuf)>,
    /// Whether this run replaces those, as `--overwrite_output_dir` says, once it has something to put in their place.
    pub(crate) replaces: bool,
}

impl SaveContext {
    /// The folder of the checkpoint of a step.
    pub(crate) fn place(&self, step: usize) -> PathBuf {
        self.output_dir.join(format!("checkpoint-{step}"))
    }

    /// Writes `checkpoint-N`, whole or not at all; `moments` are the optimizer's of all ranks.
    pub(crate) fn save_checkpoint(
        &self,
        stepper: &Stepper,
        moments: &Moments<'_>,
        state: &mut TrainerState,
    ) -> Result<PathBuf> {
        let place = self.place(state.global_step);
        let folder = NewFolder::start(&place)?;
        self.save_model(folder.path(), stepper)?;
        state.own_mut().optimizer_steps = stepper.optimizer().state_steps();
        #[cfg(any(feature = "cuda", test))]
        {
            state.own_mut().loss_scale = stepper.loss_scale();
        }
        let shapes: Vec<[usize; 1]> = moments.values().map(|values| [values.len()]).collect();
        let arrays: Vec<_> = moments
            .iter()
            .zip(&shapes)
            .map(|((name, values), shape)| (name.as_str(), shape.as_slice(), &**values))
            .collect();
        write_file(&folder.path().join(OPTIMIZER), &arrays)?;
        state.write(folder.path())?;
        folder.finish()?;
        Ok(place)
    }

    /// Writes the finished model and the log into the output folder itself.
    pub(crate) fn save_final(&self, stepper: &Stepper, state: &TrainerState) -> Result<()> {
        let folder = NewFolder::start(&self.output_dir.join("final"))?;
        self.save_model(folder.path(), stepper)?;
        // There is no optimizer here, and the counts would be those of the last checkpoint, wherever that was.
        let mut state = state.clone();
        state.own_mut().optimizer_steps = BTreeMap::new();
        state.write(folder.path())?;
        folder.merge_into(&self.output_dir)
    }

    /// The run goes on from a checkpoint: those before it in its folder are its own.
    pub(crate) fn resume(&mut self, checkpoint: &Path, step: usize) {
        let real = |path: &Path| path.canonicalize().ok();
        if real(checkpoint).is_some_and(|place| place.parent() == real(&self.output_dir).as_deref()) {
            self.earlier.retain(|(earlier, _)| *earlier > step);
        }
    }

    /// The newest checkpoint of this run.
    pub(crate) fn newest(&self) -> Option<PathBuf> {
        let mut own = list(&self.output_dir);
        own.retain(|found| !self.earlier.contains(found));
        own.pop().map(|(_, place)| place)
    }

    /// Where a checkpoint is that was written into the output folder under any spelling of its path.
    pub(crate) fn find(&self, checkpoint: &str) -> Option<PathBuf> {
        let recorded = Path::new(checkpoint);
        let here = recorded.file_name().map(|name| self.output_dir.join(name));
        here.into_iter()
            .chain([recorded.to_owned()])
            .find(|place| place.is_dir())
    }

    /// After `written`, or the finished model: what was there of another run goes, if this one replaces it.
    pub(crate) fn replace_earlier(&mut self, written: Option<&Path>) -> Result<()> {
        self.earlier.retain(|(_, place)| Some(place.as_path()) != written);
        if self.replaces {
            for (_, place) in std::mem::take(&mut self.earlier) {
                remove(&place)?;
            }
        }
        Ok(())
    }

    /// Removes checkpoints until `limit` are left: first those of another run, then the oldest; the newest and the best stay.
    pub(crate) fn rotate(&self, limit: usize, newest: &Path, best: Option<&str>) -> Result<()> {
        let mut found = list(&self.output_dir);
        found.sort_by_key(|found| !self.earlier.contains(found));
        let best = best.and_then(|best| Path::new(best).file_name());
        let mut count = found.len();
        for (_, place) in found {
            if count > limit.max(1) && place != newest && place.file_name() != best {
                remove(&place)?;
                count -= 1;
            }
        }
        Ok(())
    }

    fn save_model(&self, folder: &Path, stepper: &Stepper) -> Result<()> {
        stepper
            .objective()
            .save(folder, &self.card, &self.tokenizer_files)?;
        files::write_whole(&folder.join(SETTINGS), |file| {
            std::io::Write::write_all(file, self.settings.as_bytes())
        })
    }
}

/// Puts a checkpoint's weights, and optimizer state if asked for, into a stepper of the same model.
///
/// With the state come the micro-batches that each rank has had until then.
pub(crate) fn load(
    stepper: &mut Stepper,
    folder: &Path,
    state: Option<(&TrainerState, usize)>,
) -> Result<()> {
    let mut weights = stepper.objective().read(folder)?;
    for (id, (name, value, _)) in stepper.objective().params().iter().enumerate() {
        let saved = weights
            .remove(name)
            .filter(|saved| saved.dims() == value.dims())
            .ok_or_else(|| {
                let message =
                    "the checkpoint's weight is missing or has another shape; it belongs to another model";
                Error::new(ErrorKind::ModelFormat, message)
                    .with_path(folder)
                    .with_field(name)
            })?;
        stepper.set_weight(id, value, &read(&saved)?)?;
    }
    let Some((state, micro_batches)) = state else {
        return Ok(());
    };
    let path = folder.join(OPTIMIZER);
    if !path.exists() {
        let message = if folder.join("optimizer.pt").exists() {
            "the optimizer state is a pickle of PyTorch, which is not read; start a new run with --model_name_or_path set to this folder"
        } else {
            "there is no optimizer.safetensors here, so the run cannot go on exactly; start a new run with --model_name_or_path set to this folder"
        };
        return Err(Error::new(ErrorKind::ModelFormat, message).with_path(folder));
    }
    let mut tensors = BTreeMap::new();
    read_file(&path, &mut tensors)?;
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, read(&tensor)?.to_vec())))
        .collect::<Result<_>>()?;
    #[cfg(any(feature = "cuda", test))]
    stepper.set_loss_scale(state.own().loss_scale);
    let optimizer = stepper.resume(state.global_step, micro_batches);
    optimizer
        .load_state(tensors, &state.own().optimizer_steps)
        .map_err(|error| error.with_path(&path))
}

/// The checkpoints of an output folder by step, oldest first.
pub(crate) fn list(output_dir: &Path) -> Vec<(usize, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(output_dir) else {
        return Vec::new();
    };
    let step = |path: &PathBuf| -> Option<usize> {
        path.file_name()?
            .to_str()?
            .strip_prefix("checkpoint-")?
            .parse()
            .ok()
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .filter_map(|path| Some((step(&path)?, path)))
        .collect();
    found.sort();
    found
}

/// Whether a run into this folder has something to resume from.
pub(crate) fn has_checkpoint(output_dir: &Path) -> bool {
    !list(output_dir).is_empty()
}

fn remove(checkpoint: &Path) -> Result<()> {
    std::fs::remove_dir_all(checkpoint)
        .map_err(|error| Error::io(checkpoint, "remove an old checkpoint", error))
}

/// The checkpoint that `--resume_from_checkpoint` names: a folder, or `True` for the newest of the output folder.
pub(crate) fn resolve(request: &str, output_dir: &Path) -> Result<PathBuf> {
    if request.eq_ignore_ascii_case("true") {
        return list(output_dir).pop().map(|(_, path)| path).ok_or_else(|| {
            let message =
                "there is no checkpoint-N to resume from; leave --resume_from_checkpoint out to start anew";
            Error::new(ErrorKind::NotFound, message).with_path(output_dir)
        });
    }
    let path = PathBuf::from(request);
    if !path.is_dir() {
        let message = "there is no such checkpoint folder";
        return Err(Error::new(ErrorKind::NotFound, message)
            .with_path(&path)
            .with_field("resume_from_checkpoint"));
    }
    Ok(path)
}
