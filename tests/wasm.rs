//! The pure half stays pure: what a browser would have to download is in its dependency tree.

use std::process::Command;

/// Crates that the pure half must not depend on, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("candle-core", "tensors belong to the feature `model`"),
    ("clap", "the shell belongs to the feature `cli`"),
    ("cudarc", "a browser has no CUDA"),
    ("gemm", "tensors belong to the feature `model`"),
    ("getrandom", "random draws are keyed, not taken from the machine"),
    ("hf-hub", "the hub belongs to the feature `hub`"),
    ("indicatif", "the shell belongs to the feature `cli`"),
    ("memmap2", "a browser has no files"),
    ("onig_sys", "is C"),
    ("rayon", "a browser tab has no threads"),
    ("safetensors", "weights belong to the feature `model`"),
    (
        "tokenizers",
        "1 MB of code; token lengths come from a module of their own",
    ),
    ("tokio", "the library is blocking"),
    ("ureq", "the hub belongs to the feature `hub`"),
    ("wasm-bindgen", "only the browser's own crate knows the browser"),
];

/// Names of all crates in the dependency tree of the pure half, as built for a browser.
fn crates() -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "-p",
            "bge_core",
            "--no-default-features",
        ])
        .args(["--target", "wasm32-unknown-unknown", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    text.lines().map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_pure_half_has_no_tensors_threads_or_network() {
    let crates = crates();
    assert!(
        crates.iter().any(|name| name == "bge_core") && crates.iter().any(|name| name == "serde_json"),
        "this is not the tree of bge_core: {crates:?}"
    );
    for (forbidden, reason) in FORBIDDEN {
        assert!(
            !crates.iter().any(|name| name == forbidden),
            "the pure half depends on {forbidden}: {reason}"
        );
    }
}
