// The page: takes files in, hands them to the worker, shows what comes back.

import initSettings from "./pkg/bge_wasm_settings.js";
import initTools from "./pkg/bge_wasm_tools.js";
import { converted, DEFAULTS, judgmentsOf, optionsOf } from "./conversion.js";
import { byId, count, download } from "./dom.js";
import { inOrder, listen, sort } from "./intake.js";
import { Planner } from "./planner.js";
import { repaired, show } from "./report.js";
import { Settings } from "./settings.js";
import { bucketed, splitUp } from "./splits.js";
import { cancel, fail, ready, say, work } from "./work.js";

const EXAMPLE = `{"query": "what melts ice?", "pos": ["Salt lowers the melting point of water."], "neg": ["Ice is cold.", "Ice is cold."]}
{"query": "why is the sky blue?", "pos": ["Air scatters blue light more than red."], "neg": ["The sea is deep.", ""]}
{"query": "", "pos": ["A text without a question."], "neg": ["Another one."]}
{"query": "how many lines has a haiku?", "pos": ["A haiku has three lines."], "neg": ["A haiku has three lines.", "A sonnet has fourteen."]}
{"query": "who wrote Faust?", "pos": "Goethe wrote Faust.", "neg": ["Schiller wrote The Robbers."]
{"query": "what is tea made of?", "pos": ["Tea is made of leaves."], "neg": ["Coffee is made of beans."]}
`;

let settings;
let planner;
let ignored = [];
let tokenizer = null;
/** The files that the report on the page is about, and what stands above it. */
let checked = null;

/** Runs one of the jobs below; what goes wrong is said on the page. */
const guarded = (run) => async (...words) => {
  try {
    return await run(...words);
  } catch (error) {
    return fail(error.message);
  }
};

const validate = guarded(async (list, above = null) => {
  const config = settings.config;
  const key = planner.key();
  const job = { type: "validate", files: list, config, module: settings.module, tokenizer };
  if (above) byId("result").replaceChildren(above);
  const answer = await work(job, "Reading …");
  if (!answer) return say("cancelled");
  checked = { list, above };
  const parts = show({ ...answer, config }, {
    use: (values) => { settings.use(values); validate(list, above); },
    repair: (dropRepeated, requireNegatives) => repair(list, dropRepeated, requireNegatives),
    split: (share, said) => split(list, share, said),
    byLength: (lengths, said) => byLength(list, lengths, said),
    save: () => download("report.json", [answer.text]),
  });
  byId("result").replaceChildren(...(above ? [above, ...parts] : parts));
  planner.know(answer.text, key);
  if (ignored.length) fail(`Not read, as these are no training data: ${ignored.slice(0, 8).join(", ")}${ignored.length > 8 ? " …" : ""}`);
  return say(`Done: ${count(answer.report.rows)} rows, verdict ${answer.report.verdict}`);
});

const repair = guarded(async (list, dropRepeated, requireNegatives) => {
  const answer = await work({ type: "repair", files: list, dropRepeated, requireNegatives }, "Repairing …");
  if (!answer) return say("cancelled");
  const above = repaired(answer, (which) => download(`${which}.jsonl`, answer[which]));
  await validate([asEntry(answer.cleaned, "cleaned.jsonl")], above);
  return byId("repaired")?.scrollIntoView({ block: "center" });
});

const split = guarded(async (list, share, said) => {
  const answer = await work({ type: "split", files: list, share }, "Splitting …");
  if (answer) said.replaceChildren(...splitUp(answer, (which) => download(`${which}.jsonl`, answer[which])));
});

const byLength = guarded(async (list, lengths, said) => {
  const unit = tokenizer ? "tokens" : "characters";
  const answer = await work({ type: "byLength", files: list, lengths, tokenizer }, "Measuring …");
  const stem = list.length === 1 ? list[0].file.name.replace(/\.[^.]*$/, "") : "train";
  if (answer) {
    said.replaceChildren(...bucketed(answer, unit, (which) => (which === "quarantine" ? download("quarantine.jsonl", answer.quarantine)
      : download(`${stem}_${answer.report.buckets[which].label}.jsonl`, answer.buckets[which]))));
  }
});

/** Makes training rows of sources, and checks them together with the rows that were there. */
const convert = guarded(async (sources, rows, chosen = DEFAULTS) => {
  const judgments = judgmentsOf(sources, chosen.judgments);
  const files = inOrder(sources).filter((source) => source.role !== "qrels" || source.name === judgments);
  const answer = await work({ type: "convert", files, options: optionsOf(chosen) }, "Converting …");
  if (!answer) return say("cancelled");
  const names = { rows: "converted.jsonl", quarantine: "quarantine.jsonl" };
  const above = converted(answer, files, sources, chosen, (which) => download(names[which], answer[which]), (other) => convert(sources, rows, other));
  const list = answer.report.written > 0 ? [...rows, asEntry(answer.rows, names.rows)] : rows;
  if (list.length) return validate(list, above);
  byId("result").replaceChildren(above);
  return say("Done: no training rows came out of the conversion");
});

const asEntry = (blob, name) => ({ file: new File([blob], name), name, argument: 0 });

/** Takes entries `{file, name, argument, folder}` of any kind. */
const take = guarded(async (entries) => {
  await ready;
  const found = sort(entries);
  tokenizer = found.tokenizer ?? tokenizer;
  if (found.shape) await planner.take(found.shape);
  if (!found.rows.length && !found.sources.length) {
    if (found.shape) return say("The plan below is for this model.");
    if (found.tokenizer) return say("The tokenizer is there; now drop the data.");
    return fail("There is nothing to read among these: .json, .jsonl, .csv and .tsv files are read. Packed files have to be unpacked first.");
  }
  ignored = found.ignored;
  const looked = await work({ type: "look", files: found.rows }, "Looking …");
  if (!looked) return say("cancelled");
  const rows = found.rows.filter((entry, at) => !looked.foreign[at]);
  const sources = [...found.sources, ...found.rows.filter((entry, at) => looked.foreign[at])];
  return sources.length ? convert(sources, rows) : validate(rows);
});

try {
  await Promise.all([initSettings(), initTools()]);
  settings = new Settings();
  planner = new Planner(settings, () => validate(checked.list, checked.above));
  listen(take);
  byId("example").addEventListener("click", () => take([asEntry(EXAMPLE, "example.jsonl")]));
  byId("cancel").addEventListener("click", cancel);
  await ready;
  document.documentElement.dataset.ready = "yes";
} catch (error) {
  fail(`The page could not start: ${error.message}. It has to come from a web server, not from a file:// address.`);
}
