//! Whole runs on emulated GPUs, from settings to a saved model, beside runs on the CPU.

use std::path::{Path, PathBuf};

use super::kinds::possible;
use super::*;
use crate::config::{FinetuneConfig, Module};
use crate::models::{Bert, ModelFolder, read_weights};
use crate::train::{TrainReport, Trainer};

/// A folder for runs of a small model.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Four steps, with a checkpoint after the second.
    fn train(&self, output: &str, devices: &[&str], change: impl FnOnce(&mut FinetuneConfig)) -> TrainReport {
        let fixture = |name: &str| format!("{}/../tests/fixtures/parity/{name}", env!("CARGO_MANIFEST_DIR"));
        let mut config = FinetuneConfig::default();
        config.model.model_name_or_path = fixture("models/bert");
        config.data.train_data = vec![fixture("data/plain.jsonl")];
        config.data.train_group_size = 2;
        config.data.query_max_len = 12;
        config.data.passage_max_len = 16;
        config.training = TrainingArguments {
            output_dir: self.path(output).display().to_string(),
            devices: devices.iter().map(|&name| name.to_owned()).collect(),
            per_device_train_batch_size: 4 / devices.len(),
            gradient_accumulation_steps: 1,
            negatives_cross_device: true,
            max_steps: 4,
            save_steps: 2.0,
            logging_steps: 1.0,
            // The first steps of Adam do not depend on the sign of a gradient that is next to 0.
            adam_epsilon: 1e-3,
            ..arguments()
        };
        change(&mut config);
        let checked = config.check_for(Module::EncoderOnlyBase);
        let checked = checked.unwrap_or_else(|issues| panic!("{issues:#?}"));
        Trainer::new(checked).unwrap().run(&mut []).unwrap()
    }

    /// The weights that a run has saved.
    fn saved(&self, output: &str) -> Vec<(String, Vec<f32>)> {
        let folder = ModelFolder::open(&self.path(output)).unwrap();
        let model = Bert::new(folder.config.clone(), read_weights(&folder.path).unwrap()).unwrap();
        let params = model.params().iter();
        params
            .map(|(name, value, _)| (name.to_owned(), read(value).unwrap().to_vec()))
            .collect()
    }
}

fn bytes(folder: &Path) -> [Vec<u8>; 2] {
    ["model.safetensors", "trainer_state.json"].map(|file| std::fs::read(folder.join(file)).unwrap())
}

#[test]
fn a_run_on_gpus_saves_what_one_on_the_cpu_does_and_goes_on_from_a_checkpoint() {
    if !possible(Storage::F32) {
        return;
    }
    let place = Place::new();
    let cpu = place.train("cpu", &["cpu"], |_| {});
    for (output, devices, zero_stage) in [
        ("one", &["cuda:0"][..], 0),
        ("two", &["cuda:0", "cuda:1"], 0),
        ("shared", &["cuda:0", "cuda:1"], 3),
    ] {
        let gpus = place.train(output, devices, |config| config.training.zero_stage = zero_stage);
        assert_eq!(gpus.state.global_step, 4);
        let [want, got] = [&cpu, &gpus].map(|report| report.state.log_history.last().unwrap());
        let loss = |entry: &serde_json::Map<String, serde_json::Value>| entry["loss"].as_f64().unwrap();
        assert!(
            (loss(want) / loss(got) - 1.0).abs() < 1e-4,
            "{output}: {want:?} {got:?}"
        );
        let apart = apart(&place.saved("cpu"), &place.saved(output));
        assert!(apart < 2e-5, "{output}: {apart}");
    }
    let moved = apart(&place.saved("cpu"), &place.saved("cpu/checkpoint-2"));
    assert!(moved > 1e-4, "{moved}");

    // On the same ranks the bits are those of a run that did not stop; on others they are near.
    for (output, from, devices, zero_stage) in [
        ("again", "shared", &["cuda:0", "cuda:1"][..], 3),
        ("gathered", "shared", &["cpu"], 0),
        ("spread", "cpu", &["cuda:0", "cuda:1"], 2),
    ] {
        let checkpoint = place.path(from).join("checkpoint-2");
        place.train(output, devices, |config| {
            config.training.zero_stage = zero_stage;
            config.training.resume_from_checkpoint = Some(checkpoint.display().to_string());
        });
        let apart = apart(&place.saved("cpu"), &place.saved(output));
        assert!(apart < 2e-5, "{output}: {apart}");
    }
    assert!(bytes(&place.path("again")) == bytes(&place.path("shared")));
}
