//! What the tests that compile programs share: places, compilers, what a program says.
#![allow(dead_code, reason = "each test uses its share")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-pedantic", "-Werror"];
pub(crate) const SANITIZED: [&str; 3] = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn in_repository(path: &str) -> String {
    text(&repository().join(path)).to_owned()
}

pub(crate) fn model() -> String {
    in_repository("tests/fixtures/parity/models/bert")
}

/// The archive that cargo has built beside this test.
fn archive() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.with_file_name("libbge.a");
    assert!(built.is_file(), "{} is missing", built.display());
    built
}

pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

pub(crate) fn succeeds(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    assert!(said.is_empty(), "{program} is not silent: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Compiles a program, in C99 or C++17 as its name says, and links it statically.
pub(crate) fn compile(source: &Path, program: &Path, more: &[&str]) {
    let (compiler, standard) = match source.extension() {
        Some(c) if c == "c" => ("cc", "-std=c99"),
        _ => ("c++", "-std=c++17"),
    };
    let include = in_repository("include");
    let mut args = vec![standard, "-I", &include, text(source), "-o", text(program)];
    args.extend(STRICT);
    args.extend(more);
    let archive = archive();
    args.extend([text(&archive), "-lpthread", "-ldl", "-lm"]);
    succeeds(compiler, &args);
}
