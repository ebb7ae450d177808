//! Bad training data and bad settings.

use std::fs;
use std::path::Path;

use bge_core::config::Module;

use crate::case::{Case, GOOD, bge, finetune, words};

/// Training on a file with this content.
fn file(name: &str, content: &[u8], more: &[&str], code: i32, says: &[&str]) -> Case {
    let content = content.to_vec();
    Case::new(name, finetune(more), code, says, move |at: &Path| {
        fs::write(at.join("data.jsonl"), &content).unwrap();
    })
}

/// Good rows with one more line.
fn line(name: &str, text: &str, more: &[&str], says: &[&str]) -> Case {
    let says = [&["data.jsonl:3"], says].concat();
    file(name, format!("{GOOD}{text}\n").as_bytes(), more, 1, &says)
}

fn nothing(_: &Path) {}

fn setting(name: &str, more: &[&str], says: &[&str]) -> Case {
    Case::new(name, finetune(more), 2, says, nothing)
}

/// Settings from a file.
fn config(name: &str, content: &str, says: &[&str]) -> Case {
    let content = content.to_owned();
    Case::new(
        name,
        finetune(&["--config", "run.toml"]),
        2,
        says,
        move |at: &Path| {
            fs::write(at.join("run.toml"), &content).unwrap();
        },
    )
}

