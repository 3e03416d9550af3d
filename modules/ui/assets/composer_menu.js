// The menu left of the box: turns that are not simply sent. Each action says what it does with what is typed.

import { answerOf } from "./cards.js";
import { offerUndo } from "./conversation_bin.js";
import { h, icon } from "./dom.js";
import { keyFor, keyMarks } from "./key_bindings.js";
import { address, emit, request } from "./page.js";
import { ReplyBeginning } from "./reply_beginning.js";

const ACTIONS = Object.freeze([
  ["Start the reply with…", "You write its first words", (menu) => menu.beginning.ask(), "begin-with"],
  ["Write my turn", "The model goes on from what you typed", (menu) => menu.impersonate(), "impersonate"],
  ["Send without a reply", "Adds your message only", (menu) => menu.insert("user"), "send-only"],
  ["Insert as a reply", "Adds what you typed as a reply", (menu) => menu.insert("assistant"), "insert-reply"],
  ["Tell as narrator", "Adds what happens, spoken by nobody", (menu) => menu.insert("narrator"), "narrate"],
  ["Take back my last message", "Puts it back into the box", (menu) => menu.takeBack(), "take-back"],
]);

class ComposerMenu {
  constructor(composer) {
    this.composer = composer;
    this.beginning = new ReplyBeginning(this);
    this.marks = [];
    const items = ACTIONS.map(([text, hint, act, action]) => {
      const mark = h("span", { class: "menu-keys" });
      if (action) this.marks.push([mark, action]);
      return h("button", { type: "button", class: "menu-item", on: { click: () => { this.close(); if (this.ready) act(this); } } },
        h("span", { text }), mark, h("span", { class: "menu-hint", text: hint }));
    });
    this.summary = h("summary", { class: "icon-button", "aria-label": "More ways to write", title: "More ways to write" }, icon("menu"));
    this.element = h("details", { class: "composer-menu" }, this.summary, h("div", { class: "composer-menu-items", role: "group", "aria-label": "More ways to write" }, ...items));
    this.element.addEventListener("toggle", () => this.toggled(items));
    this.element.addEventListener("keydown", (event) => this.onKey(event, items));
    this.element.addEventListener("focusout", (event) => { if (event.relatedTarget && !this.element.contains(event.relatedTarget)) this.close(); });
    this.outside = (event) => { if (!this.element.contains(event.target)) this.close(); };
  }

  /** Whether anything can be done: keys press the actions too, without opening the menu. */
  get ready() {
    return Boolean(this.composer.conversation) && !this.composer.running && !this.writing && !this.posting;
  }

  toggled(items) {
    for (const item of items) item.disabled = !this.ready;
    for (const [mark, action] of this.marks) mark.replaceChildren(...(keyFor(action) ? keyMarks(keyFor(action)) : [])); // they may have changed
    document[this.element.open ? "addEventListener" : "removeEventListener"]("pointerdown", this.outside);
    if (this.element.open) items.find((item) => !item.disabled)?.focus();
  }

  onKey(event, items) {
    if (!this.element.open) return;
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      this.close();
      this.summary.focus();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const enabled = items.filter((item) => !item.disabled);
      const next = enabled.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
      enabled.at(next % enabled.length)?.focus();
    }
  }

  close() {
    this.element.open = false;
  }

  /** Post, clear the box if the text was used, show what went wrong. Gives the answer, or null. */
  async post(verb, body, used = "") {
    const { composer } = this;
    const id = composer.conversation;
    if (this.posting) return null; // a key was pressed twice
    this.posting = true;
    composer.showProblem(null);
    try {
      await composer.stored();
      const answer = await request("POST", `ui/conversations/${id}/${verb}`, body);
      if (used && composer.conversation === id && composer.text.value === used) composer.setText("");
      emit("conversations-changed");
      return answer;
    } catch (error) {
      if (composer.conversation === id) composer.showProblem(error);
      return null;
    } finally {
      this.posting = false;
    }
  }

  /** Post what is typed with what is attached; true when the server has it. */
  async postTurn(verb, more) {
    const { composer } = this;
    const id = composer.conversation;
    const images = [...composer.attachments.images];
    const { files, busy } = composer.attachments.documents;
    if (busy) { composer.showProblem({ message: "The attached files are still being read; send when they are there." }); return false; }
    const text = composer.text.value;
    const taken = await this.post(verb, { text, images, files: files.map((file) => file.id), ...more }, text);
    if (taken && (images.length || files.length)) composer.attachments.sent(images, files, id);
    return Boolean(taken);
  }

  insert(role) {
    return this.postTurn("insert", { role }).finally(() => this.composer.text.focus());
  }

  async takeBack() {
    const { composer } = this;
    const { conversation, attachments } = composer;
    const answer = await this.post("take-back", {});
    composer.text.focus();
    if (!answer) return;
    const { text, images, files, bin_id: binned } = answer;
    const before = composer.textOf(conversation);
    const after = [text, before].filter(Boolean).join("\n\n");
    composer.setTextOf(conversation, after);
    attachments.giveBack(images, files, conversation);
    offerUndo("Your message is in the box again; it and what followed were deleted.", binned, { restored: () => {
      if (composer.textOf(conversation) === after) composer.setTextOf(conversation, before); // else it was gone on with
      attachments.takeAway(images, files, conversation);
    } });
  }

  /** A row above the box; only one at a time. */
  show(...parts) {
    this.row?.remove();
    this.row = h("div", { class: "composer-ask" }, ...parts);
    this.composer.element.querySelector(".composer-box").before(this.row);
    return this.row;
  }

  /** The text grows in the box; what is typed meanwhile ends it. */
  async impersonate() {
    const { composer } = this;
    const id = composer.conversation;
    const stop = new AbortController();
    composer.showProblem(null);
    this.writing = stop;
    const row = this.show(h("span", { role: "status", text: "Your turn is being written…" }), h("span", { class: "grow" }),
      h("button", { type: "button", class: "small-button", text: "Stop writing", on: { click: () => stop.abort() } }));
    try {
      await this.grow(id, stop);
    } catch (error) {
      const broke = error instanceof TypeError; // the connection ended in the middle
      if (error.name !== "AbortError" && composer.conversation === id) composer.showProblem(broke ? new Error("Writing broke off; what has come is in the box.") : error);
    } finally {
      this.writing = null;
      row.remove();
      composer.text.focus();
    }
  }

  async grow(id, stop) {
    const { composer } = this;
    await composer.stored();
    let shown = composer.text.value;
    const response = await fetch(address(`ui/conversations/${id}/impersonate`), {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ text: shown }), signal: stop.signal,
    });
    if (!response.ok) await answerOf(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      if (composer.conversation !== id || composer.text.value !== shown) { stop.abort(); return; }
      shown += shown ? value : value.trimStart();
      composer.setText(shown);
      shown = composer.text.value;
    }
  }
}

/** A row of PARTS in composer_parts.js. */
export function composerMenu(composer) {
  return new ComposerMenu(composer).element;
}
