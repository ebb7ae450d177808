// How fast the validator is beside plain JavaScript: `node bge_wasm/benches/throughput.mjs [MEGABYTES | FILE]`, after bge_wasm/build.sh.
//
// Both read the same chunks of 1 MiB: plain JavaScript decodes them as a stream, splits lines and parses each with JSON.parse,
// with the checks that every row gets (plain.mjs). Medians of five rounds in turns, and of their ratios. With BGE set, the
// native command reads the same file in each round, on one thread as it always does. `examples/browser/tests/throughput.mjs`
// does the same in Chromium.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { make, median, pairs } from "./plain.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const bge = createRequire(import.meta.url)(join(here, "..", "pkg", "node", "bge_wasm.js"));
const from = process.argv[2] ?? "100";
const bytes = existsSync(from) ? new Uint8Array(readFileSync(from)) : make(Number(from) * 1e6);
const folder = mkdtempSync(join(tmpdir(), "bge-throughput-"));
const path = join(folder, "train.jsonl");
writeFileSync(path, bytes);
const times = { plain: [], wasm: [], native: [] };
for (let round = 0; round < 5; round += 1) {
  const { plain, wasm } = pairs(bytes, 1, () => {
    const validator = new bge.Validator({});
    validator.startFile("train.jsonl", 0);
    return validator;
  });
  times.plain.push(...plain);
  times.wasm.push(...wasm);
  if (process.env.BGE) {
    const { stderr } = spawnSync(process.env.BGE, ["validate", path, "--json"], { encoding: "utf8", maxBuffer: 1 << 26 });
    // Its speed has more digits than its seconds.
    times.native.push(bytes.length / 1e6 / Number(/, ([\d.]+) MB\/s/.exec(stderr)[1]));
  }
}
rmSync(folder, { recursive: true });
const megabytes = bytes.length / 1e6;
const ratio = (of, to) => median(of.map((seconds, round) => seconds / to[round])).toFixed(2);
for (const [name, seconds] of Object.entries(times)) {
  if (seconds.length) console.log(`${name.padEnd(7)} ${(megabytes / median(seconds)).toFixed(0).padStart(5)} MB/s, ${ratio(times.plain, seconds)} times plain JavaScript`);
}
if (times.native.length) console.log(`native is ${ratio(times.wasm, times.native)} times the WebAssembly`);
