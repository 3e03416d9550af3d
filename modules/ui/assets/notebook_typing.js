// The text of a notebook: what the server tells of it and what is typed, without losing either. Its buttons are in notebook_text.js.

import { costInWords } from "./cost.js";
import { h, icon, number, plural } from "./dom.js";
import { withKey } from "./key_bindings.js";
import { behindAfterEdit, grownPart, tailUnits } from "./notebook_places.js";
import { request, report } from "./page.js";

export const OPEN_KEY = "paddock.notebook.open"; // in this tab
const SAVE_DELAY_MS = 700; // with the way to the disk at most a second after a key was pressed, also while typing goes on
const COUNT_DELAY_MS = 400;

export class NotebookTyping {
  constructor() {
    Object.assign(this, { id: "", rev: null, running: false, dirty: false, saving: null });
    this.base = null; // the server's text as far as it came here
    this.tail = 0; // how much of it stands behind the place where it grows
    this.behind = 0; // the same in the text here, where something may have been typed
    this.sent = null; // a text that is on its way to the server
    this.edits = 0;
    this.looks = 0; // how often the stream told how things are: what an older answer says then counts no more
  }

  // ---- what the server tells

  /** The text as the server has it; what was typed and is not saved yet wins. */
  show(data) {
    this.draw();
    this.looks += 1;
    const isFirst = this.rev === null;
    this.id = data.id;
    sessionStorage.setItem(OPEN_KEY, data.id);
    if (this.dirty && (data.running || this.running)) this.merge(data);
    else if (!this.dirty) this.replace(data.text);
    else if (this.rev === null && data.text) this.text.value = `${data.text}${this.text.value}`; // typed before the text had come
    this.tail = tailUnits(data.text, data.behind);
    if (!this.dirty) this.behind = this.tail;
    if (!this.dirty || this.rev === null) Object.assign(this, { rev: data.rev, base: data.text });
    this.sent = null;
    this.settings.show(data.settings);
    this.list.setName(data.name);
    this.alternatives.show(data.alternatives);
    if (isFirst) this.drafts.comeBack(data.id, (draft) => this.takeDraft(draft, data));
    this.setRunning(data.running);
    this.showButtons(data);
    if (!data.running) this.status.textContent = "";
    if (this.dirty && !data.running) this.saveSoon();
    this.countSoon();
  }

  /** Somebody typed: what another window saved is shown here too, unless something is typed here. */
  async heard(rev) {
    const isNews = (found) => this.rev !== null && found > this.rev && !this.dirty && !this.saving && !this.running;
    if (!isNews(rev)) return; // mostly it was this window
    const { id, looks } = this;
    try {
      const data = await request("GET", `ui/notebook?id=${id}`);
      if (id === this.id && looks === this.looks && isNews(data.rev)) this.show(data);
    } catch { /* the next save tells it again, and a text from here is refused until then */ }
  }

  /** The model's text goes on at its place in what is typed here; when it is another text, that is shown and what was typed can be put back. */
  merge(data) {
    const area = this.text;
    const tail = data.running ? tailUnits(data.text, data.behind) : this.tail;
    const part = [this.sent, this.base].map((base) => (base === null ? null : grownPart(base, data.text, tail))).find((found) => found !== null);
    const known = this.running || !tail || area.value.endsWith(data.text.slice(-tail)); // else somebody has it written on in the middle
    if (!this.running) this.behind = tail;
    if (part !== undefined && known) {
      this.insert(part);
    } else {
      this.drafts.setAside(area.value);
      this.replace(data.text);
      this.clean();
    }
    Object.assign(this, { rev: data.rev, base: data.text });
  }

  /** Text at the place where the model writes; the caret stays. */
  insert(text) {
    const place = this.text.value.length - this.behind;
    this.text.setRangeText(text, place, place, "preserve");
    this.previous = this.text.value;
  }

  /** A text that was offered: in place of this one, or added to it. */
  putBack(text, added) {
    this.replace(added ? this.text.value + text : text);
    this.typed();
  }

  /** What was typed last time and did not reach the server any more; false where it does not fit. */
  takeDraft({ text, base, tail = 0, behind = 0 }, data) {
    if (data.text === text || (data.text !== base && data.text.startsWith(text))) return true;
    const part = typeof base === "string" && !this.dirty ? grownPart(base, data.text, tail) : null;
    if (part === null) return false;
    this.replace(text.slice(0, text.length - behind) + part + text.slice(text.length - behind));
    this.behind = behind;
    this.typed();
    return true;
  }

  draft() {
    return { id: this.id, text: this.text.value, base: this.sent ?? this.base, rev: this.rev, tail: this.tail, behind: this.behind };
  }

  /** What is here is on the server. */
  clean() {
    this.dirty = false;
    this.drafts.drop(this.id);
  }

  /** Another text; the caret stays where it was, as far as that place still exists. */
  replace(text) {
    if (text === this.text.value) return;
    const { selectionStart, selectionEnd, scrollTop, value } = this.text;
    this.text.value = text; // an empty one had no place to keep: the caret goes to the end
    if (value) this.text.setSelectionRange(Math.min(selectionStart, text.length), Math.min(selectionEnd, text.length));
    this.text.scrollTop = scrollTop;
    this.previous = text;
    this.view.changed();
  }

