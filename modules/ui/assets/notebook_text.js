// The notebook: one text. What the model writes is appended without moving the caret or losing what is typed meanwhile.

import { h, icon, iconButton, number, plural } from "./dom.js";
import { NextTokens } from "./next_tokens.js";
import { Stream, emit, listen, report, request, sayLeft, state, toast } from "./page.js";
import { remoteBadge } from "./remote_row.js";

const SETTINGS_KEY = "paddock.notebook.settings";
const DRAFT_KEY = "paddock.notebook.draft"; // typed just before the tab was closed
const SAVE_DELAY_MS = 800;
const COUNT_DELAY_MS = 400;

class Notebook {
  constructor(element) {
    this.rev = null;
    this.running = false;
    this.dirty = false;
    this.saving = null;
    this.base = null; // the server's text as far as it came here
    this.sent = null; // a text that is on its way to the server
    this.edits = 0;
    this.looks = 0; // how often the stream told how things are: what an older answer says then counts no more
    this.settings = readSettings();
    this.text = h("textarea", { class: "notebook-text", "aria-label": "Notebook text", spellcheck: "false", placeholder: "Write something; Generate continues at the end of the text." });
    this.count = h("span", { class: "count", "aria-live": "off" });
    this.status = h("span", { class: "status", role: "status" });
    this.generate = h("button", { type: "button", class: "small-button primary generate", on: { click: () => this.run() } });
    this.undo = iconButton("undo", "Undo (takes back the last generation or edit)", () => this.act("undo"));
    this.redo = iconButton("redo", "Redo", () => this.act("redo"));
    this.again = iconButton("retry", "Regenerate: take the last generation back and write another", () => this.act("regenerate", { settings: this.settings }));
    this.problem = h("div", { class: "problem", role: "alert", hidden: true });
    this.kept = h("div", { class: "problem", role: "status", hidden: true });
    this.next = new NextTokens(() => this.text.value, (token) => this.append(token), () => this.settings.adapters);
    this.remote = h("span", {});
    const bar = h("div", { class: "notebook-bar" }, this.generate, this.undo, this.redo, this.again, h("span", { class: "grow" }), this.remote, this.status, this.count);
    element.replaceChildren(h("div", { class: "notebook" },
      h("div", { class: "notebook-main" }, this.problem, this.kept, this.text, bar), this.next.element));
    element.removeAttribute("aria-busy");
    this.text.addEventListener("input", () => this.typed());
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.run(); }
    });
    listen("model", () => this.remote.replaceChildren(state.models.loaded[0]?.host ? remoteBadge(state.models.loaded[0]) : ""));
    listen("area", (area) => (area === "notebook" ? this.attach() : this.detach()));
    listen("escape", () => { if (state.area === "notebook" && this.running) this.act("stop"); });
    listen("settings-edited", ({ scope, settings }) => {
      if (scope !== "notebook") return;
      this.settings = { ...this.settings, ...settings };
      localStorage.setItem(SETTINGS_KEY, JSON.stringify(this.settings));
    });
    window.addEventListener("pagehide", () => this.leave());
    this.setRunning(false); // what runs is told with the text
    this.showButtons({});
    emit("settings", { scope: "notebook", key: "notebook", settings: this.settings });
    if (state.area === "notebook") this.attach();
  }

  attach() {
    if (this.stream) return;
    this.stream = new Stream("ui/notebook/events", {
      snapshot: (data) => this.show(data),
      append: (data) => this.grow(data),
      queued: ({ place }) => { this.status.textContent = place ? `Waiting, place ${place}` : "Reading the text…"; },
      loading: ({ stage }) => { this.status.textContent = stage; },
      finished: (data) => this.finish(data),
    }, (lost) => { if (lost) this.status.textContent = "Connection lost. Trying again…"; });
  }

  leave() {
    if (this.dirty) {
      localStorage.setItem(DRAFT_KEY, JSON.stringify({ text: this.text.value, base: this.sent ?? this.base, rev: this.rev }));
      this.save();
    }
    if (!this.running) return;
    this.stream?.pause();
    sayLeft("ui/notebook/left");
  }

  detach() {
    this.stream?.close();
    this.stream = null;
  }

  /** The text as the server has it; what was typed and is not saved yet wins. */
  show(data) {
    this.draw();
    this.looks += 1;
    if (this.dirty && (data.running || this.running)) this.merge(data);
    else if (!this.dirty && data.text !== this.text.value) this.replace(data.text);
    if (!this.dirty || this.rev === null) Object.assign(this, { rev: data.rev, base: data.text });
    this.sent = null;
    this.takeDraft(data);
    this.setRunning(data.running);
    this.showButtons(data);
    if (!data.running) this.status.textContent = "";
    if (this.dirty && !data.running) this.saveSoon();
    this.countSoon();
  }

  /** The model's text goes on behind what is typed here; when it is another text, that is shown and what was typed can be put back. */
  merge(data) {
    const area = this.text;
    const base = this.sent !== null && data.text.startsWith(this.sent) ? this.sent : this.base;
    if (base !== null && data.text.startsWith(base)) {
      area.setRangeText(data.text.slice(base.length), area.value.length, area.value.length, "preserve");
    } else {
      this.keep(area.value);
      this.replace(data.text);
      this.dirty = false;
    }
    Object.assign(this, { rev: data.rev, base: data.text });
  }

  /** Offer a text that had to give way. */
  keep(text) {
    const put = () => { this.kept.hidden = true; this.replace(text); this.typed(); };
    this.kept.replaceChildren(h("span", { text: "The notebook was changed in another window. What you typed here is kept." }),
      h("button", { type: "button", class: "small-button", text: "Put it back", on: { click: put } }),
      h("button", { type: "button", class: "small-button", text: "Forget it", on: { click: () => { this.kept.hidden = true; } } }));
    this.kept.hidden = false;
  }

  /** What was typed last time and did not reach the server any more. */
  takeDraft(data) {
    const stored = localStorage.getItem(DRAFT_KEY);
    if (!stored) return;
    localStorage.removeItem(DRAFT_KEY);
    const draft = JSON.parse(stored);
    if (this.dirty || data.text.startsWith(draft.text)) return;
    if (typeof draft.base === "string" && data.text.startsWith(draft.base)) {
      this.replace(draft.text + data.text.slice(draft.base.length));
      this.typed();
    } else this.keep(draft.text);
  }

  /** Another text; the caret stays where it was, as far as that place still exists. */
  replace(text) {
    const { selectionStart, selectionEnd, scrollTop } = this.text;
    this.text.value = text;
    this.text.setSelectionRange(Math.min(selectionStart, text.length), Math.min(selectionEnd, text.length));
    this.text.scrollTop = scrollTop;
  }

  grow({ text, completion_tokens: tokens, tokens_per_s: speed }) {
    this.waiting = (this.waiting ?? "") + text;
    this.base = (this.base ?? "") + text;
    this.speed = tokens ? `${plural(tokens, "token")}${speed ? ` · ${speed.toFixed(1)} tok/s` : ""}` : "";
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    if (!this.waiting) return;
    const area = this.text;
    const follow = area.scrollHeight - area.scrollTop - area.clientHeight < 60;
    area.setRangeText(this.waiting, area.value.length, area.value.length, "preserve");
    this.waiting = "";
    if (follow) area.scrollTop = area.scrollHeight;
    this.status.textContent = this.speed;
    this.countTimer ??= setTimeout(() => this.countTokens(), COUNT_DELAY_MS); // also while it grows without a pause
  }

  finish(data) {
    this.draw();
    this.looks += 1;
    this.setRunning(false);
    this.rev = data.rev ?? this.rev;
    this.showButtons(data);
    if (data.error) this.showProblem({ message: data.error });
    else if (data.finish_reason === "length") this.status.textContent = `${this.speed ?? ""} · length limit reached`;
    if (this.dirty) this.saveSoon();
    this.countTokens();
  }

  append(token) {
    this.text.setRangeText(token, this.text.value.length, this.text.value.length, "preserve");
    this.text.scrollTop = this.text.scrollHeight;
    this.typed();
  }

  typed() {
    this.dirty = true;
    this.edits += 1;
    this.showProblem(null);
    this.saveSoon();
    this.countSoon();
  }

  saveSoon() {
    clearTimeout(this.saveTimer);
    this.saveTimer = setTimeout(() => this.save(), SAVE_DELAY_MS);
  }

  /** Save what was typed. While the model writes, the text belongs to the server and is saved when it has ended. */
  async save() {
    clearTimeout(this.saveTimer);
    if (!this.dirty || this.running || this.rev === null) return;
    if (this.saving) { await this.saving.catch(() => {}); return this.save(); }
    const text = this.sent = this.text.value;
    this.saving = request("PUT", "ui/notebook", { text, rev: this.rev });
    try {
      const { rev } = await this.saving;
      if (this.sent !== null) Object.assign(this, { rev, base: text }); // else a later look at it has come
      if (this.text.value === text) this.dirty = false;
      this.undo.disabled = false;
    } catch (error) {
      if (error.status === 409 && error.details.rev !== undefined) this.conflict(error);
      else if (error.status !== 409) this.showProblem(error); // else it is being written on: saved when that has ended
    } finally { Object.assign(this, { saving: null, sent: null }); }
    return undefined;
  }

  /** Somebody else changed the text: the person chooses which one stays. */
  conflict(error) {
    const { text = "", rev } = error.details;
    const use = (mine) => () => {
      this.rev = rev ?? this.rev;
      if (!mine) { this.replace(text); Object.assign(this, { dirty: false, base: text }); }
      this.showProblem(null);
      if (mine) this.save();
    };
    this.showProblem({ message: "The notebook was changed in another window." });
    this.problem.append(
      h("button", { type: "button", class: "small-button", text: "Keep this text", on: { click: use(true) } }),
      h("button", { type: "button", class: "small-button", text: "Show the other", on: { click: use(false) } }));
  }

  async run() {
    if (this.running) { this.act("stop"); return; }
    clearTimeout(this.saveTimer);
    if (this.saving) await this.saving.catch(() => {});
    this.showProblem(null);
    const { edits, looks } = this;
    const text = this.sent = this.text.value; // until the stream shows it
    try {
      const { rev } = await request("POST", "ui/notebook/generate", { text, settings: this.settings });
      if (edits === this.edits) this.dirty = false;
      if (looks !== this.looks) return;
      this.rev = rev ?? this.rev;
      this.setRunning(true);
    } catch (error) {
      this.sent = null;
      this.showProblem(error);
    }
  }

  async act(verb, body = {}) {
    this.showProblem(null);
    if (verb !== "stop") await this.save();
    if (verb !== "stop" && this.dirty && !this.running) return; // not saved, and save() has said why: nothing may take its place
    this.text.readOnly = verb !== "stop";
    const { looks } = this;
    try {
      const data = await request("POST", `ui/notebook/${verb}`, body);
      if (verb === "stop" || looks !== this.looks) return;
      this.rev = data.rev ?? this.rev;
      this.dirty = false;
      if (!data.running) { this.replace(data.text); this.base = data.text; } // what is being written comes with the stream
      this.setRunning(Boolean(data.running));
      this.showButtons(data);
      this.countSoon();
    } catch (error) { this.showProblem(error); } finally { this.text.readOnly = false; }
  }

  setRunning(running) {
    this.running = running;
    this.generate.replaceChildren(icon(running ? "stop" : "send"), h("span", { text: running ? "Stop" : "Generate" }));
    this.generate.title = running ? "Stop (Esc)" : "Generate (Ctrl+Enter)";
    this.text.classList.toggle("streaming", running);
    for (const button of [this.undo, this.redo, this.again]) button.classList.toggle("waits", running);
  }

  showButtons({ can_undo: undo = !this.undo.disabled, can_redo: redo = !this.redo.disabled }) {
    this.undo.disabled = !undo;
    this.redo.disabled = !redo;
    this.again.disabled = !undo;
  }

  countSoon() {
    clearTimeout(this.countTimer);
    this.countTimer = setTimeout(() => this.countTokens(), COUNT_DELAY_MS);
  }

  async countTokens() {
    clearTimeout(this.countTimer);
    this.countTimer = null;
    const text = this.text.value;
    const asked = this.countAsked = (this.countAsked ?? 0) + 1;
    try {
      const { count, limit } = text ? await request("POST", "ui/tokens", { text }) : { count: 0, limit: null };
      if (asked !== this.countAsked) return; // a later question is on its way
      this.count.textContent = count === null ? "" : limit ? `${number(count)} / ${number(limit)} tokens` : plural(count, "token");
      this.count.classList.toggle("full", Boolean(limit) && count >= limit);
    } catch { this.count.textContent = ""; }
  }

  showProblem(error) {
    this.problem.hidden = !error;
    if (error) this.problem.replaceChildren(h("span", { text: error.message }));
  }
}

function readSettings() {
  try { return JSON.parse(localStorage.getItem(SETTINGS_KEY)) ?? defaults(); } catch (error) { toast("The notebook's settings could not be read and begin anew."); return defaults(); }
}

function defaults() {
  return { preset: "Balanced", params: { max_tokens: 256 } };
}

export function mount(element) {
  try { return new Notebook(element); } catch (error) { report(error); throw error; }
}
