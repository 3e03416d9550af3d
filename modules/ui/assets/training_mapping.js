// How a data set is read: its format, which column means what, its first rows, and what becomes of them.

import { h, plural } from "./dom.js";
import { request } from "./page.js";
import { change, draft } from "./training_draft.js";
import { fill, later, problemBox } from "./training_fields.js";

const MEANINGS = {
  messages: "Messages", system: "System prompt", tools: "Tools", instruction: "Instruction (what is asked)", output: "Output (the answer to learn)", input: "Input (more of the question)",
  history: "History (earlier turns)", text: "Text", chosen: "Better answer", rejected: "Worse answer", prompt: "Prompt", answer: "Answer", label: "Good or bad",
};
const PREVIEWED = 3;

export class DataMapping {
  constructor() {
    Object.assign(this, { name: "", found: null, asked: 0 });
    this.title = h("p", { class: "train-recognised", role: "status" });
    this.problem = problemBox();
    this.format = h("select", { id: "training-format", on: { change: () => this.setFormat() } });
    this.selects = h("div", { class: "train-columns" });
    this.rows = h("div", { class: "train-table", tabindex: "0", role: "region", "aria-label": "First rows as they stand in the file" });
    this.samples = h("div", { class: "train-samples", role: "region", "aria-label": "The samples as they will be read", "aria-live": "polite" });
    this.element = h("div", { class: "train-mapping", hidden: true }, this.title, this.problem.element,
      h("div", { class: "train-columns" }, h("div", { class: "train-field" }, h("label", { for: "training-format", text: "Read as" }), this.format), this.selects),
      h("details", { open: true }, h("summary", { text: "First rows of the file" }), this.rows),
      h("details", { open: true }, h("summary", { text: "As they will be read" }), this.samples));
    this.preview = later(() => this.readSamples());
  }

  /** Show a data set of the draft, or nothing. */
  async show(dataset) {
    this.element.hidden = !dataset;
    if (!dataset) { this.name = ""; return; }
    if (dataset.name === this.name && this.found && dataset.format) { this.drawChoices(); this.drawRows(); return; }
    await this.look(dataset.name);
  }

  async look(name) {
    const mine = ++this.asked;
    this.name = name;
    this.found = null;
    this.title.textContent = `Looking into ${name}…`;
    this.problem.say("");
    for (const part of [this.selects, this.rows, this.samples]) part.replaceChildren();
    let found;
    try { found = await request("GET", `ui/datasets/look?name=${encodeURIComponent(name)}`); } catch (error) {
      if (mine === this.asked) { this.title.textContent = ""; this.problem.say(error.message); }
      return;
    }
    if (mine !== this.asked || draft.dataset?.name !== name) return;
    this.found = found;
    if (!draft.dataset.format && found.format) change({ dataset: { name, format: found.format, columns: { ...found.columns } } }, this);
    this.problem.say(found.problem ?? "");
    this.drawChoices();
    this.drawRows();
  }

  get kind() {
    return this.found.formats.find((row) => row.value === draft.dataset?.format);
  }

  drawChoices() {
    const { found } = this;
    const title = found.formats.find((row) => row.value === found.format)?.title;
    this.title.textContent = title ? `Recognised: ${title}.` : draft.dataset.format ? "" : "The format was not recognised: choose how it is to be read.";
    fill(this.format, [["", "Choose…"], ...found.formats.map((row) => [row.value, row.title])], draft.dataset.format);
    const { kind } = this;
    const columns = [["", "— none —"], ...found.found.map((column) => [column, column])];
    this.selects.replaceChildren(...(kind?.meanings ?? []).map((meaning) => {
      const needed = kind.needed.includes(meaning);
      const select = h("select", { id: `training-column-${meaning}`, required: needed, on: { change: () => this.setColumn(meaning, select.value) } });
      fill(select, columns, draft.dataset.columns[meaning] ?? "");
      const label = h("label", { for: select.id }, MEANINGS[meaning] ?? meaning, needed ? h("span", { class: "train-needed", text: " needed" }) : null);
      return h("div", { class: `train-field${needed && !select.value ? " lacking" : ""}` }, label, select);
    }));
    this.preview();
  }

