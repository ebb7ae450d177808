#!/usr/bin/env python3
"""Makes model/: a small English text-embedding model, distilled from all-MiniLM-L6-v2 with bge itself.

    python make_model.py --teacher all-MiniLM-L6-v2 --scifact scifact --squad squad --bge ../../target/release/bge

The student is a BERT of two layers, 384 wide. It starts as a piece of its teacher: two of its six layers, the half of
their feed-forward neurons with the largest weights, and the rows of the word pieces that English science and
Wikipedia use most. It is then trained to rank as its teacher does: `bge encode` gives the teacher's vectors,
and `bge finetune --knowledge_distillation True` learns their similarities.

It sees titles and sentences of SciFact's abstracts and SQuAD's training questions, never a claim of SciFact, so that
training on SciFact's claims starts from a model that does not know them.

Needs Python 3.10 or later with numpy and safetensors (made with 3.11, numpy 2.4, safetensors 0.8). --scifact and
--squad are folders in BEIR's layout. A seed fixes all random draws; the training itself is as repeatable as bge is.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FILES = ["config.json", "tokenizer.json", "model.safetensors", "modules.json", "1_Pooling/config.json"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--scifact", type=Path, required=True, help="SciFact in BEIR's layout")
    parser.add_argument("--squad", type=Path, required=True, help="SQuAD in BEIR's layout, with qrels/train.tsv")
    parser.add_argument("--bge", default="bge", help="the bge program")
    parser.add_argument("--work", type=Path, default=Path("quickstart-work"), help="a folder for what lies between")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 5], help="the teacher's layers to keep")
    parser.add_argument("--neurons", type=int, default=768, help="feed-forward neurons to keep in each layer")
    parser.add_argument("--vocabulary", type=int, default=5000, help="word pieces to keep")
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--length", type=int, default=64, help="tokens of a passage that teacher and student see")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--start_only", action="store_true", help="stop before the training")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    start = args.work / "start"
    make_start(args, start)
    if args.start_only:
        return
    data = args.work / "distil.jsonl"
    if not data.exists():
        make_data(args, data)
    trained = args.work / "trained"
    # fmt: off
    run(args.bge, "finetune", "encoder_only.base", "--model_name_or_path", start, "--train_data", data,
        "--output_dir", trained, "--overwrite_output_dir", "True", "--knowledge_distillation", "True",
        "--kd_loss_type", "kl_div", "--temperature", "0.02", "--train_group_size", "4", "--query_max_len", "48",
        "--passage_max_len", args.length, "--sentence_pooling_method", "mean", "--normalize_embeddings", "True",
        "--per_device_train_batch_size", args.batch, "--max_steps", args.steps,
        "--learning_rate", args.learning_rate, "--warmup_ratio", "0.05", "--weight_decay", "0.01",
        "--logging_steps", "20", "--save_strategy", "no", "--seed", args.seed)
    # fmt: on
    finish(trained, args.output)


def run(*words):
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# --- The start: a piece of the teacher ---


def make_start(args, folder):
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((args.teacher / "tokenizer.json").read_text(encoding="utf-8"))
    old = tokenizer["model"]["vocab"]
    pieces = choose_pieces(args, old)
    new = {piece: index for index, piece in enumerate(pieces)}
    tokenizer["model"]["vocab"] = new
    for token in tokenizer["added_tokens"]:
        token["id"] = new[token["content"]]
    for name, token in tokenizer["post_processor"]["special_tokens"].items():
        token["ids"] = [new[name]]
    write_json(folder / "tokenizer.json", tokenizer)

    weights = load_file(args.teacher / "model.safetensors")
    student = {}
    for name, value in weights.items():
        layer = re.match(r"encoder\.layer\.(\d+)\.", name)
        if layer is None and name.startswith("embeddings.") and "position_ids" not in name:
            student[name] = value
        elif layer and int(layer[1]) in args.layers:
            index = args.layers.index(int(layer[1]))
            student[name.replace(layer[0], f"encoder.layer.{index}.")] = value
    rows = [old[piece] for piece in pieces]
    words, positions = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    student[words] = student[words][rows]
    student[positions] = student[positions][: args.positions]
    for index in range(len(args.layers)):
        inner, outer = f"encoder.layer.{index}.intermediate.dense", f"encoder.layer.{index}.output.dense"
        size = np.linalg.norm(student[f"{inner}.weight"], axis=1) * np.linalg.norm(student[f"{outer}.weight"], axis=0)
        keep = np.sort(np.argsort(-size, kind="stable")[: args.neurons])
        student[f"{inner}.weight"] = student[f"{inner}.weight"][keep]
        student[f"{inner}.bias"] = student[f"{inner}.bias"][keep]
        student[f"{outer}.weight"] = student[f"{outer}.weight"][:, keep]
    save_file({name: np.ascontiguousarray(value) for name, value in student.items()}, folder / "model.safetensors")

    config = json.loads((args.teacher / "config.json").read_text())
    for key in ["_name_or_path", "gradient_checkpointing", "transformers_version", "use_cache"]:
        config.pop(key, None)
    config |= {
        "num_hidden_layers": len(args.layers),
        "intermediate_size": args.neurons,
        "vocab_size": len(pieces),
        "max_position_embeddings": args.positions,
        "pad_token_id": new["[PAD]"],
        # A small student of a large teacher does not overfit.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    write_json(folder / "config.json", config, indent=2)
    for name in ["modules.json", "1_Pooling/config.json"]:
        shutil.copyfile(args.teacher / name, folder / name)


def choose_pieces(args, old):
    """Special tokens, single characters, and then the pieces that the documents use most."""
    counts = Counter()
    documents = lines(args.scifact / "corpus.jsonl") + squad_side(args, "train")[0]
    words = Counter()
    for document in documents:
        words.update(split_words(document["title"] + " " + document["text"]))
    for word, count in words.items():
        for piece in cut_word(word, old):
            counts[piece] += count
    pieces = dict.fromkeys(SPECIAL)
    for piece in old:
        letter = piece.removeprefix("##")
        common = counts[letter] + counts["##" + letter] >= 20
        if len(letter) == 1 and (letter.isascii() or common):
            pieces[piece] = None
    used = sorted((piece for piece in counts if piece in old), key=lambda piece: (-counts[piece], old[piece]))
    for piece in used:
        if len(pieces) < args.vocabulary:
            pieces[piece] = None
    known = {piece: 0 for piece in pieces}
    cut = {word: cut_word(word, known) for word in words}
    total = sum(words.values())
    unknown = sum(count for word, count in words.items() if cut[word] == ["[UNK]"])
    length = sum(count * len(cut[word]) for word, count in words.items())
    before = sum(counts.values())
    print(f"{len(pieces)} word pieces; {unknown / total:.4%} of words unknown, {length / before:.3f} times the tokens")
    return sorted(pieces, key=lambda piece: (piece not in SPECIAL, old[piece]))


def split_words(text):
    """What the normalizer and the pre-tokenizer of uncased BERT do to a text."""
    text = unicodedata.normalize("NFD", text.lower())
    text = "".join(" " if c.isspace() else c for c in text if unicodedata.category(c) not in ("Mn", "Cc") or c.isspace())
    return re.findall(r"\w+?(?=_)|[^\W_]+|[^\w\s]|_", text)


def cut_word(word, vocabulary):
    """WordPiece: the longest known piece first."""
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary), None)
        if end is None or len(word) > 100:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


# --- The lessons: queries, passages, and how similar the teacher finds them ---


def make_data(args, output):
    draw = random.Random(args.seed)
    science, wikipedia = lines(args.scifact / "corpus.jsonl"), squad_side(args, "train")
    draw.shuffle(science)
    sources = [science_lessons(draw, science[:1600]), squad_lessons(draw, *wikipedia, 500, 1000)]
    rows = []
    for number, (queries, passages) in enumerate(sources):
        q = encode(args, f"queries-{number}", [text for text, _ in queries], 48)
        p = encode(args, f"passages-{number}", passages, args.length)
        for (query, positive), scores in zip(queries, 50.0 * (q @ p.T), strict=True):
            near = [index for index in np.argsort(-scores, kind="stable")[:24] if index != positive]
            negatives = draw.sample(near, 2)
            far = [draw.randrange(len(passages)) for _ in range(3)]
            negatives += [index for index in dict.fromkeys(far) if index != positive and index not in near][:1]
            rows.append({
                "query": query,
                "pos": [passages[positive]],
                "neg": [passages[index] for index in negatives],
                "pos_scores": [round(float(scores[positive]), 4)],
                "neg_scores": [round(float(scores[index]), 4) for index in negatives],
            })
    draw.shuffle(rows)
    with open(output, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows)} lessons")


def science_lessons(draw, documents):
    """Sentences ask for their abstracts, and the titles of every other abstract for an abstract without its title."""
    queries, passages = [], []
    for index, document in enumerate(documents):
        sentences = [s for s in re.split(r"(?<=[.!?]) (?=[A-Z])", document["text"]) if 40 <= len(s) <= 300]
        if index % 2:
            passages.append(document["text"])
            queries.append((document["title"], index))
        else:
            passages.append(document["title"] + " " + document["text"])
        if sentences:
            queries.append((draw.choice(sentences), index))
    return queries, passages


def squad_side(args, side):
    """The paragraphs of one side, and its questions with the index of the paragraph that answers."""
    documents = {document["_id"]: document for document in lines(args.squad / "corpus.jsonl")}
    questions = {query["_id"]: query["text"] for query in lines(args.squad / "queries.jsonl")}
    judgments = (args.squad / f"qrels/{side}.tsv").read_text().splitlines()[1:]
    pairs = [judgment.split("\t")[:2] for judgment in judgments]
    used = {document: index for index, document in enumerate(dict.fromkeys(document for _, document in pairs))}
    return [documents[document] for document in used], [(questions[q], used[d]) for q, d in pairs]


def squad_lessons(draw, documents, questions, most_documents, most_questions):
    kept = {old: new for new, old in enumerate(draw.sample(range(len(documents)), min(most_documents, len(documents))))}
    passages = [documents[old]["title"] + " " + documents[old]["text"] for old in kept]
    questions = [(question, kept[old]) for question, old in questions if old in kept]
    return draw.sample(questions, min(most_questions, len(questions))), passages


def encode(args, name, texts, length):
    source, vectors = args.work / f"{name}.jsonl", args.work / f"{name}.npy"
    with open(source, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    # fmt: off
    run(args.bge, "encode", "--embedder_name_or_path", args.teacher, "--input_file", source, "--output_file", vectors,
        "--role", "passage", "--embedder_passage_max_length", length, "--pooling_method", "mean")
    # fmt: on
    return np.load(vectors)


# --- The end: half precision, and nothing but what a model needs ---


def short(values, bits):
    """Half precision with fewer bits of mantissa than its 10: the rest are zeros, which pack well."""
    cut = 10 - bits
    words = values.astype(np.float16).view(np.uint16).astype(np.uint32)
    words = (words + (1 << (cut - 1)) - 1 + (words >> cut & 1)) >> cut << cut
    return words.astype(np.uint16).view(np.float16)


def finish(trained, output):
    (output / "1_Pooling").mkdir(parents=True, exist_ok=True)
    weights = load_file(trained / "model.safetensors")
    save_file({name: short(value, 6) for name, value in weights.items()}, output / "model.safetensors")
    config = json.loads((trained / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    config |= {"torch_dtype": "float16", "architectures": ["BertModel"]}
    write_json(output / "config.json", config, indent=2)
    for name in FILES:
        if name not in ("config.json", "model.safetensors"):
            shutil.copyfile(trained / name, output / name)
    size = sum((output / name).stat().st_size for name in FILES)
    print(f"{output}: {sum(value.size for value in weights.values())} parameters, {size / 1e6:.2f} MB")


def write_json(path, value, indent=None):
    separators = None if indent else (",", ":")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
