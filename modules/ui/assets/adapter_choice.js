// In the settings drawer: the LoRA adapters of the open conversation or of the notebook, or those of the model.

import { AdapterControl, adapterWords, choicesInWords, settled } from "./adapter_rows.js";
import { h } from "./dom.js";
import { emit, listen, request, state } from "./page.js";

class AdapterChoice {
  constructor(element) {
    this.known = new Map(); // scope → {key, adapters}
    this.found = null; // of ui/adapters
    this.shown = {}; // scope and key of what the controls are for
    this.own = h("input", { type: "checkbox", id: "own-adapters" });
    this.own.addEventListener("change", () => this.choose(this.own.checked ? this.found?.in_use ?? [] : null));
    this.words = h("span");
    this.note = h("p", { class: "side-note" });
    this.rows = h("div", { class: "adapter-rows" });
    this.body = h("section", { class: "adapter-choice", "aria-label": "Adapters", hidden: true },
      h("h3", { text: "LoRA adapters" }), h("label", { class: "own" }, this.own, this.words), this.note, this.rows);
    element.replaceChildren(this.body);
    element.removeAttribute("aria-busy");
    this.changed = settled(() => this.choose(this.controls.map((control) => control.choice).filter(Boolean)));
    listen("settings-known", ({ scope, key, settings }) => this.take(scope, key, settings.adapters ?? null));
    listen("drawer-opened", () => this.look());
    listen("area", () => this.look());
    listen("model", () => this.follow());
  }

  get scope() {
    return state.area === "notebook" ? "notebook" : "chat";
  }

  get adapters() {
    return this.known.get(this.scope)?.adapters ?? null;
  }

  take(scope, key, adapters) {
    const before = JSON.stringify(this.known.get(scope));
    this.known.set(scope, { key, adapters });
    if (scope === this.scope && before !== JSON.stringify(this.known.get(scope))) this.draw();
  }

  /** Another model, or others in use on it. */
  follow() {
    const seen = JSON.stringify([state.models?.loaded?.map((card) => [card.name, card.pid, card.adapters]), state.models?.adapters]);
    if (seen === this.seen) return;
    this.seen = seen;
    this.look();
  }

  async look() {
    if (!document.body.classList.contains("drawer-open")) return;
    try { this.found = await request("GET", "ui/adapters"); } catch { return; } // the chat's own banner tells that the server is away
    this.draw();
  }

  /** Set the adapters of what is shown, which may not be what is open any more; null takes those of the model. */
  choose(adapters) {
    const { scope, key } = this.shown;
    if (!key) return;
    const current = this.known.get(scope);
    const isOpen = current?.key === key && scope === this.scope;
    const isNew = isOpen && (current.adapters === null) !== (adapters === null);
    if (current?.key === key) current.adapters = adapters;
    emit("settings-edited", { scope, key, settings: { adapters } });
    if (isNew || !isOpen) this.draw(); // else the controls show it, and one may be under somebody's finger
  }

  draw() {
    if (!this.found || this.changed.pending) return;
    const { adapters: rows, in_use: inUse, model } = this.found;
    const chosen = this.adapters;
    this.shown = { scope: this.scope, key: this.known.get(this.scope)?.key };
    this.body.hidden = !rows.length && !chosen;
    this.own.checked = chosen !== null;
    this.words.textContent = this.scope === "notebook" ? "Choose for the notebook" : "Choose for this conversation";
    const used = choicesInWords(inUse);
    this.note.textContent = chosen === null ? (used ? `As on the model: ${used}.` : "As on the model: none. The Models page sets its adapters.") : model ? "From the next reply on." : "Load a model to see which ones fit.";
    const gone = (chosen ?? []).filter((choice) => !rows.some((row) => row.name === choice.name)).map((choice) => ({ name: choice.name, problem: "It is no longer in loras/; take it off." }));
    const shown = chosen === null ? [] : [...rows, ...gone];
    this.controls = shown.map((row) => new AdapterControl(row, chosen.find((choice) => choice.name === row.name), this.changed));
    this.rows.replaceChildren(...shown.map((row, place) => {
      const control = this.controls[place];
      return h("div", { class: "adapter", data: { name: row.name } }, h("label", {}, control.box, h("span", { text: row.name })), control.scale,
        h("div", { class: "adapter-about" }, ...(row.format ? adapterWords(row) : [h("span", { class: "model-note bad", text: row.problem })]).filter(Boolean)));
    }));
  }
}

export function mount(element) {
  new AdapterChoice(element).look();
  emit("settings-part-drawn");
}
