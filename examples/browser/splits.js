// The two ways to part sound data: into train and dev, and by length.

import { count, el, plural } from "./dom.js";

/** The card of the split into train and dev; `start` takes the share and where to say how it came out. */
export function sides(start) {
  const share = el("input", { type: "number", id: "share", min: 1, max: 50, value: 5, step: 1 });
  const said = el("div", { id: "sides", role: "status" });
  return el("div", { class: "card" }, el("h3", {}, "Split into train and dev"),
    el("p", {}, "Rows that share a query or a positive stay on one side, so that dev measures what was not trained on."),
    el("div", { class: "row" }, el("label", { class: "check" }, "per cent for dev", share),
      el("button", { type: "button", id: "start-split", onclick: () => start(Math.min(50, Math.max(1, Number(share.value) || 5)) / 100, said) }, "Split")), said);
}

const damaged = (report) => report.broken_arrays > 0 && ` Arrays are damaged or joined in ${plural(report.broken_arrays, "place")}; the rows around are read.`;

/** How a split came out, with its two files. */
export function splitUp({ report }, save) {
  return [el("p", {}, `${plural(report.train, "row")} for train, ${count(report.dev)} for dev`, report.unreadable > 0 && `, ${count(report.unreadable)} that cannot be trained on left out`,
    report.largest_group > 1 && `; the largest group that belongs together has ${plural(report.largest_group, "row")}`, ".", damaged(report)),
  el("p", { class: "row" }, el("button", { type: "button", id: "save-train", onclick: () => save("train") }, "Download train.jsonl"),
    el("button", { type: "button", id: "save-dev", onclick: () => save("dev") }, "Download dev.jsonl"))];
}

/** The lengths in a text; null where it has something else. */
export function lengthsOf(text) {
  const words = text.split(/[\s,]+/).filter(Boolean);
  const lengths = words.map(Number);
  return words.length && lengths.every((length) => Number.isInteger(length) && length >= 0 && length < 2 ** 32) ? lengths : null;
}

/** The card of the split by length, measured in `unit`. */
export function byLength(unit, usual, start) {
  const input = el("input", { type: "text", id: "lengths", value: [...usual].join(" "), inputmode: "numeric", autocomplete: "off", "aria-describedby": "lengths-wrong" });
  const wrong = el("p", { class: "wrong", id: "lengths-wrong" });
  const said = el("div", { id: "buckets", role: "status" });
  const go = () => {
    const lengths = lengthsOf(input.value);
    input.setAttribute("aria-invalid", String(!lengths));
    wrong.textContent = lengths ? "" : "whole numbers with spaces between them, such as 0 500 1000";
    if (lengths) start(lengths, said);
  };
  return el("div", { class: "card field" }, el("h3", {}, "Split by length"),
    el("p", {}, `Each row goes to the file for its longest text, measured in ${unit}. With rows of like length in a batch, less is padded, and each file may have a batch size of its own.`,
      unit === "characters" && " Drop your model's tokenizer.json onto the page to measure in tokens."),
    el("div", { class: "row spread" }, el("label", { class: "grow" }, `Lengths in ${unit} at which a new file begins`, input),
      el("button", { type: "button", id: "start-lengths", onclick: go }, "Split")), wrong, said);
}

/** How a split by length came out, with its files. */
export function bucketed({ report }, unit, save) {
  const rows = report.buckets.map((bucket, at) => el("tr", {}, el("td", {}, bucket.to === null ? `${count(bucket.from)} and more` : `${count(bucket.from)} to ${count(bucket.to - 1)}`),
    el("td", { class: "n" }, count(bucket.rows)), el("td", {}, bucket.rows > 0 && el("button", { type: "button", "data-bucket": bucket.label, "aria-label": `Download the rows ${bucket.label}`, onclick: () => save(at) }, "Download"))));
  const aside = report.below + report.unreadable;
  return [el("p", {}, `The longest row has ${plural(report.longest, unit.slice(0, -1))}, the mean is ${count(Math.round(report.mean_length))}.`,
    aside > 0 && ` ${plural(aside, "row")} set aside: ${report.below > 0 ? `${count(report.below)} shorter than the first length` : ""}${report.below > 0 && report.unreadable > 0 ? ", " : ""}${report.unreadable > 0 ? `${count(report.unreadable)} unreadable` : ""}.`, damaged(report)),
  el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, unit), el("th", { scope: "col", class: "n" }, "rows"), el("th", { scope: "col" }, "file"))), el("tbody", {}, rows))),
  aside > 0 && el("p", {}, el("button", { type: "button", id: "save-below", onclick: () => save("quarantine") }, "Download what was set aside"))].filter(Boolean);
}
