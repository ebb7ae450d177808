//! What cannot be trained is refused by name, with the place and the way out.

use std::fs;
use std::path::Path;

use bge_core::config::{DataArguments, FinetuneConfig, Module, from_command_line, json_schema};
use bge_core::data::preflight::validate_files;
use bge_core::data::session::ValidationOptions;
use bge_core::models::{CrossEncoder, ModelFolder};
use bge_tests::copy;
use candle_core::{Device, Tensor};

use super::{MODULE, change_config, folder, prepare, settings};

#[test]
fn folders_that_are_no_cross_encoders_are_refused_by_name() {
    let broken = |change: &dyn Fn(&Path)| {
        let place = tempfile::tempdir().unwrap();
        copy(&folder().join("models/bert"), place.path());
        change(place.path());
        let error = CrossEncoder::open(place.path()).unwrap_err();
        let training =
            ModelFolder::open(place.path()).and_then(|folder| CrossEncoder::open_for_training(&folder, 1));
        assert!(training.is_err(), "{error}");
        error.to_string()
    };
    let tensors = |folder: &Path, change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let file = folder.join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, file).unwrap();
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    for (change, part) in [
        (
            &(|folder: &Path| change_config(folder, |config| config["model_type"] = "gemma".into()))
                as &dyn Fn(&Path),
            "not `gemma`",
        ),
        (
            &|folder: &Path| {
                change_config(folder, |config| {
                    config["id2label"] = serde_json::json!({ "0": "A", "1": "B", "2": "C" })
                });
            },
            "num_labels must be 1",
        ),
        (
            &|folder: &Path| {
                tensors(folder, &|tensors| {
                    tensors.insert("classifier.weight".into(), zeros(&[3, 32]));
                    tensors.insert("classifier.bias".into(), zeros(&[3]));
                });
            },
            "3 labels",
        ),
        (
            &|folder: &Path| tensors(folder, &|tensors| drop(tensors.remove("classifier.bias"))),
            "`classifier.bias`",
        ),
        (
            &|folder: &Path| {
                tensors(folder, &|tensors| {
                    drop(tensors.remove("bert.pooler.dense.weight"))
                })
            },
            "pooler.dense",
        ),
        (
            &|folder: &Path| {
                tensors(folder, &|tensors| {
                    tensors.insert("classifier.weight".into(), zeros(&[1, 31]));
                });
            },
            "[1, 31]",
        ),
        (
            &|folder: &Path| change_config(folder, |config| config["classifier_dropout"] = 1.5.into()),
            "classifier_dropout",
        ),
        (
            &|folder: &Path| fs::remove_file(folder.join("model.safetensors")).unwrap(),
            "no model.safetensors",
        ),
    ] {
        let error = broken(change);
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn rows_that_a_reranker_cannot_train_on_are_refused_with_their_line() {
    let good =
        r#"{"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1], "neg_scores": [0, -1.5]}"#;
    for (line, part) in [
        (r#"{"query": "q", "pos": ["p"], "neg": []}"#, "in-batch"),
        (r#"{"query": "q", "pos": ["p"]}"#, "in-batch"),
        (
            r#"{"query": "q", "pos": [], "neg": ["n"], "pos_scores": [], "neg_scores": [1]}"#,
            "pos",
        ),
        (
            r#"{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [NaN], "neg_scores": [1]}"#,
            "NaN",
        ),
        (
            r#"{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [1, 2]}"#,
            "neg_scores",
        ),
        (
            r#"{"query": "q", "pos": ["p"], "neg": ["n"], "query_prompt": 3}"#,
            "query_prompt",
        ),
    ] {
        for position in [0, 1] {
            for check in ["True", "False"] {
                let place = tempfile::tempdir().unwrap();
                let mut lines = vec![good; 4];
                lines.insert(position, line);
                let data = place.path().join("train.jsonl");
                fs::write(&data, lines.join("\n")).unwrap();
                let (data, output) = (
                    data.display().to_string(),
                    place.path().join("out").display().to_string(),
                );
                let words = [
                    "--model_name_or_path",
                    "models/bert",
                    "--train_data",
                    &data,
                    "--output_dir",
                    &output,
                    "--train_group_size",
                    "2",
                    "--max_steps",
                    "3",
                    "--knowledge_distillation",
                    "--validate_data",
                    check,
                ];
                let error = prepare(&words)
                    .and_then(|mut trainer| trainer.run(&mut []))
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(part), "{line}: {error}");
                assert!(
                    error.contains(&format!("train.jsonl:{}", position + 1)),
                    "{line}: {error}"
                );
                assert!(!error.contains("train_group_size 1"), "{line}: {error}");
                assert!(!place.path().join("out/model.safetensors").exists());
            }
        }
    }
    // No row of the file has negatives: an embedder would train, a reranker has nothing to compare.
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("pairs.jsonl");
    fs::write(&data, "{\"query\": \"q\", \"pos\": [\"p\"]}\n".repeat(3)).unwrap();
    for check in ["True", "False"] {
        let data = data.display().to_string();
        let words = [
            "--model_name_or_path",
            "models/bert",
            "--train_data",
            &data,
            "--output_dir",
            "unused",
            "--validate_data",
            check,
        ];
        let error = prepare(&words).unwrap_err().to_string();
        assert!(
            error.contains("pairs.jsonl") && error.contains("no row has negatives"),
            "{error}"
        );
    }
}

#[test]
fn flags_that_do_not_apply_are_refused_by_name_and_upstreams_command_runs_unchanged() {
    let required = [
        "--model_name_or_path",
        "m",
        "--train_data",
        "d.jsonl",
        "--output_dir",
        "o",
    ];
    for (words, field) in [
        (&["--temperature", "0.1"][..], "temperature"),
        (
            &["--query_instruction_for_retrieval", "x"],
            "query_instruction_for_retrieval",
        ),
        (&["--sentence_pooling_method", "mean"], "sentence_pooling_method"),
        (&["--kd_loss_type", "m3_kd_loss"], "kd_loss_type"),
        (&["--unified_finetuning", "True"], "unified_finetuning"),
        (&["--train_group_size", "1"], "train_group_size"),
        (&["--model_type", "decoder"], "model_type"),
        (
            &["--eval_strategy", "epoch", "--eval_dataset", "e"],
            "eval_strategy",
        ),
        (&["--save_strategy", "best"], "save_strategy"),
    ] {
        let issues = settings(&[&required[..], words].concat()).unwrap_err();
        assert!(
            issues.iter().any(|issue| issue.field.as_deref() == Some(field)),
            "{words:?}: {issues:?}"
        );
    }
    let text = "torchrun --nproc_per_node 1 \\\n\t-m FlagEmbedding.finetune.reranker.encoder_only.base \\\n\
        --model_name_or_path BAAI/bge-reranker-v2-m3 --cache_dir ./cache/model \\\n --train_data ./example_data/normal/examples.jsonl \\\n\
        --cache_path ./cache/data --train_group_size 8 --query_max_len 256 --passage_max_len 256 --pad_to_multiple_of 8 --knowledge_distillation False \\\n\
        --query_instruction_for_rerank 'A: ' --query_instruction_format '{}{}' --output_dir ./out --overwrite_output_dir --learning_rate 6e-5 --fp16 \\\n\
        --num_train_epochs 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --dataloader_drop_last True --warmup_ratio 0.1 \\\n\
        --gradient_checkpointing --weight_decay 0.01 --deepspeed ../ds_stage0.json --logging_steps 1 --save_steps 1000";
    let line = from_command_line(text).unwrap_or_else(|issues| panic!("{issues:?}"));
    assert_eq!(line.module, MODULE);
    let data = &line.config.arguments.data;
    assert_eq!(
        (data.query_instruction_for_rerank.as_deref(), data.passage_max_len),
        (Some("A: "), 256)
    );
    let rendered = line
        .config
        .arguments
        .render(bge_core::config::RenderFormat::FlagEmbedding, MODULE);
    assert!(
        rendered.contains("-m FlagEmbedding.finetune.reranker.encoder_only.base"),
        "{rendered}"
    );
    assert!(
        rendered.contains("--query_instruction_for_rerank 'A: '"),
        "{rendered}"
    );
    let checked = line
        .config
        .arguments
        .check_for(MODULE)
        .unwrap_or_else(|issues| panic!("{issues:?}"));
    assert_eq!(checked.module(), MODULE);
    let schema = json_schema::<FinetuneConfig>("bge finetune", MODULE);
    let has = |name: &str| !schema["properties"][name].is_null();
    assert!(
        has("query_instruction_for_rerank")
            && has("train_data")
            && !has("temperature")
            && !has("colbert_dim")
    );
    let embedder = FinetuneConfig::from_flags(&["--query_instruction_for_rerank", "x"]).unwrap_err();
    assert_eq!(embedder[0].code, "config.unknown_flag");
}

#[test]
fn a_reranker_is_told_of_missing_negatives_and_of_leaks_and_not_of_in_batch_trouble() {
    let place = tempfile::tempdir().unwrap();
    bge_tests::beir(place.path());
    // The rows of the evaluation data itself, all with one positive: a leak, and for an embedder false negatives in the batch.
    let queries = fs::read_to_string(place.path().join("queries.jsonl")).unwrap();
    let mut data = String::new();
    for line in queries.lines() {
        let query: serde_json::Value = serde_json::from_str(line).unwrap();
        let row =
            serde_json::json!({ "query": query["text"], "pos": ["one positive"], "neg": ["one", "two"] });
        data.push_str(&format!("{row}\n"));
    }
    let train = place.path().join("train.jsonl");
    fs::write(&train, data).unwrap();
    let codes = |module| {
        let options = ValidationOptions {
            module,
            data: DataArguments {
                train_data: vec![train.display().to_string()],
                eval_dataset: Some(place.path().display().to_string()),
                train_group_size: 3,
                ..DataArguments::default()
            },
            ..ValidationOptions::default()
        };
        let report = validate_files(options, None, |_| true).unwrap();
        let codes: Vec<&str> = report.issues.iter().map(|group| group.code).collect();
        codes
    };
    let (embedder, reranker) = (codes(Module::EncoderOnlyBase), codes(MODULE));
    assert!(embedder.contains(&"data.pos_shared") && !reranker.contains(&"data.pos_shared"));
    assert!(reranker.iter().any(|code| code.contains("leak")), "{reranker:?}");
}
