// The page: takes files in, hands them to the worker, shows what comes back.

import init from "./pkg/bge_wasm.js";
import { byId, count, download, percent, size } from "./dom.js";
import { repaired, show, splitUp } from "./report.js";
import { Settings } from "./settings.js";

const EXAMPLE = `{"query": "what melts ice?", "pos": ["Salt lowers the melting point of water."], "neg": ["Ice is cold.", "Ice is cold."]}
{"query": "why is the sky blue?", "pos": ["Air scatters blue light more than red."], "neg": ["The sea is deep.", ""]}
{"query": "", "pos": ["A text without a question."], "neg": ["Another one."]}
{"query": "how many lines has a haiku?", "pos": ["A haiku has three lines."], "neg": ["A haiku has three lines.", "A sonnet has fourteen."]}
{"query": "who wrote Faust?", "pos": "Goethe wrote Faust.", "neg": ["Schiller wrote The Robbers."]
{"query": "what is tea made of?", "pos": ["Tea is made of leaves."], "neg": ["Coffee is made of beans."]}
`;

let settings;
let files = [];
let ignored = [];
let tokenizer = null;
let running = null;
const worker = new Worker("worker.js", { type: "module" });

const say = (text) => { byId("said").textContent = text; };

function fail(message) {
  byId("failed").textContent = message;
  byId("failed").hidden = !message;
}

function busy(text) {
  byId("busy").hidden = !text;
  byId("busy-text").textContent = text ?? "";
  byId("bar").value = 0;
  if (text) say(text);
}

/** Runs a job in the worker, after ending the one before; gives its answer, or null where it was cancelled. */
async function work(job, text) {
  while (running) {
    worker.postMessage({ type: "cancel" });
    await running.done;
  }
  const mine = {};
  const answer = new Promise((resolve, reject) => Object.assign(mine, { resolve, reject }));
  mine.done = answer.then(() => {}, () => {});
  running = mine;
  fail("");
  busy(text);
  worker.postMessage(job);
  try {
    return await answer;
  } finally {
    running = null;
    busy(null);
  }
}

let loaded;
const ready = new Promise((resolve) => { loaded = resolve; });

worker.onmessage = ({ data }) => {
  if (data.type === "ready") loaded();
  else if (data.type === "progress") {
    const share = data.total ? data.bytes / data.total : 1;
    byId("bar").value = share;
    const rows = data.rows == null ? "" : ` · ${count(data.rows)} rows · ${count(data.errors)} errors`;
    byId("busy-text").textContent = `${percent(share)} of ${size(data.total)}${rows}`;
  } else if (data.type === "failed") running ? running.reject(new Error(data.message)) : fail(data.message);
  else if (data.type === "cancelled") running?.resolve(null);
  else running?.resolve(data);
};

async function validate(list, above = null) {
  const config = settings.config;
  const job = { type: "validate", files: list, config, module: settings.module, tokenizer };
  try {
    const answer = await work(job, "Reading …");
    if (!answer) return say("cancelled");
    const parts = show({ ...answer, config }, {
      use: (values) => { settings.use(values); validate(list, above); },
      repair: (dropRepeated, requireNegatives) => repair(list, dropRepeated, requireNegatives),
      split: (share, said) => split(list, share, said),
      save: () => download("report.json", [answer.text]),
    });
    byId("result").replaceChildren(...(above ? [above, ...parts] : parts));
    if (ignored.length) fail(`Not read, as only .json and .jsonl are training data: ${ignored.slice(0, 8).join(", ")}${ignored.length > 8 ? " …" : ""}`);
    say(`Done: ${count(answer.report.rows)} rows, verdict ${answer.report.verdict}`);
  } catch (error) {
    fail(error.message);
  }
}

async function repair(list, dropRepeated, requireNegatives) {
  try {
    const answer = await work({ type: "repair", files: list, dropRepeated, requireNegatives }, "Repairing …");
    if (!answer) return say("cancelled");
    const above = repaired(answer, (which) => download(`${which}.jsonl`, answer[which]));
    const cleaned = new File([answer.cleaned], "cleaned.jsonl");
    await validate([{ file: cleaned, name: cleaned.name, argument: 0 }], above);
    byId("repaired")?.scrollIntoView({ block: "center" });
  } catch (error) {
    fail(error.message);
  }
}

async function split(list, share, said) {
  try {
    const answer = await work({ type: "split", files: list, share }, "Splitting …");
    if (answer) said.replaceChildren(...splitUp(answer, (which) => download(`${which}.jsonl`, answer[which])));
  } catch (error) {
    fail(error.message);
  }
}

/** Takes entries `{file, name, argument, folder}`; a tokenizer.json among them is one. */
async function take(entries) {
  await ready;
  const isTokenizer = (entry) => entry.file.name === "tokenizer.json";
  const found = entries.find(isTokenizer);
  if (found) tokenizer = found.file;
  const rest = entries.filter((entry) => !isTokenizer(entry));
  const isData = (entry) => /\.jsonl?$/i.test(entry.file.name);
  if (rest.length) {
    ignored = rest.filter((entry) => !isData(entry)).map((entry) => entry.name);
    files = rest.filter(isData).sort((one, two) => one.argument - two.argument || (one.name < two.name ? -1 : 1));
  }
  if (files.length) await validate(files);
  else if (found) say("The tokenizer is there; now drop the data.");
  else fail("There is no .json or .jsonl file among these. Packed files have to be unpacked first.");
}

/** The files of a dropped item: itself, or the direct children of a folder, as `bge validate` takes them. */
async function entriesOf(entry, argument) {
  const file = (one) => new Promise((resolve, reject) => one.file(resolve, reject));
  if (entry.isFile) return [{ file: await file(entry), name: entry.name, argument }];
  const reader = entry.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    all.push(...some.filter((child) => child.isFile));
  }
  return Promise.all(all.map(async (child) => ({ file: await file(child), name: `${entry.name}/${child.name}`, argument, folder: entry.name })));
}

function listen() {
  const drop = byId("drop");
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const items = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    take((await Promise.all(items.map(entriesOf))).flat());
  });
  byId("files").addEventListener("change", (event) => {
    take([...event.target.files].map((file, argument) => ({ file, name: file.name, argument })));
    event.target.value = "";
  });
  byId("folder").addEventListener("change", (event) => {
    const children = [...event.target.files].filter((file) => file.webkitRelativePath.split("/").length === 2);
    take(children.map((file) => ({ file, name: file.webkitRelativePath, argument: 0, folder: file.webkitRelativePath.split("/")[0] })));
    event.target.value = "";
  });
  byId("example").addEventListener("click", () => {
    const file = new File([EXAMPLE], "example.jsonl");
    take([{ file, name: file.name, argument: 0 }]);
  });
  byId("cancel").addEventListener("click", () => worker.postMessage({ type: "cancel" }));
}

try {
  await init();
  settings = new Settings();
  listen();
  await ready;
  document.documentElement.dataset.ready = "yes";
} catch (error) {
  fail(`The page could not start: ${error.message}. It has to come from a web server, not from a file:// address.`);
}
