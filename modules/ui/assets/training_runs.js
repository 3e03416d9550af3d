// The lower half of the training page: check, train, and all runs. The server does the work; this looks while somebody looks, so a reload changes nothing.

import { h } from "./dom.js";
import { emit, listen, request, state } from "./page.js";
import { TrainingCheck } from "./training_check.js";
import { RunComparison } from "./training_compare.js";
import { button } from "./training_fields.js";
import { RunCard } from "./training_run.js";

const BUSY_MS = 800;
const IDLE_MS = 10000;
const OPEN_KEY = "paddock.training.run"; // of this tab, so that a reload shows the same run

class TrainingRunsView {
  constructor(element) {
    Object.assign(this, { cards: new Map(), timer: 0, chosen: new Set() });
    this.check = new TrainingCheck((id) => this.started(id));
    this.empty = h("p", { class: "side-note", text: "No run yet. What you train appears here with its curves, and stays until you remove it." });
    this.list = h("div", { class: "train-runs" });
    this.comparison = new RunComparison();
    this.compareButton = button("Compare", () => this.comparison.show([...this.chosen], this.compareButton), { disabled: true });
    this.hint = h("span", { class: "model-note" });
    element.replaceChildren(this.check.element,
      h("section", { class: "train-step", "aria-labelledby": "training-runs-title" },
        h("header", { class: "train-head" }, h("h2", { id: "training-runs-title", tabindex: "-1", text: "Runs" }), this.hint, this.compareButton),
        this.comparison.element, this.empty, this.list));
    element.removeAttribute("aria-busy");
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
    listen("area", () => this.refresh());
    listen("training-changed", () => this.refresh());
    this.refresh();
  }

  get isSeen() {
    return !document.hidden && state.area === "training";
  }

  async refresh() {
    clearTimeout(this.timer);
    let active = false;
    if (this.isSeen) {
      try {
        const { runs } = await request("GET", "ui/training/runs");
        this.draw(runs);
        active = runs.some((run) => ["queued", "running"].includes(run.status));
      } catch { /* the chat's own banner tells that the server is away */ }
    }
    clearTimeout(this.timer);
    if (this.isSeen) this.timer = setTimeout(() => this.refresh(), active ? BUSY_MS : IDLE_MS);
  }

  draw(runs) {
    const ids = runs.map((run) => run.id);
    for (const [id, card] of this.cards) {
      if (ids.includes(id)) continue;
      card.element.remove();
      this.cards.delete(id);
      this.chosen.delete(id);
    }
    runs.forEach((run, place) => {
      if (!this.cards.has(run.id)) this.cards.set(run.id, this.newCard(run));
      const card = this.cards.get(run.id);
      if (this.list.children[place] !== card.element) this.list.insertBefore(card.element, this.list.children[place] ?? null);
      card.update(run);
    });
    this.empty.hidden = runs.length > 0;
    this.drawChosen();
    const names = JSON.stringify(runs.map((run) => [run.id, run.name]));
    if (names !== this.names) emit("training-runs", runs);
    this.names = names;
  }

  newCard(run) {
    const card = new RunCard(run, {
      onChoose: (on) => { if (on) this.chosen.add(run.id); else this.chosen.delete(run.id); this.drawChosen(); },
      onOpen: (open) => this.opened(run.id, open),
    });
    if (sessionStorage.getItem(OPEN_KEY) === run.id) card.open(true);
    return card;
  }

  drawChosen() {
    this.compareButton.hidden = this.cards.size < 2;
    this.compareButton.disabled = this.chosen.size < 2;
    this.hint.textContent = this.cards.size < 2 ? "" : this.chosen.size < 2 ? "Tick two or more to compare them." : `${this.chosen.size} are chosen.`;
  }

  opened(id, open) {
    if (open) sessionStorage.setItem(OPEN_KEY, id);
    else if (sessionStorage.getItem(OPEN_KEY) === id) sessionStorage.removeItem(OPEN_KEY);
    if (open) for (const [other, card] of this.cards) if (other !== id) card.open(false);
  }

  /** A run has begun: show it. */
  async started(id) {
    sessionStorage.setItem(OPEN_KEY, id);
    await this.refresh();
    for (const [other, card] of this.cards) card.open(other === id);
    this.cards.get(id)?.element.scrollIntoView({ behavior: "smooth", block: "start" });
  }
}

export function mount(element) {
  return new TrainingRunsView(element);
}

