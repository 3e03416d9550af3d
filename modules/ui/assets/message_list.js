// The chat view: one conversation, its stream and its composer. Patches are gathered and drawn once per frame.

import { Composer } from "./composer.js";
import { copyText, h, icon } from "./dom.js";
import { MessageView } from "./message.js";
import {
  Stream, conversationInAddress, emit, listen, loadedModel, openConversation, report, request, sayLeft, state,
} from "./page.js";

const EXAMPLES = [
  ["Explain something", "Explain how a language model picks the next word, in four sentences."],
  ["Write code", "Write a Python function that finds the longest common prefix of a list of strings."],
  ["About Paddock", "What is Paddock, and what can I do with it?"],
  ["Just talk", "Hello! How are you today?"],
];

class MessageList {
  constructor(element) {
    this.views = new Map();
    this.pending = new Map();
    this.frame = 0;
    this.stick = true;
    this.composer = new Composer({ send: (text, images) => this.send(text, images), stop: () => this.stop() });
    this.list = h("div", { class: "messages", role: "log", "aria-live": "polite", "aria-label": "Conversation" });
    this.empty = h("div", { class: "empty", hidden: true });
    this.scroller = h("div", { class: "scroller", tabindex: "-1" }, h("div", { class: "reading" }, this.empty, this.list));
    this.jump = h("button", { type: "button", class: "jump", "aria-label": "Jump to the latest", title: "Jump to the latest", hidden: true, on: { click: () => this.toEnd() } }, icon("down"));
    this.lost = h("div", { class: "lost", role: "status", hidden: true, text: "Connection lost. Trying again…" });
    element.replaceChildren(h("div", { class: "chat" }, this.lost, this.scroller, h("div", { class: "dock" }, this.jump, this.composer.element)));
    this.followScroll();
    this.list.addEventListener("click", (event) => this.copyCode(event));
    listen("conversation", (id) => this.open(id));
    listen("model", () => this.showEmpty());
    listen("escape", () => { if (this.composer.running) this.stop(); });
    listen("area", (area) => { if (area === "chat" && !this.stream) this.open(this.id); else if (area !== "chat") this.detach(); });
    listen("settings-edited", (settings) => this.saveSettings(settings));
    window.addEventListener("pagehide", () => this.leave());
    this.begin();
  }

  async begin() {
    const asked = conversationInAddress();
    if (asked) { this.open(asked); return; }
    try {
      const { id } = await request("POST", "ui/conversations", {});
      openConversation(id, { replace: true });
    } catch (error) { report(error); }
  }

  /** Show another conversation. The reply of the one before goes on at the server. */
  open(id) {
    if (!id || (id === this.id && this.stream)) return;
    this.detach();
    if (id !== this.id) { this.clear(); this.stick = true; }
    this.id = id;
    state.conversation = null;
    this.composer.setConversation(id);
    if (state.area !== "chat") return; // followed as soon as somebody looks
    const mine = (handler) => (data) => { if (this.id === id) handler(data); };
    this.stream = new Stream(`ui/conversations/${id}/events`, {
      snapshot: mine((data) => this.show(data)),
      patch: mine((data) => this.gather(data)),
      finished: mine((data) => this.finish(data)),
      queued: mine((data) => this.waiting(data.id, data.place ? `Waiting for a free slot, place ${data.place}` : "Reading the prompt…")),
      loading: mine((data) => this.waiting(this.running, data.stage, data.done)),
      title: mine((data) => { this.title = data.title; document.title = `${data.title} · Paddock`; emit("conversations-changed"); }),
    }, (lost) => this.showLost(lost));
  }

  leave() {
    if (!this.running) return;
    this.stream?.pause();
    sayLeft(`ui/conversations/${this.id}/left`);
  }

