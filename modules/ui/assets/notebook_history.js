// The versions of a notebook: after each generation, and now and then while it is typed. One can be looked at and gone back to.

import { h, number } from "./dom.js";
import { Drop, when } from "./notebook_drop.js";
import { report, request } from "./page.js";

const KINDS = Object.freeze({ typed: "typed", written: "written by the model", alternative: "an alternative" });

export class NotebookHistory {
  /** `current()` is the open notebook's id, `restore(number)` goes back to a version. */
  constructor({ current, restore }) {
    Object.assign(this, { current, restore });
    const button = h("button", { type: "button", class: "small-button", text: "History", title: "Versions of this notebook" });
    this.rows = h("ol", { "aria-label": "Versions" });
    this.drop = new Drop(button, "Versions of this notebook", () => this.fill());
    this.drop.panel.append(h("p", { class: "side-note", text: "A version is kept before and after each generation, and each minute while you type: the last 200." }), this.rows);
    this.element = this.drop.element;
  }

  async fill() {
    try {
      const { versions } = await request("GET", `ui/notebooks/${this.current()}/versions`);
      this.rows.replaceChildren(...(versions.length ? versions.map((version) => this.row(version)) : [h("li", { class: "side-note", text: "There are no versions yet." })]));
    } catch (error) { report(error); }
  }

  row(version) {
    const about = `${when(version.created_s)} · ${KINDS[version.kind]} · ${number(version.characters)} characters`;
    const look = h("button", { type: "button", class: "notebook-row", "aria-expanded": "false", on: { click: () => this.look(item, look, version) } },
      h("span", { class: "notebook-row-name", text: `${version.begin ? "…" : ""}${version.text.trim().slice(0, 120)}` }), h("span", { class: "notebook-about", text: about }));
    const item = h("li", {}, look);
    return item;
  }

  /** The whole text, at what is new in it. */
  async look(item, button, version) {
    const open = item.querySelector(".notebook-version");
    button.setAttribute("aria-expanded", String(!open));
    if (open) { open.remove(); return; }
    try {
      const { text } = await request("GET", `ui/notebooks/${this.current()}/versions/${version.number}`);
      const letters = Array.from(text);
      const place = h("span");
      const whole = h("pre", { tabindex: "0" }, letters.slice(0, version.begin).join(""), place, letters.slice(version.begin).join(""));
      const back = h("button", { type: "button", class: "small-button primary", text: "Go back to this version", on: { click: () => { this.drop.toggle(false); this.restore(version.number); } } });
      item.append(h("div", { class: "notebook-version" }, whole, back));
      whole.scrollTop = place.offsetTop - whole.offsetTop - whole.clientHeight / 2;
    } catch (error) { report(error); }
  }
}
