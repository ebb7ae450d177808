//! Data from files on disk to the batches of an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bge_core::Severity;
use bge_core::config::{DataArguments, TrainingArguments};
use bge_core::data::layout::DatasetShape;
use bge_core::data::plan::Usage;
use bge_core::data::task::{GroupSize, TaskType};
use bge_core::data::{Dataset, EpochPlan, PlanInput, TrainGroup, codes};

fn shape(rows: u64, batch_size: usize) -> DatasetShape {
    DatasetShape {
        name: format!("{rows} rows"),
        files: Vec::new(),
        rows,
        batch_size,
        group: GroupSize::Fixed(2),
        no_in_batch_neg: false,
        task: TaskType::Normal,
        scored: false,
    }
}

fn input(datasets: &[DatasetShape], same_dataset: bool, world_size: usize) -> PlanInput<'_> {
    PlanInput {
        datasets,
        same_dataset,
        world_size,
        drop_last: false,
        seed: 42,
        epoch: 0,
    }
}

/// The rows of every global batch in order, all ranks joined.
fn global_batches(input: PlanInput<'_>) -> Vec<Vec<u64>> {
    let plan = EpochPlan::new(input).unwrap();
    (0..plan.steps())
        .map(|step| {
            (0..input.world_size)
                .flat_map(|rank| plan.batch(step, rank).unwrap().rows)
                .collect()
        })
        .collect()
}

fn write(folder: &Path, name: &str, lines: &[String]) -> String {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, lines.join("\n")).unwrap();
    path.display().to_string()
}

fn rows(prefix: &str, count: usize, negatives: usize) -> Vec<String> {
    (0..count)
        .map(|i| {
            let neg: Vec<_> = (0..negatives).map(|n| format!("{prefix} negative {i} {n}")).collect();
            serde_json::json!({"query": format!("{prefix} query {i}"), "pos": [format!("{prefix} positive {i}")], "neg": neg})
                .to_string()
        })
        .collect()
}

fn arguments(train_data: &[String]) -> DataArguments {
    DataArguments {
        train_data: train_data.to_vec(),
        train_group_size: 3,
        ..DataArguments::default()
    }
}

fn open(data: &DataArguments) -> bge_core::Result<Dataset> {
    Dataset::open(data, &TrainingArguments::default())
}

fn epoch(dataset: &Dataset, world_size: usize, epoch: u64) -> Vec<Vec<TrainGroup>> {
    let plan = EpochPlan::new(dataset.plan_input(world_size, epoch)).unwrap();
    (0..plan.steps())
        .flat_map(|step| (0..world_size).map(move |rank| (step, rank)))
        .map(|(step, rank)| dataset.training_batch(&plan.batch(step, rank).unwrap()).unwrap())
        .collect()
}

#[test]
fn a_global_batch_is_the_same_on_one_two_and_four_ranks() {
    for same_dataset in [false, true] {
        let of = |world: usize| {
            let datasets = [shape(96, 8 / world), shape(40, 8 / world)];
            global_batches(input(&datasets, same_dataset, world))
        };
        let one = of(1);
        assert_eq!(one.len(), 17);
        assert_eq!(one, of(2));
        assert_eq!(one, of(4));
    }
}

#[test]
fn an_epoch_covers_every_row_once() {
    let datasets = [shape(101, 8)];
    for epoch in 0..3 {
        let batches = global_batches(PlanInput {
            epoch,
            ..input(&datasets, false, 1)
        });
        assert_eq!(batches.last().unwrap().len(), 5);
        let rows: Vec<u64> = batches.into_iter().flatten().collect();
        assert_eq!(rows.len(), 101);
        assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), (0..101).collect());
    }
}

#[test]
fn epochs_and_seeds_differ_and_repeat_exactly() {
    let datasets = [shape(100, 8), shape(30, 4)];
    for same_dataset in [false, true] {
        let base = input(&datasets, same_dataset, 1);
        assert_eq!(global_batches(base), global_batches(base));
        assert_ne!(
            global_batches(base),
            global_batches(PlanInput { epoch: 1, ..base })
        );
        assert_ne!(
            global_batches(base),
            global_batches(PlanInput { seed: 1, ..base })
        );
    }
}

