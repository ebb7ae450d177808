// The worker from the page's side: one job at a time, its progress, its end.

import { byId, count, percent, size } from "./dom.js";

let running = null;
let loaded;
/** Fulfilled once the worker has its WebAssembly. */
export const ready = new Promise((resolve) => { loaded = resolve; });
const worker = new Worker("worker.js", { type: "module" });

export const say = (text) => { byId("said").textContent = text; };

export function fail(message) {
  byId("failed").textContent = message;
  byId("failed").hidden = !message;
}

function busy(text) {
  byId("busy").hidden = !text;
  byId("busy-text").textContent = text ?? "";
  byId("bar").value = 0;
  if (text) say(text);
}

export const cancel = () => worker.postMessage({ type: "cancel" });

/** Runs a job in the worker, after ending the one before; gives its answer, or null where it was cancelled. */
export async function work(job, text) {
  while (running) {
    cancel();
    await running.done;
  }
  const mine = {};
  const answer = new Promise((resolve, reject) => Object.assign(mine, { resolve, reject }));
  mine.done = answer.then(() => {}, () => {});
  running = mine;
  fail("");
  busy(text);
  worker.postMessage(job);
  try {
    return await answer;
  } finally {
    running = null;
    busy(null);
  }
}

worker.onmessage = ({ data }) => {
  if (data.type === "ready") loaded();
  else if (data.type === "progress") {
    const share = data.total ? data.bytes / data.total : 1;
    byId("bar").value = share;
    const rows = data.rows == null ? "" : ` · ${count(data.rows)} rows`;
    const errors = data.errors == null ? "" : ` · ${count(data.errors)} errors`;
    byId("busy-text").textContent = `${percent(share)} of ${size(data.total)}${rows}${errors}`;
  } else if (data.type === "failed") running ? running.reject(new Error(data.message)) : fail(data.message);
  else if (data.type === "cancelled") running?.resolve(null);
  else running?.resolve(data);
};
