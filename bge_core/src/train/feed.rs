//! The micro-batches of any optimizer step: a pure function of data, settings and step.

use std::sync::Arc;

use rayon::prelude::*;

use super::batch::{Batches, PairBatch, TrainBatch};
use crate::data::{BatchPlan, Dataset, EpochPlan, TrainGroup};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::tokenize::{PairLimits, Tokenizer};

/// How the texts of a group are tokenized.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reading {
    /// Each for itself, cut to these lengths of queries and passages.
    Texts([usize; 2]),
    /// The query with each passage.
    Pairs(PairLimits),
}

/// Reads, draws and tokenizes what a rank needs for a step.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    dataset: Arc<Dataset>,
    tokenizer: Arc<Tokenizer>,
    reading: Reading,
    rank: usize,
    world_size: usize,
    accumulation: usize,
    group_size: usize,
    batches_per_epoch: usize,
    /// The present epoch's order: (epoch, this rank's rows of every batch).
    order: Option<(usize, Vec<BatchPlan>)>,
}

impl Feed {
    pub(crate) fn new(
        dataset: Dataset,
        tokenizer: Tokenizer,
        reading: Reading,
        accumulation: usize,
        group_size: usize,
        world_size: usize,
    ) -> Result<Self> {
        let batches_per_epoch = dataset.plan_input(world_size, 0).steps() as usize;
        if batches_per_epoch == 0 {
            bail!(
                InvalidData,
                "the {} rows do not fill one batch; lower per_device_train_batch_size or leave out dataloader_drop_last",
                dataset.len()
            );
        }
        Ok(Self {
            dataset: Arc::new(dataset),
            tokenizer: Arc::new(tokenizer),
            reading,
            rank: 0,
            world_size,
            accumulation: accumulation.max(1),
            group_size,
            batches_per_epoch,
            order: None,
        })
    }

    /// The same data for another rank.
    pub(crate) fn of_rank(&self, rank: usize) -> Self {
        Self {
            rank,
            order: None,
            ..self.clone()
        }
    }

    pub(crate) fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Optimizer steps of one epoch; the last may have fewer micro-batches.
    pub(crate) fn updates_per_epoch(&self) -> usize {
        self.batches_per_epoch.div_ceil(self.accumulation)
    }

    /// Passed epochs after `steps` optimizer steps, with the share of the present one.
    pub(crate) fn epoch_at(&self, steps: usize) -> f64 {
        let (whole, rest) = (steps / self.updates_per_epoch(), steps % self.updates_per_epoch());
        let batches = (rest * self.accumulation).min(self.batches_per_epoch);
        whole as f64 + batches as f64 / self.batches_per_epoch as f64
    }

    /// What decides the order of the rows, in words short enough for an error. The batches are those of all ranks together.
    pub(crate) fn fingerprint(&self) -> String {
        let input = self.dataset.plan_input(self.world_size, 0);
        let shapes = input
            .datasets
            .iter()
            .map(|d| format!("{}x{}", d.rows, d.batch_size * self.world_size));
        let shapes: Vec<String> = shapes.collect();
        let shapes = if shapes.len() > 8 {
            let sum = shapes
                .iter()
                .flat_map(|s| s.bytes())
                .fold(0_u64, |sum, byte| crate::random::mix(sum ^ u64::from(byte)));
            format!("{} datasets {sum:016x}", shapes.len())
        } else {
            format!("rows x batch {}", shapes.join(" "))
        };
        let mut words = format!(
            "{shapes}, group size {}, accumulation {}, data seed {}, content {:016x}",
            self.group_size,
            self.accumulation,
            input.seed,
            self.dataset.fingerprint()
        );
        for (name, given) in [
            ("dataloader_drop_last", input.drop_last),
            ("same_dataset_within_batch", input.same_dataset),
        ] {
            if given {
                words.push_str(", ");
                words.push_str(name);
            }
        }
        words
    }

    /// The epoch of the update that follows `steps` finished ones, and its first batch within it.
    fn place(&self, steps: usize) -> (usize, usize) {
        let (epoch, update) = (steps / self.updates_per_epoch(), steps % self.updates_per_epoch());
        (epoch, update * self.accumulation)
    }

    /// A rank's micro-batches of the first `steps` updates.
    pub(crate) fn batches_before(&self, steps: usize) -> usize {
        let (epoch, first) = self.place(steps);
        epoch * self.batches_per_epoch + first
    }