#[test]
fn a_partial_batch_is_shared_and_the_same_on_any_number_of_ranks() {
    for same_dataset in [false, true] {
        let of = |world: usize| {
            let datasets = [shape(21, 8 / world), shape(5, 8 / world)];
            global_batches(input(&datasets, same_dataset, world))
        };
        let one = of(1);
        assert_eq!(one.iter().map(Vec::len).min(), Some(5));
        for world in [2, 4, 8] {
            assert_eq!(one, of(world), "{world} ranks");
        }
    }
    let datasets = [shape(10, 2)];
    let input = input(&datasets, false, 4);
    let plan = EpochPlan::new(input).unwrap();
    let shares = [0, 1, 2, 3].map(|rank| plan.batch(1, rank).unwrap().rows.len());
    assert_eq!(shares, [1, 0, 1, 0]);
    assert_eq!(
        input.usage(&datasets[0]),
        Usage {
            batches: 2,
            left_out: 0,
            last: 2
        }
    );
}

#[test]
fn drop_last_leaves_the_partial_batch_out_and_counts_it() {
    let datasets = [shape(21, 8)];
    let plan = PlanInput {
        drop_last: true,
        ..input(&datasets, false, 1)
    };
    assert_eq!(global_batches(plan).len(), 2);
    assert_eq!(plan.usage(&datasets[0]).left_out, 5);
    assert!(plan.notes()[0].message.contains("5 of 21 rows"));
    let nothing = [shape(7, 8)];
    let error = EpochPlan::new(PlanInput {
        drop_last: true,
        ..input(&nothing, false, 1)
    })
    .unwrap_err();
    assert!(error.message().contains("dataloader_drop_last"), "{error}");
}

#[test]
fn same_dataset_batches_do_not_mix_and_account_for_every_row() {
    let datasets = [shape(20, 8), shape(5, 8), shape(33, 4)];
    for world in [1, 2] {
        let input = input(&datasets, true, world);
        let plan = EpochPlan::new(input).unwrap();
        assert_eq!(plan.steps() as u64, input.steps());
        let bounds = [0, 20, 25, 58];
        let mut used: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for step in 0..plan.steps() {
            let shares: Vec<_> = (0..world).map(|rank| plan.batch(step, rank).unwrap()).collect();
            for share in &shares {
                assert!(shares[0].rows.len() - share.rows.len() <= 1);
                assert_eq!(
                    (share.dataset, share.key, share.first),
                    (shares[0].dataset, shares[0].key, shares[0].rows[0])
                );
                let range = bounds[share.dataset]..bounds[share.dataset + 1];
                assert!(share.rows.iter().all(|row| range.contains(row)), "{share:?}");
                used.entry(share.dataset).or_default().extend(&share.rows);
            }
        }
        for (index, dataset) in datasets.iter().enumerate() {
            assert_eq!(
                used[&index].len() as u64 + input.usage(dataset).left_out,
                dataset.rows
            );
        }
        assert_eq!(used[&1].len(), 5, "a dataset smaller than a batch still trains");
        let noted: Vec<_> = plan.notes().iter().map(|note| note.code).collect();
        assert!(
            noted.contains(&codes::DATASET_SMALL) && noted.contains(&codes::ROWS_LEFT_OUT),
            "{noted:?}"
        );
    }
}

#[test]
fn the_rows_left_out_change_between_epochs() {
    let datasets = [shape(20, 8)];
    let mut used = BTreeSet::new();
    for epoch in 0..8 {
        used.extend(
            global_batches(PlanInput {
                epoch,
                ..input(&datasets, true, 1)
            })
            .into_iter()
            .flatten(),
        );
    }
    assert_eq!(used.len(), 20);
}

#[test]
fn a_batch_past_the_end_or_of_a_foreign_rank_is_an_error() {
    let datasets = [shape(8, 8)];
    let plan = EpochPlan::new(input(&datasets, false, 1)).unwrap();
    assert!(plan.batch(1, 0).is_err());
    assert!(plan.batch(0, 1).is_err());
    assert!(EpochPlan::new(input(&[], false, 1)).is_err());
    assert!(
        EpochPlan::new(PlanInput {
            world_size: 0,
            ..input(&datasets, false, 1)
        })
        .is_err()
    );
}

