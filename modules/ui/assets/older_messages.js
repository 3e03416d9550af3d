// Reads the messages before those that the page has, piece by piece: while it is idle, at once when somebody scrolls or leads there.

import { request } from "./page.js";

const PIECE = 40;
const FILLED = 2000; // messages that are read without being looked for: finding in the page knows what was read
const AGAIN_MS = 3000;
const idle = globalThis.requestIdleCallback?.bind(globalThis) ?? ((work) => setTimeout(work, 100));

export class OlderMessages {
  /** `take(messages)` puts them before the others; `isWanted()`: somebody looks where they will stand. */
  constructor({ take, isWanted }) {
    Object.assign(this, { take, isWanted, before: null, count: 0, run: 0, reading: false });
  }

  /** From now on: what leads to this message, which stands first of those that were read. */
  begin(conversation, first) {
    this.end();
    this.conversation = conversation;
    this.count = 0;
    this.before = first?.parent_id ? first.id : null;
    this.later();
  }

  end() {
    this.run += 1;
    this.before = null;
    this.reading = false;
  }

  later() {
    if (!this.before || this.count >= FILLED) return;
    const { run } = this;
    idle(() => { if (run === this.run) this.read(); }, { timeout: 1000 });
  }

  /** Somebody scrolls: what is near is read at once. */
  scrolled() {
    if (this.before && this.isWanted()) this.read();
  }

  /** Read one piece, and go on. */
  async read() {
    if (this.reading || !this.before) return;
    this.reading = true;
    const { run, before, conversation } = this;
    try {
      const { messages } = await request("GET", `ui/conversations/${conversation}/messages?before=${before}&limit=${PIECE}`);
      if (run !== this.run) return;
      this.take(messages);
      this.count += messages.length;
      this.before = messages[0]?.parent_id ? messages[0].id : null;
      this.reading = false;
      if (this.isWanted()) this.read(); else this.later();
    } catch {
      if (run !== this.run) return;
      this.reading = false;
      setTimeout(() => { if (run === this.run) this.later(); }, AGAIN_MS); // the banner tells that the server is away
    }
  }
}
