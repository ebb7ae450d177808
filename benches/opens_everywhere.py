"""Opens a folder that bge wrote in transformers, sentence-transformers and FlagEmbedding, and compares their vectors with `bge encode`.

usage: python benches/opens_everywhere.py --folder tuned --input texts.txt [--bge target/release/bge] [--pooling mean] [--max_length 128]
Prints the largest difference of any component for each; run it with the Python of benches/peer_setup.sh.
"""

import argparse
import os
import subprocess
import tempfile

import numpy as np
import torch

ap = argparse.ArgumentParser()
ap.add_argument("--folder", required=True)
ap.add_argument("--input", required=True)
ap.add_argument("--bge", default="target/release/bge")
ap.add_argument("--pooling", default="mean")
ap.add_argument("--max_length", type=int, default=128)
a = ap.parse_args()

texts = open(a.input, encoding="utf-8").read().splitlines()
out = os.path.join(tempfile.mkdtemp(), "v.npy")
subprocess.run([a.bge, "encode", "--embedder_name_or_path", a.folder, "--input_file", a.input, "--output_file", out,
                "--passage_max_length", str(a.max_length)], check=True)  # fmt: skip
ours = np.load(out)

import transformers
from FlagEmbedding import FlagModel
from sentence_transformers import SentenceTransformer

model, tokenizer = transformers.AutoModel.from_pretrained(a.folder).eval(), transformers.AutoTokenizer.from_pretrained(a.folder)
x = tokenizer(texts, padding=True, truncation=True, max_length=a.max_length, return_tensors="pt")
with torch.no_grad():
    h = model(**x).last_hidden_state
m = x["attention_mask"][..., None]
v = {"cls": lambda: h[:, 0], "mean": lambda: (h * m).sum(1) / m.sum(1)}[a.pooling]()
results = {"transformers": torch.nn.functional.normalize(v, dim=1).numpy()}
st = SentenceTransformer(a.folder, device="cpu")
st.max_seq_length = a.max_length
results["sentence-transformers"] = st.encode(texts)
flag = FlagModel(a.folder, pooling_method=a.pooling, use_fp16=False, devices="cpu", passage_max_length=a.max_length)
results["FlagEmbedding"] = flag.encode_corpus(texts)
for name, vectors in results.items():
    print(f"{name}: {vectors.shape}, largest difference {np.abs(ours - vectors).max():.2e}")
