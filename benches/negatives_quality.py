"""Fine-tunes all-MiniLM-L6-v2 on SciFact with several kinds of negatives and seeds, and scores every result the same way.

usage: python benches/negatives_quality.py --data scifact --model DIR --work DIR --results benches/negatives_quality.json
       [--reranker DIR] [--bge target/release/bge] [--kinds random window margin margin_kd] [--seeds 1 2 3] [--pool 1000] [--max_length 128]

Kinds: `random` draws from all documents; `window` from the model's ranks 2 to 60; `margin` takes the first 50 ranks that score at most 95 %
of the positive (`--relative_margin 0.05`), drawn at random; `margin_kd` is the same rows with scores of --reranker and
`--knowledge_distillation True`. A row that a kind leaves without any negative gets random ones, so that all kinds train on all rows.
The test, its pool and its measure are those of scifact_quality.py. The seed is that of the draws and of the training. A run
whose score is in --results already is skipped.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

import scifact_quality
import sidebyside

FLAGS = {**scifact_quality.FLAGS, "train_group_size": 2, "passage_max_len": 128}
NEGATIVES = 4
MINE = {
    "window": ["--range_for_sampling", "2-60"],
    "margin": ["--range_for_sampling", "0-50", "--relative_margin", "0.05"],
}


def call(command, log):
    with open(log, "w", encoding="utf-8") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)


def write(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def fill(rows, texts, seed):
    """Random negatives for rows without any; the number of such rows."""
    rng, filled = random.Random(seed), 0
    by_query = {}
    for row in rows:
        by_query.setdefault(row["query"], set()).update(row["pos"])
    for row in rows:
        if not row["neg"]:
            filled += 1
            row["neg"] = [t for t in rng.sample(texts, NEGATIVES + 8) if t not in by_query[row["query"]]][:NEGATIVES]
    return filled


def negatives(a, kind, seed, texts):
    """The training file of one kind and seed, and how many rows were filled at random."""
    place = lambda name: os.path.join(a.work, f"{name}-{seed}")
    base = kind.removesuffix("_kd")
    path = place(base) + ".jsonl"
    rows = sidebyside.read_jsonl(os.path.join(a.data, "train.jsonl"))
    filled = 0
    if base == "random":
        for row in rows:
            row["neg"] = []
        fill(rows, texts, seed)
    else:
        pool = os.path.join(a.work, "pool.jsonl")
        write(pool, [{"text": text} for text in texts])
        mined = place(base) + "-mined.jsonl"
        if os.path.exists(mined):
            os.remove(mined)
        command = [a.bge, "mine", "--embedder_name_or_path", a.model, "--pooling_method", "mean", "--input_file", os.path.join(a.data, "train.jsonl")]
        command += ["--output_file", mined, "--candidate_pool", pool, "--corpus_embd_save_dir", os.path.join(a.work, "vectors"), "--seed", str(seed)]
        command += ["--negative_number", str(NEGATIVES), "--embedder_passage_max_length", str(a.max_length), *MINE[base]]
        call(command, place(base) + "-mine.log")
        rows = sidebyside.read_jsonl(mined)
        filled = fill(rows, texts, seed)
    write(path, rows)
    if base != kind:
        scored = place(kind) + ".jsonl"
        if os.path.exists(scored):
            os.remove(scored)
        command = [a.bge, "score", "--reranker_name_or_path", a.reranker, "--input_file", path, "--output_file", scored]
        call([*command, "--reranker_max_length", str(a.max_length + 48)], place(kind) + "-score.log")
        path = scored
    return path, filled


def table(results):
    lines = ["| negatives | seeds | nDCG@10, mean | spread (sample s.d.) | each seed | recall@10 |", "| --- | --- | --- | --- | --- | --- |"]
    for kind, runs in results["kinds"].items():
        n = [run["ndcg_at_10"] for run in runs.values()]
        spread = f"{statistics.stdev(n):.4f}" if len(n) > 1 else "-"
        recall = statistics.mean(run["recall_at_10"] for run in runs.values())
        lines.append(f"| {kind} | {len(n)} | {statistics.mean(n):.4f} | {spread} | {', '.join(f'{x:.4f}' for x in n)} | {recall:.4f} |")
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser()
    for name in ("data", "model", "work", "results"):
        ap.add_argument("--" + name, required=True)
    ap.add_argument("--reranker", help="the teacher of margin_kd")
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--kinds", nargs="+", default=["random", "window", "margin", "margin_kd"])
    ap.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    ap.add_argument("--pool", type=int, default=1000)
    ap.add_argument("--max_length", type=int, default=128)
    a = ap.parse_args()
    if "margin_kd" in a.kinds and not a.reranker:
        sys.exit("margin_kd needs a teacher: --reranker")
    os.makedirs(a.work, exist_ok=True)
    settings = {"flags": FLAGS, "negatives": NEGATIVES, "mine": MINE, "pool": a.pool, "max_length": a.max_length}
    results = {**settings, "kinds": {}}
    if os.path.exists(a.results):
        with open(a.results, encoding="utf-8") as file:
            results = json.load(file)
        if {name: results[name] for name in settings} != settings:
            sys.exit(f"{a.results} holds results of other settings")
    test = scifact_quality.load(a.data, a.pool)
    corpus = sidebyside.read_jsonl(os.path.join(a.data, "corpus.jsonl"))
    texts = [((d.get("title") or "") + " " + d["text"]).strip() for d in corpus]
    for seed in a.seeds:
        for kind in a.kinds:
            done = results["kinds"].setdefault(kind, {})
            if str(seed) in done:
                continue
            data, filled = negatives(a, kind, seed, texts)
            out = os.path.join(os.path.abspath(a.work), f"model-{kind}-{seed}")
            shutil.rmtree(out, ignore_errors=True)
            flags = {"model_name_or_path": a.model, "train_data": data, "output_dir": out, "seed": seed, "save_strategy": "no", **FLAGS}
            if kind.endswith("_kd"):
                flags["knowledge_distillation"] = True
            start = time.perf_counter()
            call([a.bge, "finetune", "encoder_only.base", *scifact_quality.words(flags)], out + ".log")
            secs = time.perf_counter() - start
            done[str(seed)] = {**scifact_quality.score(out, a.max_length, *test), "rows_filled": filled, "train_secs": round(secs, 1)}
            print(kind, seed, done[str(seed)], file=sys.stderr, flush=True)
            with open(a.results, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)
                file.write("\n")
            shutil.rmtree(out, ignore_errors=True)
    print(table(results))


if __name__ == "__main__":
    main()
