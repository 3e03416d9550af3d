// The box at the bottom: text that is never lost, what is attached to it, Send or Stop, how full the context is and the model's name.

import { Attachments } from "./attachments.js";
import { PARTS } from "./composer_parts.js";
import { ContextMeter, pasteLimit } from "./context_meter.js";
import { autoGrow, h, icon } from "./dom.js";
import { draftOf, keepDraft } from "./drafts.js";
import { isKey, withKey, writeNewLine } from "./key_bindings.js";
import { listen, modelInWords, openArea, shortName, state } from "./page.js";
import { whereItGoes } from "./remote_row.js";
import { templateVerdict } from "./template_badge.js";

/** Whether files are dragged over what would not take them by itself. */
const bringsFiles = ({ dataTransfer, target }) => Boolean(dataTransfer?.types.includes("Files")) && !target.closest?.("input[type='file']");

export class Composer {
  /**
   * `send(text, images, files)` (ids) resolves to true when the server has taken the text; `stop()` ends the running reply; `stored()` resolves
   * when edited settings are stored.
   */
  constructor({ send, stop, stored }) {
    Object.assign(this, { sendText: send, stopReply: stop, stored, conversation: null, running: false, sending: false });
    this.text = h("textarea", { id: "message-text", rows: "1", placeholder: "Message Paddock", "aria-label": "Message", autocomplete: "off" });
    this.meter = new ContextMeter(() => this.text.value, () => this.attachments.images, () => this.running || this.sending);
    this.model = h("button", { type: "button", class: "model-chip", title: "Open the Models page", on: { click: () => openArea("models") } });
    this.button = h("button", { type: "button", class: "send-button", on: { click: () => this.act() } });
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.print = h("p", { class: "small-print" });
    this.attachments = new Attachments({
      changed: () => { this.setRunning(this.running); this.meter.later(); },
      refuse: (message) => this.showProblem({ message }),
      typed: (text) => this.setText([this.text.value, text].filter(Boolean).join("\n\n")),
    });
    const row = h("div", { class: "composer-row" }, ...PARTS.map((part) => part(this)), this.attachments.button, this.attachments.input, this.model, h("span", { class: "grow" }), this.meter.element, this.button);
    this.element = h("div", { class: "composer" }, this.meter.panel, this.problem, this.meter.note,
      h("div", { class: "composer-box" }, this.attachments.documents.element, this.attachments.element, this.text, row), this.print);
    this.text.addEventListener("input", () => this.changed());
    this.text.addEventListener("keydown", (event) => this.onKey(event));
    this.text.addEventListener("paste", (event) => this.onPaste(event));
    window.addEventListener("dragover", (event) => { if (bringsFiles(event)) event.preventDefault(); });
    window.addEventListener("drop", (event) => this.onDrop(event));
    listen("model", () => this.showModel());
    listen("keys-changed", () => { this.button.dataset.shows = ""; this.setRunning(this.running); });
    this.setRunning(false);
    this.showModel();
  }

  onKey(event) {
    if (isKey(event, "newline")) writeNewLine(event);
    if (!isKey(event, "send")) return;
    event.preventDefault();
    if (!this.running) this.act();
  }

  /** Files are attached, and so is a long text. What comes with its text from a word processor is meant as text. */
  async onPaste(event) {
    const text = event.clipboardData.getData("text/plain");
    if (!text && this.attachments.take(event.clipboardData.files)) { event.preventDefault(); return; }
    const limit = pasteLimit();
    if (!limit || text.length < limit || !this.conversation) return;
    event.preventDefault();
    const { conversation } = this;
    if (!(await this.attachments.documents.addText(text)) && conversation === this.conversation) this.setText(this.text.value + text); // never lost
  }

  /** Files dropped where nothing else takes them are attached; the browser never opens one in place of the page. */
  onDrop(event) {
    if (event.defaultPrevented || !bringsFiles(event)) return;
    event.preventDefault();
    if (state.area === "chat") this.attachments.take(event.dataTransfer.files);
  }

