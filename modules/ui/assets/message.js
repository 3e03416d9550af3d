// One message of the list: its blocks, thinking, versions, actions and receipt. Knows what to ask for, not how answers arrive.

import { askInPlace, autoGrow, copyText, flash, h, icon, iconButton, plural, replaceBlocks } from "./dom.js";
import { closeEdit, dropEdit, editDraft, keepEdit, wasEditing } from "./edit_drafts.js";
import { isKey, keyFor, keyInWords, writeNewLine } from "./key_bindings.js";
import { Heads, tools as moreTools } from "./message_parts.js";
import { report, request, toast } from "./page.js";
import { receiptOf } from "./receipt.js";

export class MessageView {
  /** `actions` does the requests that change the conversation: see message_list.js. One that is not near gets its foot when it comes near. */
  constructor(message, actions, isNear = true) {
    this.id = message.id;
    this.actions = actions;
    this.isNear = isNear;
    this.thinking = null;
    this.together = false; // whether it is one of several side by side
    this.body = h("div", { class: "body markdown" });
    this.heads = new Heads(actions);
    this.pictures = h("div", { class: "pictures" });
    this.note = h("div", { class: "note", role: "status" });
    this.foot = h("div", { class: "foot" });
    this.element = h("article", { class: `message ${message.role}`, tabindex: "-1", data: { id: message.id } }, this.heads.element, this.pictures, this.body, this.note, this.foot);
    this.element.setAttribute("aria-label", message.role === "user" ? "You" : "Reply");
    this.update(message);
    if (wasEditing(this.id)) this.edit({ again: true }); // the page was loaded again meanwhile
  }

  /** It is about to be seen. */
  come() {
    if (this.isNear) return;
    this.isNear = true;
    this.showFoot();
  }

  /** Show a message as the server has it now. */
  update(message) {
    this.message = message;
    this.element.dataset.status = message.status;
    this.element.classList.toggle("streaming", message.status === "streaming");
    this.heads.show(message);
    this.showThinking(message.thinking);
    this.showPictures(message.images);
    this.setBlocks(message.blocks);
    this.showNote();
    this.showFoot();
  }

  showPictures(images) {
    if (this.pictures.children.length === images.length) return; // those of a message never change
    this.pictures.replaceChildren(...images.map((address, place) => h("a", { href: address, target: "_blank", rel: "noopener" },
      h("img", { src: address, alt: `Attached image ${place + 1}`, loading: "lazy" }))));
  }

  setBlocks(blocks) {
    if (blocks === this.shown || (this.shown && blocks.length === this.shown.length && blocks.every((block, i) => block === this.shown[i]))) return;
    let first = 0;
    while (this.shown && first < blocks.length && first < this.shown.length && blocks[first] === this.shown[first]) first += 1;
    replaceBlocks(this.body, first, blocks.slice(first));
    this.shown = blocks.slice();
  }

  /** New text from the stream: only the blocks from `from` on are touched. */
  patch({ from, blocks, thinking, completion_tokens: tokens, tokens_per_s: speed }) {
    this.shown = (this.shown ?? []).slice(0, from).concat(blocks);
    replaceBlocks(this.body, from, blocks);
    if (thinking) this.showThinking({ ...thinking, html: (this.thinking?.html ?? []).slice(0, thinking.from ?? 0).concat(thinking.html) });
    this.element.classList.add("streaming");
    this.note.replaceChildren();
    if (tokens) this.showSpeed(tokens, speed);
  }

  showSpeed(tokens, speed) {
    this.live ??= h("span", { class: "receipt live" });
    if (!this.live.isConnected) this.foot.replaceChildren(this.live);
    this.live.textContent = `${plural(tokens, "token")}${speed ? ` · ${speed.toFixed(1)} tok/s` : ""}`;
  }

  /** What happens before the first word: "You are next", "Loading the model…". */
  showWaiting(sentence, done = null) {
    const bar = done === null ? null : h("progress", { max: "1", value: String(done) });
    this.note.replaceChildren(h("span", { class: "waiting" }, h("i"), h("i"), h("i")), h("span", { text: sentence }), bar ?? "");
  }

