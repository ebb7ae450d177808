//! The header and the examples, compiled and run as their readers would.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![cfg(unix)]

mod common;

use std::path::Path;

use bge_core::Embedder;
use bge_core::config::EmbedArguments;

use common::{SANITIZED, STRICT, compile, in_repository, model, run, succeeds, text};

const TEXTS: [&str; 4] = ["why does bread dough rise?", "", "é 日本 x9", "the moon"];

/// Compiles a file of `examples`.
fn build(source: &str, folder: &Path, more: &[&str]) -> String {
    let program = folder.join(source.replace('/', "-")).with_extension("");
    compile(Path::new(&in_repository(source)), &program, more);
    text(&program).to_owned()
}

#[test]
fn the_headers_compile_in_every_standard_and_twice_without_a_warning() {
    let include = in_repository("include");
    for (compiler, language, standard, header) in [
        ("cc", "c", "-std=c99", "bge.h"),
        ("cc", "c", "-std=c11", "bge.h"),
        ("c++", "c++", "-std=c++17", "bge.h"),
        ("c++", "c++", "-std=c++17", "bge.hpp"),
        ("c++", "c++", "-std=c++20", "bge.hpp"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("empty");
        std::fs::write(
            &source,
            format!(
                "#include <{header}>\n#include <bge.h>\n#include <{header}>\nint main(void);\nint main(void) {{ return 0; }}\n"
            ),
        )
        .unwrap();
        let mut args = vec![
            standard,
            "-fsyntax-only",
            "-I",
            &include,
            "-x",
            language,
            text(&source),
        ];
        args.extend(STRICT);
        succeeds(compiler, &args);
    }
}

#[test]
fn vectors_from_c_and_cpp_are_rusts_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let embedder = Embedder::from_finetuned(model(), &EmbedArguments::default()).unwrap();
    let vectors = embedder.encode_queries(&TEXTS).unwrap();
    let want: Vec<Vec<String>> = vectors
        .rows()
        .map(|row| row.iter().map(|x| format!("{:08x}", x.to_bits())).collect())
        .collect();
    let model = model();
    let mut args = vec![model.as_str()];
    args.extend(TEXTS);
    for source in ["examples/c/embed.c", "examples/cpp/embed.cc"] {
        let printed = succeeds(&build(source, folder.path(), &[]), &args);
        let rows: Vec<Vec<String>> = printed
            .lines()
            .map(|line| line.split(' ').map(str::to_owned).collect())
            .collect();
        assert!(rows == want, "{source} differs");
    }
}

#[test]
fn the_c_program_reads_and_leaks_nothing_that_is_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    for source in ["examples/c/embed.c", "examples/cpp/embed.cc"] {
        let program = build(source, folder.path(), &SANITIZED);
        succeeds(&program, &[&model, "a text", "another"]);
        let failed = run(&program, &["no-such-model", "a text"]);
        assert_eq!(failed.status.code(), Some(1));
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(
            said.contains("no-such-model") && said.lines().count() == 1,
            "{said}"
        );
    }
}

#[test]
fn validation_and_training_answer_in_json_and_stop_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let toy = in_repository("examples/data/toy.jsonl");
    let model = model();
    for (validate, finetune) in [
        ("examples/c/validate.c", "examples/c/finetune.c"),
        ("examples/cpp/validate.cc", "examples/cpp/finetune.cc"),
    ] {
        let printed = succeeds(&build(validate, folder.path(), &[]), &[&toy, "4"]);
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(report["rows"], 16);

        let out = folder.path().join(finetune.replace('/', "-"));
        let flags = format!(
            "--model_name_or_path '{model}' --train_data '{toy}' --train_group_size 4 --passage_max_len 64 --output_dir '{}'",
            out.display()
        );
        let program = build(finetune, folder.path(), &[]);
        let printed = succeeds(&program, &[&flags, "2"]);
        let lines: Vec<serde_json::Value> = printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3, "{printed}");
        assert_eq!(
            (&lines[2]["stopped"], &lines[2]["global_step"]),
            (&true.into(), &2.into())
        );
        let wrong = run(&program, &["--learning_rat 1"]);
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("learning_rate"));
    }
}