pub(crate) fn cases() -> Vec<Case> {
    const KD: &[&str] = &["--knowledge_distillation", "True"];
    vec![
        // One bad line among good ones.
        line(
            "broken JSON",
            "{\"query\": \"a\", \"pos\": [\"b\"",
            &[],
            &["JSON", "one whole object on one line"],
        ),
        line("a list as a line", "[1, 2]", &[], &["object"]),
        line(
            "query is a number",
            "{\"query\": 5, \"pos\": [\"b\"], \"neg\": [\"c\"]}",
            &[],
            &["query"],
        ),
        line(
            "no query",
            "{\"pos\": [\"b\"], \"neg\": [\"c\"]}",
            &[],
            &["query"],
        ),
        line(
            "blank query",
            "{\"query\": \" \", \"pos\": [\"b\"], \"neg\": [\"c\"]}",
            &[],
            &["query"],
        ),
        line("no pos", "{\"query\": \"a\", \"neg\": [\"c\"]}", &[], &["pos"]),
        line(
            "empty pos",
            "{\"query\": \"a\", \"pos\": [], \"neg\": [\"c\"]}",
            &[],
            &["pos"],
        ),
        line(
            "pos is a string",
            "{\"query\": \"a\", \"pos\": \"b\", \"neg\": [\"c\"]}",
            &[],
            &["pos", "list"],
        ),
        line(
            "neg is not a list",
            "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": \"c\"}",
            &[],
            &["neg", "list"],
        ),
        line(
            "neg holds a number",
            "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\", 7]}",
            &[],
            &["neg"],
        ),
        line(
            "scores miscounted",
            "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\", \"d\"], \"pos_scores\": [1], \"neg_scores\": [0.5]}",
            KD,
            &["neg_scores"],
        ),
        line(
            "scores are words",
            "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\"], \"pos_scores\": [\"high\"], \"neg_scores\": [0.5]}",
            KD,
            &["pos_scores"],
        ),
        line(
            "a score is NaN",
            "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\"], \"pos_scores\": [NaN], \"neg_scores\": [0.5]}",
            KD,
            &[],
        ),
        file(
            "distillation without scores",
            GOOD.as_bytes(),
            KD,
            1,
            &["data.jsonl", "score"],
        ),
        line(
            "batch_size is 0",
            "{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\"], \"batch_size\": 0}",
            &["--same_dataset_within_batch", "True"],
            &["batch_size"],
        ),
        file(
            "invalid UTF-8",
            b"{\"query\": \"a\xff\", \"pos\": [\"b\"], \"neg\": [\"c\"]}\n",
            &[],
            1,
            &["data.jsonl:1", "UTF-8"],
        ),
        file("NUL bytes", b"\0\0\0\0\0\0\0\0\n", &[], 1, &["data.jsonl:1"]),
        file(
            "a binary file",
            b"\x7fELF\x02\x01\x01\0\0\n\xfe\xed\xfa\xce",
            &[],
            1,
            &["data.jsonl:1"],
        ),
        file("an empty file", b"", &[], 1, &["data.jsonl", "no rows"]),
        file("only empty lines", b"\n\n  \n", &[], 1, &["data.jsonl"]),
        file(
            "a JSON array cut off",
            b"[{\"query\": \"a\", \"pos\": [\"b\"], \"neg\": [\"c\"]},\n",
            &[],
            1,
            &["data.jsonl"],
        ),
        Case::new(
            "too long a line",
            finetune(&[]),
            1,
            &["data.jsonl:1", "long"],
            |at| {
                let file = fs::File::create(at.join("data.jsonl")).unwrap();
                file.set_len((64 << 20) + 1).unwrap();
            },
        ),
        Case::new(
            "a missing file",
            finetune(&["--train_data", "none.jsonl"]),
            1,
            &["none.jsonl"],
            nothing,
        ),
        Case::new(
            "a folder without data",
            finetune(&["--train_data", "empty"]),
            1,
            &["empty", ".json"],
            |at| {
                fs::create_dir(at.join("empty")).unwrap();
            },
        ),
        Case::new(
            "a folder named like a file",
            finetune(&["--train_data", "x.jsonl"]),
            1,
            &["x.jsonl"],
            |at| {
                fs::create_dir(at.join("x.jsonl")).unwrap();
            },
        ),
        Case::new(
            "a packed file",
            finetune(&["--train_data", "data.jsonl.gz"]),
            1,
            &["data.jsonl.gz"],
            |at| {
                fs::write(at.join("data.jsonl.gz"), b"\x1f\x8b\x08\0").unwrap();
            },
        ),
        Case::new(
            "a link to nowhere",
            finetune(&["--train_data", "link.jsonl"]),
            1,
            &["link.jsonl"],
            |at| {
                std::os::unix::fs::symlink("gone", at.join("link.jsonl")).unwrap();
            },
        ),
        Case::new(
            "a link to itself",
            finetune(&["--train_data", "loop.jsonl"]),
            1,
            &["loop.jsonl"],
            |at| {
                std::os::unix::fs::symlink("loop.jsonl", at.join("loop.jsonl")).unwrap();
            },
        ),
        // Settings.
        setting(
            "an unknown flag",
            &["--learnig_rate", "1"],
            &["learnig_rate", "learning_rate"],
        ),
        setting(
            "a word for a number",
            &["--learning_rate", "fast"],
            &["learning_rate", "fast"],
        ),
        setting("a negative rate", &["--learning_rate", "-1"], &["learning_rate"]),
        setting("a rate of NaN", &["--learning_rate", "nan"], &["learning_rate"]),
        setting("a temperature of 0", &["--temperature", "0"], &["temperature"]),
        setting(
            "a group of 0",
            &["--train_group_size", "0"],
            &["train_group_size"],
        ),
        setting(
            "a batch of 0",
            &["--per_device_train_batch_size", "0"],
            &["per_device_train_batch_size"],
        ),
        setting(
            "a fraction for a count",
            &["--query_max_len", "1.5"],
            &["query_max_len"],
        ),
        setting(
            "an unknown pooling",
            &["--sentence_pooling_method", "max"],
            &["sentence_pooling_method", "cls"],
        ),
        setting("mrl without dims", &["--use_mrl", "True"], &["mrl_dims"]),
        setting(
            "no placeholder in a format",
            &["--query_instruction_format", "query:"],
            &["query_instruction_format"],
        ),
        setting(
            "best model without evaluation",
            &["--load_best_model_at_end", "True"],
            &["load_best_model_at_end", "eval"],
        ),
        setting(
            "both precisions",
            &["--fp16", "True", "--bf16", "True"],
            &["fp16", "bf16"],
        ),
        setting("a flag without its value", &["--seed"], &["seed"]),
        setting(
            "a config that is missing",
            &["--config", "gone.toml"],
            &["gone.toml"],
        ),
        setting(
            "a config that is a folder",
            &["--config", "model"],
            &["model", "folder"],
        ),
        config("a config that is no TOML", "[training\nseed = 1\n", &["run.toml"]),
        config(
            "a config with an unknown key",
            "[training]\nsede = 1\n",
            &["run.toml", "sede", "seed"],
        ),
        config(
            "a config with a wrong type",
            "[training]\nseed = \"one\"\n",
            &["run.toml", "seed"],
        ),
        Case::new(
            "no model at all",
            words(&[
                "finetune",
                "encoder_only.base",
                "--train_data",
                "data.jsonl",
                "--output_dir",
                "out",
            ]),
            2,
            &["model_name_or_path"],
            nothing,
        ),
        Case::new(
            "a module of later",
            words(&["finetune", "decoder_only.base"]),
            2,
            &["decoder_only.base", "encoder_only.base"],
            nothing,
        ),
        Case::new(
            "no such module",
            words(&["finetune", "encoder"]),
            2,
            &[
                "encoder",
                "encoder_only.base",
                "encoder_only.m3",
                "reranker.encoder_only.base",
            ],
            nothing,
        ),
        Case::new(
            "a launcher for a module",
            words(&[
                "finetune",
                "torchrun",
                "-m",
                "FlagEmbedding.finetune.embedder.encoder_only.base",
            ]),
            2,
            &["torchrun", "`bge config render --format flags`"],
            nothing,
        ),
        Case::new(
            "no such command",
            words(&["finetun"]),
            2,
            &["finetun", "finetune"],
            nothing,
        ),
    ]
}

#[test]
fn every_module_that_is_trained_is_in_the_help() {
    let help = |args: &[&str]| {
        let output = bge(Path::new(".")).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for text in [help(&["--help"]), help(&["finetune", "--help"])] {
        for module in Module::TRAINED {
            assert!(text.contains(module.as_str()), "{module}: {text}");
        }
    }
}
