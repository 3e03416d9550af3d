// The likeliest next tokens as bars; a click appends one.

import { h } from "./dom.js";
import { request } from "./page.js";

export class NextTokens {
  /** `text()` gives the text to look ahead from, `choose(token)` appends one, `adapters()` are those of the settings. */
  constructor(text, choose, adapters) {
    this.adapters = adapters;
    this.text = text;
    this.choose = choose;
    this.rows = h("ol", { class: "bars", "aria-label": "Likeliest next tokens" });
    this.note = h("p", { class: "side-note", text: "The model's ten likeliest next tokens after the end of the text, before any sampler acts." });
    const look = h("button", { type: "button", class: "small-button", text: "Look ahead", on: { click: () => this.look() } });
    this.element = h("section", { class: "next-tokens", "aria-label": "Next token" }, h("header", {}, h("h2", { text: "Next token" }), look), this.note, this.rows);
  }

  async look() {
    this.element.setAttribute("aria-busy", "true");
    try {
      const { tokens } = await request("POST", "ui/notebook/next", { text: this.text(), count: 10, adapters: this.adapters() ?? null });
      this.draw(tokens);
      this.note.textContent = "Choose one to append it.";
    } catch (error) {
      this.rows.replaceChildren();
      this.note.textContent = error.message;
    }
    this.element.removeAttribute("aria-busy");
  }

  draw(tokens) {
    const most = Math.max(...tokens.map((token) => token.probability), 1e-9);
    this.rows.replaceChildren(...tokens.map(({ text, token_id: id, probability }) => {
      const bar = h("span", { class: "bar" });
      bar.style.width = `${Math.max(1, (probability / most) * 100)}%`;
      const button = h("button", { type: "button", title: `Token ${id}`, on: { click: () => this.choose(text) } },
        bar, h("code", { text: visible(text) }), h("span", { class: "share", text: `${(probability * 100).toFixed(probability < 0.01 ? 2 : 1)} %` }));
      return h("li", {}, button);
    }));
  }
}

/** Spaces and newlines that can be seen. */
function visible(text) {
  return text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
}
