// What was deleted: Undo in the notice right after it, and the list of all that can still be brought back.

import { askInPlace, h, iconButton, plural } from "./dom.js";
import { emit, openConversation, report, request, toast } from "./page.js";

const KEPT_DAYS = 30;
const DAY_S = 86400;

/** Bring something back from the bin; `open` shows its conversation. */
async function restore(id, open) {
  try {
    const { conversation_id: conversation } = await request("POST", `ui/bin/${id}/restore`, {});
    emit("conversations-changed");
    if (open) openConversation(conversation);
    return true;
  } catch (error) {
    report(error);
    return false;
  }
}

/** A notice that something was deleted, with a button that brings it back and then calls `restored()`. */
export function offerUndo(message, id, { open = false, restored = () => {} } = {}) {
  toast(message, "info", { text: "Undo", run: async () => { if (await restore(id, open)) restored(); } });
}

/** The list of what was deleted, in place of the list of conversations. */
export class BinView {
  constructor(onClose) {
    this.rows = h("ul", {});
    this.note = h("p", { class: "side-note" });
    this.emptying = h("button", { type: "button", class: "small-button", text: "Empty", on: { click: () => this.empty() } });
    this.head = h("div", { class: "bin-head" }, iconButton("left", "Back to the conversations", onClose), h("h2", { text: "Deleted" }), this.emptying);
    this.element = h("section", { class: "conversations bin", "aria-label": "Deleted", hidden: true }, this.head, this.note, this.rows);
  }

  async show() {
    this.element.hidden = false;
    await this.refresh();
    this.head.querySelector("button").focus();
  }

  hide() {
    this.element.hidden = true;
  }

  async refresh() {
    try { this.draw((await request("GET", "ui/bin")).deleted); } catch (error) { this.note.textContent = error.message; }
  }

  draw(deleted) {
    this.rows.replaceChildren(...deleted.map((row) => this.row(row)));
    this.emptying.hidden = !deleted.length;
    this.note.textContent = deleted.length ? `Kept for ${KEPT_DAYS} days, then gone for good.` : "Nothing is deleted. What you delete stays here for 30 days.";
  }

  row(row) {
    const left = Math.max(0, Math.ceil(KEPT_DAYS - (Date.now() / 1000 - row.deleted_s) / DAY_S));
    const what = row.what === "conversation" ? plural(row.messages, "message") : `${plural(row.messages, "message")} of “${row.conversation_title}”`;
    const name = row.title || (row.what === "conversation" ? "New chat" : "A message without text");
    const back = iconButton("undo", `Restore ${name}`, async () => { if (await restore(row.id, true)) this.refresh(); });
    const content = h("div", { class: "conversation" },
      h("div", { class: "bin-about" }, h("strong", { text: name }), h("span", { text: `${what} · ${plural(left, "day")} left` })),
      back, iconButton("trash", `Delete ${name} for good`, () => this.discard(row, content)));
    return h("li", { data: { id: row.id } }, content);
  }

  async discard(row, content) {
    if (await askInPlace(content, "Delete for good?", "Delete for good")) await this.take(`ui/bin/${row.id}`);
  }

  async empty() {
    if (await askInPlace(this.emptying, "Delete all of it for good?", "Delete for good")) await this.take("ui/bin");
  }

  async take(path) {
    try { await request("DELETE", path); } catch (error) { report(error); }
    await this.refresh();
  }
}
