// The form of one character or profile: its fields come from the server. Knows no dialog around it.

import { asPng } from "./cards.js";
import { autoGrow, h, iconButton, plural } from "./dom.js";
import { portrait } from "./speaker.js";

/** A form element. `saved(title)` after the server has it, `cancel()`, `fail(error)`. */
export function editor({ cards, name, card, saved, cancel, fail }) {
  const fields = cards.fields.map((field) => ({ ...field, ...control(field, card.values[field.name]) }));
  const picture = new PictureField(cards, name, card.values.name ?? "", fail);
  const save = h("button", { type: "submit", class: "small-button primary", text: "Save" });
  const lore = card.lore ? h("p", { class: "cast-note", text: `Its card has ${plural(card.lore, "piece")} of lore, which join the prompt when they are spoken of.` }) : null;
  const rows = fields.map(({ name: key, title, description, element }) => h("div", { class: "cast-field" },
    element.role === "group" ? h("strong", { text: title }) : h("label", { for: `card-${key}`, text: title }), h("p", { class: "cast-note", text: description }), element));
  const form = h("form", { class: "cast-form" }, picture.element, ...rows, lore,
    h("div", { class: "cast-buttons" }, save, h("button", { type: "button", class: "small-button", text: "Cancel", on: { click: cancel } })));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    save.disabled = true;
    try {
      const values = Object.fromEntries(fields.map((field) => [field.name, field.read()]));
      const stored = await cards.change("POST", `ui/${cards.kind}`, { name, values });
      await picture.save(stored.name);
      saved(values.name);
    } catch (error) { fail(error); } finally { save.disabled = false; }
  });
  return form;
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
  constructor(cards, name, title, fail) {
    Object.assign(this, { cards, change: undefined });
    this.shown = h("div", { class: "cast-picture" }, portrait(cards, name, title));
    this.input = h("input", { type: "file", accept: "image/*", hidden: true, "aria-label": "Picture file" });
    this.input.addEventListener("change", async () => {
      try { this.choose(await asPng(this.input.files[0])); } catch { fail(new Error("This file is no picture that the browser can read. Choose a PNG, JPEG or WebP file.")); }
    });
    const remove = h("button", { type: "button", class: "small-button", text: "No picture", on: { click: () => { this.change = new Blob([]); this.shown.replaceChildren(portrait(cards, "", title)); } } });
    this.element = h("div", { class: "cast-field cast-picture-field" }, this.shown,
      h("button", { type: "button", class: "small-button", text: "Choose a picture", on: { click: () => this.input.click() } }), remove, this.input);
  }

  choose(png) {
    this.change = png;
    const reader = new FileReader();
    reader.addEventListener("load", () => this.shown.replaceChildren(h("img", { class: "portrait", src: reader.result, alt: "" })));
    reader.readAsDataURL(png);
  }

  async save(name) {
    if (this.change !== undefined) await this.cards.change("PUT", this.cards.path(name, "/picture"), this.change);
  }
}
