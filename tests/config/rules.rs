//! The rules that settings keep together.

use super::*;

#[test]
fn required_settings_are_named_all_at_once() {
    let issues = FinetuneConfig::default().check().unwrap_err();
    let fields: Vec<_> = issues.iter().filter_map(|issue| issue.field.as_deref()).collect();
    assert_eq!(fields, ["model_name_or_path", "train_data", "output_dir"]);
    assert!(issues.iter().all(|issue| issue.code == "config.required"));
}

#[test]
fn values_out_of_range_are_refused() {
    for (name, value) in [
        ("train_group_size", "0"),
        ("train_group_size", "18446744073709551615"),
        ("query_max_len", "2"),
        ("passage_max_len", "0"),
        ("pad_to_multiple_of", "0"),
        ("max_example_num_per_dataset", "0"),
        ("shuffle_ratio", "1.5"),
        ("shuffle_ratio", "-0.1"),
        ("num_train_epochs", "0"),
        ("num_train_epochs", "-1"),
        ("num_train_epochs", "1e300"),
        ("max_steps", "9223372036854775807"),
        ("per_device_train_batch_size", "0"),
        ("gradient_accumulation_steps", "0"),
        ("learning_rate", "-1e-5"),
        ("weight_decay", "-1"),
        ("adam_beta1", "1"),
        ("adam_beta2", "-0.1"),
        ("adam_epsilon", "-1"),
        ("max_grad_norm", "-1"),
        ("warmup_ratio", "1.1"),
        ("warmup_steps", "1.5"),
        ("warmup_steps", "-1"),
        ("logging_steps", "0"),
        ("logging_steps", "2.5"),
        ("save_steps", "0"),
        ("save_steps", "-5"),
        ("dataloader_num_workers", "1000000"),
        ("temperature", "0"),
        ("temperature", "-1"),
        ("early_stopping_threshold", "-1"),
    ] {
        refused(&format!("--{name} {value}"), name, "config.range");
    }
    // Numbers that no parser lets through, made in code.
    for bad in [f64::NAN, f64::INFINITY] {
        let mut config = parse(REQUIRED).unwrap().0;
        config.training.learning_rate = bad;
        config.training.temperature = bad;
        config.training.warmup_steps = bad;
        config.training.num_train_epochs = bad;
        config.data.shuffle_ratio = bad;
        assert_eq!(config.check().unwrap_err().len(), 5, "{bad}");
    }
    // Borders that are fine.
    check("--learning_rate 0 --max_grad_norm 0 --warmup_steps 0.1 --logging_steps 0.01 --shuffle_ratio 1")
        .unwrap();
    check("--num_train_epochs 0 --max_steps 5 --save_strategy no --save_steps 0").unwrap();
}

#[test]
fn formats_need_places_that_python_would_fill() {
    let field = "query_instruction_format";
    let flag = "--query_instruction_format";
    for format in ["{}{}{}", "{0}{}", "{2}", "{query}", "{", "}"] {
        refused(&format!("{flag} '{format}'"), field, "config.format");
    }
    for format in ["{}{}", "<instruct>{}\\n<query>{}", "{1} ({0})", "{{{}}} {}"] {
        let line = format!("{flag} '{format}' --query_instruction_for_retrieval x");
        assert_eq!(check(&line).unwrap(), [], "{format}");
    }
    // Without a place for the query every query would be the instruction.
    refused(
        "--query_instruction_format {} --query_instruction_for_retrieval x",
        field,
        "config.format",
    );
    warned("--query_instruction_format {}", field);
    warned(
        "--query_instruction_format {1} --query_instruction_for_retrieval x",
        field,
    );
    warned(
        "--query_instruction_for_retrieval None",
        "query_instruction_for_retrieval",
    );
}

