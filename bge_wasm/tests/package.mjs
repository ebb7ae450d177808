// Tests of the built package in Node: `node --test bge_wasm/tests/package.mjs`, after bge_wasm/build.sh.
//
// BGE names the native command for the comparison of reports; without it, target/{release,debug}/bge is taken.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "..", "..");
const pkg = join(here, "..", "pkg");
const module = (name) => createRequire(import.meta.url)(join(pkg, "node", `${name}.js`));
const bge = module("bge_wasm");
const settings = module("bge_wasm_settings");
const tools = module("bge_wasm_tools");

const ROWS = [
  '{"query": "what melts ice?", "pos": ["Salt does."], "neg": ["Ice is cold.", "Ice is cold."]}',
  '{"query": "was ist das?", "pos": ["Ein Süßwasserfisch, 魚."], "neg": ["n"], "extra": [1, {"a": null}]}',
  '{"query": "", "pos": ["p"], "neg": ["n"]}',
  '{"query": "x", "pos": "p", "neg": ["n"]}',
  '{"query": "y", "pos": ["p"], "neg": ["p"], "pos_scores": [1], "neg_scores": [NaN]}',
  '{"query": "cut off", "pos": ["p"',
  "",
  '{"query": "z", "pos": ["p", " "], "neg": [], "pos_scores": [1.5, 2], "prompt": "a: ", "type": "retrieval"}',
];
const SAMPLES = {
  empty: Buffer.from(""),
  bad: Buffer.from(ROWS.join("\n")),
  crlf: Buffer.from(`\ufeff${ROWS.join("\r\n")}\r\n`),
  array: Buffer.from(`[${ROWS[0]},\n${ROWS[1]}]`),
  bytes: Buffer.from(Array.from({ length: 4096 }, (_, at) => (at * 7919 + (at >> 3)) % 256)),
  toy: readFileSync(join(root, "examples", "data", "toy.jsonl")),
};

function report(bytes, name, { chunk = 1 << 20, config = {}, module } = {}) {
  const validator = new bge.Validator(config, module);
  validator.startFile(name, 0);
  for (let at = 0; at < bytes.length; at += chunk) validator.push(bytes.subarray(at, at + chunk));
  return validator.finishText();
}

function command() {
  const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
  const found = [process.env.BGE, join(target, "release", "bge"), join(target, "debug", "bge")].find((path) => path && existsSync(path));
  assert.ok(found, "build the command bge first, or name it in BGE");
  return found;
}