  showThinking(thinking) {
    const has = thinking && (thinking.html.length || thinking.open);
    if (!has) { this.thinking?.element.remove(); this.thinking = null; return; }
    if (!this.thinking) {
      const summary = h("span");
      const content = h("div", { class: "markdown" });
      const element = h("details", { class: "thinking" }, h("summary", {}, icon("chevron"), summary), content);
      this.heads.element.after(element);
      this.thinking = { element, summary, content, html: [] };
    }
    const { element, summary, content, html } = this.thinking;
    element.classList.toggle("open-ended", thinking.open);
    summary.textContent = thinking.open ? "Thinking…" : `Thought for ${duration(thinking.seconds)}`;
    let first = 0;
    while (first < html.length && first < thinking.html.length && html[first] === thinking.html[first]) first += 1;
    if (first < html.length || first < thinking.html.length) replaceBlocks(content, first, thinking.html.slice(first));
    this.thinking.html = thinking.html;
  }

  showNote() {
    const { status, error, blocks, thinking } = this.message;
    this.note.replaceChildren();
    this.note.classList.toggle("error", Boolean(error) || status === "failed");
    if (status === "failed") {
      const again = h("button", { type: "button", class: "small-button", text: "Try again", on: { click: () => this.actions.regenerate(this.id) } });
      this.note.append(h("span", { text: error || "The reply failed. Try again." }), again);
    } else if (status === "streaming" && !blocks.length && !thinking) {
      this.showWaiting("");
    } else if (error && status !== "streaming") { // it was interrupted, or could not be continued
      this.note.append(h("span", { text: error }));
    } else if (status === "stopped" && !blocks.length) {
      this.note.append(h("span", { text: "Stopped before the first word." }));
    }
  }

  showFoot() {
    if (!this.isNear) return;
    const { role, status, version } = this.message;
    if (status === "streaming") { this.foot.replaceChildren(); this.live = null; return; }
    const held = this.foot.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    const tools = h("div", { class: "tools", role: "toolbar", "aria-label": "Message actions" });
    const { together } = this; // one of several side by side: what changes the tree waits until one is picked
    if (version.count > 1 && !together) tools.append(this.versionSwitch(version));
    tools.append(iconButton("copy", "Copy", (event) => this.copy(event.currentTarget)));
    if (!together) tools.append(iconButton("edit", "Edit", () => this.edit()));
    if (role === "assistant") {
      tools.append(this.thumb("good", "Good reply", 1), this.thumb("bad", "Bad reply", -1));
    }
    if (role === "assistant" && !together) {
      tools.append(iconButton("retry", "Regenerate: another version", () => this.actions.regenerate(this.id)));
      tools.append(iconButton("forward", "Continue this reply", () => this.actions.continueReply(this.id), { class: "icon-button only-last" }));
    }
    if (!together) {
      tools.append(...moreTools(this.message, this.actions));
      tools.append(iconButton("branch", "Branch: a new conversation up to here", () => this.actions.branch(this.id)));
      tools.append(iconButton("trash", "Delete this and what follows", () => this.remove(tools)));
    }
    const open = Boolean(this.foot.querySelector(".receipt[open]"));
    this.foot.replaceChildren(tools, ...receiptOf(this.message, open), this.when());
    if (held) [...tools.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === held)?.focus({ preventScroll: true });
  }

  /** A thumb: pressing it again takes the rating back. */
  thumb(name, label, value) {
    const pressed = this.message.rating === value;
    return iconButton(name, label, () => this.actions.rate(this.id, pressed ? 0 : value), { "aria-pressed": String(pressed), class: "icon-button thumb" });
  }

  versionSwitch({ index, count, ids }) {
    const go = (step) => () => this.actions.select(ids[index - 1 + step]);
    const back = iconButton("left", "Earlier version", go(-1), { disabled: index <= 1 });
    const next = iconButton("right", "Later version", go(1), { disabled: index >= count });
    return h("span", { class: "versions", "aria-label": `Version ${index} of ${count}` }, back, h("span", { text: `${index}/${count}` }), next);
  }

