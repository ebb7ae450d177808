// Tests of the converter, the split by length and the planner in Node: `node --test bge_wasm/tests/tools.mjs`, after
// bge_wasm/build.sh tokens. `native.rs` holds the same cases against the same `expected.json` outside of WebAssembly.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const node = join(here, "..", "pkg", "node");
const require = createRequire(import.meta.url);
const bge = require(join(node, "bge_wasm_tools.js"));
const read = (name) => JSON.parse(readFileSync(join(here, name), "utf8"));
const text = (parts) => Buffer.concat(parts).toString();

/** Pushes the files of a case in pieces; `each` is called after every piece. */
function push(tool, files, chunk, each) {
  for (const [name, content] of files) {
    tool.startFile(name);
    const bytes = Buffer.from(content);
    for (let at = 0; at < bytes.length; at += chunk) {
      tool.push(bytes.subarray(at, at + chunk));
      each();
    }
  }
}

function convert({ files, options }, chunk) {
  const converter = new bge.Converter(options);
  const [rows, quarantine] = [[], []];
  const drain = () => {
    rows.push(converter.takeRows());
    quarantine.push(converter.takeQuarantine());
  };
  try {
    push(converter, files, chunk, drain);
    const report = converter.finish();
    drain();
    return { report, rows: text(rows), quarantine: text(quarantine) };
  } catch (error) {
    return { error: error.message };
  } finally {
    converter.free();
  }
}

function byLength({ files, lengths }, chunk) {
  const splitter = new bge.LengthSplitter(lengths && Uint32Array.from(lengths));
  const labels = splitter.report().buckets.map((bucket) => bucket.label);
  const rows = labels.map(() => []);
  const quarantine = [];
  const drain = () => {
    rows.forEach((list, at) => list.push(splitter.takeRows(at)));
    quarantine.push(splitter.takeQuarantine());
  };
  push(splitter, files, chunk, drain);
  const { mean_length, ...report } = splitter.finish();
  drain();
  const buckets = report.buckets.map(({ label, ...bucket }) => bucket);
  return { report: { ...report, buckets }, mean_length, rows: Object.fromEntries(labels.map((label, at) => [label, text(rows[at])])), quarantine: text(quarantine) };
}

const KINDS = { convert, length: byLength, plan: ({ config, module, request }) => bge.planRun(config, module, request) };

test("every case gives what it gives outside of WebAssembly, however its bytes are cut", () => {
  const expected = read("expected.json");
  const cases = read("cases.json");
  assert.deepEqual(cases.map((one) => one.name), Object.keys(expected));
  for (const one of cases) {
    for (const chunk of [1 << 20, 1, 3, 7, 61]) assert.deepEqual(KINDS[one.kind](one, chunk), expected[one.name], `${one.name}, by ${chunk} bytes`);
  }
});

test("any bytes are converted and measured, or set aside, and never a trap", () => {
  let state = 9;
  const next = (below) => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8) % below;
  const pieces = ['{"anchor":', '"positive":', '"query":', '"pos":[', '"a"', "[", "]", "{", "}", ",", ":", '"', "\t", ";", "question,answer", "q1\td1\t1", '"_id":"q1"', "\n", "\r", "\ufeff", "é", "1e999"];
  const names = ["a.csv", "b.tsv", "c.jsonl", "qrels/train.tsv", "queries.jsonl", "corpus.jsonl"];
  for (let round = 0; round < 2000; round += 1) {
    const files = names.filter(() => next(3) === 0).map((name) => [name, Buffer.concat(Array.from({ length: next(30) }, () => (next(4) === 0 ? Buffer.from([next(256)]) : Buffer.from(pieces[next(pieces.length)]))))]);
    files.sort((one, two) => ORDER.indexOf(bge.fileRole(one[0])) - ORDER.indexOf(bge.fileRole(two[0])));
    const chunk = 1 + next(9);
    const done = convert({ files, options: { group: next(2) === 0, quotes: next(4) !== 0 } }, chunk);
    assert.equal(done.rows.split("\n").length - 1, done.report.written);
    assert.equal(done.quarantine.split("\n").length - 1, done.report.quarantined);
    const parted = byLength({ files, lengths: [next(5), next(50)] }, chunk);
    assert.equal(parted.quarantine.split("\n").length - 1, parted.report.below + parted.report.unreadable);
  }
});

const ORDER = ["qrels", "queries", "corpus", "table", "rows"];

