// Step 2: which model learns, under what name, with which template, from where; and settings taken from an earlier run.

import { h, number } from "./dom.js";
import { listen, report, request } from "./page.js";
import { change, draft, takeOver } from "./training_draft.js";
import { button, field, fill, step } from "./training_fields.js";

const COPIED = ["dataset", "held_out", "base", "template", "continue_from", "prompts"];

export class TrainingModel {
  constructor() {
    this.found = { models: [], templates: [], adapters: [] };
    this.runs = [];
    this.recipes = [];
    this.datasets = [];
    const text = (name) => h("input", { type: "text", maxlength: "100", autocomplete: "off", spellcheck: "false", on: { input: (event) => change({ [name]: event.target.value }, this) } });
    const select = (name) => h("select", { on: { change: (event) => change({ [name]: event.target.value }, this) } });
    const area = (name, rows) => h("textarea", { rows, on: { input: (event) => change({ [name]: event.target.value }, this) } });
    this.fields = {
      base: field("base", "Base model", select("base"), "A folder with safetensors: the model itself stays as it is."),
      name: field("name", "Name of the adapter", text("name"), "What is learned is kept in loras/ under this name."),
      template: field("template", "Chat template", select("template"), "How conversations become text. Take the one that the model will be used with."),
      continue_from: field("continue_from", "Begin from", select("continue_from"), "A new adapter, or one of the same base that learns on. That one stays as it is."),
      held_out: field("held_out", "Held-out data", h("select", { on: { change: () => this.setHeldOut() } }), "What is never learned, and shows whether learning helps."),
      copy: field("copy", "Copy settings from", h("select", { on: { change: () => this.copy() } }), "A recipe, what an adapter says of its own training, or an earlier run. A name that stands here stays."),
      prompts: field("prompts", "Prompts of your own", area("prompts", "3"), "One on each line, up to ten: answered by the base and by the adapter, side by side, when it is done."),
      notes: field("notes", "Notes", area("notes", "2"), "For yourself; kept with the run."),
    };
    this.tutorial = h("div", { class: "train-tutorial", hidden: true });
    const { base, name, template, continue_from, held_out, copy, prompts, notes } = this.fields;
    this.element = step(2, "Model and adapter", "", h("div", { class: "train-grid" }, base.element, name.element, template.element, continue_from.element, held_out.element, copy.element),
      h("div", { class: "train-grid wide" }, prompts.element, notes.element));
    listen("training-draft", ({ by }) => { if (by !== this) this.draw(); });
    listen("training-runs", (runs) => { this.runs = runs; this.draw(); });
    listen("training-datasets", (rows) => { this.datasets = rows; this.draw(); });
    listen("training-mark", ({ field: named, message }) => this.fields[named]?.mark(message));
    this.draw();
  }

  async refresh() {
    try { this.found = await request("GET", "ui/training/models"); } catch (error) { report(error); return; }
    try { this.recipes = (await request("GET", "ui/training/recipes")).recipes; } catch { /* without recipes everything else works */ }
    const able = this.found.models.filter((row) => !row.problem);
    if (!draft.base && able.length === 1) change({ base: able[0].name }, this); // there is nothing to choose
    this.draw();
  }

  draw() {
    const { models, templates, adapters } = this.found;
    const facts = (row) => [row.name, row.parameters ? `${inWords(row.parameters)} parameters` : "", row.context_length ? `${number(row.context_length)} tokens` : ""].filter(Boolean).join(" · ");
    const { base, template, continue_from, held_out, copy } = this.fields;
    fill(base.control, [["", "Choose…"], ...models.map((row) => [row.name, row.problem ? `${row.name}: ${row.problem}` : facts(row), Boolean(row.problem)])], draft.base);
    base.note.textContent = models.length && !models.some((row) => !row.problem) ? "No model here can be trained: that takes a folder with safetensors. Download one on the Models page." : "A folder with safetensors: the model itself stays as it is.";
    const own = models.find((row) => row.name === draft.base)?.template;
    fill(template.control, [["", own ? "The model's own" : "The model's own, if it has one"], ...templates.map((name) => [name, name])], draft.template);
    fill(continue_from.control, [["", "A new adapter"], ...adapters.map((row) => [row.name, row.base ? `${row.name} (for ${row.base})` : row.name])], draft.continue_from);
    fill(held_out.control, [["", "A share of the data, see the options"], ...this.datasets.filter((row) => !row.problem && row.name !== draft.dataset?.name).map((row) => [row.name, row.name])], draft.held_out?.name ?? "");
    const begun = (run) => new Date(run.created_s * 1000).toLocaleString("en-CA", { dateStyle: "short", timeStyle: "short", hourCycle: "h23" });
    const sources = [
      ...this.recipes.filter((row) => row.kind === "recipe").map((row) => [`recipe:${row.name}`, row.title || row.name, false, "Recipes"]),
      ...this.runs.map((run) => [`run:${run.id}`, `${run.name} · ${begun(run)}`, false, "Runs"]),
      ...this.recipes.filter((row) => row.kind === "adapter").map((row) => [`adapter:${row.name}`, row.name, false, "Adapters"]),
    ];
    fill(copy.control, [["", sources.length ? "Choose…" : "There is nothing to copy yet"], ...sources], "");
    this.drawTutorial();
    for (const name of ["name", "prompts", "notes"]) {
      const { control } = this.fields[name];
      if (control.value !== draft[name]) control.value = draft[name];
    }
  }

  async setHeldOut() {
    const { held_out: heldOut } = this.fields;
    const name = heldOut.control.value;
    heldOut.mark("");
    if (!name) { change({ held_out: null }, this); return; }
    try {
      const found = await request("GET", `ui/datasets/look?name=${encodeURIComponent(name)}`);
      if (!found.format) throw new Error(found.problem || `How “${name}” is to be read was not recognised. Choose it in step 1 first to see why.`);
      change({ held_out: { name, format: found.format, columns: found.columns } }, this);
    } catch (error) { heldOut.mark(error.message); this.draw(); }
  }

  copy() {
    const [kind, name] = /^(\w+):(.*)$/.exec(this.fields.copy.control.value)?.slice(1) ?? [];
    return kind ? this.takeFrom(kind, name) : null;
  }

  /** Fill everything in from a recipe, a run or an adapter; the name only where there is none yet. */
  async takeFrom(kind, name) {
    this.fields.copy.mark("");
    try {
      const asked = kind === "run" ? request("GET", `ui/training/runs/${name}?after=1000000000`).then(({ args }) => args)
        : request("GET", `ui/training/recipe?kind=${kind}&name=${encodeURIComponent(name)}`).then(({ run }) => run);
      takeOver(await asked, kind === "recipe" && !draft.name ? [...COPIED, "name"] : COPIED);
    } catch (error) { this.fields.copy.mark(error.message); }
  }

  /** For whoever has trained nothing yet: a recipe that can be run as it is. */
  drawTutorial() {
    const recipe = this.recipes.find((row) => row.kind === "recipe" && /^tutorial\b/i.test(row.title));
    this.tutorial.hidden = !recipe || this.runs.length > 0 || Boolean(draft.dataset);
    if (this.tutorial.hidden || this.tutorial.childElementCount) return;
    const about = recipe.title.replace(/^tutorial:\s*/i, "");
    this.tutorial.replaceChildren(h("span", { text: `First time here? ${about.slice(0, 1).toUpperCase()}${about.slice(1)}.` }), button("Fill in the tutorial", () => this.takeFrom("recipe", recipe.name), { kind: "primary" }));
  }
}

function inWords(count) {
  return count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : number(count);
}
