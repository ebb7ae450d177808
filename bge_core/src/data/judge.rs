//! Conclusions that need all files in view: layout, steps, sharing, verdict.

use super::codes;
use super::findings::{IssueGroup, IssueLog};
use super::group::RERANKER_NEGATIVES;
use super::layout::{FileShape, lay_out_for};
use super::plan::PlanInput;
use super::report::{DatasetReport, FileReport, Outlook, OutlookDataset, Places, Verdict};
use super::session::ValidationOptions;
use super::task::GroupSize;
use crate::issue::Severity;

impl DatasetReport {
    /// Draws the conclusions that need all files: layout, steps, verdict.
    pub(crate) fn conclude(&mut self) {
        for texts in [&mut self.queries, &mut self.positives, &mut self.negatives] {
            texts.conclude();
        }
        let mut log = self.log.clone();
        self.look_ahead(&mut log);
        for file in &self.files {
            self.judge_file(file, &mut log);
        }
        self.judge_negatives(&mut log);
        self.judge_sharing(&mut log);
        self.judge_leaks(&mut log);
        if self.duplicates_bounded {
            let message = format_args!(
                "only the first {} different texts of each kind were remembered; later duplicates are not all found",
                self.options.max_fingerprints
            );
            log.add(
                codes::DUPLICATES_BOUNDED,
                Severity::Info,
                None,
                None,
                None,
                message,
            );
        }
        self.verdict = if log.count(Severity::Error) > 0 {
            Verdict::Errors
        } else if log.count(Severity::Warning) > 0 {
            Verdict::Warnings
        } else {
            Verdict::Ready
        };
        self.issues = log.groups().cloned().collect();
    }

    fn shapes(&self) -> Vec<FileShape> {
        let shape = |file: &FileReport| FileShape {
            name: file.name.clone(),
            argument: file.argument,
            from_folder: file.from_folder,
            no_in_batch_neg: file.no_in_batch_neg,
            rows: file.rows + file.broken_rows,
            first_line: file.first.line,
            task_type: file.first.task_type.clone(),
            batch_size: file.first.batch_size,
            train_group_size: file.first.train_group_size,
            scored: file.first.scored,
            no_negatives: file.rows > 0 && file.without_negatives.total == file.rows,
        };
        self.files.iter().map(shape).collect()
    }

    /// Lays the files out as the trainer would and counts its steps.
    fn look_ahead(&mut self, log: &mut IssueLog) {
        let ValidationOptions {
            module,
            data,
            training,
            world_size,
            ..
        } = &self.options;
        let layout = lay_out_for(*module, &self.shapes(), data, training);
        for note in layout.notes {
            // Said with lines and in full by the rules of the rows.
            let by_rows = [codes::SCORES_MISSING, codes::BATCH_SIZE, codes::GROUP_SIZE];
            let said = |group: &IssueGroup| (group.code, group.severity) == (note.code, note.severity);
            if by_rows.contains(&note.code) && self.log.groups().any(said) {
                continue;
            }
            log.add_issue(note);
        }
        let input = PlanInput {
            datasets: &layout.datasets,
            same_dataset: data.same_dataset_within_batch,
            world_size: *world_size,
            drop_last: training.dataloader_drop_last,
            seed: 0,
            epoch: 0,
        };
        input.notes().into_iter().for_each(|note| log.add_issue(note));
        let batches = input.steps();
        let steps = batches.div_ceil(training.gradient_accumulation_steps.max(1) as u64);
        let total = match u64::try_from(training.max_steps) {
            Ok(steps) if steps > 0 => steps,
            _ => (training.num_train_epochs * steps as f64).ceil().max(0.0) as u64,
        };
        let outlook = |dataset| {
            let usage = input.usage(dataset);
            let (GroupSize::Fixed(passages) | GroupSize::FirstRow(passages)) = dataset.group;
            OutlookDataset {
                name: dataset.name.clone(),
                rows: dataset.rows,
                queries_per_device: dataset.batch_size,
                passages_per_query: passages,
                in_batch_negatives: !dataset.no_in_batch_neg,
                distilled: dataset.scored,
                batches: usage.batches,
                left_out: usage.left_out,
            }
        };
        self.training = Outlook {
            world_size: *world_size,
            same_dataset: input.same_dataset,
            datasets: layout.datasets.iter().map(outlook).collect(),
            batches_per_epoch: batches,
            steps_per_epoch: steps,
            total_steps: total,
        };
    }

