#!/usr/bin/env python3
"""Makes teacher/: a small cross-encoder for scientific texts, trained with bge itself.

    python make_teacher.py --scifact scifact --bge ../../target/release/bge

It is a BERT of three layers, 160 wide, with the word pieces of model/. A cross-encoder that starts from random weights needs hundreds
of thousands of pairs to find out that equal words matter. This one starts with that knowledge: its first layer lets a token attend to
its like in the other text and notes whether there was one; its last layer lets [CLS] add the notes of the query up, rare pieces
first. The rest starts as small random numbers, the word embeddings as the principal components of model/'s.

It learns from lessons of SciFact's abstracts alone: a title asks for its abstract, a sentence for the abstract it was taken out of.
Other abstracts are ranked by BM25 and model/'s cosine together, weighted so that the two predict the right abstract best (a
logistic regression over the lessons); these scores are the teacher's own teacher. No claim of SciFact is among the lessons.

--check ranks the first --top abstracts that model/ finds for claims of train.jsonl.gz, with each of the signals and with the result.
Needs Python 3.10 or later with numpy and safetensors. A seed fixes all random draws.
"""

import argparse
import gzip
import json
import math
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from make_model import cut_word, lines, run, short, split_words, write_json
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
HEAD = 32  # the width of an attention head
SEGMENT, MATCH, RARITY, SCORE = range(4)  # what the first dimensions mean at the start; words have the others


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scifact", type=Path, required=True, help="SciFact in BEIR's layout")
    parser.add_argument("--bge", default="bge", help="the bge program")
    parser.add_argument("--work", type=Path, default=Path("teacher-work"), help="a folder for what lies between")
    parser.add_argument("--output", type=Path, default=HERE / "teacher")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--group", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--claims", type=int, default=200)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--check", type=Path, help="rank claims with this cross-encoder, train nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    pieces = json.loads((HERE / "model/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    if args.check:
        return check(args, pieces)

    documents = lines(args.scifact / "corpus.jsonl")
    start, trained, data = args.work / "start", args.work / "trained", args.work / "lessons.jsonl"
    make_start(args, pieces, documents, start)
    if not data.exists():
        make_lessons(args, pieces, documents, data)
    # fmt: off
    run(args.bge, "finetune", "reranker.encoder_only.base", "--model_name_or_path", start, "--train_data", data,
        "--output_dir", trained, "--overwrite_output_dir", "True", "--knowledge_distillation", "True",
        "--train_group_size", args.group, "--query_max_len", "48", "--passage_max_len", "128",
        "--per_device_train_batch_size", "16", "--num_train_epochs", args.epochs,
        "--learning_rate", args.learning_rate, "--warmup_ratio", "0.1", "--weight_decay", "0.01",
        "--logging_steps", "20", "--save_strategy", "no", "--seed", args.seed)
    # fmt: on
    finish(trained, args.output)


# --- The start: a model that matches words ---


def make_start(args, pieces, documents, folder):
    draw = np.random.default_rng(args.seed)
    width, inner, words = args.width, 2 * args.width, args.width - 4
    small = lambda *shape: draw.normal(0, 0.02, shape).astype(np.float32)
    weights = {}
    counts = Counter(piece for d in documents for word in set(split_words(d["text"])) for piece in set(cut_word(word, pieces)))
    rarity = np.array([math.log(len(documents) / (0.5 + counts[piece])) for piece in sorted(pieces, key=pieces.get)])
    old = load_file(HERE / "model/model.safetensors")["embeddings.word_embeddings.weight"].astype(np.float64)
    old -= old.mean(axis=0)
    _, size, axes = np.linalg.svd(old, full_matrices=False)
    table = (old @ axes[:words].T) / np.sqrt(size[:words])
    table *= math.sqrt(words) / np.linalg.norm(table, axis=1, keepdims=True)
    embeddings = np.zeros((len(pieces), width))
    embeddings[:, 4:] = table
    embeddings[:, RARITY] = (rarity - rarity.mean()) / rarity.std()
    segments = np.zeros((2, width))
    segments[:, SEGMENT] = [3, -3]
    weights["embeddings.word_embeddings.weight"] = embeddings
    weights["embeddings.position_embeddings.weight"] = small(256, width)
    weights["embeddings.token_type_embeddings.weight"] = segments

    def norm(name):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(width), np.zeros(width)

    def linear(name, rows, columns):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = small(rows, columns), np.zeros(rows)

    norm("embeddings.LayerNorm")
    for index in range(args.layers):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", inner, width)
        linear(f"{layer}.output.dense", width, inner)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", width, width)
    linear("classifier", 1, width)

    # The first layer: every head but the last compares tokens along its own directions, and prefers the other text. What a
    # token attends to says on which side its like stands.
    first = "encoder.layer.0.attention"
    directions = np.linalg.qr(draw.normal(size=(words, words)))[0]
    heads = width // HEAD - 1
    sharp = math.sqrt(0.6 * math.sqrt(HEAD))
    for head in range(heads):
        at = head * HEAD
        for part, sign in (("query", -1), ("key", 1)):
            rows = weights[f"{first}.self.{part}.weight"]
            rows[at : at + HEAD - 1, 4:] = sharp * directions[head * (HEAD - 1) : (head + 1) * (HEAD - 1)]
            rows[at + HEAD - 1] = 0
            rows[at + HEAD - 1, SEGMENT] = sign * 0.53 * math.sqrt(math.sqrt(HEAD))
        weights[f"{first}.self.value.weight"][at, SEGMENT] = 1
        weights[f"{first}.output.dense.weight"][MATCH, at] = -1.3 / heads
    # The last layer: the first head of every token looks at the query's tokens, rare ones first, and notes how many have their like.
    last = f"encoder.layer.{args.layers - 1}.attention"
    weights[f"{last}.self.query.weight"][0] = 0
    weights[f"{last}.self.query.bias"][0] = math.sqrt(HEAD)
    weights[f"{last}.self.key.weight"][0] = 0
    weights[f"{last}.self.key.weight"][0, [SEGMENT, RARITY]] = [2, 1]
    weights[f"{last}.self.value.weight"][0, MATCH] = 1
    weights[f"{last}.output.dense.weight"][SCORE, 0] = 1
    weights["pooler.dense.weight"][0, SCORE] = 0.3
    weights["classifier.weight"][0, 0] = 6

    folder.mkdir(parents=True, exist_ok=True)
    prefix = lambda name: name if name.startswith("classifier") else "bert." + name
    save_file({prefix(n): np.ascontiguousarray(v, dtype=np.float32) for n, v in weights.items()}, folder / "model.safetensors")
    config = json.loads((HERE / "model/config.json").read_text())
    config |= {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": width // HEAD}
    config |= {"num_hidden_layers": args.layers, "architectures": ["BertForSequenceClassification"], "torch_dtype": "float32"}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    write_json(folder / "config.json", config, indent=2)
    shutil.copyfile(HERE / "model/tokenizer.json", folder / "tokenizer.json")


# --- The lessons ---


class Words:
    """BM25 over word pieces, k1 0.9 and b 0.4."""

    def __init__(self, pieces, passages):
        self.pieces, self.cut = pieces, {}
        counts = [Counter(self.split(text)) for text in passages]
        lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
        places = {}
        for index, count in enumerate(counts):
            for piece, times in count.items():
                places.setdefault(piece, []).append((index, times))
        self.size, self.weights = len(passages), {}
        for piece, found in places.items():
            at, times = np.array([index for index, _ in found]), np.array([times for _, times in found], dtype=np.float64)
            rarity = math.log(1 + (len(passages) - len(found) + 0.5) / (len(found) + 0.5))
            weight = rarity * times * 1.9 / (times + 0.9 * (0.6 + 0.4 * lengths[at] / lengths.mean()))
            self.weights[piece] = (at, weight)

    def split(self, text):
        out = []
        for word in split_words(text)[:160]:
            if word not in self.cut:
                self.cut[word] = cut_word(word, self.pieces)
            out += self.cut[word]
        return out

    def scores(self, query):
        total = np.zeros(self.size)
        for piece in self.split(query):
            if piece in self.weights:
                at, weight = self.weights[piece]
                total[at] += weight
        return total


def signals(args, name, pieces, queries, passages):
    """BM25 and cosine of every query with every passage."""
    index = Words(pieces, passages)
    lexical = np.stack([index.scores(query) for query in queries]).astype(np.float32)
    cosine = encode(args, f"{name}-queries", queries, 48) @ encode(args, f"{name}-passages", passages, 128).T
    return lexical, cosine


def encode(args, name, texts, length):
    source, vectors = args.work / f"{name}.jsonl", args.work / f"{name}.npy"
    with open(source, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    # fmt: off
    run(args.bge, "encode", "--embedder_name_or_path", HERE / "model", "--input_file", source, "--output_file", vectors,
        "--role", "passage", "--embedder_passage_max_length", length)
    # fmt: on
    return np.load(vectors)


def make_lessons(args, pieces, documents, output):
    draw = random.Random(args.seed)
    queries, passages = [], []
    for index, document in enumerate(documents):
        sentences = [s for s in re.split(r"(?<=[.!?]) (?=[A-Z])", document["text"]) if 40 <= len(s) <= 300]
        text = document["text"]
        if len(sentences) > 2:
            sentence = draw.choice(sentences)
            text = text.replace(sentence, "", 1)
            queries.append((sentence, index))
        if draw.random() < 0.5:
            queries.append((document["title"], index))
        else:
            text = document["title"] + " " + text
        passages.append(" ".join(text.split()))
    lexical, cosine = signals(args, "lessons", pieces, [query for query, _ in queries], passages)
    right = np.array([index for _, index in queries])
    groups, features = [], []
    for row, (_, positive) in enumerate(queries):
        near = [int(i) for i in np.argsort(-(lexical[row] + 30 * cosine[row]), kind="stable")[:40] if i != positive]
        negatives = draw.sample(near[:8], 4) + draw.sample(near[8:], 2)
        far = draw.randrange(len(passages))
        groups.append([positive, *negatives, *([far] if far != positive and far not in near else [])])
        features.append([(lexical[row, i], cosine[row, i]) for i in [positive, *near]])
    weights = fit(features)
    fused = weights[0] * lexical + weights[1] * cosine
    for name, scores in (("BM25", lexical), ("cosine", cosine), ("both", fused)):
        ranks = (scores > scores[np.arange(len(right)), right][:, None]).sum(axis=1)
        print(f"{len(queries)} lessons, {name}: the right abstract is first for {(ranks == 0).mean():.3f}")
    rows = []
    for row, ((query, _), group) in enumerate(zip(queries, groups, strict=True)):
        scores = [round(float(fused[row, i]), 4) for i in group]
        texts = [passages[i] for i in group]
        rows.append({"query": query, "pos": texts[:1], "neg": texts[1:], "pos_scores": scores[:1], "neg_scores": scores[1:]})
    draw.shuffle(rows)
    with open(output, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_json(args.work / "weights.json", weights.tolist())


def fit(features):
    """The weights of the signals with which a softmax over the candidates predicts the first of them best: Newton's method."""
    weights, size = np.zeros(2), max(len(f) for f in features)
    table = np.full((len(features), size, 2), np.nan)
    for row, found in enumerate(features):
        table[row, : len(found)] = found
    known = ~np.isnan(table[:, :, 0])
    table = np.nan_to_num(table)
    scale = table[known].std(axis=0)
    table /= scale

    def loss(weights):
        scores = np.where(known, table @ weights, -np.inf)
        most = scores.max(axis=1)
        return (most + np.log(np.exp(scores - most[:, None]).sum(axis=1)) - scores[:, 0]).mean()

    for _ in range(30):
        scores = np.where(known, table @ weights, -np.inf)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        mean = (shares[:, :, None] * table).sum(axis=1)
        slope = (table[:, 0] - mean).mean(axis=0)
        apart = table - mean[:, None]
        bend = np.einsum("qc,qci,qcj->ij", shares, apart, apart) / len(features) + 1e-6 * np.eye(2)
        step = np.linalg.solve(bend, slope)
        while loss(weights + step) > loss(weights) and np.abs(step).max() > 1e-6:
            step /= 2  # a whole step from afar goes too far
        weights = weights + step
    weights /= scale
    print(f"weights: BM25 {weights[0]:.3f}, cosine {weights[1]:.3f}")
    return weights


# --- Does it know more than its pupil? ---


def check(args, pieces):
    documents = [json.loads(line) for line in gzip.open(HERE / "data/corpus.jsonl.gz", "rt", encoding="utf-8")]
    claims = [json.loads(line) for line in gzip.open(HERE / "data/train.jsonl.gz", "rt", encoding="utf-8")]
    claims = random.Random(args.seed).sample(claims, args.claims)
    passages = [(d["title"] + " " + d["text"]).strip() for d in documents]
    lexical, cosine = signals(args, "check", pieces, [claim["query"] for claim in claims], passages)
    weights = json.loads((args.work / "weights.json").read_text())
    fused = weights[0] * lexical + weights[1] * cosine
    tops = np.argsort(-cosine, axis=1, kind="stable")[:, : args.top]
    pairs, scored = args.work / "pairs.jsonl", args.work / "pairs-scored.jsonl"
    with open(pairs, "w", encoding="utf-8") as file:
        for claim, top in zip(claims, tops, strict=True):
            file.writelines(json.dumps({"query": claim["query"], "passage": passages[i]}, ensure_ascii=False) + "\n" for i in top)
    scored.unlink(missing_ok=True)
    # fmt: off
    run(args.bge, "rerank", "--reranker_name_or_path", args.check, "--input_file", pairs, "--output_file", scored,
        "--reranker_max_length", "176")
    # fmt: on
    own = np.array([row["score"] for row in lines(scored)]).reshape(tops.shape)
    at = np.arange(len(claims))[:, None]
    signs = {"model/": cosine[at, tops], "BM25": lexical[at, tops], "both": fused[at, tops], "teacher": own}
    for name, scores in signs.items():
        values = []
        for claim, top, row in zip(claims, tops, scores, strict=True):
            gains = [passages[top[i]] in claim["pos"] for i in np.argsort(-row, kind="stable")[:10]]
            ideal = sum(1 / math.log2(i + 2) for i in range(min(10, len(claim["pos"]))))
            values.append(sum(gain / math.log2(i + 2) for i, gain in enumerate(gains)) / ideal)
        print(f"{name:8} nDCG@10 of the first {args.top}: {np.mean(values):.4f}")


# --- The end: half precision ---


def finish(trained, output):
    output.mkdir(parents=True, exist_ok=True)
    weights = load_file(trained / "model.safetensors")
    save_file({name: short(value, 5) for name, value in weights.items()}, output / "model.safetensors")
    config = json.loads((trained / "config.json").read_text()) | {"torch_dtype": "float16"}
    write_json(output / "config.json", config, indent=2)
    shutil.copy(trained / "tokenizer.json", output)
    size = (output / "model.safetensors").stat().st_size
    print(f"{output}: {sum(value.size for value in weights.values())} parameters, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
