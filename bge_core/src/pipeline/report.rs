//! What the stages found, in a line each and for the page at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::PipelineReport;
use super::manifest::Manifest;
use crate::config::{Module, PipelineConfig, to_flags};
use crate::evaluation::{ReportContext, TrainingCurve};

/// What a stage found, in a line.
pub(super) fn summary(manifest: &Manifest) -> String {
    let result = &manifest.result;
    let number = |name: &str| result.get(name).and_then(Value::as_u64).unwrap_or(0);
    let text = |name: &str| {
        result
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    match manifest.stage.as_str() {
        "finetune" | "finetune_reranker" => {
            let loss = result.get("loss").and_then(Value::as_f64);
            let loss = loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
            format!("{} steps{loss}", number("global_step"))
        }
        "merge" => {
            let weights = result.get("weights").map(Value::to_string).unwrap_or_default();
            format!("weights {weights}")
        }
        "evaluate" if text("headline").is_empty() => {
            let metric = |name: &str| {
                result
                    .pointer(&format!("/metrics/{name}"))
                    .and_then(Value::as_f64)
            };
            metric("ndcg_at_10").map_or_else(String::new, |value| format!("nDCG@10 {value:.4}"))
        }
        "validate" | "evaluate" => text("headline"),
        _ => text("summary"),
    }
}

/// What the page says beside the numbers: every stage's line, the training's curve and settings.
pub(super) fn context(pipeline: &PipelineConfig, done: &[Manifest]) -> ReportContext {
    let mut provenance: BTreeMap<String, String> = BTreeMap::new();
    provenance.insert("bge".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    provenance.insert("model".to_owned(), pipeline.shared.model_name_or_path.clone());
    provenance.insert("data".to_owned(), pipeline.shared.train_data.join(", "));
    let mut training = None;
    for manifest in done {
        provenance.insert(format!("stage {}", manifest.stage), summary(manifest));
        if manifest.stage == "finetune" {
            training = manifest
                .result
                .get("log_history")
                .and_then(Value::as_array)
                .map(|log| curve(log));
        }
    }
    let flags = pipeline
        .finetune
        .as_ref()
        .map(|config| to_flags(config, Module::EncoderOnlyBase));
    let settings = flags.unwrap_or_default().into_iter().filter_map(|words| {
        let (name, values) = words.split_first()?;
        let name = name.trim_start_matches('-');
        (!name.starts_with("token")).then(|| (name.to_owned(), values.join(" ")))
    });
    ReportContext {
        title: String::new(),
        training,
        settings: settings.filter(|(name, _)| !name.contains('=')).collect(),
        provenance,
    }
}

/// The curves of a run, from its log.
fn curve(log: &[Value]) -> TrainingCurve {
    let series = |name: &str| {
        let point = |entry: &Value| Some((entry.get("step")?.as_u64()?, entry.get(name)?.as_f64()?));
        log.iter().filter_map(point).collect()
    };
    TrainingCurve {
        loss: series("loss"),
        learning_rate: series("learning_rate"),
        evaluations: series("eval_ndcg_at_10"),
        metric: None,
    }
}

/// The whole of a finished pipeline.
pub(super) fn finish(config: &PipelineConfig, stages: Vec<Manifest>) -> PipelineReport {
    let merged = config.merge.as_ref().map(|config| &config.merge.output_path);
    let tuned = config.finetune.as_ref().map(|config| &config.training.output_dir);
    let evaluation = stages.iter().find(|manifest| manifest.stage == "evaluate");
    let table = evaluation.and_then(|manifest| manifest.result.get("table")?.as_str().map(str::to_owned));
    let report = config
        .evaluate
        .as_ref()
        .and_then(|config| config.evaluate.report.as_ref());
    PipelineReport {
        model: PathBuf::from(merged.or(tuned).unwrap_or(&config.shared.model_name_or_path)),
        table,
        report: report.map(PathBuf::from),
        stages,
    }
}
