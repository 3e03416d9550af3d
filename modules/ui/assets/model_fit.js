// What models were predicted to take and what they really took: a line for each row, and a table that can be opened. Measuring this machine.

import { h, number } from "./dom.js";
import { size } from "./job_list.js";
import { listen, report, request, state } from "./page.js";

const LOOK_MS = 4000; // while this machine is being measured
const NEWS_MS = 12000; // replies correct what is told of speed
const SIZES = ["predicted_bytes", "real_bytes"];

export class ModelFits {
  constructor(onChange) {
    this.onChange = onChange;
    this.records = [];
    this.machine = {};
    this.element = h("details", { class: "hub-card fit-table", hidden: true });
    listen("area", (area) => { if (area === "models") this.refresh(); });
    listen("model", () => this.follow());
    this.refresh();
  }

  /** Read again when other models are loaded, and now and then: what is loaded is asked for far more often than this changes. */
  follow() {
    if (state.area !== "models") return;
    const loaded = JSON.stringify([state.models.loading?.name, state.models.loaded.map((card) => card.name)]);
    if (loaded === this.loaded && performance.now() - this.read < NEWS_MS) return;
    this.loaded = loaded;
    this.refresh();
  }

  /** The record of a model as it was last loaded with any loader. */
  of(name) {
    return this.records.findLast((row) => row.name === name);
  }

  async refresh(work = () => request("GET", "ui/fit")) {
    clearTimeout(this.later);
    this.read = performance.now();
    const before = JSON.stringify([this.records, this.machine]);
    try { ({ records: this.records, machine: this.machine } = await work()); } catch { return; }
    if (Object.values(this.machine).some((loader) => loader.measuring)) this.later = setTimeout(() => this.refresh(), LOOK_MS);
    if (JSON.stringify([this.records, this.machine]) === before) return;
    this.draw();
    this.onChange();
  }

  draw() {
    const loaders = Object.values(this.machine);
    const measuring = loaders.some((loader) => loader.measuring);
    const problems = loaders.map((loader) => loader.problem).filter(Boolean);
    const act = (method) => async () => { try { await this.refresh(() => request(method, "ui/fit/measure")); } catch (error) { report(error); } };
    const said = measuring ? "This machine is being measured; that takes a minute or two while no model is at work."
      : loaders.some((loader) => loader.known) ? "Speeds are told by what was measured on this machine, and corrected by replies." : "This machine is measured when a speed is first wanted.";
    this.element.hidden = !this.records.length;
    this.element.replaceChildren(
      h("summary", { text: "Predicted and real memory and speed" }),
      h("div", { class: "table-scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, ...["Model", "Memory predicted", "real", "off", "Speed predicted", "real", "off"].map((text) => h("th", { scope: "col", text })))),
        h("tbody", {}, ...this.records.slice().reverse().map((row) => tableRow(row))))),
      h("p", { class: "model-note", text: said }), ...[...new Set(problems)].map((text) => h("p", { class: "model-note bad", text })),
      measuring ? h("button", { type: "button", class: "small-button", text: "Stop measuring", on: { click: act("DELETE") } })
        : h("button", { type: "button", class: "small-button", text: "Measure this machine", on: { click: act("POST") } }));
  }
}

/** Predicted and real in a line; nothing for a model that was never loaded. */
export function fitNote(row) {
  if (!row) return null;
  const [predicted, real] = SIZES.map((field) => size(row[field]));
  const memory = `Memory: ${predicted} predicted, ${real} ${row.used ? "at most in use" : "after loading"} (${off(row.predicted_bytes, row.real_bytes)})`;
  const speed = row.real_tokens_per_s ? ` · speed: ${told(row.predicted_tokens_per_s)} predicted, ${told(row.real_tokens_per_s)} tokens/s real` : "";
  return h("p", { class: "model-note fit-note", text: memory + speed });
}

function tableRow(row) {
  const cells = [
    ...SIZES.map((field) => size(row[field])), off(row.predicted_bytes, row.real_bytes),
    told(row.predicted_tokens_per_s), told(row.real_tokens_per_s), off(row.predicted_tokens_per_s, row.real_tokens_per_s),
  ];
  return h("tr", {}, h("th", { scope: "row", text: `${row.name} (${row.loader})` }), ...cells.map((text) => h("td", { text })));
}

function told(speed) {
  return speed ? number(speed < 10 ? Math.round(speed * 10) / 10 : Math.round(speed)) : "–";
}

function off(predicted, real) {
  if (!predicted || !real) return "–";
  const percent = Math.round(100 * (predicted / real - 1));
  return `${percent > 0 ? "+" : ""}${percent} %`;
}
