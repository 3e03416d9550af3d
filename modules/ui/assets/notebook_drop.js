// A button that opens a panel below it; Escape, or a click somewhere else, closes it.

import { h } from "./dom.js";

export class Drop {
  /** `button` gets its click from here; `opened()` is called before it is shown. */
  constructor(button, label, opened) {
    this.button = button;
    this.opened = opened;
    this.panel = h("div", { class: "notebook-drop", role: "group", "aria-label": label, hidden: true });
    this.element = h("div", { class: "notebook-drop-place" }, button, this.panel);
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => this.toggle());
    this.element.addEventListener("keydown", (event) => this.onKey(event));
    // What had the focus may be gone: then the key is the document's
    document.addEventListener("keydown", (event) => { if (!this.element.contains(event.target)) this.onKey(event); }, true);
    document.addEventListener("pointerdown", (event) => { if (!this.panel.hidden && !this.element.contains(event.target)) this.toggle(false); });
  }

  onKey(event) {
    if (event.key !== "Escape" || this.panel.hidden) return;
    event.preventDefault();
    this.toggle(false);
    this.button.focus();
  }

  async toggle(open = this.panel.hidden) {
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    if (open) await this.opened();
  }
}

/** "14:05" today, else "26 Nov 14:05". */
export function when(seconds) {
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}
