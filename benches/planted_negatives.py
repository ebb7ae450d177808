"""How many planted false negatives each way of mining lets through, on scifact.

usage: python benches/planted_negatives.py --bge target/release/bge --model DIR --data shared/data/scifact [--reranker DIR]
       [--share 0.2] [--seed 7] [--threads 2] [--pooling mean] [--json FILE]

For a seeded share of the training rows a near-duplicate of a positive (words dropped, swapped, written in other case) is put
into the candidate pool. It says what the positive says, so as a negative it is false. Each way is one `bge mine`; all share the
vectors. Columns: rows that got a planted text of their own positives as a negative, the share of all rows with one in the pool;
negatives a row; and the mean rank of the negatives, which says how hard they are. Standard library only.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

import sidebyside


def near_duplicate(text, rng):
    """Drops, swaps and changes the case of a tenth of the words each."""
    words = [w for w in text.split() if rng.random() > 0.1]
    for i in range(len(words) - 1):
        if rng.random() < 0.1:
            words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(rng.choice([w.upper(), w.capitalize(), w.lower()]) if rng.random() < 0.1 else w for w in words)


def plant(rows, docs, share, seed):
    """The pool with planted texts, and for each row the planted texts that come from its positives."""
    rng = random.Random(seed)
    chosen = sorted(rng.sample(range(len(rows)), round(share * len(rows))))
    of_positive = {}
    for i in chosen:
        positive = rng.choice(rows[i]["pos"])
        of_positive.setdefault(positive, near_duplicate(positive, rng))
    pool = [{"_id": d["_id"], "text": ((d.get("title") or "") + " " + d["text"]).strip()} for d in docs]
    pool += [{"_id": f"planted-{n}", "text": text} for n, text in enumerate(of_positive.values())]
    rng.shuffle(pool)
    own = [{of_positive[p] for p in row["pos"] if p in of_positive} for row in rows]
    return pool, own


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--model", required=True)
    ap.add_argument("--data", required=True, help="a folder with train.jsonl and corpus.jsonl")
    ap.add_argument("--reranker", help="a cross-encoder; without it the last rows are left out")
    ap.add_argument("--share", type=float, default=0.2)
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--pooling", default="mean")
    ap.add_argument("--passage_max_length", type=int, default=256)
    ap.add_argument("--negatives", type=int, default=7)
    ap.add_argument("--json")
    args = ap.parse_args()

    rows = sidebyside.read_jsonl(os.path.join(args.data, "train.jsonl"))
    docs = sidebyside.read_jsonl(os.path.join(args.data, "corpus.jsonl"))
    pool, own = plant(rows, docs, args.share, args.seed)
    concerned = sum(1 for texts in own if texts)
    top = ["--sampling_strategy", "top"]
    ways = [
        ("window 10-210, random (upstream's default)", ["--range_for_sampling", "10-210"]),
        ("window 0-50, random", ["--range_for_sampling", "0-50"]),
        ("window 0-50, top", ["--range_for_sampling", "0-50", *top]),
        ("absolute_margin 0.05, top", ["--range_for_sampling", "0-50", "--absolute_margin", "0.05", *top]),
        ("relative_margin 0.05, top", ["--range_for_sampling", "0-50", "--relative_margin", "0.05", *top]),
        ("relative_margin 0.2, top", ["--range_for_sampling", "0-50", "--relative_margin", "0.2", *top]),
    ]
    if args.reranker:
        teacher = ["--reranker_name_or_path", args.reranker, "--range_for_sampling", "0-50", *top]
        ways += [
            ("cross-encoder, relative_margin 0.05, top", [*teacher, "--relative_margin", "0.05"]),
            ("cross-encoder, relative_margin 0.5, top", [*teacher, "--relative_margin", "0.5"]),
        ]
    table = []
    with tempfile.TemporaryDirectory() as work:
        place = lambda name: os.path.join(work, name)
        for name, content in [("rows.jsonl", rows), ("pool.jsonl", pool)]:
            with open(place(name), "w", encoding="utf-8") as f:
                f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        for name, flags in ways:
            command = [args.bge, "mine", "--embedder_name_or_path", args.model, "--pooling_method", args.pooling, "--input_file", place("rows.jsonl")]
            command += ["--candidate_pool", place("pool.jsonl"), "--output_file", place("out.jsonl"), "--ledger", place("ledger.jsonl")]
            command += ["--corpus_embd_save_dir", place("vectors"), "--negative_number", str(args.negatives), "--threads", str(args.threads), "--json"]
            command += ["--embedder_passage_max_length", str(args.passage_max_length), *flags]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
            report = sidebyside.last_json(done.stdout)
            mined = sidebyside.read_jsonl(place("out.jsonl"))
            through = sum(1 for row, texts in zip(mined, own) if texts & set(row["neg"]))
            ranks = [line["rank"] for line in sidebyside.read_jsonl(place("ledger.jsonl"))[1:] if line["verdict"] == "chosen"]
            table.append(
                {
                    "way": name,
                    "rows_let_through": through,
                    "share_let_through": round(through / concerned, 4),
                    "negatives_a_row": round(report["negatives"] / report["rows"], 2),
                    "mean_rank": round(statistics.mean(ranks), 1) if ranks else None,
                }
            )
            print(f"{name}: {through} of {concerned}", file=sys.stderr)
    print(f"\n{len(rows)} rows, {len(pool)} texts; {concerned} rows have a planted false negative in the pool\n")
    print("| way | rows with a planted false negative | share | negatives a row | mean rank |\n| --- | --- | --- | --- | --- |")
    for line in table:
        print(f"| {line['way']} | {line['rows_let_through']} | {line['share_let_through']:.1%} | {line['negatives_a_row']} | {line['mean_rank']} |")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"rows": len(rows), "texts": len(pool), "concerned": concerned, "ways": table}, f, indent=1)


main()
