// Templates: how messages become the text that a model reads. List, editor, a look at what is edited. Nothing typed is lost: see template_drafts.js.

import { askInPlace, h } from "./dom.js";
import { address, emit, listen, report, request, shortName, state, toast } from "./page.js";
import { drafts, fromLines, isSame, toLines } from "./template_drafts.js";
import { OWN, TemplateList } from "./template_list.js";
import { TemplateLook } from "./template_look.js";
import { TemplateText } from "./template_text.js";
import { button, fill, problemBox } from "./training_fields.js";

const ABOUT = {
  own: "This is the chat template that the loaded model brings. It cannot be changed; edit a copy.",
  shipped: "Comes with Paddock. What you save is kept as your own version of it; Reset brings the shipped one back.",
  changed: "Your own version of a template that comes with Paddock.",
  broken: "The file of this template cannot be used. Write its text anew, or delete the file.",
};

class TemplateEditor {
  constructor(element) {
    Object.assign(this, { key: "", saved: null, opened: 0, told: null });
    this.list = new TemplateList({ open: (key) => this.open(key), make: (draft) => this.make(draft), changed: () => this.changed() });
    this.look = new TemplateLook({ edited: () => this.edited(), showError: (error) => this.showError(error), goToStop: () => this.fields.stop.focus(), chosen: () => this.refresh() });
    this.text = new TemplateText(() => this.typed());
    const typed = { input: () => this.typed() };
    this.fields = {
      name: h("input", { id: "template-name", type: "text", maxlength: "100", autocomplete: "off", "aria-describedby": "template-problem", on: typed }),
      description: h("input", { id: "template-description", type: "text", maxlength: "300", autocomplete: "off", on: typed }),
      stop: h("textarea", { id: "template-stop", rows: "1", spellcheck: "false", "aria-describedby": "template-stop-hint", on: typed }),
    };
    this.choice = h("select", { id: "template-choice", on: { change: () => this.look.choose(this.choice.value) } });
    this.choiceLabel = h("label", { for: "template-choice" });
    this.about = h("p", { class: "model-note", id: "template-about" });
    this.status = h("span", { class: "tpl-status", role: "status" });
    this.problem = problemBox();
    this.problem.element.id = "template-problem";
    this.error = h("div", { class: "tpl-error", id: "template-error", role: "status", hidden: true });
    this.buttons = {
      save: button("Save", () => this.save(), { kind: "primary", id: "template-save" }),
      copy: button("Edit a copy", () => this.copy(), { id: "template-copy" }),
      discard: button("Discard changes", () => this.discard(), { id: "template-discard" }),
      remove: button("Delete", () => this.remove(), { id: "template-delete" }),
    };
    this.file = h("a", { class: "small-button", id: "template-export", text: "Export", download: "" });
    element.replaceChildren(this.layout());
    element.removeAttribute("aria-busy");
    this.text.box.addEventListener("keydown", (event) => this.onKey(event));
    listen("area", (area) => { if (area === "templates") this.refresh(); });
    listen("model", () => this.followModel());
    listen("conversation", () => { if (this.told) this.look.show(this.told); });
    if (state.area === "templates") this.refresh();
  }

  layout() {
    const field = (name, label) => h("div", { class: "tpl-field" }, h("label", { for: `template-${name}`, text: label }), this.fields[name]);
    const { save, copy, discard, remove } = this.buttons;
    return h("div", { class: "tpl" },
      h("header", { class: "page-head" }, h("div", {}, h("h1", { text: "Templates" }), h("p", { class: "lead", text: "How messages become the text that a model reads." })), h("div", { class: "tpl-field tpl-choice" }, this.choiceLabel, this.choice)),
      h("div", { class: "tpl-columns" }, this.list.element,
        h("div", { class: "tpl-main" },
          h("section", { class: "tpl-editor", "aria-label": "Editor" },
            h("div", { class: "tpl-pair" }, field("name", "Name"), field("description", "For which models")),
            this.about, this.problem.element, this.text.element, this.error,
            h("div", { class: "tpl-field" }, h("label", { for: "template-stop", text: "Stop strings" }), this.fields.stop, h("p", { class: "model-note", id: "template-stop-hint", text: "One a line, beside what the template itself shows; \\n is a line break." })),
            h("div", { class: "tpl-bar" }, save, copy, discard, this.file, remove, h("span", { class: "grow" }), this.status)),
          this.look.element)));
  }

