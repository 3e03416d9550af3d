// The notebook that is open: its buttons and views, where the model writes, and what is taken of it. The text itself is in notebook_typing.js.

import { h, iconButton, plural } from "./dom.js";
import { keptChoice } from "./kept_choice.js";
import { NextTokens } from "./next_tokens.js";
import { Alternatives } from "./notebook_alternatives.js";
import { sendToChat } from "./notebook_chat.js";
import { NotebookDrafts } from "./notebook_drafts.js";
import { NotebookHistory } from "./notebook_history.js";
import { Likelihood } from "./notebook_likelihood.js";
import { NotebookList } from "./notebook_list.js";
import { NotebookMarks } from "./notebook_marks.js";
import { toPoints, toUnits } from "./notebook_places.js";
import { NotebookSettings } from "./notebook_settings.js";
import { NotebookTyping, OPEN_KEY } from "./notebook_typing.js";
import { NotebookView } from "./notebook_view.js";
import { Stream, listen, report, request, sayLeft, state } from "./page.js";
import { remoteBadge } from "./remote_row.js";
import { waitingWords } from "./waiting_words.js";

const TRIES_KEY = "paddock.notebook.tries";
const WHERE_KEY = "paddock.notebook.where";
const PLACES = Object.freeze({ end: "At the end", cursor: "At the cursor", aside: "Beside the text" });
const MOST_TRIES = 6;

class Notebook extends NotebookTyping {
  constructor(element) {
    super();
    this.settings = new NotebookSettings(() => this.id);
    this.build(element);
    this.follow();
    this.setRunning(false); // what runs is told with the text
    this.showButtons({});
    this.settings.tell();
    if (state.area === "notebook") this.attach();
  }

  build(element) {
    this.text = h("textarea", { class: "notebook-text", "aria-label": "Notebook text", spellcheck: "false", placeholder: "Write something; Generate goes on from it." });
    this.count = h("span", { class: "count", "aria-live": "off" });
    this.status = h("span", { class: "status", role: "status" });
    this.saved = h("span", { class: "notebook-saved" });
    this.generate = h("button", { type: "button", class: "small-button primary generate", on: { click: () => this.run() } });
    this.where = h("select", { "aria-label": "Where to write", title: "Where the model writes. At the cursor, selected text is replaced; what follows stays. Beside the text, yours stays as it is.", on: { change: () => this.chooseWhere() } },
      ...Object.entries(PLACES).map(([value, text]) => h("option", { value, text })));
    this.where.value = localStorage.getItem(WHERE_KEY) in PLACES ? localStorage.getItem(WHERE_KEY) : "end";
    this.tries = keptChoice(h("select", { "aria-label": "How many alternatives", title: "How many texts are written at once, to pick one" },
      ...Array.from({ length: MOST_TRIES }, (_, place) => h("option", { value: String(place + 1), text: plural(place + 1, "text") }))), TRIES_KEY);
    this.undo = iconButton("undo", "Undo (takes back the last generation or edit)", () => this.act("undo"));
    this.redo = iconButton("redo", "Redo", () => this.act("redo"));
    this.again = iconButton("retry", "Regenerate: take the last generation back and write another", () => (this.aside ? this.run() : this.act("regenerate", { settings: this.settings.values })));
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.drafts = new NotebookDrafts((text, added) => this.putBack(text, added));
    this.remote = h("span", {});
    this.list = new NotebookList({ open: (id) => this.open(id), current: () => this.id, save: () => this.save(), close: () => this.leaveDeleted() });
    this.history = new NotebookHistory({ current: () => this.id, restore: (version) => this.restore(version) });
    this.alternatives = new Alternatives({ take: (text, place) => this.takeAlternative(text, place), dismiss: () => this.act("dismiss"), goOn: (text) => this.run(text) });
    this.marks = new NotebookMarks(this.settings);
    const settings = () => this.settings.values;
    this.next = new NextTokens(() => ({ text: this.text.value.slice(0, this.place().start), settings: settings() }), (token) => this.put(token));
    this.view = new NotebookView(this.text, new Likelihood({ ask: () => ({ text: this.text.value, settings: settings() }), goOn: (text) => this.goOn(text) }));
    const toChat = h("button", { type: "button", class: "small-button", text: "Send to chat", title: "The selected text, or all of it, as a message in a new conversation", on: { click: () => sendToChat(this.selected() || this.text.value) } });
    const head = h("div", { class: "notebook-head" }, this.list.element, this.history.element, toChat, this.marks.element, h("span", { class: "grow" }), this.view.element);
    const bar = h("div", { class: "notebook-bar" }, this.generate, this.where, this.tries, h("span", { class: "notebook-steps" }, this.undo, this.redo, this.again),
      h("span", { class: "notebook-facts" }, this.remote, this.status, this.saved, this.count));
    element.replaceChildren(h("div", { class: "notebook" },
      h("div", { class: "notebook-main" }, head, this.problem, this.drafts.element, this.view.panes, this.alternatives.element, bar), this.next.element));
    this.chooseWhere();
    element.removeAttribute("aria-busy");
  }

