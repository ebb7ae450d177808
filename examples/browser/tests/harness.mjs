// What the browser tests stand on: a server for the page, a Chromium, pages that notice errors and requests.
//
// CHROMIUM names the browser (default /usr/bin/chromium); SCREENSHOTS a folder for pictures.

import assert from "node:assert/strict";
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const here = dirname(fileURLToPath(import.meta.url));
const page_folder = join(here, "..");
export const root = join(page_folder, "..", "..");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

const server = createServer((request, response) => {
  const path = join(page_folder, normalize(new URL(request.url, "http://x").pathname).replace(/\/$/, "/index.html"));
  if (!path.startsWith(page_folder) || !existsSync(path)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/plain" });
  createReadStream(path).pipe(response);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const address = `http://127.0.0.1:${server.address().port}/`;

export const scratch = mkdtempSync(join(tmpdir(), "bge-browser-"));
export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-precise-memory-info"],
});

const flows = [];
export const flow = (name, run) => flows.push([name, run]);

/** A fresh page that fails on console errors, and that knows the requests since it was ready. */
export async function open(options = {}) {
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

export async function close({ seen, context }, { requests = [] } = {}) {
  await context.close();
  assert.deepEqual(seen.errors, [], "console errors");
  assert.deepEqual(seen.outside, [], "requests to elsewhere");
  assert.deepEqual(seen.requests.map((url) => url.slice(address.length)).sort(), requests, "requests after load");
}

/** A picture of the whole page, or of one part of it. */
export async function picture(page, name, part) {
  if (!process.env.SCREENSHOTS) return;
  mkdirSync(process.env.SCREENSHOTS, { recursive: true });
  const path = join(process.env.SCREENSHOTS, `${name}.png`);
  const options = { path };
  if (!part) return void await page.screenshot({ ...options, fullPage: true });
  // The header sticks to the top, and would be in the middle of the picture.
  const header = (position) => page.evaluate((value) => { document.querySelector("header").style.position = value; }, position);
  await header("static");
  await page.locator(part).screenshot(options);
  await header("");
}

export async function axe(page, where) {
  await page.evaluate(readFileSync(join(here, "node_modules", "axe-core", "axe.min.js"), "utf8"));
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const bad = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  assert.deepEqual(bad.map((one) => `${one.id}: ${one.nodes[0].html} ${one.nodes[0].failureSummary}`), [], where);
}

export async function saved(page, selector) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
  const path = join(scratch, download.suggestedFilename());
  await download.saveAs(path);
  return { name: download.suggestedFilename(), text: readFileSync(path, "utf8") };
}

/** A file in the scratch folder. */
export function put(name, text) {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

export const inside = async (page) => {
  const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= seen, `the page is ${wide} wide in a window of ${seen}`);
};

/** Bytes of the page's and the worker's heaps and of the WebAssembly. */
export async function memory({ page, context }) {
  const session = await context.newCDPSession(page);
  const { usedSize } = await session.send("Runtime.getHeapUsage");
  await session.detach();
  const worker = page.workers()[0];
  const wasm = await worker.evaluate(() => new Promise((resolve) => {
    const old = postMessage;
    globalThis.postMessage = (data) => { globalThis.postMessage = old; resolve(data.bytes); };
    onmessage({ data: { type: "memory" } });
  }));
  return usedSize + wasm + await worker.evaluate(() => performance.memory?.usedJSHeapSize ?? 0);
}

/** Ends browser, server and process. */
export async function end(failed) {
  await browser.close();
  server.close();
  rmSync(scratch, { recursive: true });
  process.exit(failed ? 1 : 0);
}

/** Runs the flows whose names contain the first argument, and ends the process. */
export async function run() {
  let failed = 0;
  for (const [name, one] of flows.filter(([name]) => !process.argv[2] || name.includes(process.argv[2]))) {
    try {
      await one();
      console.log(`ok: ${name}`);
    } catch (error) {
      failed += 1;
      console.error(`FAILED: ${name}\n${error.stack}`);
    }
  }
  await end(failed);
}
