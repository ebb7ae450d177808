// The page in a real Chromium: `node examples/browser/tests/browser.mjs`, after bge_wasm/build.sh tokens.
//
// CHROMIUM names the browser (default /usr/bin/chromium); SCREENSHOTS a folder for pictures.

import assert from "node:assert/strict";
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const page_folder = join(here, "..");
const root = join(page_folder, "..", "..");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

const server = createServer((request, response) => {
  const path = join(page_folder, normalize(new URL(request.url, "http://x").pathname).replace(/\/$/, "/index.html"));
  if (!path.startsWith(page_folder) || !existsSync(path)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/plain" });
  createReadStream(path).pipe(response);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const address = `http://127.0.0.1:${server.address().port}/`;

const scratch = mkdtempSync(join(tmpdir(), "bge-browser-"));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-precise-memory-info"],
});

const flows = [];
const flow = (name, run) => flows.push([name, run]);

/** A fresh page that fails on console errors, and that knows the requests since it was ready. */
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  const seen = { errors: [], requests: [], outside: [] };
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) seen.errors.push(message.text()); });
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  context.on("request", (request) => {
    const url = request.url();
    if (url.startsWith("blob:") || url.startsWith("data:")) return;
    seen.requests.push(url);
    if (!url.startsWith(address)) seen.outside.push(url);
  });
  await page.goto(address);
  await page.waitForSelector("html[data-ready=yes]", { timeout: 20_000 }).catch(() => assert.fail(`the page does not start: ${seen.errors.join("; ")}`));
  seen.requests.length = 0;
  return { page, seen, context };
}

async function close({ seen, context }, { requests = [] } = {}) {
  await context.close();
  assert.deepEqual(seen.errors, [], "console errors");
  assert.deepEqual(seen.outside, [], "requests to elsewhere");
  assert.deepEqual(seen.requests.map((url) => url.slice(address.length)).sort(), requests, "requests after load");
}

