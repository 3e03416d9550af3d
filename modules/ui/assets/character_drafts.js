// What was typed into the editor of a character or profile and not saved: kept in this browser, so that a closed dialog or a reload loses nothing.
// Each tab keeps its own; who opens the editor goes on with that of the tab, else with the newest one of another tab, which then is this one's.

import { keepImages, waitingImages } from "./image_drafts.js";

const TAB_KEY = "paddock.card.tab";

export class CardDraft {
  /** The draft of one card; an empty name is that of a new one. */
  constructor(kind, name) {
    this.key = `card.${kind}/${name}`;
    this.tab = tabName();
    const all = this.all();
    this.taken = all.find(({ tab }) => tab === this.tab) ?? all.at(-1) ?? null; // {tab, values}: what the editor goes on with
  }

  get place() { return `paddock.${this.key}`; }

  /** The values by their fields, or null. */
  get values() { return this.taken?.values ?? null; }

  /** The picture that was chosen, empty for none at all; undefined: the card's own. */
  async picture() {
    return this.taken ? (await waitingImages(this.pictureKey(this.taken.tab)))[0] : undefined;
  }

  keep(values, picture) {
    this.change([{ tab: this.tab, values }]);
    if (picture !== undefined) keepImages(this.pictureKey(this.tab), [picture]);
  }

  drop() {
    this.change([]);
    keepImages(this.pictureKey(this.tab), []);
  }

  // ---- all tabs' drafts, oldest first

  all() {
    try {
      const found = JSON.parse(localStorage.getItem(this.place)) ?? [];
      return Array.isArray(found) ? found : [{ tab: "", values: found }]; // one draft for all tabs, as it was kept before
    } catch { return []; }
  }

  /** Put this in the place of what this tab has, and of what it went on with where nobody typed more there since. */
  change(mine) {
    const isPast = ({ tab, values }) => tab === this.tab || (tab === this.taken?.tab && JSON.stringify(values) === JSON.stringify(this.taken.values));
    const before = this.all();
    const all = [...before.filter((one) => !isPast(one)), ...mine];
    if (!all.length) localStorage.removeItem(this.place);
    else try { localStorage.setItem(this.place, JSON.stringify(all)); } catch { /* no room: it is in the page alone */ }
    for (const { tab } of before) if (!all.some((one) => one.tab === tab)) keepImages(this.pictureKey(tab), []);
  }

  pictureKey(tab) { return tab ? `${this.key}#${tab}` : this.key; }
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
