// The text with each token coloured by how likely the model found it; the alternatives of one, to go on from there; token ids.

import { h } from "./dom.js";
import { visible } from "./next_tokens.js";
import { request } from "./page.js";

const LONGEST_WORD = 24; // tokens: texts without spaces are broken anywhere
const STEPS = Object.freeze([0.5, 0.2, 0.05, 0.01]); // likelier than the first: not coloured

export class Likelihood {
  /** `ask()` gives the body of the question, `goOn(text)` replaces the text by one and has it written on. */
  constructor({ ask, goOn }) {
    Object.assign(this, { ask, goOn, asked: 0 });
    this.note = h("span", { class: "side-note" });
    this.ids = h("input", { type: "checkbox", on: { change: () => this.tokens.classList.toggle("with-ids", this.ids.checked) } });
    const look = h("button", { type: "button", class: "small-button", text: "Look again", on: { click: () => this.look() } });
    this.tokens = h("div", { class: "token-text", role: "group", "aria-label": "Tokens of the text" });
    this.choices = h("div", { class: "token-choices", role: "group", "aria-label": "Alternatives of the token", hidden: true });
    this.element = h("div", { class: "likelihood" },
      h("div", { class: "likelihood-head" }, look, h("label", {}, this.ids, " Token ids"), legend(), this.note), this.choices, this.tokens);
  }

  /** The text is not what was looked at any more. */
  stale() {
    if (this.looked === "") this.look();
    else if (this.looked !== undefined && this.looked !== this.ask().text) this.note.textContent = "The text has changed since.";
  }

  async look() {
    const asked = this.asked += 1;
    const body = this.ask();
    this.choices.hidden = true;
    this.element.setAttribute("aria-busy", "true");
    this.note.textContent = "Reading the text…";
    try {
      const { tokens } = body.text ? await request("POST", "ui/notebook/likelihood", body) : { tokens: [] };
      if (asked !== this.asked) return;
      this.looked = body.text;
      this.draw(body.text, tokens);
      this.note.textContent = tokens.length ? "" : "There is no text yet.";
    } catch (error) {
      if (asked !== this.asked) return;
      this.tokens.replaceChildren();
      this.note.textContent = error.message;
    } finally { if (asked === this.asked) this.element.removeAttribute("aria-busy"); }
  }

  draw(text, tokens) {
    const letters = Array.from(text);
    const buttons = tokens.map((token) => {
      const own = letters.slice(token.start, token.stop).join("");
      const about = token.probability === null ? `Token ${token.token_id}` : `Token ${token.token_id} · ${share(token.probability)}`;
      const button = h("button", { type: "button", class: `token ${step(token.probability)}`, title: about, data: { id: token.token_id } }, h("span", { text: own || visible(token.text) }), h("small", { text: token.token_id }));
      if (!own) button.classList.add("unwritten");
      button.addEventListener("click", () => this.choose(button, token, letters.slice(0, token.start).join("")));
      return { own, button };
    });
    this.tokens.replaceChildren(...words(buttons));
  }

  choose(button, token, before) {
    for (const other of this.tokens.querySelectorAll('[aria-pressed="true"]')) other.removeAttribute("aria-pressed");
    button.setAttribute("aria-pressed", "true");
    const rows = token.alternatives.map((other) => h("button", { type: "button", class: `small-button ${other.token_id === token.token_id ? "chosen" : ""}`, title: `Token ${other.token_id}: go on from here with it`, on: { click: () => this.goOn(before + other.text) } },
      h("code", { text: visible(other.text) }), h("span", { class: "share", text: share(other.probability) })));
    const told = token.probability === null ? "Nothing stands before the first token, so nothing is known about it." : `Here the model expected (token ${token.token_id} had ${share(token.probability)}). Choose one to go on from it; Undo brings the text back.`;
    this.choices.replaceChildren(h("p", { class: "side-note", text: told }), h("div", { class: "token-rows" }, ...rows));
    this.choices.hidden = false;
  }
}

/** The tokens of a word stand together in a line. */
function words(tokens) {
  const found = [];
  let word = null;
  for (const { own, button } of tokens) {
    if (!word || /^\s/.test(own) || word.children.length >= LONGEST_WORD) found.push(word = h("span", { class: "token-word" }));
    word.append(button);
    if (own.endsWith("\n")) found.push(h("br"));
    if (/\s$/.test(own)) word = null;
  }
  return found;
}

function step(probability) {
  if (probability === null) return "";
  const place = STEPS.findIndex((limit) => probability >= limit);
  return `step-${place < 0 ? STEPS.length : place}`;
}

function share(probability) {
  return `${(probability * 100).toFixed(probability < 0.01 ? 2 : 1)} %`;
}

function legend() {
  const words = ["≥ 50 %", "≥ 20 %", "≥ 5 %", "≥ 1 %", "less"];
  return h("span", { class: "token-legend", role: "group", "aria-label": "Colours: how likely the model found a token" }, ...words.map((text, place) => h("span", { class: `token step-${place}`, text })));
}