  // ---- what there is

  async refresh() {
    try { this.told = await request("GET", "ui/templates"); } catch (error) { report(error); return; }
    const { model } = this.told;
    this.list.show(this.told, this.key);
    this.look.show(this.told);
    this.choiceLabel.textContent = model ? `Used for ${shortName(model.name)}` : "Used for a model";
    this.choice.disabled = !model;
    const rows = this.told.templates.filter((row) => !row.problem).map((row) => [row.name, row.name]);
    fill(this.choice, [["", model ? (model.own ? "The model's own" : "Plain, as it has none") : "Load a model first"], ...rows], model?.template ?? "");
    this.modelName = model?.name ?? "";
    if (!this.key) await this.open(this.first());
    else if (this.key === OWN && !model) await this.open(this.first(true));
  }

  /** There are others, or one is another: for those who offer them too. */
  async changed() {
    await this.refresh();
    emit("templates-changed");
  }

  first(elsewhere = false) {
    const { open } = drafts;
    if (open && !elsewhere && (open !== OWN || this.told.model?.own)) return open;
    return this.told.model?.own ? OWN : `file:${this.told.templates[0]?.name ?? ""}`;
  }

  /** Another model: its own template, its tokens, its doctor. */
  async followModel() {
    const loaded = state.models?.loaded?.[0];
    const name = loaded && !loaded.host ? loaded.name : "";
    if (state.area !== "templates" || !this.told || name === this.modelName) return;
    this.modelName = name;
    await this.refresh();
    if (this.key === OWN) await this.open(OWN); else this.look.look();
  }

  // ---- open

  /** Show a template: as it was typed and not saved, or as it is kept. */
  async open(key) {
    const mine = ++this.opened;
    const draft = drafts.get(key);
    let saved = null;
    try {
      if (key === OWN) saved = { name: shortName(this.told.model?.name ?? ""), description: "", stop: [], kind: "own-of-model", ...(await request("GET", "ui/templates/own")) };
      else if (key.startsWith("file:")) saved = await request("GET", `ui/templates/files/${encodeURIComponent(key.slice(5))}`);
    } catch (error) {
      if (mine !== this.opened) return;
      const row = this.told.templates.find((entry) => `file:${entry.name}` === key);
      if (row) saved = { name: row.name, description: "", text: "", stop: [], stamp: "", kind: "broken", problem: error.message };
      else if (!draft) { if (key === OWN || !this.told.templates.length) { this.make({ name: "", description: "", text: "", stop: [] }); return; } drafts.open = ""; await this.open(this.first(true)); return; }
    }
    if (mine !== this.opened) return;
    Object.assign(this, { key, saved });
    drafts.open = key;
    this.fillIn(draft ?? saved ?? { name: "", description: "", text: "", stop: [] });
    this.problem.say(saved?.problem ?? "");
    this.list.show(this.told, key);
    this.look.look();
  }

  make(draft) {
    const key = `new:${Date.now().toString(36)}`;
    drafts.put(key, { name: draft.name, description: draft.description, text: draft.text, stop: draft.stop, stamp: "" });
    this.open(key).then(() => (draft.name ? this.text.box : this.fields.name).focus());
  }

  copy() {
    const now = this.values();
    const base = this.key === OWN ? shortName(this.told.model?.name ?? "").slice(0, 90) : now.name.slice(0, 90);
    const taken = new Set(this.told.templates.map((row) => row.name));
    let name = `${base} copy`;
    for (let i = 2; taken.has(name); i += 1) name = `${base} copy ${i}`;
    this.make({ ...now, name });
  }

  fillIn(values) {
    this.fields.name.value = values.name;
    this.fields.description.value = values.description;
    this.fields.stop.value = toLines(values.stop);
    this.text.value = values.text;
    this.showState();
  }

  // ---- edit

  values() {
    return { name: this.fields.name.value.trim(), description: this.fields.description.value, text: this.text.value, stop: fromLines(this.fields.stop.value) };
  }

  edited() {
    if (this.key === OWN) return { text: null, stop: [] };
    const { text, stop } = this.values();
    return this.key ? { text, stop } : null;
  }