  setFormat() {
    const { found } = this;
    const format = this.format.value;
    const meanings = found.formats.find((row) => row.value === format)?.meanings ?? [];
    // What has the same name as a meaning is most likely that
    const guess = Object.fromEntries(meanings.filter((meaning) => found.found.includes(meaning)).map((meaning) => [meaning, meaning]));
    change({ dataset: { ...draft.dataset, format, columns: format === found.format ? { ...found.columns } : guess } }, this);
    this.drawChoices();
    this.drawRows();
  }

  setColumn(meaning, column) {
    const columns = { ...draft.dataset.columns, [meaning]: column };
    if (!column) delete columns[meaning];
    change({ dataset: { ...draft.dataset, columns } }, this);
    document.querySelector(`#training-column-${CSS.escape(meaning)}`)?.closest(".train-field").classList.toggle("lacking", !column && this.kind.needed.includes(meaning));
    this.drawRows();
    this.preview();
  }

  drawRows() {
    const { found } = this;
    const meant = Object.fromEntries(Object.entries(draft.dataset?.columns ?? {}).map(([meaning, column]) => [column, meaning]));
    const head = found.found.map((column) => h("th", { scope: "col" }, column, meant[column] ? h("span", { class: "badge", text: MEANINGS[meant[column]] ?? meant[column] }) : null));
    const rows = found.rows.slice(0, 5).map((row) => h("tr", {}, h("th", { scope: "row", text: row.where }), ...found.found.map((column) => h("td", {}, h("span", { text: row.values[column] ?? "" })))));
    this.rows.replaceChildren(found.rows.length ? h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col", text: "Where" }), ...head)), h("tbody", {}, ...rows)) : h("p", { class: "side-note", text: "There is no row to show." }));
  }

  async readSamples() {
    const { dataset } = draft;
    if (!dataset || dataset.name !== this.name || !this.found) return;
    const lacking = (this.kind?.needed ?? []).filter((meaning) => !dataset.columns[meaning]);
    if (!dataset.format || (lacking.length && this.found.found.length)) {
      this.say(dataset.format ? `Choose the column for: ${lacking.map((meaning) => MEANINGS[meaning] ?? meaning).join(", ")}.` : "Choose how the file is to be read.");
      return;
    }
    const mine = ++this.asked;
    this.samples.setAttribute("aria-busy", "true");
    try {
      const found = await request("POST", "ui/datasets/preview", dataset);
      if (mine !== this.asked) return;
      this.problem.say(found.problem ?? "");
      const left = found.empty ? ` ${plural(found.empty, "row")} without anything to learn ${found.empty === 1 ? "is" : "are"} left out.` : "";
      const all = `${found.is_whole ? "" : found.problem ? "Up to there: " : "More than "}${plural(found.count, "sample")}${found.is_whole ? " in all" : ""}.${left}`;
      this.samples.replaceChildren(h("p", { class: "model-note", text: all }), ...found.samples.slice(0, PREVIEWED).map(sampleCard));
      if (!found.samples.length) this.say(found.problem ? "No sample could be read." : "There is no sample in it.");
    } catch (error) {
      if (mine === this.asked) { this.problem.say(error.message); this.say("No sample could be read."); }
    } finally { if (mine === this.asked) this.samples.removeAttribute("aria-busy"); }
  }

  say(sentence) {
    this.samples.replaceChildren(h("p", { class: "side-note", text: sentence }));
  }
}

const ROLES = { system: "System", user: "User", assistant: "Assistant", tool: "Tool", text: "Text", better: "Assistant, better", rejected: "Assistant, worse" };

/** One sample as it will be read: turns, a text, or a pair of answers. */
export function sampleCard(sample) {
  const turn = (role, text) => h("div", { class: `train-turn ${role}` }, h("span", { class: "train-role", text: ROLES[role] ?? role }), h("p", { text }));
  const rated = typeof sample.is_good === "boolean" ? h("span", { class: `badge ${sample.is_good ? "" : "bad"}`, text: sample.is_good ? "Good answer" : "Bad answer" }) : null;
  return h("article", { class: "train-sample" },
    h("header", {}, h("span", { class: "model-note", text: sample.where + (sample.tools ? ` · ${plural(sample.tools, "tool")}` : "") }), " ", rated),
    ...(sample.messages ?? []).map((message) => turn(message.role, message.text)),
    sample.text ? turn("text", sample.text) : null,
    sample.chosen ? turn("better", sample.chosen) : null,
    sample.rejected ? turn("rejected", sample.rejected) : null);
}