#[test]
fn files_and_folders_are_read_in_sorted_order_with_blank_lines_crlf_and_bom() {
    let folder = tempfile::tempdir().unwrap();
    let first = format!("\u{feff}\n{}\r", rows("a", 1, 2)[0]);
    write(folder.path(), "b.jsonl", &rows("b", 2, 2));
    write(
        folder.path(),
        "a.jsonl",
        &[first, String::new(), rows("a", 2, 2)[1].clone(), String::new()],
    );
    fs::write(
        folder.path().join("c.json"),
        format!("[\n{}\n]\n", rows("c", 2, 2).join(",\n")),
    )
    .unwrap();
    write(folder.path(), "readme.md", &["no data".into()]);
    let dataset = open(&arguments(&[folder.path().display().to_string()])).unwrap();
    let queries: Vec<_> = (0..dataset.len())
        .map(|row| dataset.record(row).unwrap().query.into_owned())
        .collect();
    assert_eq!(
        queries,
        [
            "a query 0",
            "a query 1",
            "b query 0",
            "b query 1",
            "c query 0",
            "c query 1"
        ]
    );
    let line = |row| dataset.place(row).unwrap().1;
    assert_eq!((line(0), line(1), line(2), line(5)), (2, 4, 1, 3));
    assert!(
        dataset
            .notes()
            .iter()
            .any(|note| note.code == codes::FILE_IGNORED && note.message.contains("readme.md"))
    );
    assert!(dataset.record(6).is_err());
}

#[test]
fn a_bad_row_is_named_with_file_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = rows("a", 3, 2);
    lines.push(r#"{"query": "q", "pos": "text", "neg": ["n"]}"#.into());
    lines.push(r#"{"query": "q", "#.into());
    lines.push(r#"{"query": "q", "pos": ["p"], "neg": []}"#.into());
    let path = write(folder.path(), "a.jsonl", &lines);
    let dataset = open(&arguments(std::slice::from_ref(&path))).unwrap();
    let error = dataset.record(3).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{path}:4: `pos`: must be a list of texts, found a text")
    );
    let error = dataset.record(4).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{path}:5: ")) && error.contains("ends too early"),
        "{error}"
    );
    let plan = EpochPlan::new(dataset.plan_input(1, 0)).unwrap();
    let mut batch = plan.batch(0, 0).unwrap();
    batch.rows = vec![5];
    let error = dataset.training_batch(&batch).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{path}:6: `neg`")) && error.contains("train_group_size 1"),
        "{error}"
    );
}

#[test]
fn paths_that_are_no_training_data_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("folder.jsonl")).unwrap();
    for name in ["a.csv", "a.jsonl.gz", "a.txt", "noending"] {
        fs::write(at(name), "x").unwrap();
    }
    fs::write(at("nothing.jsonl"), "\n \n").unwrap();
    fs::write(
        at("open.json"),
        "[{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\"]},",
    )
    .unwrap();
    for (name, part) in [
        ("missing.jsonl", "cannot open"),
        ("empty", "no .json or .jsonl file"),
        ("folder.jsonl", "no .json or .jsonl file"),
        ("a.csv", "bge convert"),
        ("a.jsonl.gz", "gunzip"),
        ("a.txt", "rename"),
        ("noending", "rename"),
        ("nothing.jsonl", "no rows"),
        ("open.json", "not closed"),
    ] {
        let error = open(&arguments(&[at(name)])).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
        assert!(name == "nothing.jsonl" || error.starts_with(&at(name)), "{error}");
    }
    assert!(
        open(&arguments(&[]))
            .unwrap_err()
            .to_string()
            .contains("train_data")
    );
}

#[test]
fn a_packed_file_in_a_folder_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.jsonl", &rows("a", 4, 2));
    write(folder.path(), "b.jsonl.gz", &["packed".into()]);
    let dataset = open(&arguments(&[folder.path().display().to_string()])).unwrap();
    let note = &dataset.notes()[0];
    assert_eq!(
        (note.code, note.severity),
        (codes::FILE_IGNORED, Severity::Warning)
    );
    assert!(note.message.contains("b.jsonl.gz"));
}

