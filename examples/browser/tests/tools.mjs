// Flows of the converter, the split by length and the planner, which browser.mjs runs.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { axe, close, flow, inside, open, picture, put, root, saved, scratch } from "./harness.mjs";

const rowsOf = (text) => text.trim().split("\n").map((line) => JSON.parse(line));

/** A BEIR folder with judgments for training and for testing. */
function beir(name) {
  const folder = join(scratch, name);
  mkdirSync(join(folder, "qrels"), { recursive: true });
  writeFileSync(join(folder, "corpus.jsonl"), '{"_id": "d1", "title": "Salt", "text": "lowers the melting point."}\n{"_id": "d2", "title": "", "text": "Ice is cold."}\n{"_id": "d3", "text": "Air scatters blue light."}\n');
  writeFileSync(join(folder, "queries.jsonl"), '{"_id": "q1", "text": "what melts ice?"}\n{"_id": "q2", "text": "why is the sky blue?"}\n');
  writeFileSync(join(folder, "qrels", "train.tsv"), "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq1\tlost\t1\n");
  writeFileSync(join(folder, "qrels", "test.tsv"), "query-id\tcorpus-id\tscore\nq2\td3\t1\n");
  return folder;
}

flow("a BEIR folder becomes training rows by the judgments one chooses", async () => {
  const tab = await open();
  const { page } = tab;
  await page.setInputFiles("#folder", beir("beir"));
  await page.waitForSelector("#result .facts");
  assert.match(await page.textContent("#converted"), /1 training row made of 3 files/);
  assert.match(await page.textContent("#converted"), /1 set aside/);
  assert.match(await page.textContent("#result .facts"), /Rows1Files1/);
  const rows = rowsOf((await saved(page, "#save-converted")).text);
  assert.deepEqual(rows, [{ query: "what melts ice?", pos: ["Salt lowers the melting point."], neg: ["Ice is cold."] }]);
  assert.match((await saved(page, "#save-set-aside")).text, /no document `lost`/);
  await axe(page, "after a conversion");
  await page.click("#otherwise summary");
  await page.selectOption("#judgments", "beir/qrels/test.tsv");
  await page.click("#start-convert");
  await page.waitForFunction(() => document.querySelector("#converted")?.textContent.includes("named like judgments for testing"));
  await page.waitForSelector("#result .facts");
  assert.deepEqual(rowsOf((await saved(page, "#save-converted")).text), [{ query: "why is the sky blue?", pos: ["Air scatters blue light."], neg: [] }]);
  await page.setInputFiles("#files", join(scratch, "beir", "corpus.jsonl"));
  await page.waitForFunction(() => /No training rows came out/.test(document.querySelector("#converted")?.textContent));
  assert.match(await page.textContent("#converted"), /queries\.jsonl/);
  assert.equal(await page.locator("#result .facts").count(), 0);
  await close(tab);
});

flow("a dropped BEIR folder is read with its qrels", async () => {
  const tab = await open();
  const { page } = tab;
  const files = Object.fromEntries(["corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"].map((name) => [name, readFileSync(join(beir("dropped"), name), "utf8")]));
  await page.evaluate(async (given) => {
    const leaf = (name, text) => ({ isFile: true, isDirectory: false, name, file: (resolve) => resolve(new File([text], name)) });
    const folder = (name, children) => ({ isFile: false, isDirectory: true, name, createReader: () => { let left = [children, []]; return { readEntries: (resolve) => resolve(left.shift() ?? []) }; } });
    const qrels = folder("qrels", Object.entries(given).filter(([name]) => name.startsWith("qrels/")).map(([name, text]) => leaf(name.slice(6), text)));
    const top = folder("dropped", [...Object.entries(given).filter(([name]) => !name.startsWith("qrels/")).map(([name, text]) => leaf(name, text)), qrels, leaf("readme.md", "x")]);
    const event = new Event("drop", { cancelable: true });
    Object.defineProperty(event, "dataTransfer", { value: { items: [{ webkitGetAsEntry: () => top }] } });
    dispatchEvent(event);
  }, files);
  await page.waitForSelector("#result .facts");
  assert.match(await page.textContent("#converted"), /1 training row made of 3 files/);
  assert.match(await page.textContent("#failed"), /readme\.md/);
  await close(tab);
});

