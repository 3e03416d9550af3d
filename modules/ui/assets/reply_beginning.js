// "Start the reply with…": a row above the box for the first words of a reply. They stay with their conversation until they are sent, and a
// reload opens the row again in the tab where it was open.

import { h } from "./dom.js";
import { BEGINNING, draftOf, keepDraft } from "./drafts.js";
import { isKey, writeNewLine } from "./key_bindings.js";
import { listen } from "./page.js";
import { isPrivate } from "./private_chat.js";

const openKey = (id) => `paddock.beginning.${id}`;

export class ReplyBeginning {
  /** `menu` shows rows and sends turns: see composer_menu.js. */
  constructor(menu) {
    Object.assign(this, { menu, row: null, shown: null });
    listen("settings", ({ scope, key }) => { if (scope === "chat") this.follow(key); });
  }

  /** Another conversation is shown. */
  follow(id) {
    if (id === this.shown) return;
    this.shown = id;
    this.close();
    if (sessionStorage.getItem(openKey(id)) !== null) this.open(id);
  }

  ask() {
    this.open(this.menu.composer.conversation).focus();
  }

  open(id) {
    const input = h("textarea", { rows: "1", "aria-label": "The reply begins with", placeholder: "The reply begins with…" });
    input.value = draftOf(id, BEGINNING) ?? "";
    const end = () => {
      sessionStorage.removeItem(openKey(id));
      this.close();
      this.menu.composer.text.focus();
    };
    const send = async () => {
      if (!input.value.trim()) { input.focus(); return; }
      const text = input.value;
      if (id !== this.menu.composer.conversation || !await this.menu.postTurn("begin", { begin_with: text })) return;
      if (draftOf(id, BEGINNING) === text) keepDraft(id, "", BEGINNING);
      if (input.isConnected) end(); else sessionStorage.removeItem(openKey(id));
    };
    input.addEventListener("input", () => keepDraft(id, input.value, BEGINNING));
    input.addEventListener("keydown", (event) => {
      if (isKey(event, "send")) { event.preventDefault(); send(); }
      if (isKey(event, "newline")) writeNewLine(event);
      if (isKey(event, "leave")) { event.preventDefault(); event.stopPropagation(); end(); }
    });
    if (!isPrivate(id)) sessionStorage.setItem(openKey(id), "");
    this.row = this.menu.show(input, h("button", { type: "button", class: "small-button primary", text: "Send", on: { click: send } }),
      h("button", { type: "button", class: "small-button", text: "Cancel", title: "The words are kept for the next time", on: { click: end } }));
    return input;
  }

  close() {
    this.row?.remove();
    this.row = null;
  }
}