  grow({ try: place, text, completion_tokens: tokens, tokens_per_s: speed }) {
    this.speed = tokens ? `${plural(tokens, "token")}${speed ? ` · ${speed.toFixed(1)} tok/s` : ""}` : "";
    if (this.alternatives.active) { this.alternatives.grow(place, text); this.status.textContent = this.speed; return; }
    this.waiting = (this.waiting ?? "") + text;
    const end = (this.base ?? "").length - this.tail;
    this.base = (this.base ?? "").slice(0, end) + text + (this.base ?? "").slice(end);
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    if (!this.waiting) return;
    const area = this.text;
    const follow = !this.behind && area.scrollHeight - area.scrollTop - area.clientHeight < 60;
    this.insert(this.waiting);
    this.waiting = "";
    if (follow) area.scrollTop = area.scrollHeight;
    this.status.textContent = this.speed;
    this.view.changed();
    this.countTimer ??= setTimeout(() => this.countTokens(), COUNT_DELAY_MS); // also while it grows without a pause
  }

  finish(data) {
    this.draw();
    this.looks += 1;
    this.setRunning(false);
    this.rev = data.rev ?? this.rev;
    this.list.setName(data.name);
    this.alternatives.show(data.alternatives);
    this.showButtons(data);
    this.status.title = data.receipt ? costInWords(data.receipt).join(" · ") : "";
    if (data.error) this.showProblem({ message: data.error });
    else if (data.finish_reason === "length") this.status.textContent = `${this.speed ?? ""} · length limit reached`;
    if (this.dirty) this.saveSoon();
    this.countTokens();
  }

  // ---- typing and saving

  typed() {
    if (this.running && this.behind) this.behind = behindAfterEdit(this.previous, this.text.value, this.behind);
    this.previous = this.text.value;
    this.dirty = true;
    this.edits += 1;
    this.showProblem(null);
    this.showSaved();
    this.drafts.keepSoon(() => this.draft());
    this.saveSoon();
    this.view.changed();
    this.countSoon();
  }

  saveSoon() {
    this.saveTimer ??= setTimeout(() => this.save(), SAVE_DELAY_MS);
  }

  showSaved() {
    const waits = this.dirty && this.running;
    this.saved.textContent = waits ? "Saved when the model ends" : this.dirty ? "Not saved yet" : this.rev === null ? "" : "Saved";
    this.saved.title = waits ? "Until then this browser keeps what you typed" : "";
  }

  /** Save what was typed. While the model writes, the text belongs to the server and is saved when it has ended. */
  async save() {
    clearTimeout(this.saveTimer);
    this.saveTimer = null;
    if (!this.dirty || this.running || this.rev === null) return undefined;
    if (this.saving) { await this.saving.catch(() => {}); return this.save(); }
    const { id } = this;
    const text = this.sent = this.text.value;
    this.saving = request("PUT", "ui/notebook", { id, text, rev: this.rev });
    try {
      const { rev, name } = await this.saving;
      if (id !== this.id) return undefined;
      this.list.setName(name);
      if (this.sent !== null) Object.assign(this, { rev, base: text }); // else a later look at it has come
      if (this.text.value === text) this.clean();
      this.undo.disabled = false;
    } catch (error) {
      if (id !== this.id) report(error);
      else if (error.status === 409 && error.details.rev !== undefined) this.conflict(error);
      else if (error.status !== 409) this.showProblem(error); // else it is being written on: saved when that has ended
    } finally {
      this.saving = null;
      if (id === this.id) this.sent = null;
      this.showSaved();
    }
    return undefined;
  }

  /** Somebody else changed the text: the person chooses which one stays. */
  conflict(error) {
    const { text = "", rev } = error.details;
    if (text === this.text.value) { Object.assign(this, { rev, base: text }); this.clean(); return; } // by this tab, just before it was closed
    const use = (mine) => () => {
      this.rev = rev ?? this.rev;
      if (!mine) { this.drafts.setAside(this.text.value); this.replace(text); this.base = text; this.clean(); }
      this.showProblem(null);
      if (mine) this.save();
    };
    this.showProblem({ message: "The notebook was changed in another window." });
    this.problem.append(
      h("button", { type: "button", class: "small-button", text: "Keep this text", on: { click: use(true) } }),
      h("button", { type: "button", class: "small-button", text: "Show the other", on: { click: use(false) } }));
  }

  setRunning(running) {
    this.running = running;
    this.previous = this.text.value;
    if (!running) this.behind = this.tail = 0;
    this.generate.replaceChildren(icon(running ? "stop" : "send"), h("span", { text: running ? "Stop" : "Generate" }));
    this.generate.title = running ? withKey("Stop", "stop") : withKey("Generate", "notebook-generate");
    this.text.classList.toggle("streaming", running);
    for (const button of [this.undo, this.redo, this.again]) button.classList.toggle("waits", running);
    this.showSaved();
  }

  showButtons({ can_undo: undo = !this.undo.disabled, can_redo: redo = !this.redo.disabled }) {
    this.undo.disabled = !undo;
    this.redo.disabled = !redo;
    this.again.disabled = this.aside ? !this.alternatives.active : !undo;
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
