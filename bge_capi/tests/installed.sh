#!/usr/bin/env bash
# installed.sh BUILT: installs the libraries of the folder BUILT into a temporary prefix, and builds and runs the examples in
# C and C++ against it as the README says: pkg-config with either library, CMake with either, valgrind on the C program.
set -euo pipefail
built=$(cd "${1:?usage: installed.sh BUILT}" && pwd)
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
both=$work/both archive=$work/archive
bge_capi/install.sh "$both" "$built"
cp -r "$both" "$archive"
rm "$archive/lib/libbge.so"
sed -i "s|^prefix=.*|prefix=$archive|" "$archive/lib/pkgconfig/bge.pc"

model=tests/fixtures/parity/models/bert
toy=examples/data/toy.jsonl

fail() {
    echo "$*" >&2
    exit 1
}

# flags PREFIX OPTIONS...: what pkg-config says of the library installed there.
flags() {
    PKG_CONFIG_PATH=$1/lib/pkgconfig pkg-config --cflags --libs "${@:2}" bge
}

# needs_shared PROGRAM: whether it loads libbge.so.
needs_shared() {
    readelf -d "$1" | grep -q 'NEEDED.*libbge'
}

# runs FOLDER: the three programs there do what they are for, and all embed alike.
runs() {
    local at=$1 report steps
    report=$("$at/validate" "$toy" 4)
    grep -q '"rows":16' <<<"$report" || fail "$at/validate: $report"
    steps=$("$at/finetune" "--model_name_or_path $model --train_data $toy --train_group_size 4 --passage_max_len 64 \
        --output_dir $at/tuned --max_steps 2")
    grep -q '"stopped":false' <<<"$steps" || fail "$at/finetune: $steps"
    "$at/embed" "$at/tuned" "a text" >/dev/null
    "$at/embed" "$model" "why does bread dough rise?" "" "é 日本 x9" >"$at/vectors"
    [ -f "$work/vectors" ] || cp "$at/vectors" "$work/vectors"
    cmp "$at/vectors" "$work/vectors"
}

for language in c cpp; do
    for linked in shared static; do
        at=$work/$language-$linked
        mkdir "$at"
        case $linked in
            shared) found=$(flags "$both") ;;
            static) found=$(flags "$archive" --static) ;;
        esac
        for program in validate finetune embed; do
            case $language in
                c) compile=(cc -std=c99 "examples/c/$program.c") ;;
                cpp) compile=(c++ -std=c++17 "examples/cpp/$program.cc") ;;
            esac
            # shellcheck disable=SC2086
            "${compile[@]}" -O2 -Wall -Wextra -pedantic -Werror -o "$at/$program" $found
        done
        if [ $linked = shared ]; then
            needs_shared "$at/embed" || fail "$at/embed has the archive in it"
            export LD_LIBRARY_PATH=$both/lib
        elif needs_shared "$at/embed"; then
            fail "$at/embed needs libbge.so"
        fi
        runs "$at"
        unset LD_LIBRARY_PATH
        echo "$language, $linked: through pkg-config"
    done
done

at=$work/cmake
cmake -S examples/cpp -B "$at" -DCMAKE_PREFIX_PATH="$both" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$at" >/dev/null
needs_shared "$at/embed" || fail "bge::bge is not the shared library"
if needs_shared "$at/embed_static"; then fail "bge::static is not the archive"; fi
runs "$at"
"$at/embed_static" "$model" "why does bread dough rise?" "" "é 日本 x9" | cmp - "$work/vectors"
echo "cpp, shared and static: through CMake"

valgrind --quiet --error-exitcode=9 --leak-check=full \
    --errors-for-leak-kinds=definite --show-leak-kinds=definite \
    "$work/c-static/embed" "$model" "why does bread dough rise?" "the moon" >/dev/null
echo "c: valgrind found nothing"
