// The likeliest next tokens as bars, as the model has them and as the samplers leave them; a click appends one.

import { h } from "./dom.js";
import { request } from "./page.js";

const ABOUT = "The model's ten likeliest next tokens: before any sampler acts, and what your settings leave of them.";

export class NextTokens {
  /** `ask()` gives the text to look ahead from and the settings, `choose(token)` puts one there. */
  constructor(ask, choose) {
    this.ask = ask;
    this.choose = choose;
    this.before = h("ol", { class: "bars", "aria-label": "Likeliest next tokens" });
    this.after = h("ol", { class: "bars", "aria-label": "After the samplers" });
    this.heads = [h("h3", { text: "Model", hidden: true }), h("h3", { text: "After samplers", hidden: true })];
    this.note = h("p", { class: "side-note", text: ABOUT });
    const look = h("button", { type: "button", class: "small-button", text: "Look ahead", on: { click: () => this.look() } });
    this.element = h("section", { class: "next-tokens", "aria-label": "Next token" }, h("header", {}, h("h2", { text: "Next token" }), look), this.note,
      h("div", { class: "next-columns" }, h("div", {}, this.heads[0], this.before), h("div", {}, this.heads[1], this.after)));
  }

  async look() {
    this.element.setAttribute("aria-busy", "true");
    try {
      const { before, after, note } = await request("POST", "ui/notebook/next", { ...this.ask(), count: 10 });
      const most = Math.max(...[...before, ...after].map((token) => token.probability), 1e-9);
      this.draw(this.before, before, most);
      this.draw(this.after, after, most);
      this.note.textContent = note || "Choose one to put it there.";
    } catch (error) {
      for (const list of [this.before, this.after]) list.replaceChildren();
      this.note.textContent = error.message;
    }
    this.heads.forEach((head, place) => { head.hidden = !(place ? this.after : this.before).children.length; });
    this.element.removeAttribute("aria-busy");
  }

  draw(list, tokens, most) {
    list.replaceChildren(...tokens.map(({ text, token_id: id, probability }) => {
      const bar = h("span", { class: "bar" });
      bar.style.width = `${Math.max(1, (probability / most) * 100)}%`;
      const button = h("button", { type: "button", title: `Token ${id}`, on: { click: () => this.choose(text) } },
        bar, h("code", { text: visible(text) }), h("span", { class: "share", text: `${(probability * 100).toFixed(probability < 0.01 ? 2 : 1)} %` }));
      return h("li", {}, button);
    }));
  }
}

/** Spaces and newlines that can be seen. */
export function visible(text) {
  return text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}
