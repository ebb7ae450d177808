"""The whole `bge mine` against FlagEmbedding's hn_mine.py with faiss-cpu, in turn on the same rows: time and peak memory.

usage: python benches/mine_speed.py --bge target/release/bge --model DIR --train FILE --corpus FILE [--rows 0] [--docs 0] [--pairs 3]
       [--threads 2] [--batch_size 256] [--pooling mean] [--max_length 256] [--grow 1] [--json FILE]

Run it with the Python of benches/peer_setup.sh. Each run is a process of its own on the first --threads cores, timed from start to
end: imports, loading, encoding, search, writing. hn_mine.py is not in the wheel; `peer` below does what it does (whole corpus and all
queries in memory, IndexFlatIP, 64 queries a search, window, filter, draw, top-up). Its default batch of 3,000 texts is slower on a
CPU, so both get --batch_size. `same_windows` is the share of rows for which both engines have the same candidates.
With --grow 10 only ours is run, on a pool of ten times as many texts too, to see what memory does.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time

import sidebyside


def peer(model, rows_file, pool_file, out, span, number, batch_size, pooling, max_length, threads):
    """Child process: hn_mine.py's steps."""
    import faiss
    import numpy as np
    import torch
    from FlagEmbedding import FlagModel

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    start, end = (int(x) for x in span.split("-"))
    with open(rows_file, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    with open(pool_file, encoding="utf-8") as f:
        corpus = list(dict.fromkeys(json.loads(line)["text"] for line in f))
    engine = FlagModel(
        model, pooling_method=pooling, use_fp16=False, devices="cpu", batch_size=batch_size, query_max_length=max_length, passage_max_length=max_length
    )
    passages = np.asarray(engine.encode_corpus(corpus), dtype=np.float32)
    queries = np.asarray(engine.encode_queries([row["query"] for row in rows]), dtype=np.float32)
    index = faiss.IndexFlatIP(passages.shape[1])
    index.add(passages)
    hits = []
    for i in range(0, len(queries), 64):
        hits.extend(index.search(queries[i : i + 64], end)[1].tolist())
    rng = random.Random(42)
    for row, ids in zip(rows, hits):
        found = []
        for i in ids[start:end]:
            if i < 0:
                break
            if corpus[i] not in row["pos"] and corpus[i] != row["query"]:
                found.append(corpus[i])
        row["neg"] = rng.sample(found, number) if len(found) > number else found
        if len(row["neg"]) < number:
            more = rng.sample(corpus, number - len(row["neg"]) + len(row["pos"]))
            row["neg"] += [t for t in more if t not in row["pos"]][: number - len(row["neg"])]
    with open(out, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main():
    if sys.argv[1:2] == ["--child"]:
        model, rows, pool, out, span, number, batch_size, pooling, max_length, threads = sys.argv[2:]
        return peer(model, rows, pool, out, span, int(number), int(batch_size), pooling, int(max_length), int(threads))
    ap = argparse.ArgumentParser()
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--model", required=True)
    ap.add_argument("--train", required=True, help="JSONL with `query` and `pos`, also .gz")
    ap.add_argument("--corpus", required=True, help="JSONL with `text` and perhaps `title`, also .gz")
    ap.add_argument("--rows", type=int, default=0, help="use only so many rows")
    ap.add_argument("--docs", type=int, default=0, help="use only so many documents")
    ap.add_argument("--pairs", type=int, default=3)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--batch_size", type=int, default=256)
    ap.add_argument("--pooling", default="mean")
    ap.add_argument("--max_length", type=int, default=256)
    ap.add_argument("--range", default="10-210")
    ap.add_argument("--number", type=int, default=15)
    ap.add_argument("--grow", type=int, default=1)
    ap.add_argument("--json")
    args = ap.parse_args()

    rows = sidebyside.read_jsonl(args.train)
    docs = sidebyside.read_jsonl(args.corpus)
    rows, docs = rows[: args.rows or None], docs[: args.docs or None]
    with tempfile.TemporaryDirectory() as work:
        place = lambda name: os.path.join(work, name)

        def write(name, items):
            with open(place(name), "w", encoding="utf-8") as f:
                f.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)

        texts = [((d.get("title") or "") + " " + d["text"]).strip() for d in docs]
        write("rows.jsonl", [{"query": r["query"], "pos": r["pos"], "neg": []} for r in rows])
        write("pool.jsonl", [{"text": t} for t in texts])

        def ours(pool, out, number, more=()):
            return [
                args.bge, "mine", "--embedder_name_or_path", args.model, "--pooling_method", args.pooling, "--input_file", place("rows.jsonl"),
                "--candidate_pool", place(pool), "--output_file", place(out), "--range_for_sampling", args.range, "--negative_number", str(number),
                "--batch_size", str(args.batch_size), "--embedder_query_max_length", str(args.max_length),
                "--embedder_passage_max_length", str(args.max_length), "--threads", str(args.threads), *more,
            ]  # fmt: skip

        def theirs(out, number):
            words = [args.model, place("rows.jsonl"), place("pool.jsonl"), place(out), args.range, number, args.batch_size, args.pooling]
            return [sys.executable, os.path.abspath(__file__), "--child", *map(str, words), str(args.max_length), str(args.threads)]

        def timed(command):
            begin = time.perf_counter()
            _, memory = sidebyside.run(command, args.threads)
            return time.perf_counter() - begin, memory

        result = {"machine": sidebyside.machine(), "threads": args.threads, "rows": len(rows), "texts": len(texts)}
        if args.grow > 1:
            rng = random.Random(3)
            words = [t.split() for t in texts]
            # Short texts, so that it is about memory: a part of one document and a part of another.
            grown = lambda n: [{"text": " ".join(rng.choice(words)[:12] + rng.choice(words)[-12:]) + f" {i}"} for i in range(n)]
            for name, count in [("small", len(texts)), ("large", args.grow * len(texts))]:
                write("grown.jsonl", grown(count))
                secs, memory = timed(ours("grown.jsonl", "grown_out.jsonl", args.number))
                result[name] = {"texts": count, "secs": round(secs, 2), "peak_mib": round(memory)}
        else:
            seconds, memories = {"ours": [], "peer": []}, {"ours": 0, "peer": 0}
            for pair in range(args.pairs):
                turn = [("ours", ours("pool.jsonl", "ours.jsonl", args.number)), ("peer", theirs("peer.jsonl", args.number))]
                for name, command in turn if pair % 2 == 0 else turn[::-1]:
                    secs, memory = timed(command)
                    seconds[name].append(secs)
                    memories[name] = max(memories[name], round(memory))
                    print(f"{name}: {secs:.1f} s, {memory:.0f} MiB", file=sys.stderr)
            # Everything in the window instead of a draw from it, to compare.
            start, end = (int(x) for x in args.range.split("-"))
            sidebyside.run(ours("pool.jsonl", "ours.jsonl", end - start), args.threads)
            sidebyside.run(theirs("peer.jsonl", end - start), args.threads)
            same = 0
            for a, b in zip(sidebyside.read_jsonl(place("ours.jsonl")), sidebyside.read_jsonl(place("peer.jsonl"))):
                same += set(a["neg"]) == set(b["neg"][: len(a["neg"])])  # behind its window the peer fills with random texts
            ratios = [p / o for o, p in zip(seconds["ours"], seconds["peer"])]
            result |= {
                "ours_secs": sidebyside.summary(seconds["ours"]),
                "peer_secs": sidebyside.summary(seconds["peer"]),
                "ratio": sidebyside.summary(ratios),
                "peak_mib": memories,
                "same_windows": round(same / len(rows), 4),
            }
    print(json.dumps(result, indent=1))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


main()
