// The sidebar: brand, New chat, search, conversations by day with their actions, the model's state and the theme switch.

import { askInPlace, dayGroup, h, icon, iconButton } from "./dom.js";
import {
  address, conversationInAddress, currentTheme, emit, listen, modelInWords, newConversation, openArea, openConversation, report, request, shortName,
  state, toggleTheme,
} from "./page.js";

class ConversationList {
  constructor(element) {
    this.rows = [];
    this.search = h("input", { type: "search", placeholder: "Search conversations", "aria-label": "Search conversations", autocomplete: "off" });
    this.list = h("nav", { class: "conversations", "aria-label": "Conversations" });
    const fresh = h("button", { type: "button", class: "new-chat", title: "New chat (Ctrl+Shift+O)", on: { click: newConversation } }, icon("plus"), h("span", { text: "New chat" }));
    const close = iconButton("close", "Close the list", () => document.body.classList.remove("side-open"), { class: "icon-button side-close" });
    const brand = h("div", { class: "brand" }, mark(), h("span", { text: "Paddock" }), close);
    this.model = h("button", { type: "button", class: "model-state", on: { click: () => { document.body.classList.remove("side-open"); openArea("models"); } } });
    this.theme = iconButton("moon", "Dark theme", toggleTheme);
    element.replaceChildren(h("div", { class: "side" }, brand, fresh,
      h("label", { class: "search" }, icon("search"), this.search), this.list, h("div", { class: "side-foot" }, this.model, this.theme)));
    this.search.addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.refresh(), 200); });
    listen("conversations-changed", () => this.refresh());
    listen("conversation", () => this.markOpen());
    listen("model", () => this.showModel());
    listen("theme", () => this.showTheme());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
    this.showTheme();
    this.showModel();
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.again);
    const text = this.search.value.trim();
    try {
      const { conversations } = await request("GET", `ui/conversations${text ? `?search=${encodeURIComponent(text)}` : ""}`);
      if (text !== this.search.value.trim()) return;
      this.rows = conversations;
      const drawn = JSON.stringify([conversations, text, new Date().toDateString()]);
      if (drawn !== this.drawn && !this.list.querySelector("input, .ask, :active")) { this.drawn = drawn; this.draw(); }
    } catch (error) {
      if (!this.rows.length) this.list.replaceChildren(h("p", { class: "side-note", text: error.message }));
    }
    const running = this.rows.some((row) => row.running);
    this.again = setTimeout(() => { if (!document.hidden) this.refresh(); }, running ? 3000 : 30000);
  }

  draw() {
    const byGroup = new Map();
    for (const row of this.rows) {
      const name = row.pinned ? "Pinned" : dayGroup(row.updated_s);
      if (!byGroup.has(name)) byGroup.set(name, []);
      byGroup.get(name).push(row);
    }
    const parts = [];
    for (const name of ["Pinned", "Today", "Yesterday", "Previous 7 days", "Earlier"]) {
      if (byGroup.has(name)) parts.push(h("h2", { text: name }), h("ul", {}, ...byGroup.get(name).map((row) => this.row(row))));
    }
    if (!parts.length) parts.push(h("p", { class: "side-note", text: this.search.value ? "Nothing found." : "Conversations appear here." }));
    const held = this.list.contains(document.activeElement) ? document.activeElement : null;
    this.list.replaceChildren(...parts);
    if (held) this.refocus(held.closest("li")?.dataset.id, held.ariaLabel); // the poll must not take the focus
    this.markOpen();
  }

  /** Give the focus back to the same control of a conversation, or to its title where that is gone. */
  refocus(id, label) {
    const item = this.list.querySelector(`li[data-id="${id}"]`);
    item?.querySelector(".title").focus(); // first: only with the focus inside are the other controls shown
    if (label) [...item?.querySelectorAll("button, a") ?? []].find((control) => control.ariaLabel === label)?.focus();
  }

  row(row) {
    const title = h("button", { type: "button", class: "title", text: row.title || "New chat", title: row.title || "New chat", on: { click: () => openConversation(row.id) } });
    const dot = row.running ? h("span", { class: "dot", role: "img", "aria-label": "A reply is being written" }) : null;
    const tools = h("span", { class: "row-tools" },
      iconButton("pin", row.pinned ? "Unpin" : "Pin", () => this.change(row, { pinned: !row.pinned }), { class: `icon-button${row.pinned ? " on" : ""}` }),
      iconButton("edit", "Rename", () => this.rename(row, item, title)),
      h("a", { class: "icon-button", href: address(`ui/conversations/${row.id}/export`), download: "", "aria-label": "Export as JSON", title: "Export as JSON" }, icon("download")),
      iconButton("trash", "Delete", () => this.remove(row, content)));
    const content = h("div", { class: "conversation" }, dot, title, tools);
    const item = h("li", { data: { id: row.id } }, content);
    title.addEventListener("dblclick", () => this.rename(row, item, title));
    title.addEventListener("keydown", (event) => {
      if (event.key === "F2") this.rename(row, item, title);
      if (event.key === "Delete") this.remove(row, content);
      if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); this.step(title, event.key === "ArrowDown" ? 1 : -1); }
    });
    return item;
  }

  step(from, by) {
    const all = [...this.list.querySelectorAll(".title")];
    all[all.indexOf(from) + by]?.focus();
  }

  markOpen() {
    const open = conversationInAddress();
    for (const item of this.list.querySelectorAll("li")) {
      const chosen = item.dataset.id === open;
      item.classList.toggle("open", chosen);
      if (chosen) item.setAttribute("aria-current", "page"); else item.removeAttribute("aria-current");
    }
  }

  async change(row, values) {
    this.drawn = ""; // also when it is refused
    try { await request("PATCH", `ui/conversations/${row.id}`, values); } catch (error) { report(error); }
    this.refresh();
  }

  rename(row, item, title) {
    const input = h("input", { class: "rename", "aria-label": "Name of the conversation", maxlength: "200" });
    input.value = row.title;
    let ended = false;
    const end = (save) => {
      if (ended) return;
      ended = true;
      const name = input.value.trim();
      input.replaceWith(title);
      if (save && name && name !== row.title) { title.textContent = name; this.change(row, { title: name }); }
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

  async remove(row, content) {
    if (!(await askInPlace(content, "Delete?", "Delete"))) return;
    try {
      await request("DELETE", `ui/conversations/${row.id}`);
      this.rows = this.rows.filter((other) => other.id !== row.id);
      this.drawn = "";
      this.draw();
      if (conversationInAddress() === row.id) {
        if (this.rows.length) openConversation(this.rows[0].id, { replace: true });
        else await newConversation();
      }
    } catch (error) { report(error); }
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
