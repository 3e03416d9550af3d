// Who speaks: the button beside the box, and the dialog in which a character and a profile are chosen, made, brought in and passed on.

import { characters, profiles } from "./cards.js";
import { modeSection } from "./cast_mode.js";
import { CardDraft } from "./character_drafts.js";
import { editor } from "./character_editor.js";
import { closesFromOutside } from "./dialog.js";
import { h, icon, iconButton } from "./dom.js";
import { address, emit, listen, openConversation, request, state, toast } from "./page.js";
import { portrait } from "./speaker.js";

const FORMS = Object.freeze([["png", "Picture with the card (PNG)"], ["v2", "JSON, version 2"], ["v3", "JSON, version 3"], ["v1", "JSON, version 1"]]);

class CastChip {
  constructor(composer) {
    this.composer = composer;
    this.element = h("button", { type: "button", class: "cast-chip", title: "Choose who speaks", on: { click: () => openDialog(composer) } });
    listen("settings", ({ scope }) => { if (scope === "chat") this.show(); });
    listen("cards", () => this.show());
    this.show();
  }

  show() {
    const { character = "", profile = "" } = state.conversation?.settings ?? {};
    if (character) characters.load().catch(() => {});
    if (profile) profiles.load().catch(() => {});
    const names = [character && characters.title(character), profile && `you are ${profiles.title(profile)}`].filter(Boolean);
    this.element.replaceChildren(character ? portrait(characters, character, characters.title(character)) : icon("person"), h("span", { text: names.join(", ") }));
    this.element.setAttribute("aria-label", names.length ? `Who speaks: ${names.join(", ")}` : "Choose who speaks");
  }
}

/** A row of PARTS in composer_parts.js. */
export function castChip(composer) {
  return new CastChip(composer).element;
}

function openDialog(composer) {
  const dialog = new CastDialog(composer);
  document.body.append(dialog.element);
  dialog.element.showModal();
  dialog.showLists();
}

class CastDialog {
  constructor(composer) {
    this.composer = composer;
    this.body = h("div", { class: "cast-body" });
    this.heading = h("h2", { id: "cast-heading" });
    this.news = h("div", { class: "cast-news", role: "status" });
    const close = iconButton("close", "Close", () => this.element.close());
    this.element = h("dialog", { class: "cast-dialog", "aria-labelledby": "cast-heading" },
      h("header", {}, this.heading, h("span", { class: "grow" }), close), this.news, this.body);
    this.element.addEventListener("close", () => {
      this.element.remove();
      if (this.kept()) toast(this.kept());
      composer.text.focus();
    });
    this.element.addEventListener("keydown", (event) => { if (event.key === "Escape") event.stopPropagation(); }); // it is about the dialog
    closesFromOutside(this.element);
  }

  /** A sentence with an action beside it, or an error. */
  tell(sentence, kind = "", action = null) {
    this.news.className = `cast-news ${kind}`;
    this.news.replaceChildren(...(sentence ? [h("span", { text: sentence })] : []), ...(action ? [action] : []));
  }

  async attempt(work) {
    try { return await work(); } catch (error) { this.tell(error.message, "error"); return null; }
  }

  async showLists() {
    this.editing = null;
    this.heading.textContent = "Who speaks";
    this.body.replaceChildren(h("p", { class: "cast-note", text: "Loading…" }));
    const lists = [
      [characters, "Character", "The model speaks as this character.", "Nobody in particular"],
      [profiles, "You", "What the model knows of you, and how you are called.", "Nobody in particular"],
    ];
    if (!(await this.attempt(async () => { await Promise.all([characters.load(true), profiles.load(true)]); return true; }))) { this.body.replaceChildren(); return; }
    this.body.replaceChildren(...lists.map(([cards, title, note, nobody]) => this.section(cards, title, note, nobody)), modeSection(this.composer, (work) => this.attempt(work)));
  }