async function picture(page, name) {
  if (!process.env.SCREENSHOTS) return;
  mkdirSync(process.env.SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`), fullPage: true });
}

async function axe(page, where) {
  await page.evaluate(readFileSync(join(here, "node_modules", "axe-core", "axe.min.js"), "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const bad = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  assert.deepEqual(bad.map((one) => `${one.id}: ${one.nodes[0].html} ${one.nodes[0].failureSummary}`), [], where);
}

async function saved(page, selector) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
  const path = join(scratch, download.suggestedFilename());
  await download.saveAs(path);
  return { name: download.suggestedFilename(), text: readFileSync(path, "utf8") };
}

/** A file in the scratch folder. */
function put(name, text) {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

const inside = async (page) => {
  const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= seen, `the page is ${wide} wide in a window of ${seen}`);
};

flow("an example is judged, repaired and downloaded", async () => {
  const tab = await open();
  const { page } = tab;
  await axe(page, "before");
  await picture(page, "start");
  await page.click("#example");
  await page.waitForSelector("#findings .finding");
  assert.match(await page.textContent("#result .note h3"), /Not yet/);
  const text = await page.textContent("#findings");
  assert.match(text, /example\.jsonl:3/);
  assert.match(text, /A text without a question/);
  await axe(page, "with a report");
  await picture(page, "errors");
  const all = await page.locator("#findings .finding").count();
  await page.click("[data-filter=warning]");
  assert.ok((await page.locator("#findings .finding").count()) < all);
  assert.equal(await page.locator("#findings [data-severity=warning]").count(), 0);
  await page.click("[data-filter=warning]");
  await page.fill("#search", "no such word at all");
  assert.equal(await page.locator("#findings .finding").count(), 0);
  const report = JSON.parse((await saved(page, "#save-report")).text);
  assert.equal(report.verdict, "errors");
  await page.click("#start-repair");
  await page.waitForSelector("#repaired");
  assert.match(await page.textContent("#repaired"), /4 rows kept, 2 set aside/);
  const cleaned = await saved(page, "#save-cleaned");
  assert.equal(cleaned.text.trim().split("\n").length, 4);
  const aside = (await saved(page, "#save-quarantine")).text.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(aside.map((row) => [row.file, row.line]), [["example.jsonl", 3], ["example.jsonl", 5]]);
  assert.doesNotMatch(await page.textContent("#result"), /Not yet/);
  await page.fill("#share", "50");
  await page.click("#start-split");
  await page.waitForSelector("#save-dev");
  const [train, dev] = [(await saved(page, "#save-train")).text, (await saved(page, "#save-dev")).text];
  assert.deepEqual([train, dev].map((text) => text.trim().split("\n").length), [2, 2]);
  assert.deepEqual((train + dev).trim().split("\n").sort(), cleaned.text.trim().split("\n").sort());
  await axe(page, "after a repair");
  await picture(page, "repaired");
  await close(tab);
});

flow("several files, a packed one among them, and a folder", async () => {
  const folder = join(scratch, "folder-no_in_batch_neg");
  mkdirSync(folder);
  const toy = readFileSync(join(root, "examples", "data", "toy.jsonl"));
  writeFileSync(join(folder, "a.jsonl"), toy);
  writeFileSync(join(folder, "notes.txt"), "x");
  const tab = await open();
  const { page } = tab;
  await page.setInputFiles("#files", [join(folder, "a.jsonl"), put("b.json", `[${toy.toString().split("\n")[0]}]`), put("c.jsonl.gz", "x")]);
  await page.waitForSelector("#result .facts");
  assert.match(await page.textContent("#result .facts"), /Rows17Files2/);
  assert.match(await page.textContent("#failed"), /c\.jsonl\.gz/);
  await page.setInputFiles("#folder", folder);
  await page.waitForFunction(() => document.querySelector("#result .facts").textContent.includes("Rows16Files1"));
  assert.match(await page.textContent("#failed"), /notes\.txt/);
  await page.setInputFiles("#files", { name: "empty.jsonl", mimeType: "", buffer: Buffer.from("") });
  await page.waitForFunction(() => document.querySelector("#findings")?.textContent.includes("file empty"));
  await close(tab);
});

flow("the form checks, fills from presets and command lines, and writes every format", async () => {
  const tab = await open();
  const { page } = tab;
  assert.match(await page.textContent("#verdict"), /Still needed: model_name_or_path/);
  await page.click("#presets button:has-text('English, base')");
  assert.match(await page.textContent("#verdict"), /settings are fine/);
  await page.fill("#field-temperature", "0");
  assert.match(await page.textContent("#field-temperature-wrong"), /0/);
  assert.equal(await page.getAttribute("#field-temperature", "aria-invalid"), "true");
  await axe(page, "with a wrong setting");
  await page.fill("#field-temperature", "0.01");
  for (const [format, sign] of [["flags", /^bge finetune encoder_only\.base/], ["toml", /\[training\]|\[length\]/], ["json", /"temperature": 0\.01/], ["flagembedding", /torchrun/], ["deepspeed", /zero_optimization/]]) {
    await page.selectOption("#format", format);
    assert.match((await saved(page, "#save")).text, sign);
  }
  await picture(page, "settings");
  await page.fill("#find", "warmup");
  assert.equal(await page.isVisible("#field-warmup_ratio"), true);
  assert.equal(await page.isVisible("#field-temperature"), false);
  await page.fill("#find", "");
  await page.click("summary:has-text('Start from a command line')");
  await page.fill("#pasted", "torchrun --nproc_per_node 2 -m FlagEmbedding.finetune.reranker.encoder_only.base --model_name_or_path BAAI/bge-reranker-base --train_data d.jsonl --output_dir o --learning_rate 6e-5 --fp16");
  await page.click("#read");
  assert.equal(await page.inputValue("#module"), "reranker.encoder_only.base");
  assert.equal(await page.inputValue("#field-learning_rate"), "0.00006");
  await page.fill("#pasted", "--no_such_flag 3");
  await page.click("#read");
  assert.match(await page.textContent("#read-issues"), /no_such_flag/);
  for (const module of await page.locator("#module option").evaluateAll((options) => options.map((option) => option.value))) {
    await page.selectOption("#module", module);
    await page.click("#presets button >> nth=0");
    assert.match(await page.textContent("#verdict"), /settings are fine|planned/);
  }
  await close(tab);
});

flow("a tokenizer gives lengths in tokens and advice", async () => {
  const tokenizer = join(root, "tests", "fixtures", "parity", "models", "bert", "tokenizer.json");
  const tab = await open();
  const { page } = tab;
  await page.setInputFiles("#files", [tokenizer, join(root, "examples", "data", "toy.jsonl")]);
  await page.waitForSelector("#result .facts");
  const text = await page.textContent("#result");
  assert.match(text, /Length of queries, in tokens/);
  assert.match(text, /query_max_len 32 cuts/);
  await page.click("button:has-text('Use these lengths')");
  await page.waitForFunction(() => /That fits/.test(document.querySelector("#result").textContent));
  await picture(page, "tokens");
  await page.setInputFiles("#files", [put("tokenizer.json", "{}"), join(root, "examples", "data", "toy.jsonl")]);
  await page.waitForFunction(() => /no tokenizer\.json/.test(document.querySelector("#failed").textContent));
  await close(tab, { requests: ["pkg/bge_wasm_tokens.js", "pkg/bge_wasm_tokens_bg.wasm"] });
});

flow("a large file is read in little memory, with progress, and can be cancelled", async () => {
  const megabytes = Number(process.env.MEGABYTES ?? 200);
  const path = join(scratch, "large.jsonl");
  const block = [];
  for (let row = 0; row < 2000; row += 1) block.push(JSON.stringify({ query: `question number ${row}`, pos: [`answer ${row} ${"word ".repeat(60)}`], neg: [`other ${row} ${"text ".repeat(60)}`], pos_scores: [0.9], neg_scores: [0.1] }));
  const bytes = Buffer.from(`${block.join("\n")}\n`);
  writeFileSync(path, "");
  const out = (await import("node:fs")).openSync(path, "a");
  for (let done = 0; done < megabytes * 1e6; done += bytes.length) (await import("node:fs")).writeSync(out, bytes);
  const tab = await open();
  const { page } = tab;
  const session = await tab.context.newCDPSession(page);
  const memory = async () => {
    const { jsHeapSizeUsed } = { jsHeapSizeUsed: (await session.send("Runtime.getHeapUsage")).usedSize };
    const worker = page.workers()[0];
    const wasm = await worker.evaluate(() => new Promise((resolve) => { const old = postMessage; globalThis.postMessage = (data) => { globalThis.postMessage = old; resolve(data.bytes); }; onmessage({ data: { type: "memory" } }); }));
    const heap = await worker.evaluate(() => performance.memory?.usedJSHeapSize ?? 0);
    return jsHeapSizeUsed + wasm + heap;
  };
  const before = await memory();
  await page.setInputFiles("#files", path);
  await page.waitForFunction(() => document.getElementById("bar").value > 0);
  await page.click("#cancel");
  await page.waitForFunction(() => document.getElementById("said").textContent === "cancelled");
  const started = Date.now();
  await page.setInputFiles("#files", path);
  await page.waitForSelector("#result .facts", { timeout: 300_000 });
  const seconds = (Date.now() - started) / 1000;
  const grown = (await memory()) - before;
  const size = statSync(path).size / 1e6;
  console.log(`  ${size.toFixed(0)} MB in ${seconds.toFixed(1)} s (${(size / seconds).toFixed(0)} MB/s in the tab), memory grown by ${(grown / 1e6).toFixed(0)} MB`);
  assert.ok(grown < 300e6);
  await close(tab);
});

flow("it fits from 360 to 1600 pixels, dark and light, and works by keyboard", async () => {
  for (const [width, colorScheme] of [[360, "dark"], [360, "light"], [1600, "dark"], [1600, "light"]]) {
    const tab = await open({ viewport: { width, height: 900 }, colorScheme, reducedMotion: "reduce" });
    const { page } = tab;
    await inside(page);
    await page.focus("#example");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#findings .finding");
    await inside(page);
    await axe(page, `${width} ${colorScheme}`);
    await picture(page, `${width}-${colorScheme}`);
    await page.focus("#start-repair");
    await page.keyboard.press("Space");
    await page.waitForSelector("#repaired");
    await inside(page);
    await close(tab);
  }
});

let failed = 0;
for (const [name, run] of flows.filter(([name]) => !process.argv[2] || name.includes(process.argv[2]))) {
  try {
    await run();
    console.log(`ok: ${name}`);
  } catch (error) {
    failed += 1;
    console.error(`FAILED: ${name}\n${error.stack}`);
  }
}
await browser.close();
server.close();
rmSync(scratch, { recursive: true });
process.exit(failed ? 1 : 0);
