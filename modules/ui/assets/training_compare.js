// Two or more runs side by side: what was set differently, what came out, and their curves over each other.

import { h } from "./dom.js";
import { request } from "./page.js";
import { Chart, smoothed } from "./training_chart.js";
import { button, problemBox } from "./training_fields.js";
import { optionWords, valueWords } from "./training_detail.js";

export class RunComparison {
  constructor() {
    this.problem = problemBox();
    this.loss = new Chart("Loss");
    this.held = new Chart("Held-out loss");
    this.table = h("div", { class: "train-table", tabindex: "0", role: "region", "aria-label": "What differs" });
    this.title = h("h3", { tabindex: "-1", text: "Comparison" });
    this.element = h("section", { class: "train-compare", "aria-label": "Comparison of runs", hidden: true },
      h("header", { class: "train-head" }, this.title, button("Close", () => { this.element.hidden = true; this.opener.focus(); })),
      this.problem.element, h("div", { class: "train-charts" }, this.loss.element, this.held.element), this.table);
  }

  async show(ids, opener) {
    this.opener = opener;
    this.element.hidden = false;
    this.problem.say("");
    try { this.draw(await request("POST", "ui/training/compare", { ids })); } catch (error) { this.problem.say(error.message); }
    this.title.focus();
  }

  draw({ runs, differences, curves }) {
    const lines = (name, dots) => runs.map((run, place) => {
      const points = (curves[run.id] ?? []).filter((row) => row[name] !== undefined && row[name] !== null).map((row) => [row.step, row[name]]);
      return { name: run.name, kind: `k${place}`, points: dots ? points : smoothed(points), dots };
    });
    this.loss.set(lines("loss", false));
    this.held.set(lines("held_out_loss", true));
    const head = h("tr", {}, h("th", { scope: "col", text: "" }), ...runs.map((run, place) => h("th", { scope: "col" }, h("span", { class: `chart-key k${place}`, text: run.name }))));
    const rows = differences.map(({ option, values }) => h("tr", {}, h("th", { scope: "row", text: optionWords(option) }), ...values.map((value) => h("td", { text: valueWords(value) }))));
    this.table.replaceChildren(differences.length ? h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)) : h("p", { class: "side-note", text: "Nothing was set differently, and the same came out." }));
  }
}
