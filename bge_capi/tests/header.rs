//! `include/bge.h` is what the sources say, and what it promises.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::{Path, PathBuf};

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn header() -> PathBuf {
    here().join("../include/bge.h")
}

fn generated() -> String {
    let mut config = cbindgen::Config::from_file(here().join("cbindgen.toml")).unwrap();
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    let minor = env!("CARGO_PKG_VERSION_MINOR");
    let patch = env!("CARGO_PKG_VERSION_PATCH");
    let version = format!(
        "\n/* The version this header belongs to. */\n#define BGE_VERSION \"{major}.{minor}.{patch}\"\n\
         #define BGE_VERSION_MAJOR {major}\n#define BGE_VERSION_MINOR {minor}\n#define BGE_VERSION_PATCH {patch}\n"
    );
    config.header = Some(read(&here().join("header_top.h")));
    config.after_includes = Some(version + &read(&here().join("header_after.h")));
    config.trailer = Some(read(&here().join("header_end.h")));
    let sources = [
        "status", "text", "error", "handle", "library", "log", "event", "config", "data", "embedder",
        "reranker", "trainer", "runs",
    ];
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in sources {
        builder = builder.with_src(here().join("src").join(source).with_extension("rs"));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn the_header_is_what_the_sources_say() {
    let text = generated();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(header(), &text).unwrap();
    }
    assert!(
        read(&header()) == text,
        "include/bge.h differs from the sources; write it with UPDATE=1 cargo test -p bge_capi --test header"
    );
}

#[test]
fn every_exported_function_is_declared_with_its_first_version() {
    let text = read(&header());
    let (_, text) = text.split_once("\nenum bge_status").unwrap(); // past prose and macros, which name functions too
    let mut functions = 0;
    for file in std::fs::read_dir(here().join("src")).unwrap() {
        let source = read(&file.unwrap().path());
        for (at, _) in source.match_indices("#[unsafe(no_mangle)]") {
            let rest = &source[at..];
            let name = rest.split("fn ").nth(1).unwrap();
            let name = name.split(['(', '<']).next().unwrap();
            assert!(name.starts_with("bge_"), "{name}");
            let (before, _) = text
                .split_once(&format!("{name}("))
                .unwrap_or_else(|| panic!("{name} is not in the header"));
            assert!(
                before.contains("BGE_API ") || before.contains("BGE_API\n"),
                "{name}"
            );
            let own = &source[..at];
            let comment: String = own.lines().rev().take(6).collect();
            assert!(
                comment.contains("/// Since: "),
                "{name} does not say since when it is there"
            );
            functions += 1;
        }
    }
    assert!(functions > 40, "only {functions} functions were found");
}
