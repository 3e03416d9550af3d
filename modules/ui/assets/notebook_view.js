// How a notebook is looked at: the text to write in, as Markdown, or as tokens; beside each other or one at a time.

import { h, replaceBlocks } from "./dom.js";
import { request } from "./page.js";

const KEY = "paddock.notebook.view";
const NAMES = Object.freeze({ text: "Text", markdown: "Markdown", tokens: "Tokens" });
const PREVIEW_DELAY_MS = 250;

export class NotebookView {
  /** `area` is the box to write in, `likelihood` the view of tokens. */
  constructor(area, likelihood) {
    Object.assign(this, { area, likelihood, asked: 0, shown: [] });
    this.preview = h("div", { class: "notebook-preview markdown", tabindex: "0", role: "region", "aria-label": "The text as Markdown" });
    this.panes = h("div", { class: "notebook-panes" }, area, this.preview, likelihood.element);
    this.buttons = Object.entries(NAMES).map(([name, text]) => h("button", { type: "button", class: "small-button", text, data: { view: name }, on: { click: () => this.choose({ name }) } }));
    this.both = h("button", { type: "button", class: "small-button", text: "Two columns", title: "The text and a view of it beside each other", on: { click: () => this.choose({ columns: !this.columns }) } });
    this.element = h("div", { class: "notebook-views", role: "group", "aria-label": "View" }, ...this.buttons, this.both);
    this.choose(stored());
  }

  choose({ name = this.name, columns = this.columns }) {
    Object.assign(this, { name, columns });
    localStorage.setItem(KEY, JSON.stringify({ name, columns }));
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.view === name));
    this.both.setAttribute("aria-pressed", String(columns));
    const beside = name === "text" && columns ? "markdown" : name;
    this.area.hidden = name !== "text" && !columns;
    this.preview.hidden = beside !== "markdown";
    this.likelihood.element.hidden = beside !== "tokens";
    this.panes.classList.toggle("columns", columns);
    if (beside === "tokens") this.likelihood.look();
    this.changed();
  }

  /** The text has changed. */
  changed() {
    if (!this.likelihood.element.hidden) this.likelihood.stale();
    if (!this.preview.hidden) this.timer ??= setTimeout(() => this.draw(), PREVIEW_DELAY_MS); // also while it grows without a pause
  }

  async draw() {
    this.timer = null;
    const asked = this.asked += 1;
    try {
      const { blocks } = await request("POST", "ui/notebook/preview", { text: this.area.value });
      if (asked !== this.asked) return;
      let first = 0;
      while (first < blocks.length && blocks[first] === this.shown[first]) first += 1;
      replaceBlocks(this.preview, first, blocks.slice(first));
      this.shown = blocks;
    } catch (error) { this.shown = []; this.preview.textContent = error.message; }
  }
}

function stored() {
  try { return { name: "text", columns: false, ...JSON.parse(localStorage.getItem(KEY)) }; } catch { return { name: "text", columns: false }; }
}
