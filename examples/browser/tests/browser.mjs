// The page in a real Chromium: `node examples/browser/tests/browser.mjs [PART OF A NAME]`, after bge_wasm/build.sh tokens.
//
// CHROMIUM names the browser (default /usr/bin/chromium); SCREENSHOTS a folder for pictures; MEGABYTES the size of the large file.

import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { axe, close, flow, inside, memory, open, picture, put, root, run, saved, scratch } from "./harness.mjs";
import "./tools.mjs";

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
  await page.fill("#pasted", "CUDA_VISIBLE_DEVICES=0,1 torchrun -m FlagEmbedding.finetune.embedder.encoder_only.base --train_data 'my data/a.jsonl' C:\\b.jsonl --seed 7");
  await page.click("#read");
  assert.equal(await page.inputValue("#field-train_data"), '"my data/a.jsonl" C:\\b.jsonl');
  await page.fill("#field-train_data", '"my data/a.jsonl" c.jsonl');
  await page.selectOption("#format", "json");
  assert.deepEqual(JSON.parse((await saved(page, "#save")).text).train_data, ["my data/a.jsonl", "c.jsonl"]);
  await page.fill("#pasted", "# my settings, not --flags\nseed = 8\n");
  await page.click("#read");
  assert.equal(await page.inputValue("#field-seed"), "8");
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
  for (let done = 0; done < megabytes * 1e6; done += bytes.length) appendFileSync(path, bytes);
  const tab = await open();
  const { page } = tab;
  const before = await memory(tab);
  await page.setInputFiles("#files", path);
  await page.waitForFunction(() => document.getElementById("bar").value > 0);
  await page.click("#cancel");
  await page.waitForFunction(() => document.getElementById("said").textContent === "cancelled");
  const started = Date.now();
  await page.setInputFiles("#files", path);
  await page.waitForSelector("#result .facts", { timeout: 300_000 });
  const seconds = (Date.now() - started) / 1000;
  const grown = (await memory(tab)) - before;
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

await run();