  detach() {
    this.stream?.close();
    this.stream = null;
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
      this.detach();
      report(error);
      history.replaceState({}, "", location.pathname);
      this.id = null;
      this.composer.release();
      this.begin();
    }
  }

  clear() {
    this.views.clear();
    this.pending.clear();
    this.list.replaceChildren();
    this.empty.hidden = true;
  }

  /** The whole conversation as the server has it; elements of known messages stay. */
  show(conversation) {
    this.pending.clear();
    this.rev = conversation.rev;
    this.title = conversation.title;
    this.running = conversation.running;
    state.conversation = conversation;
    document.title = conversation.title ? `${conversation.title} · Paddock` : "Paddock";
    const wanted = new Set(conversation.messages.map((message) => message.id));
    for (const [id, view] of this.views) {
      view.isAside = !wanted.has(id); // one that is being edited stays until that ends
      if (view.isAside && !view.element.matches(".editing")) this.forget(id);
    }
    let place = this.list.firstElementChild;
    for (const message of conversation.messages) {
      let view = this.views.get(message.id);
      if (view) view.update(message);
      else { view = new MessageView(message, this.actions()); this.views.set(message.id, view); }
      if (view.element === place) place = place.nextElementSibling;
      else this.list.insertBefore(view.element, place);
    }
    this.showState(conversation.messages.findLast((message) => message.receipt));
    emit("settings", { scope: "chat", key: conversation.id, settings: conversation.settings });
    if (this.stick) this.toEnd();
  }

  forget(id) {
    this.views.get(id)?.element.remove();
    this.views.delete(id);
  }

  showState(last) {
    this.composer.setRunning(Boolean(this.running));
    this.list.setAttribute("aria-busy", String(Boolean(this.running)));
    const receipt = last?.receipt;
    this.composer.setUsed(receipt ? (receipt.prompt_tokens ?? 0) + (receipt.completion_tokens ?? 0) : 0);
    this.showEmpty();
  }

  showEmpty() {
    const show = Boolean(state.conversation) && !this.views.size;
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
    if (before && patch.from >= before.from) {
      before.blocks.length = Math.min(before.blocks.length, patch.from - before.from);
      patch = { ...patch, from: before.from, blocks: before.blocks.concat(patch.blocks), thinking: patch.thinking ?? before.thinking };
    } else if (before && !patch.thinking) patch = { ...patch, thinking: before.thinking };
    this.pending.set(patch.id, patch);
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    for (const [id, patch] of this.pending) this.views.get(id)?.patch(patch);
    this.pending.clear();
  }

  finish(message) {
    this.pending.delete(message.id);
    this.views.get(message.id)?.update(message);
    if (this.running === message.id) this.running = null; // another one may have begun
    this.showState(message);
    emit("conversations-changed");
  }

  waiting(id, sentence, done = null) {
    this.views.get(id)?.showWaiting(sentence, done);
  }

  // ---- what the person does

  async send(text, images) {
    this.composer.showProblem(null);
    this.stick = true;
    if (!this.id) await this.begin(); // the server did not answer when the page came
    const { id } = this;
    if (!id) return false;
    try {
      await this.settingsSaved;
      await request("POST", `ui/conversations/${id}/send`, { text, images });
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
      await this.settingsSaved;
      return await request("POST", `ui/conversations/${id}/${verb}`, body);
    } catch (error) {
      this.showProblem(id, error);
      return null;
    }
  }

  /** What a message's buttons may do. */
  actions() {
    this.sharedActions ??= {
      regenerate: (id) => { this.stick = true; return this.change("regenerate", { message_id: id }); },
      continueReply: (id) => { this.stick = true; return this.change("continue", { message_id: id }); },
      select: (id) => this.change("select", { message_id: id }),
      edit: (id, text, resend) => this.change("edit", { message_id: id, text, resend }),
      remove: (id) => this.change("delete", { message_id: id }),
      forget: (id) => this.forget(id),
      branch: async (id) => {
        const made = await this.change("branch", { message_id: id });
        if (made) { openConversation(made.id); emit("conversations-changed"); }
      },
    };
    return this.sharedActions;
  }

  /** The settings drawer changed; a send that follows waits for this. */
  saveSettings({ scope, key, settings }) {
    if (scope !== "chat") return;
    this.settingsSaved = Promise.resolve(this.settingsSaved).then(() => request("PATCH", `ui/conversations/${key}`, { settings }).catch(report));
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

  // ---- scrolling: follow the end unless the person looks elsewhere

  followScroll() {
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.scroller.addEventListener("wheel", (event) => { if (event.deltaY < 0) this.release(); }, { passive: true });
    this.scroller.addEventListener("touchmove", () => { if (this.distance() > 60) this.release(); }, { passive: true });
    new ResizeObserver(() => { if (this.stick) this.scroller.scrollTop = this.scroller.scrollHeight; }).observe(this.list);
  }

  distance() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight;
  }

  scrolled() {
    const top = this.scroller.scrollTop;
    if (this.distance() < 40) this.stick = true;
    else if (top < (this.lastTop ?? 0) - 4) this.stick = false;
    this.lastTop = top;
    this.jump.hidden = this.stick || this.distance() < 40;
  }

  release() {
    if (this.scroller.scrollHeight <= this.scroller.clientHeight) return;
    this.stick = false;
    this.jump.hidden = this.distance() < 40;
  }

  toEnd() {
    this.stick = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.jump.hidden = true;
  }
}

export function mount(element) {
  return new MessageList(element);
}
