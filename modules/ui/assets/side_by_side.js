// Versions of a reply that are written at the same time, in columns, until one is picked. And how many are asked for.

import { h } from "./dom.js";
import { keptChoice } from "./kept_choice.js";

const MOST = 6;
const VERSIONS_KEY = "paddock.versions";

export class SideBySide {
  constructor(actions) {
    this.actions = actions;
    this.columns = new Map();
    this.element = h("div", { class: "side-by-side", role: "group", "aria-label": "Versions side by side" });
  }

  /** `views` are the messages' own, in order; they are moved here and keep what they show. */
  show(views) {
    const wanted = new Set(views.map((view) => view.id));
    for (const [id, column] of this.columns) if (!wanted.has(id)) { column.remove(); this.columns.delete(id); }
    views.forEach((view, place) => {
      let column = this.columns.get(view.id);
      if (!column) {
        const use = h("button", { type: "button", class: "small-button", text: "Use this one", on: { click: () => this.actions.act("pick", { message_id: view.id }) } });
        column = h("section", { class: "version-column", "aria-label": `Version ${place + 1}` }, h("div", { class: "version-head" }, h("span", { text: `Version ${place + 1}` }), use));
        this.columns.set(view.id, column);
        this.element.append(column);
      }
      if (view.element.parentElement !== column) column.append(view.element);
    });
  }

  clear() {
    this.columns.clear();
    this.element.replaceChildren();
    this.element.remove();
  }
}

/** A row of PARTS in composer_parts.js: how many versions Send and Regenerate write. */
export function versionsChoice(composer) {
  const options = Array.from({ length: MOST }, (_, place) => h("option", { value: String(place + 1), text: `${place + 1} ×` }));
  const select = h("select", { class: "versions-choice", "aria-label": "Replies at once", title: "How many replies Send and Regenerate write at the same time, side by side" }, ...options);
  const take = () => {
    composer.versions = Number(select.value);
    select.classList.toggle("several", composer.versions > 1);
  };
  keptChoice(select, VERSIONS_KEY).addEventListener("change", () => { take(); composer.text.focus(); });
  take();
  return select;
}
