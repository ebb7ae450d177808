// The form of the settings: made from the schema, checked while one types.

import * as bge from "./pkg/bge_wasm_settings.js";
import { byId, download, el, plural } from "./dom.js";

const BASIC = ["model_name_or_path", "train_data", "output_dir", "train_group_size", "query_max_len", "passage_max_len", "num_train_epochs",
  "per_device_train_batch_size", "learning_rate", "temperature", "sentence_pooling_method", "query_instruction_for_retrieval"];

const LABELS = {
  "encoder_only.base": "An embedder: BERT, XLM-RoBERTa (bge-base, bge-large …)",
  "encoder_only.m3": "BGE-M3 with its three heads",
  "decoder_only.base": "An embedder from a decoder (Mistral, Gemma …)",
  "decoder_only.icl": "A decoder with examples in the query",
  "reranker.encoder_only.base": "A reranker (cross-encoder)",
};

const COMMON = { output_dir: "tuned", train_data: ["train.jsonl"] };

/** Starting points, each with what upstream's example scripts use. */
const PRESETS = {
  "encoder_only.base": [
    ["Small and quick", { ...COMMON, model_name_or_path: "BAAI/bge-small-en-v1.5", query_max_len: 64, passage_max_len: 256, learning_rate: 2e-5, num_train_epochs: 2, per_device_train_batch_size: 32 }],
    ["English, base", { ...COMMON, model_name_or_path: "BAAI/bge-base-en-v1.5", query_max_len: 512, passage_max_len: 512, learning_rate: 1e-5, num_train_epochs: 2, query_instruction_for_retrieval: "Represent this sentence for searching relevant passages: ", warmup_ratio: 0.1, gradient_checkpointing: true }],
    ["Little memory", { ...COMMON, model_name_or_path: "BAAI/bge-base-en-v1.5", gradient_checkpointing: true, sub_batch_size: 8, per_device_train_batch_size: 32, learning_rate: 1e-5, num_train_epochs: 2 }],
    ["With a teacher", { ...COMMON, model_name_or_path: "BAAI/bge-base-en-v1.5", knowledge_distillation: true, kd_loss_type: "kl_div", learning_rate: 1e-5, num_train_epochs: 2 }],
  ],
  "encoder_only.m3": [["BGE-M3, all heads", { ...COMMON, model_name_or_path: "BAAI/bge-m3", unified_finetuning: true, use_self_distill: true, fix_encoder: false, self_distill_start_step: 0, learning_rate: 1e-5, query_max_len: 512, passage_max_len: 512 }]],
  "decoder_only.base": [["Gemma or Mistral", { ...COMMON, model_name_or_path: "BAAI/bge-multilingual-gemma2", sentence_pooling_method: "last_token", query_max_len: 512, passage_max_len: 512, learning_rate: 1e-4 }]],
  "decoder_only.icl": [["In-context examples", { ...COMMON, model_name_or_path: "BAAI/bge-en-icl", sentence_pooling_method: "last_token", query_max_len: 2048, passage_max_len: 512, learning_rate: 1e-4 }]],
  "reranker.encoder_only.base": [["Reranker, base", { ...COMMON, model_name_or_path: "BAAI/bge-reranker-base", learning_rate: 6e-5, num_train_epochs: 2, per_device_train_batch_size: 8, query_max_len: 256, passage_max_len: 256 }]],
};

const FILES = { flags: "finetune.sh", toml: "settings.toml", json: "settings.json", flagembedding: "finetune-flagembedding.sh", deepspeed: "ds_config.json" };

