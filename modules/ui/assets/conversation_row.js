// One conversation in the sidebar: its title, its buttons, its tags, and where a search found something in it.

import { exportMenu } from "./conversation_files.js";
import { h, iconButton } from "./dom.js";
import { openConversation } from "./page.js";

const TAGS_ID = "known-tags"; // of the list of tags that are offered while one is typed

/** The element of a conversation. `actions` has `change(row, values)`, `remove(row)`, `step(title, by)` and `pickTag(tag)`. */
export function conversationRow(row, actions) {
  const name = row.title || "New chat";
  const title = h("button", { type: "button", class: "title", text: name, title: name, on: { click: () => openConversation(row.id) } });
  const dot = row.running ? h("span", { class: "dot", role: "img", "aria-label": "A reply is being written" }) : null;
  const tools = h("span", { class: "row-tools" },
    iconButton("pin", row.pinned ? "Unpin" : "Pin", () => actions.change(row, { pinned: !row.pinned }), { class: `icon-button${row.pinned ? " on" : ""}` }),
    iconButton("edit", "Rename", () => rename(row, title, actions)),
    iconButton("tag", "Tags", () => editTags(row, title, actions)),
    exportMenu(row),
    iconButton("trash", "Delete", () => actions.remove(row)));
  title.addEventListener("dblclick", () => rename(row, title, actions));
  title.addEventListener("keydown", (event) => {
    if (event.key === "F2") rename(row, title, actions);
    if (event.key === "Delete") actions.remove(row);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); actions.step(title, event.key === "ArrowDown" ? 1 : -1); }
  });
  return h("li", { data: { id: row.id } }, h("div", { class: "conversation" }, dot, title, tools), found(row), tagsOf(row, actions));
}

/** The words that a search found, among those around them. */
function found({ id, snippet }) {
  if (!snippet) return null;
  return h("div", { class: "snippet", on: { click: () => openConversation(id) } }, snippet.before, h("mark", { text: snippet.found }), snippet.after);
}

function tagsOf(row, actions) {
  if (!row.tags.length) return null;
  return h("div", { class: "row-tags" }, ...row.tags.map((tag) => h("button", {
    type: "button", class: "row-tag", text: tag, title: `Only those with the tag ${tag}`, on: { click: () => actions.pickTag(tag) },
  })));
}

function rename(row, title, actions) {
  editInPlace(title, { label: "Name of the conversation", value: row.title, maxlength: "200" }, (name) => {
    if (!name || name === row.title) return;
    title.textContent = name;
    actions.change(row, { title: name });
  });
}

function editTags(row, title, actions) {
  const before = row.tags.join(", ");
  editInPlace(title, { label: "Tags, with commas between them", value: before, placeholder: "work, ideas", list: TAGS_ID }, (text) => {
    if (text !== before) actions.change(row, { tags: text.split(",") });
  });
}

/** A field in place of the title; Enter and leaving it save, Escape does not. */
function editInPlace(title, { label, value, ...attributes }, save) {
  const input = h("input", { class: "rename", "aria-label": label, ...attributes });
  input.value = value;
  let ended = false;
  const end = (keep) => {
    if (ended) return;
    ended = true;
    input.replaceWith(title);
    if (keep) save(input.value.trim());
  };
  input.addEventListener("blur", () => end(true));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); end(true); }
    if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); end(false); }
  });
  title.replaceWith(input);
  input.select();
  input.focus();
}

/** The chips above the list that leave only the conversations with a tag or a character, and what is offered while a tag is typed. */
export class TagFilter {
  constructor(onPick) {
    this.onPick = onPick;
    this.chosen = { tag: "", character: "" };
    this.offered = h("datalist", { id: TAGS_ID });
    this.chips = h("div", { class: "tag-filter", role: "group", "aria-label": "Tags", hidden: true });
    this.element = h("div", {}, this.chips, this.offered);
  }

  /** Choose a tag (or a character), or none when it is chosen already. */
  pick(kind, name) {
    this.chosen[kind] = name === this.chosen[kind] ? "" : name;
    this.mark();
    this.onPick();
  }

  /** What is in use, name → number of conversations, the most used first. */
  show(tags, characters) {
    const drawn = JSON.stringify([tags, characters]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const all = { tag: tags, character: characters };
    const chips = Object.entries(all).flatMap(([kind, names]) => Object.entries(names).map(([name, count]) => this.chip(kind, name, count)));
    this.chips.hidden = !chips.length;
    this.chips.replaceChildren(...chips);
    this.offered.replaceChildren(...Object.keys(tags).map((tag) => h("option", { value: tag })));
    for (const [kind, name] of Object.entries(this.chosen)) {
      if (name && !(name in all[kind])) this.pick(kind, name); // nothing has it any more
    }
    this.mark();
  }

  chip(kind, name, count) {
    const title = kind === "tag" ? `Only those with the tag ${name}` : `Only those with ${name}`;
    return h("button", { type: "button", class: `tag-chip ${kind}`, title, data: { kind, name }, on: { click: () => this.pick(kind, name) } },
      h("span", { text: name }), h("span", { class: "tag-count", text: String(count) }));
  }

  mark() {
    for (const chip of this.chips.children) chip.setAttribute("aria-pressed", String(chip.dataset.name === this.chosen[chip.dataset.kind]));
  }
}
