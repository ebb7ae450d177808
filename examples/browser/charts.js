// Bar charts as inline SVG, each with its numbers as a table for those who do not see it.

import { count, el } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text != null) node.textContent = text;
  return node;
}

/** Standing bars; `bars` are [label, value]. */
export function columns(title, bars, unit) {
  const [width, height, base] = [320, 150, 122];
  const most = Math.max(1, ...bars.map((bar) => bar[1]));
  const step = width / Math.max(bars.length, 4);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", "aria-hidden": "true" });
  const every = Math.ceil(bars.length / 8);
  bars.forEach(([label, value], at) => {
    const tall = value > 0 ? Math.max(2, (value / most) * (base - 16)) : 0;
    const bar = shape("rect", { class: "bar", x: at * step + 1.5, y: base - tall, width: Math.max(1, step - 3), height: tall, rx: 2 });
    bar.append(shape("title", {}, `${label}: ${count(value)}`));
    svg.append(bar);
    if (at % every === 0) svg.append(shape("text", { x: at * step + step / 2, y: base + 16, "text-anchor": "middle" }, label));
  });
  svg.append(shape("text", { x: 0, y: 11 }, `most: ${count(most)}`));
  svg.append(shape("line", { x1: 0, x2: width, y1: base, y2: base, stroke: "currentColor", "stroke-opacity": 0.3 }));
  return framed(title, svg, bars, unit);
}

/** Lying bars, for names; `write` makes text of a value. */
export function lanes(title, bars, unit, write = count) {
  const total = bars.reduce((sum, bar) => sum + bar[1], 0) || 1;
  const svg = shape("svg", { viewBox: `0 0 320 ${Math.max(1, bars.length) * 30}`, class: "chart", "aria-hidden": "true" });
  bars.forEach(([label, value], at) => {
    svg.append(shape("text", { x: 0, y: at * 30 + 11 }, `${label} · ${write(value)}`));
    svg.append(shape("rect", { class: "bar", x: 0, y: at * 30 + 15, height: 9, rx: 2, width: Math.max(2, (320 * value) / total) }));
  });
  return framed(title, svg, bars, unit, write);
}

function framed(title, svg, bars, unit, write = count) {
  const rows = bars.map(([label, value]) => el("tr", {}, el("td", {}, label), el("td", { class: "n" }, write(value))));
  const head = el("tr", {}, el("th", { scope: "col" }, unit), el("th", { scope: "col", class: "n" }, write === count ? "how many" : "how much"));
  return el("figure", { class: "card" }, el("h3", {}, title), svg,
    el("details", {}, el("summary", { class: "muted" }, "as a table"), el("table", {}, el("thead", {}, head), el("tbody", {}, rows))));
}

/** The bars of a histogram of the report: [largest value, how many]. */
export function lengths(histogram) {
  let from = 0;
  return histogram.up_to.map(([to, many], at) => {
    if (at === 0) from = Math.ceil(to / 2);
    const label = from >= to ? `${to}` : `≤${to}`;
    from = to + 1;
    return [label, many];
  });
}
