// On the models page: the LoRA adapters of the folder, whether each fits the loaded model, and which ones it has in use.

import { AdapterControl, adapterWords, choicesInWords, settled } from "./adapter_rows.js";
import { AdapterUses } from "./adapter_uses.js";
import { h } from "./dom.js";
import { size } from "./job_list.js";
import { focused, isBusy, openForm, refocus } from "./list_rows.js";
import { Library, shelfFacts, shelfNotes } from "./model_library.js";
import { modelMenu, updateNews } from "./model_menu.js";
import { listen, refreshModels, request, state } from "./page.js";

export class ModelAdapters {
  constructor() {
    Object.assign(this, { found: null, controls: [], wanted: "", asked: 0, applying: false });
    this.library = new Library("ui/adapter-library", "Bin of adapters", () => this.draw());
    this.model = h("select", { "aria-label": "Model for the adapters", on: { change: () => { this.wanted = this.model.value; this.look(); } } });
    this.note = h("p", { class: "model-note" });
    this.status = h("p", { class: "model-note", role: "status" });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.rows = h("div", { class: "adapter-rows" });
    this.uses = new AdapterUses(this.library, (name, form) => openForm(this.rows, name, this.library, form));
    this.element = h("section", { class: "adapters", "aria-label": "LoRA adapters", hidden: true },
      h("header", { class: "list-head" }, h("h2", { text: "LoRA adapters" }), this.model), this.note, this.status, this.problem, this.uses.jobs.element, this.rows);
    this.changed = settled(() => this.apply());
    listen("model", () => this.follow());
  }

  get card() {
    const loaded = state.models?.loaded ?? [];
    return loaded.find((card) => card.name === this.wanted) ?? loaded[0];
  }

  /** Ask again when models or adapters came, went or changed. */
  follow() {
    const { adapters, loaded } = state.models;
    const seen = JSON.stringify([adapters, loaded.map((card) => [card.name, card.pid, card.adapters])]);
    if (seen === this.seen) return;
    this.seen = seen;
    this.look();
  }

  async look() {
    const asked = this.asked += 1;
    let found;
    try { found = await request("GET", `ui/adapters?model=${encodeURIComponent(this.card?.name ?? "")}`); } catch { return; } // the chat's own banner tells that the server is away
    if (asked !== this.asked || this.applying) return; // what is set here meanwhile is newer, also where that has its answer by now
    this.found = found;
    this.draw();
  }

  /** Put what is chosen into use: it acts from the next reply on. One request at a time; the last one says how it is in the end. */
  async apply() {
    this.again = true;
    if (this.applying) return;
    this.applying = true;
    this.asked += 1;
    while (this.again) {
      this.again = false;
      const adapters = this.controls.map((control) => control.choice).filter(Boolean);
      try {
        this.found = await request("PUT", "ui/adapters", { model: this.card?.name ?? "", adapters });
        this.problem.hidden = true;
      } catch (error) {
        this.problem.replaceChildren(h("span", { text: error.message }));
        this.problem.hidden = false;
      }
    }
    this.applying = false;
    this.draw();
    refreshModels();
  }

  draw() {
    if (!this.found) return;
    const { adapters, in_use: inUse } = this.found;
    const { card } = this;
    this.element.hidden = !adapters.length;
    const names = (state.models?.loaded ?? []).map((loaded) => loaded.name);
    this.model.hidden = names.length < 2;
    if (JSON.stringify(names) !== this.names) this.model.replaceChildren(...names.map((name) => h("option", { value: name, text: name })));
    this.names = JSON.stringify(names);
    this.model.value = card?.name ?? "";
    this.note.textContent = card ? `For ${card.name}, in every conversation that does not choose its own; what is set here acts from the next reply on.` : "Load a model to put adapters into use on it.";
    this.status.textContent = card ? (inUse.length ? `In use: ${choicesInWords(inUse)}.` : "None is in use.") : "";
    const signature = JSON.stringify([adapters, card?.name, this.uses.trying, adapters.map((row) => this.library.seen(row.name))]);
    const asShown = JSON.stringify(inUse) === JSON.stringify(this.controls.map((control) => control.choice).filter(Boolean));
    // A slider under somebody's finger stays where it is
    if (this.applying || this.changed.pending || isBusy(this.rows) || (signature === this.drawn && (asShown || !this.problem.hidden))) return;
    this.drawn = signature;
    const held = focused(this.rows);
    this.controls = adapters.map((row) => new AdapterControl(card ? row : { ...row, problem: "no model" }, inUse.find((choice) => choice.name === row.name), this.changed));
    this.rows.replaceChildren(...adapters.map((row, place) => this.row(row, this.controls[place])));
    refocus(this.rows, held);
  }

  row(row, control) {
    const { library } = this;
    const shelf = library.of(row.name);
    const said = library.said.get(row.name);
    return h("div", { class: "adapter", data: { name: row.name } }, h("label", {}, control.box, h("span", { text: row.name })),
      h("div", { class: "adapter-about" }, ...[...adapterWords(row, size(row.size_bytes), ...shelfFacts(shelf)), ...shelfNotes(shelf)].filter(Boolean),
        updateNews(row.name, library), said ? h("p", { class: "model-note bad", role: "alert", text: said }) : null),
      control.scale, h("div", { class: "model-tools" }, this.uses.tryButton(row), modelMenu(row.name, library, (form) => openForm(this.rows, row.name, library, form), this.uses.items(row))));
  }
}
