//! From files to datasets: which files are trained together, with which batch and group size.
//!
//! Plain mode makes one dataset of all files. Same-dataset mode makes one of each file, so that a batch never mixes
//! files; small files of a folder are merged or dropped by `small_threshold` and `drop_threshold`.

use std::collections::BTreeMap;

use super::codes;
use super::group::RERANKER_NEGATIVES;
use super::task::{GroupSize, TaskType};
use crate::config::{DataArguments, Module, TrainingArguments};
use crate::issue::{Issue, Severity};

/// What has to be known of a file to lay it out; properties are those of its first row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileShape {
    /// Its path, for messages.
    pub name: String,
    /// Which entry of `train_data` it belongs to.
    pub argument: usize,
    /// Whether it came out of a folder.
    pub from_folder: bool,
    /// Whether it is marked as using no in-batch negatives.
    pub no_in_batch_neg: bool,
    /// Rows in the file.
    pub rows: u64,
    /// Line of the first row.
    pub first_line: u64,
    /// `type`.
    pub task_type: Option<String>,
    /// `batch_size`.
    pub batch_size: Option<usize>,
    /// `train_group_size`.
    pub train_group_size: Option<usize>,
    /// Whether the first row has teacher scores.
    pub scored: bool,
    /// Whether no row at all has explicit negatives.
    pub no_negatives: bool,
}

/// Rows that are trained together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetShape {
    /// What to call it in messages.
    pub name: String,
    /// Its files, as indices into the list given to [`lay_out`].
    pub files: Vec<usize>,
    /// Its rows, after `max_example_num_per_dataset`.
    pub rows: u64,
    /// Queries per device and batch.
    pub batch_size: usize,
    /// Passages per query.
    pub group: GroupSize,
    /// Whether passages of other queries are no negatives.
    pub no_in_batch_neg: bool,
    /// The task type; `Normal` in plain mode.
    pub task: TaskType,
    /// Whether its groups carry teacher scores.
    pub scored: bool,
}

/// All datasets of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The datasets; global row numbers run through them in this order.
    pub datasets: Vec<DatasetShape>,
    /// What is left out, merged or impossible. An `Error` among them means that this cannot be trained.
    pub notes: Vec<Issue>,
}

/// Forms datasets of files. Pure: the validator, the trainer and the browser get the same answer.
pub fn lay_out(files: &[FileShape], data: &DataArguments, training: &TrainingArguments) -> Layout {
    lay_out_for(Module::default(), files, data, training)
}

/// The same for a module: a reranker compares the passages of one query alone, so each of its files needs negatives.
pub fn lay_out_for(
    module: Module,
    files: &[FileShape],
    data: &DataArguments,
    training: &TrainingArguments,
) -> Layout {
    let mut work = Work {
        reranker: module.trains_reranker(),
        files,
        data,
        training,
        layout: Layout::default(),
    };
    for file in files {
        work.note_file(file);
    }
    let used: Vec<usize> = (0..files.len()).filter(|&index| work.rows(index) > 0).collect();
    if data.same_dataset_within_batch {
        work.separate(&used);
    } else if !used.is_empty() {
        work.join(used);
    }
    work.note_single_candidates();
    work.layout
}

struct Work<'a> {
    reranker: bool,
    files: &'a [FileShape],
    data: &'a DataArguments,
    training: &'a TrainingArguments,
    layout: Layout,
}

/// What the members of one merged dataset have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    task: TaskType,
    group: GroupSize,
    scored: bool,
    no_in_batch_neg: bool,
}

