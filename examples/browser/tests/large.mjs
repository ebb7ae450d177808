// A large generated file through the page: `node examples/browser/tests/large.mjs [MEGABYTES]`, 1000 if not given.
//
// Memory is that of the process of the tab, as the system counts it, five times a second; and the heaps in the end. It fails
// where the process has grown by 300 MB at any time.

import assert from "node:assert/strict";
import { appendFileSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { browser, close, end, memory, open, scratch } from "./harness.mjs";

const megabytes = Number(process.argv[2] ?? 1000);
const path = join(scratch, "large.jsonl");
writeFileSync(path, "");
const words = "the of a retrieval passage naïve query model answer water light 東京 book river seven".split(" ");
let state = 7;
const next = (below) => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8) % below;
const text = (long) => Array.from({ length: long + next(long) }, () => words[next(words.length)]).join(" ");
for (let row = 0, size = 0; size < megabytes * 1e6;) {
  const lines = [];
  for (let many = 0; many < 5000; many += 1, row += 1) lines.push(JSON.stringify({ query: `${row} ${text(6)}`, pos: [`p${row} ${text(40)}`], neg: [`n${row} ${text(40)}`], pos_scores: [0.93], neg_scores: [0.12] }));
  const block = Buffer.from(`${lines.join("\n")}\n`);
  appendFileSync(path, block);
  size += block.length;
}

/** Bytes of the processes that show pages: what is theirs alone, without mapped files. */
async function resident(session) {
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const ids = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => id);
  const anonymous = (id) => Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${id}/status`, "utf8"))[1]) * 1024;
  return ids.reduce((sum, id) => sum + anonymous(id), 0);
}

let failed = false;
try {
  const tab = await open();
  const session = await browser.newBrowserCDPSession();
  const [heaps, before] = [await memory(tab), await resident(session)];
  let most = before;
  const timer = setInterval(() => resident(session).then((now) => { most = Math.max(most, now); }, () => {}), 200);
  const started = performance.now();
  await tab.page.setInputFiles("#files", path);
  await tab.page.waitForSelector("#result .facts", { timeout: 600_000 });
  const seconds = (performance.now() - started) / 1000;
  clearInterval(timer);
  const size = statSync(path).size / 1e6;
  const grown = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
  console.log(`${size.toFixed(0)} MB in ${seconds.toFixed(1)} s, ${(size / seconds).toFixed(0)} MB/s, ${await tab.page.textContent("#said")}`);
  console.log(`the process grew by ${grown(most - before)} at the most, the heaps by ${grown((await memory(tab)) - heaps)}`);
  assert.ok(most - before < 300e6, "the tab grew by 300 MB");
  await close(tab);
} catch (error) {
  failed = true;
  console.error(error.stack);
}
await end(failed);
