#!/usr/bin/env bash
# search_test.sh BUILT: builds the service over installed libraries, asks it, and loads it from go/cmd/load while it reloads.
set -euo pipefail
built=$(cd "${1:?usage: search_test.sh BUILT}" && pwd)
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
service=
trap '[ -z "$service" ] || kill "$service"; rm -rf "$work"' EXIT
bge_capi/install.sh "$work/bge" "$built"
cmake -S examples/cpp_search -B "$work/build" -DCMAKE_PREFIX_PATH="$work/bge" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/build" >/dev/null
(cd go && GOPROXY=off GOFLAGS=-buildvcs=false CGO_LDFLAGS="-L$built" go build -o "$work/load" ./cmd/load)

models=$PWD/tests/fixtures/parity/models
cat >"$work/corpus.jsonl" <<'CORPUS'
{"_id": "a", "title": "Ice", "text": "Salt lowers the melting point of water."}
{"_id": "b", "title": "", "text": "A \"haiku\" has three lines. 日本"}
{"_id": 10, "title": null, "text": "Bread rises."}
{"id": "d", "text": "Tea steeps."}
{"_id": "c", "title": "Sky", "text": "Air scatters blue light."}
CORPUS
"$work/build/search" "$models/bert" "$work/corpus.jsonl" 0 >"$work/port" &
service=$!
for _ in $(seq 100); do [ -s "$work/port" ] && break || sleep 0.1; done
"$work/load" -url "http://127.0.0.1:$(cat "$work/port")" -clients "${CLIENTS:-16}" -for "${FOR:-3s}" \
    -reload "$models/bert,$models/bert_relu"
