#!/usr/bin/env python3
"""Exact top-k search: bge's built-in index and FAISS's IndexFlatIP, in turn, on the same vectors.

Needs numpy and faiss-cpu, and cargo (or `--program`, a built `bge_core/benches/search.rs`):

    python benches/search_speed.py                      # 100k x 384 and 100k x 1024, 1 and 2 threads, 5 pairs
    python benches/search_speed.py --dims 384 --threads 1 --pairs 3 --batches 1000,64
    python benches/search_speed.py --gpu 0 --rows 1000000 --queries 10000       # and on a GPU, all queries in one batch

Every measurement is a fresh process that loads the vectors, searches once to warm up and then times `--repetitions`
searches of all queries; its time is the least. A pair is ours and then each way to run FAISS, so that a change of the
machine's speed meets all of them; the ratio is the median over the pairs.

FAISS is run in two ways: as installed, and at its best settings, which are OPENBLAS_CORETYPE=SkylakeX or, without AVX-512,
Haswell (its OpenBLAS takes newer processors for an old one, or has slower kernels for them), OMP_WAIT_POLICY=passive and all
queries in one batch (in small batches it leaves BLAS).
With `--gpu`, bge is built with the feature `cuda`, and FAISS's GpuIndexFlatIP is run where faiss has one.
The vectors are unit vectors with a decaying spectrum and a common mean, seeded. Prints JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


def make(path, rows, dim, seed):
    import numpy as np

    random = np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim)) ** -0.35
    mean = 0.7 * random.standard_normal(dim) * spectrum
    with open(path, "wb") as file:
        for start in range(0, rows, 20000):
            count = min(20000, rows - start)
            block = (random.standard_normal((count, dim)) * spectrum + mean).astype(np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            block.tofile(file)


def faiss_worker(path, queries, dim, k, batch, repetitions, threads, gpu=None):
    """Same arguments and same answer as the Rust program."""
    import faiss
    import numpy as np

    faiss.omp_set_num_threads(threads)
    vectors = np.fromfile(path, np.float32).reshape(-1, dim)
    start = time.perf_counter()
    if gpu is None:
        index = faiss.IndexFlatIP(dim)
    else:
        settings = faiss.GpuIndexFlatConfig()
        settings.device = gpu
        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), dim, settings)
    index.add(vectors[queries:])
    built, seconds, total = time.perf_counter() - start, [], 0.0
    for _ in range(repetitions):
        start = time.perf_counter()
        for first in range(0, queries, batch):
            scores, _ = index.search(vectors[first : min(first + batch, queries)], k)
            total += float(scores[:, -1].sum(dtype=np.float64))
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"built": built, "seconds": seconds, "sum": total, "version": faiss.__version__}))


def program(features):
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    command = ["cargo", "bench", "-p", "bge_core", "--no-default-features", "--features", features, "--bench", "search"]
    command += ["--no-run", "--message-format", "json"]
    lines = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return [m["executable"] for m in messages if m.get("executable")][-1]


def best_core():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return "SkylakeX" if " avx512f " in file.read() else "Haswell"
    except OSError:
        return "Haswell"


def run(command, extra, threads):
    hidden = ("OPENBLAS", "OMP_", "RAYON", "MKL")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    environment |= {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)} | extra
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(x) for x in text.split(",")]
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dims", type=numbers, default=[384, 1024])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--batches", type=numbers, default=[1000], help="queries passed at once to bge and to FAISS as installed")
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--gpu", type=int, help="the number of a GPU to search on as well")
    parser.add_argument("--program")
    parser.add_argument("--python", default=sys.executable, help="the Python that has faiss")
    arguments = parser.parse_args()
    ours = arguments.program or program("model" if arguments.gpu is None else "cuda")
    has_faiss_gpu = "import faiss; raise SystemExit(not (hasattr(faiss, 'GpuIndexFlatIP') and faiss.get_num_gpus()))"
    on_gpu = []
    if arguments.gpu is not None:
        on_gpu = ["bge_gpu"]
        if subprocess.run([arguments.python, "-c", has_faiss_gpu], check=False).returncode == 0:
            on_gpu.append("faiss_gpu")
    best = {"OPENBLAS_CORETYPE": best_core(), "OMP_WAIT_POLICY": "passive"}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for dim in arguments.dims:
            path = os.path.join(folder, "vectors.f32")
            make(path, arguments.rows + arguments.queries, dim, seed=dim)
            for threads in arguments.threads:
                for batch in arguments.batches:
                    times = {name: [] for name in ["bge", "faiss_best", "faiss_installed", *on_gpu]}
                    sums = {}
                    for _ in range(arguments.pairs):
                        for name, extra, size in (
                            ("bge", {}, batch),
                            ("faiss_best", best, arguments.queries),
                            ("faiss_installed", {}, batch),
                            *((name, {}, arguments.queries) for name in on_gpu),
                        ):
                            words = [path, arguments.queries, dim, arguments.k, size, arguments.repetitions + 1]
                            words = [str(word) for word in words]
                            gpu = [str(arguments.gpu)] if name in on_gpu else []
                            worker = [arguments.python, __file__, "--worker", *words, str(threads), *gpu]
                            answer = run([ours, *words, *gpu] if name.startswith("bge") else worker, extra, threads)
                            times[name].append(min(answer["seconds"][1:]))
                            sums[name] = answer["sum"]
                    ratio = lambda name: statistics.median(f / o for f, o in zip(times[name], times["bge"]))
                    spread = max(abs(value / sums["bge"] - 1) for value in sums.values())
                    assert spread < 1e-5, f"the engines found other lists: {sums}"
                    result = {"rows": arguments.rows, "dim": dim, "threads": threads, "batch": batch}
                    result |= {"faster_than_faiss_best": round(ratio("faiss_best"), 2)}
                    result |= {"faster_than_faiss_installed": round(ratio("faiss_installed"), 2)}
                    for name in on_gpu:
                        result |= {f"faster_than_{name}": round(ratio(name), 2)}
                    result |= {"seconds": {name: [round(x, 4) for x in values] for name, values in times.items()}}
                    results.append(result)
                    print(json.dumps(result), file=sys.stderr)
    print(json.dumps({"faiss_core": best["OPENBLAS_CORETYPE"], "queries": arguments.queries, "k": arguments.k, "results": results}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        faiss_worker(sys.argv[2], *(int(x) for x in sys.argv[3:]))
    else:
        main()