test("a file's name says what it holds, and what is wrong is said", () => {
  const roles = { "beir/qrels/test.tsv": "qrels", "queries.jsonl": "queries", "a/corpus.jsonl": "corpus", "x.csv": "table", "x.json": "rows", "notes.txt": undefined };
  for (const [name, role] of Object.entries(roles)) assert.equal(bge.fileRole(name), role, name);
  assert.throws(() => new bge.Converter({ grup: true }), /the options of a conversion.*grup/);
  const converter = new bge.Converter();
  assert.throws(() => converter.startFile("notes.txt"), /notes\.txt/);
  assert.throws(() => converter.startFile("notes.txt", "nonsense"), /qrels, queries, corpus, table, rows/);
  converter.startFile("notes.txt", "table");
  converter.push(Buffer.from("query,pos\na,b\nc,d\n"));
  assert.equal(converter.report().written, 2);
  converter.finish();
  assert.throws(() => converter.finish(), /has ended/);
  assert.throws(() => new bge.LengthSplitter(Uint32Array.of()), /no length/);
  assert.deepEqual([...bge.defaultLengths()].slice(0, 3), [0, 500, 1000]);
  assert.equal(new bge.LengthSplitter().report().buckets.at(-1).label, "len-7000-inf");
});

test("what a plan cannot be made of is said", () => {
  const plan = (request, config = { model_name_or_path: "BAAI/bge-m3" }) => () => bge.planRun(config, undefined, request);
  assert.throws(plan({ model: "some/other" }), /config\.json.*bge-m3.*some\/other/s);
  assert.throws(plan({ config_json: '{"model_type": "llama"}' }), /config\.json/);
  assert.throws(plan({ report: "[]" }), /report/);
  assert.throws(plan({ zero_stage: 4 }), /zero_stage/);
  assert.throws(plan({ world_size: 0 }), /world_size/);
  assert.throws(plan({ memory_gib: -1 }), /memory_gib/);
  assert.throws(plan({ precision: "int8" }), /precision/);
  assert.throws(plan({ memory: 3 }), /there is no `memory`/);
  assert.throws(plan({}, { train_group_sise: 3 }), /train_group_sise/);
  for (const model of bge.modelPresets()) assert.ok(plan({ model })().memory.total > 1e8, model);
});

test("a plan is that of `bge config check --plan`", () => {
  const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
  const command = [process.env.BGE, join(target, "release", "bge"), join(target, "debug", "bge")].find((path) => path && existsSync(path));
  assert.ok(command, "build the command bge first, or name it in BGE");
  const config = { model_name_or_path: "BAAI/bge-base-en-v1.5", train_data: ["none.jsonl"], output_dir: "out", passage_max_len: 512, per_device_train_batch_size: 24 };
  for (const memory_gib of [4, 12.5, 64]) {
    const flags = ["--memory_gib", memory_gib, "--world_size", 2, "--zero_stage", 1, ...Object.entries(config).flatMap(([name, value]) => [`--${name}`, value])];
    const { stdout, stderr } = spawnSync(command, ["config", "check", "--plan", "--json", ...flags.map(String)], { encoding: "utf8" });
    assert.deepEqual(bge.planRun(config, undefined, { memory_gib, world_size: 2, zero_stage: 1, threads: availableParallelism() }), JSON.parse(stdout).plan, stderr);
  }
});

test("lengths in tokens are those of the validator", () => {
  const { LengthSplitter, Validator } = require(join(node, "bge_wasm_tokens.js"));
  const tokenizer = readFileSync(join(root, "tests", "fixtures", "parity", "models", "bert", "tokenizer.json"));
  const rows = readFileSync(join(root, "examples", "data", "toy.jsonl"));
  const validator = new Validator({});
  validator.countTokens(tokenizer);
  validator.startFile("toy.jsonl");
  validator.push(rows);
  const { queries, positives, negatives, rows: many } = validator.finish();
  const longest = Math.max(queries.tokens.max, positives.tokens.max, negatives.tokens.max);
  const splitter = new LengthSplitter(Uint32Array.of(0, longest));
  assert.throws(() => splitter.countTokens(Buffer.from("{}")), /no tokenizer\.json/);
  splitter.countTokens(tokenizer);
  splitter.startFile("toy.jsonl");
  splitter.push(rows);
  const report = splitter.finish();
  assert.equal(report.longest, longest);
  assert.ok(report.buckets[1].rows > 0);
  assert.equal(report.buckets[0].rows + report.buckets[1].rows, many);
  const texts = text([splitter.takeRows(0), splitter.takeRows(1)]).trim().split("\n");
  assert.deepEqual(texts.sort(), rows.toString().trim().split("\n").sort());
});
