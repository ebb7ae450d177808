"""What the side-by-side scripts share: running one engine in its own process, in turn, and reading its time and memory.

Standard library only, so that the process that measures is small and starts no thread.
"""

import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile


def read_jsonl(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def run(command, threads):
    """Runs `command` on `threads` cores. Returns its standard output and its peak resident memory in MiB."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    env.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_MODE="disabled")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as err:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        _, status, usage = os.wait4(child.pid, 0)  # this child's own peak, not the largest of all children so far
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(command)}\nended with {child.returncode}:\n{err.read()[-4000:]}")
        return out.read(), usage.ru_maxrss / 1024


def last_json(text):
    """The last line that is a JSON object."""
    for line in reversed(text.strip().splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(f"no result in:\n{text[-2000:]}")


def with_negatives(train, corpus, count, limit, path):
    """Writes `train` to `path` with `count` seeded random documents as negatives where a row has none."""
    rng = random.Random(5)
    rows = [r for f in train for r in read_jsonl(f)]
    rng.shuffle(rows)  # neighbours of SQuAD ask about one paragraph
    texts = [((d.get("title") or "") + " " + d["text"]).strip() for d in read_jsonl(corpus)] if corpus else []
    with open(path, "w", encoding="utf-8") as f:
        for row in rows[:limit]:
            if count and not row.get("neg"):
                if not texts:
                    sys.exit("the rows have no negatives: give --corpus, or --group 1")
                own = set(row["pos"])
                row["neg"] = rng.sample([t for t in rng.sample(texts, min(len(texts), count + 8)) if t not in own], count)
            f.write(json.dumps({k: row[k] for k in ("query", "pos", "neg")}, ensure_ascii=False) + "\n")


def summary(values):
    """Median, smallest and largest, rounded for reading."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def machine():
    name = "unknown"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            name = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": name, "cores": len(os.sched_getaffinity(0))}
