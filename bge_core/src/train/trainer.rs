//! A whole run: opens model, data and evaluation data, takes up a checkpoint, and starts the ranks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::callback::{Callback, Listeners, Stopper};
use super::checkpoint::{self, SaveContext};
use super::evaluator::Evaluator;
use super::feed::{Feed, Reading};
use super::forecast::{Forecast, preflight, warnings};
use super::joined::check_equal_start;
use super::objective::Card;
use super::open::{Opened, of_rank as settings_of_rank};
use super::policy::Policy;
use super::state::{OwnState, TrainerState};
use super::worker::{Worker, pool};
use crate::config::{CheckedConfig, to_toml};
use crate::data::Dataset;
use crate::data::template::Template;
use crate::distributed::{Communicator, Solo, ThreadGroup, of_rank, together};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::inference::check_vocabulary;
use crate::issue::{Issue, Severity};
use crate::models::{ModelFolder, SentenceSettings, hub};
use crate::planner::available_memory;
use crate::tokenize::{PairLimits, Tokenizer};

/// A prepared run. [`Trainer::new`] has read everything and checked that it fits together.
#[derive(Debug)]
pub struct Trainer {
    pub(super) config: CheckedConfig,
    /// Rank 0, which also logs, evaluates and saves.
    pub(super) worker: Worker,
    /// The other ranks of this process.
    peers: Vec<Worker>,
    pub(super) evaluator: Option<Evaluator>,
    pub(super) save: SaveContext,
    /// The step of the newest checkpoint that this run wrote.
    pub(super) saved: Option<usize>,
    pub(super) policy: Policy,
    pub(super) state: TrainerState,
    pub(super) notes: Vec<Issue>,
    forecast: Option<Forecast>,
    pub(super) stopper: Stopper,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainReport {
    /// Where the run stands.
    pub state: TrainerState,
    /// The folder of the finished model, or of the checkpoint it stopped at.
    pub folder: PathBuf,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    /// Real tokens per second of the steps, the median; 0 without steps.
    pub tokens_per_second: f64,
    /// Seconds of a step, the median; 0 without steps.
    pub step_secs: f64,
}

impl Trainer {
    /// Opens model, tokenizer, data and evaluation data, and finds where to start.
    ///
    /// Nothing is written yet. Errors name the file, line or setting.
    pub fn new(config: CheckedConfig) -> Result<Self> {
        let limit = Duration::from_secs(config.training.ddp_timeout as u64);
        let lines = lines(config.training.world_size(), limit)?;
        Self::over(config, lines)
    }

    /// The same for one rank of several that are processes. Rank 0 logs, evaluates and saves.
    ///
    /// The settings must be for as many ranks, and model, data and checkpoint the same for all.
    pub fn of_rank(config: CheckedConfig, ranks: Arc<dyn Communicator>) -> Result<Self> {
        let (asked, world_size) = (config.training.world_size(), ranks.world_size());
        if asked != world_size {
            bail!(
                InvalidArgument,
                "the settings are for {asked} ranks (nproc_per_node, devices), but {world_size} train together"
            );
        }
        Self::over(config, vec![ranks])
    }

