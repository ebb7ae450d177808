#!/usr/bin/env python3
"""Makes data/: a cut of SciFact that trains and evaluates in seconds.

    python make_data.py --scifact scifact

--scifact is a folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/train.tsv, qrels/test.tsv. The cut keeps
every judged document, the test claims with their judgments and the training claims that are not among them, and fills the corpus with documents that nobody judged, drawn
with --seed. The order of the documents is that of the whole. Needs Python 3.10 or later, nothing else.
"""

import argparse
import gzip
import json
import random
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scifact", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    documents = {row["_id"]: row for row in lines(args.scifact / "corpus.jsonl")}
    claims = {row["_id"]: row["text"] for row in lines(args.scifact / "queries.jsonl")}
    train, test = judgments(args.scifact / "qrels/train.tsv"), judgments(args.scifact / "qrels/test.tsv")

    judged = {document for _, document in train + test}
    others = [document for document in documents if document not in judged]
    keep = judged | set(random.Random(args.seed).sample(others, max(0, args.documents - len(judged))))

    write_lines(args.output / "corpus.jsonl.gz", [row for name, row in documents.items() if name in keep])
    asked = dict.fromkeys(claim for claim, _ in test)
    write_lines(args.output / "queries.jsonl", [{"_id": claim, "text": claims[claim]} for claim in asked])
    table = ["query-id\tcorpus-id\tscore"] + [f"{claim}\t{document}\t1" for claim, document in test]
    write(args.output / "qrels/test.tsv", "".join(line + "\n" for line in table))

    # Two training claims are test claims too, and two occur twice; `bge validate` tells.
    tested = {same(claims[claim]) for claim in asked}
    rows = {}
    for claim, document in train:
        if same(claims[claim]) in tested:
            continue
        text = (documents[document]["title"] + " " + documents[document]["text"]).strip()
        row = rows.setdefault(same(claims[claim]), {"query": claims[claim], "pos": [], "neg": []})
        if text not in row["pos"]:
            row["pos"].append(text)
    write_lines(args.output / "train.jsonl.gz", rows.values())

    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{len(keep)} documents ({len(judged)} judged), {len(rows)} claims to train on, {len(asked)} to test with")
    print(f"{args.output}: {size / 1e6:.2f} MB")


def same(text):
    return " ".join(text.casefold().split())


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judgments(path):
    rows = (line.split("\t") for line in path.read_text().splitlines()[1:])
    return [(claim, document) for claim, document, score in rows if int(score) > 0]


def write_lines(path, rows):
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    if path.suffix == ".gz":
        # No clock in the header: the same input gives the same file.
        data = gzip.compress(data, compresslevel=9, mtime=0)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
