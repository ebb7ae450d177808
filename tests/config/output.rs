//! Renderings, schema, help, and the command that prints them.

use super::*;

fn rendered(more: &str, format: RenderFormat) -> String {
    parse(&format!("{REQUIRED} {more}"))
        .unwrap()
        .0
        .render(format, Module::EncoderOnlyBase)
}

#[test]
fn a_flagembedding_command_has_upstreams_flags_only() {
    let flags = "--fp16 --eval_strategy epoch --eval_dataset scifact --warmup_steps 0.1 --logging_steps 10";
    let text = rendered(flags, RenderFormat::FlagEmbedding);
    let (comment, command) = text.split_once('\n').unwrap();
    assert_eq!(
        comment,
        "# Left out, as FlagEmbedding cannot do it: eval_dataset, eval_strategy"
    );
    assert!(command.starts_with(
        "torchrun --nproc_per_node 1 \\\n    -m FlagEmbedding.finetune.embedder.encoder_only.base"
    ));
    assert!(command.contains("--warmup_ratio 0.1") && !command.contains("warmup_steps"));
    assert!(command.contains("--logging_steps 10 \\\n") && command.contains("--fp16 True"));
    let read = from_command_line(&text).unwrap();
    assert_eq!(read.config.arguments.training.warmup_ratio, 0.1);
    assert_eq!(read.config.arguments.data.eval_dataset, None);
    assert!(!rendered("", RenderFormat::FlagEmbedding).contains('#'));
}

#[test]
fn a_deepspeed_file_has_numbers_where_upstreams_says_auto() {
    let flags = "--max_steps 200 --warmup_ratio 0.1 --learning_rate 1e-5 --gradient_accumulation_steps 4";
    let file: Value = serde_json::from_str(&rendered(flags, RenderFormat::DeepSpeed)).unwrap();
    assert_eq!(file["zero_optimization"]["stage"], 0);
    let staged = rendered("--zero_stage 2 --nproc_per_node 4", RenderFormat::DeepSpeed);
    let staged: Value = serde_json::from_str(&staged).unwrap();
    assert_eq!(
        (&staged["zero_optimization"]["stage"], &staged["train_batch_size"]),
        (&json!(2), &json!(32))
    );
    assert_eq!(file["optimizer"]["params"]["lr"], 1e-5);
    assert_eq!(file["scheduler"]["params"]["warmup_num_steps"], 20);
    assert_eq!(file["scheduler"]["params"]["total_num_steps"], 200);
    assert_eq!(file["train_batch_size"], 32);
    assert_eq!(file["gradient_clipping"], 1.0);
    let file: Value =
        serde_json::from_str(&rendered("--lr_scheduler_type cosine", RenderFormat::DeepSpeed)).unwrap();
    assert!(file.get("scheduler").is_none(), "the Trainer brings its own");
    let file: Value = serde_json::from_str(&rendered("--warmup_ratio 0.1", RenderFormat::DeepSpeed)).unwrap();
    assert_eq!(file["scheduler"]["params"]["warmup_num_steps"], "auto");
}

#[test]
fn the_schema_lists_every_setting_of_the_module() {
    let schema = json_schema::<FinetuneConfig>("bge finetune", Module::EncoderOnlyBase);
    let properties = schema["properties"].as_object().unwrap();
    assert_eq!(
        properties.len(),
        FinetuneConfig::fields()
            .iter()
            .filter(|field| Module::EncoderOnlyBase.takes(field))
            .count()
    );
    assert_eq!(
        schema["required"],
        json!(["model_name_or_path", "train_data", "output_dir"])
    );
    assert_eq!(properties["temperature"]["default"], 0.02);
    assert_eq!(properties["sub_batch_size"]["type"], json!(["integer", "null"]));
    assert_eq!(
        properties["kd_loss_type"]["enum"],
        json!(["kl_div", "m3_kd_loss"])
    );
    assert_eq!(properties["eval_dataset"]["x-ours"], true);
    let m3 = json_schema::<FinetuneConfig>("bge finetune", Module::EncoderOnlyM3);
    assert!(m3["properties"].get("unified_finetuning").is_some());
    let pooling =
        &json_schema::<EncodeConfig>("bge encode", Module::default())["properties"]["pooling_method"];
    assert_eq!(pooling["enum"], json!(["cls", "mean", "last_token", null]));
}

