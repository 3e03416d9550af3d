// The chat view: one conversation, its stream and its composer. Patches are gathered and drawn once per frame.

import { Composer } from "./composer.js";
import { offerUndo } from "./conversation_bin.js";
import { copyText, h, icon } from "./dom.js";
import { MessagePath } from "./message_path.js";
import { MessageScroll } from "./message_scroll.js";
import { OlderMessages } from "./older_messages.js";
import {
  Stream, conversationInAddress, emit, listen, loadedModel, openConversation, report, request, sayLeft, state,
} from "./page.js";
import { PRIVATE_TITLE, isPrivate, newPrivateConversation, privateBanner } from "./private_chat.js";
import { SettingsSaving } from "./settings_saving.js";
import { waitingWords } from "./waiting_words.js";

const LAST = "paddock.last-conversation";
const EXAMPLES = [
  ["Explain something", "Explain how a language model picks the next word, in four sentences."],
  ["Write code", "Write a Python function that finds the longest common prefix of a list of strings."],
  ["About Paddock", "What is Paddock, and what can I do with it?"],
  ["Just talk", "Hello! How are you today?"],
];

class MessageList {
  constructor(element) {
    this.running = []; // ids of the replies being written
    this.pending = new Map();
    this.saving = new SettingsSaving();
    this.frame = 0;
    this.composer = new Composer({ send: (text, images, files) => this.send(text, images, files), stop: () => this.stop(), stored: () => this.saving.done });
    this.list = h("div", { class: "messages", role: "log", "aria-live": "polite", "aria-label": "Conversation" });
    this.empty = h("div", { class: "empty", hidden: true });
    this.scroller = h("div", { class: "scroller", tabindex: "-1" }, h("div", { class: "reading" }, this.empty, this.list));
    this.jump = h("button", { type: "button", class: "jump", "aria-label": "Jump to the latest", title: "Jump to the latest", hidden: true, on: { click: () => this.scroll.toEnd() } }, icon("down"));
    this.lost = h("div", { class: "lost", role: "status", hidden: true, text: "Connection lost. Trying again…" });
    element.replaceChildren(h("div", { class: "chat" }, privateBanner(), this.lost, this.scroller, h("div", { class: "dock" }, this.jump, this.composer.element)));
    this.scroll = new MessageScroll(this.scroller, this.list, this.jump);
    this.shown = new MessagePath(this.list, this.scroll, this.actions());
    this.older = new OlderMessages({ take: (messages) => this.prepend(messages), isWanted: () => Boolean(this.lookedFor) || this.scroll.isNearTop() });
    this.scroller.addEventListener("scroll", () => this.older.scrolled(), { passive: true });
    this.list.addEventListener("click", (event) => this.copyCode(event));
    listen("conversation", (id) => this.open(id));
    listen("conversation-deleting", (id) => { if (id === this.id) this.stream?.pause(); else if (!id) this.stream?.open(); });
    listen("model", () => this.showEmpty());
    listen("escape", () => { if (this.composer.running) this.stop(); });
    listen("area", (area) => { if (area === "chat" && !this.stream) this.open(this.id); else if (area !== "chat") this.detach(); });
    listen("show-message", (id) => this.showMessage(id));
    listen("settings-edited", (settings) => this.saveSettings(settings));
    window.addEventListener("pagehide", () => this.leave());
    this.begin();
  }

  async begin() {
    if (this.wasPrivate) { await newPrivateConversation(); return; } // what was typed for it goes into no other
    const asked = conversationInAddress();
    if (asked) { this.open(asked); return; }
    try {
      const last = await this.lastOne();
      if (last) { openConversation(last, { replace: true }); return; }
      const { id } = await request("POST", "ui/conversations", { begin: true });
      openConversation(id, { replace: true });
    } catch (error) { report(error); }
  }

  /** The conversation that was open here last, if it is still there. */
  async lastOne() {
    const last = localStorage.getItem(LAST);
    if (!last) return "";
    const { there } = await request("GET", `ui/conversations/${last}/there`);
    if (!there) localStorage.removeItem(LAST);
    return there ? last : "";
  }

