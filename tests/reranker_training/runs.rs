//! Whole runs: resumed, saved, started from an encoder without a head.

use std::fs;
use std::path::Path;

use bge_core::config::{FinetuneConfig, Loader};
use bge_core::models::{CrossEncoder, ModelFolder};
use bge_core::train::Trainer;
use bge_tests::{bits, copy, fixture, json, weights};
use candle_core::Device;
use serde_json::Value;

use super::{MODULE, dropout_folder, folder, prepare, train};

/// Eight steps of a tiny model with dropout: 24 rows in batches of 5 are 5 micro-batches and 3 steps an epoch.
fn words(place: &Path, output: &str, more: &[&str]) -> Vec<String> {
    let model = place.join("model").display().to_string();
    let output = place.join(output).display().to_string();
    let fixed = [
        "--model_name_or_path",
        &model,
        "--output_dir",
        &output,
        "--train_group_size",
        "3",
        "--max_steps",
        "8",
        "--learning_rate",
        "1e-3",
        "--query_max_len",
        "12",
        "--passage_max_len",
        "24",
        "--per_device_train_batch_size",
        "5",
        "--gradient_accumulation_steps",
        "2",
        "--warmup_steps",
        "2",
        "--weight_decay",
        "0.05",
        "--logging_steps",
        "3",
        "--save_steps",
        "1",
        "--shuffle_ratio",
        "0.2",
    ]; // a table of flags
    let all = fixed.iter().chain(more);
    all.map(|&word| word.to_owned()).collect()
}

#[test]
fn a_run_resumed_before_at_and_after_an_epoch_ends_as_the_straight_one() {
    for (model, more) in [
        (
            "bert",
            &[
                "--train_data",
                "data/scored.jsonl",
                "--knowledge_distillation",
                "--sub_batch_size",
                "6",
            ][..],
        ),
        (
            "xlmr",
            &["--train_data", "data/foreign.jsonl", "--gradient_checkpointing"][..],
        ),
    ] {
        let place = tempfile::tempdir().unwrap();
        dropout_folder(model, &place.path().join("model"), 0.1);
        train(&words(place.path(), "straight", more));
        let bytes = |folder: &str, file: &str| fs::read(place.path().join(folder).join(file)).unwrap();
        for step in [2, 3, 4] {
            let from = place
                .path()
                .join(format!("straight/checkpoint-{step}"))
                .display()
                .to_string();
            let output = format!("resumed-{step}");
            train(&words(
                place.path(),
                &output,
                &[more, &["--resume_from_checkpoint", &from]].concat(),
            ));
            for file in ["model.safetensors", "config.json", "tokenizer.json"] {
                assert_eq!(
                    bytes("straight", file),
                    bytes(&output, file),
                    "{model} from {step}: {file}"
                );
            }
            let (a, b) = ("straight/checkpoint-8", format!("{output}/checkpoint-8"));
            assert_eq!(
                bytes(a, "optimizer.safetensors"),
                bytes(&b, "optimizer.safetensors")
            );
            let log = |folder: &str| {
                json(&place.path().join(folder).join("trainer_state.json"))["log_history"].clone()
            };
            assert_eq!(log(a), log(&b), "{model} from {step}");
        }
        let from = place.path().join("straight/checkpoint-3").display().to_string();
        let other = words(
            place.path(),
            "refused",
            &[
                more,
                &["--resume_from_checkpoint", &from, "--train_group_size", "4"],
            ]
            .concat(),
        );
        assert!(
            prepare(&other)
                .unwrap_err()
                .message()
                .contains("other data or batches")
        );
    }
}

#[test]
fn the_saved_folder_is_a_hugging_face_cross_encoder_and_its_settings_run_again_to_the_same_bytes() {
    for (model, prefix, class) in [
        ("bert", "bert.", "BertForSequenceClassification"),
        ("xlmr", "roberta.", "XLMRobertaForSequenceClassification"),
    ] {
        let place = tempfile::tempdir().unwrap();
        dropout_folder(model, &place.path().join("model"), 0.1);
        train(&words(
            place.path(),
            "out",
            &["--train_data", "data/plain.jsonl", "--save_strategy", "no"],
        ));
        let out = place.path().join("out");
        let names = |folder: &Path| {
            let file =
                candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
            let mut names: Vec<String> = file.into_keys().collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&out),
            names(&folder().join("models").join(model)),
            "as transformers names them"
        );
        assert!(
            names(&out)
                .iter()
                .all(|name| name.starts_with(prefix) || name.starts_with("classifier."))
        );
        let config = json(&out.join("config.json"));
        assert_eq!(config["architectures"], serde_json::json!([class]));
        assert_eq!(config["id2label"], serde_json::json!({ "0": "LABEL_0" }));
        for file in ["modules.json", "1_Pooling", "optimizer.safetensors"] {
            assert!(!out.join(file).exists(), "{file}");
        }
        let settings = fs::read_to_string(out.join("config.toml")).unwrap();
        let again = settings.replace(
            &out.display().to_string(),
            &place.path().join("again").display().to_string(),
        );
        let parsed = Loader::<FinetuneConfig>::for_module(MODULE)
            .toml(&again)
            .finish()
            .unwrap();
        Trainer::new(parsed.arguments.check_for(MODULE).unwrap())
            .unwrap()
            .run(&mut [])
            .unwrap();
        let bytes = |folder: &str| fs::read(place.path().join(folder).join("model.safetensors")).unwrap();
        assert_eq!(bytes("out"), bytes("again"));
        CrossEncoder::open(&out).unwrap();
    }
}

