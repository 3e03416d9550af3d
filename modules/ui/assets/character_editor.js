// The form of one character or profile: its fields come from the server. Knows no dialog around it.

import { asPng } from "./cards.js";
import { CardDraft } from "./character_drafts.js";
import { autoGrow, h, iconButton, plural } from "./dom.js";
import { portrait } from "./speaker.js";

/** A form element. `saved(title)` after the server has it, `cancel()`, `fail(error)`, `again()` draws it with what the server has. */
export function editor({ cards, name, card, saved, cancel, fail, again }) {
  const draft = new CardDraft(cards.kind, name);
  const kept = draft.values;
  const fields = cards.fields.map((field) => ({ ...field, ...control(field, kept?.[field.name] ?? card.values[field.name]) }));
  const values = () => Object.fromEntries(fields.map((field) => [field.name, field.read()]));
  let seen = "";
  const keep = () => {
    const now = JSON.stringify(values());
    if (now === seen && picture.change === undefined) return;
    seen = now;
    if (now === original && picture.change === undefined) draft.drop(); else draft.keep(values(), picture.change);
  };
  const picture = new PictureField(cards, name, card.values.name ?? "", { fail, changed: keep });
  if (kept) draft.picture().then((found) => { if (found) picture.show(found); });
  seen = JSON.stringify(values());
  const original = kept ? null : seen; // with a draft it is not known here
  const save = h("button", { type: "submit", class: "small-button primary", text: "Save" });
  const lore = card.lore ? h("p", { class: "cast-note", text: `Its card has ${plural(card.lore, "piece")} of lore, which join the prompt when they are spoken of.` }) : null;
  const rows = fields.map(({ name: key, title, description, element }) => h("div", { class: "cast-field" },
    element.role === "group" ? h("strong", { text: title }) : h("label", { for: `card-${key}`, text: title }), h("p", { class: "cast-note", text: description }), element));
  const form = h("form", { class: "cast-form", "data-cards": cards.kind }, kept && unsaved(() => { picture.change = undefined; draft.drop({ forget: true }); again(); }), picture.element, ...rows, lore,
    h("div", { class: "cast-buttons" }, save, h("button", { type: "button", class: "small-button", text: "Cancel", on: { click: cancel } })));
  for (const kind of ["input", "click"]) form.addEventListener(kind, keep);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    save.disabled = true;
    try {
      const told = values();
      const stored = await cards.change("POST", `ui/${cards.kind}`, { name, values: told });
      await picture.save(stored.name);
      draft.drop();
      saved(told.name);
    } catch (error) { fail(error); } finally { save.disabled = false; }
  });
  return form;
}

/** The line above a form that goes on with what was typed into it before. */
function unsaved(forget) {
  return h("div", { class: "cast-unsaved", role: "note" }, h("span", { text: "What you typed here before is not saved yet." }),
    h("button", { type: "button", class: "small-button", text: "Forget it", on: { click: forget } }));
}

/** How a field is typed, and how it is read. */
function control({ name, title, form }, value) {
  if (form === "list") return name === "tags" ? words(name, value ?? []) : texts(title, value ?? []);
  const element = form === "line" ? h("input", { id: `card-${name}`, autocomplete: "off", required: name === "name" }) : area(`card-${name}`);
  element.value = value ?? "";
  return { element, read: () => element.value };
}

function area(id, label) {
  const element = h("textarea", { id, rows: "2", "aria-label": label });
  element.addEventListener("input", () => autoGrow(element, 0.5));
  new ResizeObserver((_, observer) => { observer.disconnect(); autoGrow(element, 0.5); }).observe(element); // once it has a width
  return element;
}

/** Words with commas. */
function words(name, values) {
  const element = h("input", { id: `card-${name}`, autocomplete: "off", placeholder: "one, two, three" });
  element.value = values.join(", ");
  return { element, read: () => element.value.split(",").map((word) => word.trim()).filter(Boolean) };
}

/** Any number of texts. */
function texts(title, values) {
  const list = h("div", { class: "cast-texts" });
  const add = (value) => {
    const text = area(undefined, `${title}, number ${list.children.length + 1}`);
    text.value = value;
    const row = h("div", { class: "cast-text" }, text, iconButton("trash", "Remove this one", () => { row.remove(); more.focus(); }));
    list.append(row);
    return text;
  };
  const more = h("button", { type: "button", class: "small-button", text: "Add one", on: { click: () => add("").focus() } });
  values.forEach(add);
  return { element: h("div", { role: "group", "aria-label": title }, list, more), read: () => [...list.querySelectorAll("textarea")].map((text) => text.value).filter((text) => text.trim()) };
}

class PictureField {
  constructor(cards, name, title, { fail, changed }) {
    Object.assign(this, { cards, title, changed, change: undefined });
    this.shown = h("div", { class: "cast-picture" }, portrait(cards, name, title));
    this.input = h("input", { type: "file", accept: "image/*", hidden: true, "aria-label": "Picture file" });
    this.input.addEventListener("change", async () => {
      try { this.choose(await asPng(this.input.files[0])); } catch { fail(new Error("This file is no picture that the browser can read. Choose a PNG, JPEG or WebP file.")); }
    });
    const remove = h("button", { type: "button", class: "small-button", text: "No picture", on: { click: () => this.choose(new Blob([])) } });
    this.element = h("div", { class: "cast-field cast-picture-field" }, this.shown,
      h("button", { type: "button", class: "small-button", text: "Choose a picture", on: { click: () => this.input.click() } }), remove, this.input);
  }

  choose(png) {
    this.show(png);
    this.changed();
  }

  /** An empty one means none. */
  show(png) {
    this.change = png;
    if (!png.size) { this.shown.replaceChildren(portrait(this.cards, "", this.title)); return; }
    const reader = new FileReader();
    reader.addEventListener("load", () => this.shown.replaceChildren(h("img", { class: "portrait", src: reader.result, alt: "" })));
    reader.readAsDataURL(png);
  }

  async save(name) {
    if (this.change !== undefined) await this.cards.change("PUT", this.cards.path(name, "/picture"), this.change);
  }
}