#[test]
fn one_candidate_has_nothing_to_learn() {
    let one = "--train_group_size 1 --per_device_train_batch_size 1";
    refused(one, "train_group_size", "config.one_candidate");
    // A file may bring its own batch size in this mode.
    warned(
        "--train_group_size 1 --per_device_train_batch_size 1 --same_dataset_within_batch",
        "train_group_size",
    );
    check("--train_group_size 1 --per_device_train_batch_size 2").unwrap();
}

#[test]
fn matryoshka_needs_its_lengths() {
    refused("--use_mrl", "mrl_dims", "config.required");
    refused("--use_mrl --mrl_dims 64 0", "mrl_dims", "config.range");
    warned("--mrl_dims 64", "mrl_dims");
    warned("--config_name elsewhere", "config_name");
    check("--use_mrl --mrl_dims 64 128").unwrap();
}

#[test]
fn evaluation_needs_data_and_the_best_checkpoint_needs_both() {
    let data = |more: &str| format!("--eval_dataset scifact {more}");
    refused("--eval_strategy epoch", "eval_strategy", "config.required");
    refused("--eval_on_start", "eval_on_start", "config.required");
    warned(&data(""), "eval_dataset");
    let best = "load_best_model_at_end";
    refused(&data("--load_best_model_at_end"), best, "config.conflict");
    refused(
        &data("--load_best_model_at_end --eval_strategy epoch"),
        best,
        "config.conflict",
    );
    check(&data(
        "--load_best_model_at_end --eval_strategy epoch --save_strategy epoch",
    ))
    .unwrap();
    check(&data(
        "--load_best_model_at_end --eval_strategy epoch --save_strategy best",
    ))
    .unwrap();
    // Steps: a saved checkpoint must have been evaluated; eval_steps falls back to logging_steps.
    let steps = |save: &str, evaluate: &str| {
        data(&format!(
            "--load_best_model_at_end --eval_strategy steps --save_steps {save} --eval_steps {evaluate}"
        ))
    };
    check(&steps("500", "250")).unwrap();
    check(&steps("0.3", "0.1")).unwrap();
    check(&steps("500", "0")).unwrap();
    refused(&steps("500", "300"), best, "config.conflict");
    refused(&steps("500", "0.1"), best, "config.conflict");
    refused(&data("--save_strategy best"), "save_strategy", "config.conflict");
    let patience = "early_stopping_patience";
    refused("--early_stopping_patience 3", patience, "config.conflict");
    refused(
        &data("--early_stopping_patience 3 --eval_strategy epoch"),
        patience,
        "config.conflict",
    );
    for metric in ["ndcg_at_10", "eval_mrr_at_100", "recall_cap_at_5"] {
        check(&format!("--metric_for_best_model {metric}")).unwrap();
    }
    for metric in ["loss", "ndcg_at_7", "ndcg", "accuracy_at_1"] {
        refused(
            &format!("--metric_for_best_model {metric}"),
            "metric_for_best_model",
            "config.invalid_value",
        );
    }
    refused("--eval_split ../test", "eval_split", "config.invalid_value");
}