flow("tables and sentence-transformers' files are converted, beside rows that need none", async () => {
  const tab = await open();
  const { page } = tab;
  const table = put("faq.csv", 'frage,answer,negative_1\n"Why, ""oh"" why?",Because.,No.\nWhere?,Here.,\n');
  await page.setInputFiles("#files", table);
  await page.waitForSelector("#converted");
  assert.match(await page.textContent("#converted"), /No training rows came out/);
  await axe(page, "with a table that names no queries");
  await page.click("#otherwise summary");
  await page.fill("#column-query", "frage");
  await page.click("#start-convert");
  await page.waitForSelector("#result .facts");
  assert.deepEqual(rowsOf((await saved(page, "#save-converted")).text).map((row) => [row.query, row.pos, row.neg]), [['Why, "oh" why?', ["Because."], ["No."]], ["Where?", ["Here."], []]]);
  await picture(page, "converted", "#converted");
  const triplets = put("triplets.jsonl", '{"anchor": "a", "positive": "p", "negative": "n"}\n{"anchor": "a", "positive": "q", "negative": "m"}\n');
  const pairs = put("pairs.json", '[["b", "r"], ["c", "s"]]');
  const own = put("own.jsonl", '{"query": "d", "pos": ["t"], "neg": ["u"]}\n');
  await page.setInputFiles("#files", [triplets, pairs, own]);
  await page.waitForFunction(() => /Rows5Files2/.test(document.querySelector("#result .facts")?.textContent));
  await page.click("#otherwise summary");
  await page.check("#group");
  await page.click("#start-convert");
  await page.waitForFunction(() => /Rows4Files2/.test(document.querySelector("#result .facts")?.textContent));
  assert.match(await page.textContent("#converted"), /3 training rows made of 2 files.*1 joined an earlier row/);
  assert.deepEqual(rowsOf((await saved(page, "#save-converted")).text)[0], { query: "a", pos: ["p", "q"], neg: ["n", "m"] });
  await close(tab);
});

flow("rows are split by length, in characters and in tokens", async () => {
  const tab = await open();
  const { page } = tab;
  const toy = join(root, "examples", "data", "toy.jsonl");
  await page.setInputFiles("#files", toy);
  await page.waitForSelector("#start-lengths");
  await page.fill("#lengths", "0, ten");
  await page.click("#start-lengths");
  assert.equal(await page.getAttribute("#lengths", "aria-invalid"), "true");
  await axe(page, "with wrong lengths");
  await page.fill("#lengths", "80 95");
  await page.focus("#start-lengths");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#buckets table");
  const lines = readFileSync(toy, "utf8").trim().split("\n");
  const longest = (line) => { const { query, pos, neg } = JSON.parse(line); return Math.max(...[query, ...pos, ...neg].map((text) => [...text].length)); };
  const wanted = { "len-80-95": lines.filter((line) => longest(line) >= 80 && longest(line) < 95), "len-95-inf": lines.filter((line) => longest(line) >= 95) };
  for (const [label, rows] of Object.entries(wanted)) {
    assert.ok(rows.length > 0, label);
    const file = await saved(page, `[data-bucket=${label}]`);
    assert.equal(file.name, `toy_${label}.jsonl`);
    assert.deepEqual(file.text.trim().split("\n"), rows);
  }
  const below = lines.length - wanted["len-80-95"].length - wanted["len-95-inf"].length;
  assert.ok(below > 0);
  assert.equal((await saved(page, "#save-below")).text.trim().split("\n").length, below);
  await axe(page, "split by length");
  await picture(page, "lengths", ".card:has(> #buckets)");
  await page.setInputFiles("#files", [join(root, "tests", "fixtures", "parity", "models", "bert", "tokenizer.json"), toy]);
  await page.waitForFunction(() => /Lengths in tokens at which/.test(document.querySelector("#result").textContent));
  await page.fill("#lengths", "0 1000");
  await page.click("#start-lengths");
  await page.waitForSelector("#buckets table");
  assert.match(await page.textContent("#buckets"), /The longest row has \d+ tokens/);
  assert.equal((await saved(page, "[data-bucket=len-0-1000]")).text.trim().split("\n").length, lines.length);
  await close(tab, { requests: ["pkg/bge_wasm_tokens.js", "pkg/bge_wasm_tokens_bg.wasm"] });
});

