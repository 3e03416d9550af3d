// What a loaded model is doing: its engine's figures and its last requests, in its row, read on a click and as long as they are open.

import { costInWords } from "./cost.js";
import { h, number, plural } from "./dom.js";
import { size } from "./job_list.js";
import { request, state } from "./page.js";

const LOOK_MS = 2000;
const open = new Set(); // names of the models whose figures are being read

/** The part of a model's row; it opens again when the row is drawn anew. */
export function modelFigures(name) {
  const body = h("div", { class: "table-scroll" });
  const element = h("details", { class: "fit-table model-figures", open: open.has(name) }, h("summary", { class: "model-note", text: "What it is doing" }), body);
  let later = 0;
  const look = async () => {
    clearTimeout(later);
    if (!element.isConnected || !element.open) return;
    if (state.area === "models" && !document.hidden) {
      try { body.replaceChildren(...tables(await request("GET", `ui/figures?model=${encodeURIComponent(name)}`))); } catch { return; } // it has just been unloaded, and the row goes
    }
    later = setTimeout(look, LOOK_MS);
  };
  element.addEventListener("toggle", () => {
    if (element.open) open.add(name);
    else open.delete(name);
    look();
  });
  return element;
}

function tables({ figures, requests }) {
  const told = ({ name, value }) => (name.endsWith("_bytes") ? size(value) : number(value));
  return [
    h("table", {}, h("tbody", {}, ...figures.map((figure) => h("tr", { data: { name: figure.name } }, h("th", { scope: "row", text: figure.meaning }), h("td", { text: told(figure) }))))),
    h("p", { class: "model-note", text: requests.length ? "Its last requests, the newest first:" : "No request has ended yet." }),
    h("ol", {}, ...requests.map((one) => h("li", { class: "model-note", text: requestInWords(one) }))),
  ];
}

function requestInWords({ ended_s: ended, outcome, cost }) {
  const speed = cost.tokens_per_s ? ` at ${cost.tokens_per_s.toFixed(1)} tok/s` : "";
  const time = new Date(ended * 1000).toLocaleTimeString("en-GB");
  return [time, plural(cost.completion_tokens, "token") + speed, ...costInWords(cost), `ended by ${outcome}`].join(" · ");
}
