//! What fine-tuning costs elsewhere, merging models, and choosing how much of each.

use std::fs;
use std::path::{Path, PathBuf};

use bge_core::ErrorKind;
use bge_core::config::{EmbedArguments, EvaluateConfig, MergeArguments, MergeConfig};
use bge_core::evaluation::{
    MeasureEvent, MergeTrial, ReportContext, best_trial, choose_weights, measure_models, merge_models,
};
use bge_core::inference::Embedder;
use bge_core::models::{Merger, read_weights};
use bge_tests::{beir, copy, fixture, train};
use serde_json::Value;

/// The tiny base model, and the same one trained a little.
fn models(at: &Path) -> [PathBuf; 2] {
    let (base, tuned) = (at.join("base"), at.join("tuned"));
    copy(&fixture("parity/models/bert"), &base);
    let words = [
        "--model_name_or_path",
        base.to_str().unwrap(),
        "--train_data",
        fixture("parity/data/plain.jsonl").to_str().unwrap(),
        "--output_dir",
        tuned.to_str().unwrap(),
        "--train_group_size",
        "2",
        "--max_steps",
        "3",
        "--learning_rate",
        "1e-2",
        "--sentence_pooling_method",
        "mean",
    ]
    .map(str::to_owned);
    train(&words);
    [base, tuned]
}

#[test]
fn a_merged_model_is_the_weighted_mean_and_opens_like_its_last_model() {
    let folder = tempfile::tempdir().unwrap();
    let [base, tuned] = models(folder.path());
    let merger = Merger::open(&[base.clone(), tuned.clone()]).unwrap();
    let output = folder.path().join("merged");
    merger.save(&[0.25, 0.75], &output, &Value::Null).unwrap();
    let [a, b, mean] = [&base, &tuned, &output].map(|path| read_weights(path).unwrap());
    let values = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let mut moved = 0;
    for (name, merged) in &mean {
        let (a, b) = (values(&a[name]), values(&b[name]));
        for ((a, b), merged) in a.iter().zip(&b).zip(values(merged)) {
            let expected = (0.25 * f64::from(*a) + 0.75 * f64::from(*b)) as f32;
            assert_eq!(merged, expected, "{name}");
            moved += usize::from(a != b);
        }
    }
    assert!(moved > 1000, "the models are the same");
    let merged = Embedder::from_finetuned(&output, &EmbedArguments::default()).unwrap();
    assert_eq!(merged.notes(), [], "pooling comes from the trained folder");
    let note = fs::read_to_string(output.join("merge.json")).unwrap();
    assert!(note.contains("0.25"), "{note}");
    let again = merger.save(&[0.5, 0.5], &output, &Value::Null).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::InvalidConfig, "{again}");
}

#[test]
fn models_of_different_pooling_are_merged_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let [_, tuned] = models(folder.path());
    let cls = folder.path().join("cls");
    copy(&tuned, &cls);
    let pooling = r#"{"pooling_mode_cls_token": true}"#;
    fs::write(cls.join("1_Pooling/config.json"), pooling).unwrap();
    let notes = |models: [&Path; 2], output: &str| {
        let mut config = MergeConfig::default();
        config.merge.model_names_or_paths = models.map(|path| path.display().to_string()).to_vec();
        config.merge.weights = vec![0.5, 0.5];
        config.merge.output_path = folder.path().join(output).display().to_string();
        let mut notes = Vec::new();
        merge_models(&config.check().unwrap(), &mut |event| {
            if let MeasureEvent::Note(note) = event {
                notes.push(note.message.clone());
            }
        })
        .unwrap();
        notes
    };
    let said = notes([&cls, &tuned], "mixed");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("by cls and by mean, and the merged one by mean"),
        "{said:?}"
    );
    assert_eq!(notes([&tuned, &tuned], "alike"), [""; 0]);
}

#[test]
fn all_of_one_model_is_that_model() {
    let folder = tempfile::tempdir().unwrap();
    let [base, tuned] = models(folder.path());
    let merger = Merger::open(&[base, tuned.clone()]).unwrap();
    let merged = merger.weights(&[0.0, 1.0]).unwrap();
    for (name, value) in read_weights(&tuned).unwrap() {
        let difference = (&merged[&name] - &value).unwrap().abs().unwrap();
        let largest = difference.flatten_all().unwrap().max(0).unwrap();
        assert_eq!(largest.to_scalar::<f32>().unwrap(), 0.0, "{name}");
    }
}

