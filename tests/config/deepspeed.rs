//! `--deepspeed`: upstream's files, their conflicts with flags, and the way back.

use super::*;

/// A file with the keys of upstream's `ds_stage1.json`.
fn upstream(stage: usize) -> Value {
    let half = json!({
        "enabled": "auto", "loss_scale": 0, "initial_scale_power": 10, "loss_scale_window": 1000, "hysteresis": 2,
        "min_loss_scale": 1
    });
    json!({
        "zero_optimization": { "stage": stage, "reduce_bucket_size": 5e8 },
        "fp16": half,
        "bf16": half,
        "optimizer": { "type": "AdamW", "params": {
            "lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto", "torch_adam": true
        } },
        "scheduler": { "type": "WarmupDecayLR", "params": {
            "warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"
        } },
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "steps_per_print": 1000,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "wall_clock_breakdown": false
    })
}

/// The checked stage and the warnings about the file.
fn checked(flags: &str, deepspeed: &str) -> Result<(usize, Vec<String>), Vec<Issue>> {
    let words = split_words(&format!("{REQUIRED} {flags}")).unwrap();
    let words: Vec<String> = words
        .into_iter()
        .chain(["--deepspeed".to_owned(), deepspeed.to_owned()])
        .collect();
    let checked = parse_words(&words)?.0.check()?;
    let about = |issue: &&Issue| issue.field.as_deref() == Some("deepspeed");
    let said = checked
        .warnings()
        .iter()
        .filter(about)
        .map(|issue| issue.message.clone());
    assert_eq!(
        checked.training.deepspeed, None,
        "the stage is all that is left of the file"
    );
    Ok((checked.training.zero_stage, said.collect()))
}

/// Changes a value of a file by its path.
fn with(mut file: Value, path: &str, value: Value) -> String {
    *file.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    file.to_string()
}

#[test]
fn upstreams_files_give_their_stage_and_name_what_means_nothing() {
    for stage in 0..=3 {
        let (found, said) = checked("--nproc_per_node 2", &upstream(stage).to_string()).unwrap();
        assert_eq!(found, stage);
        assert_eq!(said.len(), 1, "{said:#?}");
        for key in [
            "zero_optimization.reduce_bucket_size",
            "fp16.loss_scale",
            "optimizer.params.torch_adam",
            "steps_per_print",
        ] {
            assert!(said[0].contains(key), "{key}: {said:#?}");
        }
        assert!(
            !said[0].contains("learning_rate") && !said[0].contains("stage"),
            "{said:#?}"
        );
    }
    let (_, said) = checked("--warmup_ratio 0.1 --weight_decay 0.01", &upstream(0).to_string()).unwrap();
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(
        said.iter().any(|said| said.contains("logarithm")) && said.iter().any(|said| said.contains("biases"))
    );
}

