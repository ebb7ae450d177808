"""Fine-tunes all-MiniLM-L6-v2 on SciFact with one engine and several seeds, and scores every result the same way.

usage: python benches/scifact_quality.py --engine peer|ours|base --data scifact --model DIR --work DIR --results benches/scifact_quality.json
       [--bge target/release/bge] [--seeds 1 2 3 4 5] [--pool N] [--max_length 256] [-- flags that replace or add to FLAGS]

--data is a BEIR-layout folder that also has train.jsonl in FlagEmbedding's form. Both engines get FLAGS and write a folder per seed
under --work; the vectors of every folder are then computed by sentence-transformers, so that only the training differs. Search is
exact over all documents (title and text joined), texts cut at --max_length tokens. A seed whose score is in --results already is skipped.
--pool N scores against the judged documents and N others only, which is quicker and easier for every model.
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

import sidebyside

FLAGS = {
    "train_group_size": 1,  # the rows have no negatives: those of the batch only
    "per_device_train_batch_size": 16,
    "num_train_epochs": 1,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "temperature": 0.05,
    "query_max_len": 64,
    "passage_max_len": 256,
    "sentence_pooling_method": "mean",
    "normalize_embeddings": True,
}


def words(flags):
    return [w for k, v in flags.items() for w in (f"--{k}", str(v))]


def train(engine, bge, model, data, seed, out, flags):
    flags = {"model_name_or_path": model, "train_data": os.path.join(data, "train.jsonl"), "output_dir": out, "seed": seed, "save_strategy": "no", **flags}
    if engine == "ours":
        command = [bge, "finetune", "encoder_only.base", *words(flags)]
    else:
        if "warmup_ratio" in flags:
            flags["warmup_steps"] = flags.pop("warmup_ratio")  # transformers 5: a share is a number of steps below 1
        flags.update(cache_path=out + ".cache", report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True, logging_steps=5)
        command = [sys.executable, "-m", "FlagEmbedding.finetune.embedder.encoder_only.base", *words(flags)]
    start = time.perf_counter()
    with open(out + ".log", "w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ, HF_HUB_OFFLINE="1", WANDB_MODE="disabled"))
    shutil.rmtree(out + ".cache", ignore_errors=True)
    return time.perf_counter() - start


def load(data, pool):
    judged = {}
    with open(os.path.join(data, "qrels", "test.tsv"), encoding="utf-8") as f:
        next(f)
        for line in f:
            query, document, score = line.split("\t")
            if int(score) > 0:
                judged.setdefault(query, {})[document] = int(score)
    queries = {q["_id"]: q["text"] for q in sidebyside.read_jsonl(os.path.join(data, "queries.jsonl")) if q["_id"] in judged}
    corpus = {d["_id"]: ((d.get("title") or "") + " " + d["text"]).strip() for d in sidebyside.read_jsonl(os.path.join(data, "corpus.jsonl"))}
    if pool:
        keep = {d for j in judged.values() for d in j}
        keep.update(random.Random(3).sample(sorted(set(corpus) - keep), pool))
        corpus = {k: v for k, v in corpus.items() if k in keep}
    return judged, queries, corpus


def score(folder, max_length, judged, queries, corpus):
    """nDCG@10, MRR@10 and recall, with trec_eval's linear gain and its order of ties (score, then id, both falling)."""
    import numpy as np
    from sentence_transformers import SentenceTransformer, models

    body = models.Transformer(folder, max_seq_length=max_length)
    head = models.Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    engine = SentenceTransformer(modules=[body, head, models.Normalize()], device="cpu")
    names = np.array(sorted(corpus, reverse=True))
    d = engine.encode([corpus[n] for n in names], batch_size=32)
    q = engine.encode(list(queries.values()), batch_size=32)
    sims = q.astype(np.float32) @ d.astype(np.float32).T
    out = {"ndcg_at_10": [], "mrr_at_10": [], "recall_at_10": [], "recall_at_100": []}
    for row, query in zip(sims, queries):
        top = names[np.argsort(-row, kind="stable")[:100]]
        gains = [judged[query].get(n, 0) for n in top]
        ideal = sorted(judged[query].values(), reverse=True)
        dcg = lambda g: sum(x / np.log2(i + 2) for i, x in enumerate(g[:10]))
        out["ndcg_at_10"].append(dcg(gains) / dcg(ideal))
        out["mrr_at_10"].append(next((1 / (i + 1) for i, x in enumerate(gains[:10]) if x), 0.0))
        for k in (10, 100):
            out[f"recall_at_{k}"].append(sum(x > 0 for x in gains[:k]) / len(ideal))
    return {k: float(np.mean(v)) for k, v in out.items()}


def table(results):
    lines = ["| engine | seeds | nDCG@10, mean | spread (sample s.d.) | lowest | highest | recall@10 | recall@100 |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for engine in ("base", "peer", "ours"):
        runs = list(results.get(engine, {}).values())
        if runs:
            n = [r["ndcg_at_10"] for r in runs]
            mean = lambda k: statistics.mean(r[k] for r in runs)
            spread = f"{statistics.stdev(n):.4f}" if len(n) > 1 else "-"
            lines.append(f"| {engine} | {len(n)} | {mean('ndcg_at_10'):.4f} | {spread} | {min(n):.4f} | {max(n):.4f} | {mean('recall_at_10'):.4f} | {mean('recall_at_100'):.4f} |")
    return "\n".join(lines)


def main():
    arguments, extra = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    ap = argparse.ArgumentParser()
    ap.add_argument("--engine", required=True, choices=["peer", "ours", "base"])
    ap.add_argument("--data", required=True)
    ap.add_argument("--model", required=True)
    ap.add_argument("--work", required=True)
    ap.add_argument("--results", required=True)
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    ap.add_argument("--pool", type=int, default=0)
    ap.add_argument("--max_length", type=int, default=256)
    a = ap.parse_args(arguments)
    flags = {**FLAGS, **dict(zip([w.removeprefix("--") for w in extra[::2]], extra[1::2], strict=True))}
    os.makedirs(a.work, exist_ok=True)
    results = {"flags": flags, "pool": a.pool, "max_length": a.max_length}
    if os.path.exists(a.results):
        with open(a.results, encoding="utf-8") as f:
            results = json.load(f)
        if (results["pool"], results["max_length"]) != (a.pool, a.max_length) or (a.engine != "base" and results["flags"] != flags):
            sys.exit(f"{a.results} holds results of other settings: {results['flags']}")
    test = load(a.data, a.pool)
    for seed in [0] if a.engine == "base" else a.seeds:
        done = results.setdefault(a.engine, {})
        if str(seed) in done:
            continue
        folder, secs = a.model, 0.0
        if a.engine != "base":
            folder = os.path.join(os.path.abspath(a.work), f"{a.engine}-{seed}")
            shutil.rmtree(folder, ignore_errors=True)
            secs = train(a.engine, a.bge, a.model, a.data, seed, folder, flags)
        start = time.perf_counter()
        done[str(seed)] = {**score(folder, a.max_length, *test), "train_secs": round(secs, 1), "score_secs": round(time.perf_counter() - start, 1)}
        print(a.engine, seed, done[str(seed)], file=sys.stderr, flush=True)
        with open(a.results, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
            f.write("\n")
    print(table(results))


if __name__ == "__main__":
    main()
