// How fast the validator is beside plain JavaScript in Chromium: `node examples/browser/tests/throughput.mjs [MEGABYTES]`.
//
// The functions of bge_wasm/benches/plain.mjs run in the page, beside its own WebAssembly.

import { Plain, make, median, NULL_WORDS, pairs, time } from "../../../bge_wasm/benches/plain.mjs";
import { end, open } from "./harness.mjs";

const { page } = await open();
const times = await page.evaluate(`(async () => {
  const { default: init, Validator } = await import("./pkg/bge_wasm.js");
  await init();
  const NULL_WORDS = new Set(${JSON.stringify([...NULL_WORDS])});
  ${[Plain, make, time, pairs].map(String).join("\n")}
  return pairs(make(${Number(process.argv[2] ?? 100) * 1e6}), 5, () => {
    const validator = new Validator({});
    validator.startFile("train.jsonl", 0);
    return validator;
  });
})()`);
const ratio = median(times.plain.map((seconds, round) => seconds / times.wasm[round]));
const megabytes = make(Number(process.argv[2] ?? 100) * 1e6).length / 1e6;
console.log(`plain ${(megabytes / median(times.plain)).toFixed(0)} MB/s, wasm ${(megabytes / median(times.wasm)).toFixed(0)} MB/s: ${ratio.toFixed(2)} times plain JavaScript`);
await end(false);