/** What pasted text is; a command may begin with variables of its environment, and any text but JSON with comments. */
function formatOf(text) {
  const said = text.replace(/^\s*#.*$/gm, "");
  if (/^\s*\{/.test(said)) return "json";
  return /^\s*(\[|[\w.]+\s*=)/.test(said) && !/(^|\s)--\w/.test(said) ? "toml" : "flags";
}

/** A list in one line; an element with white space stands in quotes. */
const joinWords = (words) => words.map(String).map((word) => {
  const quote = word.includes('"') ? "'" : '"';
  return /^$|^["']|\s/.test(word) ? quote + word + quote : word;
}).join(" ");

/** The elements of such a line. */
const splitWords = (line) => [...line.matchAll(/"([^"]*)"|'([^']*)'|\S+/g)].map(([all, double, single]) => double ?? single ?? all);

export class Settings {
  module = "encoder_only.base";
  changed = {};
  fields = new Map();
  /** Called after every change. */
  onchange = () => {};

  constructor() {
    const select = byId("module");
    for (const { name, available } of bge.modules()) {
      select.append(el("option", { value: name }, LABELS[name] ?? name, available ? "" : ", planned"));
    }
    select.addEventListener("change", () => this.load(select.value, {}));
    byId("find").addEventListener("input", () => this.filter());
    byId("format").addEventListener("change", () => this.write());
    byId("read").addEventListener("click", () => this.read(byId("pasted").value));
    byId("save").addEventListener("click", () => download(FILES[byId("format").value], [byId("rendered").textContent]));
    byId("copy").addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId("rendered").textContent);
      byId("said").textContent = "copied";
    });
    byId("form").addEventListener("submit", (event) => event.preventDefault());
    this.load(this.module, {});
  }

  /** The settings that are not defaults. */
  get config() {
    return this.changed;
  }

  /** Shows the form of a module with these values. */
  load(module, values) {
    this.module = module;
    byId("module").value = module;
    this.schema = bge.configSchema(module);
    this.changed = {};
    for (const [name, value] of Object.entries(values)) {
      const property = this.schema.properties[name];
      if (property && JSON.stringify(value) !== JSON.stringify(property.default ?? null)) this.changed[name] = value;
    }
    byId("presets").replaceChildren(...(PRESETS[module] ?? []).map(([title, preset]) =>
      el("button", { type: "button", onclick: () => this.load(module, preset) }, title)));
    this.build();
    this.check();
  }

  /** Changes some settings and keeps the rest. */
  use(values) {
    this.load(this.module, { ...this.changed, ...values });
  }

  /** Changes one setting, as if it were typed. */
  set(name, text) {
    const field = this.fields.get(name);
    if (!field) return;
    field.input.value = text;
    this.changedField(name);
  }

  build() {
    this.fields.clear();
    const groups = new Map([["the essentials", []]]);
    for (const name of BASIC) if (this.schema.properties[name]) groups.get("the essentials").push(name);
    for (const [name, property] of Object.entries(this.schema.properties)) {
      if (BASIC.includes(name)) continue;
      const group = property["x-group"].replaceAll("_", " ");
      groups.set(group, [...(groups.get(group) ?? []), name]);
    }
    byId("form").replaceChildren(...[...groups].map(([title, names], at) =>
      el("details", { class: "card", open: at === 0 }, el("summary", {}, title[0].toUpperCase() + title.slice(1)),
        el("div", { class: "settings-grid" }, names.map((name) => this.field(name))))));
    this.filter();
  }

  field(name) {
    const property = this.schema.properties[name];
    const types = [property.type].flat();
    const id = `field-${name}`;
    const value = this.changed[name] ?? property.default ?? null;
    const common = { id, "aria-describedby": `${id}-help ${id}-wrong`, oninput: () => this.changedField(name) };
    let input;
    if (types.includes("boolean") || property.enum) {
      const words = property.enum ?? [true, false, ...(types.includes("null") ? [null] : [])];
      input = el("select", common, words.map((word) => el("option", { value: JSON.stringify(word) }, word === null ? "not set" : word === true ? "yes" : word === false ? "no" : word)));
      input.value = JSON.stringify(value);
    } else {
      const shown = Array.isArray(value) ? joinWords(value) : value && typeof value === "object" ? JSON.stringify(value) : (value ?? "");
      input = el("input", { ...common, type: "text", inputmode: types.includes("integer") || types.includes("number") ? "decimal" : "text", placeholder: types.includes("null") ? "not set" : "" });
      input.value = typeof shown === "string" ? shown.replaceAll("\n", "\\n") : shown;
    }
    const wrong = el("p", { class: "wrong", id: `${id}-wrong` });
    const node = el("div", { class: "field" }, el("label", { for: id }, el("code", {}, name)), input, wrong, el("p", { class: "help", id: `${id}-help` }, property.description.replaceAll("`", "")));
    this.fields.set(name, { node, input, wrong, property, types });
    return node;
  }

  changedField(name) {
    const { input, property, types } = this.fields.get(name);
    const text = input.value;
    let value;
    if (input.tagName === "SELECT") value = JSON.parse(text);
    else if (types.includes("array")) value = splitWords(text);
    else if (text === "") value = property.default ?? (types.includes("null") ? null : "");
    else value = text; // read as on a command line, so that the complaint is bge's own
    if (JSON.stringify(value) === JSON.stringify(property.default ?? null)) delete this.changed[name];
    else this.changed[name] = value;
    this.check();
  }

  filter() {
    const words = byId("find").value.trim().toLowerCase().replaceAll("-", "_");
    for (const [name, { node, property }] of this.fields) {
      node.hidden = Boolean(words) && !name.includes(words) && !property.description.toLowerCase().includes(words.replaceAll("_", " "));
    }
    for (const group of byId("form").children) {
      const any = [...group.querySelectorAll(".field")].some((node) => !node.hidden);
      group.hidden = !any;
      if (words && any) group.open = true;
    }
  }

  check() {
    const issues = bge.checkConfig(this.changed, this.module);
    for (const [name, { node, input, wrong }] of this.fields) {
      const own = issues.filter((issue) => issue.field === name);
      const missing = own.every((issue) => issue.code === "config.required");
      const bad = own.some((issue) => issue.severity === "error");
      wrong.textContent = own.map((issue) => (issue.code === "config.required" ? "needed" : issue.message)).join("; ");
      wrong.className = bad ? "wrong" : "wrong warning";
      input.setAttribute("aria-invalid", String(bad && !missing));
      node.classList.toggle("changed", name in this.changed);
    }
    const errors = issues.filter((issue) => issue.severity === "error");
    const missing = errors.filter((issue) => issue.code === "config.required").map((issue) => issue.field);
    const rest = issues.filter((issue) => issue.code !== "config.required");
    const line = (issue) => el("li", {}, el("span", { class: `tag ${issue.severity}` }, issue.severity), " ", issue.field && el("code", {}, issue.field), issue.field && " ", issue.message);
    byId("verdict").replaceChildren(el("div", { class: `note ${errors.length ? (missing.length === errors.length ? "info" : "error") : "good"}` },
      el("p", {}, errors.length === 0 ? "The settings are fine." : missing.length === errors.length ? `Still needed: ${missing.join(", ")}.` : `${plural(errors.length, "setting")} cannot be used.`),
      rest.length > 0 && el("ul", {}, rest.map(line))));
    this.write();
    this.onchange();
  }

  write() {
    try {
      const text = bge.renderConfig(this.changed, byId("format").value, this.module);
      byId("rendered").textContent = byId("format").value === "flags" ? `bge finetune ${this.module} \\\n    ${text}` : text;
    } catch (error) {
      byId("rendered").textContent = error.message;
    }
  }

  read(text) {
    const parsed = bge.parseConfig(text, formatOf(text), this.module);
    if (parsed.ok) this.load(parsed.module, parsed.config);
    byId("read-issues").replaceChildren(el("div", { class: `note ${parsed.ok ? "good" : "error"}` },
      el("p", {}, parsed.ok ? "Read; the form below shows it." : "This could not be read:"),
      el("ul", {}, parsed.issues.map((issue) => el("li", {}, el("span", { class: `tag ${issue.severity}` }, issue.severity), " ", issue.field && el("code", {}, issue.field), " ", issue.message)))));
  }
}