  /** When it was written: shown with the tools. */
  when() {
    const date = new Date(this.message.created_s * 1000);
    const today = date.toDateString() === new Date().toDateString();
    const text = date.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
    return h("time", { class: "when", datetime: date.toISOString(), title: date.toLocaleString(), data: { shown: text } }); // drawn by the style: no part of the text
  }

  async copy(button) {
    try {
      const { text } = await request("GET", `ui/messages/${this.id}/text`);
      await copyText(text);
      flash(button, "check", "copy");
    } catch (error) { report(error); }
  }

  async remove(tools) {
    if (await askInPlace(tools, "Delete this message and what follows?", "Delete")) this.actions.remove(this.id);
  }

  /** Open the box to edit in, with what was typed there before and not saved. */
  async edit({ again = false } = {}) {
    const open = this.element.querySelector(".edit-text");
    if (open) { open.focus(); return; } // a key reaches the button below an open edit too
    let text;
    try { ({ text } = await request("GET", `ui/messages/${this.id}/text`)); } catch (error) { report(error); return; }
    if (this.element.querySelector(".edit-text")) return; // asked for twice
    const user = this.message.role === "user";
    const area = h("textarea", { class: "edit-text", "aria-label": "Edit message", rows: "2" });
    const kept = editDraft(this.id);
    area.value = kept ?? text;
    keepEdit(this.id, kept);
    const close = () => {
      form.remove();
      this.element.classList.remove("editing");
      if (this.isAside) this.actions.forget(this.id); // no longer on the path that is shown
    };
    const save = async (resend) => {
      if (area.readOnly) return; // it is on its way
      area.readOnly = true;
      if (await this.actions.edit(this.id, area.value, resend)) { dropEdit(this.id); close(); }
      area.readOnly = false;
    };
    const putAway = () => {
      const again = this.isAside ? null : { text: "Go on", run: () => this.edit() };
      if (area.value === text) dropEdit(this.id); else closeEdit(this.id);
      if (area.value !== text) toast("Your edit is kept; Edit goes on with it.", "info", again);
      close();
    };
    const main = h("button", { type: "button", class: "small-button primary", text: user ? "Save and send" : "Save", on: { click: () => save(user) } });
    const only = user ? h("button", { type: "button", class: "small-button", text: "Save only", on: { click: () => save(false) } }) : null;
    const cancel = h("button", { type: "button", class: "small-button", text: "Cancel", title: "What you typed is kept", on: { click: putAway } });
    const original = h("button", { type: "button", class: "small-button", text: "Original text", title: "Forget what you typed here", hidden: kept === null || kept === text, on: { click: () => {
      area.value = text;
      original.hidden = true;
      keepEdit(this.id, null);
      autoGrow(area, 0.6);
      area.focus();
    } } });
    const keys = [["send", user ? "sends" : "saves"], ["newline", "new line"], ["leave", "closes"]].filter(([id]) => keyFor(id));
    const hint = h("span", { class: "hint", text: keys.map(([id, does]) => `${keyInWords(keyFor(id))} ${does}`).join(" · ") });
    const form = h("div", { class: "edit-form" }, area, h("div", { class: "edit-buttons" }, hint, original, cancel, only, main));
    area.addEventListener("input", () => { autoGrow(area, 0.6); keepEdit(this.id, area.value); });
    area.addEventListener("keydown", (event) => {
      if (isKey(event, "leave")) { event.preventDefault(); putAway(); }
      if (isKey(event, "newline")) writeNewLine(event);
      if (isKey(event, "send")) { event.preventDefault(); save(user); }
    });
    this.element.classList.add("editing");
    this.body.after(form);
    autoGrow(area, 0.6);
    if (!again) area.focus();
  }
}

function duration(seconds) {
  if (!seconds || seconds < 1) return "a moment";
  return seconds < 60 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