    /// This rank's micro-batches of the update that follows `steps` finished ones.
    pub(crate) fn update(&mut self, steps: usize) -> Result<Batches> {
        let (epoch, first) = self.place(steps);
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let plan = EpochPlan::new(self.dataset.plan_input(self.world_size, epoch as u64))?;
            let batches = (0..plan.steps())
                .map(|step| plan.batch(step, self.rank))
                .collect::<Result<Vec<_>>>()?;
            self.order = Some((epoch, batches));
        }
        let Some((_, order)) = &self.order else {
            bail!(Internal, "an epoch has no order");
        };
        let plans = &order[first..order.len().min(first + self.accumulation)];
        let mut drawn = Vec::with_capacity(plans.len());
        let dataset = &self.dataset;
        for plan in plans {
            let rules = dataset.draw_rules(plan)?;
            let groups: Vec<TrainGroup> = plan
                .rows
                .par_iter()
                .map(|&row| dataset.group(row, &rules))
                .collect::<Result<_>>()?;
            drawn.push((groups, plan.no_in_batch_neg));
        }
        let drawn = drawn.iter();
        Ok(match self.reading {
            Reading::Texts(lengths) => Batches::Texts(
                drawn
                    .map(|(groups, alone)| self.texts(groups, *alone, lengths))
                    .collect::<Result<_>>()?,
            ),
            Reading::Pairs(limits) => Batches::Pairs(
                drawn
                    .map(|(groups, _)| self.pairs(groups, limits))
                    .collect::<Result<_>>()?,
            ),
        })
    }

    /// The rows of all ranks in the update that follows `steps` finished ones.
    fn rows(&self, steps: usize) -> Result<Vec<u64>> {
        let (epoch, first) = self.place(steps);
        let plan = EpochPlan::new(self.dataset.plan_input(self.world_size, epoch as u64))?;
        let batches = first..plan.steps().min(first + self.accumulation);
        let ranks = |batch| (0..self.world_size).map(move |rank| (batch, rank));
        let shares: Vec<BatchPlan> = batches
            .flat_map(ranks)
            .map(|(batch, rank)| plan.batch(batch, rank))
            .collect::<Result<_>>()?;
        Ok(shares.into_iter().flat_map(|share| share.rows).collect())
    }

    fn pairs(&self, groups: &[TrainGroup], limits: PairLimits) -> Result<PairBatch> {
        let pairs: Vec<(&str, &str)> = groups
            .iter()
            .flat_map(|group| {
                let passages = group.passages.iter();
                passages.map(|passage| (group.query.as_str(), passage.as_str()))
            })
            .collect();
        Ok(PairBatch {
            group_size: groups.first().map_or(0, |group| group.passages.len()),
            pairs: self.tokenizer.encode_pairs(&pairs, limits)?,
            teacher_scores: teacher_scores(groups),
        })
    }

    fn texts(
        &self,
        groups: &[TrainGroup],
        no_in_batch_neg: bool,
        [query_max_len, passage_max_len]: [usize; 2],
    ) -> Result<TrainBatch> {
        let queries: Vec<&str> = groups.iter().map(|group| group.query.as_str()).collect();
        let passages: Vec<&str> = groups
            .iter()
            .flat_map(|group| group.passages.iter().map(String::as_str))
            .collect();
        Ok(TrainBatch {
            queries: self.tokenizer.encode_batch(&queries, query_max_len)?,
            passages: self.tokenizer.encode_batch(&passages, passage_max_len)?,
            no_in_batch_neg,
            teacher_scores: teacher_scores(groups),
        })
    }

    /// Adds the lines of the update that follows `steps` finished ones to an error about it.
    pub(crate) fn name_rows(&self, error: &Error, steps: usize) -> Error {
        let rows = self.rows(steps).unwrap_or_default();
        let places = rows.iter().take(16).filter_map(|&row| {
            let (path, line) = self.dataset.place(row).ok()?;
            Some(format!("{}:{line}", path.display()))
        });
        let places: Vec<String> = places.collect();
        let more = rows.len().saturating_sub(16);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let message = format!(
            "{}; the lines of its batch: {}{more}",
            error.message(),
            places.join(", ")
        );
        Error::new(ErrorKind::NotFinite, message)
    }
}

/// The scores of all groups, where all have them.
fn teacher_scores(groups: &[TrainGroup]) -> Option<Vec<f32>> {
    let scores: Option<Vec<&[f32]>> = groups
        .iter()
        .map(|group| group.teacher_scores.as_deref())
        .collect();
    scores.map(|scores| scores.concat())
}