  /** Show another conversation. The reply of the one before goes on at the server. */
  open(id) {
    if (!id || (id === this.id && this.stream)) return;
    this.detach();
    if (id !== this.id) { this.clear(); this.scroll.stick = true; }
    this.id = id;
    this.wasPrivate = false;
    if (!isPrivate(id)) localStorage.setItem(LAST, id);
    state.conversation = null;
    this.composer.setConversation(id);
    if (state.area !== "chat") return; // followed as soon as somebody looks
    const mine = (handler) => (data) => { if (this.id === id) handler(data); };
    this.stream = new Stream(`ui/conversations/${id}/events`, {
      snapshot: mine((data) => this.show(data)),
      change: mine((data) => this.apply(data)),
      patch: mine((data) => this.gather(data)),
      finished: mine((data) => this.finish(data)),
      queued: mine((data) => this.waiting(data.id, data.doing || (data.place ? waitingWords(data.place, data.expected_s) : "Reading the prompt…"))),
      loading: mine((data) => { for (const running of this.running) this.waiting(running, data.stage, data.done); }),
      title: mine((data) => { this.showTitle(data.title); emit("conversations-changed"); }),
    }, (lost) => this.showLost(lost));
  }

  leave() {
    if (!this.running.length) return;
    this.stream?.pause();
    sayLeft(`ui/conversations/${this.id}/left`);
  }

  detach() {
    this.stream?.close();
    this.stream = null;
    this.older.end();
    this.showLost(false);
  }

  showLost(lost) {
    clearTimeout(this.lostTimer);
    if (!lost) { this.lost.hidden = true; return; }
    this.lostTimer = setTimeout(() => {
      this.lost.hidden = false;
      this.checkStillThere();
    }, 1500);
  }

  /** A conversation that was deleted elsewhere never comes back: say so and begin a new one. */
  async checkStillThere() {
    const { id } = this;
    try { await request("GET", `ui/conversations/${id}`); } catch (error) {
      if (error.status !== 404 || this.id !== id) return;
      localStorage.removeItem(LAST);
      this.detach();
      report(error);
      history.replaceState({}, "", location.pathname);
      this.id = null;
      this.wasPrivate = isPrivate(id);
      this.composer.release();
      this.begin();
    }
  }

  clear() {
    this.shown.clear();
    this.pending.clear();
    this.lookedFor = null;
    this.running = [];
    this.empty.hidden = true;
  }

  /** The last messages as the server has them; elements of known messages stay, older ones are read again behind them. */
  show(conversation) {
    const { messages, together, ...rest } = conversation;
    this.pending.clear();
    state.conversation = rest;
    this.showTitle(rest.title);
    this.put({ kept: this.shown.keptBefore(messages[0]), added: messages, together, running: rest.running });
    this.older.begin(rest.id, messages[0]);
    emit("settings", { scope: "chat", key: rest.id, settings: rest.settings });
  }

  /** What changed since. */
  apply({ after, added, changed, together, running, title, rev, settings }) {
    Object.assign(state.conversation, { title, rev }, settings ? { settings } : {});
    this.showTitle(title);
    for (const message of [...added, ...changed, ...together]) this.pending.delete(message.id); // they are newer than what waits
    this.shown.change(changed);
    if (settings) this.shown.showHeads();
    this.put({ kept: this.shown.keptAfter(after), added, together, running });
    if (settings) emit("settings", { scope: "chat", key: state.conversation.id, settings });
  }

  /** The first `kept` messages stay, others follow. */
  put({ running, ...end }) {
    this.running = running;
    this.shown.put(end);
    this.showState();
    if (this.scroll.stick) this.scroll.toEnd();
    this.findLookedFor();
  }

  /** Older messages were read. */
  prepend(messages) {
    this.shown.prepend(messages);
    this.findLookedFor();
  }

  /** Lead to a message: now, or as soon as it is read or shown. */
  showMessage(id) {
    this.lookedFor = id;
    this.findLookedFor();
    if (this.lookedFor) this.older.scrolled();
  }

  findLookedFor() {
    const element = this.lookedFor && this.shown.elementOf(this.lookedFor);
    if (!element) return;
    this.lookedFor = null;
    this.scroll.show(element);
  }

  showTitle(title) {
    const shown = isPrivate(this.id) ? PRIVATE_TITLE : title; // browsers keep a history
    document.title = shown ? `${shown} · Paddock` : "Paddock";
  }

  showState() {
    this.composer.setRunning(this.running.length > 0);
    this.list.setAttribute("aria-busy", String(this.running.length > 0));
    const receipt = this.shown.lastReceipt();
    const used = receipt ? (receipt.prompt_tokens ?? 0) + (receipt.completion_tokens ?? 0) : 0;
    if (!this.running.length) this.composer.setUsed(used); // it has the whole conversation counted: not beside a reply, whose end comes here too
    this.showEmpty();
  }

  showEmpty() {
    const show = Boolean(state.conversation) && !this.shown.views.size;
    if (show && this.empty.hidden) this.fillEmpty();
    this.empty.hidden = !show;
    if (!show) return;
    const starter = loadedModel().startsWith("starter") ? state.models.models.find((model) => model.name === loadedModel()) : null;
    const scale = starter?.parameters ? `${Math.round(starter.parameters / 1e6)} M-parameter ` : "";
    this.starterNote.hidden = !starter;
    this.starterNote.textContent = `This is a tiny ${scale}demo that shipped with Paddock; it knows small talk and Paddock itself. Load a real model on the Models page.`;
  }

