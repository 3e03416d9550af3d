// A model of another server in the list of models, and the mark that says where what is sent to it goes.

import { h, number } from "./dom.js";

/** The mark of everything that is answered elsewhere. */
export function remoteBadge({ host, leaves }) {
  return h("span", { class: "badge remote", text: leaves ? "Remote · leaves this machine" : "Remote · another program here", title: `What you send goes to ${host}` });
}

/** Where what is written to a loaded model goes, as a sentence. */
export function whereItGoes(card) {
  if (!card?.host) return "Runs on this machine.";
  return card.leaves ? `What you send leaves this machine: it goes to ${card.host}.` : `What you send goes to another program here, ${card.host}.`;
}

/** The row of a model; `card` tells of it when it is loaded. */
export function remoteRow(model, card, tools) {
  const facts = [`at ${model.host}`, model.context_length ? `${number(model.context_length)} context` : ""].filter(Boolean);
  return h("article", { class: `model-row${card ? " loaded" : ""}`, data: { name: model.name } },
    h("div", { class: "model-about" },
      h("h2", {}, h("span", { text: model.name }), remoteBadge(model), card ? h("span", { class: "badge", text: "Loaded" }) : ""),
      h("ul", { class: "facts" }, ...facts.map((fact) => h("li", { text: fact }))),
      ...(card ? card.notes.map((note) => h("p", { class: "model-note", text: note })) : [])),
    tools);
}