  section(cards, title, note, nobody) {
    const list = h("ul", { class: "cast-list", "aria-label": title });
    const search = h("input", { type: "search", placeholder: `Search ${cards.kind}`, "aria-label": `Search ${cards.kind}` });
    const draw = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = (row) => words.every((word) => [row.name, row.title, row.notes, ...row.tags].join(" ").toLowerCase().includes(word));
      list.replaceChildren(...(words.length ? [] : [this.nobody(cards, nobody)]), ...cards.rows.filter(fits).map((row) => this.row(cards, row)));
    };
    search.addEventListener("input", draw);
    search.hidden = cards.rows.length < 8;
    draw();
    const file = h("input", { type: "file", accept: ".png,.json,.yaml,.yml", hidden: true, "aria-label": `File of a ${cards.one}`, on: { change: () => this.bringIn(cards, file) } });
    const buttons = h("div", { class: "cast-buttons" },
      h("button", { type: "button", class: "small-button", text: `New ${cards.one}`, on: { click: () => this.edit(cards, "") } }),
      h("button", { type: "button", class: "small-button", text: `Import ${cards.one}`, title: "A card as PNG, JSON or YAML", on: { click: () => file.click() } }), file);
    return h("section", { "data-cards": cards.kind }, h("h3", { text: title }), h("p", { class: "cast-note", text: note }), search, list, buttons);
  }

  unsaved(cards, name) {
    return new CardDraft(cards.kind, name).values ? "Not saved yet: Edit goes on with what you typed" : "";
  }

  /** What to say of the form that is left, if something in it was not saved. */
  kept() {
    const { cards, name } = this.editing ?? {};
    return cards && this.unsaved(cards, name) ? `What you typed is kept; ${name ? "Edit" : `New ${cards.one}`} goes on with it.` : "";
  }

  get key() {
    return { characters: "character", profiles: "profile" };
  }

  chosen(cards) {
    return state.conversation?.settings?.[this.key[cards.kind]] ?? "";
  }

  nobody(cards, text) {
    return h("li", {}, h("button", { type: "button", class: "cast-row", "aria-pressed": String(!this.chosen(cards)), on: { click: () => this.choose(cards, "") } },
      h("span", { class: "portrait" }, icon("person")), h("span", { class: "cast-words" }, h("strong", { text }))));
  }

  row(cards, row) {
    const title = row.title || row.name;
    const words = h("span", { class: "cast-words" }, h("strong", { text: title }),
      h("span", { class: row.problem ? "cast-problem" : "", text: row.problem || this.unsaved(cards, row.name) || row.notes || row.tags.join(", ") }));
    const pick = h("button", { type: "button", class: "cast-row", "aria-pressed": String(this.chosen(cards) === row.name), disabled: Boolean(row.problem),
      on: { click: () => this.choose(cards, row.name) } }, portrait(cards, row.name, title), words);
    const tools = h("span", { class: "cast-tools" });
    if (!row.problem && cards === characters) tools.append(iconButton("plus", `New chat with ${title}`, () => this.begin(row.name)));
    if (!row.problem) tools.append(iconButton("edit", `Edit ${title}`, () => this.edit(cards, row.name)), this.exporter(cards, row.name, title));
    tools.append(iconButton("trash", `Delete ${title}`, () => this.remove(cards, row.name, title)));
    return h("li", {}, pick, tools);
  }

  exporter(cards, name, title) {
    const links = FORMS.map(([form, text]) => h("a", { class: "menu-item", href: address(cards.path(name, `/file/${form}`)), download: "", text }));
    return h("details", { class: "cast-export" }, h("summary", { class: "icon-button", "aria-label": `Export ${title}`, title: `Export ${title}` }, icon("download")),
      h("div", { class: "cast-export-items" }, ...links));
  }

  async choose(cards, name) {
    const id = this.composer.conversation;
    if (!id) { this.tell("Open a conversation first.", "error"); return; }
    const { character = "", profile = "" } = state.conversation?.settings ?? {};
    const body = { character, profile, [this.key[cards.kind]]: name };
    if (!(await this.attempt(() => request("POST", `ui/conversations/${id}/cast`, body)))) return;
    emit("conversations-changed");
    this.element.close();
  }

  /** A new conversation with a character, in the profile of the open one. */
  async begin(character) {
    const profile = this.chosen(profiles);
    const made = await this.attempt(async () => {
      const { id } = await request("POST", "ui/conversations", {});
      await request("POST", `ui/conversations/${id}/cast`, { character, profile });
      return id;
    });
    if (!made) return;
    this.element.close();
    openConversation(made);
    emit("conversations-changed");
  }

  async bringIn(cards, input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    const added = await this.attempt(() => cards.change("POST", `ui/${cards.kind}/import`, file));
    if (!added) return;
    await this.showLists();
    this.tell(`${cards.title(added.name)} was imported.`);
  }

  async remove(cards, name, title) {
    const deleted = await this.attempt(() => cards.change("DELETE", cards.path(name)));
    if (!deleted) return;
    await this.showLists();
    const undo = h("button", { type: "button", class: "small-button", text: "Undo", on: { click: async () => {
      if (await this.attempt(() => cards.change("POST", `ui/${cards.kind}/restore`, { mark: deleted.mark }))) { await this.showLists(); this.tell(`${title} is back.`); }
    } } });
    this.tell(`${title} is in the bin for 30 days.`, "", undo);
    undo.focus();
  }

  async edit(cards, name) {
    const card = name ? await this.attempt(() => request("GET", cards.path(name))) : { values: {}, lore: 0 };
    if (!card) return;
    this.tell("");
    this.heading.textContent = name ? `Edit ${cards.title(name)}` : `New ${cards.one}`;
    const back = (sentence) => this.showLists().then(() => this.tell(sentence));
    this.editing = { cards, name };
    this.body.replaceChildren(editor({
      cards, name, card, saved: (title) => back(`${title} was saved.`), cancel: () => back(this.kept()), fail: (error) => this.tell(error.message, "error"), again: () => this.edit(cards, name),
    }));
    this.body.querySelector("input:not([type=file]), textarea")?.focus();
  }
}
