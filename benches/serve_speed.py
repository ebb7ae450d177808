"""Answers a second under load: examples/cpp_search beside the same service in Python, in one run on the same cores.

usage: python benches/serve_speed.py --built target/release --model DIR --corpus corpus.jsonl --queries queries.jsonl
       [--docs 1000] [--clients 64] [--seconds 60] [--threads 2] [--ours cpp go] [--peers plain workers joined] [--json FILE]

Run it with the Python of benches/peer_setup.sh and `pip install fastapi uvicorn`; it needs cmake, Go and cpp-httplib, as
examples/cpp_search does, and libraries in --built (`cargo build --release -p bge_capi`). One service at a time serves the first
--docs passages; go/cmd/load asks real questions from --clients connections, three searches to one /embed of two texts. Services
and client share the first --threads cores. Peers: `plain` encodes each request in FastAPI's thread pool; `workers` is one process
a core, each with one thread of torch; `joined` batches the requests that wait, as ours does. The ratio is to the best of them.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import sidebyside

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HERE = os.path.join(ROOT, "benches")
PEERS = {"plain": (1, 0, "0"), "workers": (0, 1, "0"), "joined": (1, 0, "1")}  # processes, threads (0: one a core), join


def build(built, work):
    """The services and the client of this checkout, over the libraries in `built`."""
    env = dict(os.environ, GOPROXY="off", GOFLAGS="-buildvcs=false", CGO_LDFLAGS=f"-L{built}")
    quiet = dict(check=True, stdout=subprocess.DEVNULL)
    subprocess.run([f"{ROOT}/bge_capi/install.sh", f"{work}/bge", built], **quiet)
    subprocess.run(["cmake", "-S", f"{ROOT}/examples/cpp_search", "-B", f"{work}/build", f"-DCMAKE_PREFIX_PATH={work}/bge", "-DCMAKE_BUILD_TYPE=Release"], **quiet)
    subprocess.run(["cmake", "--build", f"{work}/build"], **quiet)
    for program in ("load", "serve"):
        subprocess.run(["go", "build", "-o", f"{work}/{program}", f"./cmd/{program}"], cwd=f"{ROOT}/go", env=env, **quiet)


def start(name, arguments, corpus, work):
    """Starts a service. Returns it and its port once it answers."""
    cores = arguments.threads
    env = dict(os.environ, RAYON_NUM_THREADS=str(cores), TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    if name in ("cpp", "go"):
        program = f"{work}/build/search" if name == "cpp" else f"{work}/serve"
        command = [program, arguments.model, corpus, "0" if name == "cpp" else "127.0.0.1:0"]
        service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        port = service.stdout.readline().strip()
    else:
        processes, threads, join = PEERS[name]
        port = "18431"
        env.update(MODEL=arguments.model, CORPUS=corpus, JOIN=join, TORCH_THREADS=str(threads or cores), OMP_NUM_THREADS=str(threads or cores))
        command = [sys.executable, "-m", "uvicorn", "serve_peer:app", "--port", port, "--workers", str(processes or cores)]
        service = subprocess.Popen(command + ["--log-level", "warning", "--no-access-log"], cwd=HERE, env=env)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/search?q=ready&k=1", timeout=30).read()
            return service, port
        except OSError:
            if service.poll() is not None:
                sys.exit(f"{name} ended with {service.returncode}")
            time.sleep(0.5)
    sys.exit(f"{name} does not answer")


def load(name, arguments, corpus, work):
    service, port = start(name, arguments, corpus, work)
    try:
        command = [f"{work}/load", "-url", f"http://127.0.0.1:{port}", "-queries", arguments.queries, "-clients", str(arguments.clients)]
        ask = lambda seconds: subprocess.run(command + ["-for", f"{seconds}s"], check=True, capture_output=True, text=True).stdout
        ask(5)  # warms up
        said = ask(arguments.seconds).strip()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{name}: {error.stderr}")
    finally:
        service.send_signal(signal.SIGINT)
        try:
            service.wait(10)
        except subprocess.TimeoutExpired:
            service.kill()
    print(f"{name}: {said}", file=sys.stderr)
    answers, rate, p50, p99 = re.match(r"(\d+) answers, (\d+) a second, p50 (\S+), p99 (\S+),", said).groups()
    return {"answers": int(answers), "per_second": int(rate), "p50": p50, "p99": p99}


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--built", "--model", "--corpus", "--queries"):
        parser.add_argument(flag, required=True)
    for flag, value in (("--docs", 1000), ("--clients", 64), ("--seconds", 60), ("--threads", 2)):
        parser.add_argument(flag, type=int, default=value)
    parser.add_argument("--ours", nargs="*", default=["cpp"], choices=["cpp", "go"])
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--json")
    arguments = parser.parse_args()
    for name in ("built", "model", "corpus", "queries"):
        setattr(arguments, name, os.path.abspath(getattr(arguments, name)))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    with tempfile.TemporaryDirectory() as work:
        build(arguments.built, work)
        corpus = f"{work}/corpus.jsonl"
        with open(corpus, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in sidebyside.read_jsonl(arguments.corpus)[: arguments.docs])
        result = {name: load(name, arguments, corpus, work) for name in arguments.ours + arguments.peers}
    best = max((result[name]["per_second"] for name in arguments.peers), default=0)
    if best:
        result["ratio_to_best"] = {name: round(result[name]["per_second"] / best, 2) for name in arguments.ours}
    result["machine"] = sidebyside.machine()
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as f:
            f.write(text + "\n")


if __name__ == "__main__":
    main()
