// What a person reads of a conversion, and how it can be made otherwise.

import { count, el, plural } from "./dom.js";
import { finding } from "./report.js";

/** How files are converted until someone says otherwise. */
export const DEFAULTS = { group: false, quotes: true, judgments: null };

/** The judgments to train on: those that are named, or of training, or the first. */
export function judgmentsOf(sources, wanted) {
  const names = sources.filter((source) => source.role === "qrels").map((source) => source.name);
  return names.find((name) => name === wanted) ?? names.find((name) => /train/i.test(name)) ?? names[0];
}

/** The options of the converter, of those that the card has. */
export function optionsOf({ group, quotes, query, positives, negatives, score }) {
  const list = (text) => (text ?? "").split(",").map((name) => name.trim()).filter(Boolean);
  return { group, quotes, query: query || undefined, positives: list(positives), negatives: list(negatives), score: score || undefined, max_group_bytes: 128e6 };
}

function controls(sources, chosen, again) {
  const beir = sources.some((source) => source.role === "qrels");
  const names = sources.filter((source) => source.role === "qrels").map((source) => source.name);
  const used = judgmentsOf(sources, chosen.judgments);
  const judgments = names.length > 1 && el("select", { id: "judgments" }, names.map((name) => el("option", { value: name, selected: name === used }, name)));
  const check = (id, checked) => el("input", { type: "checkbox", id, checked });
  const group = check("group", chosen.group);
  const quotes = check("quotes", chosen.quotes);
  const field = (id, value, hint) => el("input", { id: `column-${id}`, type: "text", value: value ?? "", placeholder: hint, autocomplete: "off" });
  const columns = { query: field("query", chosen.query, "question"), positives: field("positives", chosen.positives, "answer, answer 2"), negatives: field("negatives", chosen.negatives, "wrong 1, wrong 2"), score: field("score", chosen.score, "score") };
  const start = () => again({ group: group.checked, quotes: quotes.checked, judgments: judgments ? judgments.value : null, ...Object.fromEntries(Object.entries(columns).map(([name, input]) => [name, input.value.trim()])) });
  return el("details", { id: "otherwise" }, el("summary", {}, "Convert it otherwise"),
    el("div", { class: "settings-grid" },
      judgments && el("label", {}, "Judgments to train on", judgments),
      !beir && Object.entries(columns).map(([name, input]) => el("label", {}, { query: "Column of queries", positives: "Columns of positives, with commas", negatives: "Columns of negatives", score: "Column of scores" }[name], input))),
    !beir && el("p", { class: "row" }, el("label", { class: "check" }, group, "join the rows of one query"), el("label", { class: "check" }, quotes, "quotes enclose cells")),
    el("p", {}, el("button", { type: "button", id: "start-convert", onclick: start }, "Convert again")));
}

/** The card of a conversion of `files` among `sources`. `save` takes `rows` or `quarantine`, `again` other choices. */
export function converted({ report }, files, sources, chosen, save, again) {
  const used = judgmentsOf(sources, chosen.judgments);
  const failed = report.written === 0 || report.issues.some((group) => group.severity === "error");
  const kind = failed ? "error" : report.quarantined > 0 ? "warning" : "good";
  const title = report.written === 0 ? "No training rows came out of this" : `${plural(report.written, "training row")} made of ${plural(files.length, "file")}`;
  const facts = [
    `${plural(report.positives, "positive")} and ${plural(report.negatives, "negative")}`,
    report.merged > 0 && `${count(report.merged)} joined an earlier row`,
    report.quarantined > 0 && `${count(report.quarantined)} set aside with the reason`,
    report.scores_unused > 0 && `${count(report.scores_unused)} without their scores`,
  ].filter(Boolean);
  return el("div", { class: `note ${kind}`, id: "converted" }, el("h3", {}, title),
    el("p", {}, `${facts.join(", ")}. ${report.written > 0 ? "The report below is on the converted file." : ""}`),
    used && /test|dev|valid/i.test(used) && el("p", {}, `${used} is named like judgments for testing: what a model is trained on cannot test it.`),
    report.issues.length > 0 && el("details", { open: failed }, el("summary", {}, "What was noticed"), report.issues.map((group) => finding(group, {}))),
    controls(sources, chosen, again),
    el("p", { class: "row" }, report.written > 0 && el("button", { type: "button", class: "primary", id: "save-converted", onclick: () => save("rows") }, "Download converted.jsonl"),
      report.quarantined > 0 && el("button", { type: "button", id: "save-set-aside", onclick: () => save("quarantine") }, "Download what was set aside")));
}