  fillEmpty() {
    const hour = new Date().getHours();
    const greeting = hour < 5 ? "Good evening" : hour < 12 ? "Good morning" : hour < 18 ? "Good afternoon" : "Good evening";
    const cards = EXAMPLES.map(([title, text]) => h("button", {
      type: "button", class: "example", on: { click: () => { this.composer.setText(text); this.composer.text.focus(); } },
    }, h("strong", { text: title }), h("span", { text })));
    this.starterNote = h("p", { class: "starter-note", hidden: true });
    this.empty.replaceChildren(h("h1", { text: greeting }), h("p", { class: "lead", text: "What shall we work on?" }), h("div", { class: "examples" }, ...cards), this.starterNote);
  }

  // ---- the stream

  /** Keep one pending patch for a message: a later one replaces the part it covers. */
  gather(patch) {
    const before = this.pending.get(patch.id);
    if (before) {
      const thinking = joined(before.thinking, patch.thinking, "html");
      patch = { ...joined(before, patch, "blocks"), thinking };
    }
    this.pending.set(patch.id, patch);
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    for (const [id, patch] of this.pending) this.shown.views.get(id)?.patch(patch);
    this.pending.clear();
  }

  finish(message) {
    this.pending.delete(message.id);
    this.shown.views.get(message.id)?.update(message);
    this.running = this.running.filter((id) => id !== message.id); // others may have begun
    this.showState();
    emit("conversations-changed");
  }

  waiting(id, sentence, done = null) {
    this.shown.views.get(id)?.showWaiting(sentence, done);
  }

  // ---- what the person does

  async send(text, images, files = []) {
    this.composer.showProblem(null);
    this.scroll.stick = true;
    if (!this.id) await this.begin(); // the server did not answer when the page came
    const { id } = this;
    if (!id) return false;
    try {
      await this.saving.done;
      await request("POST", `ui/conversations/${id}/send`, { text, images, files, versions: this.composer.versions });
      emit("conversations-changed");
      return true;
    } catch (error) {
      this.showProblem(id, error);
      return false;
    }
  }

  /** Above the box, or as a notice when another conversation is open by now. */
  showProblem(id, error) {
    if (this.id === id) this.composer.showProblem(error);
    else report(error);
  }

  stop() {
    request("POST", `ui/conversations/${this.id}/stop`, {}).catch(report);
  }

  async change(verb, body) {
    const { id } = this;
    this.composer.showProblem(null);
    try {
      await this.saving.done;
      return await request("POST", `ui/conversations/${id}/${verb}`, body);
    } catch (error) {
      this.showProblem(id, error);
      return null;
    }
  }

  /** What a message's buttons may do. */
  actions() {
    this.sharedActions ??= {
      regenerate: (id) => { this.scroll.stick = true; return this.change("regenerate", { message_id: id, versions: this.composer.versions }); },
      continueReply: (id) => { this.scroll.stick = true; return this.change("continue", { message_id: id }); },
      select: (id) => this.change("select", { message_id: id }),
      edit: (id, text, resend) => this.change("edit", { message_id: id, text, resend }),
      rate: (id, rating) => this.change("rate", { message_id: id, rating }),
      remove: async (id) => {
        const done = await this.change("delete", { message_id: id });
        if (done) offerUndo("The message and what followed it were deleted.", done.bin_id);
      },
      forget: (id) => this.shown.forget(id),
      act: (verb, body) => this.change(verb, body), // for the parts of message_parts.js
      branch: async (id) => {
        const made = await this.change("branch", { message_id: id });
        if (made) { openConversation(made.id); emit("conversations-changed"); }
      },
    };
    return this.sharedActions;
  }

  /** The settings drawer changed; a send that follows waits for this. */
  saveSettings({ scope, key, settings, edits = { settings }, leaving }) {
    if (scope === "chat") this.saving.save(key, edits, { leaving });
  }

  async copyCode(event) {
    const button = event.target.closest?.(".code-copy");
    if (!button) return;
    try {
      await copyText(button.closest(".code").querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1400);
    } catch (error) { report(error); }
  }
}

/** Two patches as one; `name` is where their blocks are. */
function joined(before, patch, name) {
  if (!before || !patch) return patch ?? before;
  if (patch.from < before.from) return patch;
  return { ...patch, from: before.from, [name]: before[name].slice(0, patch.from - before.from).concat(patch[name]) };
}

export function mount(element) {
  return new MessageList(element);
}
