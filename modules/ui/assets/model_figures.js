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
  // noted with the click: the row may be drawn anew before the browser tells that it is open
  const summary = h("summary", { class: "model-note", text: "What it is doing", on: { click: () => note(!element.open) } });
  const element = h("details", { class: "fit-table model-figures", open: open.has(name) }, summary, body);
  const note = (isOpen) => (isOpen ? open.add(name) : open.delete(name));
  let later = 0;
  const look = async () => {
    clearTimeout(later);
    if (!element.isConnected || !element.open) return;
    if (state.area === "models" && !document.hidden) {
      try { body.replaceChildren(...tables(await request("GET", `ui/figures?model=${encodeURIComponent(name)}`))); } catch { /* asked again; of a model that was unloaded the row goes */ }
    }
    later = setTimeout(look, LOOK_MS);
  };
  element.addEventListener("toggle", () => {
    if (element.isConnected) note(element.open);
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
