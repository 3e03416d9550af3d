// The sidebar: brand, New chat, search, conversations by day with their actions, the model's state and the theme switch.
// The list is read in pages as somebody scrolls to its end; what is read already is asked for again to see what changed.

import { whoAmI } from "./accounts.js";
import { chatMenu } from "./chat_menu.js";
import { BinView, offerUndo } from "./conversation_bin.js";
import { importButton } from "./conversation_files.js";
import { TagFilter, conversationRow } from "./conversation_row.js";
import { dayGroup, h, icon, iconButton } from "./dom.js";
import { withKey } from "./key_bindings.js";
import { PRIVATE_TITLE, endPrivateConversation, isPrivate, privateConversations } from "./private_chat.js";
import {
  conversationInAddress, currentTheme, emit, listen, modelInWords, newConversation, openArea, openConversation, report, request, shortName, state, toggleTheme,
} from "./page.js";

const PAGE = 60;
const MOST = 1000; // rows of one answer
const GROUPS = ["Private", "Open", "Pinned", "Today", "Yesterday", "Previous 7 days", "Earlier"];

class ConversationList {
  constructor(element) {
    this.rows = [];
    this.items = new Map(); // drawn rows: id → what was drawn, and its element
    this.more = false;
    this.hidden = []; // private ones of this page
    this.search = h("input", { type: "search", placeholder: "Search conversations", "aria-label": "Search conversations", autocomplete: "off" });
    this.list = h("nav", { class: "conversations", "aria-label": "Conversations" });
    this.end = h("div", { class: "list-end" });
    this.tags = new TagFilter(() => this.refresh());
    this.bin = new BinView(() => this.showBin(false));
    const fresh = h("button", { type: "button", class: "new-chat", title: withKey("New chat", "new"), on: { click: newConversation } }, icon("plus"), h("span", { text: "New chat" }));
    const close = iconButton("close", "Close the list", () => document.body.classList.remove("side-open"), { class: "icon-button side-close" });
    const brand = h("div", { class: "brand" }, mark(), h("span", { text: "Paddock" }), close);
    this.model = h("button", { type: "button", class: "model-state", on: { click: () => { document.body.classList.remove("side-open"); openArea("models"); } } });
    this.deleted = iconButton("trash", "Deleted conversations and messages", () => this.showBin(this.bin.element.hidden), { "aria-expanded": "false" });
    this.theme = iconButton("moon", "Dark theme", toggleTheme);
    this.finding = h("div", { class: "finding" }, h("label", { class: "search" }, icon("search"), this.search), this.tags.element);
    element.replaceChildren(h("div", { class: "side" }, brand, h("div", { class: "begin-row" }, fresh, chatMenu()), this.finding, this.list, this.bin.element,
      whoAmI(), h("div", { class: "side-foot" }, this.model, importButton(), this.deleted, this.theme)));
    this.watch = new IntersectionObserver((seen) => { if (seen.at(-1).isIntersecting) this.readMore(); }, { root: this.list, rootMargin: "600px" });
    this.search.addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.refresh(), 200); });
    listen("conversations-changed", () => this.refresh());
    listen("conversation", () => { if (!this.markOpen()) this.refresh(); });
    listen("model", () => this.showModel());
    listen("theme", () => this.showTheme());
    listen("keys-changed", () => { fresh.title = withKey("New chat", "new"); });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
    this.showTheme();
    this.showModel();
    this.refresh();
  }

  // ---- reading

  /** What is asked for, as the part of an address. */
  question() {
    const parts = { search: this.search.value.trim(), ...this.tags.chosen };
    return new URLSearchParams(Object.entries(parts).filter(([, value]) => value)).toString();
  }

  async refresh() {
    clearTimeout(this.again);
    const question = this.question();
    const known = question === this.asked ? this.rows : [];
    try {
      const { conversations, more, tags, characters } = await request("GET", `ui/conversations?limit=${Math.min(MOST, Math.max(PAGE, known.length))}&${question}`);
      const far = question ? null : await this.readOpen(conversations);
      const hidden = await readPrivate();
      if (question !== this.question()) return;
      const rest = without(known.slice(MOST), conversations);
      Object.assign(this, { asked: question, rows: [...conversations, ...rest], more: rest.length ? this.more : more, far, hidden });
      this.tags.show(tags, characters);
      this.drawChanges();
    } catch (error) {
      if (!this.rows.length) this.list.replaceChildren(h("p", { class: "side-note", text: error.message }));
    }
    const running = this.rows.some((row) => row.running);
    clearTimeout(this.again);
    this.again = setTimeout(() => { if (!document.hidden) this.refresh(); }, running ? 3000 : 30000);
  }

  /** The line of the open conversation, where it is further down than what was read. */
  async readOpen(rows) {
    const id = conversationInAddress();
    if (!id || isPrivate(id) || rows.some((row) => row.id === id) || this.rows.some((row) => row.id === id)) return null;
    return request("GET", `ui/conversations/${id}/line`).catch(() => null); // deleted elsewhere: the chat says so
  }

  async readMore() {
    if (!this.more || this.reading || this.isHeld()) return;
    this.reading = true;
    const question = this.asked;
    try {
      const { conversations, more } = await request("GET", `ui/conversations?limit=${PAGE}&before=${encodeURIComponent(this.rows.at(-1).key)}&${question}`);
      if (question !== this.asked) return;
      this.rows.push(...without(conversations, this.rows));
      this.more = more;
      this.drawChanges();
    } catch (error) { report(error); } finally { this.reading = false; }
  }

  // ---- drawing

  /** Whether somebody is at work in the list, which must not move then. */
  isHeld() {
    return Boolean(this.list.querySelector("input, :active, :popover-open"));
  }

  drawChanges() {
    const drawn = JSON.stringify([this.rows, this.hidden, this.far, this.more, this.asked, new Date().toDateString()]);
    if (drawn === this.drawn || this.isHeld()) return;
    this.drawn = drawn;
    this.draw();
  }

  draw() {
    // first: a row that is drawn again where it stands now loses the focus as soon as it is taken out
    const held = this.list.contains(document.activeElement) ? document.activeElement : null;
    const [id, label] = [held?.closest("li")?.dataset.id, held?.ariaLabel];
    const byGroup = new Map(GROUPS.map((name) => [name, []]));
    if (this.far && !this.rows.some((row) => row.id === this.far.id)) byGroup.get("Open").push(this.far);
    if (!this.asked) byGroup.get("Private").push(...this.hidden);
    for (const row of this.rows) byGroup.get(row.pinned ? "Pinned" : dayGroup(row.updated_s)).push(row);
    const items = new Map();
    const parts = [];
    for (const [name, rows] of byGroup) {
      if (rows.length) parts.push(h("h2", { text: name }), h("ul", {}, ...rows.map((row) => this.item(row, items))));
    }
    this.items = items;
    if (!parts.length) parts.push(h("p", { class: "side-note", text: this.asked ? "Nothing found." : "Conversations appear here." }));
    this.list.replaceChildren(...parts, this.end);
    if (held) this.refocus(id, label); // the poll must not take the focus
    this.markOpen();
    this.watch.disconnect();
    if (this.more) this.watch.observe(this.end); // tells at once whether the end is in sight
  }

  /** The element of a row: the one that is there, unless something of it changed. */
  item(row, items) {
    const drawn = JSON.stringify(row);
    const before = this.items.get(row.id);
    const element = before?.drawn === drawn ? before.element : isPrivate(row.id) ? this.privateRow(row) : conversationRow(row, this.actions());
    items.set(row.id, { drawn, element });
    return element;
  }

  /** A private conversation: it can be opened and ended. */
  privateRow(row) {
    const title = h("button", { type: "button", class: "title", text: row.messages ? row.title : PRIVATE_TITLE, on: { click: () => openConversation(row.id) } });
    title.addEventListener("keydown", (event) => {
      if (event.key === "Delete") this.endPrivate(row);
      if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); this.step(title, event.key === "ArrowDown" ? 1 : -1); }
    });
    const end = iconButton("close", "End this private conversation", () => this.endPrivate(row));
    const dot = row.running ? h("span", { class: "dot", role: "img", "aria-label": "A reply is being written" }) : null;
    return h("li", { class: "private", data: { id: row.id } }, h("div", { class: "conversation" }, dot, title, h("span", { class: "row-tools" }, end)));
  }

  async endPrivate(row) {
    try {
      const was = conversationInAddress() === row.id;
      await endPrivateConversation(row.id);
      if (was) await newConversation();
    } catch (error) { report(error); }
    this.refresh();
  }

  /** Give the focus back to the same control of a conversation, or to its title where that is gone. */
  refocus(id, label) {
    const item = this.list.querySelector(`li[data-id="${id}"]`);
    item?.querySelector(".title").focus(); // first: only with the focus inside are the other controls shown
    if (label) [...item?.querySelectorAll("button, a") ?? []].find((control) => control.ariaLabel === label)?.focus();
  }

  /** Mark the open conversation; whether it is in the list. */
  markOpen() {
    const open = conversationInAddress();
    for (const [id, { element }] of this.items) {
      const chosen = id === open;
      element.classList.toggle("open", chosen);
      if (chosen) element.setAttribute("aria-current", "page"); else element.removeAttribute("aria-current");
    }
    return !open || this.items.has(open);
  }

  showBin(show) {
    this.list.hidden = this.finding.hidden = show;
    this.deleted.setAttribute("aria-expanded", String(show));
    if (show) this.bin.show();
    else { this.bin.hide(); this.refresh(); }
  }

  // ---- what the person does

  actions() {
    this.sharedActions ??= {
      change: (row, values) => this.change(row, values),
      remove: (row) => this.remove(row),
      step: (title, by) => this.step(title, by),
      pickTag: (tag) => this.tags.pick("tag", tag),
    };
    return this.sharedActions;
  }

  step(from, by) {
    const all = [...this.list.querySelectorAll(".title")];
    all[all.indexOf(from) + by]?.focus();
  }

  async change(row, values) {
    this.drawn = ""; // also when it is refused
    this.items.delete(row.id);
    try { await request("PATCH", `ui/conversations/${row.id}`, values); } catch (error) { report(error); }
    this.refresh();
  }

  async remove(row) {
    emit("conversation-deleting", row.id); // whoever follows it must not look for it meanwhile
    try {
      const { bin_id: bin } = await request("DELETE", `ui/conversations/${row.id}`);
      const open = conversationInAddress() === row.id;
      this.rows = this.rows.filter((other) => other.id !== row.id);
      this.far = null;
      this.drawn = "";
      this.draw();
      if (open && this.rows.length) openConversation(this.rows[0].id, { replace: true });
      else if (open) await newConversation();
      offerUndo(`“${row.title || "New chat"}” was deleted.`, bin, { open });
    } catch (error) { report(error); emit("conversation-deleting", ""); }
    this.refresh();
  }

  showModel() {
    const { loaded = [], loading = null } = state.models ?? {};
    const name = loading ? `Loading ${shortName(loading.name)}` : modelInWords();
    this.model.dataset.state = loading ? "loading" : loaded.length ? "ready" : "none";
    this.model.replaceChildren(h("span", { class: "lamp" }), h("span", { class: "model-name", text: name }), loaded.length > 1 ? h("span", { class: "more", text: `+${loaded.length - 1}` }) : "");
    this.model.title = loading ? loading.stage : "Open the Models page";
  }

  showTheme() {
    const dark = currentTheme() === "dark";
    this.theme.replaceChildren(icon(dark ? "sun" : "moon"));
    this.theme.setAttribute("aria-label", dark ? "Light theme" : "Dark theme");
    this.theme.title = dark ? "Light theme" : "Dark theme";
  }
}

/** The lines of the private conversations that this page has open, the newest first. */
async function readPrivate() {
  const rows = await Promise.all(privateConversations().map((id) => request("GET", `ui/conversations/${id}/line`).catch(() => null)));
  return rows.filter(Boolean).reverse();
}

/** Rows that are not among others. */
function without(rows, others) {
  const known = new Set(others.map((row) => row.id));
  return rows.filter((row) => !known.has(row.id));
}

/** The mark: a fence with two rails, drawn. */
function mark() {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "mark");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", "M5 20V7l2-2.5L9 7v13M15 20V7l2-2.5L19 7v13M2 10.5h20M2 15.5h20");
  svg.append(path);
  return svg;
}

export function mount(element) {
  return new ConversationList(element);
}
