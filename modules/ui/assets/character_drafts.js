// What was typed into the editor of a character or profile and not saved: kept in this browser, so that a closed dialog or a reload loses nothing.
// Each tab keeps its own; who opens the editor goes on with that of the tab, else with the newest one of another tab.

import { keepImages, waitingImages } from "./image_drafts.js";

const TAB_KEY = "paddock.card.tab";
const PLACE = "paddock.card."; // then what is edited: `[{tab, values, left}]`, oldest first; `left`: that page is gone

export class CardDraft {
  /** The draft of one card; an empty name is that of a new one. */
  constructor(kind, name) {
    this.key = `card.${kind}/${name}`;
    this.tab = tabName();
    const all = read(this.place);
    this.taken = all.find(({ tab }) => tab === this.tab) ?? all.at(-1) ?? null; // what the editor goes on with
  }

  get place() { return PLACE + this.key.slice("card.".length); }

  /** The values by their fields, or null. */
  get values() { return this.taken?.values ?? null; }

  /** The picture that was chosen, empty for none at all; undefined: the card's own. */
  async picture() {
    return this.taken ? (await waitingImages(this.pictureKey(this.taken.tab)))[0] : undefined;
  }

  keep(values, picture) {
    write(this.place, [...read(this.place).filter(({ tab }) => tab !== this.tab), { tab: this.tab, values }]);
    if (picture !== undefined) keepImages(this.pictureKey(this.tab), [picture]);
  }

  /** It is saved, and with it what it went on with, if that page is gone; or all of that is forgotten. */
  drop({ forget = false } = {}) {
    const isPast = ({ tab, left, values }) => tab === this.tab
      || (tab === this.taken?.tab && (forget || left) && JSON.stringify(values) === JSON.stringify(this.taken.values));
    const all = read(this.place);
    write(this.place, all.filter((one) => !isPast(one)));
    for (const { tab } of [...all.filter(isPast), this]) keepImages(this.pictureKey(tab), []);
  }

  pictureKey(tab) { return tab ? `${this.key}#${tab}` : this.key; }
}

function read(place) {
  try {
    const found = JSON.parse(localStorage.getItem(place)) ?? [];
    return Array.isArray(found) ? found : [{ tab: "", values: found, left: true }]; // one draft for all tabs, as it was kept before
  } catch { return []; }
}

function write(place, all) {
  if (!all.length) { localStorage.removeItem(place); return; }
  try { localStorage.setItem(place, JSON.stringify(all)); } catch { /* no room: it is in the page alone */ }
}

/** This tab, over reloads; a copy of a tab has the name of the one it was made from. */
function tabName() {
  let name = sessionStorage.getItem(TAB_KEY);
  if (!name) {
    name = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem(TAB_KEY, name);
  }
  return name;
}

function mark(left) {
  for (const place of Object.keys(localStorage).filter((key) => key.startsWith(PLACE))) {
    const all = read(place);
    if (all.some(({ tab }) => tab === tabName())) write(place, all.map((one) => (one.tab === tabName() ? { ...one, left } : one)));
  }
}

mark(false); // after a reload
window.addEventListener("pagehide", () => mark(true));
window.addEventListener("pageshow", ({ persisted }) => { if (persisted) mark(false); });
