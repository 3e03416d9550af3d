// The card of a run that has ended: the verdict, losses before and after, answers side by side, what is still hard.

import { h, number } from "./dom.js";
import { short } from "./training_fields.js";

const VERDICTS = { green: "It helps", amber: "Look closely", red: "Do not use it" };

export class ProofCard {
  constructor() {
    this.drawn = "";
    this.element = h("section", { class: "train-proof", "aria-label": "What training changed", hidden: true });
  }

  show(proof) {
    const signature = JSON.stringify(proof);
    if (signature === this.drawn) return;
    this.drawn = signature;
    this.element.hidden = !proof;
    if (!proof) return;
    this.element.dataset.verdict = proof.verdict;
    this.element.replaceChildren(
      verdictLine(proof.verdict, VERDICTS[proof.verdict] ?? proof.verdict, proof.sentence), measures(proof),
      ...proof.notes.map((note) => h("p", { class: "model-note", text: note })),
      proof.answers.length ? h("h4", { text: proof.answers.length === 1 ? "One answer" : `${number(proof.answers.length)} answers` }) : "",
      ...proof.answers.map(answerRow),
      proof.worst.length ? h("details", { class: "train-fold" }, h("summary", { text: "Held-out items that are still hardest" }), ...proof.worst.map(worstRow)) : "");
  }
}

/** A lamp, its word and the sentence. */
export function verdictLine(colour, word, sentence) {
  return h("p", { class: `train-verdict ${colour}` }, h("span", { class: "train-lamp", "aria-hidden": "true" }), h("strong", { text: word }), h("span", { text: sentence }));
}

function measures({ held_out: heldOut, general, preference }) {
  const row = (name, before, after, change, more) => h("tr", {}, h("th", { scope: "row", text: name }), h("td", { text: before }), h("td", { text: after }), h("td", { text: change }), h("td", { text: more }));
  const loss = (name, found) => row(name, short(found.before), short(found.after), percent(found), `${number(found.sequences)}${found.of_sequences > found.sequences ? ` of ${number(found.of_sequences)}` : ""} items, ${number(found.tokens)} tokens`);
  const share = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
  const rows = [
    heldOut ? loss("Held-out loss", heldOut) : null,
    general ? loss("Loss on a general text", general) : null,
    preference ? row("The better answer is likelier", share(preference.before), share(preference.after), "", `${share(preference.moved)} of ${number(preference.items)} items moved towards it`) : null,
  ].filter(Boolean);
  return h("div", { class: "train-table" }, h("table", {}, h("thead", {}, h("tr", {}, ...["", "Before", "After", "Change", "Measured on"].map((text) => h("th", { scope: "col", text })))), h("tbody", {}, ...rows)));
}

function percent({ before, after }) {
  if (!before || after === null) return "–";
  const share = (after - before) / before;
  return `${share > 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(1)} %`;
}

function answerRow(answer) {
  const side = (name, text, isCut, isDegenerate) => h("div", { class: "train-side" }, h("span", { class: "train-role", text: name }),
    h("p", { text: (text || "(nothing)") + (isCut ? " …" : "") }), isDegenerate ? h("p", { class: "model-note bad", text: "Empty or going in circles" }) : null);
  return h("article", { class: "train-answer" }, h("p", { class: "train-asked", text: answer.prompt }),
    h("div", { class: "train-sides" }, side("Base", answer.base, answer.base_is_cut, answer.base_is_degenerate), side("Adapter", answer.adapter, answer.adapter_is_cut, answer.adapter_is_degenerate)),
    answer.expected ? h("details", {}, h("summary", { class: "model-note", text: "What the data says" }), h("p", { text: answer.expected })) : null);
}

function worstRow(item) {
  return h("article", { class: "train-answer" }, h("p", { class: "model-note", text: `${item.where} · loss ${short(item.before)} before, ${short(item.after)} after · ${number(item.tokens)} tokens` }),
    item.prompt ? h("p", { class: "train-asked", text: item.prompt }) : null, h("p", { text: item.answer }));
}
