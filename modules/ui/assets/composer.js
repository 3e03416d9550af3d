// The box at the bottom: text that is never lost, Send or Stop, the token count and the model's name.

import { Attachments } from "./attachments.js";
import { autoGrow, h, icon, number, plural } from "./dom.js";
import { listen, modelInWords, openArea, request, shortName, state } from "./page.js";
import { whereItGoes } from "./remote_row.js";

const draftKey = (id) => `paddock.draft.${id}`;

export class Composer {
  /** `send(text, images)` resolves to true when the server has taken the text; `stop()` ends the running reply. */
  constructor({ send, stop }) {
    Object.assign(this, { sendText: send, stopReply: stop, conversation: null, running: false, used: 0, counting: 0 });
    this.text = h("textarea", { id: "message-text", rows: "1", placeholder: "Message Paddock", "aria-label": "Message", autocomplete: "off" });
    this.count = h("span", { class: "count", title: "Tokens of this message and of the conversation, and the longest context" });
    this.model = h("button", { type: "button", class: "model-chip", title: "Open the Models page", on: { click: () => openArea("models") } });
    this.button = h("button", { type: "button", class: "send-button", on: { click: () => this.act() } });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.print = h("p", { class: "small-print" });
    this.attachments = new Attachments({ changed: () => this.setRunning(this.running), refuse: (message) => this.showProblem({ message }) });
    const row = h("div", { class: "composer-row" }, this.attachments.button, this.attachments.input, this.model, h("span", { class: "grow" }), this.count, this.button);
    this.element = h("div", { class: "composer" }, this.problem, h("div", { class: "composer-box" }, this.attachments.element, this.text, row),
      this.print);
    this.text.addEventListener("input", () => this.changed());
    this.text.addEventListener("keydown", (event) => this.onKey(event));
    this.text.addEventListener("paste", (event) => { if (this.attachments.take(event.clipboardData.files)) event.preventDefault(); });
    this.element.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
    this.element.addEventListener("drop", (event) => { if (this.attachments.take(event.dataTransfer.files)) event.preventDefault(); });
    listen("model", () => this.showModel());
    this.setRunning(false);
    this.showModel();
  }

  onKey(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!this.running) this.act();
    }
  }

  async act() {
    if (this.running) { this.stopReply(); return; }
    const text = this.text.value;
    const images = [...this.attachments.images];
    if (!this.filled || this.sending) return;
    const before = this.conversation;
    this.sending = true;
    this.button.disabled = true;
    const taken = await this.sendText(text, images);
    this.sending = false;
    if (taken && images.length) this.attachments.sent(images, before ?? this.conversation);
    const still = (before ?? this.conversation) === this.conversation;
    if (taken && still && this.text.value === text) this.setText("");
    else if (taken && !still && localStorage.getItem(draftKey(before)) === text) localStorage.removeItem(draftKey(before));
    this.setRunning(this.running);
  }

  setText(text) {
    this.text.value = text;
    this.changed();
  }

  changed() {
    autoGrow(this.text);
    this.setRunning(this.running);
    if (this.conversation) {
      if (this.text.value) localStorage.setItem(draftKey(this.conversation), this.text.value);
      else localStorage.removeItem(draftKey(this.conversation));
    }
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.countTokens(), 350);
  }

  /** Whether there is anything to send. */
  get filled() {
    return Boolean(this.text.value.trim() || this.attachments.images.length);
  }

  /** Another conversation is open: its own draft comes back. */
  setConversation(id) {
    if (id === this.conversation) return;
    const typed = this.conversation === null ? this.text.value : ""; // before there was one to type for
    this.conversation = id;
    this.attachments.setConversation(id);
    this.showProblem(null);
    this.text.value = [localStorage.getItem(draftKey(id)), typed].filter(Boolean).join("\n\n");
    this.changed();
    // A tab that has just been opened is shown one frame later
    if (matchMedia("(hover: hover)").matches) setTimeout(() => this.text.focus({ preventScroll: true }), 60);
  }

  /** The conversation is gone: what is typed waits for the next one. */
  release() {
    localStorage.removeItem(draftKey(this.conversation));
    this.conversation = null;
  }

  setRunning(running) {
    const name = running ? "stop" : "send";
    this.running = running;
    if (this.button.dataset.shows !== name) {
      this.button.dataset.shows = name;
      this.button.replaceChildren(icon(name));
      this.button.setAttribute("aria-label", running ? "Stop (Esc)" : "Send (Enter)");
      this.button.title = running ? "Stop (Esc)" : "Send (Enter)";
    }
    this.button.disabled = !running && (!this.filled || this.sending);
  }

  /** Tokens that the conversation took at its last reply. */
  setUsed(tokens) {
    this.used = tokens;
    this.showCount(this.counted ?? { count: 0, limit: null });
  }

  async countTokens() {
    if (!this.text.value) { this.showCount({ count: 0, limit: this.counted?.limit ?? null }); return; }
    const text = this.text.value;
    try {
      const counted = await request("POST", "ui/tokens", { text });
      if (text === this.text.value) this.showCount(counted);
    } catch { this.count.textContent = ""; }
  }

  showCount(counted) {
    this.counted = counted;
    const limit = counted.limit ?? state.models?.loaded?.[0]?.context_length;
    if (counted.count === null || (!counted.count && !this.used)) { this.count.textContent = ""; return; }
    const total = this.used + counted.count;
    this.count.textContent = limit ? `${number(total)} / ${number(limit)} tokens` : `${number(total)} tokens`;
    this.count.classList.toggle("full", Boolean(limit) && total > limit);
  }

  showModel() {
    const loading = state.models?.loading;
    const name = loading ? `Loading ${shortName(loading.name)}…` : modelInWords();
    const doubts = (!loading && state.models?.loaded?.[0]?.template_doubts) || [];
    this.model.replaceChildren(icon("chip"), h("span", { text: name }), ...(doubts.length ? [h("span", { class: "badge bad", text: `Template: ${plural(doubts.length, "doubt")}` })] : []));
    this.model.title = ["Open the Models page", ...doubts].join("\n");
    this.model.classList.toggle("busy", Boolean(loading));
    this.attachments.setModel(state.models?.loaded?.[0]?.vision);
    this.print.textContent = `${whereItGoes(state.models?.loaded?.[0])} Models make mistakes; check what matters.`;
    this.showCount(this.counted ?? { count: 0, limit: null });
  }

  /** An error stays above the box, with the text kept, until the next try. */
  showProblem(error) {
    this.problem.hidden = !error;
    if (!error) return;
    this.problem.replaceChildren(h("span", { text: error.message }));
    if (error.kind === "NoModelLoaded" || error.kind === "LoadFailed" || error.kind === "OutOfMemory") {
      this.problem.append(h("button", { type: "button", class: "small-button", text: "Open Models", on: { click: () => openArea("models") } }));
    }
  }
}
