//! Spellings, order of precedence, and names that are not settings.

use super::*;

#[test]
fn booleans_take_every_upstream_spelling() {
    for (flags, expected) in [
        ("--fp16", true),
        ("--fp16 True", true),
        ("--fp16=true", true),
        ("--fp16 1", true),
        ("--fp16 yes", true),
        ("--fp16 FALSE", false),
        ("--fp16 0", false),
        ("--fp16 no", false),
        ("--fp16 --bf16", true),
    ] {
        assert_eq!(parse(flags).unwrap().0.training.fp16, expected, "{flags:?}");
    }
    assert!(
        !parse("--no_normalize_embeddings")
            .unwrap()
            .0
            .training
            .normalize_embeddings
    );
    assert!(
        !parse("--no-normalize-embeddings")
            .unwrap()
            .0
            .training
            .normalize_embeddings
    );
    assert!(
        !parse("--normalize_embeddings False")
            .unwrap()
            .0
            .training
            .normalize_embeddings
    );
    // HfArgumentParser makes `--no_x` only for what is on by default.
    assert_eq!(only(&parse("--no_fp16").unwrap_err()).code, "config.unknown_flag");
    assert_eq!(
        only(&parse("--no_use_fast_tokenizer=1").unwrap_err()).code,
        "config.invalid_value"
    );
    let issue = parse("--fp16 maybe").unwrap_err();
    assert!(only(&issue).message.contains("True or False") && only(&issue).message.contains("maybe"));
    assert_eq!(
        parse("--greater_is_better False")
            .unwrap()
            .0
            .training
            .greater_is_better,
        Some(false)
    );
    assert_eq!(
        only(&parse("--greater_is_better").unwrap_err()).code,
        "config.missing_value"
    );
}

#[test]
fn numbers_and_lists_are_read_as_on_upstreams_command_line() {
    let (config, _) = parse("--max_steps -1 --learning_rate 1e-5 --mrl_dims 12 24 --temperature=.05 --train-data a 'b c' --local_rank=-1")
    .unwrap();
    assert_eq!(config.training.max_steps, -1);
    assert_eq!(config.training.mrl_dims, [12, 24]);
    assert_eq!(config.training.temperature, 0.05);
    assert_eq!(config.data.train_data, ["a", "b c"]);
}

#[test]
fn a_flag_given_twice_counts_once_and_lists_are_joined() {
    let (config, warnings) = parse("--seed 1 --train_data a --seed 2 --train_data b").unwrap();
    assert_eq!(
        (config.training.seed, config.data.train_data),
        (2, vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|issue| issue.code == "config.given_twice"));
}

#[test]
fn a_value_may_begin_with_a_dash_if_it_cannot_be_a_flag() {
    let (config, _) =
        parse("--query_instruction_for_retrieval '-- search: ' --output_dir=--x --run_name -1").unwrap();
    assert_eq!(
        config.data.query_instruction_for_retrieval.as_deref(),
        Some("-- search: ")
    );
    assert_eq!(config.training.output_dir, "--x");
}

#[test]
fn a_backslash_n_in_a_format_is_a_newline_and_nowhere_else() {
    let (config, _) =
        parse("--query_instruction_format '<i>{}\\n<q>{}' --query_instruction_for_retrieval 'a\\nb'")
            .unwrap();
    assert_eq!(config.data.query_instruction_format, "<i>{}\n<q>{}");
    assert_eq!(
        config.data.query_instruction_for_retrieval.as_deref(),
        Some("a\\nb")
    );
    let mut config = parse(REQUIRED).unwrap().0;
    config.data.passage_instruction_format = "{}\\n{}".to_owned();
    assert_eq!(config.check().unwrap().data.passage_instruction_format, "{}\n{}");
}

#[test]
fn limits_at_zero_and_below_are_off_as_upstream_reads_them() {
    for off in ["0", "-1"] {
        let (config, _) = parse(&format!("--sub_batch_size {off} --save_total_limit {off}")).unwrap();
        assert_eq!(
            (config.training.sub_batch_size, config.training.save_total_limit),
            (None, None)
        );
    }
    let mut config = parse(REQUIRED).unwrap().0;
    config.training.sub_batch_size = Some(0);
    assert_eq!(config.check().unwrap().training.sub_batch_size, None);
}