  async act() {
    if (this.running) { this.stopReply(); return; }
    const text = this.text.value;
    const images = [...this.attachments.images];
    const { files, busy } = this.attachments.documents;
    if (busy) { this.showProblem({ message: "The attached files are still being read; send when they are there." }); return; }
    if (!this.filled || this.sending) return;
    const before = this.conversation;
    this.sending = true;
    this.button.disabled = true;
    const taken = await this.sendText(text, images, files.map((file) => file.id));
    this.sending = false;
    if (taken && (images.length || files.length)) this.attachments.sent(images, files, before ?? this.conversation);
    const still = (before ?? this.conversation) === this.conversation;
    if (taken && still && this.text.value === text) this.setText("");
    else if (taken && !still && draftOf(before) === text) keepDraft(before, "");
    else if (!taken) this.meter.later();
    this.setRunning(this.running);
  }

  setText(text) {
    this.text.value = text;
    this.changed();
  }

  /** What is in the box of a conversation, also of one that is not open. */
  textOf(conversation) {
    return conversation === this.conversation ? this.text.value : draftOf(conversation) ?? "";
  }

  setTextOf(conversation, text) {
    if (conversation === this.conversation) this.setText(text); else keepDraft(conversation, text);
  }

  changed() {
    autoGrow(this.text);
    this.setRunning(this.running);
    if (this.conversation) keepDraft(this.conversation, this.text.value);
    this.meter.typing();
  }

  /** Whether there is anything to send. */
  get filled() {
    return Boolean(this.text.value.trim() || this.attachments.images.length || this.attachments.documents.files.length);
  }

  /** Another conversation is open: its own draft comes back. */
  setConversation(id) {
    if (id === this.conversation) return;
    const typed = this.conversation === null ? this.text.value : ""; // before there was one to type for
    this.conversation = id;
    this.attachments.setConversation(id);
    this.meter.setConversation(id);
    this.showProblem(null);
    this.text.value = [draftOf(id), typed].filter(Boolean).join("\n\n");
    this.changed();
    // A tab that has just been opened is shown one frame later
    if (matchMedia("(hover: hover)").matches) setTimeout(() => this.text.focus({ preventScroll: true }), 60);
  }

  /** The conversation is gone: what is typed waits for the next one. */
  release() {
    keepDraft(this.conversation, "");
    this.conversation = null;
  }

  setRunning(running) {
    const name = running ? "stop" : "send";
    this.running = running;
    if (this.button.dataset.shows !== name) {
      this.button.dataset.shows = name;
      this.button.replaceChildren(icon(name));
      this.button.title = running ? withKey("Stop", "stop") : withKey("Send", "send");
      this.button.setAttribute("aria-label", this.button.title);
    }
    this.showPrint();
    this.button.disabled = !running && (!this.filled || this.sending);
  }

  /** Tokens that the conversation took at its last reply. */
  setUsed(tokens) {
    this.meter.setUsed(tokens);
  }

  showModel() {
    const loading = state.models?.loading;
    const name = loading ? `Loading ${shortName(loading.name)}…` : modelInWords();
    const check = loading ? null : state.models?.loaded?.[0]?.template_check;
    const { level, text, told } = check ? templateVerdict(check) : { level: "quiet", text: "", told: [] };
    this.model.replaceChildren(icon("chip"), h("span", { text: name }), ...(level === "quiet" ? [] : [h("span", { class: `badge ${level}`, text })]));
    this.model.title = ["Open the Models page", text, ...told].filter(Boolean).join("\n");
    this.model.classList.toggle("busy", Boolean(loading));
    this.attachments.setModel(state.models?.sees);
    this.showPrint();
    this.meter.setModel(name);
  }

  /** What one should know: while a reply is written, that it needs a page which shows it. */
  showPrint() {
    const needsPage = this.running && state.models?.stop_when_closed;
    const usual = `${whereItGoes(state.models?.loaded?.[0])} Models make mistakes; check what matters.`;
    this.print.textContent = needsPage ? "The reply goes on while any page shows it, also on another device, and stops when the last one is closed." : usual;
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
