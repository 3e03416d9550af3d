// Text typed into notebooks that the server does not have yet: kept in this browser, by notebook and tab, until it is saved. It comes back in its
// own tab, or where that is gone in the next one that opens the notebook; what does not fit there any more is offered. Knows no stream.

import { h } from "./dom.js";

const PREFIX = "paddock.notebook.draft."; // then NOTEBOOK/TAB, and behind a dot why it stands aside
const TAB_KEY = "paddock.notebook.tab";
const LEFT_KEY = "paddock.notebook.left"; // while this tab loads its page again; a copy of an open tab does not have it
const SIGN = "paddock.notebook.tab."; // a lock that is held as long as the tab lives
const KEEP_DELAY_MS = 250;
const KEPT_MS = 30 * 86400_000;
const ASIDE = "The notebook was changed in another window. What you typed here is kept.";
const ELSEWHERE = "This was typed in another tab, or one that is gone, and is not saved yet.";

export class NotebookDrafts {
  /** `put(text, added)` shows a text that was offered: in place of the one that is there, or `added` to it. */
  constructor(put) {
    Object.assign(this, { put, open: null, living: new Set(), timer: null, early: null });
    this.element = h("div", { role: "status", class: "notebook-kept" });
    const before = sessionStorage.getItem(TAB_KEY);
    const goesOn = before && sessionStorage.getItem(LEFT_KEY) !== null;
    sessionStorage.removeItem(LEFT_KEY);
    this.ready = this.claim(goesOn ? before : "", before);
    window.addEventListener("pagehide", () => sessionStorage.setItem(LEFT_KEY, ""));
    window.addEventListener("pageshow", ({ persisted }) => { if (persisted) sessionStorage.removeItem(LEFT_KEY); });
    window.addEventListener("storage", ({ key, newValue }) => { if (newValue === null) this.withdraw(key); });
    forgetOld();
  }

  /** Be the tab of before the reload; after a crash too, if no other tab is it. */
  async claim(own, before) {
    this.tab = own || (before && await isFree(before) ? before : newName());
    sessionStorage.setItem(TAB_KEY, this.tab);
    navigator.locks?.request(SIGN + this.tab, () => new Promise(() => {}));
  }

  /** Look which tabs live; over plain http nobody can tell. */
  async look() {
    await this.ready;
    const { held = [] } = await navigator.locks?.query() ?? {};
    this.living = new Set(held.map(({ name }) => name.slice(SIGN.length)));
  }

  // ---- keeping

  /** Keep what is typed, in a moment; `draft()` gives it. */
  keepSoon(draft) {
    this.timer ??= setTimeout(() => this.keep(draft()), KEEP_DELAY_MS);
  }

  /** What is typed before the text has come stands aside: it was made from nothing. */
  keep({ id, ...draft }) {
    this.pause();
    if (!this.tab) return;
    if (draft.base === null) this.early ??= this.key(id, `.${newName()}`);
    store(draft.base === null ? this.early : this.key(id), draft);
  }

  /** It is saved. */
  drop(id) {
    this.pause();
    localStorage.removeItem(this.key(id));
    if (this.early) localStorage.removeItem(this.early);
    this.early = null;
  }

  pause() {
    clearTimeout(this.timer);
    this.timer = null;
  }

  key(id, why = "") {
    return `${PREFIX}${id}/${this.tab}${why}`;
  }

  // ---- coming back

  /** The notebook `id` is shown: `take(draft)` puts what was typed into it, and says false where it does not fit. */
  comeBack(id, take) {
    this.open = id;
    for (const { key, notebook, tab, why, draft } of found()) {
      const mine = tab === this.tab;
      if (key === this.early || (notebook !== id && (notebook || !mine)) || (!mine && this.living.has(tab))) continue;
      const taken = !why && (mine || navigator.locks); // without these its tab may be open: it is only offered
      if (taken) localStorage.removeItem(key);
      if (taken && !take(draft)) this.setAside(draft.text);
      else if (!taken) this.offer(key, draft, mine ? ASIDE : ELSEWHERE);
    }
  }

  /** Offer a text that had to give way, and keep it until the person has chosen. */
  setAside(text) {
    const key = this.key(this.open, `.${newName()}`);
    store(key, { text });
    this.offer(key, { text }, ASIDE);
  }

  offer(key, { text, base }, sentence) {
    const end = () => { localStorage.removeItem(key); this.withdraw(key); };
    const put = () => { end(); this.put(text, base === null); };
    this.withdraw(key);
    this.element.append(h("div", { class: "problem", data: { key } }, h("span", { text: sentence }),
      h("button", { type: "button", class: "small-button", text: "Put it back", on: { click: put } }),
      h("button", { type: "button", class: "small-button", text: "Forget it", on: { click: end } })));
  }

  withdraw(key) {
    for (const row of [...this.element.children]) if (row.dataset.key === key) row.remove();
  }

  /** Another notebook is opened. */
  close() {
    this.pause();
    this.open = null;
    this.element.replaceChildren();
  }
}

function isFree(tab) {
  if (!navigator.locks) return false;
  return navigator.locks.request(SIGN + tab, { ifAvailable: true }, (lock) => lock !== null);
}

function newName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A long text goes without what it was made from: it can then only be offered. */
function store(key, draft) {
  for (const value of [draft, { ...draft, base: draft.base === null ? null : undefined }]) {
    try { localStorage.setItem(key, JSON.stringify({ ...value, kept: Date.now() })); return; } catch { /* no room */ }
  }
}

function found() {
  return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).map((key) => {
    const [notebook, owner = ""] = key.slice(PREFIX.length).split("/");
    const [tab, why = ""] = owner.split(".");
    return { key, notebook, tab, why, draft: parsed(localStorage.getItem(key)) };
  }).filter(({ draft }) => draft);
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return null; }
}

function forgetOld() {
  for (const { key, draft } of found()) if (!(Date.now() - draft.kept < KEPT_MS)) localStorage.removeItem(key);
}