    /// A run of which these ranks are in this process.
    fn over(config: CheckedConfig, lines: Vec<Arc<dyn Communicator>>) -> Result<Self> {
        let (data_args, training) = (&config.data, &config.training);
        let world_size = training.world_size();
        let available = available_memory();
        let leads = lines.first().is_none_or(|ranks| ranks.rank() == 0);
        let mut notes: Vec<Issue> = config.warnings().to_vec();
        let hub = hub::HubOptions::new(config.model.cache_dir.as_ref(), config.model.token.as_ref());
        let folder = hub::resolve_model(&config.model.model_name_or_path, &hub)?;
        let folder = ModelFolder::open(&folder)?;
        let output_dir = PathBuf::from(&training.output_dir);
        let resume = training
            .resume_from_checkpoint
            .as_deref()
            .map(|request| checkpoint::resolve(request, &output_dir))
            .transpose()?;
        if leads {
            guard_output(&output_dir, training.overwrite_output_dir || resume.is_some())?;
        }

        let tokenizer = match &config.model.tokenizer_name {
            Some(name) => Tokenizer::open(hub::resolve_model(name, &hub)?)?,
            None => Tokenizer::open(&folder.path)?,
        };
        let model = Opened::open(&config, &folder, &mut notes)?;
        check_vocabulary(&tokenizer, model.encoder(), &folder.path)?;

        let mut report = None;
        if data_args.validate_data && leads {
            let found = preflight(&config, &tokenizer)?;
            notes.extend(warnings(&found));
            report = Some(found);
        }
        let dataset = Dataset::open_for(config.module(), data_args, training)?;
        if !data_args.validate_data {
            notes.extend(dataset.notes().iter().cloned());
            notes.extend(dataset.plan_input(world_size, 0).notes());
        }
        let reading = reading(&config, folder.config.max_tokens(), &mut notes);
        let feed = Feed::new(
            dataset,
            tokenizer.clone(),
            reading,
            training.gradient_accumulation_steps,
            data_args.train_group_size,
            world_size,
        )?;
        let policy = Policy::new(training, feed.updates_per_epoch())?;
        let forecast = Forecast::of(&config, &folder, report.as_ref(), policy.max_steps, available);
        notes.extend(forecast.as_ref().and_then(Forecast::warning));
        let evaluator = match (&data_args.eval_dataset, reading) {
            (Some(path), Reading::Texts(lengths)) if leads => Some(Evaluator::open(
                Path::new(path),
                data_args,
                training,
                &tokenizer,
                lengths,
            )?),
            _ => None,
        };
        let card = match &model {
            Opened::Reranker(_) => Card::Reranker,
            Opened::Embedder(_) | Opened::M3(_) => Card::Embedder(sentence_settings(&config, &folder)?),
        };
        let mut first = Some(model);
        let special = tokenizer.special_tokens().without_words();
        let mut workers = Vec::with_capacity(lines.len());
        for ranks in lines {
            // The first rank takes the model that was checked.
            let model = match first.take() {
                Some(model) => model,
                None => Opened::open(&config, &folder, &mut Vec::new())?,
            };
            let own = settings_of_rank(training, &*ranks);
            let mut stepper = model.stepper(&own, policy.max_steps, special.clone())?;
            let (feed, pool) = (feed.of_rank(ranks.rank()), pool(ranks.sharers())?);
            stepper.join(ranks)?;
            workers.push(Worker { stepper, feed, pool });
        }
        let peers = workers.split_off(1);
        let Some(worker) = workers.pop() else {
            bail!(Internal, "a world without ranks");
        };
        let save = SaveContext {
            earlier: checkpoint::list(&output_dir),
            replaces: resume.is_none(),
            output_dir,
            card,
            tokenizer_files: tokenizer.files().to_vec(),
            settings: settings_text(&config),
        };
        let state = policy.fresh_state(training, feed.fingerprint());
        let mut trainer = Self {
            config,
            worker,
            peers,
            evaluator,
            save,
            saved: None,
            policy,
            state,
            notes,
            forecast,
            stopper: Stopper::default(),
        };
        if let Some(checkpoint) = resume {
            trainer.resume(&checkpoint)?;
        }
        Ok(trainer)
    }

    /// What is worth knowing before the run: warnings about settings and data.
    pub fn notes(&self) -> &[Issue] {
        &self.notes
    }

    /// What the run is expected to need; `None` for a model that plans are not made for. Where it is more than there is,
    /// [`Trainer::notes`] says so.
    pub fn forecast(&self) -> Option<&Forecast> {
        self.forecast.as_ref()
    }

    /// Where the run stands.
    pub fn state(&self) -> &TrainerState {
        &self.state
    }

    /// The data of the run.
    pub fn dataset(&self) -> &Dataset {
        self.worker.feed.dataset()
    }

