#!/usr/bin/env bash
# check.sh BUILT: format, vet and tests of the Go package over the libraries of the folder BUILT, linked both ways, and its
# programs over the toy data. Fetches nothing: the package has no dependencies.
set -euo pipefail
built=$(cd "${1:?usage: check.sh BUILT}" && pwd)
cd "$(dirname "$0")"
export GOPROXY=off GOFLAGS=-buildvcs=false CGO_LDFLAGS="-L$built" LD_LIBRARY_PATH=$built

work=$(mktemp -d)
service=
trap '[ -z "$service" ] || kill "$service"; rm -rf "$work"' EXIT

unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted"; exit 1; }
go vet ./...
go vet -tags bge_use_lib ./...
go test ./...
go test -race .
go test -tags bge_use_lib .
go vet -tags bge_debug .
go test -tags bge_debug .

cd ..
model=tests/fixtures/parity/models/bert
toy=examples/data/toy.jsonl
texts=("why does bread dough rise?" "" "é 日本 x9")
cc -std=c99 -Iinclude -o "$work/embed-c" examples/c/embed.c "$built/libbge.a" -lpthread -ldl -lm
"$work/embed-c" "$model" "${texts[@]}" >"$work/vectors"
for tags in bge_static bge_use_lib; do
    mkdir "$work/$tags"
    (cd go && go build -tags $tags -o "$work/$tags" ./cmd/...)
    "$work/$tags/embed" "$model" "${texts[@]}" | cmp - "$work/vectors"
    "$work/$tags/validate" "$toy" 4 | grep -q '"rows":16'
    "$work/$tags/finetune" "--model_name_or_path $model --train_data $toy --train_group_size 4 --passage_max_len 64 \
        --output_dir $work/$tags/tuned --max_steps 2" | grep -q '"stopped":false'
    "$work/$tags/embed" "$work/$tags/tuned" "a text" >/dev/null
    if readelf -d "$work/$tags/embed" | grep -q 'NEEDED.*libbge'; then linked=dynamic; else linked=static; fi
    case $tags-$linked in
        bge_static-static | bge_use_lib-dynamic) echo "programs, $linked: done" ;;
        *) echo "$tags: linked the wrong way"; exit 1 ;;
    esac
done

# The search service in Go, loaded while it swaps its model.
(cd go && go build -o "$work/load" ./cmd/load)
cat >"$work/corpus.jsonl" <<'CORPUS'
{"_id": "a", "title": "Ice", "text": "Salt lowers the melting point of water."}
{"_id": "b", "title": "", "text": "A \"haiku\" has three lines. 日本"}
{"_id": 10, "title": null, "text": "Bread rises."}
{"id": "d", "text": "Tea steeps."}
CORPUS
"$work/bge_static/serve" $model "$work/corpus.jsonl" 127.0.0.1:0 >"$work/port" &
service=$!
for _ in $(seq 100); do [ -s "$work/port" ] && break || sleep 0.1; done
"$work/load" -url "http://127.0.0.1:$(cat "$work/port")" -for 3s -reload "$model,tests/fixtures/parity/models/bert_relu"
kill -INT "$service"
wait "$service"
service=
