"""The search service of examples/cpp_search as one would write it in Python: FastAPI, uvicorn and sentence-transformers.

Started by serve_speed.py, which sets MODEL, CORPUS, JOIN and TORCH_THREADS. JOIN=1 joins the requests that wait into one batch
in one worker thread, as examples/cpp_search does; without it every request is encoded by itself in FastAPI's thread pool.
"""

import asyncio
import json
import os
from contextlib import asynccontextmanager

import numpy as np
import torch
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(os.environ["TORCH_THREADS"]))
MODEL = os.environ["MODEL"]
JOIN = os.environ["JOIN"] == "1"
MAX_BATCH = 32

model = SentenceTransformer(MODEL, device="cpu")
with open(os.environ["CORPUS"], encoding="utf-8") as f:
    corpus = [json.loads(line) for line in f if line.strip()]
texts = [((d.get("title") or "") + " " + d["text"]).strip() for d in corpus]
waiting = asyncio.Queue()


def encode(batch):
    with torch.inference_mode():
        return model.encode(batch, batch_size=MAX_BATCH, normalize_embeddings=True, show_progress_bar=False)


rows = encode(texts)


async def join():
    """Encodes what waits, as much as a batch holds, while the next requests gather."""
    loop = asyncio.get_running_loop()
    while True:
        requests = [await waiting.get()]
        while not waiting.empty() and sum(len(r[0]) for r in requests) < MAX_BATCH:
            requests.append(waiting.get_nowait())
        vectors = await loop.run_in_executor(None, encode, [t for r in requests for t in r[0]])
        at = 0
        for batch, answer in requests:
            answer.set_result(vectors[at : at + len(batch)])
            at += len(batch)


async def joined(batch):
    answer = asyncio.get_running_loop().create_future()
    await waiting.put((batch, answer))
    return await answer


@asynccontextmanager
async def lifespan(_):
    task = asyncio.create_task(join()) if JOIN else None
    yield
    if task:
        task.cancel()


app = FastAPI(lifespan=lifespan)


class Asked(BaseModel):
    texts: list[str]
    role: str = "query"


def nearest(vector, k):
    scores = rows @ vector
    k = min(k, len(scores))
    best = np.argpartition(-scores, k - 1)[:k]
    best = best[np.argsort(-scores[best], kind="stable")]
    return {"model": MODEL, "hits": [{"id": corpus[i]["_id"], "score": float(scores[i]), "text": texts[i]} for i in best]}


def answer_embed(vectors):
    return {"dim": int(vectors.shape[1]), "vectors": vectors.tolist()}


def check(role):
    if role not in ("query", "passage"):
        raise HTTPException(400, 'role is "query" or "passage"')


if JOIN:

    @app.get("/search")
    async def search(q: str, k: int = 10):
        return nearest((await joined([q]))[0], k)

    @app.post("/embed")
    async def embed(asked: Asked):
        check(asked.role)
        return answer_embed(await joined(asked.texts))

else:

    @app.get("/search")
    def search(q: str, k: int = 10):
        return nearest(encode([q])[0], k)

    @app.post("/embed")
    def embed(asked: Asked):
        check(asked.role)
        return answer_embed(encode(asked.texts))


@app.exception_handler(RequestValidationError)
async def malformed(_, error):
    return JSONResponse({"error": str(error)}, status_code=400)