#[test]
fn models_of_other_shapes_are_refused_by_name() {
    let folders = ["bert", "xlmr"].map(|name| fixture("parity/models").join(name));
    let error = Merger::open(&folders).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelFormat);
    assert!(
        error.to_string().contains("xlmr") && error.to_string().contains("can be merged"),
        "{error}"
    );
}

#[test]
fn chosen_weights_are_those_that_retrieve_best() {
    let folder = tempfile::tempdir().unwrap();
    let models = models(folder.path());
    beir(&folder.path().join("dev"));
    let arguments = MergeArguments {
        dataset: Some(folder.path().join("dev").display().to_string()),
        split: "test".to_owned(),
        merge_steps: 4,
        ..MergeArguments::default()
    };
    let merger = Merger::open(&models).unwrap();
    let mut heard = 0;
    let trials = choose_weights(&merger, &arguments, &mut |_| heard += 1).unwrap();
    let shares: Vec<f64> = trials.iter().map(|trial| trial.weights[1]).collect();
    assert_eq!(shares, [0.0, 0.25, 0.5, 0.75, 1.0]);
    assert!(heard > 0);
    let best = best_trial(&trials).unwrap();
    assert!(trials.iter().all(|trial| trial.score() <= best.score()));
    assert!(
        trials[4].score() > trials[0].score(),
        "training did not help: {trials:?}"
    );
}

#[test]
fn the_cost_on_general_data_stands_beside_the_gain() {
    let folder = tempfile::tempdir().unwrap();
    let [base, tuned] = models(folder.path());
    beir(&folder.path().join("own"));
    // The same texts, where every query is answered by another's passage: what was learned is wrong here.
    let general = folder.path().join("general");
    beir(&general);
    let qrels = fs::read_to_string(general.join("qrels/test.tsv")).unwrap();
    let (head, lines) = qrels.split_once('\n').unwrap();
    let count = lines.lines().count();
    let turned: Vec<String> = (0..count)
        .map(|row| format!("q{row}\tn{}\t1", (row + count / 2) % count))
        .collect();
    fs::write(
        general.join("qrels/test.tsv"),
        format!("{head}\n{}\n", turned.join("\n")),
    )
    .unwrap();
    let mut config = EvaluateConfig::default();
    config.embed.embedder_name_or_path = tuned.display().to_string();
    config.evaluate.dataset = folder.path().join("own").display().to_string();
    config.evaluate.general_dataset = vec![general.display().to_string()];
    let issues = config.clone().check().unwrap_err();
    assert!(issues[0].to_string().contains("--baseline"), "{issues:?}");
    config.evaluate.baseline = Some(base.display().to_string());
    let report = measure_models(&config.check().unwrap(), &mut |_| {}).unwrap();
    let own = report.comparison.as_ref().unwrap().primary().unwrap().change;
    let cost = report.general[0].primary().unwrap().change;
    assert!(own > 0.0 && cost < own, "{own} {cost}");
    assert!(
        report.table().contains("general data: general (test)"),
        "{}",
        report.table()
    );
    assert_eq!(report.json().unwrap()["general"].as_array().unwrap().len(), 1);
    assert!(report.html(&ReportContext::default()).contains("General data"));
}

#[test]
fn general_data_counts_as_much_as_the_development_set() {
    let trial = |ndcg_at_10: &[f64]| MergeTrial {
        weights: [0.5, 0.5],
        ndcg_at_10: ndcg_at_10.to_vec(),
    };
    assert_eq!(trial(&[0.5]).score(), 0.5);
    assert!((trial(&[0.5, 0.2, 0.4]).score() - 0.4).abs() < 1e-12);
    let trials = [trial(&[0.9, 0.1]), trial(&[0.8, 0.5]), trial(&[0.6, 0.6])];
    assert_eq!(best_trial(&trials), Some(&trials[1]));
}
