//! Command lines of upstream's, pasted whole.

use super::*;

const EXAMPLE: &str = r"
# The encoder example of FlagEmbedding.
torchrun --nproc_per_node 2 \
    -m FlagEmbedding.finetune.embedder.encoder_only.base \
    --model_name_or_path BAAI/bge-large-en-v1.5 \
    --cache_dir ./cache/model \
    --train_data ../example_data/retrieval \
                 ../example_data/sts/sts.jsonl \
                 ../example_data/classification-no_in_batch_neg \
                 ../example_data/clustering-no_in_batch_neg \
    --cache_path ~/.cache \
    --train_group_size 8 \
    --query_max_len 512 \
    --passage_max_len 512 \
    --pad_to_multiple_of 8 \
    --query_instruction_for_retrieval 'Represent this sentence for searching relevant passages: ' \
    --query_instruction_format '{}{}' \
    --knowledge_distillation False \
    --output_dir ./test_encoder_only_base_bge-large-en-v1.5 \
    --overwrite_output_dir \
    --learning_rate 1e-5 \
    --fp16 \
    --num_train_epochs 4 \
    --per_device_train_batch_size 2 \
    --dataloader_drop_last True \
    --warmup_ratio 0.1 \
    --gradient_checkpointing \
    --deepspeed ../../ds_stage0.json \
    --logging_steps 1 \
    --save_steps 1000 \
    --negatives_cross_device \
    --temperature 0.02 \
    --sentence_pooling_method cls \
    --normalize_embeddings True \
    --kd_loss_type kl_div > log.txt 2>&1 &
echo done
";

#[test]
fn the_encoder_example_of_upstream_runs_unchanged() {
    let line = from_command_line(EXAMPLE).unwrap();
    assert_eq!((line.module, line.processes), (Module::EncoderOnlyBase, Some(2)));
    let config = line.config.arguments;
    assert_eq!(config.model.model_name_or_path, "BAAI/bge-large-en-v1.5");
    assert_eq!(config.data.train_data.len(), 4);
    assert_eq!(config.data.cache_path.as_deref(), Some("~/.cache"));
    assert_eq!(
        config.data.query_instruction_for_retrieval.as_deref(),
        Some("Represent this sentence for searching relevant passages: ")
    );
    assert_eq!(config.data.pad_to_multiple_of, Some(8));
    let training = &config.training;
    assert!(training.overwrite_output_dir && training.fp16 && training.gradient_checkpointing);
    assert!(training.dataloader_drop_last && training.negatives_cross_device);
    assert_eq!(
        (
            training.warmup_ratio,
            training.learning_rate,
            training.logging_steps
        ),
        (0.1, 1e-5, 1.0)
    );
    assert_eq!(
        (training.num_train_epochs, training.per_device_train_batch_size),
        (4.0, 2)
    );
    let fields: Vec<_> = line
        .config
        .warnings
        .iter()
        .map(|issue| issue.field.as_deref())
        .collect();
    assert_eq!(fields, [None], "the launcher, once");
    assert_eq!(
        config.training.nproc_per_node,
        Some(2),
        "a step sees as many queries"
    );
    let checked = config.check().unwrap();
    let fields: Vec<_> = checked
        .warnings()
        .iter()
        .map(|issue| issue.field.as_deref().unwrap())
        .collect();
    // The file is not here, and DeepSpeed's warm-up is another.
    assert_eq!(
        fields,
        ["deepspeed", "deepspeed", "fp16"],
        "{:#?}",
        checked.warnings()
    );
    assert!(checked.warnings()[0].message.contains("stage 0"));
    assert!(checked.warnings()[1].message.contains("logarithm"));
}

#[test]
fn the_same_dataset_example_of_upstream_runs_unchanged() {
    let text = EXAMPLE
        .replace("--knowledge_distillation False", "--knowledge_distillation True --same_dataset_within_batch True --small_threshold 0 --drop_threshold 0")
        .replace("en-v1.5 \\\n    --overwrite", "en-v1.5_sd \\\n    --overwrite");
    let line = from_command_line(&text).unwrap();
    let config = line.config.arguments.check().unwrap();
    assert!(config.data.knowledge_distillation && config.data.same_dataset_within_batch);
    assert!(config.training.output_dir.ends_with("_sd"));
}

