// Reads files as streams, off the page's thread: validation, the lines it points at, repairs, splits, conversions.

import init, * as bge from "./pkg/bge_wasm.js";
import initTools, * as tools from "./pkg/bge_wasm_tools.js";

let loaded;
let counting;
let stop = false;

const ready = Promise.all([init(), initTools()]).then((modules) => {
  loaded = modules;
  postMessage({ type: "ready" });
}, (error) => postMessage({ type: "failed", message: `the checks could not be loaded: ${error.message}` }));

class Cancelled extends Error {}

/** Bytes that are read at once. */
const CHUNK = 1 << 20;

/**
 * Hands every chunk of a file to `take`; it may say that it has enough by returning true.
 *
 * The browser fills one buffer again and again: what `read()` alone would return piles up until it is collected, which was
 * the whole file. A chunk is to be used at once.
 */
async function stream(file, take) {
  let buffer = new ArrayBuffer(CHUNK);
  const reader = readerOf(file.stream());
  try {
    for (;;) {
      const { done, value } = await reader.read(new Uint8Array(buffer));
      if (stop) throw new Cancelled();
      if (done || take(value)) return;
      buffer = value.buffer;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A reader that fills a buffer, or, where a browser has none for files, any: it ignores the buffer and brings its own. */
function readerOf(stream) {
  try {
    return stream.getReader({ mode: "byob" });
  } catch {
    return stream.getReader();
  }
}

/** Reads files one after another, and tells the page ten times a second how far it is; `more` is what else to tell. */
class Reading {
  bytes = 0;
  told = 0;

  constructor(files, passes = 1, more = () => ({})) {
    this.files = files;
    this.total = passes * files.reduce((sum, entry) => sum + entry.file.size, 0);
    this.more = more;
  }

  /** One pass: `start` gets every entry, `take` every chunk. */
  async pass(start, take, end = () => {}) {
    for (const entry of this.files) {
      start(entry);
      await stream(entry.file, (chunk) => {
        take(chunk);
        this.bytes += chunk.length;
        const now = performance.now();
        if (now - this.told > 100) {
          this.told = now;
          postMessage({ type: "progress", total: this.total, bytes: this.bytes, ...this.more() });
        }
      });
      end();
    }
  }
}

/** The module with tokenizers, loaded when the first tokenizer comes. */
async function withTokens() {
  if (!counting) {
    const module = await import("./pkg/bge_wasm_tokens.js");
    await module.default();
    counting = module;
  }
  return counting;
}

const bytesOf = async (file) => new Uint8Array(await file.arrayBuffer());

async function validate({ files, config, module, tokenizer }) {
  const maker = tokenizer ? await withTokens() : bge;
  const validator = new maker.Validator(config, module);
  try {
    if (tokenizer) validator.countTokens(await bytesOf(tokenizer));
    const reading = new Reading(files, 1, () => validator.progress());
    await reading.pass(({ name, argument, folder }) => validator.startFile(name, argument, folder), (chunk) => validator.push(chunk));
    const text = validator.finishText();
    const report = JSON.parse(text);
    postMessage({ type: "validated", text, report, excerpts: await excerpts(files, report), scripts: await scripts(files) });
  } finally {
    validator.free();
  }
}

/** How a report names a row of a file: by its line, or by its number in an array. */
const rowOf = ({ line, element }) => element ? `element ${element}` : line;

/** The text of the rows that the report points at, by file and row. */
async function excerpts(files, report) {
  const wanted = new Map();
  for (const issue of report.issues.flatMap((group) => group.first)) {
    if (issue.line && issue.path) wanted.set(issue.path, [...(wanted.get(issue.path) ?? []), issue]);
  }
  const found = {};
  for (const { file, name } of files) {
    if (!wanted.has(name)) continue;
    const numbers = (kind) => Uint32Array.from(wanted.get(name), (issue) => issue[kind] ?? 0);
    const search = new bge.Excerpts(numbers("line"), 240, numbers("element"));
    await stream(file, (chunk) => search.push(chunk));
    found[name] = Object.fromEntries(search.finish().map(({ text, cut, ...place }) => [rowOf(place), cut ? `${text}…` : text]));
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
  const repairer = new tools.Repairer(dropRepeated, requireNegatives);
  const [cleaned, quarantine] = [new Sink(), new Sink()];
  const drain = () => {
    cleaned.add(repairer.takeCleaned());
    quarantine.add(repairer.takeQuarantine());
  };
  try {
    await new Reading(files).pass(({ name }) => repairer.startFile(name), (chunk) => { repairer.push(chunk); drain(); });
    const report = repairer.finish();
    drain();
    postMessage({ type: "repaired", report, cleaned: cleaned.flush(), quarantine: quarantine.flush() });
  } finally {
    repairer.free();
  }
}

async function split({ files, share }) {
  const splitter = new tools.Splitter(share, 42, false);
  const [train, dev] = [new Sink(), new Sink()];
  const drain = () => {
    train.add(splitter.takeTrain());
    dev.add(splitter.takeDev());
  };
  const reading = new Reading(files, 2);
  const pass = () => reading.pass(() => {}, (chunk) => { splitter.push(chunk); drain(); }, () => { splitter.endFile(); drain(); });
  try {
    await pass();
    const report = splitter.draw();
    await pass();
    postMessage({ type: "split", report, train: train.flush(), dev: dev.flush() });
  } finally {
    splitter.free();
  }
}

async function byLength({ files, lengths, tokenizer }) {
  const maker = tokenizer ? await withTokens() : tools;
  const splitter = new maker.LengthSplitter(Uint32Array.from(lengths));
  try {
    if (tokenizer) splitter.countTokens(await bytesOf(tokenizer));
    const buckets = splitter.report().buckets.map(() => new Sink());
    const quarantine = new Sink();
    const drain = () => {
      buckets.forEach((bucket, at) => bucket.add(splitter.takeRows(at)));
      quarantine.add(splitter.takeQuarantine());
    };
    await new Reading(files).pass(({ name }) => splitter.startFile(name), (chunk) => { splitter.push(chunk); drain(); });
    const report = splitter.finish();
    drain();
    postMessage({ type: "byLength", report, buckets: buckets.map((bucket) => bucket.flush()), quarantine: quarantine.flush() });
  } finally {
    splitter.free();
  }
}

/** Which JSON files hold rows of another kind: their beginning names no `pos`, and the converter makes rows of it. */
async function look({ files }) {
  const foreign = [];
  for (const { file } of files) {
    const head = await bytesOf(file.slice(0, 65_536));
    let written = 0;
    if (!/"pos"\s*:/.test(new TextDecoder().decode(head))) {
      const converter = new tools.Converter();
      converter.startFile(file.name, "rows");
      converter.push(head);
      ({ written } = converter.finish());
      converter.free();
    }
    foreign.push(written > 0);
  }
  postMessage({ type: "looked", foreign });
}

async function convert({ files, options }) {
  const converter = new tools.Converter(options);
  const [rows, quarantine] = [new Sink(), new Sink()];
  const drain = () => {
    rows.add(converter.takeRows());
    quarantine.add(converter.takeQuarantine());
  };
  try {
    const reading = new Reading(files, 1, () => ({ rows: converter.report().rows }));
    await reading.pass(({ name, role }) => converter.startFile(name, role), (chunk) => { converter.push(chunk); drain(); });
    const report = converter.finish();
    drain();
    postMessage({ type: "converted", report, rows: rows.flush(), quarantine: quarantine.flush() });
  } finally {
    converter.free();
  }
}

const JOBS = { validate, repair, split, byLength, look, convert };

onmessage = async ({ data }) => {
  if (data.type === "cancel") {
    stop = true;
    return;
  }
  if (data.type === "memory") {
    await ready;
    postMessage({ type: "memory", bytes: loaded.reduce((sum, module) => sum + module.memory.buffer.byteLength, 0) });
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