#[test]
fn help_shows_every_flag_once() {
    let mut text = String::new();
    for group in groups::<FinetuneConfig>() {
        let _ = writeln!(text, "{group}:\n{}", flag_help::<FinetuneConfig>(group));
    }
    for field in FinetuneConfig::fields() {
        assert_eq!(
            text.matches(&format!("  --{} ", field.name)).count(),
            1,
            "{}",
            field.name
        );
    }
    assert!(
        text.contains("[default: 0.02]")
            && text.contains("(required)")
            && text.contains("--kd_loss_type kl_div|m3_kd_loss")
    );
    assert!(text.lines().all(|line| line.chars().count() <= 100));
}

fn bge_config(line: &str) -> (i32, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = command::run(&split_words(line).unwrap(), &|_| Ok(None), &mut out, &mut err);
    (
        code,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

#[test]
fn the_command_shows_schema_and_defaults_that_can_be_used() {
    for of in [
        "finetune", "convert", "repair", "split", "encode", "evaluate", "mine", "score", "rerank", "merge",
        "pipeline",
    ] {
        let (code, out, err) = bge_config(&format!("schema --command {of}"));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(serde_json::from_str::<Value>(&out).unwrap()["properties"].is_object());
        let (code, out, _) = bge_config(&format!("default --command {of} --format=json"));
        assert_eq!(code, 0);
        assert!(serde_json::from_str::<Value>(&out).unwrap().is_object());
    }
    let (code, out, _) = bge_config("default");
    assert_eq!(code, 0);
    assert_eq!(
        FinetuneConfig::from_toml(&out).unwrap().arguments,
        FinetuneConfig::default()
    );
}

#[test]
fn the_command_checks_and_renders_a_file_with_flags() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let name = path.to_str().unwrap();
    std::fs::write(
        &path,
        "model_name_or_path = 'm'\ntrain_data = 't'\noutput_dir = 'o'\nfp16 = true\n",
    )
    .unwrap();
    let (code, out, err) = bge_config(&format!("check --config {name}"));
    assert_eq!((code, out.as_str()), (0, "the settings are fine\n"), "{err}");
    assert!(err.contains("warning[config.precision]"));
    let (code, out, _) = bge_config(&format!("check --config {name} --temperature 0 --json"));
    assert_eq!(code, 2);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&report["ok"], &report["issues"][0]["field"]),
        (&json!(false), &json!("temperature"))
    );
    let (code, out, _) = bge_config(&format!("render --format flags --config {name}"));
    assert_eq!(code, 0);
    assert!(out.contains("--fp16 True") && out.contains("--output_dir o"));
    let torchrun =
        "render --format toml torchrun -m FlagEmbedding.finetune.embedder.encoder_only.base --seed 7";
    let (code, out, _) = bge_config(torchrun);
    assert_eq!(code, 0);
    assert_eq!(
        FinetuneConfig::from_toml(&out).unwrap().arguments.training.seed,
        7
    );
    for (format, ranks) in [("toml", "nproc_per_node = 2"), ("flags", "--nproc_per_node 2")] {
        let torchrun = format!(
            "render --format {format} torchrun --nproc_per_node 2 -m FlagEmbedding.finetune.embedder.encoder_only.base"
        );
        let (_, out, err) = bge_config(&torchrun);
        assert!(
            out.contains(ranks) && err.contains("config.launcher"),
            "{out}{err}"
        );
    }

    std::fs::write(&path, b"seed = 1\n# \xff\n").unwrap();
    let (code, _, err) = bge_config(&format!("check --config {name}"));
    assert_eq!(code, 2);
    assert!(
        err.contains("run.toml:2: error") && err.contains("UTF-8"),
        "{err}"
    );
    let (code, _, err) = bge_config(&format!("check --config {}", folder.path().display()));
    assert_eq!(code, 2, "{err}");
}