test("the report equals that of `bge validate --json` in every byte", () => {
  const folder = mkdtempSync(join(tmpdir(), "bge-wasm-"));
  try {
    const flags = { same_dataset_within_batch: true, knowledge_distillation: true, train_group_size: 4 };
    const words = ["--same_dataset_within_batch", "--knowledge_distillation", "True", "--train_group_size", "4"];
    for (const [name, bytes] of Object.entries(SAMPLES)) {
      const path = join(folder, `${name}.jsonl`);
      writeFileSync(path, bytes);
      for (const [config, more] of [[{}, []], [flags, words]]) {
        const native = spawnSync(command(), ["validate", path, "--json", ...more], { encoding: "utf8" });
        assert.equal(report(bytes, path, { config }), native.stdout, `${name}: ${native.stderr}`);
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("chunk borders anywhere give the same report", () => {
  for (const [name, bytes] of Object.entries(SAMPLES)) {
    const whole = report(bytes, name);
    for (const chunk of [1, 2, 3, 5, 17, 100, 1023]) assert.equal(report(bytes, name, { chunk }), whole, `${name} by ${chunk}`);
  }
});

test("any bytes make a report and never a trap", () => {
  let state = 1;
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8;
  const pieces = ['{"query":', '"pos":[', '"neg":', "[", "]", "{", "}", ",", ":", '"', "\\u12", "\\ud800", "null", "1e999", "\n", "\r", "\ufeff", "é", "\xff"];
  for (let round = 0; round < 3000; round += 1) {
    let text = Buffer.alloc(0);
    for (let left = next() % 40; left > 0; left -= 1) {
      const part = next() % 4 === 0 ? Buffer.from([next() & 255]) : Buffer.from(pieces[next() % pieces.length]);
      text = Buffer.concat([text, part]);
    }
    assert.ok(JSON.parse(report(text, "f", { chunk: 1 + (next() % 9) })).verdict);
    const repairer = new tools.Repairer(true, false);
    repairer.startFile("f");
    repairer.push(text);
    const done = repairer.finish();
    const lines = Buffer.from(repairer.takeCleaned()).toString().split("\n").length - 1;
    assert.equal(lines, done.kept);
    repairer.free();
  }
});

test("progress counts while a file is read, and an ended validator says so", () => {
  const validator = new bge.Validator({});
  validator.startFile("a");
  validator.push(SAMPLES.toy.subarray(0, 500));
  const { bytes, rows } = validator.progress();
  assert.equal(bytes, 500);
  assert.ok(rows > 0);
  validator.finish();
  assert.throws(() => validator.push(SAMPLES.toy), /has ended/);
  assert.throws(() => new bge.Validator({ train_group_sise: 3 }), /train_group_size/);
  assert.throws(() => new bge.Validator({}, "nonsense"), Error);
});

test("settings go through every format and come back", () => {
  const config = { model_name_or_path: "BAAI/bge-base-en-v1.5", train_data: ["a b.jsonl"], output_dir: "out", learning_rate: 1e-5, query_instruction_for_retrieval: "it's: " };
  for (const format of ["toml", "json", "flags", "flagembedding"]) {
    const text = settings.renderConfig(config, format);
    const parsed = settings.parseConfig(text, format === "flagembedding" ? "flags" : format);
    assert.ok(parsed.ok, JSON.stringify(parsed.issues));
    assert.deepEqual(parsed.config, { ...settings.defaultConfig(), ...config }, format);
  }
  assert.equal(JSON.parse(settings.renderConfig(config, "deepspeed")).optimizer.params.lr, 1e-5);
  assert.match(settings.renderConfig(config, "flagembedding"), /^torchrun --nproc_per_node 1/);
  assert.deepEqual(settings.checkConfig(config), []);
  assert.deepEqual(settings.checkConfig({ ...config, temperature: 0 }).map((issue) => issue.field), ["temperature"]);
  const schema = settings.configSchema();
  assert.deepEqual(Object.keys(settings.defaultConfig()), Object.keys(schema.properties));
  assert.equal(settings.parseConfig("--learning_rat 3", "flags").ok, false);
  assert.equal(settings.parseConfig("torchrun -m FlagEmbedding.finetune.reranker.encoder_only.base --output_dir o", "flags").module, "reranker.encoder_only.base");
});

test("lines that a report points at are found", () => {
  const excerpts = new bge.Excerpts(Uint32Array.of(3, 6), 12);
  for (const byte of SAMPLES.bad) excerpts.push(Uint8Array.of(byte));
  assert.deepEqual(excerpts.finish(), [{ line: 3, text: ROWS[2].slice(0, 12), cut: true }, { line: 6, text: ROWS[5].slice(0, 12), cut: true }]);
  const elements = new bge.Excerpts(Uint32Array.of(1), 12, Uint32Array.of(2));
  elements.push(new TextEncoder().encode("[{},{},{}]"));
  assert.deepEqual(elements.finish(), [{ line: 1, text: "{}", cut: false, element: 2 }]);
});

test("the main module stays within 700 KB, 250 KB packed, settings within 450 and 180, tools within 510 and 210", () => {
  const sizes = (name) => {
    const bytes = readFileSync(join(pkg, "web", `${name}_bg.wasm`));
    const packed = gzipSync(bytes, { level: 9 }).length;
    console.log(`${name}: ${bytes.length} bytes, ${packed} packed`);
    return [bytes.length, packed];
  };
  const within = ([raw, packed], most, mostPacked) => assert.ok(raw <= most && packed <= mostPacked, `${raw} bytes, ${packed} packed`);
  within(sizes("bge_wasm"), 700_000, 250_000);
  within(sizes("bge_wasm_settings"), 450_000, 180_000);
  within(sizes("bge_wasm_tools"), 510_000, 210_000);
  sizes("bge_wasm_tokens");
});

test("no path of the machine that built it is in the package", () => {
  for (const name of ["bge_wasm", "bge_wasm_settings", "bge_wasm_tools", "bge_wasm_tokens"]) {
    assert.equal(readFileSync(join(pkg, "web", `${name}_bg.wasm`)).includes(`${homedir()}/`), false, name);
  }
});

test("the types hold in TypeScript", () => {
  const folder = mkdtempSync(join(pkg, "types-"));
  try {
    const source = join(folder, "use.ts");
    writeFileSync(source, `
      import init, { Validator, Excerpts } from "../web/bge_wasm.js";
      import { checkConfig, configSchema, modules, parseConfig, renderConfig } from "../web/bge_wasm_settings.js";
      import { Converter, LengthSplitter, Repairer, Splitter, defaultLengths, fileRole, modelPresets, planRun } from "../web/bge_wasm_tools.js";
      import type { Config, DatasetReport, FileRole, Issue, ModuleName, Plan } from "../web/bge_wasm.js";
      await init();
      const name: ModuleName = modules()[0]!.name;
      const issues: Issue[] = checkConfig({ learning_rate: 1e-5 }, name);
      const text: string = renderConfig({}, "flagembedding");
      const config: Config | null = parseConfig(text, "flags").config;
      const validator = new Validator(config ?? {}, name);
      validator.startFile("a", 0);
      validator.push(new Uint8Array(3));
      const report: DatasetReport = validator.finish();
      const help: string = configSchema().properties["seed"]!.description;
      const kept: number = new Repairer(true, false).finish().kept;
      const line: number | undefined = new Excerpts(new Uint32Array(1), 5).finish()[0]?.line;
      const role: FileRole | undefined = fileRole("a.csv");
      const converter = new Converter({ group: true, positives: ["answer"] });
      converter.startFile("a.csv", role);
      const written: number = converter.finish().written;
      const label: string | undefined = new LengthSplitter(defaultLengths()).finish().buckets[0]?.label;
      const plan: Plan = planRun({ passage_max_len: 512 }, name, { model: modelPresets()[0]!, zero_stage: 2, memory_gib: 8 });
      const advised: string | undefined = plan.advice?.message;
      // @ts-expect-error: there are four stages
      planRun({}, undefined, { zero_stage: 4 });
      // @ts-expect-error: no such format
      renderConfig({}, "yaml");
      export { issues, report, help, kept, line, written, label, advised };
    `);
    const tsc = join(root, "examples", "browser", "tests", "node_modules", "typescript", "bin", "tsc");
    execFileSync(process.execPath, [tsc, "--noEmit", "--strict", "--noUncheckedIndexedAccess", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler", "--lib", "es2022,dom,esnext.disposable", "--skipLibCheck", "false", source], { stdio: "pipe", encoding: "utf8" });
  } catch (error) {
    assert.fail(error.stdout ?? error);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
