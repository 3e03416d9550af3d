// The palette: type a few letters, go to a conversation or model, choose a preset, or do anything that has a key.

import { openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { keyMarks } from "./key_bindings.js";
import { actionRows } from "./keys.js";
import { openArea, openConversation, report, request, shortName, state } from "./page.js";

const MOST = 8; // of each kind

/** Open the palette. */
export function openPalette() {
  new Palette();
}

class Palette {
  constructor() {
    this.rows = [];
    this.chosen = 0;
    this.asked = 0;
    this.presets = [];
    this.conversations = [];
    this.input = h("input", {
      type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": "palette-list", "aria-autocomplete": "list", "aria-label": "Jump to",
      placeholder: "Conversation, model, preset or action", autocomplete: "off", spellcheck: "false",
    });
    this.list = h("div", { id: "palette-list", class: "palette-list", role: "listbox", "aria-label": "Found" });
    this.dialog = openDialog("Jump to", [this.input, this.list], { class: "sheet palette" });
    this.input.addEventListener("input", () => { this.chosen = 0; this.draw(); clearTimeout(this.typing); this.typing = setTimeout(() => this.find(), 120); });
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.input.focus();
    this.draw();
    this.find();
    request("GET", "ui/palette").then(({ presets }) => { this.presets = presets; this.draw(); }).catch(report);
  }

  /** Ask the server for conversations; a late answer to what was typed before is not shown. */
  async find() {
    const text = this.input.value.trim();
    const turn = ++this.asked;
    try {
      const { conversations } = await request("GET", `ui/conversations?limit=${MOST}${text ? `&search=${encodeURIComponent(text)}` : ""}`);
      if (turn !== this.asked) return;
      this.conversations = conversations;
      this.answered = text;
      this.draw();
    } catch (error) { report(error); }
  }

  groups() {
    const fits = (title) => this.input.value.toLowerCase().split(/\s+/).every((word) => title.toLowerCase().includes(word));
    const models = (state.models?.models ?? []).filter((model) => !model.problem && fits(model.name));
    return [
      ["Conversations", this.conversations.filter((row) => this.answered === this.input.value.trim() || fits(row.title)).map((row) => ({ title: row.title || "New chat", run: () => openConversation(row.id) }))],
      ["Models", models.map((model) => ({ title: shortName(model.name), note: model.loaded ? "loaded" : "load it", run: () => goToModel(model) }))],
      ["Presets", this.presets.filter(fits).map((name) => ({ title: name, note: "for this conversation", run: () => choosePreset(name) }))],
      ["Actions", actionRows().filter((row) => fits(row.title)).map((row) => ({ title: row.title, key: row.key, run: () => { if (row.areas && !row.areas.includes(state.area)) openArea(row.areas[0]); row.run(); } }))],
    ];
  }

  draw() {
    this.rows = [];
    const parts = [];
    for (const [name, rows] of this.groups()) {
      const shown = rows.slice(0, this.input.value || name !== "Actions" ? MOST : 100);
      if (!shown.length) continue;
      parts.push(h("h3", { text: name, "aria-hidden": "true" }), ...shown.map((row) => this.option(row)));
    }
    if (!parts.length) parts.push(h("p", { text: "Nothing found." }));
    this.list.replaceChildren(...parts);
    this.choose(Math.min(this.chosen, this.rows.length - 1), false);
  }

  option(row) {
    const place = this.rows.length;
    const element = h("div", { id: `palette-${place}`, class: "palette-row", role: "option", "aria-selected": "false", on: { click: () => this.go(place), pointermove: () => this.choose(place, false) } },
      h("span", { text: row.title }), row.note ? h("small", { text: row.note }) : null, ...(row.key ? keyMarks(row.key) : []));
    this.rows.push({ ...row, element });
    return element;
  }

  choose(place, scroll = true) {
    this.rows[this.chosen]?.element.setAttribute("aria-selected", "false");
    this.chosen = Math.max(0, place);
    const element = this.rows[this.chosen]?.element;
    element?.setAttribute("aria-selected", "true");
    this.input.setAttribute("aria-activedescendant", element?.id ?? "");
    if (scroll) element?.scrollIntoView({ block: "nearest" });
  }

  go(place) {
    const row = this.rows[place];
    if (!row) return;
    this.dialog.close();
    row.run();
  }

  onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.rows.length) { event.preventDefault(); this.choose((this.chosen + step + this.rows.length) % this.rows.length); }
    if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); this.go(this.chosen); }
  }
}

/** Show a model where models are; one that is not loaded is loaded. */
async function goToModel(model) {
  openArea("models");
  const row = await appears(`.model-row[data-name="${CSS.escape(model.name)}"]`);
  if (!row) return;
  row.scrollIntoView({ block: "center" });
  const button = [...row.querySelectorAll("button")].find((found) => ["Load", "Use"].includes(found.textContent) && !found.disabled);
  if (button) button.click(); else row.querySelector("button")?.focus();
}

/** An element that is drawn soon; null when it is not. */
async function appears(selector) {
  for (let tries = 0; tries < 50; tries += 1) {
    const found = document.querySelector(selector);
    if (found?.checkVisibility()) return found;
    await new Promise((resolve) => { setTimeout(resolve, 100); });
  }
  return null;
}

async function choosePreset(name) {
  const { conversation } = state;
  if (!conversation) return;
  if (state.area !== "chat") openArea("chat");
  try {
    await request("PATCH", `ui/conversations/${conversation.id}`, { settings: { preset: name, params: {} } });
  } catch (error) { report(error); }
}
