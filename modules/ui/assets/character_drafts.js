// What was typed into the editor of a character or profile and not saved: kept in this browser, so that a closed dialog or a reload loses nothing.

import { keepImages, waitingImages } from "./image_drafts.js";

export class CardDraft {
  /** The draft of one card; an empty name is that of a new one. */
  constructor(kind, name) {
    this.key = `card.${kind}/${name}`;
  }

  get place() { return `paddock.${this.key}`; }

  /** The values by their fields, or null. */
  get values() {
    try { return JSON.parse(localStorage.getItem(this.place)); } catch { return null; }
  }

  /** The picture that was chosen, empty for none at all; undefined: the card's own. */
  async picture() {
    return (await waitingImages(this.key))[0];
  }

  keep(values, picture) {
    try { localStorage.setItem(this.place, JSON.stringify(values)); } catch { /* no room: it is in the page alone */ }
    if (picture !== undefined) keepImages(this.key, [picture]);
  }

  drop() {
    localStorage.removeItem(this.place);
    keepImages(this.key, []);
  }
}
