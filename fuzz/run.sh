#!/usr/bin/env bash
# Runs every fuzz target for some seconds: fuzz/run.sh [SECONDS] [TARGET ...]. A finding ends it, with the input in fuzz/found.
#
# Needs a C++ compiler and any Rust: the flags are those of `cargo fuzz` without its sanitizers, which only a nightly
# compiler has and which look for what safe Rust cannot do. `cargo +nightly fuzz run TARGET` works here, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=${1:-20}
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(validate repair convert)
host=$(rustc -vV | sed -n 's/^host: //p')
target=$(cargo metadata --locked --no-deps --format-version 1 --manifest-path ../Cargo.toml | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/fuzz

# With --target, so that the flags are not those of build scripts. A release without a fuzzer's counters would find little.
CARGO_TARGET_DIR=$target RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --locked --release --target "$host"
mkdir -p found
for name in "${targets[@]}"; do
    corpus=$(mktemp -d)
    echo "== $name, $seconds s"
    "$target/$host/release/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
        -dict=words.dict -artifact_prefix="found/$name-" "$corpus" "seeds/$name" 2>&1 | grep -vE '^#|NEW_FUNC|# Uses|Recommended dictionary' || {
        rm -rf "$corpus"
        exit 1
    }
    rm -rf "$corpus"
done
