"""Makes a small model of BGE-M3's kind for measurements: XLM-RoBERTa with a sparse and a multi-vector head.

usage: python benches/make_m3.py --out DIR --tokenizer DIR [--layers 6] [--width 384] [--heads 12] [--feed_forward 1536] [--seed 1]
       python benches/make_m3.py --out DIR --from DIR [--seed 1]

The first has random weights and a row for every token of the tokenizer, as for speed and memory values do not matter. The second is a BERT
embedder such as all-MiniLM-L6-v2 in XLM-RoBERTa's layout, with the same vectors: positions count from the one after the padding
token's, and the only token type is part of every word. Its heads are new, with torch's first values, as FlagEmbedding makes them. Run
it with the Python of benches/peer_setup.sh.
"""

import argparse
import json
import os
import shutil

import torch
import transformers

TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


def random_model(tokenizer, layers, width, heads, feed_forward):
    known = transformers.AutoTokenizer.from_pretrained(tokenizer)
    return transformers.XLMRobertaModel(transformers.XLMRobertaConfig(
        vocab_size=len(known), num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=feed_forward,
        max_position_embeddings=514, type_vocab_size=1, pad_token_id=known.pad_token_id, bos_token_id=known.bos_token_id, eos_token_id=known.eos_token_id,
    ))  # fmt: skip


def from_bert(folder):
    bert = transformers.BertModel.from_pretrained(folder)
    old = bert.config
    first = old.pad_token_id + 1
    model = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(
        vocab_size=old.vocab_size, num_hidden_layers=old.num_hidden_layers, hidden_size=old.hidden_size, num_attention_heads=old.num_attention_heads,
        intermediate_size=old.intermediate_size, hidden_act=old.hidden_act, max_position_embeddings=old.max_position_embeddings + first,
        type_vocab_size=1, layer_norm_eps=old.layer_norm_eps, pad_token_id=old.pad_token_id, bos_token_id=101, eos_token_id=102,
    ))  # fmt: skip
    weights = bert.state_dict()
    places = weights["embeddings.position_embeddings.weight"]
    weights["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros(first, places.shape[1]), places])
    weights["embeddings.token_type_embeddings.weight"] = weights["embeddings.token_type_embeddings.weight"][:1]
    left = model.load_state_dict({k: v for k, v in weights.items() if not k.endswith(("position_ids", "token_type_ids"))}, strict=False)
    assert not left.unexpected_keys and all(k.endswith(("position_ids", "token_type_ids")) for k in left.missing_keys), left
    return model


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", required=True)
    source = ap.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokenizer")
    source.add_argument("--from", dest="bert")
    ap.add_argument("--layers", type=int, default=6)
    ap.add_argument("--width", type=int, default=384)
    ap.add_argument("--heads", type=int, default=12)
    ap.add_argument("--feed_forward", type=int, default=1536)
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    model = from_bert(a.bert) if a.bert else random_model(a.tokenizer, a.layers, a.width, a.heads, a.feed_forward)
    model.save_pretrained(a.out)
    width = model.config.hidden_size
    torch.save(torch.nn.Linear(width, 1).state_dict(), os.path.join(a.out, "sparse_linear.pt"))
    torch.save(torch.nn.Linear(width, width).state_dict(), os.path.join(a.out, "colbert_linear.pt"))
    for name in TOKENIZER:
        path = os.path.join(a.bert or a.tokenizer, name)
        if os.path.exists(path):
            shutil.copy(path, a.out)
    if a.bert:  # upstream's sparse head asks for the end of a text by this name
        path = os.path.join(a.out, "tokenizer_config.json")
        with open(path, encoding="utf-8") as f:
            settings = json.load(f)
        settings.update(bos_token=settings["cls_token"], eos_token=settings["sep_token"])
        with open(path, "w", encoding="utf-8") as f:
            json.dump(settings, f, indent=1)
    print(f"{a.out}: {sum(p.numel() for p in model.parameters()):,} weights without heads")


if __name__ == "__main__":
    main()