impl Work<'_> {
    fn file(&self, index: usize) -> Option<&FileShape> {
        self.files.get(index)
    }

    fn rows(&self, index: usize) -> u64 {
        let most = self.data.max_example_num_per_dataset as u64;
        self.file(index).map_or(0, |file| file.rows.min(most))
    }

    fn note(&mut self, file: &FileShape, code: &'static str, severity: Severity, message: String) {
        self.layout
            .notes
            .push(Issue::new(code, severity, message).in_file(&file.name));
    }

    fn note_file(&mut self, file: &FileShape) {
        let most = self.data.max_example_num_per_dataset as u64;
        if file.rows == 0 {
            self.note(
                file,
                codes::FILE_EMPTY,
                Severity::Warning,
                "has no rows and is left out".into(),
            );
        } else if file.rows > most {
            let message = format!(
                "max_example_num_per_dataset leaves a sample of {most} of its {} rows",
                file.rows
            );
            self.note(file, codes::FILE_CAPPED, Severity::Info, message);
        }
    }

    /// Plain mode: one dataset of everything.
    fn join(&mut self, used: Vec<usize>) {
        let mut group = self.data.train_group_size;
        let pairs = used
            .iter()
            .filter(|&&index| self.file(index).is_some_and(|file| file.no_negatives))
            .count();
        if group > 1 && pairs == used.len() && !self.reranker {
            self.layout.notes.push(Issue::new(
                codes::NEG_EMPTY_EVERYWHERE,
                Severity::Warning,
                format!(
                    "no row has negatives: trains with in-batch negatives only, as with train_group_size 1 instead of {group}"
                ),
            ));
            group = 1;
        }
        for &index in &used {
            let Some(file) = self.files.get(index) else {
                continue;
            };
            if group > 1 && file.no_negatives {
                let message = if self.reranker {
                    format!("no row has negatives: {RERANKER_NEGATIVES}")
                } else {
                    format!(
                        "has no negatives, but other files have and train_group_size is {group}; mine negatives for it, or set train_group_size 1 to use in-batch negatives only"
                    )
                };
                self.note(file, codes::NEG_EMPTY, Severity::Error, message);
            }
            if self.data.knowledge_distillation && !file.scored {
                let issue = Issue::new(
                    codes::SCORES_MISSING,
                    Severity::Error,
                    "knowledge_distillation needs pos_scores and neg_scores in every row; score the file or turn it off",
                );
                self.layout
                    .notes
                    .push(issue.in_file(&file.name).at_line(file.first_line));
            }
            if file.no_in_batch_neg && !self.reranker {
                let message = "the marker no_in_batch_neg works only with same_dataset_within_batch; in-batch negatives are used";
                self.note(file, codes::MARKER_IGNORED, Severity::Warning, message.into());
            }
            if let Some(name) = &file.task_type
                && TaskType::from_name(name) != TaskType::Normal
            {
                let message = format!("type {name} changes nothing without same_dataset_within_batch");
                self.note(file, codes::TYPE_IGNORED, Severity::Info, message);
            }
        }
        self.layout.datasets.push(DatasetShape {
            name: "all files".into(),
            rows: used.iter().map(|&index| self.rows(index)).sum(),
            files: used,
            batch_size: self.training.per_device_train_batch_size,
            group: GroupSize::Fixed(group),
            no_in_batch_neg: self.reranker,
            task: TaskType::Normal,
            scored: self.data.knowledge_distillation,
        });
    }

    /// Same-dataset mode: one dataset of each file, small files merged per folder.
    fn separate(&mut self, used: &[usize]) {
        let threshold = self.data.small_threshold as u64;
        let mut argument = None;
        let mut small: Vec<usize> = Vec::new();
        for &index in used {
            let Some(file) = self.files.get(index) else {
                continue;
            };
            if argument != Some(file.argument) {
                self.merge(&std::mem::take(&mut small));
                argument = Some(file.argument);
            }
            if self.rows(index) >= threshold {
                let shape = self.shape(index);
                self.layout.datasets.extend(shape);
            } else if file.from_folder {
                small.push(index);
            } else {
                let message = format!(
                    "is left out: its {} rows are fewer than small_threshold {threshold}",
                    self.rows(index)
                );
                self.note(file, codes::FILES_DROPPED, Severity::Warning, message);
            }
        }
        self.merge(&small);
    }

    /// The dataset of one file, or nothing after noting why it cannot be trained.
    fn shape(&mut self, index: usize) -> Option<DatasetShape> {
        let file = self.files.get(index)?;
        let task = file
            .task_type
            .as_deref()
            .map_or(TaskType::Normal, TaskType::from_name);
        let per_device = self.training.per_device_train_batch_size;
        let batch_size = file.batch_size.unwrap_or_else(|| task.batch_size(per_device));
        if batch_size == 0 {
            let (code, message) = if file.batch_size.is_some() {
                (
                    codes::BATCH_SIZE,
                    "batch_size is 0; give at least 1 or leave the column out".to_owned(),
                )
            } else {
                let name = file.task_type.as_deref().unwrap_or_default();
                let message = format!(
                    "type {name} halves per_device_train_batch_size {per_device} to nothing; set it to 2 or more, or give the file a batch_size column"
                );
                (codes::BATCH_HALVED_TO_NOTHING, message)
            };
            self.note(file, code, Severity::Error, message);
            return None;
        }
        let mut group = match (&file.task_type, file.train_group_size) {
            (None, Some(size)) => GroupSize::Fixed(size),
            _ => task.group_size(self.data.train_group_size),
        };
        if group == GroupSize::Fixed(0) {
            self.note(
                file,
                codes::GROUP_SIZE,
                Severity::Error,
                "train_group_size is 0; give at least 1".into(),
            );
            return None;
        }
        if file.no_negatives {
            if file.no_in_batch_neg {
                let message = "has no negatives and is marked no_in_batch_neg: nothing to compare with; mine negatives or drop the marker";
                self.note(file, codes::NEG_EMPTY, Severity::Error, message.into());
                return None;
            }
            if group != GroupSize::Fixed(1) {
                let message = "no row has negatives: trains with in-batch negatives only";
                self.note(
                    file,
                    codes::NEG_EMPTY_EVERYWHERE,
                    Severity::Warning,
                    message.into(),
                );
            }
            group = GroupSize::Fixed(1);
        }
        let scored = self.data.knowledge_distillation && file.scored;
        if self.data.knowledge_distillation && !file.scored {
            let message = "has no teacher scores and trains without distillation";
            self.note(file, codes::SCORES_MISSING, Severity::Info, message.into());
        }
        Some(DatasetShape {
            name: file.name.clone(),
            files: vec![index],
            rows: self.rows(index),
            batch_size,
            group,
            no_in_batch_neg: file.no_in_batch_neg,
            task,
            scored,
        })
    }

    /// Merges the small files of one folder, separately for each kind, or drops them all.
    fn merge(&mut self, small: &[usize]) {
        if small.is_empty() {
            return;
        }
        let total: u64 = small.iter().map(|&index| self.rows(index)).sum();
        let names: Vec<&str> = small
            .iter()
            .filter_map(|&index| self.files.get(index))
            .map(|file| file.name.as_str())
            .collect();
        let names = names.join(", ");
        if total < self.data.drop_threshold as u64 {
            self.layout.notes.push(Issue::new(
                codes::FILES_DROPPED,
                Severity::Warning,
                format!(
                    "{} small files with {total} rows together are left out, fewer than drop_threshold {}: {names}",
                    small.len(),
                    self.data.drop_threshold
                ),
            ));
            return;
        }
        let mut merged: BTreeMap<Kind, DatasetShape> = BTreeMap::new();
        for &index in small {
            let Some(shape) = self.shape(index) else { continue };
            let kind = Kind {
                task: shape.task,
                group: shape.group,
                scored: shape.scored,
                no_in_batch_neg: shape.no_in_batch_neg,
            };
            if let Some(dataset) = merged.get_mut(&kind) {
                dataset.rows += shape.rows;
                dataset.batch_size = dataset.batch_size.min(shape.batch_size);
                dataset.files.push(index);
                dataset.name = format!(
                    "{} and {} more",
                    self.name(dataset.files.first()),
                    dataset.files.len() - 1
                );
            } else {
                merged.insert(kind, shape);
            }
        }
        self.layout.notes.push(Issue::new(
            codes::FILES_MERGED,
            Severity::Info,
            format!(
                "{} files below small_threshold are merged into {} dataset{}: {names}",
                small.len(),
                merged.len(),
                if merged.len() == 1 {
                    ""
                } else {
                    "s, as they differ in type, group size or scores"
                }
            ),
        ));
        self.layout.datasets.extend(merged.into_values());
    }

    fn name(&self, index: Option<&usize>) -> &str {
        index
            .and_then(|&index| self.file(index))
            .map_or("", |file| &file.name)
    }

    /// A query with one candidate has loss 0 whatever the model does.
    fn note_single_candidates(&mut self) {
        for dataset in &self.layout.datasets {
            let alone =
                dataset.no_in_batch_neg || (dataset.batch_size == 1 && !self.training.negatives_cross_device);
            if dataset.group == GroupSize::Fixed(1) && alone {
                let message = format!(
                    "a query of {} has one candidate and the loss is always 0; give negatives with train_group_size 2 or more{}",
                    dataset.name,
                    if dataset.no_in_batch_neg {
                        ""
                    } else {
                        ", or a larger batch"
                    }
                );
                self.layout
                    .notes
                    .push(Issue::new(codes::SINGLE_CANDIDATE, Severity::Error, message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, rows: u64) -> FileShape {
        FileShape {
            name: name.into(),
            rows,
            first_line: 1,
            from_folder: true,
            ..FileShape::default()
        }
    }

    fn same() -> DataArguments {
        DataArguments {
            same_dataset_within_batch: true,
            ..DataArguments::default()
        }
    }

    fn codes_of(layout: &Layout) -> Vec<&'static str> {
        layout.notes.iter().map(|note| note.code).collect()
    }

    #[test]
    fn small_files_of_a_folder_are_merged_by_kind_with_the_smallest_batch() {
        let data = DataArguments {
            small_threshold: 50,
            drop_threshold: 20,
            ..same()
        };
        let mut files = [
            file("a", 10),
            file("b", 60),
            file("c", 10),
            file("d", 10),
            FileShape {
                argument: 1,
                ..file("e", 19)
            },
        ];
        files[0].batch_size = Some(4);
        files[2].batch_size = Some(3);
        files[3].task_type = Some("symmetric_sts".into());
        let layout = lay_out(&files, &data, &TrainingArguments::default());
        let found: Vec<_> = layout
            .datasets
            .iter()
            .map(|d| (d.files.clone(), d.rows, d.batch_size, d.task))
            .collect();
        assert_eq!(
            found,
            [
                (vec![1], 60, 8, TaskType::Normal),
                (vec![0, 2], 20, 3, TaskType::Normal),
                (vec![3], 10, 4, TaskType::SymmetricSts),
            ]
        );
        assert_eq!(codes_of(&layout), [codes::FILES_MERGED, codes::FILES_DROPPED]);
    }

    #[test]
    fn a_small_file_named_alone_is_dropped_and_said() {
        let data = DataArguments {
            small_threshold: 50,
            ..same()
        };
        let files = [
            FileShape {
                from_folder: false,
                ..file("a", 49)
            },
            file("b", 50),
        ];
        let layout = lay_out(&files, &data, &TrainingArguments::default());
        assert_eq!(layout.datasets.len(), 1);
        assert_eq!(codes_of(&layout), [codes::FILES_DROPPED]);
    }

    #[test]
    fn plain_mode_uses_in_batch_negatives_only_when_no_file_has_negatives() {
        let pairs = FileShape {
            no_negatives: true,
            ..file("pairs", 9)
        };
        let triplets = file("triplets", 9);
        let (data, training) = (DataArguments::default(), TrainingArguments::default());
        let layout = lay_out(&[pairs.clone(), pairs.clone()], &data, &training);
        assert_eq!(layout.datasets[0].group, GroupSize::Fixed(1));
        assert_eq!(codes_of(&layout), [codes::NEG_EMPTY_EVERYWHERE]);
        let layout = lay_out(&[pairs, triplets], &data, &training);
        assert_eq!(layout.datasets[0].group, GroupSize::Fixed(8));
        assert_eq!(layout.notes[0].severity, Severity::Error);
        assert!(layout.notes[0].message.contains("train_group_size 1"));
    }

    #[test]
    fn what_cannot_be_trained_is_an_error_with_a_way_out() {
        let one = TrainingArguments {
            per_device_train_batch_size: 1,
            ..TrainingArguments::default()
        };
        let eight = TrainingArguments::default();
        for (file, data, training, code) in [
            (
                FileShape {
                    task_type: Some("symmetric_sts".into()),
                    ..file("a", 9)
                },
                same(),
                &one,
                codes::BATCH_HALVED_TO_NOTHING,
            ),
            (
                FileShape {
                    batch_size: Some(0),
                    ..file("a", 9)
                },
                same(),
                &eight,
                codes::BATCH_SIZE,
            ),
            (
                FileShape {
                    train_group_size: Some(0),
                    ..file("a", 9)
                },
                same(),
                &eight,
                codes::GROUP_SIZE,
            ),
            (
                FileShape {
                    no_in_batch_neg: true,
                    no_negatives: true,
                    ..file("a", 9)
                },
                same(),
                &eight,
                codes::NEG_EMPTY,
            ),
            (
                FileShape {
                    train_group_size: Some(1),
                    no_in_batch_neg: true,
                    ..file("a", 9)
                },
                same(),
                &eight,
                codes::SINGLE_CANDIDATE,
            ),
            (
                file("a", 9),
                DataArguments {
                    train_group_size: 1,
                    ..DataArguments::default()
                },
                &one,
                codes::SINGLE_CANDIDATE,
            ),
            (
                file("a", 9),
                DataArguments {
                    knowledge_distillation: true,
                    ..DataArguments::default()
                },
                &eight,
                codes::SCORES_MISSING,
            ),
        ] {
            let layout = lay_out(&[file], &data, training);
            assert!(
                layout
                    .notes
                    .iter()
                    .any(|note| note.code == code && note.severity == Severity::Error),
                "{code}: {:?}",
                layout.notes
            );
        }
    }
}
