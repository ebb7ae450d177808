// Reads files as streams, off the page's thread: validation, the lines it points at, repairs.

import init, * as bge from "./pkg/bge_wasm.js";

let main;
let counting;
let stop = false;

const ready = init().then((module) => {
  main = module;
  postMessage({ type: "ready" });
}, (error) => postMessage({ type: "failed", message: `the checks could not be loaded: ${error.message}` }));

class Cancelled extends Error {}

/** Hands every chunk of a file to `take`; it may say that it has enough by returning true. */
async function stream(file, take) {
  const reader = file.stream().getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (stop) throw new Cancelled();
      if (done || take(value)) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The second module, loaded when the first tokenizer comes. */
async function withTokens() {
  if (!counting) {
    const module = await import("./pkg/bge_wasm_tokens.js");
    await module.default();
    counting = module;
  }
  return counting;
}

async function validate({ files, config, module, tokenizer }) {
  const total = files.reduce((sum, entry) => sum + entry.file.size, 0);
  const maker = tokenizer ? await withTokens() : bge;
  const validator = new maker.Validator(config, module);
  try {
    if (tokenizer) validator.countTokens(new Uint8Array(await tokenizer.arrayBuffer()));
    let told = 0;
    for (const { file, name, argument, folder } of files) {
      validator.startFile(name, argument, folder);
      await stream(file, (chunk) => {
        validator.push(chunk);
        const now = performance.now();
        if (now - told > 100) {
          told = now;
          postMessage({ type: "progress", total, ...validator.progress() });
        }
      });
    }
    const text = validator.finishText();
    const report = JSON.parse(text);
    postMessage({ type: "validated", text, report, excerpts: await excerpts(files, report), scripts: await scripts(files) });
  } finally {
    validator.free();
  }
}

/** The text of the lines that the report points at, by file. */
async function excerpts(files, report) {
  const wanted = new Map();
  for (const issue of report.issues.flatMap((group) => group.first)) {
    if (issue.line && issue.path) wanted.set(issue.path, [...(wanted.get(issue.path) ?? []), issue.line]);
  }
  const found = {};
  for (const { file, name } of files) {
    if (!wanted.has(name)) continue;
    const search = new bge.Excerpts(Uint32Array.from(wanted.get(name)), 240);
    await stream(file, (chunk) => search.push(chunk));
    found[name] = Object.fromEntries(search.finish().map(({ line, text, cut }) => [line, cut ? `${text}…` : text]));
    search.free();
  }
  return found;
}

const SCRIPTS = ["Latin", "Han", "Cyrillic", "Arabic", "Devanagari", "Hiragana", "Katakana", "Hangul", "Greek", "Hebrew", "Thai"]
  .map((name) => [name, new RegExp(`\\p{Script=${name}}`, "gu")]);

/** Letters by script, from the first 128 kB of up to 32 files. */
async function scripts(files) {
  const sums = new Map();
  for (const { file } of files.slice(0, 32)) {
    const text = (await file.slice(0, 128_000).text()).replace(/"(query|pos|neg|pos_scores|neg_scores|prompt|type)"\s*:/g, "");
    for (const [name, pattern] of SCRIPTS) {
      const many = text.match(pattern)?.length ?? 0;
      if (many) sums.set(name, (sums.get(name) ?? 0) + many);
    }
  }
  return [...sums].sort((one, two) => two[1] - one[1]);
}

/** Blobs that grow: the browser may keep them on the disk. */
class Sink {
  blob = new Blob();
  parts = [];
  bytes = 0;
  add(bytes) {
    if (!bytes.length) return;
    this.parts.push(bytes);
    this.bytes += bytes.length;
    if (this.bytes > 8e6) this.flush();
  }
  flush() {
    this.blob = new Blob([this.blob, ...this.parts], { type: "application/jsonl" });
    this.parts = [];
    this.bytes = 0;
    return this.blob;
  }
}

async function repair({ files, dropRepeated, requireNegatives }) {
  const total = files.reduce((sum, entry) => sum + entry.file.size, 0);
  const repairer = new bge.Repairer(dropRepeated, requireNegatives);
  const [cleaned, quarantine] = [new Sink(), new Sink()];
  const drain = () => {
    cleaned.add(repairer.takeCleaned());
    quarantine.add(repairer.takeQuarantine());
  };
  try {
    let [bytes, told] = [0, 0];
    for (const { file, name } of files) {
      repairer.startFile(name);
      await stream(file, (chunk) => {
        repairer.push(chunk);
        drain();
        bytes += chunk.length;
        const now = performance.now();
        if (now - told > 100) {
          told = now;
          postMessage({ type: "progress", total, bytes });
        }
      });
    }
    const report = repairer.finish();
    drain();
    postMessage({ type: "repaired", report, cleaned: cleaned.flush(), quarantine: quarantine.flush() });
  } finally {
    repairer.free();
  }
}

async function split({ files, share }) {
  const total = 2 * files.reduce((sum, entry) => sum + entry.file.size, 0);
  const splitter = new bge.Splitter(share, 42, false);
  const [train, dev] = [new Sink(), new Sink()];
  let [bytes, told] = [0, 0];
  const pass = async () => {
    for (const { file } of files) {
      await stream(file, (chunk) => {
        splitter.push(chunk);
        train.add(splitter.takeTrain());
        dev.add(splitter.takeDev());
        bytes += chunk.length;
        const now = performance.now();
        if (now - told > 100) {
          told = now;
          postMessage({ type: "progress", total, bytes });
        }
      });
      splitter.endFile();
      train.add(splitter.takeTrain());
      dev.add(splitter.takeDev());
    }
  };
  try {
    await pass();
    const report = splitter.draw();
    await pass();
    postMessage({ type: "split", report, train: train.flush(), dev: dev.flush() });
  } finally {
    splitter.free();
  }
}

const JOBS = { validate, repair, split };

onmessage = async ({ data }) => {
  if (data.type === "cancel") {
    stop = true;
    return;
  }
  if (data.type === "memory") {
    await ready;
    postMessage({ type: "memory", bytes: main.memory.buffer.byteLength });
    return;
  }
  await ready;
  stop = false;
  try {
    await JOBS[data.type](data);
  } catch (error) {
    postMessage(error instanceof Cancelled ? { type: "cancelled" } : { type: "failed", message: error.message ?? String(error) });
  }
};
