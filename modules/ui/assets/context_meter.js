// How full the context is: a count in the composer, and a panel that says of what, which messages would be left out, and what to do about it.

import { h, iconButton, number, plural } from "./dom.js";
import { listen, report, request, state } from "./page.js";
import { showWhileWritten, showsWhileWritten } from "./reply_showing.js";

const PASTE_KEY = "paddock.paste-limit";
const PASTE_CHARACTERS = 2500;
const PARTS = Object.freeze([
  ["system", "System text"], ["history", "Earlier messages"], ["attachments", "Attached files"], ["images", "Attached images"], ["typed", "This message"],
]);
const POLICIES = Object.freeze([["drop_oldest", "leave out the oldest messages"], ["summarise_oldest", "have the model summarise the oldest"], ["refuse", "refuse to send"]]);

/** From how many characters on a pasted text becomes an attachment; 0: never. */
export function pasteLimit() {
  const kept = Number(localStorage.getItem(PASTE_KEY) ?? PASTE_CHARACTERS);
  return Number.isFinite(kept) && kept >= 0 ? kept : PASTE_CHARACTERS;
}

export class ContextMeter {
  /** `text()` is what is being typed, `images()` are those that wait with it; while `isBusy()` the end of a reply will ask. */
  constructor(text, images, isBusy) {
    Object.assign(this, { text, images, isBusy, conversation: null, use: null, used: 0, asked: 0, timer: 0 });
    this.element = h("button", { type: "button", class: "count context-count", "aria-expanded": "false", "aria-controls": "context-panel", title: "What the context holds", on: { click: () => this.toggle() } });
    this.note = h("button", { type: "button", class: "context-note", hidden: true, on: { click: () => this.toggle(true) } });
    this.panel = h("section", { id: "context-panel", class: "context-panel", "aria-label": "Context", hidden: true });
    this.panel.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); this.toggle(false); this.element.focus(); } });
    listen("conversation-deleting", (id) => { if (id === this.conversation) clearTimeout(this.timer); else if (!id) this.later(); });
    this.draw();
  }

  setConversation(id) {
    this.conversation = id;
    this.use = null;
    this.used = 0;
    this.written = null;
    this.toggle(false);
    this.later();
  }

  /** Tokens that the conversation took at its last reply: all that is known where nobody can count. */
  setUsed(tokens) {
    this.used = tokens;
    if (state.conversation?.settings.summary === this.written) this.written = null;
    this.later();
  }

  /** Something changed: look again when it has settled. While a reply is written nothing is asked; its end asks. */
  later(wait = 350) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), wait);
  }

  /** Another model counts otherwise. */
  setModel(name) {
    if (name === this.model) return;
    this.model = name;
    this.later();
  }

  /** The text in the box changed. As long as all fits only that text is counted anew. */
  typing() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (this.use?.total && !this.use.left_out_count && !this.use.refusal ? this.countTyped() : this.look()), 350);
  }

  async countTyped() {
    const text = this.text();
    const { use, conversation } = this;
    try {
      const { count } = text ? await request("POST", "ui/tokens", { text }) : { count: 0 };
      if (use !== this.use || conversation !== this.conversation || text !== this.text()) return;
      const total = use.total - use.typed + count;
      if (count === null || total > use.room) { this.look(); return; }
      this.use = { ...use, typed: count, total };
    } catch { this.use = null; }
    this.draw();
  }

  async look() {
    const { conversation } = this;
    if (!conversation || state.area !== "chat" || document.hidden || (this.isBusy() && this.panel.hidden)) return;
    this.asked += 1;
    const mine = this.asked;
    try {
      const { use } = await request("POST", `ui/conversations/${conversation}/context`, { text: this.text(), images: this.images(), listed: !this.panel.hidden });
      if (mine !== this.asked || conversation !== this.conversation) return;
      this.use = use;
    } catch { this.use = null; } // what is wrong is told when it is sent
    this.draw();
  }

  toggle(open = this.panel.hidden) {
    this.panel.hidden = !open;
    this.element.setAttribute("aria-expanded", String(open));
    this.draw();
    if (open) this.later(0);
  }

  draw() {
    const { use } = this;
    const limit = use?.limit ?? state.models?.loaded?.[0]?.context_length;
    const total = use ? use.total : this.used;
    this.element.textContent = total === null ? "Too long to count" : !use && !total ? "Context" : limit ? `${number(total)} / ${number(limit)} tokens` : `${number(total)} tokens`;
    this.element.classList.toggle("full", Boolean(use && (total === null || total > use.room)));
    this.drawNote();
    const writing = this.panel.contains(document.activeElement) && document.activeElement.matches("textarea, input"); // what is typed there stays
    if (!this.panel.hidden && !writing) this.drawPanel(limit);
  }

  drawNote() {
    const left = this.use?.left_out_count ?? 0;
    const text = this.use?.refusal || (left ? `${plural(left, "earlier message")} will be ${this.use.policy === "summarise_oldest" ? "summarised" : "left out"}: the conversation is longer than the context.` : "");
    this.note.hidden = !text || !this.panel.hidden; // the panel says it too
    this.note.textContent = text;
    this.note.classList.toggle("bad", Boolean(this.use?.refusal));
  }

  drawPanel(limit) {
    const held = this.panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const close = iconButton("close", "Close", () => { this.toggle(false); this.element.focus(); });
    const parts = this.use ? [this.bar(), this.legend(), this.leftOut(), this.summary()] : [h("p", {
      class: "context-unknown", text: limit ? "The model is on another server, so what is not sent yet is not counted." : "Load a model to see how much of its context the conversation takes.",
    })];
    this.panel.replaceChildren(h("div", { class: "context-head" }, h("strong", { text: "Context" }), close), ...parts.filter(Boolean), this.choices());
    if (held) this.panel.querySelector(`[data-key="${held}"]`)?.focus();
  }

  bar() {
    const { use } = this;
    const whole = Math.max(use.limit, use.total ?? 0);
    return h("div", { class: "context-bar", "aria-hidden": "true" }, ...PARTS.map(([name]) => {
      const part = h("i", { class: `of-${name}` });
      part.style.width = `${(100 * use[name]) / whole}%`;
      return part;
    }));
  }

  legend() {
    const { use } = this;
    const rows = PARTS.map(([name, title]) => [name, title, use[name]]);
    const left = use.room - (use.total ?? use.room);
    rows.push(["left", left < 0 ? "Too many" : "Room left", Math.abs(left)], ["reply", "Kept free for the reply", use.limit - use.room]);
    return h("dl", { class: "context-legend" }, ...rows.map(([name, title, count]) => h("div", {}, h("dt", { class: `of-${name}`, text: title }), h("dd", { text: number(count) }))));
  }

  leftOut() {
    const { left_out: gone, kept, refusal } = this.use;
    if (refusal) return h("p", { class: "context-refusal", role: "status", text: refusal });
    if (!gone.length) return null;
    const rows = gone.map((message) => h("li", {}, h("span", { text: `${message.role === "user" ? "You" : "Reply"}: ${message.words}` }),
      iconButton("pin", `Pin “${message.words}”`, () => this.pin(message.id))));
    const shorten = h("button", { type: "button", class: "small-button", text: this.summarising ? "Summarising…" : "Summarise them", disabled: Boolean(this.summarising), data: { key: "summarise" }, on: { click: () => this.summarise() } });
    return h("div", { class: "context-gone" }, h("p", { text: `Left out of the next prompt, which then has ${number(kept)} tokens. Pin what must stay; what belongs to it stays too.` }), h("ol", { "aria-label": "Messages left out" }, ...rows), shorten);
  }

  /** The model writes what stands for the oldest messages from then on. */
  async summarise() {
    const { conversation } = this;
    this.summarising = conversation;
    this.draw();
    try {
      const { summary } = await request("POST", `ui/conversations/${conversation}/summarise`, { text: this.text(), images: this.images() });
      if (conversation === this.conversation) this.written = summary;
    } catch (error) { report(error); }
    this.summarising = null;
    this.later(0);
  }

  /** The summary in force, to be edited; without words it is gone and the messages are back. */
  summary() {
    const text = this.written ?? state.conversation?.settings.summary;
    if (!text) return null;
    const area = h("textarea", { id: "context-summary", rows: "4", data: { key: "summary" } });
    area.value = text;
    const save = (summary) => { this.written = summary; this.set({ summary }); };
    area.addEventListener("change", () => save(area.value.trim()));
    const remove = h("button", { type: "button", class: "small-button", text: "Remove the summary", on: { click: () => save("") } });
    return h("div", { class: "context-summary" }, h("label", { for: "context-summary", text: "Summary that stands for the oldest messages" }), area, remove);
  }

  async pin(id) {
    try { await request("POST", `ui/conversations/${this.conversation}/pin`, { message_id: id, pinned: true }); } catch (error) { report(error); }
    this.later(0);
  }

  choices() {
    const policy = h("select", { id: "context-policy", data: { key: "policy" } }, ...POLICIES.map(([value, text]) => h("option", { value, text, selected: value === (this.use?.policy ?? state.conversation?.settings.overflow) })));
    policy.addEventListener("change", () => this.set({ overflow: policy.value }));
    const paste = h("input", { id: "context-paste", type: "number", min: "0", step: "500", value: String(pasteLimit()), data: { key: "paste" } });
    paste.addEventListener("change", () => localStorage.setItem(PASTE_KEY, String(Math.max(0, Math.round(Number(paste.value) || 0)))));
    const showing = h("select", { id: "context-showing", data: { key: "showing" } }, ...[["on", "while it is written"], ["off", "when it is done"]].map(([value, text]) => h("option", { value, text, selected: (value === "on") === showsWhileWritten() })));
    showing.addEventListener("change", () => showWhileWritten(showing.value === "on"));
    return h("div", { class: "context-choices" },
      h("label", { for: "context-showing", text: "A reply is shown" }), showing,
      h("label", { for: "context-policy", text: "When it is too long" }), policy,
      h("label", { for: "context-paste", text: "Pasted text becomes an attachment from (characters; 0: never)" }), paste);
  }

  async set(settings) {
    try { await request("PATCH", `ui/conversations/${this.conversation}`, { settings }); } catch (error) { report(error); }
    this.later(0);
  }
}
