// The list of templates: the loaded model's own, what was not saved yet, the person's own, those that come with Paddock; and what was deleted.

import { h, iconButton } from "./dom.js";
import { report, request, shortName, toast } from "./page.js";
import { drafts } from "./template_drafts.js";
import { button } from "./training_fields.js";

export const OWN = "own";

export class TemplateList {
  /** `actions`: open(key), make(draft), changed(). */
  constructor(actions) {
    this.actions = actions;
    this.drawn = "";
    this.rows = h("div", { class: "tpl-rows" });
    this.bin = h("details", { class: "tpl-bin", hidden: true }, h("summary", { text: "Deleted" }), h("div", {}));
    this.file = h("input", { type: "file", class: "off-screen", id: "template-file", accept: ".yaml,.yml,.jinja,.jinja2,.txt", "aria-label": "Template file", tabindex: "-1", on: { change: () => this.importFile() } });
    this.element = h("nav", { class: "tpl-list", "aria-label": "Templates" },
      h("div", { class: "tpl-list-head" }, button("New", () => actions.make({ name: "", description: "", text: "", stop: [] }), { id: "template-new" }), button("Import", () => this.file.click(), { id: "template-import" }), this.file),
      this.rows, this.bin);
  }

  show({ templates, model, deleted }, open) {
    const kept = drafts.all();
    const signature = JSON.stringify([templates, model, deleted, open, Object.entries(kept).map(([key, draft]) => [key, draft.name])]);
    if (signature === this.drawn) return;
    this.drawn = signature;
    const focused = document.activeElement?.dataset?.key;
    const unsaved = Object.entries(kept).filter(([key]) => key.startsWith("new:"));
    const inUse = (name) => (model && model.template === name ? h("span", { class: "badge", text: "in use" }) : null);
    const row = (key, name, about, ...marks) => h("li", {}, h("button", { type: "button", class: "tpl-row", data: { key }, "aria-current": key === open ? "true" : null, title: about || null, on: { click: () => this.actions.open(key) } },
      h("span", { class: "tpl-name", text: name }), kept[key] ? h("span", { class: "tpl-dot", role: "img", "aria-label": "not saved", title: "Not saved" }) : null, ...marks));
    const group = (title, items) => (items.length ? [h("h3", { text: title }), h("ul", {}, ...items)] : []);
    const files = (wanted) => templates.filter(wanted).map((entry) => row(`file:${entry.name}`, entry.name, entry.problem || entry.description, inUse(entry.name),
      entry.kind === "changed" ? h("span", { class: "badge quiet", text: "changed" }) : null, entry.problem ? h("span", { class: "badge bad", text: "broken" }) : null));
    this.rows.replaceChildren(
      ...group("Not saved", unsaved.map(([key, draft]) => row(key, draft.name || "New template", ""))),
      ...group("Loaded model", model ? [row(OWN, model.own ? shortName(model.name) : "No template of its own", `The chat template that ${model.name} brings`, inUse(""))] : []),
      ...group("Yours", files((entry) => entry.kind !== "shipped")),
      ...group("With Paddock", files((entry) => entry.kind === "shipped")));
    if (focused) this.rows.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    this.showBin(deleted);
  }

  showBin(deleted) {
    this.bin.hidden = !deleted.length;
    this.bin.querySelector("summary").textContent = `Deleted (${deleted.length})`;
    this.bin.lastElementChild.replaceChildren(...deleted.map((entry) => h("div", { class: "tpl-binned" }, h("span", { text: entry.name, title: new Date(entry.deleted_s * 1000).toLocaleString("en-GB") }),
      button("Restore", () => this.restore(entry), { "aria-label": `Restore ${entry.name}` }),
      iconButton("trash", `Delete ${entry.name} for good`, () => this.act("DELETE", entry.id)))));
  }

  async restore(entry) {
    const restored = await this.act("POST", `${entry.id}/restore`);
    if (restored) this.actions.open(`file:${restored.name}`);
  }

  async act(method, path) {
    let answer = null;
    try { answer = await request(method, `ui/templates/bin/${path}`); } catch (error) { report(error); }
    await this.actions.changed();
    return answer;
  }

  /** A file becomes a template that is not saved yet, so that it can be looked at first. */
  async importFile() {
    const [file] = this.file.files;
    this.file.value = "";
    if (!file) return;
    if (file.size > 1000000) { toast(`“${file.name}” has ${file.size.toLocaleString("en-US")} bytes; a template has at most 1,000,000.`, "error"); return; }
    try {
      this.actions.make(await request("POST", "ui/templates/read", { name: file.name, text: await file.text() }));
    } catch (error) { report(error); }
  }
}