    /// Stops the run from another thread, after the present step and with a checkpoint.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Makes the run listen to a flag of the caller instead, such as one set by a signal handler.
    pub fn stop_on(&mut self, stopper: Stopper) {
        self.stopper = stopper;
    }

    /// The newest checkpoint of this run in the output folder.
    pub fn newest_checkpoint(&self) -> Option<PathBuf> {
        self.save.newest()
    }

    fn resume(&mut self, folder: &Path) -> Result<()> {
        let saved = TrainerState::read(folder)?;
        let (then, now) = (&saved.own().data_fingerprint, &self.state.own().data_fingerprint);
        if !then.is_empty() && then != now {
            let message = format!(
                "the checkpoint was trained on other data or batches ({then}; now {now}); the order of the rows would differ. \
                 Give the same train_data, batch size, group size and seed, or start a new run from this folder"
            );
            return Err(Error::new(ErrorKind::InvalidConfig, message).with_path(folder));
        }
        for worker in std::iter::once(&mut self.worker).chain(&mut self.peers) {
            let micro_batches = worker.feed.batches_before(saved.global_step);
            checkpoint::load(&mut worker.stepper, folder, Some((&saved, micro_batches)))?;
        }
        self.save.resume(folder, saved.global_step);
        let fresh = std::mem::replace(&mut self.state, saved);
        self.state.max_steps = fresh.max_steps;
        self.state.num_train_epochs = fresh.num_train_epochs;
        self.state.logging_steps = fresh.logging_steps;
        self.state.eval_steps = fresh.eval_steps;
        self.state.save_steps = fresh.save_steps;
        self.state.train_batch_size = fresh.train_batch_size;
        let OwnState { data_fingerprint, .. } = fresh.stateful_callbacks.bge;
        self.state.own_mut().data_fingerprint = data_fingerprint;
        // The folder may have moved since, or be spelled in another way.
        if let Some(best) = &mut self.state.best_model_checkpoint {
            let beside = Path::new(best)
                .file_name()
                .map(|name| folder.with_file_name(name));
            let found = self
                .save
                .find(best)
                .or_else(|| beside.filter(|place| place.is_dir()));
            if let Some(found) = found {
                *best = found.display().to_string();
            }
        }
        Ok(())
    }

    /// Trains to the end, or until a callback or the stopper says stop.
    ///
    /// A loss or gradient that is not finite is an error that names the step and the lines; what was written before stays.
    /// With several ranks, rank 0 runs on this thread, and the first rank to fail ends all. Where ranks are processes, each of
    /// them must call this; only rank 0 tells callbacks, and the report of another rank knows of no speed.
    pub fn run(&mut self, callbacks: &mut [&mut dyn Callback]) -> Result<TrainReport> {
        let ranks = Arc::clone(self.worker.stepper.ranks());
        if ranks.world_size() > self.peers.len() + 1 {
            let report = self.run_among(&*ranks, callbacks);
            return report.inspect_err(|error| ranks.fail(&of_rank(ranks.rank(), error)));
        }
        let mut peers = std::mem::take(&mut self.peers);
        let report = together(
            &|error| ranks.fail(error),
            peers.iter_mut().collect(),
            |worker| worker.follow().map(drop),
            || self.lead(&mut Listeners::new(callbacks)),
        );
        self.peers = peers;
        report
    }

