//! The example programs run as they are documented.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::process::{Command, Output};

use bge_examples::toy_data;

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_toy_data_is_clean() {
    let text = printed(&run(env!("CARGO_BIN_EXE_validate"), &[]));
    assert!(text.starts_with("16 rows in 1 file"), "{text}");
    assert!(text.contains("ready to train"), "{text}");
}

#[test]
fn bad_data_makes_the_validator_fail() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.jsonl");
    std::fs::write(&file, "{\"query\": \"why?\", \"pos\": [], \"neg\": []}\n").unwrap();
    let output = run(env!("CARGO_BIN_EXE_validate"), &[file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("data.pos_missing"));
}

#[test]
fn a_pasted_command_line_trains_a_model_that_embeds() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model");
    let line = format!(
        "python -m FlagEmbedding.finetune.embedder.encoder_only.base --model_name_or_path '{}' --train_data '{}' \
         --train_group_size 4 --passage_max_len 64 --output_dir '{}' --max_steps 2",
        bge_examples::toy_model().display(),
        toy_data().display(),
        out.display()
    );
    let text = printed(&run(env!("CARGO_BIN_EXE_finetune"), &[&line]));
    assert!(text.starts_with("16 rows, 2 steps"), "{text}");
    let text = printed(&run(
        env!("CARGO_BIN_EXE_embed"),
        &[out.to_str().unwrap(), "what makes the tides?"],
    ));
    assert_eq!(text.lines().count(), 4, "{text}");
}