  typed() {
    if (this.key === OWN) return;
    const now = this.values();
    if (this.saved && isSame(now, this.saved)) drafts.drop(this.key);
    else drafts.put(this.key, { ...now, stamp: drafts.get(this.key)?.stamp ?? this.saved?.stamp ?? "" });
    this.problem.say("");
    this.showState();
    this.list.show(this.told, this.key);
    this.look.lookSoon();
  }

  showState() {
    const isOwn = this.key === OWN;
    const now = this.values();
    const isNew = !this.saved;
    const kind = this.saved?.kind ?? "";
    const isDirty = !isOwn && (isNew || !isSame(now, this.saved));
    const elsewhere = !isNew && now.name !== this.saved.name;
    this.text.readOnly = isOwn;
    for (const control of Object.values(this.fields)) control.readOnly = isOwn;
    this.about.textContent = isOwn ? `${ABOUT.own} It is from: ${this.saved.origin}.` : ABOUT[kind] ?? "";
    this.about.hidden = !this.about.textContent;
    const { save, copy, discard, remove } = this.buttons;
    save.hidden = isOwn;
    save.disabled = !isDirty;
    save.textContent = elsewhere && now.name ? `Save as “${now.name}”` : "Save";
    copy.hidden = isNew;
    discard.hidden = !isDirty;
    remove.hidden = !["own", "changed", "broken"].includes(kind);
    remove.textContent = kind === "changed" ? "Reset to the shipped one" : "Delete";
    this.file.hidden = isOwn || isNew || kind === "broken";
    if (this.saved && !isOwn) this.file.href = address(`ui/templates/files/${encodeURIComponent(this.saved.name)}/export`);
    this.status.textContent = isOwn ? "" : isDirty ? "Not saved; kept in this browser" : "Saved";
    this.fields.stop.rows = Math.min(6, Math.max(1, this.fields.stop.value.split("\n").length));
  }

  showError(error) {
    this.text.mark(error?.line ?? 0);
    this.error.hidden = !error;
    if (!error) { this.error.replaceChildren(); return; }
    const go = error.line ? button(`Go to line ${error.line}`, () => this.text.goTo(error.line), { id: "template-go" }) : null;
    this.error.replaceChildren(h("span", {}, error.line ? h("strong", { text: `Line ${error.line}: ` }) : null, error.message), go ?? "");
  }

  onKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s") { event.preventDefault(); if (!this.buttons.save.disabled && !this.buttons.save.hidden) this.save(); }
  }

  // ---- keep

  async save() {
    const now = this.values();
    if (!now.name) { this.problem.say("The template has no name yet; give it one."); this.fields.name.focus(); return; }
    const stamp = this.saved && now.name === this.saved.name ? drafts.get(this.key)?.stamp ?? this.saved.stamp : "";
    const key = this.key;
    this.buttons.save.disabled = true;
    try {
      const { name, ...body } = now;
      const saved = await request("PUT", `ui/templates/files/${encodeURIComponent(name)}`, { ...body, stamp });
      const kept = drafts.get(key);
      if (kept && !isSame(now, kept)) drafts.put(key, { ...kept, stamp: saved.stamp }); // typed meanwhile
      else drafts.drop(key);
      toast(`“${saved.name}” is saved.`);
      await this.changed();
      if (this.key === key) await this.open(`file:${saved.name}`);
    } catch (error) {
      this.problem.say(error.message);
      this.showState();
    }
  }

  async discard() {
    const isNew = !this.saved;
    if (!(await askInPlace(this.buttons.discard, isNew ? "Throw this template away?" : "Throw your changes away?", "Discard"))) return;
    drafts.drop(this.key);
    if (isNew) { this.key = ""; drafts.open = ""; }
    await (isNew ? this.refresh() : this.open(this.key));
  }

  async remove() {
    const { name, kind } = this.saved;
    try {
      const { models } = await request("DELETE", `ui/templates/files/${encodeURIComponent(name)}`);
      drafts.drop(this.key);
      toast(kind === "changed" ? `“${name}” is as it came; your version is under Deleted.` : `“${name}” is deleted; it can be restored for 30 days.${models.length ? ` ${models.map(shortName).join(", ")} uses its own template again.` : ""}`);
      this.key = "";
      drafts.open = kind === "changed" ? `file:${name}` : "";
      await this.changed();
    } catch (error) { this.problem.say(error.message); }
  }
}

export function mount(element) {
  new TemplateEditor(element);
}
