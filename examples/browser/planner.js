// Will it fit? The memory of a device and the steps of a run, before there is a machine to run it on.

import { modelPresets, planRun } from "./pkg/bge_wasm_tools.js";
import { lanes } from "./charts.js";
import { byId, count, el } from "./dom.js";

const PARTS = { weights: "weights", gradients: "gradients", optimizer: "optimizer", activations: "activations", temporary: "temporary arrays", program: "program and tokenizer" };

/** Bytes as the planner itself writes them. */
export function memory(bytes) {
  const mebibytes = bytes / 2 ** 20;
  return mebibytes < 1000 ? `${mebibytes.toFixed(0)} MiB` : `${(mebibytes / 1024).toFixed(1)} GiB`;
}

const million = (numbers) => `${(numbers / 1e6).toFixed(1)} million`;
const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

export class Planner {
  shape = null;
  data = null;

  /** `settings` is the form; `again` checks the data once more. */
  constructor(settings, again) {
    this.settings = settings;
    this.again = again;
    for (const name of modelPresets()) byId("plan-model").append(el("option", { value: name }, name));
    byId("plan-model").addEventListener("input", () => { if (byId("plan-model").value !== "file") this.forget(); });
    for (const id of ["plan-model", "plan-memory", "plan-zero", "plan-precision"]) byId(id).addEventListener("input", () => this.show());
    byId("plan-devices").addEventListener("input", () => settings.set("nproc_per_node", byId("plan-devices").value));
    byId("plan-config").addEventListener("change", (event) => {
      this.take(event.target.files[0]);
      event.target.value = "";
    });
    settings.onchange = () => this.show();
    this.show();
  }

  /** Takes a model's config.json. */
  async take(file) {
    this.forget();
    this.shape = await file.text();
    byId("plan-model").append(el("option", { value: "file" }, "the config.json"));
    byId("plan-model").value = "file";
    this.show();
  }

  forget() {
    this.shape = null;
    byId("plan-model").querySelector("[value=file]")?.remove();
  }

  /** Takes the report of data, and the `key` of the settings under which it was checked. */
  know(text, settings) {
    this.data = { text, settings };
    this.show();
  }

  /** The settings as they are now. */
  key() {
    return JSON.stringify([this.settings.module, this.settings.config]);
  }

  /** What is known of the data: all of the report, or only its lengths where the settings are others by now. */
  report() {
    if (!this.data || this.data.settings === this.key()) return this.data?.text;
    const { training, ...rest } = JSON.parse(this.data.text);
    return JSON.stringify(rest);
  }

  request() {
    const devices = Number(this.settings.config.nproc_per_node ?? 1);
    return {
      model: byId("plan-model").value || undefined,
      config_json: this.shape ?? undefined,
      report: this.report(),
      world_size: Number.isInteger(devices) && devices > 0 ? devices : 1,
      zero_stage: Number(byId("plan-zero").value),
      precision: byId("plan-precision").value,
      memory_gib: byId("plan-memory").value === "" ? undefined : Number(byId("plan-memory").value),
    };
  }

  show() {
    const devices = String(this.settings.config.nproc_per_node ?? 1);
    if (document.activeElement !== byId("plan-devices")) byId("plan-devices").value = devices;
    const config = this.settings.config;
    const out = byId("plan-out");
    if (!byId("plan-model").value && !config.model_name_or_path) {
      out.replaceChildren(el("p", { class: "note info" }, "Choose a model, here or in the settings, or drop its config.json onto the page."));
      return;
    }
    try {
      out.replaceChildren(...this.parts(planRun(config, this.settings.module, this.request())));
    } catch (error) {
      out.replaceChildren(el("p", { class: "note warning" }, `No plan can be made: ${error.message}`));
    }
  }

  parts(plan) {
    const { memory: bytes, fullest_batch: batch } = plan;
    const stale = this.data && this.data.settings !== this.key();
    const steps = plan.total_steps === null ? (stale ? "not known" : "needs data") : count(plan.total_steps);
    return [
      this.verdict(plan),
      el("dl", { class: "facts" },
        fact("Memory of each device", memory(bytes.total)), fact("Steps of the run", steps),
        fact("Numbers in the weights", million(plan.parameters.all)), fact("Of these trained", million(plan.parameters.trained)),
        fact("Fullest batch of a device", `${count(batch.tokens)} tokens`), fact("Texts in it", count(batch.texts))),
      el("p", { class: "muted" }, plan.lengths_measured ? "Lengths are those of your data, in tokens." : "Every text is taken to be as long as the settings allow; with your data and the model's tokenizer.json the lengths are measured.",
        stale && " The settings have changed since the data was checked, so that its steps have, too."),
      stale && el("p", {}, el("button", { type: "button", id: "plan-again", onclick: () => this.again() }, "Check the data again")),
      lanes("What the memory of a device holds", Object.entries(PARTS).map(([part, name]) => [name, bytes[part]]), "part", memory),
    ].filter(Boolean);
  }

  verdict({ fits, memory: bytes, memory_bytes: limit, advice }) {
    if (fits === null) return el("div", { class: "note info" }, el("h3", {}, `It needs ${memory(bytes.total)} on each device`), el("p", {}, "Say how much memory a device has to see whether that fits."));
    if (fits) return el("div", { class: "note good" }, el("h3", {}, "It fits"), el("p", {}, `${memory(bytes.total)} of the ${memory(limit)} that a device has.`));
    const { settings, total, message } = advice;
    const names = Object.entries(settings);
    return el("div", { class: "note error" }, el("h3", {}, "It does not fit"),
      el("p", {}, `It needs ${memory(bytes.total)}, and a device has ${memory(limit)}.`),
      names.length === 0 ? el("p", {}, `${message[0].toUpperCase()}${message.slice(1)}.`) : [
        el("p", {}, `These settings would bring it to ${memory(total)} (${/\((the cost: .*)\)$/.exec(message)?.[1] ?? message}):`),
        el("ul", {}, names.map(([name, value]) => el("li", {}, el("code", {}, `${name} ${value}`)))),
        el("p", {}, el("button", { type: "button", id: "plan-use", onclick: () => this.use(settings) }, "Use these settings")),
      ]);
  }

  use({ zero_stage: stage, ...settings }) {
    if (stage !== undefined) byId("plan-zero").value = String(stage);
    this.settings.use(settings);
    byId("plan-out").focus();
  }
}