#[test]
fn the_command_checks_and_renders_the_settings_of_other_commands() {
    let flags = "--embedder_name_or_path m --input_file a --output_file b --range_for_sampling 2-9";
    let (code, out, err) = bge_config(&format!("check --command mine {flags}"));
    assert_eq!((code, out.as_str()), (0, "the settings are fine\n"), "{err}");
    // Upstream's scripts are run by Python.
    for script in [
        "python hn_mine.py",
        "python3 -u scripts/hn_mine.py",
        "python -m FlagEmbedding.scripts.hn_mine",
    ] {
        let (code, out, err) = bge_config(&format!("check --command mine {script} {flags}"));
        assert_eq!((code, out.as_str()), (0, "the settings are fine\n"), "{err}");
    }
    let (code, _, err) = bge_config(&format!("check python hn_mine.py {flags}"));
    assert!(code == 2 && err.contains("`--command mine`"), "{err}");
    let (code, out, _) = bge_config(&format!(
        "check --command mine {flags} --range_for_sampling 9-2 --json"
    ));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &report["issues"][0]["field"]),
        (2, &json!("range_for_sampling"))
    );
    let (code, toml, _) = bge_config(&format!("render --command mine --format toml {flags}"));
    assert_eq!(code, 0);
    let read = Loader::<MineConfig>::new().toml(&toml).finish().unwrap();
    assert_eq!(read.arguments.mine.range_for_sampling, "2-9");
    let (code, out, _) = bge_config(&format!("render --command mine --format flags {flags}"));
    assert_eq!(code, 0);
    let again = Loader::<MineConfig>::new().flags(&split_words(&out).unwrap());
    assert_eq!(again.finish().unwrap().arguments, read.arguments);
}

#[test]
fn the_command_checks_a_pipeline_and_has_a_schema_of_its_sections() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipeline.toml");
    let name = path.to_str().unwrap();
    let shared = "model_name_or_path = 'm'\ntrain_data = 't.jsonl'\noutput_dir = 'o'\n";
    std::fs::write(
        &path,
        format!("{shared}[mine]\nnegative_number = 7\n[finetune]\n"),
    )
    .unwrap();
    for how in ["--config ", ""] {
        let (code, out, err) = bge_config(&format!("check --command pipeline {how}{name}"));
        assert_eq!((code, out.as_str()), (0, "the settings are fine\n"), "{err}");
    }
    std::fs::write(
        &path,
        format!("{shared}[mine]\nnegative_number = 0\n[finetune]\n"),
    )
    .unwrap();
    let (code, _, err) = bge_config(&format!("check --command pipeline {name}"));
    assert_eq!(code, 2);
    assert!(err.contains("negative_number"), "{err}");
    let (_, out, _) = bge_config("schema --command pipeline");
    let schema: Value = serde_json::from_str(&out).unwrap();
    let properties = &schema["properties"];
    assert_eq!(
        properties["mine"]["properties"]["negative_number"]["type"],
        "integer"
    );
    assert!(
        properties["finetune_reranker"]["properties"]
            .get("query_instruction_for_rerank")
            .is_some()
    );
    assert_eq!(
        schema["required"],
        json!(["model_name_or_path", "train_data", "output_dir"])
    );
}

#[test]
fn wrong_usage_of_the_command_is_exit_code_2() {
    for args in [
        "",
        "nonsense",
        "render",
        "render --format yaml",
        "render --format",
        "schema --command mines",
        "check --command mine",
        "check --command score --reranker_name_or_path m --input_file a --output_file a",
        "check --command mine --temperature 0.02",
        "check --command pipeline",
        "check --command pipeline --seed 1",
        "check --command pipeline /no/such/file",
        "render --command pipeline --format toml",
        "render --command mine --format flagembedding",
        "render --command merge --format deepspeed",
        "render --command mine",
        "schema extra",
        "default --format flags",
        "check --config /no/such/file",
        "check --config",
        "check --module encoder_only.bass",
        "check --module encoder_only.m3",
        "check ls -l",
        "check --sed 1",
        "check",
    ] {
        let (code, out, err) = bge_config(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(!err.is_empty(), "{args:?}");
    }
    for asked in ["help", "-h", "render --help", "check -h --bf16"] {
        let (code, out, _) = bge_config(asked);
        assert!(
            code == 0 && out.starts_with("usage: bge config"),
            "{asked}: {out}"
        );
    }
}