#[test]
fn the_no_in_batch_marker_counts_on_files_and_folders() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "plain/a.jsonl", &rows("a", 8, 2));
    write(root.path(), "plain/b-no_in_batch_neg.jsonl", &rows("b", 8, 2));
    write(root.path(), "marked-no_in_batch_neg/c.jsonl", &rows("c", 8, 2));
    let alone = write(root.path(), "d-no_in_batch_neg.jsonl", &rows("d", 8, 2));
    let folder = |name: &str| format!("{}/{name}/", root.path().display());
    let data = DataArguments {
        same_dataset_within_batch: true,
        ..arguments(&[folder("plain"), folder("marked-no_in_batch_neg"), alone])
    };
    let dataset = open(&data).unwrap();
    let flags: Vec<bool> = dataset
        .layout()
        .datasets
        .iter()
        .map(|d| d.no_in_batch_neg)
        .collect();
    assert_eq!(flags, [false, true, true, true]);
    let plain = open(&DataArguments {
        same_dataset_within_batch: false,
        ..data
    })
    .unwrap();
    assert!(!plain.layout().datasets[0].no_in_batch_neg);
    assert_eq!(
        plain
            .notes()
            .iter()
            .filter(|note| note.code == codes::MARKER_IGNORED)
            .count(),
        3
    );
}

#[test]
fn a_capped_file_keeps_a_sample_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", &rows("a", 1000, 2));
    let data = DataArguments {
        max_example_num_per_dataset: 100,
        ..arguments(&[path])
    };
    let of = |seed| {
        let dataset = Dataset::open(
            &data,
            &TrainingArguments {
                seed,
                ..TrainingArguments::default()
            },
        )
        .unwrap();
        (0..dataset.len())
            .map(|row| dataset.place(row).unwrap().1)
            .collect::<Vec<_>>()
    };
    let sample = of(42);
    assert_eq!(sample.len(), 100);
    assert!(
        sample.is_sorted() && sample[99] > 800 && sample[50] > 300 && sample[50] < 700,
        "{sample:?}"
    );
    assert_eq!(sample, of(42));
    assert_ne!(sample, of(43));
}

#[test]
fn pairs_without_negatives_train_in_batch_and_a_mixture_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = write(folder.path(), "pairs.jsonl", &rows("a", 20, 0));
    let triplets = write(folder.path(), "triplets.jsonl", &rows("b", 20, 2));
    let mut mixed = rows("c", 3, 0);
    mixed.extend(rows("d", 2, 2));
    let mixed = write(folder.path(), "mixed.jsonl", &mixed);
    let only = open(&arguments(std::slice::from_ref(&pairs))).unwrap();
    assert!(
        epoch(&only, 1, 0)
            .iter()
            .flatten()
            .all(|group| group.passages.len() == 1)
    );
    assert_eq!(only.notes()[0].code, codes::NEG_EMPTY_EVERYWHERE);
    let error = open(&arguments(&[triplets.clone(), pairs.clone()]))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&pairs) && error.contains("train_group_size 1"),
        "{error}"
    );
    let same = DataArguments {
        same_dataset_within_batch: true,
        ..arguments(&[triplets, pairs])
    };
    let sizes: BTreeSet<_> = epoch(&open(&same).unwrap(), 1, 0)
        .iter()
        .map(|batch| batch[0].passages.len())
        .collect();
    assert_eq!(sizes, [1, 3].into());
    let error = open(&arguments(&[mixed])).unwrap_err().to_string();
    assert!(error.contains(":1: ") && error.contains("line 4 has"), "{error}");
}

#[test]
fn task_types_set_batch_group_and_format_in_same_dataset_mode() {
    let folder = tempfile::tempdir().unwrap();
    let typed = |name: &str, task: &str, negatives: usize, extra: serde_json::Value| {
        let lines: Vec<String> = rows(name, 16, negatives)
            .iter()
            .map(|line| {
                let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
                row["type"] = task.into();
                row["prompt"] = "P: ".into();
                for (key, value) in extra.as_object().unwrap() {
                    row[key] = value.clone();
                }
                row.to_string()
            })
            .collect();
        write(folder.path(), name, &lines)
    };
    let none = serde_json::json!({});
    let files = [
        typed("a.jsonl", "normal", 5, none.clone()),
        typed("b.jsonl", "only_1neg", 5, none.clone()),
        typed("c.jsonl", "symmetric_class", 1, none.clone()),
        typed("d.jsonl", "symmetric_sts", 5, none.clone()),
        typed(
            "e.jsonl",
            "symmetric_clustering",
            5,
            serde_json::json!({"batch_size": 2}),
        ),
        typed(
            "f.jsonl",
            "symmetric_other",
            5,
            serde_json::json!({"train_group_size": 6}),
        ),
    ];
    let data = DataArguments {
        same_dataset_within_batch: true,
        ..arguments(&files)
    };
    let dataset = open(&data).unwrap();
    let mut seen = BTreeMap::new();
    for batch in epoch(&dataset, 1, 0) {
        let group = &batch[0];
        assert!(group.query.starts_with("P: "));
        let name = group.query[3..4].to_owned();
        seen.insert(
            name,
            (
                batch.len(),
                group.passages.len(),
                group.passages[0].starts_with("P: "),
            ),
        );
    }
    let expected = [
        ("a", (8, 3, false)),
        ("b", (8, 2, false)),
        ("c", (4, 2, false)),
        ("d", (4, 3, true)),
        ("e", (2, 3, true)),
        ("f", (4, 3, false)),
    ];
    assert_eq!(seen, expected.map(|(name, what)| (name.to_owned(), what)).into());
}

