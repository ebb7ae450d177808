#!/usr/bin/env bash
# Builds the npm package into bge_wasm/pkg, and the page's copy into examples/browser/pkg.
#
# Needs the wasm32 target, node and npm. `build.sh tokens` builds the module that counts tokens, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

page=examples/browser
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
[ -d $page/tests/node_modules ] || (cd $page/tests && npm ci --no-audit --no-fund)
packer=$(mktemp -d)
trap 'rm -rf "$packer"' EXIT

module() { # NAME LEVEL CARGO_ARGUMENTS...: optimised for speed at level 3, for size at level z.
    local name=$1 level=$2 flags=(-O3)
    shift 2
    # Where size counts: a function that is not inlined into its only caller packs better, a fifteenth of the packed size; so
    # do like ones side by side, as their names put them.
    [ "$level" = 3 ] || flags=(-Oz --one-caller-inline-max-function-size=0 --reorder-functions-by-name)
    # Paths of this machine are in messages of panics, which nobody sees.
    CARGO_PROFILE_WASM_OPT_LEVEL=$level RUSTFLAGS="-C target-feature=+simd128 --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src/=" cargo build --locked -p bge_wasm --lib --target wasm32-unknown-unknown --profile wasm "$@"
    for kind in web node; do
        CARGO_TARGET_DIR=$target/pack cargo run -q --locked --manifest-path bge_wasm/pack/Cargo.toml -- \
            "$target/wasm32-unknown-unknown/wasm/bge_wasm.wasm" $kind "$name" "$packer/$kind"
    done
    # Both kinds have the same WebAssembly, so that it is optimised once.
    cmp "$packer/web/${name}_bg.wasm" "$packer/node/${name}_bg.wasm"
    node $page/tests/node_modules/binaryen/bin/wasm-opt "$packer/web/${name}_bg.wasm" "${flags[@]}" --strip-debug --strip-producers \
        --enable-simd --enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext \
        --enable-mutable-globals --enable-reference-types --enable-multivalue -o "$packer/made.wasm"
    cp "$packer/made.wasm" "$packer/node/${name}_bg.wasm"
    mv "$packer/made.wasm" "$packer/web/${name}_bg.wasm"
}

module bge_wasm 3 --no-default-features --features validate
module bge_wasm_settings z --no-default-features --features settings
module bge_wasm_tools z --no-default-features --features tools
[ "${1:-}" != tokens ] || module bge_wasm_tokens z --no-default-features --features tokens
rm -rf bge_wasm/pkg $page/pkg
mkdir -p bge_wasm/pkg $page/pkg
cp -r "$packer/web" "$packer/node" bge_wasm/js/package.json bge_wasm/README.md LICENSE bge_wasm/pkg/
echo '{ "type": "commonjs" }' >bge_wasm/pkg/node/package.json
cp "$packer"/web/*.js "$packer"/web/*.wasm $page/pkg/
ls -l $page/pkg
