"""The planner's times beside real runs on this machine: how far off is the cost model?

usage: python benches/cost_model.py --data scifact --models DIR... [--bge target/release/bge] [--steps 8] [--threads 2] [--json FILE]

--data is a BEIR-layout folder with train.jsonl; rows get seeded random negatives. The first run of the first model says how many operations
a second this machine reaches, the first run with several ranks how many bytes a second a rank gives the others; every
other run is predicted from these two numbers by `bge config check --plan --tflops ...` and then measured by `bge finetune`. Ranks
are threads that share the processor, so each reaches its share of the operations and none talks while it computes. Standard
library only.
"""

import argparse
import json
import os
import statistics
import tempfile

import sidebyside

BASE = {"per_device_train_batch_size": 8, "train_group_size": 4, "query_max_len": 64, "passage_max_len": 256}
RUNS = [
    ("as it is", {}, 1),
    ("gradient_checkpointing", {"gradient_checkpointing": True}, 1),
    ("sub_batch_size 8", {"sub_batch_size": 8}, 1),
    ("passages of 64 tokens", {"passage_max_len": 64}, 1),
    ("groups of 2, batch 16", {"per_device_train_batch_size": 16, "train_group_size": 2}, 1),
    ("2 ranks", {}, 2),
    ("2 ranks, ZeRO 2", {"zero_stage": 2}, 2),
    ("2 ranks, ZeRO 3", {"zero_stage": 3}, 2),
    ("2 ranks, cross-device", {"negatives_cross_device": True}, 2),
    ("4 ranks, batch 4 each", {"per_device_train_batch_size": 4}, 4),
]
LINE = 1e6  # GB/s: nothing to wait for


def words(flags):
    return [w for k, v in flags.items() for w in (f"--{k}", str(v))]


def measure(a, flags, ranks, work):
    """Tokens a second, the median over the steps."""
    out = {"output_dir": os.path.join(work, "out"), "overwrite_output_dir": True, "max_steps": a.steps, "save_strategy": "no", "nproc_per_node": ranks}
    text, _ = sidebyside.run([a.bge, "finetune", "encoder_only.base", *words({**flags, **out}), "--json"], a.threads)
    return sidebyside.last_json(text)["tokens_per_second"]


def predict(a, flags, ranks, flops, line):
    # A processor's memory is shared by its ranks, as its cores are.
    rates = {"tflops": flops / ranks / 1e12, "memory_gb_s": a.memory_gb_s / ranks, "line_gb_s": line, "network_gb_s": line, "overlap": "False"}
    asked = {**flags, "nproc_per_node": ranks, "output_dir": "out"}
    text, _ = sidebyside.run([a.bge, "config", "check", "--plan", "--json", *words({**asked, **rates})], a.threads)
    curve = json.loads(text)["plan"]["curve"]
    return next(step for step in curve if step["devices"] == ranks)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", required=True)
    ap.add_argument("--models", nargs="+", required=True)
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--steps", type=int, default=8)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--memory_gb_s", type=float, default=20.0)
    ap.add_argument("--json")
    a = ap.parse_args()
    flops = line = None
    found = []
    with tempfile.TemporaryDirectory() as work:
        data = os.path.join(work, "train.jsonl")
        sidebyside.with_negatives([os.path.join(a.data, "train.jsonl")], os.path.join(a.data, "corpus.jsonl"), 3, 800, data)
        for model in a.models:
            for name, changes, ranks in RUNS:
                flags = {"model_name_or_path": model, "train_data": data, "sentence_pooling_method": "mean", **BASE, **changes}
                rate = measure(a, flags, ranks, work)
                role = "predicted"
                if flops is None:
                    # Operations of a step are what the planner says at any rate, here at a million million a second.
                    at = predict(a, flags, 1, 1e12, LINE)
                    tokens = at["tokens_per_second"] * at["step"]
                    flops, role = at["compute"] * 1e12 / (tokens / rate - at["optimizer"]), "calibrates"
                elif line is None and ranks > 1:
                    at = predict(a, flags, ranks, flops, LINE)
                    tokens = at["tokens_per_second"] * at["step"]
                    left = tokens / rate - at["step"]
                    bytes_sent = at["communication"] * LINE * 1e9
                    line, role = (bytes_sent / left / 1e9 if left > 0 else LINE), "calibrates"
                told = predict(a, flags, ranks, flops, line or LINE)["tokens_per_second"]
                found.append({"model": os.path.basename(model.rstrip("/")), "run": name, "measured": rate, "predicted": told, "role": role})
                print(f"| {found[-1]['model']} | {name} | {rate:,.0f} | {told:,.0f} | {told / rate:.2f} | {role} |", flush=True)
    off = [abs(f["predicted"] / f["measured"] - 1) for f in found if f["role"] == "predicted"]
    print(f"{flops / 1e9:.1f} GFLOP/s, {line:.3f} GB/s; predictions are off by {statistics.median(off):.0%} in the middle, {max(off):.0%} at the most")
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"machine": sidebyside.machine(), "flops": flops, "line_gb_s": line, "runs": found}, f, indent=1)


if __name__ == "__main__":
    main()
