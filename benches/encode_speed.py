"""Encoding speed and memory, ours and three peers', in turn on the same texts.

usage: python benches/encode_speed.py --bge target/release/bge --model DIR --input corpus.jsonl [--limit 2000] [--max_length 256]
       [--pairs 5] [--threads 2] [--batch_size 64] [--pooling mean] [--peers flagembedding sentence-transformers onnxruntime] [--json FILE]

Run it with the Python of benches/peer_setup.sh. Each run is a process of its own on the first --threads cores; the time is that of
encoding alone, after loading and, for the peers, after one batch to warm up. Tokens are real ones (no padding), counted once with
the model's tokenizer. A ratio is ours to a peer's within one round; `ratio_to_best` takes the fastest peer of each round. The
vectors of all engines are compared too: `cosine_min` is the worst text.
"""

import argparse
import json
import os
import sys
import tempfile
import time

import sidebyside

PEERS = ["flagembedding", "sentence-transformers", "onnxruntime"]


def peer(name, model, input_file, max_length, batch_size, pooling, threads, out):
    """Child process: encodes with one peer, saves the vectors and prints one JSON line."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    texts = [r["text"] for r in sidebyside.read_jsonl(input_file)]
    if name == "flagembedding":
        from FlagEmbedding import FlagModel

        engine = FlagModel(model, pooling_method=pooling, use_fp16=False, devices="cpu", batch_size=batch_size, passage_max_length=max_length)
        encode = engine.encode_corpus
    elif name == "sentence-transformers":
        from sentence_transformers import SentenceTransformer, models

        body = models.Transformer(model, max_seq_length=max_length)
        head = models.Pooling(body.get_embedding_dimension(), pooling_mode="lasttoken" if pooling == "last_token" else pooling)
        engine = SentenceTransformer(modules=[body, head, models.Normalize()], device="cpu")
        encode = lambda t: engine.encode(t, batch_size=batch_size)
    else:
        encode = onnx_engine(model, max_length, batch_size, pooling, threads)
    encode(texts[:batch_size])
    start = time.perf_counter()
    vectors = encode(texts)
    secs = time.perf_counter() - start
    np.save(out, np.asarray(vectors, dtype=np.float32))
    print(json.dumps({"secs": secs}))


def onnx_engine(model, max_length, batch_size, pooling, threads):
    """The model exported to ONNX, longest texts first, padded per batch: what a CPU server would do."""
    import numpy as np
    import onnxruntime
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    net = transformers.AutoModel.from_pretrained(model).eval()
    names = [n for n in ("input_ids", "attention_mask", "token_type_ids") if n in tokenizer.model_input_names]

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, *inputs):
            return self.net(**dict(zip(names, inputs))).last_hidden_state

    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "model.onnx")
        x = tokenizer(["a short text and a longer one", "b"], padding=True, return_tensors="pt")
        axes = {n: {0: "rows", 1: "tokens"} for n in (*names, "hidden")}
        torch.onnx.export(
            Hidden(), tuple(x[n] for n in names), path, input_names=names, output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(texts):
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        out = [None] * len(texts)
        for s in range(0, len(texts), batch_size):
            rows = order[s : s + batch_size]
            x = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=max_length, return_tensors="np")
            hidden = session.run(["hidden"], {n: x[n] for n in names})[0]
            mask = x["attention_mask"]
            if pooling == "mean":
                v = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            else:
                v = hidden[np.arange(len(rows)), 0 if pooling == "cls" else mask.sum(1) - 1]
            for i, r in zip(rows, v / np.linalg.norm(v, axis=1, keepdims=True)):
                out[i] = r
        return out

    return encode


def count_tokens(model, texts, max_length):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return sum(len(e.ids) for e in tokenizer.encode_batch(texts))


def main():
    if sys.argv[1:2] == ["--child"]:
        name, model, input_file, max_length, batch_size, pooling, threads, out = sys.argv[2:]
        return peer(name, model, input_file, int(max_length), int(batch_size), pooling, int(threads), out)
    ap = argparse.ArgumentParser()
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--model", required=True)
    ap.add_argument("--input", required=True, help="JSONL with `text` and perhaps `title`, also .gz")
    ap.add_argument("--limit", type=int, default=2000)
    ap.add_argument("--max_length", type=int, default=256)
    ap.add_argument("--batch_size", type=int, default=64, help="of the peers; ours batches by tokens")
    ap.add_argument("--pooling", default="mean", choices=["cls", "mean", "last_token"])
    ap.add_argument("--pairs", type=int, default=5)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS)
    ap.add_argument("--no_ours", action="store_true")
    ap.add_argument("--json")
    a = ap.parse_args()
    texts = [((r.get("title") or "") + " " + r["text"]).strip() for r in sidebyside.read_jsonl(a.input)[: a.limit]]
    tokens = count_tokens(a.model, texts, a.max_length)
    rounds, files = [], {}
    with tempfile.TemporaryDirectory() as work:
        input_file = os.path.join(work, "texts.jsonl")
        with open(input_file, "w", encoding="utf-8") as f:
            f.writelines(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
        for _ in range(a.pairs):
            row = {}
            if not a.no_ours:
                files["ours"] = os.path.join(work, "ours.npy")
                command = [a.bge, "encode", "--embedder_name_or_path", a.model, "--input_file", input_file, "--output_file", files["ours"], "--role", "passage",
                           "--passage_max_length", str(a.max_length), "--pooling_method", a.pooling, "--json"]  # fmt: skip
                text, peak = sidebyside.run(command, a.threads)
                row["ours"] = {"secs": sidebyside.last_json(text)["secs"], "peak_mib": peak}
            for name in a.peers:
                files[name] = os.path.join(work, name + ".npy")
                child = [name, a.model, input_file, str(a.max_length), str(a.batch_size), a.pooling, str(a.threads), files[name]]
                text, peak = sidebyside.run([sys.executable, os.path.abspath(__file__), "--child", *child], a.threads)
                row[name] = {"secs": sidebyside.last_json(text)["secs"], "peak_mib": peak}
            for r in row.values():
                r["tokens_per_s"] = tokens / r["secs"]
            rounds.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
        result = {"what": "encode", "machine": sidebyside.machine(), "threads": a.threads, "texts": len(texts), "tokens": tokens, "rounds": rounds}
        for who in rounds[0]:
            result[who] = {k: sidebyside.summary([r[who][k] for r in rounds]) for k in ("tokens_per_s", "peak_mib")}
        if "ours" in rounds[0] and a.peers:
            speed = lambda r, who: r[who]["tokens_per_s"]
            for who in a.peers:
                result[f"ratio_to_{who}"] = sidebyside.summary([speed(r, "ours") / speed(r, who) for r in rounds])
            result["ratio_to_best"] = sidebyside.summary([speed(r, "ours") / max(speed(r, p) for p in a.peers) for r in rounds])
        if len(files) > 1:
            import numpy as np

            first, *others = files
            vectors = {k: np.load(f).astype(np.float64) for k, f in files.items()}
            unit = {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in vectors.items()}
            result["cosine_min"] = {f"{first} / {k}": float((unit[first] * unit[k]).sum(1).min()) for k in others}
    print(json.dumps(result, indent=1))
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
