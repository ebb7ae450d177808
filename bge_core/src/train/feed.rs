//! The micro-batches of any optimizer step: a pure function of data, settings and step.

use rayon::prelude::*;

use super::batch::TrainBatch;
use crate::data::{BatchPlan, Dataset, EpochPlan, TrainGroup};
use crate::error::{Error, ErrorKind, Result, bail};
use crate::tokenize::Tokenizer;

/// Reads, draws and tokenizes what a step needs.
#[derive(Debug)]
pub(crate) struct Feed {
    dataset: Dataset,
    tokenizer: Tokenizer,
    query_max_len: usize,
    passage_max_len: usize,
    accumulation: usize,
    group_size: usize,
    batches_per_epoch: usize,
    /// The present epoch's order: (epoch, rows of every batch).
    order: Option<(usize, Vec<BatchPlan>)>,
}

impl Feed {
    pub(crate) fn new(
        dataset: Dataset,
        tokenizer: Tokenizer,
        [query_max_len, passage_max_len]: [usize; 2],
        accumulation: usize,
        group_size: usize,
    ) -> Result<Self> {
        let batches_per_epoch = dataset.plan_input(1, 0).steps() as usize;
        if batches_per_epoch == 0 {
            bail!(
                InvalidData,
                "the {} rows do not fill one batch; lower per_device_train_batch_size or leave out dataloader_drop_last",
                dataset.len()
            );
        }
        Ok(Self {
            dataset,
            tokenizer,
            query_max_len,
            passage_max_len,
            accumulation: accumulation.max(1),
            group_size,
            batches_per_epoch,
            order: None,
        })
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

    /// What decides the order of the rows, in words short enough for an error.
    pub(crate) fn fingerprint(&self) -> String {
        let input = self.dataset.plan_input(1, 0);
        let shapes = input
            .datasets
            .iter()
            .map(|d| format!("{}x{}", d.rows, d.batch_size));
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
        format!(
            "{shapes}, group size {}, accumulation {}, data seed {}, content {:016x}",
            self.group_size,
            self.accumulation,
            input.seed,
            self.dataset.fingerprint()
        )
    }

    /// The micro-batches of the update that follows `steps` finished ones, and their rows.
    pub(crate) fn update(&mut self, steps: usize) -> Result<(Vec<TrainBatch>, Vec<u64>)> {
        let epoch = steps / self.updates_per_epoch();
        let first = (steps % self.updates_per_epoch()) * self.accumulation;
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let plan = EpochPlan::new(self.dataset.plan_input(1, epoch as u64))?;
            let batches = (0..plan.steps())
                .map(|step| plan.batch(step, 0))
                .collect::<Result<Vec<_>>>()?;
            self.order = Some((epoch, batches));
        }
        let Some((_, order)) = &self.order else {
            bail!(Internal, "an epoch has no order");
        };
        let plans = &order[first..order.len().min(first + self.accumulation)];
        let mut batches = Vec::with_capacity(plans.len());
        let mut rows = Vec::new();
        let dataset = &self.dataset;
        for plan in plans {
            let rules = dataset.draw_rules(plan)?;
            let groups: Vec<TrainGroup> = plan
                .rows
                .par_iter()
                .map(|&row| dataset.group(row, &rules))
                .collect::<Result<_>>()?;
            batches.push(self.collate(&groups, plan.no_in_batch_neg)?);
            rows.extend(plan.rows.iter().copied());
        }
        Ok((batches, rows))
    }

    fn collate(&self, groups: &[TrainGroup], no_in_batch_neg: bool) -> Result<TrainBatch> {
        let queries: Vec<&str> = groups.iter().map(|group| group.query.as_str()).collect();
        let passages: Vec<&str> = groups
            .iter()
            .flat_map(|group| group.passages.iter().map(String::as_str))
            .collect();
        let scores: Option<Vec<&[f32]>> = groups
            .iter()
            .map(|group| group.teacher_scores.as_deref())
            .collect();
        Ok(TrainBatch {
            queries: self.tokenizer.encode_batch(&queries, self.query_max_len)?,
            passages: self.tokenizer.encode_batch(&passages, self.passage_max_len)?,
            no_in_batch_neg,
            teacher_scores: scores.map(|scores| scores.concat()),
        })
    }

    /// Adds the lines of a batch to an error about it.
    pub(crate) fn name_rows(&self, error: &Error, rows: &[u64]) -> Error {
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
