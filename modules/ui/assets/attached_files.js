// Documents that go with the next message. The server reads and keeps them, so they are still there after a reload and on another device.

import { h, icon, iconButton } from "./dom.js";
import { RequestError, address, report, request } from "./page.js";
import { fileInWords, openFile } from "./message_files.js";

const PASTED = "pasted text";

export class AttachedFiles {
  /** `changed()` is told when there are more or fewer; `refuse(sentence)` shows why one was not taken; `typed(text)` gets a text that is put back. */
  constructor({ changed, refuse, typed }) {
    Object.assign(this, { changed, refuse, typed, files: [], reading: [], conversation: undefined, turn: Promise.resolve() });
    this.element = h("div", { class: "attached-files", hidden: true, role: "list", "aria-label": "Attached files" });
  }

  get busy() {
    return this.reading.some((each) => each.conversation === this.conversation);
  }

  async setConversation(id) {
    this.conversation = id;
    this.show([]);
    if (!id) return;
    try {
      const { files } = await request("GET", `ui/conversations/${id}/files`);
      if (id === this.conversation) this.show(files);
    } catch { /* the stream tells what is wrong with the conversation */ }
  }

  show(files) {
    this.files = files;
    this.draw();
  }

  /** Have a file read; it is attached when it was. */
  add(file) {
    const { conversation } = this;
    return this.took(file.name, () => upload(`ui/conversations/${conversation}/files?name=${encodeURIComponent(file.name)}`, file));
  }

  addText(text) {
    const { conversation } = this;
    return this.took("Pasted text", () => request("POST", `ui/conversations/${conversation}/pasted`, { text }));
  }

  async took(name, ask) {
    const { conversation } = this;
    if (!conversation) { this.refuse("There is no conversation yet to attach this to; wait for the server and try again."); return false; }
    const waiting = { name, conversation };
    this.reading.push(waiting);
    this.draw();
    const work = this.turn.then(ask); // one after the other, so that they stand in the order in which they were chosen
    this.turn = work.catch(() => {});
    try {
      const file = await work;
      if (conversation === this.conversation) this.files = [...this.files, file];
      return true;
    } catch (error) {
      this.refuse(error.message);
      return false;
    } finally {
      this.reading.splice(this.reading.indexOf(waiting), 1);
      this.draw();
    }
  }

  async remove(file) {
    this.show(this.files.filter((each) => each.id !== file.id));
    try { await request("DELETE", `ui/conversations/${this.conversation}/files/${file.id}`); } catch (error) { report(error); this.setConversation(this.conversation); }
  }

  /** A pasted text goes into the box after all. */
  async intoText(file) {
    try {
      const { text } = await request("GET", `ui/files/${file.id}`);
      await this.remove(file);
      this.typed(text);
    } catch (error) { report(error); }
  }

  /** Those that were sent are gone; what was added meanwhile stays. */
  sent(files, conversation) {
    if (conversation === this.conversation) this.show(this.files.filter((file) => !files.some((each) => each.id === file.id)));
  }

  /** Those of a message that has its own again. */
  async discard(files, conversation) {
    try { for (const { id } of files) await request("DELETE", `ui/conversations/${conversation}/files/${id}`); } catch (error) { report(error); }
  }

  draw() {
    const reading = this.reading.filter((each) => each.conversation === this.conversation);
    this.element.hidden = !this.files.length && !reading.length;
    const waiting = reading.map(({ name }) => h("div", { role: "listitem", class: "file-chip busy" }, icon("file"), h("span", { class: "file-name", text: name }), h("small", { text: "Reading…" })));
    this.element.replaceChildren(...this.files.map((file) => this.chip(file)), ...waiting);
    this.changed();
  }

  chip(file) {
    const open = h("button", { type: "button", class: "file-open", title: "Show what was read", on: { click: () => openFile(file.id) } },
      icon("file"), h("span", { class: "file-name", text: file.name }), h("small", { text: fileInWords(file) }));
    const back = file.kind === PASTED ? iconButton("undo", `Put ${file.name} into the message`, () => this.intoText(file)) : null;
    return h("div", { role: "listitem", class: "file-chip" }, open, back, iconButton("close", `Remove ${file.name}`, () => this.remove(file)));
  }
}

async function upload(path, file) {
  let response;
  try {
    response = await fetch(address(path), { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file });
  } catch {
    throw new RequestError(`${file.name} did not reach the server. Check that Paddock is still running and that the file is no folder, then try again.`, "Unreachable", 0, {});
  }
  const data = await response.json().catch(() => ({}));
  if (response.ok) return data;
  throw new RequestError(data.error?.message ?? `The server answered ${response.status}. Try again.`, data.error?.type ?? "", response.status, {});
}