#[test]
fn a_value_that_contradicts_a_flag_is_refused_by_both_names() {
    let flags = "--learning_rate 1e-5 --per_device_train_batch_size 4 --nproc_per_node 2 --gradient_accumulation_steps 3 \
                 --max_steps 100 --warmup_ratio 0.1 --fp16";
    for (path, right, wrong, name) in [
        ("/optimizer/params/lr", json!(1e-5), json!(2e-5), "learning_rate"),
        (
            "/optimizer/params/betas",
            json!([0.9, 0.999]),
            json!([0.9, 0.98]),
            "adam_beta2",
        ),
        ("/optimizer/params/eps", json!(1e-8), json!(1e-6), "adam_epsilon"),
        (
            "/optimizer/params/weight_decay",
            json!(0),
            json!(0.1),
            "weight_decay",
        ),
        ("/optimizer/type", json!("Adam"), json!("Lamb"), "AdamW"),
        (
            "/scheduler/type",
            json!("WarmupDecayLR"),
            json!("OneCycle"),
            "lr_scheduler_type",
        ),
        (
            "/scheduler/type",
            json!("WarmupDecayLR"),
            json!("WarmupLR"),
            "lr_scheduler_type",
        ),
        (
            "/scheduler/params/warmup_max_lr",
            json!(1e-5),
            json!(1e-4),
            "learning_rate",
        ),
        (
            "/scheduler/params/warmup_num_steps",
            json!(10),
            json!(20),
            "warmup_steps",
        ),
        (
            "/scheduler/params/total_num_steps",
            json!(100),
            json!(99),
            "max_steps",
        ),
        (
            "/train_batch_size",
            json!(24),
            json!(8),
            "gradient_accumulation_steps",
        ),
        (
            "/train_micro_batch_size_per_gpu",
            json!(4),
            json!(8),
            "per_device_train_batch_size",
        ),
        (
            "/gradient_accumulation_steps",
            json!(3),
            json!(1),
            "gradient_accumulation_steps",
        ),
        ("/gradient_clipping", json!(1), json!(0.5), "max_grad_norm"),
        ("/fp16/enabled", json!(true), json!(false), "fp16"),
        ("/zero_optimization/stage", json!(1), json!(4), "0, 1, 2 or 3"),
    ] {
        checked(flags, &with(upstream(1), path, right))
            .unwrap_or_else(|issues| panic!("{path}: {issues:#?}"));
        let issues = checked(flags, &with(upstream(1), path, wrong)).unwrap_err();
        let errors: Vec<_> = issues
            .iter()
            .filter(|issue| issue.severity == Severity::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{path}: {issues:#?}");
        assert_eq!(errors[0].field.as_deref(), Some("deepspeed"));
        let key = path[1..].replace('/', ".");
        assert!(
            errors[0].message.contains(&key) && errors[0].message.contains(name),
            "{}",
            errors[0].message
        );
    }
    // Without max_steps the data decides, and a number cannot be held against it.
    let file = with(upstream(0), "/scheduler/params/total_num_steps", json!(100));
    assert!(checked("", &file).unwrap_err()[0].message.contains("--max_steps"));
    // What would change the numbers is not passed over.
    for key in ["curriculum_learning", "compression_training"] {
        let mut file = upstream(0);
        file[key] = json!({ "enabled": true });
        assert!(
            checked("", &file.to_string()).unwrap_err()[0]
                .message
                .contains("change the result")
        );
        file[key]["enabled"] = json!(false);
        checked("", &file.to_string()).unwrap();
    }
    // The stage has a flag of its own.
    assert!(checked("--zero_stage 2 --nproc_per_node 2", &upstream(1).to_string()).is_err());
    assert_eq!(
        checked("--zero_stage 2 --nproc_per_node 2", &upstream(2).to_string())
            .unwrap()
            .0,
        2
    );
    refused("--zero_stage 4 --nproc_per_node 2", "zero_stage", "config.range");
}

#[test]
fn a_file_may_be_a_path_a_text_or_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.json");
    let name = path.to_str().unwrap();
    for (text, word) in [
        (None, "no file"),
        (Some("{"), "not valid JSON"),
        (Some("[1]"), "JSON object"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let issues = checked("", name).unwrap_err();
        assert!(only(&issues).message.contains(word), "{issues:#?}");
    }
    std::fs::write(&path, upstream(1).to_string()).unwrap();
    assert_eq!(checked("--nproc_per_node 2", name).unwrap().0, 1);
    // Upstream's files are known by name, so that its commands run where they are not.
    assert_eq!(checked("", "../ds_stage0.json").unwrap().0, 0);
    let (stage, said) = checked("--nproc_per_node 2", "../../ds_stage1.json").unwrap();
    assert!(
        stage == 1 && said.len() == 1 && said[0].contains("is not here"),
        "{said:#?}"
    );

    let settings = json!({
        "model_name_or_path": "m", "train_data": ["d"], "output_dir": "o", "nproc_per_node": 2, "deepspeed": upstream(3)
    });
    let parsed = FinetuneConfig::from_json(&settings.to_string()).unwrap();
    assert_eq!(parsed.arguments.clone().check().unwrap().training.zero_stage, 3);
    let toml = parsed
        .arguments
        .render(RenderFormat::Toml, Module::EncoderOnlyBase);
    assert_eq!(
        FinetuneConfig::from_toml(&toml).unwrap().arguments,
        parsed.arguments
    );
}

#[test]
fn what_is_rendered_is_read_again() {
    for flags in [
        "",
        "--zero_stage 1 --nproc_per_node 2 --learning_rate 2e-5 --weight_decay 0.01",
        "--zero_stage 3 --nproc_per_node 4 --max_steps 50 --warmup_ratio 0.1 --gradient_accumulation_steps 2 --fp16",
        "--zero_stage 2 --nproc_per_node 2 --warmup_steps 7 --adam_beta2 0.98 --max_grad_norm 0 --bf16",
        "--lr_scheduler_type cosine --zero_stage 1 --nproc_per_node 2",
    ] {
        let (config, _) = parse(&format!("{REQUIRED} {flags}")).unwrap();
        let file = config.render(RenderFormat::DeepSpeed, Module::EncoderOnlyBase);
        let (stage, _) =
            checked(flags, &file).unwrap_or_else(|issues| panic!("{flags}: {issues:#?}\n{file}"));
        assert_eq!(stage, config.training.zero_stage);
        // The flag of upstream carries the stage too.
        let command = config.render(RenderFormat::FlagEmbedding, Module::EncoderOnlyBase);
        let read = from_command_line(&command).unwrap();
        assert!(!command.contains("zero_stage"), "{command}");
        let read = read.config.arguments.check().unwrap();
        assert_eq!(read.training.zero_stage, config.training.zero_stage, "{command}");
    }
    // A file that is given keeps its stage when it is written again.
    let words = [
        REQUIRED,
        "--nproc_per_node 2 --deepspeed",
        &format!("'{}'", upstream(2)),
    ]
    .join(" ");
    let file = parse(&words)
        .unwrap()
        .0
        .render(RenderFormat::DeepSpeed, Module::EncoderOnlyBase);
    assert_eq!(
        serde_json::from_str::<Value>(&file).unwrap()["zero_optimization"]["stage"],
        2
    );
}

#[test]
fn how_gradients_travel_is_in_the_file_or_in_the_flag() {
    let with_key = |value: Value| {
        let mut file = upstream(2);
        file["communication_data_type"] = value;
        file.to_string()
    };
    let read = |flags: &str, file: &str| {
        let words = split_words(&format!("{REQUIRED} --nproc_per_node 2 {flags}")).unwrap();
        let words: Vec<String> = words
            .into_iter()
            .chain(["--deepspeed".to_owned(), file.to_owned()])
            .collect();
        let checked = parse_words(&words)?.0.check()?;
        Ok::<_, Vec<Issue>>(checked.training.communication_data_type)
    };
    let [exact, brain] = [NumberType::Fp32, NumberType::Bf16];
    for (flags, value, want) in [
        ("", json!("bf16"), brain),
        ("", json!("BF16"), brain),
        ("", json!(null), exact),
        ("--communication_data_type bf16", json!("auto"), brain),
        ("--communication_data_type bf16", json!("bf16"), brain),
    ] {
        assert_eq!(read(flags, &with_key(value.clone())), Ok(want), "{flags} {value}");
    }
    // A file without the key leaves the flag alone.
    assert_eq!(
        read("--communication_data_type bf16", &upstream(2).to_string()),
        Ok(brain)
    );
    for (flags, value, word) in [
        (
            "--communication_data_type fp16",
            json!("bf16"),
            "give one of the two",
        ),
        ("", json!("int8"), "one of fp32, fp16, bf16"),
        ("", json!(16), "one of fp32, fp16, bf16"),
    ] {
        let issues = read(flags, &with_key(value)).unwrap_err();
        let errors: Vec<_> = issues
            .iter()
            .filter(|issue| issue.severity == Severity::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{issues:#?}");
        let message = &errors[0].message;
        assert!(
            message.contains("communication_data_type") && message.contains(word),
            "{message}"
        );
    }

    // And back.
    let flags = "--nproc_per_node 2 --communication_data_type bf16";
    let (config, _) = parse(&format!("{REQUIRED} {flags}")).unwrap();
    let file = config.render(RenderFormat::DeepSpeed, Module::EncoderOnlyBase);
    assert_eq!(read("", &file), Ok(brain), "{file}");
    let command = config.render(RenderFormat::FlagEmbedding, Module::EncoderOnlyBase);
    let again = from_command_line(&command)
        .unwrap()
        .config
        .arguments
        .check()
        .unwrap();
    assert_eq!(again.training.communication_data_type, brain, "{command}");
    let (config, _) = parse(&format!("{REQUIRED} --nproc_per_node 2")).unwrap();
    let file = config.render(RenderFormat::DeepSpeed, Module::EncoderOnlyBase);
    assert!(!file.contains("communication_data_type"), "{file}");
}

#[test]
fn a_way_to_travel_that_means_nothing_or_little_is_said_and_a_wrong_one_refused() {
    let said = |flags: &str| {
        let checked = parse(&format!("{REQUIRED} {flags}")).unwrap().0.check().unwrap();
        let about = |issue: &&Issue| issue.field.as_deref() == Some("communication_data_type");
        let codes = checked.warnings().iter().filter(about).map(|issue| issue.code);
        codes.collect::<Vec<_>>()
    };
    let two = "--nproc_per_node 2";
    assert_eq!(said("--communication_data_type bf16"), ["config.no_effect"]);
    let fine = said(&format!("--communication_data_type fp16 --fp16 {two}"));
    assert_eq!(fine, ["config.precision"], "the CPU has no loss scale");
    for quiet in [
        &format!("--communication_data_type bf16 {two}"),
        "--communication_data_type fp32",
    ] {
        assert_eq!(said(quiet), [""; 0], "{quiet}");
    }
    let issues = parse(&format!("{REQUIRED} {two} --communication_data_type fp8")).unwrap_err();
    assert!(
        only(&issues).message.contains("one of fp32, fp16, bf16"),
        "{issues:#?}"
    );
}