#[test]
fn choices_are_read_in_any_case_and_other_schedules_are_known_by_name() {
    assert_eq!(
        "LAST_TOKEN".parse::<PoolingMethod>().unwrap(),
        PoolingMethod::LastToken
    );
    assert_eq!(
        parse("--save_strategy BEST").unwrap().0.training.save_strategy,
        SaveStrategy::Best
    );
    let known = parse("--lr_scheduler_type warmup_stable_decay").unwrap_err();
    assert!(only(&known).message.contains("not available") && only(&known).message.contains("inverse_sqrt"));
    let unknown = parse("--lr_scheduler_type sawtooth").unwrap_err();
    assert!(only(&unknown).message.contains("expected one of linear, cosine"));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() {
    let file = "seed = 1\n[training]\nlearning_rate = 1e-5\n[data]\ntrain_data = ['a', 'b']\n[data.more.nested]\nquery_max_len = 64";
    let parsed = Loader::<FinetuneConfig>::new()
        .file("run.toml", file)
        .flags(&["--seed", "2", "--train_data", "c"])
        .finish()
        .unwrap();
    let FinetuneConfig { data, training, .. } = parsed.arguments;
    assert_eq!(
        (training.seed, training.learning_rate, data.query_max_len),
        (2, 1e-5, 64)
    );
    assert_eq!(data.train_data, ["c"]);
    assert_eq!(training.num_train_epochs, 3.0);
}

#[test]
fn objects_are_read_from_every_format() {
    let kwargs = json!({ "num_cycles": 2, "x": [1.5] });
    for parsed in [
        FinetuneConfig::from_toml("lr_scheduler_kwargs = { num_cycles = 2, x = [1.5] }"),
        FinetuneConfig::from_toml("[training.lr_scheduler_kwargs]\nnum_cycles = 2\nx = [1.5]"),
        FinetuneConfig::from_json(r#"{"training": {"lr_scheduler_kwargs": {"num_cycles": 2, "x": [1.5]}}}"#),
        FinetuneConfig::from_flags(&["--lr_scheduler_kwargs", r#"{"num_cycles": 2, "x": [1.5]}"#]),
    ] {
        assert_eq!(
            Value::Object(parsed.unwrap().arguments.training.lr_scheduler_kwargs),
            kwargs
        );
    }
}

#[test]
fn the_config_flag_is_taken_out() {
    let words = |text: &str| split_words(text).unwrap();
    let (file, rest) = split_config_flag(&words("--seed 1 --config run.toml --fp16")).unwrap();
    assert_eq!(
        (file.as_deref(), rest),
        (Some("run.toml"), words("--seed 1 --fp16"))
    );
    assert_eq!(
        split_config_flag(&words("--config=x")).unwrap().0.as_deref(),
        Some("x")
    );
    assert!(split_config_flag(&words("--config --fp16")).is_err());
    assert!(split_config_flag(&words("--config a --config b")).is_err());
}

#[test]
fn an_unknown_flag_comes_with_the_name_that_was_meant() {
    for (typed, meant) in [
        ("--learning_rat", "learning_rate"),
        ("--temprature", "temperature"),
        ("--query_max_length", "query_max_len"),
        ("--lr", "learning_rate"),
        ("--epochs", "num_train_epochs"),
        ("--batch_size", "per_device_train_batch_size"),
        ("--normlized", "normalize_embeddings"),
        ("--per_device_train_batch", "per_device_train_batch_size"),
        ("--Seed", "seed"),
    ] {
        let issues = parse(&format!("{typed} 1 --fp16")).unwrap_err();
        let issue = only(&issues);
        assert_eq!(issue.code, "config.unknown_flag");
        assert!(
            issue.message.contains(&format!("`{meant}`")),
            "{typed}: {}",
            issue.message
        );
    }
    let issues = parse("--zzzzzzzzzz 1").unwrap_err();
    let message = &only(&issues).message;
    assert!(
        !message.contains("did you mean") && message.contains("`bge COMMAND --help`"),
        "{message}"
    );
    let error = FinetuneConfig::default().set("sed", &json!(1)).unwrap_err();
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::UnknownFlag, Some("sed"))
    );
    assert!(error.message().contains("`seed`"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let issues =
        parse("--seed x stray --nonsense 1 --query_max_len -3 --output_dir --fp16 perhaps -q 1").unwrap_err();
    let codes: Vec<_> = issues.iter().map(|issue| issue.code).collect();
    assert_eq!(codes.len(), 7, "{issues:#?}");
    for code in [
        "config.invalid_value",
        "config.stray_value",
        "config.unknown_flag",
        "config.missing_value",
    ] {
        assert!(codes.contains(&code), "{code}: {issues:#?}");
    }
    assert!(config_error(&issues).message().ends_with("(and 6 more)"));
}

#[test]
fn flags_of_hugging_face_are_ignored_with_one_warning_or_refused_with_the_reason() {
    let (config, warnings) = parse("--report_to none --run_name first --dataloader_pin_memory --ddp_find_unused_parameters False --local_rank -1 --torch_compile --no_skip_memory_metrics --seed 9")
    .unwrap();
    assert_eq!(config.training.seed, 9);
    assert_eq!(warnings.len(), 7, "{warnings:#?}");
    assert!(
        warnings
            .iter()
            .all(|issue| issue.code == "config.foreign_ignored")
    );

    // Values that change nothing are accepted without a word.
    let harmless =
        "--optim adamw_torch --label_smoothing_factor 0.0 --group_by_length False --fsdp '' --push_to_hub no";
    assert_eq!(parse(harmless).unwrap().1, []);
    for flags in [
        "--optim adafactor",
        "--label_smoothing_factor 0.1",
        "--group_by_length",
        "--fsdp full_shard auto_wrap",
        "--push_to_hub",
        "--neftune_noise_alpha 5",
    ] {
        assert_eq!(
            only(&parse(flags).unwrap_err()).code,
            "config.foreign_refused",
            "{flags:?}"
        );
    }
    // What is refused has a way out.
    for (flags, way_out) in [
        ("--fsdp full_shard", "`--zero_stage 3`"),
        ("--group_by_length", "leave the flag out"),
        ("--label_smoothing_factor 0.1", "leave the flag out"),
        ("--dtype bfloat16", "`--bf16`"),
        ("--torch_dtype float16", "`--fp16`"),
    ] {
        let issues = parse(flags).unwrap_err();
        assert!(only(&issues).message.contains(way_out), "{flags}: {issues:?}");
    }
    assert_eq!(parse("--dtype auto --torch_dtype float32").unwrap().1, []);
    // A value that is missing is noticed, and the next flag is not swallowed.
    let issues = parse("--run_name --seed 9").unwrap_err();
    assert_eq!(only(&issues).code, "config.missing_value");
    // The same in files; null is harmless.
    let parsed =
        FinetuneConfig::from_json(r#"{"report_to": ["wandb"], "optim_args": null, "fsdp_config": {"a": 1}}"#)
            .unwrap();
    assert_eq!(parsed.warnings.len(), 2);
}

/// `AbsEvalArgs` and `AbsEvalModelArgs` of FlagEmbedding, but for what is the model's and the hub's.
const EVALUATION_FLAGS: &str = "eval_name corpus_embd_save_dir output_dir search_top_k rerank_top_k cache_path overwrite \
    ignore_identical_ids k_values eval_output_method eval_output_path eval_metrics embedder_name_or_path \
    embedder_model_class normalize_embeddings pooling_method use_fp16 devices query_instruction_for_retrieval \
    query_instruction_format_for_retrieval examples_for_task examples_instruction_format trust_remote_code \
    reranker_name_or_path reranker_model_class reranker_peft_path use_bf16 query_instruction_for_rerank \
    query_instruction_format_for_rerank passage_instruction_for_rerank passage_instruction_format_for_rerank cache_dir \
    embedder_batch_size reranker_batch_size embedder_query_max_length embedder_passage_max_length \
    reranker_query_max_length reranker_max_length normalize prompt cutoff_layers compress_ratio compress_layers";

#[test]
fn every_flag_of_upstreams_evaluation_is_known_or_refused_with_the_way_out() {
    let read = |flags: &str| {
        Loader::<EvaluateConfig>::new()
            .flags(&split_words(flags).unwrap())
            .finish()
    };
    for name in EVALUATION_FLAGS.split_whitespace() {
        let known = EvaluateConfig::field(name).is_some()
            || EvaluateConfig::alias(name).is_some()
            || EvaluateConfig::foreign()
                .iter()
                .any(|foreign| foreign.name == name);
        assert!(known, "{name}");
    }
    let warnings =
        read("--rerank_top_k 100 --output_dir x --eval_output_path y.md --reranker_max_length 512")
            .unwrap()
            .warnings;
    assert_eq!(warnings.len(), 4, "{warnings:#?}");
    for (flags, way_out) in [
        ("--reranker_name_or_path r", "`bge rerank`"),
        ("--dataset_names a b", "`dataset`"),
        ("--dataset_dir d", "did you mean `dataset`?"),
        ("--splits dev", "did you mean `split`?"),
    ] {
        let issues = read(flags).unwrap_err();
        assert!(only(&issues).message.contains(way_out), "{flags}: {issues:?}");
    }
}

#[test]
fn the_file_of_a_pipeline_is_known_where_it_is_given_for_settings() {
    let pipeline = "learning_rate = 1e-5\n[mine]\nnegative_number = 3\n[finetune]\nseed = 1\n";
    let issues = FinetuneConfig::from_toml(pipeline).unwrap_err();
    assert_eq!(issues[0].code, "config.pipeline_file");
    assert!(issues[0].message.contains("[mine]") && issues[0].message.contains("`bge pipeline FILE`"));
    // Sections only group: one that is called like a stage is fine where all of it fits.
    assert!(FinetuneConfig::from_toml("[finetune]\nseed = 1\n").is_ok());
    let own = Loader::<MineConfig>::new()
        .toml("[mine]\nnegative_numbre = 3\n")
        .finish();
    assert_eq!(only(&own.unwrap_err()).code, "config.unknown_flag");
}

/// `TrainingArguments` of transformers 5.23 and what 4.44 had besides; taken from the classes' fields.
const TRAINER_FLAGS: &str = "output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate \
    lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon \
    optim_target_modules gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor \
    bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing activation_checkpointing_kwargs \
    gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode \
    use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha torch_empty_cache_steps auto_find_batch_size \
    logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter \
    include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id \
    trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size \
    prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object eval_accumulation_steps \
    include_for_metrics batch_eval_metrics save_only_model save_strategy save_steps save_on_each_node save_total_limit \
    enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision \
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip \
    restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu accelerator_config \
    parallelism_config dataloader_drop_last dataloader_num_workers dataloader_pin_memory \
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order \
    remove_unused_columns label_names train_sampling_strategy length_column_name ddp_find_unused_parameters \
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug \
    skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint local_rank \
    overwrite_output_dir warmup_ratio evaluation_strategy no_cuda use_mps_device use_ipex jit_mode_eval \
    per_gpu_train_batch_size per_gpu_eval_batch_size logging_dir include_inputs_for_metrics push_to_hub_model_id \
    push_to_hub_organization push_to_hub_token fp16_opt_level fp16_backend half_precision_backend mp_parameters \
    torchdynamo ray_scope split_batches dispatch_batches include_tokens_per_second fsdp_min_num_params \
    fsdp_transformer_layer_cls_to_wrap tpu_num_cores tpu_metrics_debug save_safetensors group_by_length past_index \
    adafactor";

#[test]
fn every_flag_of_the_trainer_is_known_by_name() {
    for name in TRAINER_FLAGS.split_whitespace() {
        let known = FinetuneConfig::field(name).is_some()
            || FinetuneConfig::alias(name).is_some()
            || FinetuneConfig::foreign()
                .iter()
                .any(|foreign| foreign.name == name);
        assert!(known, "{name}");
    }
    let (config, _) = parse("--activation_checkpointing --evaluation_strategy epoch").unwrap();
    assert!(config.training.gradient_checkpointing);
    assert_eq!(config.training.eval_strategy, IntervalStrategy::Epoch);
}