    fn judge_file(&self, file: &FileReport, log: &mut IssueLog) {
        let name = Some(file.name.as_str());
        let data = &self.options.data;
        if data.same_dataset_within_batch && data.knowledge_distillation {
            let unscored = &file.unscored;
            if unscored.total > 0 && unscored.total < file.rows {
                let message = "has no teacher scores, but other rows of the file have; score all or none";
                log_places(
                    log,
                    codes::SCORES_PARTIAL,
                    Severity::Error,
                    name,
                    Some("pos_scores"),
                    unscored,
                    message,
                );
            }
        }
        if data.same_dataset_within_batch && file.other_sizes.total > 0 {
            let message =
                "batch_size or train_group_size differs from the first row, which counts for the whole file";
            let places = &file.other_sizes;
            log_places(
                log,
                codes::SIZES_MIXED,
                Severity::Warning,
                name,
                None,
                places,
                message,
            );
        }
        if file.prompted > 0 && file.prompted < file.rows {
            let message = format_args!(
                "{} of {} rows have a prompt; the others get {}",
                file.prompted,
                file.rows,
                match &data.query_instruction_for_retrieval {
                    Some(_) => "the instruction of the settings",
                    None => "nothing, as no query_instruction_for_retrieval is set",
                }
            );
            log.add(
                codes::PROMPT_PARTIAL,
                Severity::Warning,
                name,
                None,
                Some("prompt"),
                message,
            );
        } else if file.prompted > 0 && data.query_instruction_for_retrieval.is_some() {
            let message = format_args!("the rows' prompts replace query_instruction_for_retrieval");
            log.add(
                codes::PROMPT_REPLACES,
                Severity::Info,
                name,
                None,
                Some("prompt"),
                message,
            );
        }
        // Rows that a group cannot be filled from without repeating negatives.
        let (task, group) = (file.first.task_type.as_deref(), file.first.train_group_size);
        let group = match (task, group) {
            _ if !data.same_dataset_within_batch => GroupSize::Fixed(data.train_group_size),
            (None, Some(size)) => GroupSize::Fixed(size),
            (task, _) => {
                super::task::TaskType::from_name(task.unwrap_or_default()).group_size(data.train_group_size)
            }
        };
        if let GroupSize::Fixed(size) = group {
            let few = file.negatives.count_between(1, (size as u64).saturating_sub(2));
            if size > 2 && few > 0 {
                let message = format_args!(
                    "{few} of {} rows have fewer than the {} negatives of a group; some are used twice",
                    file.rows,
                    size - 1
                );
                log.add(codes::NEG_FEW, Severity::Info, name, None, Some("neg"), message);
            }
        }
    }

    /// Rows without negatives where the others have some.
    fn judge_negatives(&self, log: &mut IssueLog) {
        let data = &self.options.data;
        let needed = data.train_group_size > 1;
        for file in &self.files {
            let without = &file.without_negatives;
            let mixed = without.total > 0 && without.total < file.rows;
            let needs = if data.same_dataset_within_batch {
                needed || file.first.train_group_size.is_some_and(|size| size > 1)
            } else {
                needed
            };
            if mixed && needs {
                let message = if self.options.module.trains_reranker() {
                    format!("has no negatives; {RERANKER_NEGATIVES}")
                } else {
                    "has no negatives, but other rows have; mine some, or set train_group_size 1 to use in-batch negatives only".into()
                };
                log_places(
                    log,
                    codes::NEG_EMPTY,
                    Severity::Error,
                    Some(&file.name),
                    Some("neg"),
                    without,
                    &message,
                );
            }
        }
    }

    /// Positives that several rows share are negatives of each other inside a batch.
    fn judge_sharing(&mut self, log: &mut IssueLog) {
        if self.options.module.trains_reranker() {
            return; // a cross-encoder never meets the passages of other queries
        }
        let data = &self.options.data;
        let batch = (self.options.training.per_device_train_batch_size * self.options.world_size) as f64;
        let pairs = |rows: f64| rows * (rows - 1.0);
        let meet = |chance: f64| 1.0 - (1.0 - chance.clamp(0.0, 1.0)).powf((batch - 1.0).max(0.0));
        let (mut share, mut weight) = (0.0, 0.0);
        if data.same_dataset_within_batch {
            for file in self
                .files
                .iter()
                .filter(|file| !file.no_in_batch_neg && file.rows > 1)
            {
                let rows = file.rows as f64;
                share += rows * meet(file.shared_pairs / pairs(rows));
                weight += rows;
            }
        } else if self.rows > 1 {
            weight = 1.0;
            share =
                meet(self.files.iter().map(|file| file.shared_pairs).sum::<f64>() / pairs(self.rows as f64));
        }
        self.shared_positive_share = if weight > 0.0 { share / weight } else { 0.0 };
        let percent = 100.0 * self.shared_positive_share;
        if percent >= 0.5 {
            let severity = if percent >= 5.0 {
                Severity::Warning
            } else {
                Severity::Info
            };
            let message = format_args!(
                "in a batch of {batch} queries about {percent:.1} % meet their own positive as that of another query and push it away{}",
                if percent >= 5.0 {
                    "; a smaller batch or, for classes, a no_in_batch_neg file avoids that"
                } else {
                    ""
                }
            );
            log.add(codes::POS_SHARED, severity, None, None, None, message);
        }
    }

    fn judge_leaks(&self, log: &mut IssueLog) {
        let Some(leak) = &self.evaluation else { return };
        if leak.leaked_positives > 0 {
            let message = format_args!(
                "{} of {} rows have a positive that is a document of the evaluation data, as is usual with a common corpus",
                leak.leaked_positives, self.rows
            );
            log.add(
                codes::LEAK_PASSAGE,
                Severity::Info,
                None,
                None,
                Some("pos"),
                message,
            );
        }
    }
}

fn log_places(
    log: &mut IssueLog,
    code: &'static str,
    severity: Severity,
    file: Option<&str>,
    field: Option<&str>,
    places: &Places,
    message: &str,
) {
    for &at in &places.first {
        log.add(code, severity, file, Some(at), field, format_args!("{message}"));
    }
    log.add_total(code, severity, places.total - places.first.len() as u64);
}
