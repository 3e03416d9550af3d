// Edits of settings on their way to the server, one after the other. A page that goes still sends those that wait; what is too long for that is kept
// in the browser for the next page.

import { emit, report, request } from "./page.js";
import { isPrivate } from "./private_chat.js";

const KEPT_ALIVE = 60_000; // bytes: browsers send at most 64 KiB for a page that is gone
const UNSENT = "paddock.settings.unsent.";

export class SettingsSaving {
  constructor() {
    this.waiting = [];
    this.done = Promise.resolve(); // when all of them are stored
    for (const { key, body } of takeUnsent()) this.save(key, body);
  }

  /** Store settings of a conversation: those named, or single entries of them. */
  save(key, body, { leaving = false } = {}) {
    this.waiting.push({ key, body });
    if (leaving) while (this.waiting.length) this.leave(this.waiting[0]);
    else this.done = this.done.then(() => this.next());
  }

  leave({ key, body }) {
    if (isShort(body) || isPrivate(key)) this.next();
    else keepUnsent(this.waiting.shift());
  }

  async next() {
    const { key, body } = this.waiting.shift() ?? {};
    if (!key) return;
    try {
      await request("PATCH", `ui/conversations/${key}`, body, { keepalive: isShort(body) });
      emit("settings-saved", { key });
    } catch (error) {
      emit("settings-saved", { key, problem: error.message });
      report(error);
    }
  }
}

function isShort(body) {
  return new TextEncoder().encode(JSON.stringify(body)).length < KEPT_ALIVE;
}

function keepUnsent(edit) {
  try { localStorage.setItem(UNSENT + crypto.getRandomValues(new Uint32Array(2)).join(""), JSON.stringify(edit)); } catch { /* no room */ }
}

/** What pages before this one could not send; no other one sends it too. */
function takeUnsent() {
  const found = Object.keys(localStorage).filter((name) => name.startsWith(UNSENT)).map((name) => {
    const text = localStorage.getItem(name);
    localStorage.removeItem(name);
    return text;
  });
  return found.map((text) => JSON.parse(text));
}
