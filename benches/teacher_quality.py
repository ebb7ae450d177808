"""Trains a cross-encoder from an embedder with `bge finetune reranker.encoder_only.base` and reranks held-out queries with it.

usage: python benches/teacher_quality.py --data squad --model DIR --work DIR [--bge target/release/bge] [--train 1000] [--test 200]
       [--top 20] [--seed 42] [-- flags that replace or add to FLAGS]

--data is a BEIR-layout folder with train and test judgements; --model is the embedder to start from, which also finds the
candidates (its vectors are computed by sentence-transformers). Each training query gets negatives drawn from the embedder's ranks 2
to 30, never a judged passage. Test: the embedder's first --top passages, in its own order and in that of the cross-encoder; a query whose
passage is not among them counts 0 in both. Prints nDCG@10 and MRR@10 of both with a paired bootstrap interval of the gain.
"""

import argparse
import gzip
import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np

FLAGS = {
    "train_group_size": 4,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "query_max_len": 32,
    "passage_max_len": 192,
    "logging_steps": 10,
    "save_strategy": "no",
}


def lines(path):
    if not os.path.exists(path):
        path += ".gz"
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def judged(path):
    out = {}
    with open(path, encoding="utf-8") as file:
        for line in file.read().splitlines()[1:]:
            query, passage, grade = line.split("\t")
            if int(grade) > 0:
                out.setdefault(query, set()).add(passage)
    return out


def metrics(order, relevant):
    gains = [1 / math.log2(i + 2) for i, p in enumerate(order[:10]) if p in relevant]
    ideal = sum(1 / math.log2(i + 2) for i in range(min(10, len(relevant))))
    first = next((1 / (i + 1) for i, p in enumerate(order[:10]) if p in relevant), 0.0)
    return sum(gains) / ideal, first


def write(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main():
    ap = argparse.ArgumentParser()
    for name in ("data", "model", "work"):
        ap.add_argument("--" + name, required=True)
    ap.add_argument("--bge", default="target/release/bge")
    for name, value in (("train", 1000), ("test", 200), ("top", 20), ("seed", 42)):
        ap.add_argument("--" + name, type=int, default=value)
    own, more = (sys.argv[1:], []) if "--" not in sys.argv else (sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :])
    a = ap.parse_args(own)
    os.makedirs(a.work, exist_ok=True)
    passages = {d["_id"]: (d.get("title", "") + " " + d["text"]).strip() for d in lines(os.path.join(a.data, "corpus.jsonl"))}
    queries = {q["_id"]: q["text"] for q in lines(os.path.join(a.data, "queries.jsonl"))}
    rng = random.Random(a.seed)
    splits = {}
    for split, count in (("train", a.train), ("test", a.test)):
        of = judged(os.path.join(a.data, "qrels", split + ".tsv"))
        splits[split] = {q: of[q] for q in rng.sample(sorted(of), min(count, len(of)))}
    shared = set(splits["train"]) & set(splits["test"])
    assert not shared, "a query is in both splits"

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(a.model, device="cpu")
    model.max_seq_length = 224
    ids = sorted(passages)
    encode = lambda texts: model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    start = time.perf_counter()
    corpus = encode([passages[i] for i in ids])
    ranked = {}
    for of in splits.values():
        names = list(of)
        scores = encode([queries[q] for q in names]) @ corpus.T
        for q, row in zip(names, scores):
            ranked[q] = [ids[i] for i in np.argsort(-row, kind="stable")[:50]]
    print(f"{len(ids)} passages, {a.train} + {a.test} queries encoded in {time.perf_counter() - start:.0f} s", flush=True)

    rows = []
    for q, of in splits["train"].items():
        pool = [p for p in ranked[q][1:30] if p not in of]
        rows.append({"query": queries[q], "pos": [passages[p] for p in sorted(of)], "neg": [passages[p] for p in rng.sample(pool, 7)]})
    write(os.path.join(a.work, "train.jsonl"), rows)
    pairs = [(q, p) for q in splits["test"] for p in ranked[q][: a.top]]
    write(os.path.join(a.work, "pairs.jsonl"), [{"query": queries[q], "passage": passages[p]} for q, p in pairs])

    out, scored = os.path.join(a.work, "teacher"), os.path.join(a.work, "scored.jsonl")
    flags = [w for k, v in FLAGS.items() for w in ("--" + k, str(v)) if "--" + k not in more] + more
    train = [a.bge, "finetune", "reranker.encoder_only.base", "--model_name_or_path", a.model, "--train_data", os.path.join(a.work, "train.jsonl")]
    start = time.perf_counter()
    subprocess.run([*train, "--output_dir", out, "--overwrite_output_dir", "--seed", str(a.seed), *flags], check=True)
    print(f"trained in {time.perf_counter() - start:.0f} s", flush=True)
    start = time.perf_counter()
    if os.path.exists(scored):
        os.remove(scored)
    rerank = [a.bge, "rerank", "--reranker_name_or_path", out, "--input_file", os.path.join(a.work, "pairs.jsonl"), "--output_file", scored]
    subprocess.run([*rerank, "--reranker_max_length", "224"], check=True)
    print(f"{len(pairs)} pairs scored in {time.perf_counter() - start:.0f} s", flush=True)

    score = {pair: row["score"] for pair, row in zip(pairs, lines(scored), strict=True)}
    table = []
    for q, of in splits["test"].items():
        top = ranked[q][: a.top]
        table.append((metrics(top, of), metrics(sorted(top, key=lambda p: -score[q, p]), of), bool(set(top) & of)))
    draw = np.random.default_rng(a.seed)
    for at, name in enumerate(("nDCG@10", "MRR@10")):
        before, after = (np.array([row[side][at] for row in table]) for side in (0, 1))
        gains = [np.mean((after - before)[draw.integers(0, len(table), len(table))]) for _ in range(2000)]
        low, high = np.quantile(gains, [0.025, 0.975])
        print(f"{name:8} embedder {before.mean():.4f}   reranked {after.mean():.4f}   gain {after.mean() - before.mean():+.4f} [{low:+.4f}, {high:+.4f}]")
    print(f"the passage is among the first {a.top} for {np.mean([row[2] for row in table]):.3f} of the queries")


if __name__ == "__main__":
    main()