#[test]
fn a_resumed_epoch_goes_on_with_the_same_groups() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", &rows("a", 50, 9));
    let data = arguments(&[path]);
    let whole = epoch(&open(&data).unwrap(), 1, 3);
    let reopened = open(&data).unwrap();
    let plan = EpochPlan::new(reopened.plan_input(1, 3)).unwrap();
    for step in (0..plan.steps()).rev() {
        assert_eq!(
            reopened.training_batch(&plan.batch(step, 0).unwrap()).unwrap(),
            whole[step]
        );
    }
}

#[test]
fn threads_read_one_data_set_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", &rows("a", 64, 4));
    let dataset = open(&arguments(&[path])).unwrap();
    let plan = EpochPlan::new(dataset.plan_input(2, 0)).unwrap();
    let read = |rank: usize| -> Vec<_> {
        (0..plan.steps())
            .map(|step| dataset.training_batch(&plan.batch(step, rank).unwrap()).unwrap())
            .collect()
    };
    let alone = [read(0), read(1)];
    let together = std::thread::scope(|scope| {
        let threads = [scope.spawn(|| read(0)), scope.spawn(|| read(1))];
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(alone, together);
}

#[test]
fn a_file_cut_during_the_run_is_an_error_not_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", &rows("a", 2000, 4));
    let dataset = open(&arguments(std::slice::from_ref(&path))).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(100)
        .unwrap();
    let error = dataset.record(1999).unwrap_err().to_string();
    assert!(error.starts_with(&path) && error.contains("shorter"), "{error}");
}

#[test]
fn a_file_rewritten_during_the_run_is_named_when_a_row_no_longer_parses() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.jsonl", &rows("a", 20, 2));
    let dataset = open(&arguments(std::slice::from_ref(&path))).unwrap();
    let length = fs::metadata(&path).unwrap().len() as usize;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, &vec![b'x'; length]).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let error = dataset.record(3).unwrap_err().to_string();
    assert!(error.contains("changed during the run"), "{error}");
}

#[test]
fn small_and_missing_files_are_accounted_for() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "f/a.jsonl", &rows("a", 5, 2));
    write(root.path(), "f/b.jsonl", &rows("b", 30, 2));
    write(root.path(), "f/c.jsonl", &rows("c", 6, 2));
    write(root.path(), "f/empty.jsonl", &[]);
    let data = DataArguments {
        same_dataset_within_batch: true,
        small_threshold: 10,
        drop_threshold: 11,
        ..arguments(&[root.path().join("f").display().to_string()])
    };
    let dataset = open(&data).unwrap();
    let rows: Vec<u64> = dataset.layout().datasets.iter().map(|d| d.rows).collect();
    assert_eq!(rows, [30, 11]);
    assert_eq!(dataset.record(29).unwrap().query, "b query 29");
    assert_eq!(dataset.record(30).unwrap().query, "a query 0");
    assert_eq!(dataset.record(40).unwrap().query, "c query 5");
    let noted: Vec<_> = dataset.notes().iter().map(|note| note.code).collect();
    assert_eq!(noted, [codes::FILE_EMPTY, codes::FILES_MERGED]);
    let dropped = open(&DataArguments {
        drop_threshold: 12,
        ..data
    })
    .unwrap();
    assert_eq!(dropped.layout().datasets.len(), 1);
    assert!(
        dropped
            .notes()
            .iter()
            .any(|note| note.code == codes::FILES_DROPPED)
    );
}
