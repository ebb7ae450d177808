#!/usr/bin/env bash
# Builds the npm package into bge_wasm/pkg, and the page's copy into examples/browser/pkg.
#
# Needs the wasm32 target, node and npm. `build.sh tokens` builds the second module too, which counts tokens.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

page=examples/browser
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
[ -d $page/tests/node_modules ] || (cd $page/tests && npm ci --no-audit --no-fund)
packer=$(mktemp -d)
trap 'rm -rf "$packer"' EXIT

module() { # NAME CARGO_ARGUMENTS...
    local name=$1
    shift
    RUSTFLAGS="-C target-feature=+simd128" cargo build --locked -p bge_wasm --lib --target wasm32-unknown-unknown --profile wasm "$@"
    # A function that is not inlined into its only caller packs better: a fifteenth of the packed size.
    for kind in web node; do
        CARGO_TARGET_DIR=$target/pack cargo run -q --locked --manifest-path bge_wasm/pack/Cargo.toml -- \
            "$target/wasm32-unknown-unknown/wasm/bge_wasm.wasm" $kind "$name" "$packer/$kind"
        node $page/tests/node_modules/binaryen/bin/wasm-opt "$packer/$kind/${name}_bg.wasm" -Oz \
            --one-caller-inline-max-function-size=0 --strip-debug --strip-producers \
            --enable-simd --enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext \
            --enable-mutable-globals --enable-reference-types --enable-multivalue -o "$packer/$kind/small.wasm"
        mv "$packer/$kind/small.wasm" "$packer/$kind/${name}_bg.wasm"
    done
}

module bge_wasm
[ "${1:-}" != tokens ] || module bge_wasm_tokens --features tokens
rm -rf bge_wasm/pkg $page/pkg
mkdir -p bge_wasm/pkg $page/pkg
cp -r "$packer/web" "$packer/node" bge_wasm/js/package.json bge_wasm/README.md LICENSE bge_wasm/pkg/
echo '{ "type": "commonjs" }' >bge_wasm/pkg/node/package.json
cp "$packer"/web/*.js "$packer"/web/*.wasm $page/pkg/
ls -l $page/pkg
