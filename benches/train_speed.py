"""Fine-tuning speed and memory, ours and FlagEmbedding's, in turn on the same data.

usage: python benches/train_speed.py --bge target/release/bge --model DIR --train_data FILE... --corpus corpus.jsonl
       [--module encoder_only.base|encoder_only.m3] [--pairs 5] [--steps 23] [--threads 2] [--batch 16] [--group 8] [--query_max_len 64] [--passage_max_len 256] [--pooling mean]
       [--device cuda:0] [--json FILE] [--only ours|peer] [-- more flags for both]

Run it with the Python of benches/peer_setup.sh. Each run is a process of its own on the first --threads cores. A rate is the
median over the steps of real (unpadded) tokens per second; the peer's first three steps are left out. The peer's step is timed in two ways:
`step`, from the end of one optimizer step to the end of the next, as ours is, and `forward_backward`, only its model and
gradients, without tokenizing, collating and the optimizer. Both ratios are printed; the second one favours the peer.
With --device both train on that GPU, ours from a build with the feature `cuda`.
For encoder_only.m3, make_m3.py makes a model with BGE-M3's heads and vocabulary.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

import sidebyside

WARM = 3


def peer(module, flags, threads):
    """Child process: trains with FlagEmbedding and prints one JSON line."""
    import torch
    import transformers
    from FlagEmbedding.abc.finetune.embedder import AbsEmbedderDataArguments
    from FlagEmbedding.finetune.embedder.encoder_only import base, m3

    torch.set_num_threads(threads)
    kinds = {
        "encoder_only.base": (base.EncoderOnlyEmbedderRunner, base.EncoderOnlyEmbedderModelArguments, base.EncoderOnlyEmbedderTrainingArguments),
        "encoder_only.m3": (m3.EncoderOnlyEmbedderM3Runner, m3.EncoderOnlyEmbedderM3ModelArguments, m3.EncoderOnlyEmbedderM3TrainingArguments),
    }
    make, model_arguments, training_arguments = kinds[module]
    parser = transformers.HfArgumentParser((model_arguments, AbsEmbedderDataArguments, training_arguments))
    runner = make(*parser.parse_args_into_dataclasses(flags))
    steps, micro = [], []
    inner = runner.trainer.training_step

    def timed(model, inputs, *rest, **kw):
        parts = [p for k in ("queries", "passages") for p in (inputs[k] if isinstance(inputs[k], list) else [inputs[k]])]
        real, full = sum(int(p["attention_mask"].sum()) for p in parts), sum(p["attention_mask"].numel() for p in parts)
        start = time.perf_counter()
        loss = inner(model, inputs, *rest, **kw)
        micro.append((real, full, time.perf_counter() - start))
        return loss

    class Clock(transformers.TrainerCallback):
        last = None

        def on_train_begin(self, *_, **__):
            self.last = time.perf_counter()

        def on_step_end(self, *_, **__):
            now = time.perf_counter()
            steps.append({"tokens": sum(m[0] for m in micro), "padded": sum(m[1] for m in micro), "inner": sum(m[2] for m in micro), "secs": now - self.last})
            micro.clear()
            self.last = now

    runner.trainer.training_step = timed
    runner.trainer.add_callback(Clock())
    runner.trainer.train()
    kept = steps[min(WARM, len(steps) - 1) :]
    print(json.dumps({
        "tokens_per_s": statistics.median(s["tokens"] / s["secs"] for s in kept),
        "forward_backward_tokens_per_s": statistics.median(s["tokens"] / s["inner"] for s in kept),
        "padding_share": 1 - sum(s["tokens"] for s in kept) / sum(s["padded"] for s in kept),
    }))  # fmt: skip


def ours(bge, module, flags, out, threads):
    text, peak = sidebyside.run([bge, "finetune", module, *flags, "--output_dir", out, "--json"], threads)
    return {"tokens_per_s": sidebyside.last_json(text)["tokens_per_second"], "peak_mib": peak}


def main():
    words, more = sys.argv[1:], []
    if "--" in words:
        cut = words.index("--")
        words, more = words[:cut], words[cut + 1 :]
    if words[:1] == ["--child"]:
        return peer(words[1], more, int(words[2]))
    ap = argparse.ArgumentParser()
    ap.add_argument("--bge", default="target/release/bge")
    ap.add_argument("--module", choices=["encoder_only.base", "encoder_only.m3"], default="encoder_only.base")
    ap.add_argument("--model", required=True)
    ap.add_argument("--train_data", nargs="+", required=True)
    ap.add_argument("--corpus", help="where negatives are drawn from for rows without")
    ap.add_argument("--pairs", type=int, default=5)
    ap.add_argument("--steps", type=int, default=23)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--group", type=int, default=8)
    ap.add_argument("--query_max_len", type=int, default=64)
    ap.add_argument("--passage_max_len", type=int, default=256)
    ap.add_argument("--pooling", default="mean")
    ap.add_argument("--device", help="a GPU, as cuda:0; the CPU without")
    ap.add_argument("--only", choices=["ours", "peer"])
    ap.add_argument("--json")
    a = ap.parse_args(words)
    rounds = []
    with tempfile.TemporaryDirectory() as work:
        data = os.path.join(work, "train.jsonl")
        sidebyside.with_negatives(a.train_data, a.corpus, a.group - 1, a.steps * a.batch * 2, data)
        flags = ["--model_name_or_path", a.model, "--train_data", data, "--max_steps", str(a.steps), "--per_device_train_batch_size", str(a.batch),
                 "--train_group_size", str(a.group), "--query_max_len", str(a.query_max_len), "--passage_max_len", str(a.passage_max_len),
                 "--sentence_pooling_method", a.pooling, "--learning_rate", "2e-5", "--save_strategy", "no", *more]  # fmt: skip
        for i in range(a.pairs):
            row = {}
            if a.only != "peer":
                own = [*flags, "--devices", a.device] if a.device else flags
                row["ours"] = ours(a.bge, a.module, own, os.path.join(work, f"ours{i}"), a.threads)
            if a.only != "ours":
                extra = ["--output_dir", os.path.join(work, f"peer{i}"), "--cache_path", os.path.join(work, "cache"), "--logging_steps", "1000000",
                         "--report_to", "none", "--use_cpu", str(not a.device), "--disable_tqdm", "True", "--dataloader_pin_memory", "False"]  # fmt: skip
                text, peak = sidebyside.run([sys.executable, os.path.abspath(__file__), "--child", a.module, str(a.threads), "--", *flags, *extra], a.threads)
                row["peer"] = {**sidebyside.last_json(text), "peak_mib": peak}
            rounds.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    result = {"what": "train", "module": a.module, "machine": sidebyside.machine(), "threads": a.threads, "flags": flags[4:], "rounds": rounds}
    for who in ("ours", "peer"):
        if who in rounds[0]:
            result[who] = {k: sidebyside.summary([r[who][k] for r in rounds]) for k in rounds[0][who]}
    if "ours" in result and "peer" in result:
        ratio = lambda key: sidebyside.summary([r["ours"]["tokens_per_s"] / r["peer"][key] for r in rounds])
        result["ratio_step"] = ratio("tokens_per_s")
        result["ratio_to_forward_backward"] = ratio("forward_backward_tokens_per_s")
        result["memory_ratio"] = sidebyside.summary([r["ours"]["peak_mib"] / r["peer"]["peak_mib"] for r in rounds])
    print(json.dumps(result, indent=1))
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)


if __name__ == "__main__":
    main()