#[test]
fn the_m3_example_parses_for_its_module_and_names_it_for_ours() {
    let flags =
        "--unified_finetuning True --use_self_distill True --fix_encoder False --self_distill_start_step 0";
    let words = split_words(flags).unwrap();
    let parsed = Loader::<FinetuneConfig>::for_module(Module::EncoderOnlyM3)
        .flags(&words)
        .finish()
        .unwrap();
    assert!(parsed.arguments.training.unified_finetuning && parsed.arguments.training.use_self_distill);
    assert_eq!(parsed.arguments.training.self_distill_start_step, 0);
    let issues = FinetuneConfig::from_flags(&words).unwrap_err();
    assert_eq!(issues.len(), 4);
    assert!(
        issues
            .iter()
            .all(|issue| issue.code == "config.unknown_flag" && issue.message.contains("encoder_only.m3"))
    );
    assert_eq!(config_error(&issues).kind(), ErrorKind::UnknownFlag);

    let issues = parse("--use_lora True --target_modules q_proj v_proj --seed 1").unwrap_err();
    assert_eq!(issues.len(), 2, "{issues:#?}");
    assert!(
        issues
            .iter()
            .all(|issue| issue.message.contains("decoder_only.base"))
    );

    let planned =
        from_command_line("torchrun -m FlagEmbedding.finetune.embedder.decoder_only.icl --use_lora True");
    assert!(only(&planned.unwrap_err()).message.contains("planned"));
    let unknown =
        from_command_line("python -m FlagEmbedding.finetune.embedder.encoder.base --seed 1").unwrap_err();
    assert!(only(&unknown).message.contains("encoder_only.base"));
    assert_eq!(
        only(&from_command_line("ls -l").unwrap_err()).code,
        "config.no_command"
    );
}

#[test]
fn m3_settings_made_in_code_are_refused_for_the_base_module() {
    let (mut config, _) = parse(REQUIRED).unwrap();
    config.training.unified_finetuning = true;
    let issues = config.clone().check().unwrap_err();
    assert_eq!(only(&issues).field.as_deref(), Some("unified_finetuning"));
    config.clone().check_for(Module::EncoderOnlyM3).unwrap();
    config.training.use_mrl = true;
    config.training.mrl_dims = vec![8];
    let issues = config.clone().check_for(Module::EncoderOnlyM3).unwrap_err();
    assert_eq!(only(&issues).field.as_deref(), Some("use_mrl"));
    config.training.use_mrl = false;
    config.training.mrl_dims = Vec::new();
    config.training.unified_finetuning = false;
    config.training.fix_encoder = true;
    let issues = config.check_for(Module::EncoderOnlyM3).unwrap_err();
    assert_eq!(only(&issues).field.as_deref(), Some("fix_encoder"));
}

#[test]
fn launchers_and_flags_alone_are_understood() {
    for (line, processes) in [
        (
            "python -m FlagEmbedding.finetune.embedder.encoder_only.base --seed 7",
            None,
        ),
        (
            "WANDB_MODE=off torchrun --nproc-per-node=4 --nnodes 2 -m FlagEmbedding.finetune.embedder.encoder_only.base --seed 7",
            Some(8),
        ),
        (
            "accelerate launch --num_processes 3 -m FlagEmbedding.finetune.embedder.encoder_only.base --seed 7",
            Some(3),
        ),
        (
            "python -m torch.distributed.run --nproc_per_node gpu -m FlagEmbedding.finetune.embedder.encoder_only.base --seed 7",
            None,
        ),
        (
            "export A=1; cd x && bge finetune encoder_only.base --seed 7 | tee log",
            None,
        ),
        ("--fp16\n--seed 7\n", None),
    ] {
        let line = from_command_line(line).unwrap();
        assert_eq!(
            (line.config.arguments.training.seed, line.processes),
            (7, processes)
        );
    }
    // What the flags say of the ranks wins over the launcher.
    for (flags, ranks) in [("--nproc_per_node 4", Some(4)), ("--devices cpu cpu", None)] {
        let line = format!(
            "torchrun --nproc_per_node 2 -m {} {flags}",
            "FlagEmbedding.finetune.embedder.encoder_only.base"
        );
        let line = from_command_line(&line).unwrap();
        assert_eq!(line.config.arguments.training.nproc_per_node, ranks, "{flags}");
        assert_eq!(line.config.warnings, []);
    }
    let line = from_command_line("--cache_dir $HF_HUB_CACHE --seed 7").unwrap();
    assert_eq!(only(&line.config.warnings).code, "config.shell_variable");
    for broken in ["--seed '7", "--seed \"7", "--seed 7 \\"] {
        assert_eq!(
            only(&from_command_line(broken).unwrap_err()).code,
            "config.syntax"
        );
    }
}

#[test]
fn words_are_split_as_a_shell_splits_them() {
    for (text, words) in [
        (
            "a 'b c' \"d \\\" \\n $x\" e\\ f",
            &["a", "b c", "d \" \\n $x", "e f"][..],
        ),
        ("a'b'\"c\" '' # rest", &["abc", ""]),
        ("a\\\n b \\\r\n c#d", &["a", "b", "c#d"]),
        ("", &[]),
        ("x > out 2> err", &["x"]),
        ("x 2>&1", &["x"]),
        (r"C:\models\bge a\ b\'", &[r"C:\models\bge", "a b'"]),
    ] {
        assert_eq!(split_words(text).unwrap(), words, "{text}");
    }
}
