// What was dropped or chosen: training data, files to convert, a tokenizer, the shape of a model.

import { fileRole } from "./pkg/bge_wasm_tools.js";
import { byId } from "./dom.js";

/** The order in which a conversion reads files. */
const ORDER = ["qrels", "queries", "corpus", "table", "rows"];

/** The files of a dropped item: itself, or the direct children of a folder and of its `qrels`, as BEIR has it. */
async function entriesOf(entry, argument) {
  const file = (one) => new Promise((resolve, reject) => one.file(resolve, reject));
  if (entry.isFile) return [{ file: await file(entry), name: entry.name, argument }];
  const children = async (folder) => {
    const reader = folder.createReader();
    const all = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return all;
      all.push(...some);
    }
  };
  const direct = await children(entry);
  const qrels = direct.find((child) => child.isDirectory && child.name === "qrels");
  const below = qrels ? await children(qrels) : [];
  const named = [...direct.map((child) => [child, `${entry.name}/${child.name}`]), ...below.map((child) => [child, `${entry.name}/qrels/${child.name}`])];
  return Promise.all(named.filter(([child]) => child.isFile).map(async ([child, name]) => ({ file: await file(child), name, argument, folder: entry.name })));
}

/** The same of a folder that was chosen. */
function chosenEntry(file) {
  const name = file.webkitRelativePath;
  const [folder, inside, ...deeper] = name.split("/");
  const wanted = deeper.length === 0 || (deeper.length === 1 && inside === "qrels");
  return wanted ? [{ file, name, argument: 0, folder }] : [];
}

/** Hands over everything that comes in, by whatever way. */
export function listen(take) {
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
    take([...event.target.files].flatMap(chosenEntry));
    event.target.value = "";
  });
}

/** Sorts entries by what they are for. Of a model's folder only its tokenizer and its config.json are taken. */
export function sort(entries) {
  const is = (name) => (entry) => entry.file.name === name;
  const models = new Set(entries.filter(is("config.json")).map((entry) => entry.folder).filter(Boolean));
  const sorted = { tokenizer: entries.find(is("tokenizer.json"))?.file, shape: entries.find(is("config.json"))?.file, rows: [], sources: [], ignored: [] };
  for (const entry of entries) {
    if (is("tokenizer.json")(entry) || is("config.json")(entry) || models.has(entry.folder)) continue;
    const role = fileRole(entry.name);
    if (!role || /\.gz$/i.test(entry.name)) sorted.ignored.push(entry.name);
    else (role === "rows" ? sorted.rows : sorted.sources).push({ ...entry, role });
  }
  const place = (entry) => [entry.argument, ORDER.indexOf(entry.role)];
  const before = (one, two) => place(one)[0] - place(two)[0] || place(one)[1] - place(two)[1] || (one.name < two.name ? -1 : 1);
  sorted.rows.sort(before);
  sorted.sources.sort(before);
  return sorted;
}

/** Files to convert in the order in which a conversion reads them. */
export const inOrder = (sources) => [...sources].sort((one, two) => ORDER.indexOf(one.role) - ORDER.indexOf(two.role));