#[test]
fn an_encoder_without_a_head_gets_a_fresh_one_from_the_seed_and_says_so() {
    for (name, fresh) in [("bert", 2), ("xlmr", 4)] {
        let source = fixture("parity/models").join(name);
        let error = CrossEncoder::open(&source).unwrap_err();
        assert!(
            error.message().contains("without a classification head"),
            "{error}"
        );
        let source = ModelFolder::open(&source).unwrap();
        let open = |seed| CrossEncoder::open_for_training(&source, seed).unwrap();
        let (model, note) = open(3);
        let note = note.unwrap();
        assert!(
            note.code == "model.fresh_head" && note.message.contains("`classifier"),
            "{note}"
        );
        let (same, other) = (bits(open(3).0.encoder()), bits(open(4).0.encoder()));
        assert_eq!(bits(model.encoder()), same);
        assert_eq!(
            same.iter().filter(|(name, bits)| other[*name] != **bits).count(),
            fresh / 2,
            "only fresh maps depend on the seed"
        );
        let head = weights(model.encoder());
        let out = &head[if name == "bert" {
            "classifier.weight"
        } else {
            "classifier.out_proj.weight"
        }];
        let deviation = (out.iter().map(|x| x * x).sum::<f32>() / out.len() as f32).sqrt();
        assert!((0.1..0.4).contains(&deviation), "initializer_range is 0.2");
    }
}

#[test]
fn a_tiny_cross_encoder_learns_its_rows_by_heart() {
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("out").display().to_string();
    let mut args = vec![
        "--model_name_or_path".to_owned(),
        fixture("parity/models/bert").display().to_string(),
    ];
    let more = [
        "--output_dir",
        &output,
        "--train_data",
        "data/one_batch.jsonl",
        "--max_steps",
        "60",
        "--learning_rate",
        "3e-3",
        "--train_group_size",
        "4",
        "--logging_steps",
        "1",
        "--save_strategy",
        "no",
    ];
    args.extend(more.map(str::to_owned));
    let report = train(&args);
    let log = &report.state.log_history;
    assert!(log[0]["loss"].as_f64().unwrap() > 1.0, "{:?}", log[0]);
    assert!(
        log[59]["loss"].as_f64().unwrap() < 0.05 && log[59]["accuracy"] == 1.0,
        "{:?}",
        log[59]
    );
}

#[test]
fn the_instructions_of_settings_and_rows_reach_the_pairs() {
    // The parity cases carry their pairs; here the same rows go through the whole trainer and must give the same losses
    // as rows whose texts have the instructions written into them.
    let place = tempfile::tempdir().unwrap();
    let lines = fs::read_to_string(folder().join("data/prompted.jsonl")).unwrap();
    let mut plain = String::new();
    for line in lines.lines() {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["query"] = format!(
            "{} {}",
            row["query_prompt"].as_str().unwrap(),
            row["query"].as_str().unwrap()
        )
        .into();
        let prompt = row["passage_prompt"].as_str().unwrap().to_owned();
        for key in ["pos", "neg"] {
            for text in row[key].as_array_mut().unwrap() {
                *text = format!("{prompt} {}", text.as_str().unwrap()).into();
            }
        }
        row.as_object_mut()
            .unwrap()
            .retain(|key, _| !key.ends_with("_prompt"));
        plain.push_str(&format!("{row}\n"));
    }
    fs::write(place.path().join("plain.jsonl"), plain).unwrap();
    copy(&folder().join("models/bert"), &place.path().join("model"));
    let data = place.path().join("plain.jsonl").display().to_string();
    let formats = [
        "--query_instruction_format",
        "{} {}",
        "--passage_instruction_format",
        "{} {}",
    ];
    let run = |output: &str, data: &str, more: &[&str]| {
        let more = [&["--train_data", data, "--shuffle_ratio", "0"], more].concat();
        train(&words(place.path(), output, &more)).state.log_history
    };
    let losses = |log: &[serde_json::Map<String, Value>]| -> Vec<f64> {
        log.iter()
            .filter_map(|entry| entry.get("loss")?.as_f64())
            .collect()
    };
    let with_prompts = run("a", "data/prompted.jsonl", &formats);
    assert_eq!(losses(&with_prompts), losses(&run("b", &data, &[])));
}
