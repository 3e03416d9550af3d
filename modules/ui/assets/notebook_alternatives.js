// Texts that stand beside the notebook's until one is taken: several written at once for the same place, or what is written beside it on purpose.

import { h } from "./dom.js";

export class Alternatives {
  /** `take(text, place)` puts one into the text; `dismiss()` takes none; `goOn(text)` has one written on where it stands. */
  constructor({ take, dismiss, goOn }) {
    Object.assign(this, { take, goOn, shown: null, cards: [], aside: false });
    this.empty = h("p", { class: "side-note", text: "What the model writes will stand here; your text stays as it is." });
    this.list = h("ol", { class: "alternatives-list", "aria-label": "Alternatives" });
    this.none = h("button", { type: "button", class: "small-button", text: "Take none", on: { click: dismiss } });
    this.note = h("span", { class: "side-note" });
    this.element = h("section", { class: "alternatives", "aria-label": "Alternatives to pick from", hidden: true }, this.empty, this.list, h("div", { class: "alternatives-foot" }, this.note, this.none));
  }

  get active() { return this.shown !== null; }

  /** Below the text, or as a column beside it that is there also when it is empty. */
  stand(aside) {
    this.aside = aside;
    this.element.classList.toggle("aside", aside);
    const { shown } = this;
    this.shown = null; // other buttons: drawn anew
    this.show(shown);
  }

  /** What the server has to choose from; null: nothing. */
  show(alternatives) {
    const same = this.shown && alternatives && this.cards.length === alternatives.tries.length;
    const ends = same && alternatives.done && !this.shown.done;
    this.shown = alternatives;
    this.element.hidden = !alternatives && !this.aside;
    this.empty.hidden = Boolean(alternatives);
    this.none.parentElement.hidden = !alternatives;
    if (!alternatives) { this.cards = []; this.list.replaceChildren(); return; }
    if (!same) this.cards = alternatives.tries.map((_, place) => this.card(place));
    if (!same) this.list.replaceChildren(...this.cards.map(({ item }) => item));
    alternatives.tries.forEach((one, place) => {
      const { text } = this.cards[place];
      const nothing = alternatives.done && !one.text && !one.error;
      text.textContent = nothing ? "Nothing: for the model the text ends here." : one.error || one.text;
      text.classList.toggle("nothing", nothing);
    });
    if (ends) for (const { text } of this.cards) text.scrollTop = 0; // it is read from its beginning
    alternatives.tries.forEach((one, place) => { for (const button of [this.cards[place].use, this.cards[place].more]) button.disabled = !alternatives.done || !one.text; });
    this.none.disabled = !alternatives.done;
    const texts = new Set(alternatives.tries.map((one) => one.text));
    const kept = texts.has("") && texts.size === 1 ? "" : alternatives.tries.length === 1 ? "It is kept in the history." : "All are kept in the history.";
    const alike = texts.size < alternatives.tries.length ? "Some are the same: at a low temperature the model has little choice. " : "";
    this.note.textContent = alternatives.done ? alike + kept : "Being written…";
  }

  card(place) {
    const text = h("div", { class: "alternative-text", tabindex: "0" });
    const use = h("button", { type: "button", class: "small-button primary", text: "Use this", "aria-label": `Use alternative ${place + 1}`, on: { click: () => this.take(this.shown.tries[place].text, this.shown) } });
    const more = h("button", { type: "button", class: "small-button", text: "Continue", title: "The model goes on from your text and this", "aria-label": `Continue alternative ${place + 1}`, on: { click: () => this.goOn(this.shown.tries[place].text) } });
    more.hidden = !this.aside;
    return { text, use, more, item: h("li", {}, text, h("div", { class: "alternative-buttons" }, use, more)) };
  }

  grow(place, text) {
    if (!this.cards[place]) return;
    this.shown.tries[place].text += text;
    const box = this.cards[place].text;
    box.append(text);
    box.scrollTop = box.scrollHeight;
  }
}