  follow() {
    this.text.addEventListener("input", () => this.typed());
    listen("model", () => this.remote.replaceChildren(state.models.loaded[0]?.host ? remoteBadge(state.models.loaded[0]) : ""));
    listen("area", (area) => (area === "notebook" ? this.attach() : this.detach()));
    listen("escape", () => { if (state.area === "notebook" && this.running) this.act("stop"); });
    listen("settings-edited", ({ scope, key, settings, edits, leaving }) => { if (scope === "notebook") this.settings.edit(settings, edits, key, { leaving }); });
    listen("save-notebook", () => this.save());
    listen("keys-changed", () => this.setRunning(this.running));
    listen("open-notebook", (id) => this.open(id));
    window.addEventListener("pagehide", () => this.leave());
  }

  // ---- which notebook

  async attach() {
    if (this.stream || this.attaching) return;
    this.attaching = true;
    this.id ||= await this.openBefore();
    await this.drafts.look();
    this.attaching = false;
    if (this.stream || state.area !== "notebook") return;
    this.stream = new Stream(`ui/notebook/events?id=${this.id}`, {
      snapshot: (data) => this.show(data),
      append: (data) => this.grow(data),
      queued: ({ place, expected_s: seconds }) => { this.status.textContent = place ? waitingWords(place, seconds) : "Reading the text…"; },
      finished: (data) => this.finish(data),
      saved: ({ rev }) => this.heard(rev),
    }, (lost) => { if (lost) this.lost(); });
  }

  /** The one that was open in this tab before a reload, if it is still there. */
  async openBefore() {
    const id = sessionStorage.getItem(OPEN_KEY);
    if (!id) return "";
    try { return (await request("GET", `ui/notebook?id=${id}`)).id; } catch { return ""; }
  }

  async lost() {
    this.status.textContent = "Connection lost. Trying again…";
    const { id } = this;
    try { await request("GET", `ui/notebook?id=${id}`); } catch (error) {
      if (error.status !== 404 || id !== this.id) return;
      report(error);
      this.leaveDeleted();
    }
  }

  /** What is typed and not saved waits until it comes back from the bin. */
  leaveDeleted() {
    if (this.dirty) this.drafts.keep(this.draft());
    this.forget();
    if (state.area === "notebook") this.attach();
  }

  detach() {
    this.stream?.close();
    this.stream = null;
  }

  /** Another notebook; an empty id is the one opened last. */
  async open(id) {
    await this.save();
    if (this.dirty && !this.running) return; // not saved, and save() has said why
    if (this.dirty) this.drafts.keep(this.draft());
    this.forget(id);
    if (state.area === "notebook") await this.attach();
  }

  forget(id = "") {
    this.detach();
    clearTimeout(this.saveTimer);
    if (id) sessionStorage.setItem(OPEN_KEY, id); else sessionStorage.removeItem(OPEN_KEY);
    Object.assign(this, { id, rev: null, base: null, sent: null, dirty: false, waiting: "", tail: 0, behind: 0, saveTimer: null });
    this.looks += 1;
    this.text.value = "";
    this.drafts.close();
    this.showProblem(null);
    this.alternatives.show(null);
    this.setRunning(false);
    this.view.changed();
  }

  leave() {
    if (this.dirty) {
      this.drafts.keep(this.draft());
      this.save();
    }
    if (!this.running) return;
    this.stream?.pause();
    sayLeft("ui/notebook/left");
  }

  // ---- writing