    /// What the rank of this process does among other processes.
    fn run_among(
        &mut self,
        ranks: &dyn Communicator,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<TrainReport> {
        let data = &self.state.own().data_fingerprint;
        let weights = self.worker.stepper.objective().params();
        check_equal_start(ranks, &self.save.settings, data, self.state.global_step, weights)?;
        if ranks.rank() == 0 {
            return self.lead(&mut Listeners::new(callbacks));
        }
        let stopped = self.worker.follow()?;
        self.state.global_step = self.worker.stepper.steps();
        Ok(TrainReport {
            state: self.state.clone(),
            folder: self.save.output_dir.clone(),
            stopped,
            tokens_per_second: 0.0,
            step_secs: 0.0,
        })
    }
}

/// The lines of all ranks to each other.
fn lines(world_size: usize, limit: Duration) -> Result<Vec<Arc<dyn Communicator>>> {
    if world_size == 1 {
        return Ok(vec![Arc::new(Solo)]);
    }
    let ranks = ThreadGroup::create(world_size, limit)?;
    Ok(ranks
        .into_iter()
        .map(|rank| Arc::new(rank) as Arc<dyn Communicator>)
        .collect())
}

/// How texts are cut; says where the model has no positions for what was asked.
fn reading(config: &CheckedConfig, limit: usize, notes: &mut Vec<Issue>) -> Reading {
    let data = &config.data;
    let mut clamped = |field: &str, message: String| {
        notes.push(Issue::new("config.length_clamped", Severity::Warning, message).on_field(field));
    };
    if config.module().trains_reranker() {
        let limits = PairLimits::training(data.query_max_len, data.passage_max_len, limit);
        let asked = data.query_max_len.saturating_add(data.passage_max_len);
        if asked > limits.total {
            let message = format!(
                "with query_max_len a pair may have {asked} tokens, more than the model has positions for; pairs are cut at {limit} tokens"
            );
            clamped("passage_max_len", message);
        }
        return Reading::Pairs(limits);
    }
    let mut lengths = [data.query_max_len, data.passage_max_len];
    for (name, length) in ["query_max_len", "passage_max_len"].into_iter().zip(&mut lengths) {
        if *length > limit {
            let message =
                format!("{length} is more than the model has positions for; texts are cut at {limit} tokens");
            clamped(name, message);
            *length = limit;
        }
    }
    Reading::Texts(lengths)
}

/// Refuses to mix a new run into the files of an old one.
fn guard_output(output_dir: &Path, allowed: bool) -> Result<()> {
    if output_dir.is_file() {
        let message = "this is a file; output_dir must be a folder";
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_path(output_dir)
            .with_field("output_dir"));
    }
    let old = ["model.safetensors", "trainer_state.json", "config.json"];
    let used =
        old.iter().any(|name| output_dir.join(name).exists()) || !checkpoint::list(output_dir).is_empty();
    if used && !allowed {
        let message = "the folder holds an earlier run; give --overwrite_output_dir, --resume_from_checkpoint, or another folder";
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .with_path(output_dir)
            .with_field("output_dir"));
    }
    Ok(())
}

/// What the saved folder says about itself.
fn sentence_settings(config: &CheckedConfig, folder: &ModelFolder) -> Result<SentenceSettings> {
    // A prompt is what stands before the text; a format that puts something behind it has no such form.
    let prompt = |instruction: &Option<String>, format: &str| -> Result<String> {
        let Some(instruction) = instruction else {
            return Ok(String::new());
        };
        let marked = Template::parse(format)?.fill(instruction, "\u{1}");
        Ok(marked.strip_suffix('\u{1}').unwrap_or_default().to_owned())
    };
    let data = &config.data;
    Ok(SentenceSettings {
        pooling: config.training.sentence_pooling_method,
        normalize: config.training.normalize_embeddings,
        max_seq_length: folder.max_tokens(),
        query_prompt: prompt(
            &data.query_instruction_for_retrieval,
            &data.query_instruction_format,
        )?,
        passage_prompt: prompt(
            &data.passage_instruction_for_retrieval,
            &data.passage_instruction_format,
        )?,
    })
}

/// The settings as they go into the folder: everything but the access token, and how this run came to be where it is, so
/// that a resumed run ends with the bytes of an undisturbed one.
fn settings_text(config: &CheckedConfig) -> String {
    let module = config.module();
    let mut config = (**config).clone();
    config.model.token = None;
    config.training.resume_from_checkpoint = None;
    config.training.overwrite_output_dir = false;
    to_toml(&config, module)
}
