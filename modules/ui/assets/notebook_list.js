// Which notebook is open: its name, and all others below it, to search, make, rename, delete and bring back.

import { askInPlace, h, icon, iconButton, plural } from "./dom.js";
import { isBusy } from "./list_rows.js";
import { Drop, when } from "./notebook_drop.js";
import { report, request, toast } from "./page.js";

const SEARCH_DELAY_MS = 200;

export class NotebookList {
  /** `open(id)` shows one, `current()` is the open one's id, `save()` saves what is typed in it, `close()` shows another one in place of a deleted one. */
  constructor({ open, current, save, close }) {
    Object.assign(this, { open, current, save, close, deleted: false, asked: 0, isOld: false });
    this.name = h("span", { class: "notebook-name", text: "Notebook" });
    const button = h("button", { type: "button", class: "small-button notebook-open", title: "All notebooks" }, this.name, icon("chevron"));
    this.drop = new Drop(button, "Notebooks", () => this.show());
    this.search = h("input", { type: "search", placeholder: "Search notebooks", "aria-label": "Search notebooks", on: { input: () => this.searchSoon() } });
    this.rows = h("ul", { "aria-label": "Notebooks" });
    this.bin = h("button", { type: "button", class: "small-button", on: { click: () => { this.deleted = !this.deleted; this.fill(); } } });
    const make = h("button", { type: "button", class: "small-button primary", text: "New notebook", on: { click: () => this.make() } });
    this.drop.panel.append(h("div", { class: "notebook-drop-head" }, this.search, make), this.rows, this.bin);
    this.element = this.drop.element;
  }

  setName(name) {
    this.name.textContent = name || "Untitled";
  }

  async show() {
    this.deleted = false;
    this.search.value = "";
    await this.fill({ gently: true });
    if (!this.isInUse) this.search.focus();
  }

  searchSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fill(), SEARCH_DELAY_MS);
  }

  /** Whether somebody is in the middle of something in the list. */
  get isInUse() { return isBusy(this.rows) || Boolean(this.rows.querySelector(".notebook-rename")); }

  /** Ask for the list and draw it; `gently` only when what was begun in the one of before has ended. */
  async fill({ gently = false } = {}) {
    const asked = this.asked += 1;
    const query = new URLSearchParams({ search: this.search.value, deleted: String(this.deleted) });
    try {
      const { notebooks } = await request("GET", `ui/notebooks?${query}`);
      if (asked !== this.asked) return;
      this.isOld = gently && this.isInUse;
      if (this.isOld) return;
      this.bin.textContent = this.deleted ? "Back to the notebooks" : "Deleted notebooks";
      const none = this.search.value ? "No notebook has these words." : this.deleted ? "Nothing was deleted in the last 30 days." : "There is no notebook yet.";
      this.rows.replaceChildren(...(notebooks.length ? notebooks.map((row) => (this.deleted ? this.binned(row) : this.row(row))) : [h("li", { class: "side-note", text: none })]));
    } catch (error) { report(error); }
  }

  /** Something that was begun in the list ended without a change. */
  async catchUp() {
    if (this.isOld) await this.fill({ gently: true });
  }

  row(notebook) {
    const about = h("span", { class: "notebook-about", text: `${plural(notebook.characters, "character")} · ${when(notebook.updated_s)}` });
    const choose = h("button", { type: "button", class: "notebook-row", on: { click: () => { this.drop.toggle(false); this.open(notebook.id); } } }, h("span", { class: "notebook-row-name", text: notebook.name }), about);
    const line = h("div", { class: "notebook-line" }, choose,
      iconButton("edit", `Rename “${notebook.name}”`, () => this.rename(item, line, notebook)),
      iconButton("trash", `Delete “${notebook.name}”`, () => this.remove(line, notebook)));
    const item = h("li", { class: notebook.id === this.current() ? "open" : "", "aria-current": notebook.id === this.current() ? "true" : false }, line);
    return item;
  }

  binned(notebook) {
    const back = h("button", { type: "button", class: "small-button", text: "Bring back", on: { click: () => this.bringBack(notebook.id) } });
    return h("li", {}, h("div", { class: "notebook-line" }, h("span", { class: "notebook-row" }, h("span", { class: "notebook-row-name", text: notebook.name }),
      h("span", { class: "notebook-about", text: `deleted ${when(notebook.deleted_s)}; kept for 30 days` })), back));
  }

  rename(item, line, notebook) {
    const field = h("input", { type: "text", class: "notebook-rename", value: notebook.name, maxlength: "200", "aria-label": "Name of the notebook" });
    const end = async (keep) => {
      if (!field.isConnected) return;
      const name = field.value.trim();
      item.replaceChildren(line);
      if (keep && name !== notebook.name) await this.change("PATCH", notebook.id, { name });
      else await this.catchUp();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    item.replaceChildren(field);
    field.select();
  }

  async remove(line, notebook) {
    if (!await askInPlace(line, `Delete “${notebook.name}”?`, "Delete")) { await this.catchUp(); return; }
    const isOpen = () => notebook.id === this.current();
    if (isOpen()) await this.save();
    if (!await this.change("DELETE", notebook.id)) return;
    const wasOpen = isOpen();
    toast(`“${notebook.name}” is in the bin for 30 days: Deleted notebooks, at the end of the list.`, "info", { text: "Undo", run: () => this.bringBack(notebook.id, wasOpen) });
    if (wasOpen) this.close();
  }

  async bringBack(id, open = false) {
    try {
      await request("POST", `ui/notebooks/${id}/restore`, {});
      if (open) this.open(id);
    } catch (error) { report(error); }
    await this.fill({ gently: true });
  }

  async change(method, id, body) {
    let done = true;
    try {
      await request(method, `ui/notebooks/${id}`, body);
      if (body?.name && id === this.current()) this.setName(body.name);
    } catch (error) { report(error); done = false; }
    await this.fill({ gently: true });
    return done;
  }

  async make() {
    try {
      const { id } = await request("POST", "ui/notebooks", {});
      this.drop.toggle(false);
      this.open(id);
    } catch (error) { report(error); }
  }
}
