"""Fine-tunes a small model of BGE-M3's kind on SQuAD with several seeds, and measures each head and their mean before and after.

usage: python benches/m3_quality.py --data squad --model DIR --work DIR --results benches/m3_quality.json
       [--bge target/release/bge] [--seeds 1 2 3] [--rows 1200] [--queries 300] [--pool 700] [--threads 2]

--model is made by make_m3.py --from. The training rows are the first --rows of train.jsonl.gz after a seeded shuffle, without negatives: those
of the batch only. The test is --queries test questions against their paragraphs and --pool others, measured by `bge evaluate`: sparse and
dense scores over all documents, the others over the 200 best of both. Two kinds: with `use_self_distill` and without. A run whose
result is in --results already is skipped. Standard library only.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import time

import sidebyside

FLAGS = {
    "unified_finetuning": True,
    "train_group_size": 1,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 1,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "temperature": 0.05,
    "query_max_len": 48,
    "passage_max_len": 192,
    "sentence_pooling_method": "mean",
    "normalize_embeddings": True,
    "save_strategy": "no",
}
MODES = ["dense", "sparse", "colbert", "sparse+dense", "colbert+sparse+dense"]


def write(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def prepare(data, work, rows, queries, pool):
    """The training file and a BEIR folder."""
    rng = random.Random(11)
    train = sidebyside.read_jsonl(os.path.join(data, "train.jsonl.gz"))
    rng.shuffle(train)
    write(os.path.join(work, "train.jsonl"), [{"query": r["query"], "pos": r["pos"]} for r in train[:rows]])
    with open(os.path.join(data, "qrels", "test.tsv"), encoding="utf-8") as f:
        head, *judgments = f.read().splitlines()
    judgments = rng.sample(judgments, queries)
    asked, known = ({line.split("\t")[at] for line in judgments} for at in (0, 1))
    corpus = sidebyside.read_jsonl(os.path.join(data, "corpus.jsonl"))
    known.update(rng.sample(sorted({d["_id"] for d in corpus} - known), pool))
    beir = os.path.join(work, "beir")
    os.makedirs(os.path.join(beir, "qrels"), exist_ok=True)
    write(os.path.join(beir, "corpus.jsonl"), [d for d in corpus if d["_id"] in known])
    write(os.path.join(beir, "queries.jsonl"), [q for q in sidebyside.read_jsonl(os.path.join(data, "queries.jsonl")) if q["_id"] in asked])
    with open(os.path.join(beir, "qrels", "test.tsv"), "w", encoding="utf-8") as f:
        f.write("\n".join([head, *judgments]) + "\n")
    return beir


def call(command, log):
    with open(log, "w", encoding="utf-8") as f:
        subprocess.run(command, check=True, stdout=f, stderr=subprocess.STDOUT)


def measure(bge, model, beir, out, threads):
    call([bge, "evaluate", "--embedder_name_or_path", model, "--dataset", beir, "--pooling_method", "mean", "--k_values", "10", "--embedder_query_max_length", "48",
          "--embedder_passage_max_length", "192", "--threads", str(threads), "--output_file", out], out + ".log")  # fmt: skip
    with open(out, encoding="utf-8") as f:
        modes = json.load(f)["heads"]["modes"]
    return {mode: modes[mode]["ndcg_at_10"] for mode in MODES}


def table(results):
    lines = ["| model | seeds | " + " | ".join(MODES) + " |", "| --- " * (len(MODES) + 2) + "|"]
    for kind, runs in results["runs"].items():
        cells = []
        for mode in MODES:
            values = [run[mode] for run in runs.values()]
            spread = f" ({statistics.stdev(values):.4f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}")
        lines.append(f"| {kind} | {len(runs) if kind != 'before' else '-'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", required=True)
    ap.add_argument("--model", required=True)
    ap.add_argument("--work", required=True)
    ap.add_argument("--results", required=True)
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    ap.add_argument("--rows", type=int, default=1200)
    ap.add_argument("--queries", type=int, default=300)
    ap.add_argument("--pool", type=int, default=700)
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    settings = {"flags": FLAGS, "rows": a.rows, "queries": a.queries, "pool": a.pool}
    results = {**settings, "runs": {}}
    if os.path.exists(a.results):
        with open(a.results, encoding="utf-8") as f:
            results = json.load(f)
        if {k: results[k] for k in settings} != settings:
            raise SystemExit(f"{a.results} holds results of other settings")
    os.makedirs(a.work, exist_ok=True)
    beir = prepare(a.data, a.work, a.rows, a.queries, a.pool)
    todo = [("before", "-")] + [(kind, str(seed)) for seed in a.seeds for kind in ("after", "after, self-distillation")]
    for kind, seed in todo:
        done = results["runs"].setdefault(kind, {})
        if seed in done:
            continue
        start, out = time.perf_counter(), os.path.join(a.work, "run")
        model = a.model
        if kind != "before":
            flags = {**FLAGS, "use_self_distill": "self" in kind, "seed": seed, "model_name_or_path": a.model, "output_dir": out, "dataloader_num_workers": 0}
            flags["train_data"] = os.path.join(a.work, "train.jsonl")
            call([a.bge, "finetune", "encoder_only.m3", *(w for k, v in flags.items() for w in (f"--{k}", str(v)))], out + ".log")
            model = out
        done[seed] = measure(a.bge, model, beir, os.path.join(a.work, "scores.json"), a.threads)
        shutil.rmtree(out, ignore_errors=True)
        print(f"{kind}, seed {seed}: {time.perf_counter() - start:.0f} s, {done[seed]}", flush=True)
        with open(a.results, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
    print(table(results))


if __name__ == "__main__":
    main()
