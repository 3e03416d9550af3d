// Edits of settings on their way to the server, one after the other. A page that goes still sends those that wait.

import { emit, report, request } from "./page.js";

const KEPT_ALIVE = 60_000; // bytes: browsers send at most 64 KiB for a page that is gone

export class SettingsSaving {
  constructor() {
    this.waiting = [];
    this.done = Promise.resolve(); // when all of them are stored
  }

  /** Store settings of a conversation: those named, or single entries of them. */
  save(key, body, { leaving = false } = {}) {
    this.waiting.push({ key, body });
    if (leaving) while (this.waiting.length) this.next();
    else this.done = this.done.then(() => this.next());
  }

  async next() {
    const { key, body } = this.waiting.shift() ?? {};
    if (!key) return;
    try {
      await request("PATCH", `ui/conversations/${key}`, body, { keepalive: new TextEncoder().encode(JSON.stringify(body)).length < KEPT_ALIVE });
      emit("settings-saved", { key });
    } catch (error) {
      emit("settings-saved", { key, problem: error.message });
      report(error);
    }
  }
}