  /** Whether the model writes beside the text. */
  get aside() { return this.where.value === "aside"; }

  chooseWhere() {
    localStorage.setItem(WHERE_KEY, this.where.value);
    this.alternatives.stand(this.aside);
    if (this.aside) this.view.panes.append(this.alternatives.element);
    else this.view.panes.after(this.alternatives.element);
    this.showButtons({});
  }

  /** Where the model is to write, in this text. */
  place() {
    const { selectionStart: start, selectionEnd: stop, value } = this.text;
    return this.where.value === "cursor" ? { start, stop } : { start: value.length, stop: value.length };
  }

  selected() {
    return this.text.value.slice(this.text.selectionStart, this.text.selectionEnd);
  }

  /** A chosen token, where the model would write it. */
  put(token) {
    const { start } = this.place();
    const atEnd = start === this.text.value.length;
    this.text.setRangeText(token, start, start, "end");
    if (atEnd) this.text.scrollTop = this.text.scrollHeight;
    this.typed();
  }

  /** Have it written on; beside the text also from what stands there already. */
  async run(begun = "") {
    if (this.running) { this.act("stop"); return; }
    clearTimeout(this.saveTimer);
    this.saveTimer = null;
    if (this.saving) await this.saving.catch(() => {});
    this.showProblem(null);
    const { edits, looks, id } = this;
    const text = this.text.value;
    const { start, stop } = this.place();
    const tries = begun ? 1 : Number(this.tries.value);
    const { aside } = this;
    const within = tries === 1 && !aside;
    const place = stop < text.length || start < stop ? { start: toPoints(text, start), stop: toPoints(text, stop) } : {};
    if (within && start < stop) this.text.setRangeText("", start, stop, "end");
    this.sent = this.text.value; // until the stream shows it
    try {
      const { rev } = await request("POST", "ui/notebook/generate", { id, text, tries, aside, begun, ...place, settings: this.settings.values });
      if (edits === this.edits && id === this.id) this.clean();
      if (looks !== this.looks) return;
      this.rev = rev ?? this.rev;
      this.setRunning(true);
      this.behind = within ? text.length - stop : 0;
    } catch (error) {
      if (this.sent === this.text.value) this.replace(text); // the selection was not replaced
      this.sent = null;
      this.showProblem(error);
    }
  }

  async act(verb, body = {}) {
    this.showProblem(null);
    if (verb !== "stop") await this.save();
    if (verb !== "stop" && this.dirty && !this.running) return false; // not saved, and save() has said why: nothing may take its place
    this.text.readOnly = verb !== "stop";
    const { looks } = this;
    try {
      const data = await request("POST", verb.startsWith("ui/") ? verb : `ui/notebook/${verb}`, { id: this.id, ...(typeof body === "function" ? body() : body) });
      if (verb === "stop" || looks !== this.looks) return true;
      this.rev = data.rev ?? this.rev;
      this.clean();
      if (!data.running) { this.replace(data.text); this.base = data.text; } // what is being written comes with the stream
      this.alternatives.show(data.alternatives);
      this.setRunning(Boolean(data.running));
      this.showButtons(data);
      this.countSoon();
      return true;
    } catch (error) { this.showProblem(error); return false; } finally { this.text.readOnly = false; }
  }

  // ---- taking

  /** Another text in the place of this one, which Undo brings back. */
  take(text) {
    return this.act("take", () => ({ text, rev: this.rev }));
  }

  restore(version) {
    return this.act(`ui/notebooks/${this.id}/versions/${version}/restore`);
  }

  async goOn(text) {
    if (!await this.take(text)) return;
    this.text.setSelectionRange(text.length, text.length);
    this.view.choose({ name: this.view.columns ? this.view.name : "text" });
    await this.run();
  }

  takeAlternative(text, { start, stop }) {
    const { value } = this.text;
    const from = toUnits(value, start);
    const to = toUnits(value, stop);
    const same = this.base !== null && this.base.slice(0, toUnits(this.base, stop)) === value.slice(0, to);
    const [first, last] = same ? [from, to] : [this.text.selectionStart, this.text.selectionStart]; // what stood there was changed since
    return this.take(value.slice(0, first) + text + value.slice(last));
  }
}

export function mount(element) {
  try { return new Notebook(element); } catch (error) { report(error); throw error; }
}
