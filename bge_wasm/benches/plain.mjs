// The same checks in plain JavaScript, as one would write them: what the validator is measured against.

/** Triplets with scores, no row twice. */
export function make(bytes) {
  const words = "the of a retrieval passage \\\"quoted\\\" naïve query model answer water light 東京 book river seven".split(" ");
  let state = 7;
  const next = (n) => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8) % n;
  const text = (long) => Array.from({ length: long + next(long) }, () => words[next(words.length)]).join(" ");
  const lines = [];
  for (let size = 0, row = 0; size < bytes; row += 1) {
    const line = `{"query": "${row} ${text(6)}", "pos": ["${row} ${text(40)}"], "neg": ["n${row} ${text(40)}", "m${row} ${text(40)}"], "pos_scores": [0.93], "neg_scores": [0.12, 0.034]}\n`;
    size += line.length;
    lines.push(line);
  }
  return new TextEncoder().encode(lines.join(""));
}

export const NULL_WORDS = new Set(["none", "nan", "null", "n/a"]);

/** The checks of a row and of the whole, as one would write them in JavaScript. */
export class Plain {
  decoder = new TextDecoder("utf-8", { fatal: false });
  rest = "";
  report = { rows: 0, errors: 0, warnings: 0, lengths: [new Map(), new Map(), new Map()], negatives: new Map() };
  queries = new Set();
  passages = new Set();

  push(chunk) {
    const lines = (this.rest + this.decoder.decode(chunk, { stream: true })).split("\n");
    this.rest = lines.pop();
    for (const line of lines) this.row(line);
  }

  text(value, kind) {
    const { report } = this;
    if (typeof value !== "string") return void (report.errors += 1);
    if (!value.trim()) report.errors += 1;
    else if (value.length < 6 && NULL_WORDS.has(value.toLowerCase())) report.warnings += 1;
    report.lengths[kind].set(value.length, (report.lengths[kind].get(value.length) ?? 0) + 1);
  }

  row(line) {
    const { report } = this;
    if (!line.trim()) return;
    let row;
    try {
      row = JSON.parse(line);
    } catch {
      return void (report.errors += 1);
    }
    report.rows += 1;
    if (row === null || typeof row !== "object" || Array.isArray(row)) return void (report.errors += 1);
    if (line.includes("\ufffd")) report.warnings += 1;
    this.text(row.query, 0);
    if (this.queries.has(row.query)) report.warnings += 1;
    this.queries.add(row.query);
    for (const [kind, key] of [[1, "pos"], [2, "neg"]]) {
      const texts = row[key] ?? [];
      if (!Array.isArray(texts) || (kind === 1 && texts.length === 0)) {
        report.errors += 1;
        continue;
      }
      for (const text of texts) {
        this.text(text, kind);
        this.passages.add(text);
        if (text === row.query) report.warnings += 1;
      }
      if (new Set(texts).size < texts.length) report.warnings += 1;
      const scores = row[`${key}_scores`];
      if (scores != null && (!Array.isArray(scores) || scores.length !== texts.length || !scores.every(Number.isFinite))) report.errors += 1;
    }
    if (row.pos?.some?.((text) => row.neg?.includes?.(text))) report.warnings += 1;
    const many = row.neg?.length ?? 0;
    report.negatives.set(many, (report.negatives.get(many) ?? 0) + 1);
  }

  finish() {
    if (this.rest) this.row(this.rest);
    return this.report;
  }
}

/** Seconds and rows of one reader over all bytes. */
export function time(bytes, make) {
  const started = performance.now();
  const reader = make();
  const CHUNK = 1 << 20;
  for (let at = 0; at < bytes.length; at += CHUNK) reader.push(bytes.subarray(at, at + CHUNK));
  const { rows } = reader.finish();
  return { seconds: (performance.now() - started) / 1000, rows };
}

/** The middle one of an odd number. */
export const median = (numbers) => [...numbers].sort((one, two) => one - two)[numbers.length >> 1];

/** Times plain JavaScript and the validator in turns, so that both meet the same machine: seconds of each round. */
export function pairs(bytes, rounds, validator) {
  const times = { plain: [], wasm: [] };
  for (let round = 0; round < rounds; round += 1) {
    const plain = time(bytes, () => new Plain());
    const wasm = time(bytes, validator);
    if (plain.rows !== wasm.rows) throw new Error(`rows differ: ${plain.rows} and ${wasm.rows}`);
    times.plain.push(plain.seconds);
    times.wasm.push(wasm.seconds);
  }
  return times;
}