flow("the planner warns, names settings that fit, and follows settings and data", async () => {
  const tab = await open();
  const { page } = tab;
  const out = () => page.textContent("#plan-out");
  assert.match(await out(), /Choose a model/);
  await page.selectOption("#plan-model", "bge-base-en-v1.5");
  assert.match(await out(), /It fits/);
  assert.match(await out(), /Steps of the runneeds data/);
  await page.fill("#field-passage_max_len", "512");
  await page.fill("#plan-memory", "8");
  assert.match(await out(), /It does not fit.*a device has 8\.0 GiB.*gradient_checkpointing true/s);
  await axe(page, "with a plan that does not fit");
  await picture(page, "plan", "#plan");
  await page.focus("#plan-use");
  await page.keyboard.press("Enter");
  assert.match(await out(), /It fits/);
  assert.equal(await page.inputValue("#field-gradient_checkpointing"), "true");
  await page.fill("#plan-memory", "0.5");
  assert.match(await out(), /No setting makes it fit/);
  await page.fill("#plan-memory", "-3");
  assert.match(await out(), /No plan can be made.*memory_gib/);
  await page.fill("#plan-memory", "");
  assert.match(await out(), /on each device/);
  await page.fill("#plan-devices", "4");
  assert.equal(await page.inputValue("#field-nproc_per_node"), "4");
  const total = async () => parseFloat(/Memory of each device([\d.]+)/.exec(await out())[1]);
  const whole = await total();
  await page.selectOption("#plan-zero", "3");
  await page.selectOption("#plan-precision", "half");
  assert.ok((await total()) < whole || /MiB/.test(await out()));
  await page.setInputFiles("#files", [join(root, "examples", "data", "toy.jsonl"), join(root, "tests", "fixtures", "parity", "models", "bert", "tokenizer.json"), join(root, "tests", "fixtures", "parity", "models", "bert", "config.json")]);
  await page.waitForSelector("#result .facts");
  assert.equal(await page.inputValue("#plan-model"), "file");
  assert.match(await out(), /Lengths are those of your data/);
  assert.match(await out(), /Steps of the run[\d]+/);
  await page.fill("#field-num_train_epochs", "5");
  assert.match(await out(), /Steps of the runnot known/);
  await page.click("#plan-again");
  await page.waitForFunction(() => /Steps of the run\d/.test(document.querySelector("#plan-out").textContent));
  await page.setInputFiles("#plan-config", put("config.json", '{"model_type": "llama"}'));
  await page.waitForFunction(() => /No plan can be made/.test(document.querySelector("#plan-out").textContent));
  await page.selectOption("#plan-model", "bge-m3");
  assert.doesNotMatch(await out(), /No plan/);
  await close(tab, { requests: ["pkg/bge_wasm_tokens.js", "pkg/bge_wasm_tokens_bg.wasm"] });
});

flow("conversion, lengths and plan fit from 360 to 1600 pixels, dark and light", async () => {
  for (const [width, colorScheme] of [[360, "dark"], [360, "light"], [1600, "dark"], [1600, "light"]]) {
    const tab = await open({ viewport: { width, height: 900 }, colorScheme, reducedMotion: "reduce" });
    const { page } = tab;
    await page.setInputFiles("#files", put("wide.csv", `query,positive,negative\n${"word ".repeat(80)},${"x".repeat(300)},n\nq,p,n\n`));
    await page.waitForSelector("#start-lengths");
    await page.click("#otherwise summary");
    await page.click("#start-lengths");
    await page.waitForSelector("#buckets table");
    await page.selectOption("#plan-model", "bge-m3");
    await page.fill("#plan-memory", "12");
    await page.waitForSelector("#plan-out .note");
    await inside(page);
    await axe(page, `${width} ${colorScheme}`);
    for (const part of ["converted", "plan"]) await picture(page, `${part}-${width}-${colorScheme}`, `#${part}`);
    await close(tab);
  }
});