#[test]
fn a_schedule_knows_its_own_settings_only() {
    let line =
        |kind: &str, kwargs: &str| format!("--lr_scheduler_type {kind} --lr_scheduler_kwargs '{kwargs}'");
    for (kind, kwargs) in [
        ("cosine", r#"{"num_cycles": 0.5}"#),
        ("cosine_with_restarts", r#"{"num_cycles": 3}"#),
        ("polynomial", r#"{"power": 2.0, "lr_end": 1e-8}"#),
        ("inverse_sqrt", r#"{"timescale": 100}"#),
    ] {
        check(&line(kind, kwargs)).unwrap();
    }
    for (kind, kwargs) in [("linear", r#"{"num_cycles": 1}"#), ("cosine", r#"{"power": 1}"#)] {
        refused(&line(kind, kwargs), "lr_scheduler_kwargs", "config.invalid_value");
    }
    for (kind, kwargs) in [
        ("cosine", r#"{"num_cycles": "x"}"#),
        ("inverse_sqrt", r#"{"timescale": 0}"#),
        ("polynomial", r#"{"lr_end": 1.0}"#),
    ] {
        refused(&line(kind, kwargs), "lr_scheduler_kwargs", "config.range");
    }
    refused(
        "--lr_scheduler_type polynomial --learning_rate 1e-8",
        "learning_rate",
        "config.range",
    );
    warned("--lr_scheduler_type constant --warmup_steps 10", "warmup_steps");
    warned(&line("constant", r#"{"num_cycles": 1}"#), "lr_scheduler_kwargs");
    warned("--warmup_ratio 0.1 --warmup_steps 10", "warmup_ratio");
}

#[test]
fn what_this_build_cannot_do_is_refused_or_said() {
    refused(
        "--trust_remote_code True",
        "trust_remote_code",
        "config.unsupported",
    );
    refused("--devices cuda:0", "devices", "config.unsupported");
    let issues = check("--devices cuda").unwrap_err();
    assert!(
        issues[0].message.contains("--features bge_core/cuda"),
        "{issues:#?}"
    );
    refused(
        "--devices cpu cpu --nproc_per_node 3",
        "nproc_per_node",
        "config.conflict",
    );
    refused("--fp16 --bf16", "bf16", "config.conflict");
    refused("--fp16 --devices cpu", "fp16", "config.precision");
    refused("--bf16 --devices CPU cpu:0", "bf16", "config.precision");
    refused(
        "--resume_from_checkpoint False",
        "resume_from_checkpoint",
        "config.invalid_value",
    );
    refused("--output_dir m/", "output_dir", "config.conflict");
    check("--devices cpu").unwrap();
    warned("--fp16", "fp16");
    warned("--bf16", "bf16");
    warned("--tf32 True", "tf32");
    warned("--use_fast_tokenizer False", "use_fast_tokenizer");
    warned("--small_threshold 5", "small_threshold");
}

#[test]
fn encoding_and_evaluation_have_rules_of_their_own() {
    let encode = |line: &str| {
        Loader::<EncodeConfig>::new()
            .flags(&split_words(line).unwrap())
            .finish()
            .unwrap()
            .arguments
            .check()
    };
    let with = |more: &str| format!("--model_name_or_path m --input_file i.txt --output_file o.npy {more}");
    assert_eq!(encode(&with("")).unwrap().embed.embedder_name_or_path, "m");
    assert_eq!(encode("").unwrap_err().len(), 3);
    let checked = encode(&with(
        "--use_fp16 --query_max_length 64 --query_instruction_format '{}\\n{}'",
    ))
    .unwrap();
    assert_eq!(checked.embed.embedder_query_max_length, 64);
    assert_eq!(
        checked.embed.query_instruction_format_for_retrieval.as_deref(),
        Some("{}\n{}")
    );
    assert_eq!(only(checked.warnings()).field.as_deref(), Some("use_fp16"));
    for bad in [
        "--return_sparse",
        "--return_dense False",
        "--output_file o.csv",
        "--batch_size 0",
        "--truncate_dim 0",
        "--threads 0",
        "--embedder_model_class decoder-only-base",
        "--trust_remote_code",
        "--devices cuda",
    ] {
        let issues = encode(&with(bad)).unwrap_err();
        let errors = issues.iter().filter(|issue| issue.severity == Severity::Error);
        assert_eq!(errors.count(), 1, "{bad}: {issues:#?}");
    }
    let evaluate = |more: &str| {
        let line = format!("--embedder_name_or_path m --dataset scifact {more}");
        Loader::<EvaluateConfig>::new()
            .flags(&split_words(&line).unwrap())
            .finish()
            .unwrap()
            .arguments
            .check()
    };
    let checked = evaluate("--k_values 5 2000").unwrap();
    assert_eq!(checked.evaluate.k_values, [5, 2000]);
    assert_eq!(only(checked.warnings()).field.as_deref(), Some("k_values"));
    for bad in ["--k_values 0", "--k_values", "--split a/b", "--search_top_k 0"] {
        assert!(evaluate(bad).is_err(), "{bad}");
    }
}
