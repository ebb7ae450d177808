#!/usr/bin/env bash
# Everything that only a GPU can show, in one command: the kernels, the training steps and the search against the CPU, a run that
# stops and goes on, and the speed beside FlagEmbedding's and FAISS's.
#
# usage: benches/gpu/run.sh MODEL TRAIN.jsonl [RESULTS]     default: target/gpu
#        DEVICE=cuda:1 PEER=.peer PRECISION=--bf16 BATCH=64 benches/gpu/run.sh ...
#
# Needs Rust, a C compiler, the NVIDIA driver, and libnvrtc and libcublasLt of CUDA 12 or 13 where the loader finds them; those of
# PyTorch's wheels will do: LD_LIBRARY_PATH=.peer/lib/python3.11/site-packages/nvidia/cu13/lib. The last two steps need
# benches/peer_setup.sh with a CUDA build of torch, and are left out without.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
model=$1 data=$2 out=${3:-target/gpu}
device=${DEVICE:-cuda:0} peer=${PEER:-.peer} precision=${PRECISION:---bf16} batch=${BATCH:-32}
mkdir -p "$out"

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.csv"

echo "=== kernels, encoder, steps and search on $device against the CPU"
BGE_TEST_DEVICE=$device cargo test --release -p bge_core --features cuda --lib -- \
    cuda:: models::checks inference::checks loss::gpu train::checks search::gpu --test-threads 1 | tee "$out/tests.txt"

cargo build --release -p bge_core --features cuda
bge=${CARGO_TARGET_DIR:-target}/release/bge
flags=(--model_name_or_path "$model" --train_data "$data" --per_device_train_batch_size 8 --learning_rate 2e-5 --logging_steps 1
    --max_steps 20)

echo "=== the loss of 20 steps, on the CPU and on the GPU"
for where in cpu "$device"; do
    "$bge" finetune encoder_only.base "${flags[@]}" --devices "$where" --save_strategy no --overwrite_output_dir \
        --output_dir "$out/loss-${where/:/-}" --json | tail -1 | tee "$out/loss-${where/:/-}.json"
done

echo "=== a run that stops after 10 steps and goes on has the weights of one that does not"
halves=(--devices "$device" --save_strategy steps --save_steps 10)
rm -rf "$out/whole" "$out/halves"
"$bge" finetune encoder_only.base "${flags[@]}" "${halves[@]}" --output_dir "$out/whole"
cp -r "$out/whole" "$out/halves"
rm -rf "$out/halves/checkpoint-20" "$out/halves/model.safetensors"
"$bge" finetune encoder_only.base "${flags[@]}" "${halves[@]}" --output_dir "$out/halves" \
    --resume_from_checkpoint "$out/halves/checkpoint-10"
cmp "$out/whole/model.safetensors" "$out/halves/model.safetensors" && echo "the same bytes"

ranks() {
    local name=$1
    shift
    rm -rf "$out/$name"
    "$bge" finetune encoder_only.base "${flags[@]}" --negatives_cross_device True --save_strategy no --output_dir "$out/$name" --json "$@" |
        tail -1 | tee "$out/$name.json"
}
echo "=== two ranks that share $device, through the host, beside one with the joined batch; the second with ZeRO 1"
ranks one --devices "$device" --per_device_train_batch_size 16
ranks two --devices "$device" "$device"
ranks two-zero --devices "$device" "$device" --zero_stage 1
cmp "$out/two/model.safetensors" "$out/two-zero/model.safetensors" && echo "ZeRO 1 has the same bytes"

gpus=$(nvidia-smi --list-gpus | wc -l)
if [ "$gpus" -gt 1 ]; then
    echo "=== NCCL: two GPUs of one process, two processes of torchrun"
    cargo build --release -p bge_core --features nccl
    ranks nccl --devices cuda:0 cuda:1
    if [ -x "$peer/bin/torchrun" ]; then
        rm -rf "$out/torchrun"
        "$peer/bin/torchrun" --nproc_per_node 2 --no-python "$bge" finetune encoder_only.base "${flags[@]}" --devices cuda \
            --negatives_cross_device True --save_strategy no --output_dir "$out/torchrun" --json | tee "$out/torchrun.json"
        cmp "$out/nccl/model.safetensors" "$out/torchrun/model.safetensors" && echo "the same bytes"
    fi
fi

if [ ! -x "$peer/bin/python" ]; then
    echo "=== no speed table: run benches/peer_setup.sh $peer with a CUDA build of torch first"
    exit 0
fi
echo "=== search in a million vectors beside the CPU and FAISS, on the GPU too where the peer has a faiss for it"
number=${device#cuda} number=${number#:}
"$peer/bin/python" benches/search_speed.py --gpu "${number:-0}" --rows 1000000 --queries 10000 --batches 10000 --dims 1024 \
    --threads "$(nproc)" --pairs 1 | tee "$out/search.json"

echo "=== speed beside FlagEmbedding"
for kind in "" "$precision"; do
    "$peer/bin/python" benches/train_speed.py --bge "$bge" --model "$model" --train_data "$data" --device "$device" \
        --threads "$(nproc)" --batch "$batch" --json "$out/speed${kind#-}.json" -- $kind
done
